//! Files of generations and secrets: validated names, written by temporary name and rename, the main file
//! switched in one step, the newest generations kept.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use interlock_core::bundle::{Bundle, Live, Paths};
use interlock_core::model::Digest;
use interlock_core::protocol::Apply;
use interlock_crds::ProxyKind;
use rustix::fs::{CWD, FallocateFlags, RenameFlags};

use super::certificates::Secrets;
use super::{Options, main_file};

/// A generation's own record; never the name of a file of a bundle.
const RECORD: &str = "bundle.json";
/// Generations that are kept.
const KEPT: usize = 3;

/// A user and group that files are given to.
pub(super) type Ids = (u32, u32);

/// Where everything lies, as texts that a configuration may hold.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    state: PathBuf,
    run: String,
    secrets: String,
    /// The proxy's main file.
    pub(super) main: PathBuf,
    mounted_config: bool,
    /// Who the proxy runs as, where files must be given away.
    pub(super) ids: Option<Ids>,
}

/// One generation on disk.
#[derive(Debug, Clone)]
pub(super) struct Generation {
    /// Its folder.
    pub(super) dir: PathBuf,
    dir_text: String,
    run: String,
    secrets: String,
    /// Its files by name.
    pub(super) files: BTreeMap<String, String>,
}

impl Generation {
    /// The real paths for a bundle's placeholders.
    pub(super) fn paths(&self) -> Paths<'_> {
        Paths { dir: &self.dir_text, run: &self.run, secrets: &self.secrets }
    }

    /// Drops the folder.
    pub(super) fn remove(&self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Writes a file by temporary name and rename, so that nobody ever sees half of it.
pub(super) fn replace(path: &Path, content: &[u8], mode: u32, ids: Option<Ids>) -> io::Result<()> {
    into_place(&written_beside(path, content, mode, ids)?, path)
}

/// Gives a file its name, or removes it.
fn into_place(temporary: &Path, path: &Path) -> io::Result<()> {
    fs::rename(temporary, path).inspect_err(|_| {
        let _ = fs::remove_file(temporary);
    })
}

/// As [`replace`], but what was there before is left under a name of its own, which is returned, and is to be removed
/// when nobody waits: to free the blocks of a file takes a disk milliseconds.
fn exchange(path: &Path, content: &[u8], mode: u32, ids: Option<Ids>) -> io::Result<Option<PathBuf>> {
    let temporary = written_beside(path, content, mode, ids)?;
    if rustix::fs::renameat_with(CWD, &temporary, CWD, path, RenameFlags::EXCHANGE).is_ok() {
        // The temporary name is the next one's.
        let mut replaced = temporary.clone().into_os_string();
        replaced.push(".replaced");
        let replaced = PathBuf::from(replaced);
        return Ok(into_place(&temporary, &replaced).is_ok().then_some(replaced));
    }
    // There is nothing to exchange it with, or the file system cannot.
    into_place(&temporary, path).map(|()| None)
}

/// Writes a file under a temporary name beside the one that it shall have.
fn written_beside(path: &Path, content: &[u8], mode: u32, ids: Option<Ids>) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let temporary =
        path.with_file_name(format!(".{}.interlock-{}", name.to_string_lossy(), std::process::id()));
    let _ = fs::remove_file(&temporary);
    let written = (|| {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        // Where the place on the disk is still to be found, ext4 finds it at a rename over another file and begins to
        // write, which takes milliseconds. A file system that cannot give it beforehand is none the worse.
        let _ = rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, content.len() as u64);
        file.write_all(content)?;
        // The umask may have taken bits away.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        if let Some((uid, gid)) = ids {
            chown(&temporary, Some(uid), Some(gid))?;
        }
        Ok(())
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written.map(|()| temporary)
}

/// Whether a text may be a file's name: one path component of harmless characters, not hidden.
fn is_name(name: &str) -> bool {
    let first_fits = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    first_fits
        && name.len() <= 128
        && name != RECORD
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._@+".contains(&b))
}

