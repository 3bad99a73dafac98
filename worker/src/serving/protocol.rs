//! What a compute worker and a source say to each other on a stream. `PROTOCOL.md` beside this file is the authority.
//!
//! A message is a length and one MessagePack value; bytes of files follow their message as they are.
//!
//! Invariant: nothing is allocated for a length before it was found to be allowed.

use bytes::{BufMut, Bytes, BytesMut};
use pgconvoy_core::failure::Failure;
use pgconvoy_core::ids::{Attempt, UnitId};
use pgconvoy_core::ticket::Ticket;
use pgconvoy_core::wire::{JobId, UnitPart};
use pgconvoy_transport::connection::FRAME_BYTES_MAX;
use pgconvoy_transport::typed::{decode, encode as encode_value};
use pgconvoy_transport::{StreamReader, TransportError};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Bytes of a file in one answer: thirty pages of the usual size. Four of them, with their heads, are less than what waits unread
/// on a stream, so that a source that answers them never waits for the one who computes.
pub const CHUNK_BYTES: u32 = 240 << 10;
/// What may be asked for and not yet used. It waits in the stream while a slot computes.
pub const AHEAD_BYTES_MAX: u64 = 4 * CHUNK_BYTES as u64;
/// A helping: what is asked for and answered together, where there is as much. Half of what may be under way.
pub const HELPING_BYTES: u64 = AHEAD_BYTES_MAX / 2;
/// A claim names the parts of its order, which itself fits a frame of control.
pub const CLAIM_BYTES_MAX: usize = FRAME_BYTES_MAX;
/// Of one wish: a name and two numbers.
pub const ASK_BYTES_MAX: usize = 256;
/// Bytes of the length before a message.
const LENGTH_BYTES: usize = 4;

/// The first message of a stream: what the worker wants to read, and the leader's word that it may.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    pub job: JobId,
    pub unit: UnitId,
    pub attempt: Attempt,
    /// As in the order.
    pub parts: Vec<UnitPart>,
    /// Whatever WAL summaries say, everything is read.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reads_all: bool,
    /// Bytes may come as lz4: the way is narrower than what is computed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub squeezes: bool,
    pub ticket: Ticket,
}

/// What follows the claim, any number of them without waiting for answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// The part of that number; what was opened before is closed. Numbers grow.
    Open { part: u32 },
    /// Of the open part, from that offset in the file: at most [`CHUNK_BYTES`], and none before what was read.
    Read { offset: u64, length: u32 },
    /// Of the open part, all from its offset to wherever the file ends: for what no WAL brings up to date.
    Rest,
    /// One page of a part that was opened, as it is now.
    Page { part: u32, offset: u64 },
}

/// One for each wish, in the order of the wishes; several for [`Ask::Rest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The claim was refused, or something could not be read. The last message of the stream.
    Failed(Failure),
    /// The part is gone, by the rules for what may be. Whatever is read of it is no bytes.
    Vanished,
    Opened {
        /// What WAL summaries allow to leave unread.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        unread: Option<Told>,
        /// A sample shows that they are wrong: none of them is to be believed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        wrong_summary: Option<String>,
    },
    /// So many bytes of the file, stored in so many that follow: as lz4 if those are fewer. Less than was asked for, or
    /// than [`CHUNK_BYTES`] of a rest, means that the file ends there.
    Bytes { raw: u32, stored: u32 },
}

/// Pages that must be read; all others below the end are as the prior backup has them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// Bytes of the file that are there now and were there in the prior.
    pub end: u64,
    /// From one page up to another, not including it.
    pub to_read: Vec<(u32, u32)>,
}

/// A message as it is sent.
pub fn encode<T: Serialize>(message: &T) -> Result<Bytes, TransportError> {
    let value = encode_value(message)?;
    let mut bytes = BytesMut::with_capacity(LENGTH_BYTES + value.len());
    bytes.put_u32(u32::try_from(value.len()).expect("values that are larger than a frame were refused"));
    bytes.put_slice(&value);
    Ok(bytes.freeze())
}

