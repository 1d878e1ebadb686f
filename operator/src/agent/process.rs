//! Finding the proxy's master process, its arguments, user and configuration in /proc.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use interlock_crds::ProxyKind;
use rustix::process::Signal;

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
    /// Whether it is a thread of the kernel.
    kernel: bool,
    /// Clock ticks since boot.
    pub(super) started: u64,
}

/// The flag of a thread of the kernel.
const KERNEL: u32 = 0x0020_0000;

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
    let flags: u32 = fields.nth(4)?.parse().ok()?;
    let started = fields.nth(12)?.parse().ok()?;
    Some(Stat { state, parent, kernel: flags & KERNEL != 0, started })
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

/// What anybody may read of a process's signals and rest, in a container too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Attention {
    /// The signals that it has a handler for, one bit each.
    caught: u64,
    /// Whether its first thread waits for something to happen.
    pub(super) waits: bool,
    /// How often that thread has begun to wait.
    pub(super) waited: u64,
}

impl Attention {
    pub(super) fn of(pid: u32) -> Option<Self> {
        parse_attention(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
    }

    pub(super) fn catches(self, signal: Signal) -> bool {
        self.caught >> (signal.as_raw() - 1) & 1 == 1
    }
}

fn parse_attention(text: &str) -> Option<Attention> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    Some(Attention {
        caught: u64::from_str_radix(field("SigCgt:")?, 16).ok()?,
        waits: field("State:")?.starts_with('S'),
        waited: field("voluntary_ctxt_switches:")?.parse().ok()?,
    })
}

/// The processes whose parent this is.
pub(super) fn children(parent: u32) -> impl Iterator<Item = u32> {
    pids().into_iter().filter(move |pid| stat(*pid).is_some_and(|stat| stat.parent == parent))
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

    /// Whether it is an nginx that has not yet said what it is.
    fn starts(&self) -> bool {
        let Some(first) = self.argv.first().filter(|first| !first.starts_with("nginx: ")) else {
            return false;
        };
        let named = self.exe.as_deref().unwrap_or(Path::new(first)).file_name();
        let one_shot = |arg: &String| matches!(arg.as_str(), "-t" | "-T" | "-v" | "-V" | "-s" | "-h" | "-?");
        named.is_some_and(|name| name == "nginx") && !self.argv.iter().any(one_shot)
    }
}

/// How long a process that cannot be read is taken for a master that executes itself.
const EXECUTING: Duration = Duration::from_secs(2);
/// How long the first process of a container may take to become the proxy: an entry point runs before it.
const ENTERING: Duration = Duration::from_secs(5);
/// Between two looks at one.
const LOOK: Duration = Duration::from_millis(2);

/// The one master that is meant: of the wanted kind, with the wanted configuration; process 1 before
/// others. Processes of other mount namespaces (containers, seen from their host) are not looked at. HAProxy's master
/// executes itself when it starts and at each reload, and cannot be read meanwhile; nginx's listens before it calls
/// itself a master; and a container that was just started still is at its entry point. All are waited for.
///
/// # Errors
/// Several proxies fit: a text for people.
pub(super) async fn find(kind: Option<ProxyKind>, config: Option<&Path>) -> Result<Option<Master>, String> {
    let deadline = Instant::now() + EXECUTING;
    loop {
        let Seen { mut found, soon } = look(kind, config);
        match found.len() {
            // One may be about to show itself, or this container's entry point to become one.
            0 if (soon && Instant::now() < deadline) || is_young(1) => tokio::time::sleep(LOOK).await,
            0 | 1 => return Ok(found.pop()),
            _ if found[0].pid == 1 => return Ok(Some(found.swap_remove(0))),
            // One may be about to go.
            _ if Instant::now() < deadline => tokio::time::sleep(LOOK).await,
            _ => {
                return Err(format!(
                    "several proxies run here (processes {}): say which configuration file is meant",
                    found.iter().map(|master| master.pid.to_string()).collect::<Vec<_>>().join(", ")
                ));
            }
        }
    }
}

/// Whether a process was started just now.
fn is_young(pid: u32) -> bool {
    age(pid).is_some_and(|age| age < ENTERING)
}

/// Whether a process that could not be read lives: it executes itself, or has done so by now.
fn executes(pid: u32) -> bool {
    stat(pid).is_some_and(|stat| stat.state != 'Z' && !stat.kernel)
}

/// What one look finds.
struct Seen {
    /// Masters that fit, by process id.
    found: Vec<Master>,
    /// One that fits is about to be one.
    soon: bool,
}

fn look(kind: Option<ProxyKind>, config: Option<&Path>) -> Seen {
    let own_mounts = fs::read_link("/proc/self/ns/mnt").ok();
    let mut seen = Seen { found: Vec::new(), soon: false };
    for pid in pids() {
        let Some(process) = read(pid) else {
            seen.soon |= executes(pid);
            continue;
        };
        let starts = process.starts();
        let its_kind = if starts { Some(ProxyKind::Nginx) } else { process.kind() };
        let Some(its_kind) = its_kind.filter(|its| kind.is_none_or(|wanted| wanted == *its)) else {
            continue;
        };
        let its_mounts = fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
        if its_mounts.is_some() && its_mounts != own_mounts {
            continue;
        }
        let parent = process.stat.parent;
        let Some(master) = master(pid, its_kind, process) else { continue };
        let fits = config.is_none_or(|wanted| master.config().as_deref().is_none_or(|its| same(its, wanted)));
        match Parent::of(parent, its_kind) {
            Parent::Stranger if fits && !starts => seen.found.push(master),
            Parent::Stranger | Parent::Unreadable => seen.soon |= fits,
            Parent::Master => {}
        }
    }
    seen
}

