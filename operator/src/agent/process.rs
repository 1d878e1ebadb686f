//! Finding the proxy's master process, its arguments, user and configuration in /proc.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use interlock_crds::ProxyKind;

/// A running proxy's master process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Master {
    /// Which proxy.
    pub(super) kind: ProxyKind,
    /// Its process id.
    pub(super) pid: u32,
    /// When it was started, in clock ticks since boot: with the pid its identity.
    pub(super) started: u64,
    /// Its binary.
    pub(super) exe: PathBuf,
    /// Its arguments.
    pub(super) argv: Vec<String>,
    /// Its working folder.
    pub(super) cwd: PathBuf,
    /// Its effective user.
    pub(super) uid: u32,
    /// Its effective group.
    pub(super) gid: u32,
}

/// What is read of one process.
struct Process {
    argv: Vec<String>,
    exe: Option<PathBuf>,
    stat: Stat,
}

/// The fields of `/proc/PID/stat` that are needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stat {
    /// One letter; `Z`: it has ended and waits to be reaped.
    pub(super) state: char,
    /// The parent's process id.
    pub(super) parent: u32,
    /// Clock ticks since boot.
    pub(super) started: u64,
}

/// All process ids of this pid namespace.
pub(super) fn pids() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let mut pids: Vec<u32> =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    pids
}

/// State, parent and start time of a process; none once it is gone.
pub(super) fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The command's name stands in parentheses and may itself hold any character: fields count from the last `)`.
fn parse_stat(text: &str) -> Option<Stat> {
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    let started = fields.nth(17)?.parse().ok()?;
    Some(Stat { state, parent, started })
}

/// How long ago a process was started.
pub(super) fn age(pid: u32) -> Option<Duration> {
    // The kernel reports times to user space in hundredths of a second on every architecture.
    let started = Duration::from_millis(stat(pid)?.started.checked_mul(10)?);
    let uptime: f64 = fs::read_to_string("/proc/uptime").ok()?.split_whitespace().next()?.parse().ok()?;
    Duration::try_from_secs_f64(uptime).ok()?.checked_sub(started)
}

/// A process's arguments; empty for a kernel thread, a zombie, or one that is gone.
pub(super) fn argv(pid: u32) -> Vec<String> {
    let raw = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut parts: Vec<String> =
        raw.split(|byte| *byte == 0).map(|part| String::from_utf8_lossy(part).into_owned()).collect();
    // nginx overwrites its title in place and leaves a tail of zeros.
    while parts.last().is_some_and(String::is_empty) {
        parts.pop();
    }
    parts
}

/// One variable of the environment that a process was last executed with.
pub(super) fn environment(pid: u32, name: &str) -> Option<String> {
    let raw = fs::read(format!("/proc/{pid}/environ")).ok()?;
    raw.split(|byte| *byte == 0).find_map(|entry| {
        let entry = String::from_utf8_lossy(entry);
        entry.strip_prefix(name)?.strip_prefix('=').map(str::to_owned)
    })
}

fn read(pid: u32) -> Option<Process> {
    let argv = argv(pid);
    if argv.is_empty() {
        return None;
    }
    let exe = fs::read_link(format!("/proc/{pid}/exe")).ok().map(undeleted);
    Some(Process { argv, exe, stat: stat(pid)? })
}

/// An upgraded binary's link ends in ` (deleted)`.
fn undeleted(path: PathBuf) -> PathBuf {
    let bytes = path.into_os_string().into_vec();
    let kept = bytes.strip_suffix(b" (deleted)").unwrap_or(&bytes).to_vec();
    PathBuf::from(OsString::from_vec(kept))
}

impl Process {
    fn kind(&self) -> Option<ProxyKind> {
        let first = self.argv.first()?;
        if first.starts_with("nginx: master process") {
            return Some(ProxyKind::Nginx);
        }
        let named = self.exe.as_deref().unwrap_or(Path::new(first)).file_name()?.to_str()?;
        let one_shot = self.argv.iter().any(|arg| matches!(arg.as_str(), "-c" | "-v" | "-vv"));
        (named == "haproxy" && !one_shot).then_some(ProxyKind::Haproxy)
    }
}

/// The one master that is meant: of the wanted kind, with the wanted configuration; process 1 before
/// others. Processes of other mount namespaces (containers, seen from their host) are not looked at.
///
/// # Errors
/// Several proxies fit: a text for people.
pub(super) fn find(kind: Option<ProxyKind>, config: Option<&Path>) -> Result<Option<Master>, String> {
    let own_mounts = fs::read_link("/proc/self/ns/mnt").ok();
    let mut found: Vec<Master> = Vec::new();
    for pid in pids() {
        let Some(process) = read(pid) else { continue };
        let Some(its_kind) = process.kind().filter(|its| kind.is_none_or(|wanted| wanted == *its)) else {
            continue;
        };
        let its_mounts = fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
        if its_mounts.is_some() && its_mounts != own_mounts {
            continue;
        }
        // HAProxy's workers look like their master for ever, nginx's until they have set their title.
        if read(process.stat.parent).is_some_and(|parent| parent.kind() == Some(its_kind)) {
            continue;
        }
        if let Some(master) = master(pid, its_kind, process)
            && config.is_none_or(|wanted| master.config().as_deref().is_none_or(|its| same(its, wanted)))
        {
            found.push(master);
        }
    }
    match found.len() {
        0 | 1 => Ok(found.pop()),
        _ if found[0].pid == 1 => Ok(Some(found.swap_remove(0))),
        _ => Err(format!(
            "several proxies run here (processes {}): say which configuration file is meant",
            found.iter().map(|master| master.pid.to_string()).collect::<Vec<_>>().join(", ")
        )),
    }
}

