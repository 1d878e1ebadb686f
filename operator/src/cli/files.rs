//! What is wrong in files, without any engine: documents, and the labels of compose files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use interlock_core::compile::{self, Config};
use interlock_core::finding::Finding;
use interlock_core::model::Container;

use super::failure::Failure;
use crate::manifest::{self, compose};
use crate::serve::Snapshot;
use crate::source::manifests;
use crate::yaml;

/// Where a finding belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// The file, as it was named.
    pub(super) file: String,
    /// The line.
    pub(super) line: usize,
}

/// What was found in files.
pub(super) struct Judged {
    /// Verdicts, sorted.
    pub(super) findings: Vec<Finding>,
    texts: BTreeMap<String, String>,
    /// The file of each compose service's container, and the service's name.
    services: BTreeMap<String, (String, String)>,
}

/// Judges files and folders; `-` is standard input.
pub(super) fn judge(paths: &[PathBuf], config: &Config) -> Result<Judged, Failure> {
    let mut texts = BTreeMap::new();
    for path in paths {
        gather(path, &mut texts)?;
    }
    let mut documents = BTreeMap::new();
    let mut containers: BTreeMap<_, Container> = BTreeMap::new();
    let mut services = BTreeMap::new();
    let mut composed = false;
    for (name, text) in &texts {
        // What cannot be read at all is told as a document that cannot.
        let Some(found) = compose::read(text, &project(name)).unwrap_or_default() else {
            documents.insert(name.clone(), Ok(text.clone()));
            continue;
        };
        composed = true;
        for (service, container) in found {
            services.insert(container.name.clone(), (name.clone(), service));
            containers.insert(container.id.clone(), container);
        }
    }
    let containers = containers.into_iter().map(|(id, container)| (id, container.into())).collect();
    let declared = manifests::of_texts(documents);
    let findings = manifest::judge::judge(declared, containers, composed, config).map_err(Failure::new)?;
    Ok(Judged { findings, texts, services })
}

/// Judges the documents of files as if they were applied to what is seen: what would newly be wrong. Compose files are
/// passed over, because what runs is known.
pub(super) fn beside(
    paths: &[PathBuf],
    mut snapshot: Snapshot,
    known: &[Finding],
) -> Result<Judged, Failure> {
    let mut texts = BTreeMap::new();
    for path in paths {
        gather(path, &mut texts)?;
    }
    let documents =
        texts.iter().filter(|(name, text)| compose::read(text, &project(name)).unwrap_or_default().is_none());
    let files = manifests::of_texts(documents.map(|(name, text)| (name.clone(), Ok(text.clone()))).collect());
    let declared = snapshot.observed.declared.change();
    declared.routes.extend(files.routes);
    declared.clusters.extend(files.clusters);
    let mut findings = compile::compile(&snapshot.observed, &snapshot.config).findings;
    findings.extend(files.faults);
    findings.retain(|finding| !known.contains(finding));
    findings.sort();
    Ok(Judged { findings, texts, services: BTreeMap::new() })
}

impl Judged {
    /// Where a finding belongs, if that can be told.
    pub(super) fn place(&self, finding: &Finding) -> Option<Place> {
        let subject = &finding.subject;
        if let Some(title) = &subject.document {
            return self.document(title, subject.key.as_deref(), &finding.message);
        }
        let (file, service) = self.services.get(subject.name.as_deref()?)?;
        let at = yaml::locate(self.texts.get(file)?, &format!("services.{service}"));
        Some(Place { file: file.clone(), line: at.map_or(1, |at| at.line) })
    }

    fn document(&self, title: &str, field: Option<&str>, message: &str) -> Option<Place> {
        for (file, text) in &self.texts {
            // A document that cannot be read tells its own place.
            let mut numbers =
                message.strip_prefix(&format!("{file}:")).into_iter().flat_map(|m| m.split(':'));
            if let Some(line) = numbers.next().and_then(|line| line.trim().parse().ok()) {
                return Some(Place { file: file.clone(), line });
            }
            if message.starts_with(&format!("{file}:")) {
                return Some(Place { file: file.clone(), line: 1 });
            }
            for document in manifest::read(file, text) {
                let Some((kind, id)) = &document.id else { continue };
                if title != manifest::title(*kind, id) {
                    continue;
                }
                let line = field.and_then(|field| document.locate(text, field)).unwrap_or(document.line);
                return Some(Place { file: file.clone(), line });
            }
        }
        None
    }
}

/// The documents of files, in order, each with the name of its file and all of that file's text; `-` is standard input.
pub(super) fn documents(paths: &[PathBuf]) -> Result<Vec<Source>, Failure> {
    let mut texts = BTreeMap::new();
    for path in paths {
        gather(path, &mut texts)?;
    }
    let sources = texts.into_iter().map(|(file, text)| {
        let documents = manifest::read(&file, &text);
        Source { file, text, documents }
    });
    Ok(sources.collect())
}

/// A file of documents.
pub(super) struct Source {
    /// Its name, as it was given.
    pub(super) file: String,
    /// What it says.
    pub(super) text: String,
    /// The documents in it.
    pub(super) documents: Vec<manifest::Document>,
}

/// The texts at a path, by name; of a folder every YAML and JSON file, those of its folders too.
fn gather(path: &Path, texts: &mut BTreeMap<String, String>) -> Result<(), Failure> {
    let cannot = |error: io::Error| Failure::new(format!("{} cannot be read: {error}", path.display()));
    if path == Path::new("-") {
        let mut text = String::new();
        io::stdin().take(manifest::MAX_TEXT).read_to_string(&mut text).map_err(cannot)?;
        texts.insert("standard input".to_owned(), text);
        return Ok(());
    }
    let meta = fs::metadata(path).map_err(cannot)?;
    if !meta.is_dir() {
        if meta.len() > manifest::MAX_TEXT {
            return Err(Failure::new(format!("{} is larger than 10 MiB", path.display())));
        }
        let text = fs::read_to_string(path).map_err(cannot)?;
        texts.insert(path.display().to_string(), text);
        return Ok(());
    }
    let mut entries = BTreeSet::new();
    for entry in fs::read_dir(path).map_err(cannot)? {
        entries.insert(entry.map_err(cannot)?.path());
    }
    for entry in entries {
        let name = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let wanted = [".yaml", ".yml", ".json"].iter().any(|end| name.ends_with(end));
        if !name.starts_with('.') && !entry.is_symlink() && (entry.is_dir() || wanted) {
            gather(&entry, texts)?;
        }
    }
    Ok(())
}

/// Compose's name for the project of a file: its folder's.
fn project(file: &str) -> String {
    let folder = Path::new(file).parent().and_then(Path::file_name).unwrap_or_default();
    let name = folder.to_string_lossy().to_lowercase();
    if name.is_empty() { "project".to_owned() } else { name }
}