/// Whether a map line written of this would be read back as itself.
fn is_map_entry(key: &str, value: &str) -> bool {
    let key_fits = !key.is_empty()
        && !key.starts_with('#')
        && key.bytes().all(|b| b.is_ascii_graphic() && !b"\"'\\;".contains(&b));
    // Values may hold blanks; the key ends at the first.
    key_fits && value.trim() == value && !value.is_empty() && !value.chars().any(char::is_control)
}

/// Judges what an operator sent before any of it touches the disk; `verified`: its digests are known to fit.
///
/// # Errors
/// What is wrong with it, for people.
pub(super) fn validate(apply: &Apply, verified: bool) -> Result<(), String> {
    let bundle = &apply.bundle;
    if !verified && !bundle.verify() {
        return Err("the bundle's digests do not fit its content".to_owned());
    }
    let names = bundle
        .fragments
        .iter()
        .map(|fragment| &fragment.file)
        .chain(bundle.live.maps.keys())
        .chain(bundle.secrets.iter().map(|secret| &secret.file));
    for name in names {
        if !is_name(name) {
            return Err(format!("`{}` is not a file name that may be written", name.escape_default()));
        }
    }
    let main = main_file(bundle.proxy);
    if !bundle.fragments.iter().any(|fragment| fragment.file == main) {
        return Err(format!("the bundle has no {main}"));
    }
    if bundle.live.maps.keys().any(|name| bundle.fragments.iter().any(|fragment| fragment.file == *name)) {
        return Err("a map has the name of another file".to_owned());
    }
    for (name, map) in &bundle.live.maps {
        if let Some((key, _)) = map.iter().find(|(key, value)| !is_map_entry(key, value)) {
            return Err(format!("the entry `{}` of {name} cannot be written", key.escape_default()));
        }
    }
    if bundle.live.certificates.keys().any(|file| bundle.secrets.iter().all(|secret| secret.file != *file)) {
        return Err("a certificate is presented that is not among the secrets".to_owned());
    }
    if bundle.proxy == ProxyKind::Nginx && bundle.live != Live::default() {
        return Err("nginx cannot change servers, maps and certificates without a reload".to_owned());
    }
    for (digest, text) in &apply.secrets {
        if Digest::of([text.0.as_bytes()]) != *digest {
            return Err(format!("the secret {digest} is not what its digest says"));
        }
    }
    Ok(())
}

impl Layout {
    /// # Errors
    /// A folder whose path a configuration cannot hold.
    pub(super) fn new(options: &Options, main: PathBuf, ids: Option<Ids>) -> Result<Self, String> {
        let text = |path: &Path| {
            let fits = |b: u8| b.is_ascii_alphanumeric() || b"-._/@+".contains(&b);
            match path.to_str() {
                Some(text) if path.is_absolute() && text.bytes().all(fits) => Ok(text.to_owned()),
                _ => Err(format!("{} must be an absolute path of plain characters", path.display())),
            }
        };
        text(&options.state)?;
        Ok(Self {
            state: options.state.clone(),
            run: text(&options.run)?,
            secrets: text(&options.secrets)?,
            main,
            mounted_config: options.mounted_config,
            ids,
        })
    }

    /// The folders that the proxy needs: readable, the run folder writable, for its user.
    pub(super) fn prepare(&self) -> Result<(), String> {
        for (dir, mode) in
            [(Path::new(&self.run), 0o755), (&self.state, 0o755), (Path::new(&self.secrets), 0o700)]
        {
            self.folder(dir, mode)
                .map_err(|err| format!("the folder {} cannot be made: {err}", dir.display()))?;
        }
        Ok(())
    }

    fn folder(&self, dir: &Path, mode: u32) -> io::Result<()> {
        let made = !dir.is_dir();
        if made {
            fs::create_dir_all(dir)?;
            fs::set_permissions(dir, fs::Permissions::from_mode(mode))?;
        }
        if let Some((uid, gid)) = self.ids
            && fs::metadata(dir)?.uid() != uid
            && dir != self.state
        {
            chown(dir, Some(uid), Some(gid))?;
        }
        Ok(())
    }

