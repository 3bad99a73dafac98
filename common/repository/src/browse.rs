//! Looks at single objects: `repo-ls` and `repo-get`.
//!
//! Two trees show the same objects. Ours is that of `FORMAT.md`, by the names that objects have. Beside it stand
//! pgBackRest's `archive/<stanza>/<archive id>/..` and `backup/<stanza>/..`, for monitors that look into a repository
//! (check_pgbackrest lists `archive/<stanza>/<id>` with `--recurse`, takes the first 24 digits of a file's name for its
//! segment, and gets `<timeline>.history` from the top of the archive; of `backup/<stanza>` it wants labels as paths):
//!
//! | shown | is |
//! |---|---|
//! | `archive/<stanza>/<id>/<16 hex>/<file>` | `<stanza>/wal/<id>/<16 hex>/<file>`, without pgBackRest's SHA-1 and suffix |
//! | `archive/<stanza>/<id>/<timeline>.history` | `<stanza>/wal/<id>/<timeline>/<timeline>.history` |
//! | `backup/<stanza>/<label>/..` | `<stanza>/backup/<label>/..` of published backups |
//! | `backup/<stanza>/<label>/backup.manifest` | `<stanza>/backup/<label>/manifest` |
//!
//! A stanza named `archive` or `backup` hides these trees: its own comes first.
//!
//! Invariants
//! 1. Nothing is changed, and nothing outside the repository is reached: paths go through the storage's own check.
//! 2. An object is handed out decrypted only after its tags were checked; a WAL file only with its SHA-1 proved at the end,
//!    where failing is told.

mod get;
mod list;
mod path;
mod shown;

pub use get::{Content, get};
pub use list::{ListRequest, Listed, ListedKind, SortOrder, list, to_json, to_text};

use pgconvoy_core::failure::{Classify, ErrorCode};

#[derive(Debug, thiserror::Error)]
pub enum BrowseError {
    #[error(transparent)]
    Repository(#[from] crate::error::RepositoryError),
    #[error(transparent)]
    Storage(#[from] pgconvoy_storage::StorageError),
    #[error("'{path}' is no path in a repository: {reason}")]
    Path { path: String, reason: String },
    #[error("{place}/{path} does not exist")]
    Missing { place: String, path: String },
    #[error("{place}/{path} is not an object of a kind that is known")]
    UnknownKind { place: String, path: String },
    #[error("the object cannot be written out: {0}")]
    Output(std::io::Error),
}

impl Classify for BrowseError {
    fn code(&self) -> ErrorCode {
        match self {
            BrowseError::Repository(error) => error.code(),
            BrowseError::Storage(error) => error.code(),
            BrowseError::Path { .. } => ErrorCode::ParamInvalid,
            BrowseError::Missing { .. } => ErrorCode::FileMissing,
            BrowseError::UnknownKind { .. } => ErrorCode::Format,
            BrowseError::Output(_) => ErrorCode::FileWrite,
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            BrowseError::Repository(error) => error.hints(),
            BrowseError::Storage(error) => error.hints(),
            BrowseError::Missing { .. } => vec!["repo-ls shows what there is".to_owned()],
            BrowseError::UnknownKind { .. } => vec!["--raw hands it out as it is stored".to_owned()],
            BrowseError::Path { .. } | BrowseError::Output(_) => Vec::new(),
        }
    }
}
