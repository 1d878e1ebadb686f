//! Credentials of each cluster's statistics page: read from their password files, handed on by digest.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use interlock_core::compile::Config;
use interlock_core::model::{ClusterName, Digest};
use interlock_core::protocol::SecretText;
use interlock_crds::StatsSpec;
use tokio::sync::watch;

use super::folders::Watcher;

/// Files are read again this often whatever the watcher says.
const RESCAN: Duration = Duration::from_secs(15);
/// A longer password is no password.
const MAX_PASSWORD: usize = 1024;

/// The digest of each cluster's credential, where its password file could be read.
pub type Credentials = BTreeMap<ClusterName, Digest>;

/// The way to a credential's content. Cheap to clone.
#[derive(Clone, Default)]
pub struct CredentialReader(Arc<RwLock<BTreeMap<Digest, SecretText>>>);

impl CredentialReader {
    /// The content with this digest.
    pub fn get(&self, digest: &Digest) -> Option<SecretText> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(digest).cloned()
    }
}

/// The statistics page of each cluster that has one.
pub type Pages = BTreeMap<ClusterName, StatsSpec>;

/// The pages of clusters with these settings.
pub fn pages(config: &Config) -> Pages {
    config.clusters.iter().filter_map(|(name, spec)| Some((name.clone(), spec.stats.clone()?))).collect()
}

/// Follows the password files, whichever they are. The first answer is there when this returns.
pub fn spawn(mut pages: watch::Receiver<Pages>) -> (watch::Receiver<Credentials>, CredentialReader) {
    let reader = CredentialReader::default();
    let secrets = reader.clone();
    let mut known = pages.borrow_and_update().clone();
    // Watched before it is read: what changes in between is seen.
    let mut watcher = Watcher::new(folders(&known), RESCAN);
    let (sender, receiver) = watch::channel(read_all(&known, &reader));
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = watcher.changed() => {}
                Ok(()) = pages.changed() => {
                    known = pages.borrow_and_update().clone();
                    watcher = Watcher::new(folders(&known), RESCAN);
                }
                () = sender.closed() => return,
            }
            let found = read_all(&known, &secrets);
            sender.send_if_modified(|known| {
                let changed = *known != found;
                *known = found;
                changed
            });
        }
    });
    (receiver, reader)
}

/// The folders that password files are in.
fn folders(pages: &Pages) -> Vec<PathBuf> {
    pages.values().filter_map(|page| Some(PathBuf::from(&page.password_file).parent()?.to_owned())).collect()
}

/// Reads every file; what cannot be read is left out (a finding says so) and contents are remembered, because a
/// plan that was made a moment ago still refers to the one before.
fn read_all(pages: &Pages, reader: &CredentialReader) -> Credentials {
    let mut found = Credentials::new();
    for (cluster, page) in pages {
        let Some(text) = credential(page) else { continue };
        let digest = Digest::of([text.0.as_bytes()]);
        reader.0.write().unwrap_or_else(PoisonError::into_inner).insert(digest.clone(), text);
        found.insert(cluster.clone(), digest);
    }
    found
}

/// What a browser sends (RFC 7617, section 2); none if the file has no password in its first line.
fn credential(page: &StatsSpec) -> Option<SecretText> {
    let text = fs::read_to_string(&page.password_file).ok()?;
    let password = text.lines().next()?;
    if password.is_empty() || password.len() > MAX_PASSWORD {
        return None;
    }
    let encoded = STANDARD.encode(format!("{}:{password}", page.user));
    Some(SecretText(format!("Basic {encoded}\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(folder: &tempfile::TempDir, text: &str) -> StatsSpec {
        let path = folder.path().join("password");
        fs::write(&path, text).unwrap();
        StatsSpec { user: "Aladdin".to_owned(), password_file: path.display().to_string() }
    }

    #[test]
    fn the_first_line_is_the_password() {
        let folder = tempfile::tempdir().unwrap();
        let text = credential(&page(&folder, "open sesame\nnot this\n")).unwrap();
        // RFC 7617's own example.
        assert_eq!(text.0, "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\n");
    }

    #[test]
    fn no_password_is_no_credential() {
        let folder = tempfile::tempdir().unwrap();
        assert!(credential(&page(&folder, "\n")).is_none());
        assert!(
            credential(&StatsSpec { user: "x".to_owned(), password_file: "/nowhere".to_owned() }).is_none()
        );
    }

    #[tokio::test]
    async fn a_changed_password_is_a_new_digest() {
        let folder = tempfile::tempdir().unwrap();
        let page = page(&folder, "one\n");
        let cluster: ClusterName = "web".parse().unwrap();
        let (mut digests, reader) = spawn(watch::channel(Pages::from([(cluster.clone(), page.clone())])).1);
        let first = digests.borrow_and_update()[&cluster].clone();
        fs::write(&page.password_file, "two\n").unwrap();
        tokio::time::timeout(Duration::from_secs(20), digests.changed()).await.unwrap().unwrap();
        let second = digests.borrow()[&cluster].clone();
        assert_ne!(first, second);
        assert!(reader.get(&second).is_some() && reader.get(&first).is_some());
    }
}