/// The master process with this id, as far as it is one.
pub(super) fn at(pid: u32, kind: ProxyKind) -> Option<Master> {
    let process = read(pid)?;
    if process.stat.state == 'Z' || process.kind() != Some(kind) {
        return None;
    }
    master(pid, kind, process)
}

fn master(pid: u32, kind: ProxyKind, process: Process) -> Option<Master> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let id = |name: &str| -> Option<u32> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().nth(1)?.parse().ok()
    };
    let cwd = fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_else(|_| PathBuf::from("/"));
    let argv = match kind {
        ProxyKind::Haproxy => process.argv,
        ProxyKind::Nginx => title_argv(&process.argv.join(" ")),
    };
    let exe = process.exe.unwrap_or_else(|| PathBuf::from(argv.first().cloned().unwrap_or_default()));
    Some(Master {
        kind,
        pid,
        started: process.stat.started,
        exe,
        argv,
        cwd,
        uid: id("Uid:")?,
        gid: id("Gid:")?,
    })
}

fn same(one: &Path, other: &Path) -> bool {
    one == other || matches!((one.canonicalize(), other.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// nginx shows its arguments joined by blanks behind its title; only `-g` takes a value with blanks.
fn title_argv(title: &str) -> Vec<String> {
    let rest = title.strip_prefix("nginx: master process ").unwrap_or(title);
    let mut argv: Vec<String> = Vec::new();
    let mut global = false;
    for word in rest.split(' ') {
        let option = word.len() == 2 && word.starts_with('-') && "cpgeqtTvVs".contains(&word[1..]);
        if global && !option {
            if let Some(last) = argv.last_mut().filter(|last| *last != "-g") {
                last.push(' ');
                last.push_str(word);
            } else {
                argv.push(word.to_owned());
            }
            continue;
        }
        global = word == "-g";
        argv.push(word.to_owned());
    }
    argv
}

/// The values that an option has in a list of arguments, as `-f X` or `-fX`.
pub(super) fn values<'a>(argv: &'a [String], option: &str) -> Vec<&'a str> {
    let mut values = Vec::new();
    let mut args = argv.iter().skip(1);
    while let Some(arg) = args.next() {
        if arg == option {
            values.extend(args.next().map(String::as_str));
        } else if let Some(value) = arg.strip_prefix(option).filter(|value| !value.is_empty()) {
            values.push(value);
        }
    }
    values
}

impl Master {
    /// The configuration file that its arguments name; none for an nginx with its built-in path.
    pub(super) fn config(&self) -> Option<PathBuf> {
        let option = match self.kind {
            ProxyKind::Haproxy => "-f",
            ProxyKind::Nginx => "-c",
        };
        values(&self.argv, option).last().map(|path| self.cwd.join(path))
    }

    /// Whether it is still the same process.
    pub(super) fn alive(&self) -> bool {
        stat(self.pid).is_some_and(|stat| stat.started == self.started && stat.state != 'Z')
    }

    /// Its workers that still accept connections, as nginx's process titles tell.
    pub(super) fn accepting_workers(&self) -> Vec<u32> {
        let child = |pid: &u32| stat(*pid).is_some_and(|stat| stat.parent == self.pid);
        pids().into_iter().filter(child).filter(|pid| accepts(*pid)).collect()
    }
}

/// Whether an nginx worker accepts connections; one that is shutting down or gone does not.
pub(super) fn accepts(pid: u32) -> bool {
    argv(pid).first().is_some_and(|title| {
        title.starts_with("nginx: worker process") && !title.contains("is shutting down")
    })
}

/// Sends a signal; false when the process is gone or not ours to signal.
pub(super) fn signal(pid: u32, signal: rustix::process::Signal) -> bool {
    i32::try_from(pid)
        .ok()
        .and_then(rustix::process::Pid::from_raw)
        .is_some_and(|pid| rustix::process::kill_process(pid, signal).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_name_with_a_parenthesis_does_not_shift_the_fields() {
        let text = "42 (a) b) S 7 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 12345 1 1";
        assert_eq!(parse_stat(text), Some(Stat { state: 'S', parent: 7, started: 12345 }));
    }

    #[test]
    fn nginx_titles_are_taken_apart() {
        let argv = title_argv("nginx: master process nginx -c /a/n.conf -g daemon off; user x; -p /srv");
        assert_eq!(argv, ["nginx", "-c", "/a/n.conf", "-g", "daemon off; user x;", "-p", "/srv"]);
    }

    #[test]
    fn options_are_read_with_and_without_a_blank() {
        let argv: Vec<String> = ["haproxy", "-W", "-fa.cfg", "-f", "b.cfg"].map(str::to_owned).to_vec();
        assert_eq!(values(&argv, "-f"), ["a.cfg", "b.cfg"]);
    }
}
