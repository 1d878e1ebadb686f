//! What holds for every rule of a document: TLS, balance, options, the health check.

use interlock_crds::{BalanceAlgorithm, HealthCheckType, Period, ProxyKind, StickyType, TlsMode};

use super::Reader;
use crate::finding::{Reason, Verdict, shown};
use crate::intent::said::Fault;
use crate::intent::{Check, CheckKind, RouteSettings, check, value};
use crate::model::PathPrefix;
use crate::plan::{Balance, HaproxyOption, UpstreamTls};
use crate::policy::{Access, Networks, Policy};

/// The longest time between two checks.
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

impl Reader<'_> {
    pub(super) fn settings(&mut self) -> RouteSettings {
        let spec = self.spec;
        let mut settings = RouteSettings {
            websocket: self.websocket(),
            balance: self.balance(),
            options: self.options(),
            slow_start: self.slow_start(),
            policy: Policy { access: self.access(), body_size: self.body_size(), ..Policy::default() },
            upstream_tls: spec.backend_tls.as_ref().map(|tls| UpstreamTls { verify: tls.verify }),
            ..RouteSettings::default()
        };
        let Some(tls) = spec.tls.as_ref().filter(|tls| tls.mode == TlsMode::Terminate) else {
            return settings;
        };
        (settings.tls, settings.https_only) = (true, tls.redirect);
        let mut file = |field: &str, text: &Option<String>| match text.as_deref().map(value::certificate) {
            None => None,
            Some(Ok(name)) => Some(name),
            Some(Err(fault)) => {
                self.bad(field, fault);
                None
            }
        };
        settings.certificate = file("spec.tls.certificate", &tls.certificate);
        settings.certificate_key = file("spec.tls.key", &tls.key).filter(|_| settings.certificate.is_some());
        if tls.key.is_some() && tls.certificate.is_none() {
            self.bad("spec.tls.key", Fault::value("it does nothing without `spec.tls.certificate`"));
        }
        settings
    }

    /// Who is let in: nobody, where that cannot be read.
    fn access(&mut self) -> Access {
        let spec = self.spec;
        for (field, list) in [("spec.allow", &spec.allow), ("spec.deny", &spec.deny)] {
            if list.len() > Networks::MOST {
                let message = format!("{} networks are the most; nobody is let in", Networks::MOST);
                self.bad(field, Fault::value(message).verdict(Verdict::Refused));
                return Access::nobody();
            }
        }
        let allow = Some(&spec.allow).filter(|allow| !allow.is_empty());
        Access { allow: allow.cloned().map(Networks::from), deny: spec.deny.clone().into() }
    }

    fn body_size(&mut self) -> Option<u64> {
        let asked = self.spec.limits.as_ref()?.body_size?;
        let size = asked.clamp(*Policy::BODY.start(), *Policy::BODY.end());
        if size != asked {
            self.bad(
                "spec.limits.bodySize",
                Fault::value(format!("it is not from 1 to 1 TiB; {size} is taken")),
            );
        }
        Some(size)
    }

    fn websocket(&mut self) -> Vec<PathPrefix> {
        let spec = self.spec;
        let mut paths = Vec::new();
        for (at, text) in spec.websocket.iter().enumerate() {
            match value::websocket(text) {
                Ok(path) if paths.contains(&path) => {}
                Ok(path) => paths.push(path),
                Err(fault) => self.bad(&format!("spec.websocket[{at}]"), fault),
            }
        }
        paths
    }

    fn balance(&mut self) -> Option<Balance> {
        let said = self.spec.balance.map(|balance| match balance {
            BalanceAlgorithm::RoundRobin => Balance::RoundRobin,
            BalanceAlgorithm::LeastConn => Balance::LeastConn,
            BalanceAlgorithm::ClientAddress => Balance::ClientAddress,
            BalanceAlgorithm::Random => Balance::Random,
            BalanceAlgorithm::Uri => Balance::Uri,
            BalanceAlgorithm::First => Balance::First,
        });
        let sticky = self.spec.sticky.as_ref().is_some_and(|one| one.kind == StickyType::ClientAddress);
        if sticky && said.is_some_and(|balance| balance != Balance::ClientAddress) {
            let fault = Fault::value("`spec.sticky` is stronger and says something else");
            self.bad("spec.balance", fault.verdict(Verdict::Note).reason(Reason::Overridden));
        }
        if sticky { Some(Balance::ClientAddress) } else { said }
    }

    fn options(&mut self) -> Vec<HaproxyOption> {
        let Some(haproxy) = &self.spec.haproxy else { return Vec::new() };
        if self.cluster.proxy != ProxyKind::Haproxy && !haproxy.options.is_empty() {
            self.not_supported("spec.haproxy.options");
            return Vec::new();
        }
        let mut options = Vec::new();
        for (at, text) in haproxy.options.iter().enumerate() {
            match value::option(text) {
                Ok(option) if options.contains(&option) => {}
                Ok(option) => options.push(option),
                Err(mut fault) => {
                    if fault.reason == Reason::OptionNotAllowed {
                        fault.message =
                            format!("`{}` is not in the allowlist of docs/labels.md", shown(text));
                    }
                    self.bad(&format!("spec.haproxy.options[{at}]"), fault);
                }
            }
        }
        options
    }

    fn slow_start(&mut self) -> Option<Period> {
        let asked = self.spec.slow_start?;
        if self.cluster.proxy != ProxyKind::Haproxy {
            self.not_supported("spec.slowStart");
            return None;
        }
        let read = value::slow_start(&asked.to_string());
        read.map_err(|fault| self.bad("spec.slowStart", fault)).ok()
    }

    fn not_supported(&mut self, field: &str) {
        let message = format!("{} cannot do this; it is left out", self.cluster.proxy.as_str());
        self.bad(field, Fault::value(message).reason(Reason::NotSupported));
    }

    /// A health check; read by the same rules as a label's, because the agent sends what comes out.
    pub(super) fn check(&mut self) -> Option<Check> {
        let asked = self.spec.health_check.as_ref()?;
        let mut interval_ms = asked.interval.map(Period::as_millis);
        if interval_ms.is_some_and(|ms| !(1..=DAY_MS).contains(&ms)) {
            let fault =
                Fault::value("it is not from 1ms to 1day; the cluster's interval is used").write("5s");
            self.bad("spec.healthCheck.interval", fault);
            interval_ms = None;
        }
        if asked.kind == HealthCheckType::Tcp {
            return Some(Check { kind: CheckKind::Tcp, interval_ms });
        }
        let method = asked.method.as_deref().unwrap_or("GET");
        let path = asked.path.as_deref().unwrap_or("/");
        let host = asked.host.as_deref();
        let parts = [("method", Some(method)), ("path", Some(path)), ("host", host)];
        let odd = |text: &&str| text.contains(|c: char| c.is_whitespace() || c.is_control() || c == '\\');
        if let Some((field, _)) = parts.iter().find(|(_, text)| text.as_ref().is_some_and(odd)) {
            let fault = Fault::value("it has a character that is not allowed; nothing is checked");
            self.bad(&format!("spec.healthCheck.{field}"), fault);
            return None;
        }
        let host = host.map(|host| format!("\\r\\nHost:\\ {host}")).unwrap_or_default();
        match check::check(&format!("httpchk {method} {path} HTTP/1.1{host}")) {
            Ok((kind, _)) => Some(Check { kind, interval_ms }),
            Err(fault) => {
                self.bad("spec.healthCheck", Fault { fix: None, ..fault });
                None
            }
        }
    }
}
