//! Asking the proxy's own binary: its version, and what it thinks of a configuration.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use interlock_core::bundle::Bundle;
use interlock_core::plan::Abilities;
use interlock_core::protocol::Refusal;
use interlock_crds::ProxyKind;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

use super::files::{Generation, Ids};
use super::process::{Master, values};

/// What is read of a checker's words, in bytes.
const READ: u64 = 256 * 1024;
/// What is passed on of them.
const SHOWN: usize = 4 * 1024;

/// What a proxy's binary says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Version {
    /// What it can do.
    pub(super) abilities: Abilities,
    /// nginx: the configuration file that it uses when none is named.
    pub(super) built_in_config: Option<PathBuf>,
}

struct Said {
    success: bool,
    text: String,
}

/// Runs a command with a deadline and no input; both outputs, bounded.
async fn run(mut command: Command, within: Duration) -> Result<Said, String> {
    let name = command.as_std().get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|err| format!("`{name}` cannot be run: {err}"))?;
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let talk = async {
        let stdout = child.stdout.take();
        let stderr = child.stderr.take();
        let read_out = async {
            if let Some(pipe) = stdout {
                let _ = pipe.take(READ).read_to_end(&mut out).await;
            }
        };
        let read_err = async {
            if let Some(pipe) = stderr {
                let _ = pipe.take(READ).read_to_end(&mut err).await;
            }
        };
        tokio::join!(read_out, read_err);
        child.wait().await
    };
    let status = tokio::time::timeout(within, talk)
        .await
        .map_err(|_| format!("`{name}` took longer than {} s", within.as_secs()))?
        .map_err(|err| format!("`{name}`: {err}"))?;
    err.extend(out);
    Ok(Said { success: status.success(), text: String::from_utf8_lossy(&err).into_owned() })
}

/// Asks a binary for its version.
///
/// # Errors
/// It cannot be run, says something unknown, or is older than what is supported.
pub(super) async fn version(exe: &Path, kind: ProxyKind, within: Duration) -> Result<Version, String> {
    let mut command = Command::new(exe);
    command.arg(match kind {
        ProxyKind::Haproxy => "-vv",
        ProxyKind::Nginx => "-V",
    });
    parse_version(&run(command, within).await?.text, kind).map_err(|why| format!("{}: {why}", exe.display()))
}

fn parse_version(text: &str, kind: ProxyKind) -> Result<Version, String> {
    let marks: &[&str] = match kind {
        ProxyKind::Haproxy => &["HAProxy version ", "HA-Proxy version "],
        ProxyKind::Nginx => &["nginx version: nginx/", "nginx version: "],
    };
    let found = marks.iter().find_map(|mark| text.split_once(mark)).map(|(_, rest)| rest);
    let number = found.map(|rest| {
        let rest =
            rest.rsplit_once('/').filter(|(name, _)| !name.contains([' ', '\n'])).map_or(rest, |(_, v)| v);
        rest.split(|c: char| !c.is_ascii_digit()).take(2).map(str::parse::<u16>).collect::<Vec<_>>()
    });
    let Some([Ok(major), Ok(minor)]) = number.as_deref() else {
        return Err(format!(
            "its version is not understood: {}",
            bounded(text.lines().next().unwrap_or(""), 120)
        ));
    };
    let abilities = Abilities { proxy: kind, major: *major, minor: *minor };
    let oldest = Abilities::oldest(kind);
    if !abilities.at_least(oldest.major, oldest.minor) {
        return Err(format!("{abilities} is older than {oldest}, the oldest that Interlock works with"));
    }
    let built_in_config =
        text.split_whitespace().find_map(|word| word.strip_prefix("--conf-path=")).map(PathBuf::from);
    Ok(Version { abilities, built_in_config })
}

