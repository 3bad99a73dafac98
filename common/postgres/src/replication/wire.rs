//! Messages of PostgreSQL's protocol on one connection, with a limit to their length.

use crate::PostgresError;
use crate::error::ends_session;
use bytes::{Buf, BytesMut};
use postgres_protocol::message::backend::{DataRowBody, ErrorResponseBody, Header, Message};
use postgres_protocol::message::frontend;
use std::fmt;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tokio_postgres::fallible_iterator::FallibleIterator;

/// The server sends 128 KiB of WAL at once; a history of timelines has some 50 bytes for each.
pub(super) const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// Of the type byte and the length.
const HEADER_BYTES: usize = 5;
/// START_REPLICATION's answer, which the driver's messages do not include.
const COPY_BOTH_TAG: u8 = b'W';
/// A server that takes nothing for so long is gone.
const SEND_TIMEOUT: Duration = Duration::from_secs(60);
/// The same for one that does not answer a command.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// A socket, with or without TLS.
pub(super) trait Channel: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Channel for T {}

pub(super) struct Wire {
    channel: Box<dyn Channel>,
    input: BytesMut,
    place: String,
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("place", &self.place).finish_non_exhaustive()
    }
}

pub(super) enum Received {
    Message(Message),
    CopyBoth,
}

/// One row of text.
pub(super) type Row = Vec<Option<String>>;

impl Wire {
    pub(super) fn new(channel: Box<dyn Channel>, place: String) -> Wire {
        Wire { channel, input: BytesMut::new(), place }
    }

    pub(super) fn place(&self) -> &str {
        &self.place
    }

    /// The next message. What was read of it stays where this is dropped.
    pub(super) async fn next(&mut self, what: &'static str) -> Result<Received, PostgresError> {
        loop {
            match self.take() {
                Ok(Some(received)) => return Ok(received),
                Ok(None) => {}
                Err(error) => return Err(self.lost(what, &error.to_string())),
            }
            match self.channel.read_buf(&mut self.input).await {
                Ok(0) => return Err(self.lost(what, "the connection was closed")),
                Ok(_) => {}
                Err(error) => return Err(self.lost(what, &error.to_string())),
            }
        }
    }

    fn take(&mut self) -> io::Result<Option<Received>> {
        let Some(header) = Header::parse(&self.input)? else { return Ok(None) };
        let length = usize::try_from(header.len()).unwrap_or(usize::MAX);
        if length > MESSAGE_BYTES_MAX {
            return Err(io::Error::other(format!("a message of {length} bytes is longer than any there is")));
        }
        if header.tag() == COPY_BOTH_TAG {
            let whole = length + HEADER_BYTES - 4;
            if self.input.len() < whole {
                return Ok(None);
            }
            self.input.advance(whole);
            return Ok(Some(Received::CopyBoth));
        }
        Ok(Message::parse(&mut self.input)?.map(Received::Message))
    }

    pub(super) async fn send(&mut self, what: &'static str, message: &[u8]) -> Result<(), PostgresError> {
        let sending = async {
            self.channel.write_all(message).await?;
            self.channel.flush().await
        };
        match timeout(SEND_TIMEOUT, sending).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(self.lost(what, &error.to_string())),
            Err(_) => Err(self.late(what, SEND_TIMEOUT)),
        }
    }

    pub(super) async fn query(&mut self, what: &'static str, sql: &str) -> Result<(), PostgresError> {
        let mut message = BytesMut::new();
        frontend::query(sql, &mut message).map_err(|error| self.lost(what, &error.to_string()))?;
        self.send(what, &message).await
    }

    /// The first row of the answer to a command.
    pub(super) async fn row(&mut self, what: &'static str, sql: &str) -> Result<Row, PostgresError> {
        self.query(what, sql).await?;
        let answer = timeout(ANSWER_TIMEOUT, self.answer(what)).await;
        answer.unwrap_or_else(|_| Err(self.late(what, ANSWER_TIMEOUT)))
    }

    async fn answer(&mut self, what: &'static str) -> Result<Row, PostgresError> {
        let mut first = None;
        loop {
            match self.next(what).await? {
                Received::Message(Message::DataRow(body)) => {
                    let row = row(&body).map_err(|error| self.lost(what, &error.to_string()))?;
                    first.get_or_insert(row);
                }
                Received::Message(Message::ReadyForQuery(_)) => {
                    return first.ok_or_else(|| self.unexpected(what));
                }
                Received::Message(Message::ErrorResponse(body)) => return Err(self.refused(what, &body)),
                Received::Message(
                    Message::RowDescription(_)
                    | Message::CommandComplete(_)
                    | Message::NoticeResponse(_)
                    | Message::ParameterStatus(_),
                ) => {}
                Received::Message(_) | Received::CopyBoth => return Err(self.unexpected(what)),
            }
        }
    }

    pub(super) fn lost(&self, what: &'static str, reason: &str) -> PostgresError {
        PostgresError::Lost { place: self.place.clone(), what, reason: reason.to_owned() }
    }

    pub(super) fn unexpected(&self, what: &'static str) -> PostgresError {
        self.lost(what, "it sent a message that does not belong there")
    }

    fn late(&self, what: &'static str, timeout: Duration) -> PostgresError {
        PostgresError::Timeout { place: self.place.clone(), what, timeout }
    }

    /// Judges the server's own error, as it is done for statements.
    pub(super) fn refused(&self, what: &'static str, body: &ErrorResponseBody) -> PostgresError {
        let (code, reason) = code_and_reason(body);
        if ends_session(&code) {
            return self.lost(what, &reason);
        }
        let permission = code == SqlState::INSUFFICIENT_PRIVILEGE;
        PostgresError::Query { place: self.place.clone(), what, reason, permission }
    }
}

/// The error's code, and one line with message, detail and hint.
pub(super) fn code_and_reason(body: &ErrorResponseBody) -> (SqlState, String) {
    let (mut code, mut parts) = (SqlState::INTERNAL_ERROR, Vec::new());
    let mut fields = body.fields();
    // A field that cannot be read ends the list: what was read is worth more than nothing.
    while let Ok(Some(field)) = fields.next() {
        let text = String::from_utf8_lossy(field.value_bytes());
        match field.type_() {
            b'C' => code = SqlState::from_code(&text),
            b'M' | b'D' | b'H' => parts.push(text.into_owned()),
            _ => {}
        }
    }
    (code, parts.join("; "))
}

fn row(body: &DataRowBody) -> io::Result<Row> {
    let text = |range: Option<std::ops::Range<usize>>| {
        range.map(|range| String::from_utf8_lossy(&body.buffer()[range]).into_owned())
    };
    body.ranges().map(|range| Ok(text(range))).collect()
}
