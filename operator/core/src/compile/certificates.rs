//! Which certificate each host presents on one proxy, and what is said about those that cannot be used.

use std::collections::BTreeMap;

use super::merge::Groups;
use super::merge::winner;
use super::select::{Candidate, label};
use super::targets::Member;
use crate::finding::{Finding, Reason, Subject, Verdict};
use crate::model::{CertificateName, CertificateView, HostPattern, Observed};
use crate::plan::{BackendId, PlanCertificate};

/// The certificates of one plan.
#[derive(Debug, Default)]
pub(super) struct Chosen {
    pub(super) certificates: BTreeMap<CertificateName, PlanCertificate>,
    by_host: BTreeMap<HostPattern, CertificateName>,
    default: bool,
}

impl Chosen {
    /// The host's certificate.
    pub(super) fn of(&self, host: &HostPattern) -> Option<&CertificateName> {
        self.by_host.get(host)
    }

    /// Whether a TLS handshake for the host would be answered at all.
    pub(super) fn answers(&self, host: &HostPattern) -> bool {
        self.default || self.by_host.contains_key(host)
    }
}

/// Chooses a certificate for every host that names one. A host has one certificate however many paths it
/// has; the oldest container's counts.
pub(super) fn choose(
    member: &Member<'_>,
    groups: &Groups<'_, '_, '_>,
    observed: &Observed,
    findings: &mut Vec<Finding>,
) -> Chosen {
    let folder = observed.certificates.get(member.cluster);
    let mut chosen = Chosen::default();
    default(member, folder, &mut chosen, findings);
    let mut asking: Vec<(&BackendId, &Candidate<'_>)> =
        groups.iter().filter_map(|(id, members)| Some((id, winner(members)?))).filter(asks).collect();
    asking.sort_by_key(|(id, candidate)| (candidate.container.created, &candidate.container.id, *id));
    for (id, candidate) in asking {
        let settings = &candidate.intent.settings;
        match &settings.certificate {
            Some(name) => {
                named(member, observed, &Asking { id, candidate, name }, &mut chosen, findings);
            }
            None if settings.tls && !chosen.default => no_default(member, id, candidate, findings),
            None => {}
        }
    }
    chosen
}

fn asks((_, candidate): &(&BackendId, &Candidate<'_>)) -> bool {
    candidate.intent.settings.tls || candidate.intent.settings.certificate.is_some()
}

type Folder = BTreeMap<CertificateName, CertificateView>;

fn default(member: &Member<'_>, folder: Option<&Folder>, chosen: &mut Chosen, findings: &mut Vec<Finding>) {
    let Some(asked) = &member.spec.certificates.default else { return };
    let subject = Subject { cluster: Some(member.cluster.clone()), ..Subject::default() };
    let found = asked.parse::<CertificateName>().ok().and_then(|name| {
        let view = folder?.get(&name)?;
        Some((name, view))
    });
    let Some((name, view)) = found else {
        let message = format!("the default certificate `{asked}` is not in the cluster's certificate folder");
        findings.push(Finding::new(Verdict::Degraded, Reason::CertificateNotFound, subject, message));
        return;
    };
    if let Some(fault) = &view.fault {
        let message = format!("the default certificate `{name}` cannot be used: {fault}");
        findings.push(Finding::new(Verdict::Degraded, Reason::CertificateInvalid, subject, message));
        return;
    }
    if !member.trusted {
        let subject = Subject { target: Some(member.id.clone()), ..subject };
        findings.push(not_trusted(member, subject, &format!("`{}` gets no default certificate", member.id)));
        return;
    }
    chosen.default = true;
    chosen
        .certificates
        .insert(name, PlanCertificate { digest: view.digest.clone(), hosts: Vec::new(), default: true });
}

/// One route that names its certificate.
struct Asking<'c> {
    id: &'c BackendId,
    candidate: &'c Candidate<'c>,
    name: &'c CertificateName,
}

fn named(
    member: &Member<'_>,
    observed: &Observed,
    asking: &Asking<'_>,
    chosen: &mut Chosen,
    findings: &mut Vec<Finding>,
) {
    let Asking { id, candidate, name } = asking;
    let folder = observed.certificates.get(member.cluster);
    let route = label(&id.host, &id.path);
    let subject = Subject { cluster: Some(member.cluster.clone()), ..candidate.subject() }
        .with_route(&route)
        .with_key(candidate.key("ssl_cert", "spec.tls.certificate"));
    let degraded =
        |reason, message: String| Finding::new(Verdict::Degraded, reason, subject.clone(), message);
    if let Some(other) = chosen.by_host.get(&id.host).filter(|other| other != name) {
        let message = format!("`{}` already presents the certificate `{other}`, not `{name}`", id.host);
        findings.push(degraded(Reason::SettingConflict, message));
        return;
    }
    let instead = if chosen.default { "answered with the default certificate" } else { "served without TLS" };
    let view = folder.and_then(|folder| folder.get(name));
    if let Some((reason, why)) = fault(view, name, &id.host) {
        let finding = degraded(reason, format!("{route} is {instead}: {why}"));
        findings.push(match view {
            None => finding.fix(missing(member, folder, name)),
            Some(_) => finding,
        });
        return;
    }
    let Some(view) = view else { return };
    if !member.trusted {
        let subject = Subject { target: Some(member.id.clone()), ..subject.clone() };
        findings.push(not_trusted(member, subject, &format!("{route} is {instead} by `{}`", member.id)));
        return;
    }
    if view.not_after.0 != 0 && view.not_after < observed.at {
        findings.push(degraded(Reason::CertificateInvalid, format!("the certificate `{name}` has expired")));
    }
    chosen.by_host.insert(id.host.clone(), (*name).clone());
    let entry = chosen.certificates.entry((*name).clone()).or_insert_with(|| PlanCertificate {
        digest: view.digest.clone(),
        hosts: Vec::new(),
        default: false,
    });
    if let Err(at) = entry.hosts.binary_search(&id.host) {
        entry.hosts.insert(at, id.host.clone());
    }
}

/// Why a host cannot present a certificate.
fn fault(
    view: Option<&CertificateView>,
    name: &CertificateName,
    host: &HostPattern,
) -> Option<(Reason, String)> {
    let Some(view) = view else {
        return Some((Reason::CertificateNotFound, format!("there is no certificate `{name}`")));
    };
    if let Some(fault) = &view.fault {
        let why = format!("the certificate `{name}` cannot be used: {fault}");
        return Some((Reason::CertificateInvalid, why));
    }
    if view.names.iter().any(|valid| matches(valid, host)) {
        return None;
    }
    let names: Vec<String> = view.names.iter().map(ToString::to_string).collect();
    let names = if names.is_empty() { "no host".to_owned() } else { names.join(", ") };
    let why = format!("the certificate `{name}` is valid for {names}, not for {host}");
    Some((Reason::CertificateMismatch, why))
}

/// Whether a certificate's name is good for a host: RFC 6125, a wildcard stands for one label.
fn matches(valid: &HostPattern, host: &HostPattern) -> bool {
    match (valid, host) {
        (HostPattern::Wildcard(suffix), HostPattern::Exact(host)) => {
            host.as_str().split_once('.').is_some_and(|(_, rest)| rest == suffix.as_str())
        }
        _ => valid == host,
    }
}

fn missing(member: &Member<'_>, folder: Option<&Folder>, name: &CertificateName) -> String {
    let directory = &member.spec.certificates.directory;
    let Some(directory) = directory else {
        return format!(
            "in cluster `{}`: certificates: {{directory: /etc/interlock/certs}}, and put `{name}` there",
            member.cluster
        );
    };
    let there: Vec<&str> = folder.into_iter().flat_map(BTreeMap::keys).map(CertificateName::as_str).collect();
    let there = if there.is_empty() { "nothing".to_owned() } else { there.join(", ") };
    format!("put `{name}` into {directory}, which holds {there}")
}

fn not_trusted(member: &Member<'_>, subject: Subject, what: &str) -> Finding {
    let message = format!("{what}: only proxies that cluster `{}` names may hold keys", member.cluster);
    let fix = format!("in cluster `{}`: proxies: [{}]", member.cluster, member.id);
    Finding::new(Verdict::Degraded, Reason::ProxyNotTrusted, subject, message).fix(fix)
}

fn no_default(member: &Member<'_>, id: &BackendId, candidate: &Candidate<'_>, findings: &mut Vec<Finding>) {
    let route = label(&id.host, &id.path);
    let subject = Subject { cluster: Some(member.cluster.clone()), ..candidate.subject() }
        .with_route(&route)
        .with_key(candidate.key("ssl", "spec.tls"));
    let message = format!("{route} asks for TLS but names no certificate, and there is no default one");
    let fix = format!(
        "name one (`{}`), or in cluster `{}`: certificates: {{default: FILE}}",
        candidate.key("interlock.ssl_cert", "spec.tls.certificate"),
        member.cluster
    );
    findings.push(Finding::new(Verdict::Degraded, Reason::CertificateNotFound, subject, message).fix(fix));
}