    /// Refuses a main file that cannot be replaced in one step, or lies on a user's own volume.
    pub(super) fn guard_main(&self) -> Result<(), String> {
        let main = &self.main;
        let shown = main.display();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let real = main.canonicalize().unwrap_or_else(|_| main.clone());
        if mount_of(&mounts, &real) == Some(real.as_path()) {
            return Err(format!(
                "{shown} is mounted by itself, so it cannot be replaced; leave the configuration inside the \
                 container, or use the image that has the agent as its entry point"
            ));
        }
        let on_root = mount_of(&mounts, &real).is_none_or(|mount| mount == Path::new("/"));
        if !on_root && !self.mounted_config {
            return Err(format!(
                "{shown} lies on a volume, whose files are the user's own and are not touched; leave the \
                 configuration inside the container, or use the image that has the agent as its entry point"
            ));
        }
        let dir = main.parent().unwrap_or(Path::new("/"));
        let probe = dir.join(format!(".interlock-{}", std::process::id()));
        match fs::write(&probe, "") {
            Ok(()) => {
                let _ = fs::remove_file(&probe);
                Ok(())
            }
            Err(err) => Err(format!("{} cannot be written: {err}", dir.display())),
        }
    }

    /// Where a generation's files would lie, and what would stand in them.
    pub(super) fn generation(&self, bundle: &Bundle, prefix: &str) -> Generation {
        let dir = self.state.join(format!("{prefix}-{}", bundle.digest));
        let mut generation = Generation {
            dir_text: dir.to_string_lossy().into_owned(),
            dir,
            run: self.run.clone(),
            secrets: self.secrets.clone(),
            files: BTreeMap::new(),
        };
        generation.files = bundle.files(generation.paths());
        generation
    }

    /// Writes what a generation lacks of its maps, or of its main file, which comes last; the number of files
    /// that were there with another content. A map that is the same in the generation of `before` is that very file.
    pub(super) fn stage(
        &self,
        bundle: &Bundle,
        generation: &Generation,
        main: bool,
        before: Option<&Bundle>,
    ) -> Result<u32, String> {
        let failed = |err: io::Error| format!("{} cannot be written: {err}", generation.dir.display());
        self.folder(&generation.dir, 0o750).map_err(failed)?;
        let mut changed = 0;
        let part = generation.files.iter().filter(|(name, _)| (*name == main_file(bundle.proxy)) == main);
        for (name, content) in part {
            let path = generation.dir.join(name);
            match fs::read(&path) {
                Ok(there) if there == content.as_bytes() => continue,
                Ok(_) => changed += 1,
                Err(_) if self.linked(name, bundle, before, &path) => continue,
                Err(_) => {}
            }
            replace(&path, content.as_bytes(), 0o640, self.ids).map_err(failed)?;
        }
        Ok(changed)
    }

    /// Whether a map could be had from the generation before.
    fn linked(&self, name: &str, bundle: &Bundle, before: Option<&Bundle>, path: &Path) -> bool {
        let Some(before) = before.filter(|before| before.digest != bundle.digest) else { return false };
        let map = bundle.live.maps.get(name);
        let there = self.state.join(format!("gen-{}", before.digest)).join(name);
        map.is_some() && before.live.maps.get(name) == map && fs::hard_link(there, path).is_ok()
    }

    /// Keeps the bundle beside its files, as the one that the proxy boots into: what comes after is compared with it.
    pub(super) fn record(&self, bundle: &Bundle, generation: &Generation) -> io::Result<()> {
        Self::note(bundle, generation)?;
        replace(&self.state.join("applied"), bundle.digest.as_str().as_bytes(), 0o644, None)
    }

    /// Everything that the proxy needs to boot into a generation, and its record.
    pub(super) fn boots_from(&self, generation: &Generation) -> Vec<PathBuf> {
        let own = generation.files.keys().map(String::as_str).chain([RECORD]);
        own.map(|name| generation.dir.join(name))
            .chain([self.state.join("applied"), self.main.clone()])
            .collect()
    }

