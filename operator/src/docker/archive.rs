//! Archives: for uploads a few folders and one file, owned by root, whole or piece by piece; and the files of a download.

use std::collections::BTreeMap;
use std::io::{self, Read as _};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _, stream};
use tokio::io::AsyncRead;
use tokio_util::io::ReaderStream;

/// A tar archive is made of blocks of this many bytes (POSIX.1-1988, ustar).
const BLOCK: u64 = 512;

/// What an archive holds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry<'a> {
    /// Folders, each on its own, outermost first.
    pub(crate) folders: &'a [&'a str],
    /// The file's path.
    pub(crate) file: &'a str,
    /// The file's size in bytes.
    pub(crate) size: u64,
    /// The file's mode.
    pub(crate) mode: u32,
}

impl Entry<'_> {
    /// The archive with this content, which must be `size` bytes long.
    pub(crate) fn whole(self, content: &[u8]) -> Bytes {
        let mut bytes = BytesMut::from(&self.head()[..]);
        bytes.extend_from_slice(content);
        bytes.extend_from_slice(&self.tail());
        bytes.freeze()
    }

    /// The archive piece by piece, with what `content` yields: a large file never lies in memory as a whole.
    pub(crate) fn stream(
        self,
        content: impl AsyncRead + Send + 'static,
    ) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
        let (head, tail) = (self.head(), self.tail());
        stream::iter([Ok(head)]).chain(ReaderStream::new(content)).chain(stream::iter([Ok(tail)]))
    }

    fn head(self) -> Bytes {
        let mut bytes = BytesMut::new();
        for folder in self.folders {
            bytes.extend_from_slice(header(folder, tar::EntryType::Directory, 0, 0o755).as_bytes());
        }
        bytes.extend_from_slice(header(self.file, tar::EntryType::Regular, self.size, self.mode).as_bytes());
        bytes.freeze()
    }

    /// Zeros up to the next block, and two empty blocks.
    fn tail(self) -> Bytes {
        let padding = (BLOCK - self.size % BLOCK) % BLOCK + 2 * BLOCK;
        Bytes::from(vec![0; usize::try_from(padding).unwrap_or(0)])
    }
}

/// The regular files of an archive by the last component of their path; links and the like are left out.
pub(crate) fn files(archive: &[u8]) -> io::Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(archive).entries()? {
        let mut entry = entry?;
        let name = entry.path()?.file_name().map(|name| name.to_string_lossy().into_owned());
        if let Some(name) = name.filter(|_| entry.header().entry_type().is_file()) {
            let mut content = Vec::new();
            entry.read_to_end(&mut content)?;
            files.insert(name, content);
        }
    }
    Ok(files)
}

fn header(path: &str, kind: tar::EntryType, size: u64, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    // Fails only for a path that the header cannot hold; ours are constants and digests.
    let _ = header.set_path(path);
    header.set_cksum();
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whole_and_in_pieces_are_the_same_archive() {
        for length in [0_usize, 1, 511, 512, 513, 100_000] {
            let content: Vec<u8> = (0..length).map(|n| u8::try_from(n % 251).unwrap()).collect();
            let entry = Entry { folders: &["a", "a/b"], file: "a/b/c", size: length as u64, mode: 0o755 };
            let pieces: Vec<Bytes> =
                entry.stream(io::Cursor::new(content.clone())).map(|piece| piece.unwrap()).collect().await;
            assert_eq!(pieces.concat(), entry.whole(&content));
            let archive = entry.whole(&content);
            assert_eq!(tar::Archive::new(&archive[..]).entries().unwrap().count(), 3);
            assert_eq!(files(&archive).unwrap(), BTreeMap::from([("c".to_owned(), content)]));
        }
    }
}
