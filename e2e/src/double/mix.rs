//! What many containers ask for, as such hosts are found in the field: drawn from a seed, the same for everybody.

use serde_json::json;

use super::Wish;

/// How often each kind of wish is drawn, of a hundred.
const SHARES: [(Kind, u64); 11] = [
    (Kind::Plain, 36),
    (Kind::Joined, 14),
    (Kind::Data, 10),
    (Kind::Path, 8),
    (Kind::Rewrite, 8),
    (Kind::Alias, 6),
    (Kind::Https, 4),
    (Kind::WebSocket, 5),
    (Kind::Check, 5),
    (Kind::Balance, 2),
    (Kind::Options, 2),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    Joined,
    Data,
    Path,
    Rewrite,
    Alias,
    Https,
    WebSocket,
    Check,
    Balance,
    Options,
}

/// The wish of the container with this number; the first one is always plain.
pub fn drawn(seed: u64, number: usize) -> Wish {
    let share = scattered(seed ^ scattered(number as u64)) % 100;
    let kind = if number == 0 { Kind::Plain } else { kind_at(share) };
    let name = format!("app-{number}");
    let host = super::host(number);
    let plain = || Wish::of(&host);
    let with = |key: &str, value: &str| plain().label(key, value);
    match kind {
        Kind::Plain => plain(),
        Kind::Joined => {
            Wish::bare(&host).label("interlock.hostname", &name).label("interlock.domain", "example.test")
        }
        Kind::Data => {
            let data = json!({ "hostname": name, "domain": "example.test", "warm": true, "check": "/ping" });
            Wish::bare(&host).env("INTERLOCK_DATA", &data.to_string())
        }
        Kind::Path => with("interlock.path", "/shop").at("/shop/cart"),
        Kind::Rewrite => {
            let wish = with("interlock.context_root", "/api/v1").at("/api/v1/items");
            wish.label("interlock.context_root_rewrite", "true")
        }
        Kind::Alias => with("interlock.alias_domain.0", &format!("www.{host}")).heavy(),
        // Nobody here has a certificate: an answer over HTTP is what such a route gets then.
        Kind::Https => with("interlock.ssl_only", "true"),
        Kind::WebSocket => with("interlock.websocket_endpoint.0", "/ws"),
        Kind::Check => {
            with("interlock.health_check", "/ping").label("interlock.health_check_interval", "5000")
        }
        Kind::Balance => with("interlock.balance_algorithm", "leastconn").heavy(),
        Kind::Options => with("interlock.backend_option.0", "http-server-close").heavy(),
    }
}

fn kind_at(share: u64) -> Kind {
    let mut below = 0;
    let found = SHARES.iter().find(|(_, weight)| {
        below += weight;
        share < below
    });
    found.map_or(Kind::Plain, |(kind, _)| *kind)
}

/// A number that looks like any other (splitmix64).
const fn scattered(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_seed_is_a_mix_and_always_the_same() {
        let drawn_by = |seed| (0..1000).map(|number| drawn(seed, number)).collect::<Vec<_>>();
        assert!(drawn_by(1) == drawn_by(1), "the same wishes");
        assert!(drawn_by(1) != drawn_by(2), "other wishes");
        let keys: BTreeSet<String> = drawn_by(1).into_iter().flat_map(|wish| wish.keys()).collect();
        for key in
            ["interlock.host", "interlock.hostname", "INTERLOCK_DATA", "interlock.path", "interlock.ssl_only"]
        {
            assert!(keys.contains(key), "{key} of {keys:?}");
        }
        assert_eq!(SHARES.iter().map(|(_, share)| share).sum::<u64>(), 100);
    }
}
