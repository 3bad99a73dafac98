//! This host and this process: who they are, what they may reach, and the locks they hold on it.

use pgconvoy_core::config::{PgConfig, StanzaConfig, TlsMode as ConfiguredTls};
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::format::plan::Writer;
use pgconvoy_core::ids::{Identity, RepoKey, StanzaName};
use pgconvoy_core::units::Timestamp;
use pgconvoy_postgres::connect::{ConnectOptions, Password, Place, TlsMode};
use pgconvoy_worker::keeper::SourceConfig;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DEFAULT_SOCKET: &str = "/var/run/postgresql";

pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// Who writes a backup from here: the host, which start of it, and whose process numbers.
pub fn writer() -> Writer {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let processes = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    let boot = format!("{} {}", boot.trim(), processes.display());
    Writer { host, boot, process: std::process::id() }
}

/// For what must differ from everything of its kind.
pub fn random_identity() -> Result<Identity, Failure> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| {
        Failure::new(ErrorCode::Crypto, format!("the system gives no random bytes: {error}"))
    })?;
    Ok(Identity::from_random_bytes(bytes))
}

pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The stanza's data directory on this machine and its server.
pub fn source(stanza: &StanzaConfig, db_timeout: Duration, purpose: &str) -> Result<SourceConfig, Failure> {
    let here: Vec<&PgConfig> = stanza.pg.iter().filter(|pg| pg.host.is_none()).collect();
    let [pg] = here[..] else {
        return Err(Failure::new(
            ErrorCode::OptionInvalidValue,
            format!(
                "stanza {} has {} data directories on this machine, and one is needed",
                stanza.name,
                here.len()
            ),
        )
        .hint("give each [[stanza.NAME.pg]] of another machine its host"));
    };
    Ok(SourceConfig {
        directory: PathBuf::from(&pg.path),
        connect: connect_options(pg, db_timeout, purpose)?,
    })
}

pub fn connect_options(
    pg: &PgConfig,
    db_timeout: Duration,
    purpose: &str,
) -> Result<ConnectOptions, Failure> {
    let place = match &pg.address {
        Some(host) => Place::Tcp {
            host: host.clone(),
            tls: match pg.tls {
                ConfiguredTls::Disable => TlsMode::Disable,
                ConfiguredTls::Prefer => TlsMode::Prefer,
                ConfiguredTls::Require => TlsMode::Require,
                ConfiguredTls::VerifyFull => TlsMode::VerifyFull,
            },
            ca_file: pg.ca_file.as_ref().map(PathBuf::from),
        },
        None => Place::Socket(PathBuf::from(pg.socket_path.as_deref().unwrap_or(DEFAULT_SOCKET))),
    };
    let read = |path: &String| {
        std::fs::read_to_string(path).map_err(|error| {
            Failure::new(ErrorCode::FileOpen, format!("cannot read password-file {path}: {error}"))
        })
    };
    let password = pg.password_file.as_ref().map(read).transpose()?;
    Ok(ConnectOptions {
        place,
        port: pg.port,
        user: pg.user.clone().unwrap_or_else(|| "postgres".into()),
        database: pg.database.clone(),
        password: password.map(|text| Password::new(text.trim_end_matches(['\r', '\n']))),
        application_name: format!("pgconvoy [{purpose}]"),
        statement_timeout: db_timeout,
    })
}

/// Held until dropped; the kernel drops it with the process, however that ends.
#[derive(Debug)]
pub struct HostLock {
    _file: File,
}

impl HostLock {
    /// One backup of a stanza into a repository at a time on this host.
    pub fn acquire(
        directory: &str,
        stanza: &StanzaName,
        kind: &str,
        repository: RepoKey,
    ) -> Result<HostLock, Failure> {
        let path = Path::new(directory).join(format!("{stanza}-{kind}-{repository}.lock"));
        HostLock::try_lock(&path, kind)?.ok_or_else(|| {
            let holder = std::fs::read_to_string(&path).unwrap_or_default();
            Failure::new(
                ErrorCode::LockAcquire,
                format!(
                    "another process on this host works on stanza {stanza} in repo {repository}: {}",
                    holder.trim()
                ),
            )
            .hint("wait for it to end")
        })
    }

    /// One background process of a kind for a stanza on this host. `None`: there is one.
    pub fn acquire_background(
        directory: &str,
        stanza: &StanzaName,
        kind: &str,
    ) -> Result<Option<HostLock>, Failure> {
        HostLock::try_lock(&background_path(directory, stanza, kind), kind)
    }

    /// Whether such a process runs.
    pub fn is_background_held(directory: &str, stanza: &StanzaName, kind: &str) -> bool {
        let opened = File::open(background_path(directory, stanza, kind));
        // Shared, so that those who look do not take each other for the process.
        opened.is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
    }

    /// Where such a process listens to those who wake it.
    pub fn background_socket(directory: &str, stanza: &StanzaName, kind: &str) -> PathBuf {
        background_path(directory, stanza, kind).with_extension("socket")
    }

    /// `None`: somebody has it. Blocks for a few system calls.
    pub fn try_lock(path: &Path, kind: &str) -> Result<Option<HostLock>, Failure> {
        let directory = path.parent().unwrap_or(Path::new("/"));
        DirBuilder::new().recursive(true).mode(0o770).create(directory).map_err(|error| {
            Failure::new(
                ErrorCode::PathCreate,
                format!("cannot create lock path {}: {error}", directory.display()),
            )
            .hint("set [paths] lock to a directory that this user can write")
        })?;
        let failed = |error: std::io::Error| {
            Failure::new(ErrorCode::LockAcquire, format!("cannot lock {}: {error}", path.display()))
        };
        let mut options = OpenOptions::new();
        let mut file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o660)
            .open(path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        file.set_len(0).map_err(failed)?;
        writeln!(file, "process {} ({kind})", std::process::id()).map_err(failed)?;
        Ok(Some(HostLock { _file: file }))
    }
}

fn background_path(directory: &str, stanza: &StanzaName, kind: &str) -> PathBuf {
    Path::new(directory).join(format!("{stanza}-{kind}-background.lock"))
}
