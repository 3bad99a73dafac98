//! Files as such: what a plain repository keeps beside its objects (`FORMAT.md` section 4a, `ARCHITECTURE.md`, "Plain repositories").
//!
//! ```text
//! backup/<label>.partial/<plan>/<unit>-<attempt>/<path>   an attempt's files           attempt
//! backup/<label>.partial/data/                            while it is put together     tree
//! backup/<label>/data/                                    what the catalogue stands for
//! ```
//!
//! It is not: a store. Objects go through [`pgconvoy_storage`]; here are whole files, links and directories of the one kind of store
//! that has them.
//!
//! Invariants
//! 1. A file is written once, by one attempt, into an inode of its own, and synced before its pack is complete. It is read-only from
//!    then on, and whatever becomes of it (a name in the data directory, a name in that of a later backup) is one more link to it.
//! 2. `data` gets its name as a whole, after the manifest is there and before the catalogue entry.
//! 3. No path out of a footer or a manifest is followed before it is proved to be relative and normalised, and a file that
//!    is itself a link is none. Who may write to the repository's directories is trusted not to put links in their place.
//!
//! Failure story: whoever dies leaves `<label>.partial`, which goes when its label is void, or when a backup after it ends well.

mod attempt;
mod check;
mod read;
mod sweep;
mod tree;

pub use attempt::PlainAttempt;
pub(crate) use read::PlainFrames;

use crate::error::RepositoryError;
use pgconvoy_core::format::layout::{self, PackName};
use pgconvoy_core::format::plain::place;
use pgconvoy_core::ids::StanzaName;
use pgconvoy_storage::{IoAction, Place, Storage, StorageError};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use std::fs::{DirBuilder, File, Metadata};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::sync::Arc;

/// What PostgreSQL demands of its directories at least; a cluster with group access gets more.
const DIRECTORY_MODE: u32 = 0o700;
/// Nobody writes to it again. The group may read, as it may read objects.
const FILE_MODE: u32 = 0o440;

/// Where files lie. Calls block.
#[derive(Debug, Clone)]
pub struct PlainFiles {
    root: PathBuf,
    store: Arc<str>,
}

impl PlainFiles {
    pub(crate) fn of(storage: &dyn Storage) -> Result<PlainFiles, RepositoryError> {
        match storage.directory() {
            Some(root) => Ok(PlainFiles { root: root.to_owned(), store: storage.describe().into() }),
            None => Err(RepositoryError::NoDirectory { place: storage.describe() }),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn error(&self, name: &str, action: IoAction, errno: Errno) -> RepositoryError {
        StorageError::from_errno(self.place(name), action, errno).into()
    }

    fn failed<'a>(&'a self, name: &'a str, action: IoAction) -> impl Fn(io::Error) -> RepositoryError + 'a {
        move |error| self.error(name, action, Errno::from_io_error(&error).unwrap_or(Errno::IO))
    }

    /// A name that is no key is told without it.
    fn place(&self, name: &str) -> Place {
        Place::new(self.store.clone(), name.parse().ok().as_ref())
    }

    fn contradiction(&self, object: &str, reason: impl Into<String>) -> RepositoryError {
        RepositoryError::Contradiction {
            place: self.store.to_string(),
            object: object.to_owned(),
            reason: reason.into(),
        }
    }

    /// A file that a pack tells of: in its backup's data directory once that is there, until then where the attempt put it.
    fn open(
        &self,
        stanza: &StanzaName,
        pack: PackName,
        path: &str,
    ) -> Result<(File, String), RepositoryError> {
        let published = published(stanza, pack, path);
        match self.open_file(&published) {
            Err(Errno::NOENT) => {}
            opened => {
                let file = opened.map_err(|errno| self.error(&published, IoAction::Open, errno))?;
                return Ok((file, published));
            }
        }
        let attempted = attempted(stanza, pack, path);
        match self.open_file(&attempted) {
            // Which of the two it should have been is for the published one to say.
            Err(Errno::NOENT) => Err(self.error(&published, IoAction::Open, Errno::NOENT)),
            opened => {
                let file = opened.map_err(|errno| self.error(&attempted, IoAction::Open, errno))?;
                Ok((file, attempted))
            }
        }
    }

    /// Never through a link, and never waiting for somebody at the other end.
    fn open_file(&self, name: &str) -> Result<File, Errno> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(CWD, self.path(name), flags, Mode::empty())?);
        let metadata = file.metadata().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        if metadata.is_file() { Ok(file) } else { Err(Errno::ISDIR) }
    }

    fn look(&self, name: &str) -> Result<Option<Metadata>, RepositoryError> {
        match self.path(name).symlink_metadata() {
            Ok(metadata) => Ok(Some(metadata)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed(name, IoAction::Open)(error)),
        }
    }

    /// One more directory; those above it are there, or the repository is not.
    fn make_directory(&self, name: &str, mode: u32) -> Result<(), RepositoryError> {
        match DirBuilder::new().mode(mode).create(self.path(name)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match self.look(name)? {
                Some(found) if found.is_dir() => Ok(()),
                _ => Err(self.error(name, IoAction::CreatePath, Errno::NOTDIR)),
            },
            made => made.map_err(self.failed(name, IoAction::CreatePath)),
        }
    }

    fn sync_directory(&self, name: &str) -> Result<(), RepositoryError> {
        let opened = File::open(self.path(name)).map_err(self.failed(name, IoAction::Open))?;
        opened.sync_all().map_err(self.failed(name, IoAction::SyncPath))
    }
}

fn published(stanza: &StanzaName, pack: PackName, path: &str) -> String {
    format!("{}/{}", layout::data(stanza, pack.label), place(path))
}

fn attempted(stanza: &StanzaName, pack: PackName, path: &str) -> String {
    format!("{}/{path}", pack.files(stanza))
}

/// Runs what blocks where blocking is allowed.
async fn blocking<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> Result<T, RepositoryError> + Send + 'static,
) -> Result<T, RepositoryError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| RepositoryError::Interrupted { what })?
}
