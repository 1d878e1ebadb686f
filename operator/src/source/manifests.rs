//! The folder of documents: watched, read file by file, and never worse than it was for one bad document.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use interlock_core::declared::Declared;
use interlock_core::finding::{Finding, Reason, Subject, Verdict};
use interlock_core::model::{DocumentId, Shared};
use interlock_crds::schema::Kind;
use interlock_crds::{RouteSpec, ServiceClusterSpec};
use tokio::sync::watch;

use super::folders::Watcher;
use crate::manifest::{self, Body, Document, MAX_TEXT};
use crate::settings::Invalid;

/// A folder is read again this often whatever the watcher says: network file systems and changed targets of
/// symbolic links send no notice.
const RESCAN: Duration = Duration::from_secs(15);
/// What was there and is not, or is wrong, may be half written: it is looked at again before it counts.
const SETTLE: Duration = Duration::from_millis(500);
/// All files together; what is beyond is not read.
const MAX_ALL: u64 = 64 * 1024 * 1024;

/// Follows the documents at `path`, a folder or one file. The first answer is there when this returns.
pub fn spawn(path: Option<PathBuf>) -> watch::Receiver<Shared<Declared>> {
    let Some(path) = path else { return watch::channel(Shared::default()).1 };
    let folder = if path.is_file() { path.parent().map(Path::to_path_buf) } else { Some(path.clone()) };
    // Watched before it is read, so that no change falls between.
    let mut watcher = Watcher::new(folder, RESCAN);
    let mut keeper = Keeper::default();
    let (sender, receiver) = watch::channel(Shared::from(keeper.take(&files(&path))));
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = watcher.changed() => {}
                () = sender.closed() => return,
            }
            let Some(mut found) = files_apart(&path).await else { continue };
            if worse(&sender.borrow(), &keeper.clone().take(&found)) {
                tokio::time::sleep(SETTLE).await;
                let Some(again) = files_apart(&path).await else { continue };
                found = again;
            }
            let declared = keeper.take(&found);
            sender.send_if_modified(|known| {
                let changed = **known != declared;
                if changed {
                    tell(known, &declared);
                    *known = declared.into();
                }
                changed
            });
        }
    });
    receiver
}

/// Documents of files and those that were applied, as one.
pub fn beside(
    mut files: watch::Receiver<Shared<Declared>>,
    mut applied: watch::Receiver<Shared<Declared>>,
) -> watch::Receiver<Shared<Declared>> {
    let first = both(&files.borrow_and_update(), &applied.borrow_and_update());
    let (sender, receiver) = watch::channel(first);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                Ok(()) = files.changed() => {}
                Ok(()) = applied.changed() => {}
                () = sender.closed() => return,
                else => return,
            }
            let next = both(&files.borrow_and_update(), &applied.borrow_and_update());
            sender.send_if_modified(|known| {
                let changed = *known != next;
                *known = next;
                changed
            });
        }
    });
    receiver
}

/// What was applied counts before what a file says, because somebody meant it now.
fn both(files: &Shared<Declared>, applied: &Shared<Declared>) -> Shared<Declared> {
    if applied.is_empty() {
        return files.clone();
    }
    let mut all = Declared {
        applied: applied.applied.clone(),
        applied_clusters: applied.applied_clusters.clone(),
        ..Declared::clone(files)
    };
    for (id, spec) in &applied.routes {
        if all.routes.insert(id.clone(), spec.clone()).is_some() {
            let command = format!("route {} -n {}", id.name(), id.namespace());
            all.faults.push(twice(&format!("Route {id}"), &command));
        }
    }
    for (name, spec) in &applied.clusters {
        if all.clusters.insert(name.clone(), spec.clone()).is_some() {
            all.faults.push(twice(&format!("ServiceCluster {name}"), &format!("servicecluster {name}")));
        }
    }
    all.faults.sort();
    all.into()
}

fn twice(title: &str, named: &str) -> Finding {
    let message = format!("a file has a `{title}` as well; the one that was applied counts");
    let fix = format!("take it out of the file, or `interlock delete {named}`");
    finding(Reason::DuplicateDocument, title, message).fix(fix)
}

/// The documents at `path` as they are now.
pub fn look(path: Option<&Path>) -> Declared {
    path.map(|path| Keeper::default().take(&files(path))).unwrap_or_default()
}

/// The documents of texts, by the name of each.
pub fn of_texts(texts: BTreeMap<String, Result<String, String>>) -> Declared {
    Keeper::default().take(&Ok(texts))
}

