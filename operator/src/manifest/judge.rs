//! What is wrong with documents as far as no running world is needed to tell.

use std::collections::BTreeMap;

use interlock_core::compile::{self, Config};
use interlock_core::declared::Declared;
use interlock_core::finding::{Finding, Reason};
use interlock_core::model::{Container, ContainerId, EngineView, Freshness, NameError, Observed, Shared};

/// What only a running world can tell.
const UNKNOWABLE: [Reason; 11] = [
    Reason::NoPort,
    Reason::NoProxy,
    Reason::NotWarm,
    Reason::Unreachable,
    Reason::Unreached,
    Reason::AttachingNetwork,
    Reason::CertificateNotFound,
    Reason::CertificateInvalid,
    Reason::SecretUnreadable,
    Reason::ProxyNotTrusted,
    Reason::EngineStale,
];

/// Judges documents, together with the containers of compose files where there are some. Without any, nobody can know
/// who will run.
pub fn judge(
    declared: Declared,
    containers: BTreeMap<ContainerId, Shared<Container>>,
    composed: bool,
    config: &Config,
) -> Result<Vec<Finding>, NameError> {
    let view = EngineView { freshness: Freshness::Fresh, containers, ..EngineView::default() };
    let observed = Observed {
        engines: BTreeMap::from([("files".parse()?, view)]),
        declared: declared.into(),
        ..Observed::default()
    };
    let mut findings = compile::compile(&observed, config).findings;
    findings.retain(|finding| {
        !UNKNOWABLE.contains(&finding.reason) && (composed || finding.reason != Reason::BackendNotFound)
    });
    Ok(findings)
}
