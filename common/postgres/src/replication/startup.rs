//! Dials a server and logs in for replication: socket or TCP, with or without TLS, by whatever the driver can log in with.
//!
//! Not here: channel binding, which the driver keeps to itself. SCRAM goes without it.

use super::wire::{Received, Wire, code_and_reason};
use crate::PostgresError;
use crate::connect::{CONNECT_TIMEOUT, ConnectOptions, Place, TlsMode};
use bytes::BytesMut;
use postgres_protocol::authentication;
use postgres_protocol::authentication::sasl::{self, ChannelBinding, ScramSha256};
use postgres_protocol::message::backend::{AuthenticationSaslBody, ErrorResponseBody, Message};
use postgres_protocol::message::frontend;
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::error::SqlState;
use tokio_postgres::fallible_iterator::FallibleIterator;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres_rustls::MakeRustlsConnect;

const LOG_IN: &str = "let us log in";

pub(super) async fn open(options: &ConnectOptions) -> Result<Wire, PostgresError> {
    let opening = async {
        let mut wire = dial(options).await?;
        let login = Login { options, place: options.place_name() };
        login.run(&mut wire).await?;
        Ok(wire)
    };
    tokio::time::timeout(CONNECT_TIMEOUT, opening).await.unwrap_or_else(|_| {
        let reason = format!("no answer within {} s", CONNECT_TIMEOUT.as_secs());
        Err(PostgresError::Connect { place: options.place_name(), reason })
    })
}

async fn dial(options: &ConnectOptions) -> Result<Wire, PostgresError> {
    let place = options.place_name();
    let unreachable =
        |error: io::Error| PostgresError::Connect { place: options.place_name(), reason: error.to_string() };
    match &options.place {
        Place::Socket(directory) => {
            let path = directory.join(format!(".s.PGSQL.{}", options.port));
            let socket = UnixStream::connect(path).await.map_err(unreachable)?;
            Ok(Wire::new(Box::new(socket), place))
        }
        Place::Tcp { host, tls, .. } => {
            let mut socket = TcpStream::connect((host.as_str(), options.port)).await.map_err(unreachable)?;
            socket.set_nodelay(true).map_err(unreachable)?;
            let Some(config) = options.tls()? else { return Ok(Wire::new(Box::new(socket), place)) };
            let refused = |reason: String| PostgresError::Tls { place: options.place_name(), reason };
            match (offers_tls(&mut socket).await.map_err(unreachable)?, tls) {
                (true, _) => {}
                (false, TlsMode::Prefer) => return Ok(Wire::new(Box::new(socket), place)),
                (false, _) => return Err(refused("server does not support TLS".into())),
            }
            let mut maker = MakeRustlsConnect::new(config);
            let connector = MakeTlsConnect::<TcpStream>::make_tls_connect(&mut maker, host)
                .map_err(|error| refused(error.to_string()))?;
            let secured = connector.connect(socket).await.map_err(|error| refused(error.to_string()))?;
            Ok(Wire::new(Box::new(secured), place))
        }
    }
}

/// Nothing behind the answer is read before TLS: it could be anybody's.
async fn offers_tls(socket: &mut TcpStream) -> io::Result<bool> {
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    socket.write_all(&request).await?;
    Ok(socket.read_u8().await? == b'S')
}

struct Login<'a> {
    options: &'a ConnectOptions,
    place: String,
}

impl Login<'_> {
    async fn run(&self, wire: &mut Wire) -> Result<(), PostgresError> {
        let parameters = [
            ("user", self.options.user.as_str()),
            ("replication", "true"),
            ("client_encoding", "UTF8"),
            ("application_name", self.options.application_name.as_str()),
        ];
        self.send(wire, |message| frontend::startup_message(parameters, message)).await?;
        loop {
            match self.receive(wire).await? {
                Message::AuthenticationOk
                | Message::ParameterStatus(_)
                | Message::BackendKeyData(_)
                | Message::NoticeResponse(_) => {}
                Message::AuthenticationCleartextPassword => {
                    let password = self.password()?.as_bytes();
                    self.send(wire, |message| frontend::password_message(password, message)).await?;
                }
                Message::AuthenticationMd5Password(body) => {
                    let (user, password) = (self.options.user.as_bytes(), self.password()?.as_bytes());
                    let hash = authentication::md5_hash(user, password, body.salt());
                    self.send(wire, |message| frontend::password_message(hash.as_bytes(), message)).await?;
                }
                Message::AuthenticationSasl(body) => self.scram(wire, &body).await?,
                Message::ReadyForQuery(_) => return Ok(()),
                _ => return Err(self.refused("it asks for a way to log in that is not supported".into())),
            }
        }
    }

    async fn scram(&self, wire: &mut Wire, body: &AuthenticationSaslBody) -> Result<(), PostgresError> {
        let broken = |error: io::Error| self.refused(error.to_string());
        let mut mechanisms = body.mechanisms();
        let is_offered = mechanisms.any(|mechanism| Ok(mechanism == sasl::SCRAM_SHA_256)).map_err(broken)?;
        if !is_offered {
            return Err(self.refused("it offers no SCRAM-SHA-256".into()));
        }
        let mut scram = ScramSha256::new(self.password()?.as_bytes(), ChannelBinding::unsupported());
        self.send(wire, |message| {
            frontend::sasl_initial_response(sasl::SCRAM_SHA_256, scram.message(), message)
        })
        .await?;
        let Message::AuthenticationSaslContinue(body) = self.receive(wire).await? else {
            return Err(wire.unexpected(LOG_IN));
        };
        scram.update(body.data()).map_err(broken)?;
        self.send(wire, |message| frontend::sasl_response(scram.message(), message)).await?;
        let Message::AuthenticationSaslFinal(body) = self.receive(wire).await? else {
            return Err(wire.unexpected(LOG_IN));
        };
        scram.finish(body.data()).map_err(broken)
    }

    fn password(&self) -> Result<&str, PostgresError> {
        let password = self.options.password.as_ref();
        password.map(|password| password.text()).ok_or_else(|| self.refused("password missing".into()))
    }

    async fn send(
        &self,
        wire: &mut Wire,
        encode: impl FnOnce(&mut BytesMut) -> io::Result<()>,
    ) -> Result<(), PostgresError> {
        let mut message = BytesMut::new();
        encode(&mut message).map_err(|error| self.refused(error.to_string()))?;
        wire.send(LOG_IN, &message).await
    }

    async fn receive(&self, wire: &mut Wire) -> Result<Message, PostgresError> {
        match wire.next(LOG_IN).await? {
            Received::Message(Message::ErrorResponse(body)) => Err(self.judge(&body)),
            Received::Message(message) => Ok(message),
            Received::CopyBoth => Err(wire.unexpected(LOG_IN)),
        }
    }

    fn judge(&self, body: &ErrorResponseBody) -> PostgresError {
        let (code, reason) = code_and_reason(body);
        if [SqlState::INVALID_PASSWORD, SqlState::INVALID_AUTHORIZATION_SPECIFICATION].contains(&code) {
            return self.refused(reason);
        }
        PostgresError::Connect { place: self.place.clone(), reason }
    }

    fn refused(&self, reason: String) -> PostgresError {
        PostgresError::Authentication { place: self.place.clone(), user: self.options.user.clone(), reason }
    }
}
