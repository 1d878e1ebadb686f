//! What a cluster's settings must fulfil beyond their types, in the configuration and in a document alike.

use std::time::Duration;

use interlock_core::model::{HostPattern, Hostname};
use interlock_crds::{HaproxySpec, ServiceClusterSpec};

use super::validate::shown;

/// Containers that ended are remembered no longer.
const MAX_HOLD: Duration = Duration::from_mins(10);

/// A setting that cannot be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfit {
    /// Which, as `probes.timeout`.
    pub field: String,
    /// What is wrong, the value included.
    pub message: String,
    /// What to write instead.
    pub fix: String,
}

fn refuse(field: &str, message: &str, fix: &str) -> Result<(), Unfit> {
    Err(Unfit { field: field.to_owned(), message: message.to_owned(), fix: fix.to_owned() })
}

/// Checks a cluster's settings, wherever they are written.
pub fn check(spec: &ServiceClusterSpec) -> Result<(), Unfit> {
    let listeners = &spec.listeners;
    if listeners.http == 0 || listeners.https == 0 {
        let field = if listeners.http == 0 { "listeners.http" } else { "listeners.https" };
        return refuse(field, "`0` is not a port to listen on", "write a port from 1 to 65535");
    }
    if listeners.http == listeners.https {
        let message = format!("`{}` is the port for plain HTTP too", listeners.https);
        return refuse("listeners.https", &message, "give HTTP and HTTPS ports of their own");
    }
    if spec.default_domain.parse::<Hostname>().is_err() {
        let message = format!("`{}` is not a domain", shown(&spec.default_domain));
        return refuse("defaultDomain", &message, "write a name such as `example.com` or `local`");
    }
    if spec.probes.concurrency == 0 {
        return refuse("probes.concurrency", "`0` would never probe anything", "write at least `1`");
    }
    if spec.probes.unhealthy_after == 0 {
        return refuse("probes.unhealthyAfter", "`0` would never admit anything", "write at least `1`");
    }
    if !(1..=256).contains(&spec.haproxy.min_slots) {
        let message = format!("`{}` is not from 1 to 256", spec.haproxy.min_slots);
        return refuse("haproxy.minSlots", &message, "leave it out for the default of 4");
    }
    if spec.haproxy.spares > 1024 {
        let message = format!("`{}` is more than 1024", spec.haproxy.spares);
        return refuse("haproxy.spares", &message, "leave it out for the default of 32");
    }
    if spec.haproxy.slow_start > HaproxySpec::SLOW_START_MOST {
        let message = format!("`{}` is longer than 1h", spec.haproxy.slow_start);
        return refuse("haproxy.slowStart", &message, "leave it out: then there is none");
    }
    if spec.hold.get() > MAX_HOLD {
        let message = format!("`{}` is longer than 10m", spec.hold);
        return refuse("hold", &message, "leave it out for the default of `10s`; `0s` holds nothing");
    }
    if spec.hold_max == 0 {
        return refuse("holdMax", "`0` would let nothing wait", "write at least `1`, or `hold: 0s`");
    }
    if spec.certificates.default.is_some() && spec.certificates.directory.is_none() {
        let message = "there is no folder that it could be in";
        return refuse("certificates.default", message, "set `certificates.directory` too");
    }
    claims(spec)?;
    timeouts(spec)
}

fn timeouts(spec: &ServiceClusterSpec) -> Result<(), Unfit> {
    let timeouts = &spec.timeouts;
    for (field, period) in [
        ("timeouts.connect", timeouts.connect),
        ("timeouts.request", timeouts.request),
        ("timeouts.response", timeouts.response),
        ("timeouts.tunnel", timeouts.tunnel),
        ("timeouts.keepAlive", timeouts.keep_alive),
        ("probes.timeout", spec.probes.timeout),
        ("probes.interval", spec.probes.interval),
    ] {
        if period.as_millis() == 0 {
            let message = format!("`{period}` would time out at once");
            return refuse(field, &message, "write at least `1ms`");
        }
    }
    Ok(())
}

fn claims(spec: &ServiceClusterSpec) -> Result<(), Unfit> {
    for (at, claim) in spec.claims.iter().enumerate() {
        let field = format!("claims[{at}].hosts");
        if claim.hosts.is_empty() {
            return refuse(&field, "it names no host", "write host names, `*.example.com`, or `*` for all");
        }
        for (nth, host) in claim.hosts.iter().enumerate().filter(|(_, host)| *host != "*") {
            if let Err(error) = host.parse::<HostPattern>() {
                let fix = "write a host name, `*.example.com`, or `*` for all";
                return refuse(&format!("{field}[{nth}]"), &error.to_string(), fix);
            }
        }
        for (nth, owner) in claim.owners.iter().enumerate() {
            if owner.is_empty() {
                let field = format!("claims[{at}].owners[{nth}]");
                return refuse(&field, "it names nobody", "write an owner, as in `compose:shop/*`");
            }
        }
    }
    Ok(())
}
