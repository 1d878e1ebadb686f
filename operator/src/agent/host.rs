//! What the agent sees of the host or container it runs in: its name and addresses, out of /proc.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The host name that the kernel reports; in a container Docker's default is the short id.
pub(super) fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The addresses of all interfaces, loopback and link-local left out.
pub(super) fn addresses() -> BTreeSet<IpAddr> {
    let v4 = std::fs::read_to_string("/proc/net/fib_trie").unwrap_or_default();
    let v6 = std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    let mut all = local_v4(&v4);
    all.extend(local_v6(&v6));
    all
}

/// In `fib_trie`, `/32 host LOCAL` follows the line that names an address of this host.
fn local_v4(table: &str) -> BTreeSet<IpAddr> {
    let mut found = BTreeSet::new();
    let mut last = None;
    for line in table.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address.parse::<Ipv4Addr>().ok();
        } else if line.starts_with("/32 host LOCAL")
            && let Some(address) = last.filter(|address| !address.is_loopback())
        {
            found.insert(IpAddr::V4(address));
        }
    }
    found
}

fn local_v6(table: &str) -> BTreeSet<IpAddr> {
    table
        .lines()
        .filter_map(|line| u128::from_str_radix(line.split_whitespace().next()?, 16).ok())
        .map(Ipv6Addr::from)
        .filter(|address| !address.is_loopback() && !address.is_unicast_link_local())
        .map(IpAddr::V6)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_addresses_are_told_from_routes() {
        let table = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     \
                     |-- 127.0.0.1\n        /32 host LOCAL\n     |-- 172.17.0.0\n        /16 link UNICAST\n     \
                     |-- 172.17.0.2\n        /32 host LOCAL\n     |-- 172.17.255.255\n        /32 link BROADCAST\n";
        assert_eq!(local_v4(table), BTreeSet::from(["172.17.0.2".parse().unwrap()]));
    }

    #[test]
    fn loopback_and_link_local_are_left_out() {
        let table = "00000000000000000000000000000001 01 80 10 80 lo\n\
                     fe800000000000000042acfffe110002 02 40 20 80 eth0\n\
                     fd00000000000000000000000000beef 02 40 00 80 eth0\n";
        assert_eq!(local_v6(table), BTreeSet::from(["fd00::beef".parse().unwrap()]));
    }
}