/// Who started a proxy's process.
enum Parent {
    /// Its master: HAProxy's workers look like their master for ever, nginx's until they have set their title.
    Master,
    /// Somebody who lives and cannot be read: a master that executes itself right now.
    Unreadable,
    /// Anybody else, so that it is a master itself.
    Stranger,
}

impl Parent {
    fn of(pid: u32, kind: ProxyKind) -> Self {
        match read(pid) {
            Some(parent) if parent.kind() == Some(kind) => Self::Master,
            None if stat(pid).is_some_and(|stat| stat.state != 'Z') => Self::Unreadable,
            _ => Self::Stranger,
        }
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
        children(self.pid).filter(|pid| accepts(*pid)).collect()
    }
}

/// Whether an nginx worker accepts connections; one that is shutting down or gone does not.
pub(super) fn accepts(pid: u32) -> bool {
    argv(pid).first().is_some_and(|title| {
        title.starts_with("nginx: worker process") && !title.contains("is shutting down")
    })
}

/// Whether an nginx worker finishes what it has and accepts nothing new.
pub(super) fn retires(pid: u32) -> bool {
    argv(pid)
        .first()
        .is_some_and(|title| title.starts_with("nginx: worker process") && title.contains("is shutting down"))
}

/// Sends a signal; false when the process is gone or not ours to signal.
pub(super) fn signal(pid: u32, signal: Signal) -> bool {
    i32::try_from(pid)
        .ok()
        .and_then(rustix::process::Pid::from_raw)
        .is_some_and(|pid| rustix::process::kill_process(pid, signal).is_ok())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::process::CommandExt as _;
    use std::process::{Child, Command, Stdio};

    use rustix::process::Pid;

    use super::*;

    #[test]
    fn a_command_name_with_a_parenthesis_does_not_shift_the_fields() {
        let text = "42 (a) b) S 7 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 12345 1 1";
        let stat = Stat { state: 'S', parent: 7, kernel: false, started: 12345 };
        assert_eq!(parse_stat(text), Some(stat));
        let thread = text.replace("4194560", "2129984");
        assert_eq!(parse_stat(&thread), Some(Stat { kernel: true, ..stat }));
    }

    /// A copy of a program, and a shell without a name that says what to do: nothing of it can be read but that it lives.
    struct Stand {
        dir: tempfile::TempDir,
        shell: Child,
    }

    impl Stand {
        fn of(program: &str, name: &str) -> Self {
            let dir = tempfile::tempdir().unwrap();
            fs::copy(program, dir.path().join(name)).unwrap();
            let mut shell = Command::new("/bin/sh");
            shell.arg0("").current_dir(dir.path()).process_group(0).stdin(Stdio::piped());
            Self { shell: shell.spawn().unwrap(), dir }
        }

        /// A shell takes the arguments of a HAProxy: no other test's process is the one with this configuration.
        fn haproxy() -> (Self, PathBuf) {
            let stand = Self::of("/bin/sh", "haproxy");
            let config = stand.dir.path().join("haproxy.cfg");
            fs::write(&config, "sleep 60; :\n").unwrap();
            (stand, config)
        }

        fn say(&mut self, line: &str) {
            writeln!(self.shell.stdin.as_mut().unwrap(), "{line}").unwrap();
        }
    }

    impl Drop for Stand {
        fn drop(&mut self) {
            let group = Pid::from_raw(i32::try_from(self.shell.id()).unwrap()).unwrap();
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
            let _ = self.shell.wait();
        }
    }

    async fn until(what: &str, holds: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !holds() {
            assert!(Instant::now() < deadline, "never: {what}");
            tokio::time::sleep(LOOK).await;
        }
    }

    #[tokio::test]
    async fn a_master_that_executes_itself_is_waited_for() {
        let (mut stand, config) = Stand::haproxy();
        let pid = stand.shell.id();
        stand.say("./haproxy -f haproxy.cfg &");
        until("it has a worker", || children(pid).any(|pid| argv(pid).len() == 3)).await;
        let look = async { find(Some(ProxyKind::Haproxy), Some(&config)).await };
        let (found, ()) = tokio::join!(look, async { stand.say("exec ./haproxy -f haproxy.cfg") });
        assert_eq!(found.unwrap().map(|master| master.pid), Some(pid));
    }

    #[tokio::test]
    async fn a_master_that_executes_itself_and_has_no_worker_yet_is_waited_for() {
        let (mut stand, config) = Stand::haproxy();
        let pid = stand.shell.id();
        until("it cannot be read", || argv(pid).is_empty()).await;
        let look = async { find(Some(ProxyKind::Haproxy), Some(&config)).await };
        let (found, ()) = tokio::join!(look, async { stand.say("exec ./haproxy -f haproxy.cfg") });
        assert_eq!(found.unwrap().map(|master| master.pid), Some(pid));
    }

    #[test]
    fn what_has_just_been_started_is_young_and_what_runs_for_long_is_not() {
        let (stand, _) = Stand::haproxy();
        assert!(is_young(stand.shell.id()));
        assert!(!is_young(1), "the first process of this machine");
    }

    #[tokio::test]
    async fn an_nginx_that_starts_is_waited_for() {
        let mut stand = Stand::of("/bin/bash", "nginx");
        let pid = stand.shell.id();
        stand.say("exec ./nginx");
        until("it starts", || argv(pid) == ["./nginx"]).await;
        let config = stand.dir.path().join("nginx.conf");
        let look = async { find(Some(ProxyKind::Nginx), Some(&config)).await };
        let title = "exec -a 'nginx: master process ./nginx -c nginx.conf' sleep 60";
        let (found, ()) = tokio::join!(look, async { stand.say(title) });
        assert_eq!(found.unwrap().map(|master| master.pid), Some(pid));
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
