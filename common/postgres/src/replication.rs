//! Receives WAL over PostgreSQL's streaming replication protocol, of a physical slot.
//!
//! The driver that everything else here uses cannot begin a replication session, nor read what the server answers to
//! START_REPLICATION, and neither can any other crate that is kept up: they speak logical replication only. So this is
//! a client of its own for the few messages that it takes, made of `postgres-protocol`'s, which the driver is made of.
//!
//! Code map: `startup` dials and logs in, `wire` moves messages; this file is what is said.
//!
//! Invariants
//! 1. No message is longer than [`wire::MESSAGE_BYTES_MAX`]; a longer one ends the session before it is read.
//! 2. [`Replication::next`] may be dropped while it waits: what was received stays for the next call.
//! 3. What the server does not say in order and in full is an error; nothing is guessed.
//!
//! Failure story: any error ends the session, and the caller begins anew.
//!
//! Source: PostgreSQL's documentation, "Streaming Replication Protocol"; the same from 9.6 to 18.

mod startup;
mod wire;

use crate::PostgresError;
use crate::connect::ConnectOptions;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use pgconvoy_core::ids::SystemId;
use pgconvoy_core::pg::{Lsn, TimelineHistory, TimelineId};
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;
use std::fmt::Display;
use std::str::FromStr;
use std::time::{Duration, SystemTime};
use wire::{Received, Wire};

const STREAM: &str = "stream its WAL";
/// PostgreSQL counts microseconds from the year 2000 on.
const EPOCH: Duration = Duration::from_secs(946_684_800);

/// A session that receives WAL, or is about to.
#[derive(Debug)]
pub struct Replication {
    wire: Wire,
}

/// Who answers, and how far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identified {
    pub system_id: SystemId,
    pub timeline: TimelineId,
    /// Durable on the server up to here.
    pub flushed: Lsn,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamEvent {
    Wal {
        start: Lsn,
        bytes: Bytes,
        server_end: Lsn,
    },
    KeepAlive {
        server_end: Lsn,
        is_answer_asked: bool,
    },
    /// The server has no more of this timeline.
    Ended,
}

impl Replication {
    pub async fn connect(options: &ConnectOptions) -> Result<Replication, PostgresError> {
        Ok(Replication { wire: startup::open(options).await? })
    }

    pub async fn identify(&mut self) -> Result<Identified, PostgresError> {
        const WHAT: &str = "identify itself";
        let row = self.wire.row(WHAT, "IDENTIFY_SYSTEM").await?;
        Ok(Identified {
            system_id: SystemId(self.parse(WHAT, row.first())?),
            timeline: TimelineId(self.parse(WHAT, row.get(1))?),
            flushed: self.parse(WHAT, row.get(2))?,
        })
    }

    /// The way to a timeline later than the first.
    pub async fn history(&mut self, timeline: TimelineId) -> Result<TimelineHistory, PostgresError> {
        const WHAT: &str = "show the history of its timeline";
        let row = self.wire.row(WHAT, &format!("TIMELINE_HISTORY {timeline}")).await?;
        let text = row.get(1).and_then(Option::as_deref).unwrap_or_default();
        TimelineHistory::parse(timeline, text).map_err(|error| self.refuse(WHAT, text, &error))
    }

    /// From here on only [`Replication::next`] and [`Replication::tell`] are of use.
    pub async fn start(&mut self, slot: &str, from: Lsn, timeline: TimelineId) -> Result<(), PostgresError> {
        let sql = format!("START_REPLICATION SLOT {slot} PHYSICAL {from} TIMELINE {timeline}");
        self.wire.query(STREAM, &sql).await?;
        loop {
            match self.wire.next(STREAM).await? {
                Received::CopyBoth => return Ok(()),
                Received::Message(Message::NoticeResponse(_) | Message::ParameterStatus(_)) => {}
                Received::Message(Message::ErrorResponse(body)) => {
                    return Err(self.wire.refused(STREAM, &body));
                }
                Received::Message(_) => return Err(self.wire.unexpected(STREAM)),
            }
        }
    }

