//! Certificates of a running HAProxy: which it presents to whom, and the commands that change that.
//!
//! A certificate's file is named by its content, so one that is renewed is another one: it is loaded beside the old,
//! takes over its names, and the old one goes. Only the default cannot be taken from its place, which is why its
//! content is replaced there.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use interlock_core::bundle::{Bundle, CERTIFICATES, Presented, name_lines};
use interlock_core::model::HostPattern;
use interlock_core::separation;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use sha1::{Digest as _, Sha1};

use super::haproxy::{Command, LiveError, Socket, Worker};
use super::shown;

/// The folder of the secrets' files.
#[derive(Debug, Clone, Copy)]
pub(super) struct Secrets<'a>(pub(super) &'a Path);

/// A certificate with its chain and key.
struct Pem {
    text: String,
    /// Of its first certificate, as HAProxy shows it.
    fingerprint: String,
}

impl Secrets<'_> {
    fn read(self, file: &str) -> Option<Pem> {
        let text = std::fs::read_to_string(self.0.join(file)).ok()?;
        let leaf = CertificateDer::from_pem_slice(text.as_bytes()).ok()?;
        let fingerprint = Sha1::digest(&leaf).iter().fold(String::new(), |mut out, byte| {
            let _ = write!(out, "{byte:02X}");
            out
        });
        Some(Pem { text, fingerprint })
    }
}

/// What a worker presents.
#[derive(Debug, Clone, Default)]
pub(super) struct Presenting {
    /// The path of its list, which names it.
    list: String,
    lines: Vec<shown::ListLine>,
    /// Everything that is loaded, by base name.
    loaded: BTreeMap<String, Loaded>,
    /// Whose content somebody has begun to replace.
    begun: Option<String>,
}

/// One certificate that is loaded.
#[derive(Debug, Clone, Default)]
struct Loaded {
    path: String,
    /// Of its content, empty where it has none yet; none: it was not asked for.
    fingerprint: Option<String>,
}

/// Commands for what comes and for what goes.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) come: Vec<Command>,
    pub(super) go: Vec<Command>,
    /// Certificates that are touched.
    pub(super) touched: u32,
}

impl Socket {
    /// Reads the list, what is loaded, and what these files' certificates are (none: all).
    pub(super) async fn certificates(
        &self,
        worker: &Worker,
        files: Option<&BTreeSet<&str>>,
    ) -> Result<Presenting, LiveError> {
        let lists = self.ask_worker(worker.pid, "show ssl crt-list").await?;
        let list = lists.lines().find(|path| base(path) == CERTIFICATES);
        let list = list.ok_or_else(|| LiveError::Lacks("its list of certificates".to_owned()))?.to_owned();
        let (begun, paths) = shown::loaded(&self.ask_worker(worker.pid, "show ssl cert").await?);
        let lines = format!("show ssl crt-list -n {list}");
        let lines = shown::list_lines(&self.ask_worker(worker.pid, &lines).await?);
        let default = lines.iter().filter(|line| line.is_default).map(|line| base(&line.path));
        let default: BTreeSet<&str> = default.collect();
        let asked = |path: &&String| {
            files.is_none_or(|files| files.contains(base(path))) || default.contains(base(path))
        };
        let asked: Vec<Command> =
            paths.iter().filter(asked).map(|path| format!("show ssl cert {path}").into()).collect();
        let prints = shown::fingerprints(&self.ask_all(worker, &asked).await?);
        let one = |path: String| {
            let fingerprint = prints.get(&path).cloned();
            (base(&path).to_owned(), Loaded { path, fingerprint })
        };
        let loaded = paths.into_iter().map(one).collect();
        Ok(Presenting { list, lines, loaded, begun })
    }
}

/// Whether a bundle has a list of certificates.
pub(super) fn has_list(bundle: &Bundle) -> bool {
    bundle.fragments.iter().any(|fragment| fragment.file == CERTIFICATES)
}

/// The certificates that differ between two bundles.
pub(super) fn differing<'a>(before: &'a Bundle, bundle: &'a Bundle) -> BTreeSet<&'a str> {
    let files = separation::differing(&before.live.certificates, &bundle.live.certificates);
    files.into_iter().map(String::as_str).collect()
}

/// The file of the certificate that answers for every other name.
pub(super) fn default_of(bundle: &Bundle) -> Option<&str> {
    let mut certificates = bundle.live.certificates.iter();
    certificates.find(|(_, presented)| presented.default).map(|(file, _)| file.as_str())
}

