//! Everything that can be wrong with a repository, in one enum.

use crate::codec::CodecError;
use crate::keys::KeyError;
use crate::object::ObjectReader;
use crate::seal::SealError;
use pgconvoy_core::config::Layout;
use pgconvoy_core::failure::{Classify, ErrorCode, Retry};
use pgconvoy_core::format::FormatError;
use pgconvoy_core::ids::StanzaName;
use pgconvoy_storage::StorageError;

#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("{place}/{object}: {source}")]
    Format { place: String, object: String, source: FormatError },
    #[error("{place}: {source}")]
    Seal { place: String, source: SealError },
    #[error("{place}/{object}: {source}")]
    Codec { place: String, object: String, source: CodecError },
    #[error("{place}/{object} is not what refers to it says: {reason}")]
    Contradiction { place: String, object: String, reason: String },
    #[error("{place}/{object} is missing, and something refers to it")]
    Missing { place: String, object: String },
    #[error("{place} is not a pgconvoy repository")]
    NotARepository { place: String },
    #[error("{place} has no identity (pgconvoy.repo), but holds '{found}'")]
    LostIdentity { place: String, found: String },
    #[error("{place} is encrypted, and its configuration names no key")]
    NoKey { place: String },
    #[error("{place} is not encrypted, but its configuration says cipher aes-256-gcm")]
    NotEncrypted { place: String },
    #[error("{place} has layout {found}, but its configuration says {wanted}")]
    OtherLayout { place: String, found: Layout, wanted: Layout },
    #[error("{place} cannot have layout plain: it is no directory of this host")]
    NoDirectory { place: String },
    #[error("{place} cannot have layout plain and a cipher")]
    PlainAndEncrypted { place: String },
    #[error("{place} lets no key slot be opened by the configured secret")]
    NoSlot { place: String },
    #[error("{place}/{object} is not encrypted, in an encrypted repository")]
    Downgrade { place: String, object: String },
    #[error("stanza {stanza} does not exist in {place}")]
    NoStanza { place: String, stanza: StanzaName },
    #[error("stanza {stanza} in {place} {difference}")]
    OtherCluster { place: String, stanza: StanzaName, difference: String },
    #[error("{place} has another {name} already, with other content")]
    Duplicate { place: String, name: String },
    #[error("backup {label} in {place} was given up: {reason}")]
    Void { place: String, label: String, reason: String },
    #[error("backup {label} is being written to {place} by process {process} on host {host}")]
    Busy { place: String, label: String, host: String, process: u32 },
    #[error("{place} does not refuse to overwrite an object")]
    Overwrites { place: String },
    #[error("{place} does not take an object only where there is none: {reason}")]
    NoCreateOnly { place: String, reason: String },
    #[error("{place} did not answer within {seconds} s")]
    Unreachable { place: String, seconds: u64 },
    #[error("{what} was interrupted")]
    Interrupted { what: &'static str },
}

impl RepositoryError {
    /// Whether an object is there and is not what it should be, whichever layer found that out.
    pub fn is_damage(&self) -> bool {
        match self {
            RepositoryError::Format { source: FormatError::Version { .. }, .. } => false,
            RepositoryError::Format { .. }
            | RepositoryError::Codec { .. }
            | RepositoryError::Contradiction { .. } => true,
            RepositoryError::Seal { source, .. } => {
                matches!(source.code(), ErrorCode::Checksum | ErrorCode::Crypto)
            }
            RepositoryError::Storage(StorageError::Truncated { .. } | StorageError::TooLarge { .. }) => true,
            _ => false,
        }
    }

    /// Whether asking again, as somebody else, or with a newer version of this program could not bring the object.
    pub(crate) fn is_loss(&self) -> bool {
        self.is_damage() || ObjectReader::is_absence(self)
    }
}