    /// Waits for as long as nothing comes.
    pub async fn next(&mut self) -> Result<StreamEvent, PostgresError> {
        loop {
            match self.wire.next(STREAM).await? {
                Received::Message(Message::CopyData(body)) => {
                    let message = body.into_bytes();
                    return parse(message.clone()).ok_or_else(|| {
                        self.refuse(STREAM, &format!("{message:.16?}"), &"it is cut, or of no known kind")
                    });
                }
                Received::Message(Message::CopyDone | Message::CommandComplete(_)) => {
                    return Ok(StreamEvent::Ended);
                }
                Received::Message(Message::NoticeResponse(_) | Message::ParameterStatus(_)) => {}
                Received::Message(Message::ErrorResponse(body)) => {
                    return Err(self.wire.refused(STREAM, &body));
                }
                Received::Message(_) | Received::CopyBoth => return Err(self.wire.unexpected(STREAM)),
            }
        }
    }

    /// Tells the server how far we are; it forgets what lies before `flushed`. It answers with a keep-alive.
    pub async fn tell(&mut self, received: Lsn, flushed: Lsn) -> Result<(), PostgresError> {
        let since_epoch = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().saturating_sub(EPOCH);
        let mut status = BytesMut::with_capacity(34);
        status.put_u8(b'r');
        status.put_u64(received.0);
        status.put_u64(flushed.0);
        // Nothing is applied here.
        status.put_u64(0);
        status.put_u64(u64::try_from(since_epoch.as_micros()).unwrap_or_default());
        status.put_u8(1);
        let mut message = BytesMut::new();
        frontend::CopyData::new(status.freeze())
            .map_err(|error| self.wire.lost(STREAM, &error.to_string()))?
            .write(&mut message);
        self.wire.send(STREAM, &message).await
    }

    fn parse<T: FromStr<Err: Display>>(
        &self,
        what: &'static str,
        value: Option<&Option<String>>,
    ) -> Result<T, PostgresError> {
        let text = value.and_then(Option::as_deref).unwrap_or_default();
        text.parse().map_err(|error: T::Err| self.refuse(what, text, &error))
    }

    fn refuse(&self, what: &'static str, value: &str, reason: &dyn Display) -> PostgresError {
        PostgresError::Answer {
            place: self.wire.place().to_owned(),
            what,
            value: value.to_owned(),
            reason: reason.to_string(),
        }
    }
}

/// What a message of the stream says.
fn parse(mut message: Bytes) -> Option<StreamEvent> {
    match message.try_get_u8().ok()? {
        b'w' => {
            let start = Lsn(message.try_get_u64().ok()?);
            let server_end = Lsn(message.try_get_u64().ok()?);
            message.try_get_u64().ok()?;
            Some(StreamEvent::Wal { start, bytes: message, server_end })
        }
        b'k' => {
            let server_end = Lsn(message.try_get_u64().ok()?);
            message.try_get_u64().ok()?;
            let is_answer_asked = message.try_get_u8().ok()? == 1;
            Some(StreamEvent::KeepAlive { server_end, is_answer_asked })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_of_the_stream_is_understood_or_refused_whatever_its_length() {
        let mut wal = vec![b'w'];
        wal.extend_from_slice(&0x0100_0000_u64.to_be_bytes());
        wal.extend_from_slice(&0x0200_0000_u64.to_be_bytes());
        wal.extend_from_slice(&[0; 8]);
        for cut in 0..wal.len() {
            assert_eq!(parse(Bytes::copy_from_slice(&wal[..cut])), None, "{cut}");
        }
        wal.extend_from_slice(b"record");
        let expected = StreamEvent::Wal {
            start: Lsn(0x0100_0000),
            bytes: Bytes::from_static(b"record"),
            server_end: Lsn(0x0200_0000),
        };
        assert_eq!(parse(Bytes::from(wal)), Some(expected));
        let mut alive = vec![b'k'];
        alive.extend_from_slice(&[0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        let expected = StreamEvent::KeepAlive { server_end: Lsn(0x0300_0000), is_answer_asked: true };
        assert_eq!(parse(Bytes::from(alive)), Some(expected));
        assert_eq!(parse(Bytes::from_static(b"x")), None);
    }
}