    /// Keeps the bundle beside its files.
    pub(super) fn note(bundle: &Bundle, generation: &Generation) -> io::Result<()> {
        let path = generation.dir.join(RECORD);
        if path.exists() {
            return Ok(());
        }
        replace(&path, &serde_json::to_vec(bundle)?, 0o600, None)
    }

    /// A bundle that was kept and has this static digest.
    pub(super) fn noted(&self, digest: &Digest) -> Option<Bundle> {
        let kept = fs::read_dir(&self.state).into_iter().flatten().flatten();
        let kept = kept.filter(|entry| entry.file_name().to_string_lossy().starts_with("gen-"));
        let mut bundles = kept.filter_map(|entry| read_record(&entry.path()));
        bundles.find(|bundle| bundle.static_digest == *digest)
    }

    /// The bundle that was applied last and that the proxy boots into.
    pub(super) fn applied(&self) -> Option<Bundle> {
        let digest: Digest = fs::read_to_string(self.state.join("applied")).ok()?.trim().parse().ok()?;
        read_record(&self.state.join(format!("gen-{digest}")))
    }

    /// Writes the secrets that are lacking; returns those that were not there before.
    pub(super) fn write_secrets(&self, apply: &Apply) -> Result<Vec<PathBuf>, String> {
        let mut fresh = Vec::new();
        for secret in &apply.bundle.secrets {
            let path = Path::new(&self.secrets).join(&secret.file);
            let there =
                fs::read(&path).is_ok_and(|content| Digest::of([content.as_slice()]) == secret.digest);
            if there {
                continue;
            }
            let Some(content) = apply.secrets.get(&secret.digest) else {
                return Err(format!("the content of the secret {} was not sent", secret.digest));
            };
            replace(&path, content.0.as_bytes(), 0o600, self.ids)
                .map_err(|err| format!("a secret cannot be written to {}: {err}", self.secrets))?;
            fresh.push(path);
        }
        Ok(fresh)
    }

    /// The folder of the secrets.
    pub(super) fn secrets(&self) -> Secrets<'_> {
        Secrets(Path::new(&self.secrets))
    }

    /// The contents of a bundle's secrets that are there.
    pub(super) fn secret_texts(&self, bundle: &Bundle) -> Vec<String> {
        let path = |file: &str| Path::new(&self.secrets).join(file);
        bundle.secrets.iter().filter_map(|secret| fs::read_to_string(path(&secret.file)).ok()).collect()
    }

    /// The main file's present content; none if there is none.
    pub(super) fn main_content(&self) -> Result<Option<Vec<u8>>, String> {
        match fs::read(&self.main) {
            Ok(content) => Ok(Some(content)),
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(err) => Err(format!("{} cannot be read: {err}", self.main.display())),
        }
    }

    /// Replaces the main file in one step; the user's own is kept beside it, once.
    /// What it was has the name that is returned, and goes when nobody waits.
    pub(super) fn switch(&self, content: &[u8]) -> Result<Option<PathBuf>, String> {
        let failed = |err: io::Error| format!("{} cannot be replaced: {err}", self.main.display());
        let mut kept = self.main.clone().into_os_string();
        kept.push(".before-interlock");
        let kept = PathBuf::from(kept);
        if !kept.exists()
            && !self.state.join("applied").exists()
            && let Some(before) = self.main_content()?
        {
            replace(&kept, &before, 0o640, self.ids).map_err(failed)?;
        }
        exchange(&self.main, content, 0o640, self.ids).map_err(failed)
    }

    /// Puts the main file back as it was.
    pub(super) fn restore(&self, before: Option<&[u8]>) -> Result<(), String> {
        let done = match before {
            Some(content) => replace(&self.main, content, 0o640, self.ids),
            None => fs::remove_file(&self.main),
        };
        done.map_err(|err| format!("{} could not be put back: {err}", self.main.display()))
    }

    /// Drops old generations and secrets that nothing refers to; what cannot be dropped stays.
    pub(super) fn collect(&self, bundle: &Bundle) {
        let mut old: Vec<(SystemTime, PathBuf)> = fs::read_dir(&self.state)
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| {
                let name = entry.file_name();
                let name = name.to_string_lossy();
                name.starts_with("check-")
                    || name.starts_with("gen-") && name != format!("gen-{}", bundle.digest)
            })
            .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
            .collect();
        old.sort_by(|a, b| b.cmp(a));
        for (_, path) in old.into_iter().skip(KEPT - 1) {
            let _ = fs::remove_dir_all(path);
        }
        let wanted: BTreeSet<&str> = bundle.secrets.iter().map(|secret| secret.file.as_str()).collect();
        for entry in fs::read_dir(&self.secrets).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let ours =
                |name: &str| name.strip_suffix(".pem").is_some_and(|stem| stem.parse::<Digest>().is_ok());
            if name.to_str().is_some_and(|name| ours(name) && !wanted.contains(name)) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

