//! Removing what agents before this one have left: their builds in a stock container, their sockets in a shared folder.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;
use std::time::Duration;

use tokio::net::UnixStream;

/// The folder that holds one folder for each build, as operators put them there.
const BUILDS: &str = ".interlock";

/// Drops the builds that were sent into this container before this process's own. One that came later belongs to
/// somebody who is about to take over; one that still runs goes on without its file.
pub(super) fn drop_older_builds() {
    if let Ok(program) = std::env::current_exe() {
        older_builds(&program);
    }
}

fn older_builds(program: &Path) {
    let Some(own) = program.parent() else { return };
    let Some(builds) = own.parent().filter(|dir| dir.file_name().is_some_and(|name| name == BUILDS)) else {
        return;
    };
    // Times in archives are made up; that of the last change to the file's record is the kernel's.
    let sent = |program: &Path| fs::metadata(program).map(|it| (it.ctime(), it.ctime_nsec())).ok();
    let Some(since) = sent(program) else { return };
    for entry in fs::read_dir(builds).into_iter().flatten().flatten() {
        let other = entry.path();
        let name = program.file_name().unwrap_or_default();
        if other != own && sent(&other.join(name)).is_some_and(|then| then < since) {
            let _ = fs::remove_dir_all(other);
        }
    }
}

/// Drops the sockets of a folder that have lain there for a while and on which nobody listens: those of containers
/// that were killed and never came back under their name.
pub(super) async fn drop_left_sockets(folder: &Path, left: Duration) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let old = entry.metadata().ok().filter(|it| it.file_type().is_socket());
        let age = old.and_then(|it| it.modified().ok()?.elapsed().ok());
        if age.is_none_or(|age| age < left) {
            continue;
        }
        let answer = UnixStream::connect(entry.path()).await;
        if answer.is_err_and(|err| err.kind() == io::ErrorKind::ConnectionRefused) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn build(home: &Path, name: &str) -> std::path::PathBuf {
        let program = home.join(name).join("interlock");
        fs::create_dir_all(program.parent().unwrap()).unwrap();
        fs::write(&program, name).unwrap();
        program
    }

    /// A file system's clock may tick as rarely as every few milliseconds.
    fn after(earlier: &Path, home: &Path, name: &str) -> std::path::PathBuf {
        let time = |program: &Path| fs::metadata(program).map(|it| (it.ctime(), it.ctime_nsec())).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let program = build(home, name);
            if time(&program) > time(earlier) {
                return program;
            }
            assert!(Instant::now() < deadline, "time stands still");
        }
    }

    #[test]
    fn older_builds_go_and_newer_ones_stay() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join(BUILDS);
        let old = build(&home, "old");
        let own = after(&old, &home, "own");
        let newer = after(&own, &home, "newer");
        older_builds(&own);
        assert_eq!([&old, &own, &newer].map(|program| program.exists()), [false, true, true]);
    }

    #[test]
    fn a_program_that_nobody_sent_clears_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let old = build(dir.path(), "old");
        let own = after(&old, dir.path(), "own");
        older_builds(&own);
        assert!(old.exists(), "the folder is not ours");
    }

    #[tokio::test]
    async fn sockets_that_nobody_listens_on_go() {
        let dir = tempfile::tempdir().unwrap();
        let [left, served, file] =
            ["left.sock", "served.sock", "file.sock"].map(|name| dir.path().join(name));
        drop(tokio::net::UnixListener::bind(&left).unwrap());
        let _listener = tokio::net::UnixListener::bind(&served).unwrap();
        fs::write(&file, "").unwrap();
        drop_left_sockets(dir.path(), Duration::from_mins(1)).await;
        assert!(left.exists(), "it may be about to be served");
        drop_left_sockets(dir.path(), Duration::ZERO).await;
        assert_eq!([&left, &served, &file].map(|path| path.exists()), [false, true, true]);
    }
}