/// Arguments of a running proxy that say how it runs, not what: with the number of values that follow.
/// After a reload HAProxy's master adds `-sf PID…` and `-x SOCKET` itself.
const PROCESS_OPTIONS: [(&str, usize); 10] = [
    ("-W", 0),
    ("-Ws", 0),
    ("-D", 0),
    ("-db", 0),
    ("-d", 0),
    ("-V", 0),
    ("-q", 0),
    ("-p", 1),
    ("-S", 1),
    ("-x", 1),
];

fn haproxy_arguments(argv: &[String], file: &str) -> Vec<String> {
    let mut kept = vec!["-c".to_owned(), "-f".to_owned(), file.to_owned()];
    let mut args = argv.iter().skip(1).peekable();
    while let Some(arg) = args.next() {
        if matches!(arg.as_str(), "-sf" | "-st") {
            while args.next_if(|next| next.bytes().all(|b| b.is_ascii_digit())).is_some() {}
        } else if let Some((_, count)) = PROCESS_OPTIONS.iter().find(|(option, _)| option == arg) {
            for _ in 0..*count {
                args.next();
            }
        } else if arg == "-f" {
            args.next();
        } else if !arg.starts_with("-f") {
            kept.push(arg.clone());
        }
    }
    kept
}

fn nginx_arguments(argv: &[String], file: &str) -> Vec<String> {
    let mut kept = vec!["-t".to_owned(), "-q".to_owned(), "-c".to_owned(), file.to_owned()];
    for option in ["-p", "-g", "-e"] {
        if let Some(value) = values(argv, option).last() {
            kept.extend([option.to_owned(), (*value).to_owned()]);
        }
    }
    kept
}

/// Whom to run the checker as, and with what.
pub(super) struct Checked<'a> {
    /// The proxy's binary.
    pub(super) exe: &'a Path,
    /// The running proxy's arguments, or those that it will be started with.
    pub(super) argv: &'a [String],
    /// Its working folder.
    pub(super) cwd: &'a Path,
    /// Its user, where it is not the agent's own.
    pub(super) ids: Option<Ids>,
}

impl<'a> Checked<'a> {
    /// As the running proxy.
    pub(super) fn like(master: &'a Master, ids: Option<Ids>) -> Self {
        Self { exe: &master.exe, argv: &master.argv, cwd: &master.cwd, ids }
    }

    /// The checker's verdict on a staged generation; none: it passed.
    ///
    /// # Errors
    /// The checker could not be run or did not end in time.
    pub(super) async fn check(
        &self,
        bundle: &Bundle,
        generation: &Generation,
        within: Duration,
    ) -> Result<Option<Refusal>, String> {
        let main = generation.dir.join(super::main_file(bundle.proxy));
        let file = main.to_string_lossy();
        let mut command = Command::new(self.exe);
        command.current_dir(self.cwd);
        match bundle.proxy {
            ProxyKind::Haproxy => {
                command.args(haproxy_arguments(self.argv, &file));
                if let Some((uid, gid)) = self.ids {
                    command.uid(uid).gid(gid);
                }
            }
            // nginx opens its logs when it tests, which its master does as its own user too.
            ProxyKind::Nginx => {
                command.args(nginx_arguments(self.argv, &file));
            }
        }
        let said = run(command, within).await?;
        Ok((!said.success).then(|| refusal(&said.text, bundle, generation)))
    }
}

/// A checker's no, with the intents of the fragments that it points to.
fn refusal(text: &str, bundle: &Bundle, generation: &Generation) -> Refusal {
    let dir = format!("{}/", generation.dir.display());
    let mut culprits = BTreeSet::new();
    let blaming = text.lines().filter(|line| !line.starts_with("[WARNING]") && !line.starts_with("[NOTICE]"));
    for line in blaming.clone() {
        for (file, number) in places(line, &dir) {
            if let Some(fragment) = bundle.fragment_at(file, number, generation.paths()) {
                culprits.extend(fragment.intents.iter().cloned());
            }
        }
        // Verdicts on a whole backend or a certificate come without a line: "Proxy 'b': …", "backend 'b' …",
        // "… loaded '/…/x.pem'".
        for name in line.split('\'').skip(1).step_by(2) {
            let (first, last) = (name.split('/').next(), name.rsplit('/').next());
            let named = bundle.fragments.iter().filter(|fragment| {
                let backend = fragment.servers.as_ref().map(|servers| servers.backend.as_str());
                let file = fragment.certificate.as_ref().map(|certificate| certificate.file.as_str());
                backend.is_some() && backend == first || file.is_some() && file == last
            });
            culprits.extend(named.flat_map(|fragment| fragment.intents.iter().cloned()));
        }
    }
    let mut words: Vec<&str> = blaming.collect();
    words.dedup();
    Refusal {
        output: bounded(&words.join("\n").replace(&dir, ""), SHOWN),
        culprits: culprits.into_iter().collect(),
    }
}

