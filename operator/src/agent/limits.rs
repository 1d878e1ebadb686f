//! Limits of the place where the proxy runs: memory of its control group, open files, processors.

use std::fs;
use std::net::{Ipv6Addr, UdpSocket};
use std::path::Path;

use interlock_core::protocol::Limits;
use rustix::io::Errno;

/// More is no limit: cgroup v1 says the largest multiple of a page.
const UNLIMITED: u64 = 1 << 60;

/// What bounds a process; none once it is gone.
pub(super) fn of(pid: u32) -> Option<Limits> {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    Some(Limits {
        memory: memory(Path::new("/sys/fs/cgroup"), &groups),
        files: hard_files(&limits)?,
        processors: processors(&stat),
        ipv4_only: !has_ipv6(),
    })
}

/// Whether there are IPv6 sockets, as the kernel of an agent and its proxy or their container's profile has it.
/// Without any address of that family there are.
pub(super) fn has_ipv6() -> bool {
    let bound = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0));
    !bound.is_err_and(|err| Errno::from_io_error(&err) == Some(Errno::AFNOSUPPORT))
}

/// The hard limit: HAProxy raises its soft one to it, and nginx is told to.
fn hard_files(limits: &str) -> Option<u64> {
    let row = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    let hard = row.split_whitespace().nth(1)?;
    if hard == "unlimited" { Some(UNLIMITED) } else { hard.parse().ok() }
}

/// The narrowest limit on the way from the process's group to the top, of cgroup v2 or v1. Inside a container the
/// top of the tree is its own group, whatever path the kernel names.
fn memory(root: &Path, groups: &str) -> Option<u64> {
    let mut narrowest: Option<u64> = None;
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let (top, file) = match (number, controllers) {
            ("0", "") => (root.to_owned(), "memory.max"),
            (_, list) if list.split(',').any(|one| one == "memory") => {
                (root.join("memory"), "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let own = top.join(path.trim_start_matches('/'));
        for dir in own.ancestors().take_while(|dir| dir.starts_with(&top)) {
            let limit = fs::read_to_string(dir.join(file)).ok().and_then(|text| text.trim().parse().ok());
            narrowest = narrowest.into_iter().chain(limit.filter(|limit| *limit < UNLIMITED)).min();
        }
    }
    narrowest
}

fn processors(stat: &str) -> u16 {
    let rows = stat.lines().filter(|line| {
        line.strip_prefix("cpu").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    });
    u16::try_from(rows.count()).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_narrowest_group_counts_of_both_versions() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let put = |path: &str, text: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put("memory/memory.limit_in_bytes", "9223372036854771712\n");
        put("memory/docker/a/memory.limit_in_bytes", "134217728\n");
        put("memory.max", "max\n");
        put("slice/memory.max", "268435456\n");
        put("slice/b/memory.max", "max\n");
        assert_eq!(memory(root, "9:cpu,memory:/docker/a\n1:name=systemd:/docker/a\n"), Some(134_217_728));
        assert_eq!(memory(root, "9:memory:/not/seen/from/here\n"), None);
        assert_eq!(memory(root, "0::/slice/b\n"), Some(268_435_456));
        assert_eq!(memory(root, "0::/\n"), None);
        assert_eq!(memory(root, ""), None);
    }

    #[test]
    fn the_hard_limit_of_files_is_read() {
        let row =
            |hard: &str| format!("Limit  Soft  Hard\nMax open files            1024   {hard}     files\n");
        assert_eq!(hard_files(&row("4096")), Some(4096));
        assert_eq!(hard_files(&row("unlimited")), Some(UNLIMITED));
        assert_eq!(hard_files("Max processes 1 1\n"), None);
        assert!(of(std::process::id()).is_some_and(|limits| limits.files > 0 && limits.processors > 0));
    }
}
