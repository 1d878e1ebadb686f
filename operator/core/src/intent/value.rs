//! Values: each setting's text parsed into its type, or why it cannot be.

use std::net::IpAddr;

use interlock_crds::{HaproxySpec, Period, ReadinessMode};
use ipnet::IpNet;

use super::keys::LONGEST_SLIP;
use super::said::Fault;
use crate::finding::{Reason, Verdict, shown};
use crate::model::{CertificateName, HostPattern, NameError, PathPrefix, Port};
use crate::plan::{Balance, HaproxyOption, OptionError};
use crate::policy::Policy;

/// `true`, `false`, `1`, `0`, `yes`, `no` in any case; empty means true, as presence did.
pub(super) fn boolean(text: &str) -> Result<bool, Fault> {
    match text.to_ascii_lowercase().as_str() {
        "" | "true" | "1" | "yes" => Ok(true),
        "false" | "0" | "no" => Ok(false),
        _ => {
            let message = format!("`{}` is neither `true` nor `false`, and counts as not set", shown(text));
            Err(Fault::value(message).write("true"))
        }
    }
}

/// A port of the container.
pub(super) fn port(text: &str) -> Result<Port, Fault> {
    let digits = text.strip_suffix("/tcp").unwrap_or(text);
    digits.parse().map_err(|error: NameError| {
        // `80:8080`, as `docker run -p` has it, or `8080/udp`: the container's side is the fix.
        let inner = text.rsplit(':').next().and_then(|text| text.split('/').next());
        let fix = inner.and_then(|text| text.parse::<Port>().ok()).map_or(8080, Port::get);
        refused(Reason::InvalidPort, &error).write(fix.to_string())
    })
}

/// A path prefix.
pub(crate) fn path(text: &str) -> Result<PathPrefix, Fault> {
    text.parse().map_err(|error: NameError| refused(Reason::InvalidPath, &error).write("/app"))
}

/// A full host name or a wildcard.
pub(crate) fn host(text: &str) -> Result<HostPattern, Fault> {
    text.parse().map_err(|error: NameError| {
        let bare = text.split_once("://").map_or(text, |(_, rest)| rest);
        let bare = bare.split(['/', ':', '?']).next().unwrap_or_default();
        let fix = bare.parse::<HostPattern>().map_or_else(|_| "shop.example.com".to_owned(), String::from);
        refused(Reason::InvalidHost, &error).write(fix)
    })
}

/// A network's name, as Docker takes it.
pub(crate) fn network(text: &str) -> Result<String, Fault> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    let bytes = text.as_bytes();
    if bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.len() <= 255
        && bytes.iter().all(|byte| good(*byte))
    {
        return Ok(text.to_owned());
    }
    // No network has such a name, and any other one would be a guess.
    let message = format!("`{}` cannot be the name of a network", shown(text));
    Err(Fault::value(message).verdict(Verdict::Refused).write("frontend"))
}

/// A certificate's or a key's file name.
pub(crate) fn certificate(text: &str) -> Result<CertificateName, Fault> {
    text.parse().map_err(|error: NameError| {
        let base = text.rsplit('/').next().and_then(|base| base.parse::<CertificateName>().ok());
        let fix = base.map_or_else(|| "shop.example.com.pem".to_owned(), String::from);
        Fault::value(format!("{error}; it is one file's name in the certificate folder")).write(fix)
    })
}

/// Whether the container's certificate is verified.
pub(super) fn verify(text: &str) -> Result<bool, Fault> {
    match text.to_ascii_lowercase().as_str() {
        "all" | "required" | "true" | "1" | "yes" => Ok(true),
        "none" | "false" | "0" | "no" => Ok(false),
        _ => {
            let message = format!("`{}` is neither `required` nor `none`; nothing is verified", shown(text));
            Err(Fault::value(message).write("required"))
        }
    }
}

/// What admits the container.
pub(super) fn readiness(text: &str) -> Result<ReadinessMode, Fault> {
    match text.to_ascii_lowercase().as_str() {
        "auto" => Ok(ReadinessMode::Auto),
        "docker" => Ok(ReadinessMode::Docker),
        "probe" => Ok(ReadinessMode::Probe),
        "none" => Ok(ReadinessMode::None),
        _ => {
            let message = format!("`{}` is none of `auto`, `docker`, `probe`, `none`", shown(text));
            Err(Fault::value(message).write("auto"))
        }
    }
}

/// Milliseconds between two health checks: at least 1, at most a day.
pub(super) fn interval(text: &str) -> Result<u64, Fault> {
    const DAY: u64 = 24 * 60 * 60 * 1000;
    if text.bytes().all(|byte| byte.is_ascii_digit())
        && let Ok(millis) = text.parse()
        && (1..=DAY).contains(&millis)
    {
        return Ok(millis);
    }
    let message = format!(
        "`{}` is no whole number of milliseconds from 1 to {DAY}; the cluster's interval is used",
        shown(text)
    );
    let seconds: Option<u64> = text.strip_suffix('s').and_then(|text| text.parse().ok());
    let fix = seconds.and_then(|seconds| seconds.checked_mul(1000)).filter(|ms| (1..=DAY).contains(ms));
    Err(Fault::value(message).write(fix.unwrap_or(5000).to_string()))
}