/// Places `DIR/FILE:LINE`, or `line LINE in file 'DIR/FILE'`, in a line of a checker's words.
fn places<'a>(line: &'a str, dir: &'a str) -> impl Iterator<Item = (&'a str, usize)> {
    line.match_indices(dir).filter_map(move |(at, _)| {
        let (before, rest) = (&line[..at], &line[at + dir.len()..]);
        let (file, rest) = rest.split_once([':', '\''])?;
        let number = match before.strip_suffix(" in file '") {
            Some(before) => before.rsplit(' ').next()?,
            None => rest.split(|c: char| !c.is_ascii_digit()).next()?,
        };
        Some((file, number.parse().ok()?))
    })
}

/// At most so many bytes, cut between characters, control characters but line feeds left out.
pub(super) fn bounded(text: &str, limit: usize) -> String {
    let mut shown = String::new();
    for c in text.chars().filter(|c| *c == '\n' || !c.is_control()) {
        if shown.len() + c.len_utf8() > limit {
            break;
        }
        shown.push(c);
    }
    shown.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version_of(text: &str, kind: ProxyKind) -> Result<String, String> {
        parse_version(text, kind).map(|version| version.abilities.to_string())
    }

    #[test]
    fn versions_of_both_proxies_are_read() {
        let said = "HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/\nBuild options :\n";
        assert_eq!(version_of(said, ProxyKind::Haproxy).unwrap(), "haproxy-2.6");
        assert_eq!(version_of("HAProxy version 3.5-dev5-1\n", ProxyKind::Haproxy).unwrap(), "haproxy-3.5");
        let said =
            "nginx version: nginx/1.22.1\nconfigure arguments: --conf-path=/etc/nginx/nginx.conf --x\n";
        assert_eq!(version_of(said, ProxyKind::Nginx).unwrap(), "nginx-1.22");
        let built_in = parse_version(said, ProxyKind::Nginx).unwrap().built_in_config;
        assert_eq!(built_in, Some(PathBuf::from("/etc/nginx/nginx.conf")));
        assert_eq!(
            version_of("nginx version: openresty/1.25.3.1\n", ProxyKind::Nginx).unwrap(),
            "nginx-1.25"
        );
    }

    #[test]
    fn old_and_unknown_versions_are_refused_with_a_text() {
        let old = version_of("HA-Proxy version 1.8.4 2018/02/08\n", ProxyKind::Haproxy).unwrap_err();
        assert!(old.contains("haproxy-1.8 is older than haproxy-2.6"), "{old}");
        assert!(version_of("hello\n", ProxyKind::Nginx).unwrap_err().contains("hello"));
    }

    #[test]
    fn a_reloaded_masters_own_arguments_are_left_out() {
        let argv: Vec<String> = "haproxy -sf 16483 17 -x sockpair@3 -W -db -f h.cfg -L me"
            .split(' ')
            .map(str::to_owned)
            .collect();
        assert_eq!(haproxy_arguments(&argv, "/g/haproxy.cfg"), ["-c", "-f", "/g/haproxy.cfg", "-L", "me"]);
    }

    #[test]
    fn output_is_cut_between_characters() {
        assert_eq!(bounded("aää\u{7}b", 4), "aä");
        assert_eq!(bounded("a\u{1b}[1mb", 10), "a[1mb");
    }
}
