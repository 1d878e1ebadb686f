//! Ports that a new configuration listens on and an old one does not: whether they are free, and who has them.
//!
//! Asked before a reload, because HAProxy, when it cannot bind, pauses the old worker's listeners while it
//! tries again for a second or more, and nginx tries for two and a half.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use rustix::net::{AddressFamily, SocketType, bind, socket, sockopt};

use super::process;

/// The first port that the new configuration listens on, the old one does not, and another process has. What the
/// proxy itself (`master` or a child of it) has is no other's: a stock configuration may listen in a file that
/// it includes.
pub(super) fn busy(new: &str, old: &str, master: Option<u32>) -> Option<String> {
    let had: BTreeSet<u16> = listeners(old).into_iter().map(|addr| addr.port()).collect();
    let mut wanted = listeners(new);
    wanted.retain(|addr| !had.contains(&addr.port()));
    let taken = wanted.into_iter().filter(|addr| {
        try_bind(*addr)
            .is_err_and(|err| err.raw_os_error() == Some(rustix::io::Errno::ADDRINUSE.raw_os_error()))
    });
    taken.map(|addr| (addr.port(), holder(addr.port()))).find_map(|(port, holder)| match holder {
        Some((pid, _)) if master.is_some_and(|master| is_or_descends(pid, master)) => None,
        Some((pid, name)) => Some(format!("port {port} is taken by `{name} (process {pid})`")),
        None => Some(format!("port {port} is taken by another process")),
    })
}

fn is_or_descends(pid: u32, master: u32) -> bool {
    pid == master || process::stat(pid).is_some_and(|stat| stat.parent == master)
}

/// The addresses of `bind` (HAProxy) and `listen` (nginx) lines; what cannot be read is left out.
fn listeners(text: &str) -> BTreeSet<SocketAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let keyword = words.next()?;
            let value = words.next()?.trim_end_matches(';');
            matches!(keyword, "bind" | "listen").then(|| address(value)).flatten()
        })
        .collect()
}

fn address(text: &str) -> Option<SocketAddr> {
    let text = text.strip_prefix("ipv4@").or_else(|| text.strip_prefix("ipv6@")).unwrap_or(text);
    let (ip, port) = match text.rsplit_once(':') {
        Some((ip, port)) => (ip, port),
        None => ("*", text),
    };
    let ip = match ip.trim_start_matches('[').trim_end_matches(']') {
        "" | "*" => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        "::" => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        ip => ip.parse().ok()?,
    };
    Some(SocketAddr::new(ip, port.parse().ok()?))
}

fn try_bind(addr: SocketAddr) -> io::Result<()> {
    let family = if addr.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let probe = socket(family, SocketType::STREAM, None)?;
    sockopt::set_socket_reuseaddr(&probe, true)?;
    if addr.is_ipv6() {
        sockopt::set_ipv6_v6only(&probe, true)?;
    }
    Ok(bind(&probe, &addr)?)
}

/// The process that listens on a port, and its command.
fn holder(port: u16) -> Option<(u32, String)> {
    let inodes: BTreeSet<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .flat_map(|table| listening_inodes(&fs::read_to_string(table).unwrap_or_default(), port))
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    process::pids().into_iter().find_map(|pid| {
        let open = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
        let has = open.flatten().any(|fd| {
            fs::read_link(fd.path()).is_ok_and(|link| inodes.contains(link.to_string_lossy().as_ref()))
        });
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        has.then(|| (pid, name.trim().to_owned()))
    })
}

/// In `/proc/net/tcp` the second field is the local address in hex, the fourth the state (`0A`: listening),
/// the tenth the inode.
fn listening_inodes(table: &str, port: u16) -> Vec<String> {
    let wanted = format!(":{port:04X}");
    table
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let fits = fields.get(1)?.ends_with(&wanted) && *fields.get(3)? == "0A";
            fits.then(|| fields.get(9).map(|inode| (*inode).to_owned())).flatten()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listen_lines_of_both_proxies_are_read() {
        let text = "  bind :::80 v4v6\n  bind *:81\n bind 127.0.0.1:82 ssl crt x\n listen 83;\n listen [::]:84 ssl;\n \
                    bind unix@/x\n listen 127.0.0.1:85 default_server;\n# bind :86\n";
        let ports: Vec<u16> = listeners(text).into_iter().map(|addr| addr.port()).collect();
        assert_eq!(ports.into_iter().collect::<BTreeSet<_>>(), BTreeSet::from([80, 81, 82, 83, 84, 85]));
    }

    #[test]
    fn a_taken_port_is_found_with_its_holder_unless_it_was_ours() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = taken.local_addr().unwrap();
        let text = format!("bind {addr}\n");
        let own = std::process::id();
        let said = busy(&text, "", None).unwrap();
        assert!(said.contains(&own.to_string()), "{said}");
        assert_eq!(busy(&text, &text, None), None);
        assert_eq!(busy(&text, "", Some(own)), None, "the proxy's own listener is no obstacle to it");
        drop(taken);
        assert_eq!(busy(&text, "", None), None);
    }
}
