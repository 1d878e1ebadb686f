//! Store: what must survive a restart of the operator: what the loop must not forget, and the objects that were applied.

mod directory;
mod history;
mod kept;
mod object;
mod objects;
mod rendered;

use std::io;
use std::path::PathBuf;

pub use directory::Directory;
pub use history::{History, Revision};
pub use kept::{Kept, Store};
pub use object::{Batch, Change, Content, Key, Spec, Stored, Written};
pub use objects::{
    Asked, CONFIGURATION, Done, Expired, Feed, HELD, Happened, IMPLICIT, News, ORIGIN, OWNER, Objects,
    Others, Outcome, Put, Refusal, Seen, Selector,
};
pub use rendered::{Pieces, Rendered};

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The directory or file cannot be read or written.
    #[error("cannot use the state directory `{}`", path.display())]
    Io {
        /// Which path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is damaged.
    #[error("`{}` is damaged ({why}); move it away to start without what it remembers", path.display())]
    Damaged {
        /// Which path.
        path: PathBuf,
        /// Where and how.
        why: String,
    },
    /// A newer Interlock wrote it.
    #[error(
        "`{}` was written by a newer Interlock (format {found}, this one knows {known}); \
         run that version, or move the file away to start without what it remembers",
        path.display()
    )]
    Newer {
        /// Which path.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format that this version knows.
        known: u32,
    },
    /// It holds a document that this version does not understand.
    #[error(
        "`{}` holds `{document}`, which this version does not understand: {why}; run the version that wrote it, or \
         move the file away and apply the documents again",
        path.display()
    )]
    Unknown {
        /// Which path.
        path: PathBuf,
        /// Which document.
        document: String,
        /// What of it is not understood.
        why: String,
    },
    /// Another operator has it.
    #[error("another operator uses the state directory `{}`; stop it, or set another by `stateDirectory`", path.display())]
    Busy {
        /// Which directory.
        path: PathBuf,
    },
    /// A write failed in a way after which nobody knows what is on disk.
    #[error("a write to `{}` failed before, so that nobody knows what is on disk: restart the operator", path.display())]
    Broken {
        /// Which path.
        path: PathBuf,
    },
}

/// Where objects lie. Whoever implements it answers for one promise: what `commit` said is done is there after any
/// death of the process or the machine, whole.
pub trait Backend: Send + std::fmt::Debug {
    /// Makes a batch durable, all of it or nothing, before it returns. `after` is everything with the batch in it.
    fn commit(&mut self, batch: &Batch, after: &Content) -> Result<(), StoreError>;
}