fn base(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

impl Presenting {
    /// Where the default's content lies, and whose it is.
    fn default(&self) -> Option<&Loaded> {
        let line = self.lines.iter().find(|line| line.is_default)?;
        self.loaded.get(base(&line.path))
    }

    /// What a worker presents, in the words of a bundle; what was not asked for counts as what it shall be.
    pub(super) fn presented(&self, bundle: &Bundle, secrets: Secrets<'_>) -> BTreeMap<String, Presented> {
        let holds = |loaded: Option<&Loaded>, file: &str| {
            let print = loaded.and_then(|loaded| loaded.fingerprint.as_ref());
            print.is_none_or(|print| secrets.read(file).is_some_and(|pem| pem.fingerprint == *print))
        };
        let mut presented: BTreeMap<String, Presented> = BTreeMap::new();
        for line in &self.lines {
            let file = base(&line.path);
            if line.is_default {
                let wanted = default_of(bundle).filter(|wanted| holds(self.default(), wanted));
                presented.entry(wanted.unwrap_or(file).to_owned()).or_default().default = true;
            } else if holds(self.loaded.get(file), file) {
                let names = line.names.iter().filter_map(|name| name.parse::<HostPattern>().ok());
                presented.entry(file.to_owned()).or_default().names.extend(names);
            }
        }
        presented
    }

    /// The commands from here to what a bundle presents; `renew`: the default's content may be another one even if
    /// it looks the same.
    pub(super) fn changes(
        &self,
        bundle: &Bundle,
        secrets: Secrets<'_>,
        renew: bool,
    ) -> Result<Changes, LiveError> {
        let mut changes = Changes::default();
        let mut touched: BTreeSet<&str> = BTreeSet::new();
        for (file, presented) in &bundle.live.certificates {
            let before = (changes.come.len(), changes.go.len());
            if presented.default {
                let place = self.default().ok_or_else(|| LiveError::Lacks("its default".to_owned()))?;
                changes.come.extend(fill(file, Some(place), secrets, renew)?);
            }
            let (come, go) = self.lines_of(file, &presented.names);
            if !presented.names.is_empty() {
                changes.come.extend(fill(file, self.loaded.get(file), secrets, false)?);
            }
            let path = self.loaded.get(file).map_or_else(|| path_of(secrets, file), |it| it.path.clone());
            changes.come.extend(come.into_iter().map(|names| self.add(&path, &names)));
            changes.go.extend(go);
            if (changes.come.len(), changes.go.len()) > before {
                touched.insert(file);
            }
        }
        let wanted = |file: &str| {
            bundle.live.certificates.get(file).is_some_and(|presented| !presented.names.is_empty())
        };
        for line in self.lines.iter().filter(|line| !line.is_default && !wanted(base(&line.path))) {
            changes.go.push(self.delete(line));
            touched.insert(base(&line.path));
        }
        let place = self.default().map(|loaded| loaded.path.as_str());
        for (file, loaded) in &self.loaded {
            if !wanted(file) && place != Some(&loaded.path) {
                changes.go.push(format!("del ssl cert {}", loaded.path).into());
                touched.insert(file);
            }
        }
        // HAProxy takes what is meant for one certificate as content of another while that one's replacement has
        // begun.
        if let Some(begun) = self.begun.as_ref().filter(|_| !changes.come.is_empty()) {
            changes.come.insert(0, format!("abort ssl cert {begun}").into());
        }
        changes.touched = u32::try_from(touched.len()).unwrap_or(u32::MAX);
        Ok(changes)
    }

    /// The names that lack a line, as lines, and the commands for lines that have a name too many.
    fn lines_of(&self, file: &str, names: &BTreeSet<HostPattern>) -> (Vec<String>, Vec<Command>) {
        let texts: BTreeMap<String, &HostPattern> =
            names.iter().map(|name| (name.to_string(), name)).collect();
        let own = self.lines.iter().filter(|line| !line.is_default && base(&line.path) == file);
        let (good, bad): (Vec<_>, Vec<_>) =
            own.partition(|line| line.names.iter().all(|name| texts.contains_key(name)));
        let there: BTreeSet<&String> = good.iter().flat_map(|line| &line.names).collect();
        let lack = texts.iter().filter(|(text, _)| !there.contains(text)).map(|(_, name)| *name);
        (name_lines(lack), bad.into_iter().map(|line| self.delete(line)).collect())
    }

    fn add(&self, path: &str, names: &str) -> Command {
        Command::with_payload(format!("add ssl crt-list {}", self.list), format!("{path} {names}\n"))
    }

    fn delete(&self, line: &shown::ListLine) -> Command {
        format!("del ssl crt-list {} {}:{}", self.list, line.path, line.number).into()
    }
}

/// The commands for a certificate's content, unless it is there; `renew`: even if it looks so.
fn fill(
    file: &str,
    place: Option<&Loaded>,
    secrets: Secrets<'_>,
    renew: bool,
) -> Result<Vec<Command>, LiveError> {
    if place.is_some_and(|place| place.fingerprint.is_none()) && !renew {
        return Ok(Vec::new());
    }
    let pem = secrets.read(file).ok_or_else(|| LiveError::Lacks(format!("the file {file}")))?;
    if place.is_some_and(|place| place.fingerprint.as_ref() == Some(&pem.fingerprint)) && !renew {
        return Ok(Vec::new());
    }
    let path = place.map_or_else(|| path_of(secrets, file), |place| place.path.clone());
    let new = place.is_none().then(|| format!("new ssl cert {path}").into());
    let set = Command::with_payload(format!("set ssl cert {path}"), blocks(&pem.text));
    Ok(new.into_iter().chain([set, format!("commit ssl cert {path}").into()]).collect())
}

fn path_of(secrets: Secrets<'_>, file: &str) -> String {
    secrets.0.join(file).to_string_lossy().into_owned()
}

/// Nothing but the blocks of a PEM text: an empty line would end the command, and words between them only fill
/// HAProxy's buffer.
fn blocks(text: &str) -> String {
    let mut inside = false;
    let mut out = String::with_capacity(text.len());
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        inside |= line.starts_with("-----BEGIN ");
        if inside {
            out.push_str(line);
            out.push('\n');
        }
        inside &= !line.starts_with("-----END ");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_the_blocks_alone() {
        let text = "Certificate:\n  Data\n\n-----BEGIN X-----\r\nAA\r\n\r\nBB\r\n-----END X-----\nkey\n\
                    -----BEGIN Y-----\nCC\n-----END Y-----";
        let wanted = "-----BEGIN X-----\nAA\nBB\n-----END X-----\n-----BEGIN Y-----\nCC\n-----END Y-----\n";
        assert_eq!(blocks(text), wanted);
    }
}
