//! What a route asks beyond host and path: decided by the proxy before a request reaches any endpoint.

mod headers;
mod redirect;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};

use crate::model::{Hostname, PathPrefix};
pub use headers::{HeaderChanges, HeaderError, HeaderName, HeaderValue};
pub(crate) use redirect::own_ports;
pub use redirect::{NewPath, Redirect, Scheme, Status, StatusError};

/// What a route asks beyond host and path. It belongs to the backend, so that no way to its endpoints leads past it.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Policy {
    /// Who is let in.
    #[serde(skip_serializing_if = "Access::is_open")]
    pub access: Access,
    /// The largest request body in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_size: Option<u64>,
    /// Where clients are sent; none: requests go to endpoints.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redirect: Option<Redirect>,
    /// The host that endpoints see; none: the client's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<Hostname>,
    /// The path that endpoints see; none: the client's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathPrefix>,
    /// What is done to the headers that endpoints see.
    #[serde(skip_serializing_if = "HeaderChanges::is_empty")]
    pub request: HeaderChanges,
    /// What is done to the headers that clients see.
    #[serde(skip_serializing_if = "HeaderChanges::is_empty")]
    pub response: HeaderChanges,
}

impl Policy {
    /// The smallest and the largest bound of a body: nginx takes 0 for none, and both count that far.
    pub const BODY: RangeInclusive<u64> = 1..=1 << 40;

    /// Whether nothing is asked.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether an endpoint that asks for this may be served under another policy: what protects it must hold.
    pub fn holds_under(&self, other: &Self) -> bool {
        (self.access.is_open() || self.access == other.access)
            && (self.body_size.is_none() || self.body_size == other.body_size)
    }
}

/// Which clients are let in, by their address.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Access {
    /// Networks that are let in; none: all. A list without any lets nobody in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow: Option<Networks>,
    /// Networks that are not, whatever `allow` says.
    #[serde(skip_serializing_if = "Networks::is_empty")]
    pub deny: Networks,
}

impl Access {
    /// Nobody is let in: what an unreadable list comes to.
    pub fn nobody() -> Self {
        Self { allow: Some(Networks::default()), deny: Networks::default() }
    }

    /// Whether everybody is let in.
    pub fn is_open(&self) -> bool {
        *self == Self::default()
    }

    /// Whether those of whom no network says anything are let in.
    pub fn lets_others_in(&self) -> bool {
        self.allow.is_none()
    }

    /// Each network and whether it is let in, such that the narrowest one that has an address decides.
    pub fn narrowest(&self) -> BTreeMap<IpNet, bool> {
        let denied = |net: &IpNet| self.deny.0.iter().any(|deny| deny.contains(net));
        let allowed = self.allow.iter().flat_map(|allow| &allow.0).filter(|net| !denied(net));
        let mut all: BTreeMap<IpNet, bool> =
            allowed.flat_map(|net| halves(*net)).map(|net| (net, true)).collect();
        all.extend(self.deny.0.iter().flat_map(|net| halves(*net)).map(|net| (net, false)));
        all
    }
}

/// "Everything" in two halves: nginx warns of a network that is as wide as its default.
pub(crate) fn halves(net: IpNet) -> Vec<IpNet> {
    match net.subnets(1) {
        _ if net.prefix_len() > 0 => vec![net],
        Ok(halves) => halves.collect(),
        Err(_) => Vec::new(),
    }
}

/// Networks: host bits cleared, sorted, none inside another, IPv4 as IPv4.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "Vec<IpNet>")]
pub struct Networks(Vec<IpNet>);

impl Networks {
    /// The most in one list: each is a line of the proxy's file.
    pub const MOST: usize = 1_000;

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those of IPv4, or those of IPv6.
    pub fn of_family(&self, four: bool) -> impl Iterator<Item = &IpNet> {
        self.0.iter().filter(move |net| matches!(net, IpNet::V4(_)) == four)
    }
}

impl From<Vec<IpNet>> for Networks {
    fn from(nets: Vec<IpNet>) -> Self {
        Self(IpNet::aggregate(&nets.into_iter().map(unmapped).collect()))
    }
}

impl std::fmt::Display for Networks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() {
            return f.write_str("nobody");
        }
        let all: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&all.join(", "))
    }
}

/// `::ffff:10.0.0.0/104` is `10.0.0.0/8`.
fn unmapped(net: IpNet) -> IpNet {
    let IpNet::V6(six) = net else { return net };
    let four = six.network().to_ipv4_mapped().zip(six.prefix_len().checked_sub(96));
    four.and_then(|(address, length)| Ipv4Net::new(address, length).ok()).map_or(net, IpNet::V4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(text: &[&str]) -> Networks {
        text.iter().map(|net| net.parse().unwrap()).collect::<Vec<IpNet>>().into()
    }

    #[test]
    fn networks_are_as_few_as_can_be() {
        let all =
            networks(&["10.1.2.3/8", "10.2.0.0/16", "::ffff:192.0.2.0/120", "fd00::1/8", "192.0.2.0/24"]);
        assert_eq!(all.to_string(), "10.0.0.0/8, 192.0.2.0/24, fd00::/8");
    }

    #[test]
    fn the_narrowest_network_decides_and_deny_is_stronger() {
        let access = Access {
            allow: Some(networks(&["0.0.0.0/0", "10.1.2.0/24"])),
            deny: networks(&["10.1.0.0/16", "0.0.0.0/1"]),
        };
        let all: Vec<String> =
            access.narrowest().iter().map(|(net, allowed)| format!("{net} {allowed}")).collect();
        assert_eq!(all, ["0.0.0.0/1 false", "128.0.0.0/1 true"]);
    }
}