async fn files_apart(path: &Path) -> Option<Files> {
    let path = path.to_path_buf();
    tokio::task::spawn_blocking(move || files(&path)).await.ok()
}

/// One log line for each change.
fn tell(known: &Declared, declared: &Declared) {
    for fault in declared.faults.iter().filter(|fault| !known.faults.contains(fault)) {
        tracing::warn!(document = fault.subject.document, fix = fault.fix, "{}", fault.message);
    }
    let (routes, clusters, faults) = (declared.routes.len(), declared.clusters.len(), declared.faults.len());
    tracing::info!(routes, clusters, faults, "documents changed");
}

/// Whether something is gone, or wrong that was not.
fn worse(before: &Declared, now: &Declared) -> bool {
    before.routes.keys().any(|id| !now.routes.contains_key(id))
        || before.clusters.keys().any(|name| !now.clusters.contains_key(name))
        || now.faults.iter().any(|fault| !before.faults.contains(fault))
}

/// Texts by file name, or why one cannot be read; or why the whole folder cannot.
type Files = Result<BTreeMap<String, Result<String, String>>, String>;

fn files(path: &Path) -> Files {
    let cannot = |error: io::Error| format!("`{}` cannot be read: {error}", path.display());
    let mut found = BTreeMap::new();
    let mut left = MAX_ALL;
    if fs::metadata(path).map_err(cannot)?.is_file() {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        found.insert(name, text(path, &mut left));
        return Ok(found);
    }
    let mut entries: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(path).map_err(cannot)? {
        entries.push(entry.map_err(cannot)?.path());
    }
    entries.sort();
    for entry in entries {
        let Some(name) = entry.file_name().and_then(|name| name.to_str()) else { continue };
        let document = [".yaml", ".yml", ".json"].iter().any(|end| name.ends_with(end));
        if document && !name.starts_with('.') && !entry.is_dir() {
            found.insert(name.to_owned(), text(&entry, &mut left));
        }
    }
    Ok(found)
}

fn text(path: &Path, left: &mut u64) -> Result<String, String> {
    let meta = fs::metadata(path).map_err(|error| format!("the file cannot be read: {error}"))?;
    if !meta.is_file() {
        return Err("it is not a file".to_owned());
    }
    if meta.len() > MAX_TEXT {
        return Err(format!("the file is larger than {} MiB", MAX_TEXT / 1024 / 1024));
    }
    *left = left
        .checked_sub(meta.len())
        .ok_or_else(|| format!("all files together are larger than {} MiB", MAX_ALL / 1024 / 1024))?;
    fs::read_to_string(path).map_err(|error| format!("the file cannot be read: {error}"))
}

/// Which document.
type Which = (Kind, DocumentId);

/// A good document.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Good {
    Route(Shared<RouteSpec>),
    Cluster(Shared<ServiceClusterSpec>),
}

impl Good {
    /// What counts of a document; none: it is of a kind that is not read.
    fn of(body: &Body) -> Option<Self> {
        match body {
            Body::Route(route) => Some(Self::Route(route.spec.clone().into())),
            Body::ServiceCluster(cluster) => Some(Self::Cluster(cluster.spec.clone().into())),
            Body::Engine(_) => None,
        }
    }
}

/// What was read the last time.
#[derive(Debug, Clone, Default)]
struct Keeper {
    /// Good documents and the file that each is from.
    known: BTreeMap<Which, (String, Good)>,
    /// What was read of each text, so that a thousand are not read because one changed.
    read: BTreeMap<String, (String, Arc<Vec<Document>>)>,
}

/// What one reading comes to.
#[derive(Default)]
struct Found {
    good: BTreeMap<Which, (String, Good)>,
    faults: Vec<Fault>,
}

/// One thing that is wrong, and what of before stays because of it.
struct Fault {
    finding: Finding,
    keeps: Keeps,
}

enum Keeps {
    Nothing,
    /// The document of this name.
    One(Which),
    /// Everything from this file: which document is bad cannot be told.
    File(String),
    /// Everything.
    All,
}

impl Keeper {
    /// What the files say. A document that cannot be read stays as it was.
    fn take(&mut self, files: &Files) -> Declared {
        let mut found = Found::default();
        match files {
            Err(why) => found.faults.push(Fault { finding: unreadable("manifests", why), keeps: Keeps::All }),
            Ok(files) => {
                let mut read = BTreeMap::new();
                for (name, text) in files {
                    let text = match text {
                        Ok(text) => text,
                        Err(why) => {
                            let finding = unreadable(name, why);
                            found.faults.push(Fault { finding, keeps: Keeps::File(name.clone()) });
                            continue;
                        }
                    };
                    let known = self.read.remove(name).filter(|(before, _)| before == text);
                    let entry = known.unwrap_or_else(|| (text.clone(), Arc::new(manifest::read(name, text))));
                    for document in entry.1.iter() {
                        self.add(name, document, &mut found);
                    }
                    read.insert(name.clone(), entry);
                }
                self.read = read;
            }
        }
        self.settle(found)
    }

