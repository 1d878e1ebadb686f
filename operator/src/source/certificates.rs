//! Certificates of each cluster's folder: parsed, matched with their keys, watched. Contents never leave
//! but through [`SecretReader::get`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use interlock_core::compile::Config;
use interlock_core::model::{CertificateName, CertificateView, ClusterName, Digest, HostPattern, Timestamp};
use interlock_core::protocol::SecretText;
use interlock_crds::ServiceClusterSpec;
use rustls::pki_types::pem::{PemObject as _, SectionKind};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use tokio::sync::watch;

use super::folders::Watcher;

/// Folders are read again this often whatever the watcher says: network file systems and changed targets
/// of symbolic links send no notice.
const RESCAN: Duration = Duration::from_secs(15);
/// A certificate that was sound and is not may be half replaced: it is looked at again before anybody is told.
const SETTLE: Duration = Duration::from_secs(2);
/// A larger file is no certificate.
const MAX_FILE: u64 = 1024 * 1024;

/// The certificates of every cluster, by file name.
pub type Certificates = BTreeMap<ClusterName, BTreeMap<CertificateName, CertificateView>>;

/// The way to a certificate's content, chain and key in one PEM text. Cheap to clone.
#[derive(Clone, Default)]
pub struct SecretReader(Arc<RwLock<Secrets>>);

#[derive(Default)]
struct Secrets {
    now: BTreeMap<Digest, SecretText>,
    /// What was there before the last change: a plan that was made a moment ago still refers to it.
    before: BTreeMap<Digest, SecretText>,
}

impl fmt::Debug for SecretReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretReader")
    }
}

impl SecretReader {
    /// The content with this digest, if it is or was just now in a folder.
    pub fn get(&self, digest: &Digest) -> Option<SecretText> {
        let secrets = self.0.read().unwrap_or_else(PoisonError::into_inner);
        secrets.now.get(digest).or_else(|| secrets.before.get(digest)).cloned()
    }

    fn replace(&self, new: BTreeMap<Digest, SecretText>) {
        let mut secrets = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if !secrets.now.keys().eq(new.keys()) {
            secrets.before = std::mem::replace(&mut secrets.now, new);
        }
    }
}

/// The certificate folder of each cluster that has one.
pub type Folders = BTreeMap<ClusterName, PathBuf>;

/// The folders of clusters with these settings.
pub fn folders(config: &Config) -> Folders {
    let folder = |spec: &ServiceClusterSpec| Some(PathBuf::from(spec.certificates.directory.as_ref()?));
    config.clusters.iter().filter_map(|(name, spec)| Some((name.clone(), folder(spec)?))).collect()
}

/// Reads the certificate folders once.
pub fn look(folders: &Folders) -> Certificates {
    scan_all(folders).views
}

/// Follows the certificate folders, whichever they are. The first answer is there when this returns.
pub fn spawn(mut folders: watch::Receiver<Folders>) -> (watch::Receiver<Certificates>, SecretReader) {
    let reader = SecretReader::default();
    let mut known = folders.borrow_and_update().clone();
    // Watched before it is read, so that no change falls between.
    let mut watcher = Watcher::new(known.values().cloned(), RESCAN);
    let first = scan_all(&known);
    reader.replace(first.secrets);
    let (sender, receiver) = watch::channel(first.views);
    let secrets = reader.clone();
    tokio::spawn(async move {
        loop {
            let moved = tokio::select! {
                () = watcher.changed() => false,
                Ok(()) = folders.changed() => true,
                () = sender.closed() => return,
            };
            if moved {
                known = folders.borrow_and_update().clone();
                watcher = Watcher::new(known.values().cloned(), RESCAN);
            }
            let Some(mut found) = scan_apart(&known).await else { continue };
            let half_replaced = !moved && newly_faulty(&sender.borrow(), &found.views);
            if half_replaced {
                tokio::time::sleep(SETTLE).await;
                let Some(again) = scan_apart(&known).await else { continue };
                found = again;
            }
            // Contents first: whoever sees the new digest can read it.
            secrets.replace(found.secrets);
            sender.send_if_modified(|known| {
                let changed = *known != found.views;
                *known = found.views;
                changed
            });
        }
    });
    (receiver, reader)
}

#[derive(Default)]
struct Found {
    views: Certificates,
    secrets: BTreeMap<Digest, SecretText>,
}