/// How long an endpoint that has just become ready gets less than its share: at most an hour.
pub(crate) fn slow_start(text: &str) -> Result<Period, Fault> {
    match text.parse::<Period>() {
        Ok(period) if period <= HaproxySpec::SLOW_START_MOST => Ok(period),
        Ok(_) => {
            Err(Fault::value("it is longer than an hour; the cluster's `slowStart` is used").write("30s"))
        }
        Err(error) => Err(Fault::value(format!("{error}; the cluster's `slowStart` is used")).write("30s")),
    }
}

/// How requests are spread, and what is to be told although it is taken.
pub(super) fn balance(text: &str) -> Result<(Balance, Option<Fault>), Fault> {
    const KNOWN: [&str; 7] = ["roundrobin", "static-rr", "leastconn", "source", "random", "uri", "first"];
    let name = text.to_ascii_lowercase();
    let taken = match name.as_str() {
        "roundrobin" => Balance::RoundRobin,
        "leastconn" => Balance::LeastConn,
        "source" => Balance::ClientAddress,
        "random" => Balance::Random,
        "uri" => Balance::Uri,
        "first" => Balance::First,
        "static-rr" => {
            let note = Fault::value("`static-rr` is done as `roundrobin`, whose servers can be changed live");
            let note = note.verdict(Verdict::Note).reason(Reason::NotSupported).write("roundrobin");
            return Ok((Balance::RoundRobin, Some(note)));
        }
        _ => {
            let word = name.split([' ', '(']).next().unwrap_or_default();
            let unsupported = ["url_param", "hdr", "rdp-cookie", "hash", "sticky"].contains(&word);
            let why = if unsupported { "is not offered" } else { "is no balance algorithm" };
            let message = format!("`{}` {why}; `roundrobin` is used", shown(text));
            let reason = if unsupported { Reason::NotSupported } else { Reason::InvalidValue };
            let near = |known: &&&str| strsim::jaro_winkler(known, &name) > 0.85;
            let comparable = !unsupported && name.len() <= LONGEST_SLIP;
            let fix = KNOWN.iter().filter(|_| comparable).find(near).unwrap_or(&"roundrobin");
            return Err(Fault::value(message).reason(reason).write(*fix));
        }
    };
    Ok((taken, None))
}

/// A network that clients are in; an address is one of its own. `so` is what a bad one means.
pub(super) fn clients(text: &str, so: &str) -> Result<IpNet, Fault> {
    let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    network.map_err(|_| Fault::value(format!("`{}` is no network; {so}", shown(text))).write("10.0.0.0/8"))
}

/// A number of bytes.
pub(super) fn bytes(text: &str) -> Result<u64, Fault> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let size = text.parse().ok().filter(|size| digits && Policy::BODY.contains(size));
    size.ok_or_else(|| {
        let message = format!(
            "`{}` is no number of bytes from 1 to 1 TiB; a body of 1 byte is let through",
            shown(text)
        );
        Fault::value(message).write("1048576")
    })
}

/// A path with long-lived connections.
pub(crate) fn websocket(text: &str) -> Result<PathPrefix, Fault> {
    if let Some((scheme, rest)) = text.split_once("://") {
        let path = rest.find('/').map_or("/", |at| rest.get(at..).unwrap_or("/"));
        let path = path.parse::<PathPrefix>().map_or_else(|_| "/ws".to_owned(), String::from);
        let message = format!("it is a path, not a `{}` address", shown(scheme));
        return Err(Fault::value(message).reason(Reason::InvalidPath).write(path));
    }
    text.parse()
        .map_err(|error: NameError| Fault::value(error.to_string()).reason(Reason::InvalidPath).write("/ws"))
}

/// A HAProxy option from the allowlist.
pub(crate) fn option(text: &str) -> Result<HaproxyOption, Fault> {
    text.parse().map_err(|error: OptionError| {
        let fault = Fault::value(error.to_string());
        match error {
            OptionError::Dropped { .. } => fault.reason(Reason::OptionDropped),
            OptionError::NotAllowed { nearest, .. } => {
                let fault = fault.reason(Reason::OptionNotAllowed);
                match nearest {
                    Some(nearest) => fault.write(nearest),
                    None => fault,
                }
            }
        }
    })
}

/// Something without which there is no route.
fn refused(reason: Reason, error: &NameError) -> Fault {
    Fault::value(error.to_string()).reason(reason).verdict(Verdict::Refused)
}