impl Classify for RepositoryError {
    fn code(&self) -> ErrorCode {
        use RepositoryError as E;
        match self {
            E::Storage(error) => error.code(),
            E::Key(error) => error.code(),
            E::Format { source, .. } => source.code(),
            E::Seal { source, .. } => source.code(),
            E::Codec { source, .. } => source.code(),
            E::Contradiction { .. } => ErrorCode::Checksum,
            E::Missing { .. } | E::NoStanza { .. } => ErrorCode::FileMissing,
            E::NotARepository { .. }
            | E::LostIdentity { .. }
            | E::NotEncrypted { .. }
            | E::OtherLayout { .. }
            | E::NoDirectory { .. }
            | E::PlainAndEncrypted { .. }
            | E::Overwrites { .. }
            | E::NoCreateOnly { .. } => ErrorCode::RepoInvalid,
            E::NoKey { .. } | E::NoSlot { .. } | E::Downgrade { .. } => ErrorCode::Crypto,
            E::OtherCluster { .. } => ErrorCode::DbMismatch,
            E::Duplicate { .. } => ErrorCode::ArchiveDuplicate,
            E::Void { .. } => ErrorCode::BackupSetInvalid,
            E::Busy { .. } => ErrorCode::LockAcquire,
            E::Unreachable { .. } => ErrorCode::HostConnect,
            E::Interrupted { .. } => ErrorCode::Term,
        }
    }

    fn retry(&self) -> Retry {
        match self {
            RepositoryError::Storage(error) => error.retry(),
            RepositoryError::Unreachable { .. } => Retry::MayHelp,
            _ => Retry::IsFutile,
        }
    }

    fn hints(&self) -> Vec<String> {
        use RepositoryError as E;
        let one = |hint: &str| vec![hint.to_owned()];
        match self {
            E::Storage(error) if error.is_not_found() => vec![
                "does the path exist, and is its file system mounted?".into(),
                "run stanza-create to make a new repository there".into(),
            ],
            E::Storage(error) => error.hints(),
            E::Key(error) => error.hints(),
            E::Format { source, .. } => source.hints(),
            E::Seal { source, .. } => source.hints(),
            E::Codec { source, .. } => source.hints(),
            E::Contradiction { .. } | E::Missing { .. } => {
                one("run verify to learn what else is damaged, and take it from another repository")
            }
            E::NotARepository { .. } => vec![
                "is the path right, and the filesystem mounted?".into(),
                "stanza-create makes a new repository in an empty place".into(),
            ],
            E::LostIdentity { .. } => vec![
                "if it is a repository, restore its pgconvoy.repo from a copy: without it nothing there can be opened".into(),
                "if it is not, choose an empty place".into(),
            ],
            E::NoKey { .. } => {
                one("set cipher = \"aes-256-gcm\" and key-file (or passphrase-file, key-command)")
            }
            E::NotEncrypted { .. } => {
                one("set cipher = \"none\", or use another path for an encrypted repository")
            }
            E::OtherLayout { found, .. } => vec![
                format!("set layout = \"{found}\": a repository keeps the layout that it was made with"),
                "for the other layout, use another path".into(),
            ],
            E::NoDirectory { .. } => one("use type = \"posix\", or layout = \"packed\""),
            E::PlainAndEncrypted { .. } => {
                one("remove the cipher and its key, or use layout = \"packed\"")
            }
            E::NoSlot { .. } => {
                one("repo-key list shows which secrets open it; without one of them its backups are lost")
            }
            E::Downgrade { .. } => one("somebody without the key put it there: do not trust this repository"),
            E::NoStanza { .. } => one("run stanza-create"),
            E::OtherCluster { .. } => vec![
                "is pg path of the stanza the right data directory?".into(),
                "after an upgrade of PostgreSQL, run stanza-upgrade".into(),
            ],
            E::Duplicate { .. } => vec![
                "is this stanza's archive_command used by two clusters?".into(),
                "was the cluster restored, promoted and started without a new timeline?".into(),
            ],
            E::Void { .. } => one("its writer was taken for dead while it slept; back up again"),
            E::Busy { .. } => one("wait for it, or stop that process"),
            E::Overwrites { .. } | E::NoCreateOnly { .. } => vec![
                "two writers would destroy each other's backups there: use another store".into(),
                "create-only = \"lock\" guards it by locks on each host instead, if WAL and backups come from one host or one fleet"
                    .into(),
            ],
            E::Unreachable { .. } => one("is the file system mounted, and its server up?"),
            E::Interrupted { .. } => Vec::new(),
        }
    }
}