async fn scan_apart(folders: &Folders) -> Option<Found> {
    let folders = folders.clone();
    tokio::task::spawn_blocking(move || scan_all(&folders)).await.ok()
}

fn newly_faulty(known: &Certificates, found: &Certificates) -> bool {
    known.iter().any(|(cluster, certificates)| {
        certificates.iter().any(|(name, before)| {
            let now = found.get(cluster).and_then(|all| all.get(name));
            before.fault.is_none() && now.is_none_or(|view| view.fault.is_some())
        })
    })
}

fn scan_all(folders: &Folders) -> Found {
    let mut found = Found::default();
    for (cluster, folder) in folders {
        let (views, secrets) = scan(folder);
        found.views.insert(cluster.clone(), views);
        found.secrets.extend(secrets);
    }
    found
}

/// One file of the folder, read.
struct File {
    name: String,
    stem: String,
    is_certificate: bool,
    content: Result<Vec<u8>, String>,
}

fn scan(folder: &Path) -> (BTreeMap<CertificateName, CertificateView>, BTreeMap<Digest, SecretText>) {
    let files = read_folder(folder);
    let mut views = BTreeMap::new();
    let mut secrets = BTreeMap::new();
    for file in files.iter().filter(|file| file.is_certificate) {
        let Ok(name) = file.name.parse::<CertificateName>() else { continue };
        match judge(file, &files) {
            Judged::Sound(view, secret) => {
                secrets.insert(view.digest.clone(), secret);
                views.insert(name, view);
            }
            Judged::Faulty(view) => {
                views.insert(name, view);
            }
            Judged::KeyOnly => {}
        }
    }
    (views, secrets)
}

/// The folder's certificate and key files in order of name; a folder that cannot be read has none.
fn read_folder(folder: &Path) -> Vec<File> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(folder = %folder.display(), %error, "certificate folder cannot be read");
            }
            return Vec::new();
        }
    };
    let mut files: Vec<File> = entries.flatten().filter_map(|entry| read_file(&entry)).collect();
    files.sort_by(|a, b| a.name.cmp(&b.name));
    files
}

fn read_file(entry: &fs::DirEntry) -> Option<File> {
    let name = entry.file_name().to_str()?.to_owned();
    let (stem, extension) = name.rsplit_once('.')?;
    let stem = stem.to_owned();
    let is_certificate = matches!(extension, "pem" | "crt" | "cert");
    if !is_certificate && extension != "key" {
        return None;
    }
    // Links are followed: mounted secrets and certbot's `live` folder consist of them.
    let meta = fs::metadata(entry.path()).ok()?;
    if !meta.is_file() {
        return None;
    }
    let content = if meta.len() > MAX_FILE {
        Err(format!("the file is larger than {MAX_FILE} bytes"))
    } else {
        fs::read(entry.path()).map_err(|error| format!("the file cannot be read: {error}"))
    };
    Some(File { name, stem, is_certificate, content })
}

enum Judged {
    Sound(CertificateView, SecretText),
    Faulty(CertificateView),
    /// A PEM file that holds a key and no certificate: somebody else's key.
    KeyOnly,
}

fn judge(file: &File, files: &[File]) -> Judged {
    let content = match &file.content {
        Ok(content) => content,
        Err(why) => return faulty(why.clone(), Vec::new(), Timestamp::default()),
    };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(content).collect();
    let chain = match chain {
        Ok(chain) => chain,
        Err(error) => {
            return faulty(format!("it is not valid PEM: {error}"), Vec::new(), Timestamp::default());
        }
    };
    let Some(leaf) = chain.first() else {
        if PrivateKeyDer::from_pem_slice(content).is_ok() {
            return Judged::KeyOnly;
        }
        return faulty("there is no certificate in it".to_owned(), Vec::new(), Timestamp::default());
    };
    let (names, not_after) = match describe(leaf) {
        Ok(described) => described,
        Err(why) => return faulty(why, Vec::new(), Timestamp::default()),
    };
    match matching_key(file, files, &chain) {
        Ok(key) => {
            let text = combined(&chain, &key);
            let digest = Digest::of([text.as_bytes()]);
            let view = CertificateView { digest, names, not_after, fault: None };
            Judged::Sound(view, SecretText(text))
        }
        Err(why) => faulty(why, names, not_after),
    }
}

fn faulty(why: String, names: Vec<HostPattern>, not_after: Timestamp) -> Judged {
    Judged::Faulty(CertificateView { digest: Digest::of([]), names, not_after, fault: Some(why) })
}