/// What comes in on a stream.
pub struct Intake {
    reader: Box<dyn StreamReader>,
    /// Whom errors name.
    peer: String,
    pieces: VecDeque<Bytes>,
    held: usize,
    /// Of the message that comes next, once its length was read.
    expected: Option<usize>,
    is_over: bool,
}

impl Intake {
    pub fn new(reader: Box<dyn StreamReader>, peer: String) -> Intake {
        Intake { reader, peer, pieces: VecDeque::new(), held: 0, expected: None, is_over: false }
    }

    /// The next message of at most so many bytes; `None` once the other side has said everything. Safe to cancel.
    pub async fn message<T: DeserializeOwned>(&mut self, max: usize) -> Result<Option<T>, TransportError> {
        loop {
            if let Some(message) = self.held_message(max)? {
                return Ok(Some(message));
            }
            if !self.take_in().await? {
                let is_whole = self.held == 0 && self.expected.is_none();
                return if is_whole { Ok(None) } else { Err(self.garbage(self.held, "it is cut off")) };
            }
        }
    }

    /// A message that is there already.
    pub fn held_message<T: DeserializeOwned>(&mut self, max: usize) -> Result<Option<T>, TransportError> {
        if self.expected.is_none() && self.held >= LENGTH_BYTES {
            let length = self.take(LENGTH_BYTES);
            let length = u32::from_be_bytes(length.as_ref().try_into().expect("as many were taken")) as usize;
            if length > max {
                return Err(self.garbage(length, "it is longer than such a message can be"));
            }
            self.expected = Some(length);
        }
        match self.expected {
            Some(length) if self.held >= length => {
                self.expected = None;
                let value = self.take(length);
                decode(&value).map(Some).map_err(|reason| self.garbage(length, &reason))
            }
            _ => Ok(None),
        }
    }

    /// The bytes that follow a message, as they come.
    pub async fn body(&mut self, length: usize) -> Result<VecDeque<Bytes>, TransportError> {
        while self.held < length {
            if !self.take_in().await? {
                return Err(self.garbage(length, "the bytes that it tells of are cut off"));
            }
        }
        let (mut body, mut left) = (VecDeque::new(), length);
        while left > 0 {
            let piece = self.next_piece(left);
            left -= piece.len();
            body.push_back(piece);
        }
        Ok(body)
    }

    /// `false`: there is nothing more.
    async fn take_in(&mut self) -> Result<bool, TransportError> {
        if !self.is_over {
            match self.reader.read().await? {
                Some(piece) => {
                    self.held += piece.len();
                    self.pieces.push_back(piece);
                }
                None => self.is_over = true,
            }
        }
        Ok(!self.is_over)
    }

    /// From the front, at most so many bytes. Something is held.
    fn next_piece(&mut self, max: usize) -> Bytes {
        let mut first = self.pieces.pop_front().expect("as many bytes are held as pieces have");
        let piece = first.split_to(max.min(first.len()));
        if !first.is_empty() {
            self.pieces.push_front(first);
        }
        self.held -= piece.len();
        piece
    }

    /// No more than are held.
    fn take(&mut self, length: usize) -> Bytes {
        let first = self.next_piece_or_nothing(length);
        if first.len() == length {
            return first;
        }
        let mut joined = BytesMut::with_capacity(length);
        joined.put_slice(&first);
        while joined.len() < length {
            let piece = self.next_piece(length - joined.len());
            joined.put_slice(&piece);
        }
        joined.freeze()
    }

    fn next_piece_or_nothing(&mut self, max: usize) -> Bytes {
        if max == 0 { Bytes::new() } else { self.next_piece(max) }
    }

    pub(crate) fn garbage(&self, bytes: usize, reason: &str) -> TransportError {
        TransportError::Garbage { peer: self.peer.clone(), bytes, reason: reason.to_owned() }
    }
}

#[cfg(test)]
mod tests;
