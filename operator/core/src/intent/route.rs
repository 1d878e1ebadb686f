//! One route: its settings picked, checked against each other and put into an intent.

use interlock_crds::{Period, ProxyKind, ServiceClusterSpec};

use super::host::{self, Hosts, Own};
use super::keys::{KEYS, Setting};
use super::said::{Fault, Pick, Reader};
use super::{Check, CheckKind, RouteSettings, check, value};
use crate::finding::{Reason, Verdict};
use crate::model::{PathPrefix, Port};
use crate::plan::{Balance, HaproxyOption, UpstreamTls};
use crate::policy::{Access, Networks, Policy};

/// Everything of an intent that is not the workload's identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) hosts: Hosts,
    pub(super) path: PathPrefix,
    pub(super) rewrite: bool,
    pub(super) port: Option<Port>,
    pub(super) network: Option<String>,
    pub(super) settings: RouteSettings,
    pub(super) warm: bool,
    pub(super) check: Option<Check>,
    pub(super) readiness: Option<interlock_crds::ReadinessMode>,
}

/// Reads one route; none where nobody asked for one or where it is refused, and then a finding says why.
pub(super) fn read(reader: &mut Reader<'_>, own: &Own, spec: &ServiceClusterSpec) -> Option<Route> {
    let hosts = host::hosts(reader, own, spec);
    if hosts == Pick::Absent {
        if let Some(key) = reader.any_route_key() {
            host::nameless(reader, &key);
        }
        return None;
    }
    let primary = if let Pick::Good(hosts) = &hosts { hosts.names.first().cloned() } else { None };
    if let Some(host) = &primary {
        reader.narrow(format!("{host}/"));
    }
    let path = reader.one(Setting::Path, value::path);
    if let (Some(host), Pick::Good(path)) = (&primary, &path) {
        reader.narrow(format!("{host}{path}"));
    }
    not_supported(reader, spec.proxy);
    let port = reader.one(Setting::Port, value::port);
    let network = reader.one(Setting::Network, value::network);
    let refused = path == Pick::Bad || port == Pick::Bad || network == Pick::Bad;
    let path = path.good().unwrap_or_else(PathPrefix::root);
    let route = Route {
        rewrite: rewrite(reader, &path),
        settings: settings(reader, &path, spec),
        warm: reader.one(Setting::Warm, value::boolean).good().unwrap_or(false),
        check: health_check(reader),
        readiness: reader.one(Setting::Readiness, value::readiness).good(),
        port: port.good(),
        network: network.good(),
        hosts: hosts.good()?,
        path,
    };
    (!refused).then_some(route)
}

/// Tells every key that the cluster's proxy cannot honour.
fn not_supported(reader: &mut Reader<'_>, proxy: ProxyKind) {
    for setting in unsupported(proxy) {
        for word in reader.words(setting) {
            let message = format!("{} cannot do this; it is left out", proxy.as_str());
            reader.tell(&word.key, Fault::value(message).reason(Reason::NotSupported));
        }
    }
}

fn unsupported(proxy: ProxyKind) -> impl Iterator<Item = Setting> {
    let mut settings: Vec<Setting> =
        KEYS.iter().filter(|key| !key.proxies.contains(&proxy)).map(|key| key.setting).collect();
    settings.sort_unstable();
    settings.dedup();
    settings.into_iter()
}

fn supported(proxy: ProxyKind, setting: Setting) -> bool {
    !unsupported(proxy).any(|other| other == setting)
}

fn rewrite(reader: &mut Reader<'_>, path: &PathPrefix) -> bool {
    let rewrite = reader.one(Setting::Rewrite, value::boolean).good().unwrap_or(false);
    if rewrite && path.is_root() {
        let label = reader.label(Setting::Path);
        let key = reader.words(Setting::Rewrite).into_iter().next().map(|word| word.key);
        let message = "nothing is stripped: the route has no path".to_owned();
        let fix = Some(format!("label `{label}=/app`"));
        reader.push(Verdict::Note, Reason::InvalidValue, key.as_deref(), message, fix);
    }
    rewrite && !path.is_root()
}

fn settings(reader: &mut Reader<'_>, path: &PathPrefix, spec: &ServiceClusterSpec) -> RouteSettings {
    let mut settings = RouteSettings {
        websocket: websocket(reader, path),
        balance: balance(reader),
        options: options(reader, spec.proxy),
        slow_start: slow_start(reader, spec.proxy),
        upstream_tls: upstream_tls(reader),
        policy: policy(reader),
        ..RouteSettings::default()
    };
    tls(reader, &mut settings, spec);
    settings
}

