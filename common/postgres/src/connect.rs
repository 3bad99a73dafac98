//! Opens a session with a PostgreSQL server.
//!
//! The session is proved to be PostgreSQL's own (`pooler`), has no time limits of the server's, and resolves names in
//! `pg_catalog` only, so that no object of a user's can stand in for a system function.
//!
//! Failure story: nothing is retried here; each error says whether trying again can help. A [`Client`] that is dropped
//! closes its socket, and the server ends whatever the session held (see `session` for what a statement can do).

use crate::PostgresError;
use crate::error::reason_of;
use crate::pooler;
use crate::session::Session;
use crate::settings::{self, Settings};
use crate::tls;
pub use crate::tls::TlsMode;
use rustls::ClientConfig;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;
use tokio::task::AbortHandle;
use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

/// PostgreSQL's own `authentication_timeout` is as long: a server that is slower has given us up already.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(60);
/// A backup session is silent for long stretches; firewalls forget connections after minutes of silence.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);

/// In force from the first statement on, whatever is set for the role or the database.
const STARTUP_SETTINGS: &str = "-c search_path=pg_catalog -c statement_timeout=0 -c lock_timeout=0 \
     -c idle_in_transaction_session_timeout=0 -c max_parallel_workers_per_gather=0";

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// The directory of the socket, not the socket itself.
    Socket(PathBuf),
    Tcp {
        host: String,
        tls: TlsMode,
        ca_file: Option<PathBuf>,
    },
}

/// A password that no log can show.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    pub fn new(text: impl Into<String>) -> Self {
        Password(text.into())
    }

    pub(crate) fn text(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

#[derive(Debug, Clone)]
pub struct ConnectOptions {
    pub place: Place,
    pub port: u16,
    pub user: String,
    pub database: String,
    pub password: Option<Password>,
    /// As `pg_stat_activity` shows it: `pgconvoy [backup]`.
    pub application_name: String,
    /// The longest that any one statement may take (`db-timeout`).
    pub statement_timeout: Duration,
}

impl ConnectOptions {
    /// The place as error messages name it.
    pub(crate) fn place_name(&self) -> String {
        match &self.place {
            Place::Socket(directory) => format!("{}:{}", directory.display(), self.port),
            Place::Tcp { host, .. } => format!("{host}:{}", self.port),
        }
    }

    fn config(&self, session_token: &str) -> Config {
        let mut config = Config::new();
        config
            .user(&self.user)
            .dbname(&self.database)
            .port(self.port)
            .application_name(&self.application_name)
            .options(format!("{STARTUP_SETTINGS} {}", pooler::startup_option(session_token)))
            .connect_timeout(CONNECT_TIMEOUT)
            .keepalives_idle(KEEPALIVE_IDLE);
        if let Some(password) = &self.password {
            config.password(password.text());
        }
        match &self.place {
            Place::Socket(directory) => config.host_path(directory).ssl_mode(SslMode::Disable),
            Place::Tcp { host, tls, .. } => config.host(host).ssl_mode(match tls {
                TlsMode::Disable => SslMode::Disable,
                TlsMode::Prefer => SslMode::Prefer,
                TlsMode::Require | TlsMode::VerifyFull => SslMode::Require,
            }),
        };
        config
    }

    pub(crate) fn tls(&self) -> Result<Option<ClientConfig>, PostgresError> {
        match &self.place {
            Place::Socket(_) => Ok(None),
            Place::Tcp { tls, ca_file, .. } => {
                tls::client_config(*tls, ca_file.as_deref(), &self.place_name())
            }
        }
    }
}

/// One session with one server. Statements may be sent from several tasks; the server answers them in order.
#[derive(Debug)]
pub struct Client {
    session: Session,
    settings: Settings,
}

impl Client {
    pub async fn connect(options: &ConnectOptions) -> Result<Client, PostgresError> {
        let session = open(options).await?;
        session.lift_newer_limits().await?;
        let settings = settings::read(&session).await?;
        Ok(Client { session, settings })
    }

    /// What the server said at connect.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What the server says now.
    pub async fn read_settings(&self) -> Result<Settings, PostgresError> {
        settings::read(&self.session).await
    }

    pub(crate) fn session(&self) -> &Session {
        &self.session
    }
}

async fn open(options: &ConnectOptions) -> Result<Session, PostgresError> {
    let place = options.place_name();
    let token = pooler::session_token();
    let config = options.config(&token);
    let tls = options.tls()?.map(MakeRustlsConnect::new);
    let connecting = connect_driver(&config, tls.clone());
    let (driver, task) = match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(outcome) => outcome.map_err(|error| connect_error(options, &error))?,
        Err(_) => {
            let reason = format!("no answer within {} s", CONNECT_TIMEOUT.as_secs());
            return Err(PostgresError::Connect { place, reason });
        }
    };
    let session = Session::new(driver, task, tls, place, options.user.clone(), options.statement_timeout);
    pooler::refuse(&session, &token).await?;
    Ok(session)
}

async fn connect_driver(
    config: &Config,
    tls: Option<MakeRustlsConnect>,
) -> Result<(tokio_postgres::Client, AbortHandle), tokio_postgres::Error> {
    // The driver's task ends with the connection; its error reaches every statement that waits, so it needs no reader.
    match tls {
        None => {
            let (client, connection) = config.connect(NoTls).await?;
            Ok((client, tokio::spawn(connection).abort_handle()))
        }
        Some(tls) => {
            let (client, connection) = config.connect(tls).await?;
            Ok((client, tokio::spawn(connection).abort_handle()))
        }
    }
}

/// The driver names the kind of an error in its text only.
const DRIVER_TLS_ERROR: &str = "error performing TLS handshake";
/// The same for a server that asks for a password which we do not have.
const DRIVER_PASSWORD_MISSING: &str = "password missing";

fn connect_error(options: &ConnectOptions, error: &tokio_postgres::Error) -> PostgresError {
    let place = options.place_name();
    let reason = reason_of(error);
    let user = options.user.clone();
    if let Some(database) = error.as_db_error() {
        return match database.code() {
            &SqlState::INVALID_PASSWORD | &SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
                PostgresError::Authentication { place, user, reason }
            }
            &SqlState::PROTOCOL_VIOLATION if pooler::refused_startup(&reason) => {
                PostgresError::Pooler { place, evidence: format!("it refused our startup packet: {reason}") }
            }
            _ => PostgresError::Connect { place, reason },
        };
    }
    if error.to_string() == DRIVER_TLS_ERROR {
        PostgresError::Tls { place, reason }
    } else if reason.contains(DRIVER_PASSWORD_MISSING) {
        PostgresError::Authentication { place, user, reason }
    } else {
        PostgresError::Connect { place, reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_does_not_show_in_debug_output() {
        let options = ConnectOptions {
            place: Place::Socket("/run/postgresql".into()),
            port: 5432,
            user: "postgres".into(),
            database: "postgres".into(),
            password: Some(Password::new("hush")),
            application_name: "pgconvoy [test]".into(),
            statement_timeout: Duration::from_secs(1),
        };
        assert!(!format!("{options:?}").contains("hush"));
    }
}
