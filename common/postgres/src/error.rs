//! What can go wrong between us, a PostgreSQL server and its directory, with the number and the hint for each.

use pgconvoy_core::failure::{Classify, ErrorCode, Retry};
use pgconvoy_core::ids::{Oid, SystemId};
use pgconvoy_core::pg::Lsn;
use pgconvoy_core::pg::version::VersionError;
use std::path::PathBuf;
use std::time::Duration;
use tokio_postgres::error::SqlState;

#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    #[error("unable to connect to PostgreSQL at {place}: {reason}")]
    Connect { place: String, reason: String },
    #[error("PostgreSQL at {place} refused user '{user}': {reason}")]
    Authentication { place: String, user: String, reason: String },
    #[error("TLS with PostgreSQL at {place} failed: {reason}")]
    Tls { place: String, reason: String },
    #[error("TLS mode '{mode}' for PostgreSQL at {place} needs a CA file")]
    TlsCaMissing { place: String, mode: &'static str },
    #[error("unable to use CA file '{path}': {reason}")]
    TlsCaInvalid { path: PathBuf, reason: String },
    #[error("a connection pooler answers at {place}: {evidence}")]
    Pooler { place: String, evidence: String },
    #[error("PostgreSQL at {place} ended the session while asked to {what}: {reason}")]
    Lost { place: String, what: &'static str, reason: String },
    #[error("PostgreSQL at {place} did not {what} within {} s", timeout.as_secs())]
    Timeout { place: String, what: &'static str, timeout: Duration },
    #[error("PostgreSQL at {place} could not {what}: {reason}")]
    Query { place: String, what: &'static str, reason: String, permission: bool },
    #[error("unable to read setting '{name}' as user '{user}'")]
    SettingHidden { name: &'static str, user: String },
    #[error("PostgreSQL at {place} gave '{value}' for {what}, which cannot be understood: {reason}")]
    Answer { place: String, what: &'static str, value: String, reason: String },

    #[error("PostgreSQL at {place} has changed since the backup started: {what} was {before}, is {now}")]
    Changed { place: String, what: &'static str, before: String, now: String },
    #[error("PostgreSQL at {place} is in recovery")]
    InRecovery { place: String },
    #[error("PostgreSQL at {place} is not in recovery: it is no standby, or none any more")]
    NotInRecovery { place: String },
    #[error("the standby at {place} has replayed WAL up to {replayed} only, {wanted} is needed{}; {} s were not enough", if *is_paused { ", and its replay is paused" } else { "" }, waited.as_secs())]
    StandbyBehind { place: String, replayed: Lsn, wanted: Lsn, is_paused: bool, waited: Duration },
    #[error("the clock of PostgreSQL at {place} did not reach its next second within {} s", timeout.as_secs())]
    ClockStands { place: String, timeout: Duration },
    #[error("PostgreSQL did not finish stopping the backup within {} s because WAL archiving is not done; archive_command is '{archive_command}'", timeout.as_secs())]
    StopTimeout { archive_command: String, timeout: Duration },

    #[error("archive_mode must be enabled for an online backup")]
    ArchiveDisabled,
    #[error("archive_mode=always is not supported")]
    ArchiveAlways,
    #[error("{setting} '{value}' must call pgconvoy")]
    ArchiveCommand { setting: &'static str, value: String },
    #[error("wal_level must be replica or higher for an online backup, it is '{0}'")]
    WalLevel(String),

    #[error("unable to {what} '{path}': {error}")]
    File { what: &'static str, path: PathBuf, error: std::io::Error },
    #[error("'{path}' is not valid: {reason}")]
    FileInvalid { path: PathBuf, reason: String },
    #[error("a name in '{directory}' is not valid UTF-8: '{name}'")]
    NameEncoding { directory: PathBuf, name: String },
    #[error("PostgreSQL is running on '{directory}', or did not shut down cleanly")]
    Running { directory: PathBuf },
    #[error("'{directory}' is not the directory of the PostgreSQL at {place}: {reason}")]
    NotLive { directory: PathBuf, place: String, reason: String },
    #[error("system identifier in '{directory}' is {found}, PostgreSQL at {place} has {expected}")]
    SystemMismatch { directory: PathBuf, place: String, found: SystemId, expected: SystemId },
    #[error("'{path}' is gone or is another directory than when the backup started")]
    RootGone { path: PathBuf, tablespace: Option<Oid> },

    #[error("'{path}' in pg_tblspc is not a symbolic link")]
    LinkExpected { path: String },
    #[error("tablespace {oid} in pg_tblspc is not known to PostgreSQL")]
    TablespaceUnknown { oid: String },
    #[error("link '{path}' points to '{destination}', which is a link itself")]
    LinkToLink { path: String, destination: PathBuf },
    #[error("link '{path}' points to '{destination}', which is in the data directory")]
    LinkInside { path: String, destination: PathBuf },
    #[error(
        "links '{first}' and '{second}' point to the same or nested directories: '{first_destination}' and '{second_destination}'"
    )]
    LinkOverlap { first: String, first_destination: PathBuf, second: String, second_destination: PathBuf },
    #[error("link '{path}' points to '{destination}', which does not exist")]
    LinkDangling { path: String, destination: PathBuf },
    #[error(transparent)]
    Version(#[from] VersionError),
    #[error("'{path}' must exist in a data directory")]
    Missing { path: PathBuf },
}

impl PostgresError {
    pub(crate) fn file(
        what: &'static str,
        path: impl Into<PathBuf>,
        error: impl Into<std::io::Error>,
    ) -> Self {
        PostgresError::File { what, path: path.into(), error: error.into() }
    }

    /// Judges what the driver reports for a statement.
    pub(crate) fn from_statement(place: &str, what: &'static str, error: &tokio_postgres::Error) -> Self {
        let place = place.to_owned();
        let reason = reason_of(error);
        match error.code() {
            Some(code) if ends_session(code) => PostgresError::Lost { place, what, reason },
            Some(code) => {
                let permission = *code == SqlState::INSUFFICIENT_PRIVILEGE;
                PostgresError::Query { place, what, reason, permission }
            }
            None if error.is_closed() || has_io_cause(error) => PostgresError::Lost { place, what, reason },
            None => PostgresError::Query { place, what, reason, permission: false },
        }
    }
}

/// Shutdown, crash of another backend, database dropped: the backend that said so is no more.
pub(crate) fn ends_session(code: &SqlState) -> bool {
    [
        SqlState::ADMIN_SHUTDOWN,
        SqlState::CRASH_SHUTDOWN,
        SqlState::CANNOT_CONNECT_NOW,
        SqlState::DATABASE_DROPPED,
        SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
        SqlState::IDLE_SESSION_TIMEOUT,
    ]
    .contains(code)
}

fn has_io_cause(error: &tokio_postgres::Error) -> bool {
    std::error::Error::source(error).is_some_and(|cause| cause.is::<std::io::Error>())
}

/// One line with every cause; a server's own message alone where there is one.
pub(crate) fn reason_of(error: &tokio_postgres::Error) -> String {
    if let Some(database) = error.as_db_error() {
        let mut reason = database.message().to_owned();
        for more in [database.detail(), database.hint()].into_iter().flatten() {
            reason.push_str("; ");
            reason.push_str(more);
        }
        return reason;
    }
    let mut reason = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        reason.push_str(": ");
        reason.push_str(&inner.to_string());
        cause = inner.source();
    }
    reason
}

impl Classify for PostgresError {
    fn code(&self) -> ErrorCode {
        use PostgresError as E;
        match self {
            E::Connect { .. }
            | E::Authentication { .. }
            | E::Tls { .. }
            | E::Pooler { .. }
            | E::Lost { .. } => ErrorCode::DbConnect,
            E::TlsCaMissing { .. } => ErrorCode::OptionRequired,
            E::TlsCaInvalid { .. } => ErrorCode::OptionInvalidValue,
            E::Timeout { .. } | E::Query { .. } | E::SettingHidden { .. } | E::Answer { .. } => {
                ErrorCode::DbQuery
            }
            E::Changed { .. }
            | E::InRecovery { .. }
            | E::NotInRecovery { .. }
            | E::NotLive { .. }
            | E::SystemMismatch { .. } => ErrorCode::DbMismatch,
            E::ClockStands { .. } => ErrorCode::Clock,
            E::StopTimeout { .. } | E::StandbyBehind { .. } => ErrorCode::ArchiveTimeout,
            E::ArchiveDisabled => ErrorCode::ArchiveDisabled,
            E::ArchiveAlways => ErrorCode::NotSupported,
            E::ArchiveCommand { .. } => ErrorCode::ArchiveCommandInvalid,
            E::WalLevel(_) => ErrorCode::Config,
            E::File { .. } => ErrorCode::FileRead,
            E::FileInvalid { .. } | E::NameEncoding { .. } => ErrorCode::FileInvalid,
            E::Running { .. } => ErrorCode::PgRunning,
            E::RootGone { .. } => ErrorCode::PathMissing,
            E::LinkExpected { .. } => ErrorCode::LinkExpected,
            E::TablespaceUnknown { .. } => ErrorCode::TablespaceMap,
            E::LinkToLink { .. } | E::LinkInside { .. } | E::LinkOverlap { .. } => ErrorCode::LinkDestination,
            E::LinkDangling { .. } | E::Missing { .. } => ErrorCode::FileMissing,
            E::Version(error) => error.code(),
        }
    }

    fn retry(&self) -> Retry {
        use PostgresError as E;
        match self {
            E::Connect { .. } | E::Lost { .. } | E::Timeout { .. } | E::StopTimeout { .. } => Retry::MayHelp,
            // Created or dropped between the listing of pg_tablespace and the scan: the next listing knows it.
            E::TablespaceUnknown { .. } | E::RootGone { tablespace: Some(_), .. } => Retry::MayHelp,
            _ => Retry::IsFutile,
        }
    }

    fn hints(&self) -> Vec<String> {
        if let PostgresError::Version(error) = self {
            return error.hints();
        }
        hint(self).map(|text| vec![text.to_owned()]).unwrap_or_default()
    }
}

fn hint(error: &PostgresError) -> Option<&'static str> {
    hint_about_server(error).or_else(|| hint_about_files(error))
}

fn hint_about_server(error: &PostgresError) -> Option<&'static str> {
    use PostgresError as E;
    Some(match error {
        E::Connect { .. } => {
            "is PostgreSQL running, and are host, port and socket-path of the stanza those of this cluster?"
        }
        E::Authentication { .. } => {
            "check user and password of the stanza, and the line of pg_hba.conf that matches this connection."
        }
        E::Tls { .. } => {
            "check the server's certificate, the CA file and that the host name is the one in the certificate."
        }
        E::TlsCaMissing { .. } => {
            "name the file with the certificate authority that signed the server's certificate."
        }
        E::TlsCaInvalid { .. } => "the file must be readable and hold at least one certificate in PEM form.",
        E::Pooler { .. } => {
            "a backup needs a session of its own: connect to PostgreSQL itself, by its socket or its own port."
        }
        E::Lost { .. } => "was PostgreSQL restarted, or the session terminated? The server's log says which.",
        E::Timeout { .. } => {
            "is a checkpoint or a lock in the way? start-fast shortens the first, db-timeout allows more time."
        }
        E::Query { permission: true, .. } => {
            "connect as a superuser, or grant the user EXECUTE on PostgreSQL's backup functions."
        }
        E::SettingHidden { .. } => {
            "connect as a superuser, or grant the role pg_read_all_settings to the user (PostgreSQL 10 or newer)."
        }
        E::Changed { .. } => "a backup does not survive a restart or a promotion: start it again.",
        E::InRecovery { .. } => {
            "backups start and stop on the primary: add it to the stanza, or wait until this server is promoted."
        }
        E::NotInRecovery { .. } => "was it promoted? What it gave to the backup does not count.",
        E::StandbyBehind { .. } => {
            "is it connected to its primary, and does recovery_min_apply_delay or a paused replay hold it back?"
        }
        E::ClockStands { .. } => {
            "was the clock of the database host set back? Wait until time synchronisation has settled."
        }
        E::StopTimeout { .. } => {
            "PostgreSQL 9.6 waits for archiving itself: look at the server's log for failures of archive_command."
        }
        E::ArchiveDisabled => {
            "set archive_mode=on and archive_command='pgconvoy --stanza=NAME archive-push %p', then restart PostgreSQL."
        }
        E::ArchiveAlways => {
            "use archive_mode=on, or --no-archive-mode-check if archiving from several servers is intended."
        }
        E::ArchiveCommand { .. } => {
            "set archive_command='pgconvoy --stanza=NAME archive-push %p' and reload PostgreSQL."
        }
        E::WalLevel(_) => "set wal_level=replica and restart PostgreSQL.",
        _ => return None,
    })
}

fn hint_about_files(error: &PostgresError) -> Option<&'static str> {
    use PostgresError as E;
    Some(match error {
        E::NameEncoding { .. } => {
            "names in a data directory must be UTF-8: rename the file, or move it elsewhere."
        }
        E::Running { .. } => {
            "stop PostgreSQL first; if it is not running, check for a crash and remove postmaster.pid."
        }
        E::NotLive { .. } | E::SystemMismatch { .. } => {
            "check that path, host and port of the stanza name one and the same cluster."
        }
        E::RootGone { tablespace: None, .. } => {
            "was a file system unmounted? Nothing under it may be taken for deleted."
        }
        E::RootGone { tablespace: Some(_), .. } => "was a tablespace dropped, or its file system unmounted?",
        E::LinkExpected { .. } => {
            "only links to tablespaces belong into pg_tblspc; in-place tablespaces are not supported."
        }
        E::TablespaceUnknown { .. } => {
            "was the tablespace created just now? Otherwise remove the link that is not in pg_tablespace."
        }
        E::LinkToLink { .. } => "point the link at the directory itself.",
        E::LinkInside { .. } => "move the destination out of the data directory.",
        E::LinkOverlap { .. } => "give each link a destination of its own.",
        E::LinkDangling { .. } => "remove the link or restore its destination.",
        E::Missing { .. } => "is this the stanza's data directory, whole, and its file system mounted?",
        _ => return None,
    })
}