/// TLS towards clients. A certificate or `ssl_only` asks for it as `ssl` does.
fn tls(reader: &mut Reader<'_>, settings: &mut RouteSettings, spec: &ServiceClusterSpec) {
    let said = reader.one(Setting::Tls, value::boolean).good();
    let certificate = reader.one(Setting::Certificate, value::certificate);
    let key = reader.one(Setting::CertificateKey, value::certificate);
    settings.https_only = reader.one(Setting::HttpsOnly, value::boolean).good().unwrap_or(false);
    let unusable = certificate == Pick::Bad || key == Pick::Bad;
    if settings.https_only && unusable && !https_elsewhere(spec) {
        let label = reader.label(Setting::HttpsOnly);
        let message =
            "plain HTTP is served, not redirected: there is no certificate to redirect to".to_owned();
        reader.push(Verdict::Degraded, Reason::CertificateInvalid, Some(&label), message, None);
        settings.https_only = false;
    }
    let certificate = certificate.good().filter(|_| !unusable);
    let key = key.good();
    if key.is_some() && certificate.is_none() && !unusable {
        without(reader, Setting::CertificateKey, Setting::Certificate, "shop.example.com.pem");
    }
    let off = said == Some(false) && !settings.https_only;
    if off && certificate.is_some() {
        set_aside(reader, Setting::Certificate, Setting::Tls);
    } else if said == Some(false) && settings.https_only {
        set_aside(reader, Setting::Tls, Setting::HttpsOnly);
    }
    let certificate = certificate.filter(|_| !off);
    settings.tls = said == Some(true) || certificate.is_some() || settings.https_only;
    settings.certificate_key = key.filter(|_| certificate.is_some());
    settings.certificate = certificate;
}

/// Tells that one setting of the route excludes another.
fn set_aside(reader: &mut Reader<'_>, loser: Setting, winner: Setting) {
    let first = |reader: &Reader<'_>, setting| reader.words(setting).into_iter().next().map(|word| word.key);
    if let (Some(loser), Some(winner)) = (first(reader, loser), first(reader, winner)) {
        reader.overridden(&loser, &winner);
    }
}

/// Whether a redirect to HTTPS leads somewhere without the route's own certificate: to the default one,
/// or to a trusted proxy in front that has one.
fn https_elsewhere(spec: &ServiceClusterSpec) -> bool {
    spec.certificates.default.is_some() || !spec.trusted_proxies.is_empty()
}

fn upstream_tls(reader: &mut Reader<'_>) -> Option<UpstreamTls> {
    let on = reader.one(Setting::UpstreamTls, value::boolean).good().unwrap_or(false);
    let verify = reader.one(Setting::UpstreamVerify, value::verify).good();
    if !on && verify == Some(true) {
        without(reader, Setting::UpstreamVerify, Setting::UpstreamTls, "true");
    }
    on.then_some(UpstreamTls { verify: verify.unwrap_or(false) })
}

/// Tells that a setting does nothing without another one.
fn without(reader: &mut Reader<'_>, setting: Setting, missing: Setting, example: &str) {
    let label = reader.label(missing);
    let key = reader.words(setting).into_iter().next().map(|word| word.key).unwrap_or_default();
    let message = format!("`{key}` does nothing without `{label}`");
    let fix = Some(format!("label `{label}={example}`"));
    reader.push(Verdict::Degraded, Reason::InvalidValue, Some(&key), message, fix);
}

fn websocket(reader: &mut Reader<'_>, path: &PathPrefix) -> Vec<PathPrefix> {
    let mut paths: Vec<PathPrefix> = Vec::new();
    for word in reader.list(Setting::Websocket) {
        for text in split_paths(&word.text) {
            match value::websocket(text) {
                Ok(endpoint) if !path.covers(endpoint.as_str()) => {
                    let message = format!("`{endpoint}` is not below the route's path `{path}`");
                    let fault = Fault::value(message).reason(Reason::InvalidPath);
                    reader.tell(&word.key, fault.write(format!("{path}{endpoint}")));
                }
                Ok(endpoint) if paths.contains(&endpoint) => {}
                Ok(endpoint) => paths.push(endpoint),
                Err(fault) => reader.tell(&word.key, fault),
            }
        }
    }
    paths
}

/// `/ws,/events` is two paths; a comma that no slash follows belongs to a path.
fn split_paths(text: &str) -> Vec<&str> {
    let pieces: Vec<&str> = text.split(',').map(str::trim).collect();
    if pieces.iter().all(|piece| piece.starts_with('/')) { pieces } else { vec![text] }
}