    fn add(&self, file: &str, document: &Document, found: &mut Found) {
        let place = format!("{file}:{}", document.line);
        match (&document.body, &document.id) {
            (Ok(body), Some(which)) => match Good::of(body) {
                Some(good) => self.good(file, &place, which, good, found),
                None => found.faults.extend(not_read(&place, which.0)),
            },
            (Ok(_), None) => {}
            (Err(invalid), Some(which)) if manifest::not_read(which.0).is_none() => {
                let finding = invalid_document(&manifest::title(which.0, &which.1), invalid);
                found.faults.push(Fault { finding, keeps: Keeps::One(which.clone()) });
            }
            (Err(invalid), id) => {
                let keeps = if id.is_some() { Keeps::Nothing } else { Keeps::File(file.to_owned()) };
                found.faults.push(Fault { finding: invalid_document(&place, invalid), keeps });
            }
        }
    }

    fn good(&self, file: &str, place: &str, which: &Which, good: Good, found: &mut Found) {
        if let Some((other, _)) = found.good.get(which) {
            let title = manifest::title(which.0, &which.1);
            let message = format!("{place}: there is a `{title}` in {other} already, which counts");
            let finding = finding(Reason::DuplicateDocument, place, message).fix("give it another name");
            found.faults.push(Fault { finding, keeps: Keeps::Nothing });
            return;
        }
        // The same value as before where it says the same, so that nobody reads it again.
        let before = self.known.get(which).map(|(_, known)| known).filter(|known| **known == good).cloned();
        found.good.insert(which.clone(), (file.to_owned(), before.unwrap_or(good)));
    }

    fn settle(&mut self, found: Found) -> Declared {
        let Found { mut good, faults } = found;
        let mut told = Vec::new();
        for Fault { mut finding, keeps } in faults {
            let stays = |which: &Which, file: &str| match &keeps {
                Keeps::Nothing => false,
                Keeps::One(one) => one == which,
                Keeps::File(name) => name == file,
                Keeps::All => true,
            };
            let mut kept = BTreeSet::new();
            for (which, before) in self.known.iter().filter(|(which, (file, _))| stays(which, file)) {
                if !good.contains_key(which) {
                    kept.insert(manifest::title(which.0, &which.1));
                    good.insert(which.clone(), before.clone());
                }
            }
            if !kept.is_empty() {
                let kept: Vec<String> = kept.into_iter().take(5).collect();
                finding.message = format!("{}; as it was before stays: {}", finding.message, kept.join(", "));
                finding.verdict = Verdict::Degraded;
            }
            told.push(finding);
        }
        told.sort();
        let mut declared = Declared { faults: told, ..Declared::default() };
        for ((_, id), (_, one)) in &good {
            match one {
                Good::Route(spec) => {
                    declared.routes.insert(id.clone(), spec.clone());
                }
                Good::Cluster(spec) => {
                    declared.clusters.extend(id.name().parse().map(|name| (name, spec.clone())));
                }
            }
        }
        self.known = good;
        declared
    }
}

/// What is told of a document whose kind is not read.
fn not_read(place: &str, kind: Kind) -> Option<Fault> {
    let (why, instead) = manifest::not_read(kind)?;
    let finding = finding(Reason::NotSupported, place, format!("{place}: {why}")).fix(instead);
    Some(Fault { finding, keeps: Keeps::Nothing })
}

fn finding(reason: Reason, document: &str, message: String) -> Finding {
    let subject = Subject { document: Some(document.to_owned()), ..Subject::default() };
    Finding::new(Verdict::Refused, reason, subject, message)
}

fn unreadable(document: &str, why: &str) -> Finding {
    finding(Reason::InvalidDocument, document, format!("{document}: {why}"))
}

/// What is wrong with a document, as a finding.
fn invalid_document(document: &str, invalid: &Invalid) -> Finding {
    let mut told = finding(Reason::InvalidDocument, document, invalid.brief());
    told.subject.key = Some(invalid.field.clone()).filter(|field| !field.is_empty());
    told.fix.clone_from(&invalid.fix);
    told
}

#[cfg(test)]
mod tests;