fn read_record(generation: &Path) -> Option<Bundle> {
    let text = fs::read(generation.join(RECORD)).ok()?;
    serde_json::from_slice(&text).ok().filter(Bundle::verify)
}

/// The mount that a path lies on, from `mountinfo`; its mount point is the fifth field.
fn mount_of<'a>(mountinfo: &'a str, path: &Path) -> Option<&'a Path> {
    mountinfo
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(Path::new)
        .filter(|mount| path.starts_with(mount))
        .max_by_key(|mount| mount.as_os_str().len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_single_components_are_file_names() {
        for good in ["haproxy.cfg", "hosts.map", "0123.pem", "a-b_c@d+e.f"] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", ".", "..", "../x", "/etc/passwd", "a/b", ".hidden", "a b", "a\n", "bundle.json", "-f"]
        {
            assert!(!is_name(bad), "{bad}");
        }
    }

    #[test]
    fn map_entries_that_would_not_read_back_are_refused() {
        assert!(is_map_entry("a.com/app/", "b_1"));
        for (key, value) in
            [("#a", "b"), ("a b", "c"), ("a", ""), ("a", "b\nc"), ("a;", "b"), ("a", " b"), ("", "b")]
        {
            assert!(!is_map_entry(key, value), "{key:?} {value:?}");
        }
    }

    #[test]
    fn what_is_exchanged_is_whole_and_leaves_nothing_under_the_name_of_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let main = dir.path().join("haproxy.cfg");
        let names = || -> Vec<_> {
            let mut names: Vec<_> =
                fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
            names.sort();
            names
        };
        assert_eq!(exchange(&main, b"one", 0o640, None).unwrap(), None, "there was none");
        assert_eq!(names(), std::slice::from_ref(&main));
        for (new, old) in [("two", "one"), ("three", "two"), ("", "three"), ("four", "")] {
            let replaced = exchange(&main, new.as_bytes(), 0o640, None).unwrap();
            assert_eq!(fs::read_to_string(&main).unwrap(), new);
            assert_eq!(fs::metadata(&main).unwrap().permissions().mode() & 0o777, 0o640);
            // A file system that cannot exchange leaves nothing behind.
            let Some(replaced) = replaced else { continue };
            assert_eq!(fs::read_to_string(&replaced).unwrap(), old);
            assert_eq!(names().len(), 2, "it, and what it has replaced");
        }
    }

    #[test]
    fn the_longest_mount_point_is_the_mount() {
        let info = "1 0 8:1 / / rw - ext4 x rw\n2 1 8:1 /a /etc/haproxy rw - ext4 x rw\n\
                    3 1 8:1 /b /etc/haproxy/haproxy.cfg rw - ext4 x rw\n";
        let mount = |path: &str| mount_of(info, Path::new(path)).unwrap().to_str().unwrap().to_owned();
        assert_eq!(mount("/etc/haproxy/haproxy.cfg"), "/etc/haproxy/haproxy.cfg");
        assert_eq!(mount("/etc/haproxy/other"), "/etc/haproxy");
        assert_eq!(mount("/etc/haproxyx"), "/");
    }
}
