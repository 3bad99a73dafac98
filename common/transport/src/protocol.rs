//! The bytes of a control stream: how a conversation opens, and how frames lie in it. `PROTOCOL.md` beside this file is
//! the authority; the code follows it.
//!
//! Not here: sockets, TLS, and what is inside a frame. Nothing here waits.
//!
//! Invariants
//! 1. Any bytes end in a value or a clear error, and no length that a peer claims is allocated before its bytes came.
//! 2. Both sides find the same version, from the same two ranges.
//!
//! Failure story: after an error the position in the stream is lost, so the connection ends with
//! [`CloseKind::Protocol`](crate::CloseKind::Protocol) and the error's text.

use crate::connection::FRAME_BYTES_MAX;
use bytes::{Buf, Bytes, BytesMut};
use std::fmt;

/// What TLS agrees on before anything is sent. The number changes when a preface or a frame is spelt otherwise.
pub const ALPN: &[u8] = b"pgconvoy/1";

/// How a control stream begins, so that nobody takes another protocol for ours.
pub const MAGIC: [u8; 8] = *b"pgconvoy";

/// Bytes of a preface before what later versions add to it.
pub const PREFACE_HEAD_BYTES: usize = 14;

/// Bytes that a later version may add to a preface: room for names and flags, nothing to fill a memory with.
pub const PREFACE_EXTRA_BYTES_MAX: usize = 1024;

/// Bytes before a frame that say its length.
pub const FRAME_HEAD_BYTES: usize = 4;

/// The versions of the conversation that this program speaks.
pub const VERSIONS: VersionRange = VersionRange { min: 1, max: 1 };

/// Versions that one side speaks, both ends included. Counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VersionRange {
    pub min: u16,
    pub max: u16,
}

impl fmt::Display for VersionRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.min == self.max {
            write!(f, "version {}", self.min)
        } else {
            write!(f, "versions {} to {}", self.min, self.max)
        }
    }
}

/// What a peer must not send.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    #[error("the first bytes are not pgconvoy's")]
    Magic,
    #[error("a peer cannot speak versions {min} to {max}")]
    Range { min: u16, max: u16 },
    #[error("no common protocol version: this side speaks {ours}, the peer {theirs}")]
    NoCommonVersion { ours: VersionRange, theirs: VersionRange },
    #[error("a preface with {bytes} extra bytes, {PREFACE_EXTRA_BYTES_MAX} are allowed")]
    Extra { bytes: usize },
    #[error("a frame of {bytes} bytes was announced, {FRAME_BYTES_MAX} are allowed")]
    FrameTooLarge { bytes: usize },
    #[error("the stream ended with {bytes} bytes of something unfinished")]
    Truncated { bytes: usize },
}

/// The version that both sides use: the highest that both speak.
pub fn negotiate(ours: VersionRange, theirs: VersionRange) -> Result<u16, ProtocolError> {
    let highest = ours.max.min(theirs.max);
    if highest >= ours.min.max(theirs.min) {
        Ok(highest)
    } else {
        Err(ProtocolError::NoCommonVersion { ours, theirs })
    }
}

/// The preface of a side that speaks these versions.
pub fn encode_preface(versions: VersionRange) -> Bytes {
    let mut bytes = Vec::with_capacity(PREFACE_HEAD_BYTES);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&versions.min.to_be_bytes());
    bytes.extend_from_slice(&versions.max.to_be_bytes());
    // This version adds nothing.
    bytes.extend_from_slice(&0u16.to_be_bytes());
    bytes.into()
}

/// What stands before a frame. `None` for a frame that is too large to be sent.
pub fn encode_frame_head(frame: &[u8]) -> Option<[u8; FRAME_HEAD_BYTES]> {
    let length = u32::try_from(frame.len()).ok().filter(|_| frame.len() <= FRAME_BYTES_MAX)?;
    Some(length.to_be_bytes())
}

/// Takes one direction of a control stream apart, in whatever pieces it arrives. Holds one unfinished frame and the
/// piece that was pushed last, at most.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: BytesMut,
}

impl Decoder {
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The peer's versions, once they are all there. To be asked for first, and until it answers.
    pub fn preface(&mut self) -> Result<Option<VersionRange>, ProtocolError> {
        let known = self.buffer.len().min(MAGIC.len());
        // Whoever speaks another protocol is told so at its first byte, not after it has sent fourteen.
        if self.buffer[..known] != MAGIC[..known] {
            return Err(ProtocolError::Magic);
        }
        let Some(mut head) = self.buffer.get(MAGIC.len()..PREFACE_HEAD_BYTES) else { return Ok(None) };
        let (min, max, extra) = (head.get_u16(), head.get_u16(), usize::from(head.get_u16()));
        if min == 0 || min > max {
            return Err(ProtocolError::Range { min, max });
        }
        if extra > PREFACE_EXTRA_BYTES_MAX {
            return Err(ProtocolError::Extra { bytes: extra });
        }
        if self.buffer.len() < PREFACE_HEAD_BYTES + extra {
            return Ok(None);
        }
        self.buffer.advance(PREFACE_HEAD_BYTES + extra);
        Ok(Some(VersionRange { min, max }))
    }

    /// The next frame, once it is all there.
    pub fn frame(&mut self) -> Result<Option<Bytes>, ProtocolError> {
        let Some(mut head) = self.buffer.get(..FRAME_HEAD_BYTES) else { return Ok(None) };
        let length = usize::try_from(head.get_u32()).unwrap_or(usize::MAX);
        if length > FRAME_BYTES_MAX {
            return Err(ProtocolError::FrameTooLarge { bytes: length });
        }
        if self.buffer.len() < FRAME_HEAD_BYTES + length {
            return Ok(None);
        }
        self.buffer.advance(FRAME_HEAD_BYTES);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }

    /// Bytes of something unfinished.
    pub fn held_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Whether the stream may end here.
    pub fn end(&self) -> Result<(), ProtocolError> {
        match self.buffer.len() {
            0 => Ok(()),
            bytes => Err(ProtocolError::Truncated { bytes }),
        }
    }
}

#[cfg(test)]
mod tests;