fn balance(reader: &mut Reader<'_>) -> Option<Balance> {
    let taken = reader.one(Setting::Balance, value::balance).good();
    let key = reader.words(Setting::Balance).into_iter().next().map(|word| word.key).unwrap_or_default();
    let ip_hash = reader.one(Setting::IpHash, value::boolean).good().unwrap_or(false);
    let (balance, told) = taken.unzip();
    if ip_hash {
        if balance.is_some_and(|balance| balance != Balance::ClientAddress) {
            set_aside(reader, Setting::Balance, Setting::IpHash);
        }
        return Some(Balance::ClientAddress);
    }
    if let Some(told) = told.flatten() {
        reader.tell(&key, told);
    }
    balance
}

fn slow_start(reader: &mut Reader<'_>, proxy: ProxyKind) -> Option<Period> {
    supported(proxy, Setting::SlowStart).then(|| reader.one(Setting::SlowStart, value::slow_start).good())?
}

fn options(reader: &mut Reader<'_>, proxy: ProxyKind) -> Vec<HaproxyOption> {
    let supported = supported(proxy, Setting::Options);
    let mut options: Vec<HaproxyOption> = Vec::new();
    for word in reader.list(Setting::Options).into_iter().filter(|_| supported) {
        match value::option(&word.text) {
            Ok(option) if options.contains(&option) => {}
            Ok(option) => options.push(option),
            Err(fault) => {
                let is_check = fault.reason == Reason::OptionNotAllowed && check::check(&word.text).is_ok();
                if is_check {
                    let label = reader.label(Setting::Check);
                    let message = format!("`{}`: a health check is a setting of its own", word.key);
                    let fix = Some(format!("label `{label}=httpchk GET /ping`"));
                    reader.push(Verdict::Degraded, fault.reason, Some(&word.key), message, fix);
                } else {
                    reader.tell(&word.key, fault);
                }
            }
        }
    }
    options
}

/// What protects the route. What cannot be read protects more, never less.
fn policy(reader: &mut Reader<'_>) -> Policy {
    let body_size = match reader.one(Setting::BodySize, value::bytes) {
        Pick::Absent => None,
        Pick::Good(size) => Some(size),
        Pick::Bad => Some(*Policy::BODY.start()),
    };
    Policy { access: access(reader), body_size, ..Policy::default() }
}

/// Who is let in. A network that cannot be read lets nobody in; where it should have kept somebody out, nobody is.
fn access(reader: &mut Reader<'_>) -> Access {
    let (allow, _) = networks(reader, Setting::Allow, "nobody is let in by it");
    let (deny, bad) = networks(reader, Setting::Deny, "nobody is let in as long as it stands there");
    if bad {
        return Access::nobody();
    }
    Access { allow, deny: deny.unwrap_or_default() }
}

/// The networks of a setting, if anybody said any, and whether one of them cannot be read.
fn networks(reader: &mut Reader<'_>, setting: Setting, so: &str) -> (Option<Networks>, bool) {
    let words = reader.list(setting);
    let mut networks = Vec::new();
    let mut bad = false;
    for word in &words {
        for text in word.text.split(',').map(str::trim) {
            match value::clients(text, so) {
                Ok(network) => networks.push(network),
                Err(fault) => {
                    bad = true;
                    reader.tell(&word.key, fault);
                }
            }
        }
    }
    if let Some(word) = words.first().filter(|_| networks.len() > Networks::MOST) {
        let message = format!("{} networks are the most; nobody is let in", Networks::MOST);
        reader.tell(&word.key, Fault::value(message));
        return (Some(Networks::default()), true);
    }
    ((!words.is_empty()).then(|| networks.into()), bad)
}

/// An interval alone asks for what old Interlocks always did: a TCP connection at that interval.
fn health_check(reader: &mut Reader<'_>) -> Option<Check> {
    let interval_ms = reader.one(Setting::CheckInterval, value::interval).good();
    let key = reader.words(Setting::Check).into_iter().next().map(|word| word.key).unwrap_or_default();
    match reader.one(Setting::Check, check::check) {
        Pick::Good((kind, told)) => {
            if let Some(told) = told {
                reader.tell(&key, told);
            }
            Some(Check { kind, interval_ms })
        }
        Pick::Bad => None,
        Pick::Absent => interval_ms.map(|_| Check { kind: CheckKind::Tcp, interval_ms }),
    }
}
