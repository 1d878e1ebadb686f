//! What an explanation consists of.

use std::collections::BTreeMap;

use interlock_crds::ProxyKind;
use serde::Serialize;

use crate::finding::Finding;
use crate::model::{CertificateName, ClusterName, ContainerId, Readiness, TargetId, UpstreamAddr};
use crate::policy::Redirect;

/// What a question was about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Question {
    /// A host and path, as a request would carry them.
    Route {
        /// The host, normalised where it can be one.
        host: String,
        /// The path, `/` where none was given.
        path: String,
    },
    /// A container.
    Container {
        /// Its name.
        name: String,
        /// Its id.
        id: ContainerId,
    },
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Answer {
    /// At least one endpoint takes it.
    Served,
    /// The proxy sends clients elsewhere.
    Redirected,
    /// The route is there, its endpoints take nothing now: 503.
    NoEndpoint,
    /// The host is there, no route of it covers the path: 404.
    PathNotCovered,
    /// Nothing claims the host, or what claims it is left out: the cluster's answer for unknown hosts.
    UnknownHost,
    /// No host name at all: 400.
    InvalidHost,
    /// There is no proxy that could answer.
    NoProxy,
}

/// The whole answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// What was asked.
    pub question: Question,
    /// The best answer of all proxies.
    pub answer: Answer,
    /// One sentence for people, without a full stop.
    pub summary: String,
    /// What each proxy does, by target.
    pub targets: BTreeMap<TargetId, TargetAnswer>,
    /// What stands in the way or is worth knowing, gravest first, each with its fix.
    pub findings: Vec<Finding>,
    /// For an unknown host, the nearest ones that are known.
    pub nearest: Vec<String>,
}

/// What one proxy does with the request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TargetAnswer {
    /// Its cluster.
    pub cluster: ClusterName,
    /// Which proxy it is.
    pub proxy: ProxyKind,
    /// What becomes of a request.
    pub answer: Answer,
    /// The status that the proxy itself answers with, where no endpoint does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The routes that it is about: the one that serves the request, or the container's.
    pub routes: Vec<RouteAnswer>,
    /// The paths that the host has, longest first, where none covers the request.
    pub paths: Vec<String>,
    /// What this version of the proxy cannot promise, where it serves.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remains: Vec<String>,
}

/// One route on one proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteAnswer {
    /// As `host/path`.
    pub route: String,
    /// Whether plain HTTP is redirected to HTTPS.
    pub https_only: bool,
    /// Where clients are sent in place of being served.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redirect: Option<Redirect>,
    /// The certificate that the host presents, where it has one of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<CertificateName>,
    /// Every container that asks for it and can be reached.
    pub endpoints: Vec<EndpointAnswer>,
}

/// One container behind a route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointAnswer {
    /// The container's id.
    pub container: ContainerId,
    /// Its name.
    pub name: String,
    /// Where the proxy reaches it; none while it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<UpstreamAddr>,
    /// Whether requests go there.
    pub serving: bool,
    /// Whether and why it takes requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub readiness: Option<Readiness>,
}