/// The DNS names that a certificate is for, and when it expires.
fn describe(leaf: &CertificateDer<'_>) -> Result<(Vec<HostPattern>, Timestamp), String> {
    use x509_parser::extensions::GeneralName;
    let (_, parsed) =
        x509_parser::parse_x509_certificate(leaf).map_err(|_| "it is not a valid certificate".to_owned())?;
    let mut names: BTreeSet<HostPattern> = BTreeSet::new();
    if let Ok(Some(alternative)) = parsed.subject_alternative_name() {
        names.extend(alternative.value.general_names.iter().filter_map(|name| match name {
            GeneralName::DNSName(text) => text.parse().ok(),
            _ => None,
        }));
    }
    if names.is_empty() {
        // Browsers stopped looking at the common name; old internal authorities still write only that.
        names.extend(parsed.subject().iter_common_name().filter_map(|cn| cn.as_str().ok()?.parse().ok()));
    }
    let expires = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0).saturating_mul(1000);
    Ok((names.into_iter().collect(), Timestamp(expires)))
}

/// The private key of `chain`: in the same file, beside it as `<stem>.key`, `<stem>-key.pem` or
/// `<stem>.key.pem`, else any key in the folder that fits.
fn matching_key(
    file: &File,
    files: &[File],
    chain: &[CertificateDer<'static>],
) -> Result<PrivateKeyDer<'static>, String> {
    let provider = rustls::crypto::ring::default_provider();
    let beside =
        [format!("{}.key", file.stem), format!("{}-key.pem", file.stem), format!("{}.key.pem", file.stem)];
    let mut candidates: Vec<&File> = files.iter().collect();
    // Stable sort: own file, the file's neighbours, the others by name.
    candidates.sort_by_key(|other| (other.name != file.name, !beside.contains(&other.name)));
    let mut expected: Option<(&str, String)> = None;
    for candidate in candidates {
        let near = candidate.name == file.name || beside.contains(&candidate.name);
        let content = match &candidate.content {
            Ok(content) => content,
            Err(why) => {
                if near {
                    expected.get_or_insert((&candidate.name, why.clone()));
                }
                continue;
            }
        };
        let Ok(key) = PrivateKeyDer::from_pem_slice(content) else { continue };
        match CertifiedKey::from_der(chain.to_vec(), key.clone_key(), &provider) {
            Ok(_) => return Ok(key),
            Err(error) if near => {
                let why = match error {
                    rustls::Error::InconsistentKeys(_) => "it does not belong to this certificate".to_owned(),
                    other => other.to_string(),
                };
                expected.get_or_insert((&candidate.name, why));
            }
            Err(_) => {}
        }
    }
    Err(match expected {
        Some((name, why)) => format!("the private key in {name} cannot be used: {why}"),
        None => format!(
            "there is no private key for it: put it into the same file, or beside it as {}.key",
            file.stem
        ),
    })
}

/// Chain and key in one PEM text, as HAProxy and nginx both read it.
fn combined(chain: &[CertificateDer<'_>], key: &PrivateKeyDer<'_>) -> String {
    let mut out = String::new();
    for certificate in chain {
        pem(&mut out, SectionKind::Certificate, certificate);
    }
    let kind = match key {
        PrivateKeyDer::Pkcs1(_) => SectionKind::RsaPrivateKey,
        PrivateKeyDer::Sec1(_) => SectionKind::EcPrivateKey,
        _ => SectionKind::PrivateKey,
    };
    pem(&mut out, kind, key.secret_der());
    out
}

fn pem(out: &mut String, kind: SectionKind, der: &[u8]) {
    use base64::Engine as _;
    let label = match kind {
        SectionKind::Certificate => "CERTIFICATE",
        SectionKind::RsaPrivateKey => "RSA PRIVATE KEY",
        SectionKind::EcPrivateKey => "EC PRIVATE KEY",
        _ => "PRIVATE KEY",
    };
    out.push_str("-----BEGIN ");
    out.push_str(label);
    out.push_str("-----\n");
    // 48 bytes are 64 characters, the line length that PEM asks for (RFC 7468).
    for line in der.chunks(48) {
        base64::engine::general_purpose::STANDARD.encode_string(line, out);
        out.push('\n');
    }
    out.push_str("-----END ");
    out.push_str(label);
    out.push_str("-----\n");
}

#[cfg(test)]
mod tests;
