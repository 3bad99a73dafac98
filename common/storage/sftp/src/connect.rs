//! From an address to a session: TCP, the handshake, the host key, the login, the subsystem.
//!
//! Key and known hosts are read anew for each connection, so that what is renewed there counts without a restart.

use crate::login;
use crate::options::SftpOptions;
use crate::session::{Fault, Session};
use crate::trust::{Distrust, Trust};
use pgconvoy_core::failure::ErrorCode;
use pgconvoy_storage::{Place, StorageError};
use russh::client::{self, AuthResult, Handle, Msg};
use russh::keys::{Algorithm, HashAlg, PrivateKey, PrivateKeyWithHashAlg, PublicKeyOrCertificate};
use russh::{AlgorithmKind, Channel, ChannelMsg, Preferred, cipher};
use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// For each of: reaching the host, the handshake, the login, a new session.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);
/// Without any sign of life for this long the server is asked for one.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// So many questions without an answer, and the connection counts as lost: after 20 s, less than one try of a call.
const KEEP_ALIVE_UNANSWERED_MAX: usize = 3;
/// Bytes that the server may send ahead on one session. Half of it at least is always open: enough for 320 MB/s over 100 ms.
const WINDOW_BYTES: u32 = 64 << 20;
/// known_hosts of thousands of hosts are smaller.
const KNOWN_HOSTS_BYTES_MAX: u64 = 16 << 20;

/// Where AES has instructions of its own it is several times as fast as ChaCha20, and only old servers lack it.
const CIPHERS: &[cipher::Name] =
    &[cipher::AES_256_GCM, cipher::CHACHA20_POLY1305, cipher::AES_256_CTR, cipher::AES_128_CTR];

/// A connection that is logged in.
pub(crate) struct Connection {
    handle: Handle<Judge>,
    sessions: AtomicUsize,
    /// The server refused a further session.
    is_full: AtomicBool,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("sessions", &self.sessions).finish_non_exhaustive()
    }
}

impl Connection {
    pub(crate) fn sessions(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }

    pub(crate) fn enter(&self) {
        self.sessions.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn leave(&self) {
        self.sessions.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn has_room(&self) -> bool {
        !self.is_full.load(Ordering::Relaxed) && !self.handle.is_closed()
    }
}

/// Says to the SSH client whether the server is the one that is meant.
struct Judge {
    trust: Arc<Trust>,
}

#[derive(Debug)]
enum ConnectError {
    Ssh(russh::Error),
    Distrust(Distrust),
}

impl From<russh::Error> for ConnectError {
    fn from(error: russh::Error) -> Self {
        ConnectError::Ssh(error)
    }
}

impl client::Handler for Judge {
    type Error = ConnectError;

    async fn check_server_key(&mut self, key: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        match key {
            PublicKeyOrCertificate::PublicKey { key, .. } => {
                self.trust.judge(key).map_err(ConnectError::Distrust)?
            }
            // None is asked for.
            PublicKeyOrCertificate::Certificate(_) => return Ok(false),
        }
        Ok(true)
    }

    async fn disconnected(
        &mut self,
        reason: client::DisconnectReason<Self::Error>,
    ) -> Result<(), Self::Error> {
        tracing::debug!(?reason, "an SFTP connection ended");
        Ok(())
    }
}

fn setup(at: &Place, code: ErrorCode, reason: String, hint: impl Into<String>) -> StorageError {
    StorageError::unusable(at.clone(), code, reason, hint)
}

fn unavailable(at: &Place, reason: impl ToString) -> StorageError {
    StorageError::Unavailable { at: at.clone(), reason: reason.to_string() }
}

async fn in_time<T>(at: &Place, what: &str, step: impl Future<Output = T>) -> Result<T, StorageError> {
    timeout(STEP_TIMEOUT, step).await.map_err(|_| StorageError::Timeout {
        at: at.clone(),
        reason: format!("{what} took more than {} s", STEP_TIMEOUT.as_secs()),
    })
}

/// Reads what is to be believed and what to log in with. It blocks.
fn credentials(options: &SftpOptions, at: &Place) -> Result<(Trust, PrivateKey), StorageError> {
    let file = options.known_hosts_file.as_deref();
    let text = match file {
        Some(file) => Some(read_bounded(file).map_err(|error| {
            let reason = format!("unable to read known hosts '{}': {error}", file.display());
            let hint = format!(
                "ssh-keyscan -p {} {} prints the lines that belong there",
                options.port, options.host
            );
            setup(at, ErrorCode::FileOpen, reason, hint)
        })?),
        None => None,
    };
    let shown = file.map(|file| file.display().to_string());
    let known = shown.as_deref().zip(text.as_deref());
    let trust = Trust::new((&options.host, options.port), known, options.host_fingerprint.as_deref())
        .map_err(|distrust| setup(at, ErrorCode::OptionInvalidValue, distrust.reason, distrust.hint))?;
    Ok((trust, login::load_key(options, at)?))
}

fn read_bounded(path: &std::path::Path) -> std::io::Result<String> {
    use std::io::Read as _;
    let mut text = Vec::new();
    std::fs::File::open(path)?.take(KNOWN_HOSTS_BYTES_MAX).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Connects and logs in.
pub(crate) async fn connect(options: &Arc<SftpOptions>, at: &Place) -> Result<Connection, StorageError> {
    let (owned, place) = (options.clone(), at.clone());
    let read = tokio::task::spawn_blocking(move || credentials(&owned, &place)).await;
    let (trust, key) = read.map_err(|error| unavailable(at, error))??;
    let (trust, key) = (Arc::new(trust), Arc::new(key));
    let mut refused = None;
    for algorithms in trust.attempts() {
        match handshake(options, at, &trust, algorithms).await? {
            Ok(handle) => return authenticate(options, at, handle, key).await,
            Err(error) => refused = refused.or(Some(error)),
        }
    }
    Err(refused.unwrap_or_else(|| unavailable(at, "no kind of host key is known")))
}

/// The inner error is one that another kind of host key may not have.
async fn handshake(
    options: &SftpOptions,
    at: &Place,
    trust: &Arc<Trust>,
    algorithms: Vec<Algorithm>,
) -> Result<Result<Handle<Judge>, StorageError>, StorageError> {
    let address = (options.host.as_str(), options.port);
    let connecting = in_time(at, "reaching the host", TcpStream::connect(address)).await?;
    let stream = connecting.map_err(|error| unavailable(at, error))?;
    stream.set_nodelay(true).map_err(|error| unavailable(at, error))?;
    let kinds = algorithms.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let config = client::Config {
        window_size: WINDOW_BYTES,
        keepalive_interval: Some(KEEP_ALIVE_INTERVAL),
        keepalive_max: KEEP_ALIVE_UNANSWERED_MAX,
        preferred: Preferred {
            key: algorithms.into(),
            cipher: Cow::Borrowed(CIPHERS),
            ..Preferred::default()
        },
        ..client::Config::default()
    };
    let shaking = client::connect_stream(Arc::new(config), stream, Judge { trust: trust.clone() });
    match in_time(at, "the SSH handshake", shaking).await? {
        Ok(handle) => Ok(Ok(handle)),
        Err(ConnectError::Distrust(distrust)) => {
            Ok(Err(setup(at, ErrorCode::Crypto, distrust.reason, distrust.hint)))
        }
        Err(ConnectError::Ssh(russh::Error::NoCommonAlgo { kind: AlgorithmKind::Key, theirs, .. })) => {
            let reason = format!("the server has no host key of type {kinds}, but {}", theirs.join(", "));
            let hint = "add the server's host key to known-hosts-file, or set host-fingerprint; ssh-keyscan HOST prints its keys";
            Ok(Err(setup(at, ErrorCode::Crypto, reason, hint)))
        }
        Err(ConnectError::Ssh(error @ russh::Error::NoCommonAlgo { .. })) => {
            let hint = "the server's SSH is too old or too strictly configured: see Ciphers, KexAlgorithms and MACs there";
            Err(setup(at, ErrorCode::Protocol, error.to_string(), hint))
        }
        Err(ConnectError::Ssh(error)) => Err(unavailable(at, format!("the SSH handshake failed: {error}"))),
    }
}

async fn authenticate(
    options: &SftpOptions,
    at: &Place,
    mut handle: Handle<Judge>,
    key: Arc<PrivateKey>,
) -> Result<Connection, StorageError> {
    let lost =
        |error: russh::Error| unavailable(at, format!("the connection was lost at the login: {error}"));
    let public = key.public_key().clone();
    let logging_in = async {
        let hash = match key.algorithm() {
            // Never SHA-1, even where the server knows nothing better.
            Algorithm::Rsa { .. } => {
                handle.best_supported_rsa_hash().await?.flatten().or(Some(HashAlg::Sha256))
            }
            _ => None,
        };
        handle.authenticate_publickey(&options.user, PrivateKeyWithHashAlg::new(key, hash)).await
    };
    let (reason, hint) = match in_time(at, "the login", logging_in).await?.map_err(lost)? {
        AuthResult::Success => {
            return Ok(Connection { handle, sessions: AtomicUsize::new(0), is_full: AtomicBool::new(false) });
        }
        AuthResult::Failure { partial_success: true, .. } => (
            "the server wants more than a key to log in with".to_owned(),
            "let a key suffice for this user (AuthenticationMethods publickey)".to_owned(),
        ),
        // A refusal names the methods that may be tried: without any it was the connection that ended.
        AuthResult::Failure { remaining_methods, .. } if remaining_methods.is_empty() => {
            return Err(unavailable(at, "the connection was lost at the login"));
        }
        AuthResult::Failure { .. } => (
            format!(
                "the server does not let user {} in with the key in '{}' ({} {})",
                options.user,
                options.private_key_file.display(),
                public.algorithm(),
                public.fingerprint(HashAlg::Sha256)
            ),
            format!(
                "add the public key to the user's authorized_keys on {}: ssh-keygen -y -f {} prints it",
                options.host,
                options.private_key_file.display()
            ),
        ),
    };
    Err(setup(at, ErrorCode::Access, reason, hint))
}

/// A further session on a connection; `None` when the server allows no more of them.
pub(crate) async fn open_session(
    connection: &Arc<Connection>,
    at: &Place,
) -> Result<Option<Session>, StorageError> {
    let opening = in_time(at, "opening a session", connection.handle.channel_open_session()).await?;
    let channel = match opening {
        Ok(channel) => channel,
        Err(russh::Error::ChannelOpenFailure(reason)) if connection.sessions() > 0 => {
            tracing::debug!(?reason, "the SSH server allows no further session on a connection");
            connection.is_full.store(true, Ordering::Relaxed);
            return Ok(None);
        }
        Err(error) => return Err(unavailable(at, error)),
    };
    let starting = async {
        let channel = start_subsystem(channel, at).await?;
        Session::start(channel, connection.clone()).await.map_err(|fault| refusal(at, &fault))
    };
    in_time(at, "starting SFTP", starting).await?.map(Some)
}

async fn start_subsystem(mut channel: Channel<Msg>, at: &Place) -> Result<Channel<Msg>, StorageError> {
    channel.request_subsystem(true, "sftp").await.map_err(|error| unavailable(at, error))?;
    loop {
        match channel.wait().await {
            Some(ChannelMsg::Success) => return Ok(channel),
            Some(ChannelMsg::Failure) => {
                let hint =
                    "let the server start it: a line 'Subsystem sftp internal-sftp' in its sshd_config";
                return Err(setup(at, ErrorCode::Protocol, "the server offers no SFTP".to_owned(), hint));
            }
            Some(ChannelMsg::Close | ChannelMsg::Eof) | None => {
                return Err(unavailable(at, "the connection was lost when SFTP started"));
            }
            Some(_) => {}
        }
    }
}

fn refusal(at: &Place, fault: &Fault) -> StorageError {
    match fault {
        Fault::Lost(reason) => unavailable(at, format!("SFTP did not start: {reason}")),
        Fault::Refused(status) => unavailable(at, format!("SFTP did not start: {}", status.message)),
    }
}
