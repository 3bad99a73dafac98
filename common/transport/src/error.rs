//! What can go wrong on a connection, why connections end, and whether trying again helps.

use pgconvoy_core::failure::{Classify, ErrorCode, Retry};
use std::fmt;
use std::time::Duration;

/// Bytes of a close reason's text that travel; the rest is cut off. A reason must fit one packet.
pub const REASON_BYTES_MAX: usize = 512;

/// Why a connection ended, as a number on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CloseKind {
    /// The peer let go of the connection without a word.
    Dropped,
    /// Nothing was heard of the peer for the idle timeout. Never sent.
    Lost,
    /// What was to be said has been said.
    Done,
    /// The process is going down; another one may be there.
    Shutdown,
    /// A newer connection of the same peer took this one's place.
    Superseded,
    /// This peer is not welcome: revoked, wrong role, wrong stanza.
    Refused,
    /// The peer sent what it must not send.
    Protocol,
    /// This coordinator does not lead. The text is the leader's address as `host:port`, or empty if nobody is known to.
    NotLeader,
}

impl CloseKind {
    pub const ALL: [CloseKind; 8] = [
        CloseKind::Dropped,
        CloseKind::Lost,
        CloseKind::Done,
        CloseKind::Shutdown,
        CloseKind::Superseded,
        CloseKind::Refused,
        CloseKind::Protocol,
        CloseKind::NotLeader,
    ];

    /// The number on the wire. 0 is what a transport sends when nobody said anything.
    pub const fn number(self) -> u32 {
        match self {
            CloseKind::Dropped => 0,
            CloseKind::Lost => 1,
            CloseKind::Done => 2,
            CloseKind::Shutdown => 3,
            CloseKind::Superseded => 4,
            CloseKind::Refused => 5,
            CloseKind::Protocol => 6,
            CloseKind::NotLeader => 7,
        }
    }

    /// A number of a newer version than ours says at least that the connection is over.
    pub fn from_number(number: u32) -> CloseKind {
        CloseKind::ALL.into_iter().find(|kind| kind.number() == number).unwrap_or(CloseKind::Dropped)
    }

    pub const fn name(self) -> &'static str {
        match self {
            CloseKind::Dropped => "dropped",
            CloseKind::Lost => "lost",
            CloseKind::Done => "done",
            CloseKind::Shutdown => "shutdown",
            CloseKind::Superseded => "superseded",
            CloseKind::Refused => "refused",
            CloseKind::Protocol => "protocol error",
            CloseKind::NotLeader => "not the leader",
        }
    }
}

/// Why a connection ended, for machines and for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloseReason {
    kind: CloseKind,
    text: String,
}

impl CloseReason {
    /// Keeps the first [`REASON_BYTES_MAX`] bytes of the text.
    pub fn new(kind: CloseKind, text: impl Into<String>) -> CloseReason {
        let mut text = text.into();
        text.truncate(text.floor_char_boundary(REASON_BYTES_MAX));
        CloseReason { kind, text }
    }

    pub fn kind(&self) -> CloseKind {
        self.kind
    }

    pub fn text(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.name())?;
        if self.text.is_empty() { Ok(()) } else { write!(f, " ({})", self.text) }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// The connection is over, closed by either side.
    #[error("the connection is closed: {0}")]
    Closed(CloseReason),
    /// Refused before anything was sent; the connection goes on.
    #[error("a frame of {bytes} bytes is larger than the {max} allowed")]
    TooLarge { bytes: usize, max: usize },
    /// One stream was given up by the peer; the connection goes on.
    #[error("the peer gave up the stream")]
    StreamReset,
    /// Frames were sent after `finish`.
    #[error("this side has finished sending")]
    Finished,
    #[error("no answer to {what} within {after:?}")]
    Timeout { what: &'static str, after: Duration },
    /// Nobody there, or nobody who speaks our protocol.
    #[error("cannot connect to {address}: {reason}")]
    Unreachable { address: String, reason: String },
    /// The handshake proved the peer to be somebody else, or nobody.
    #[error("the identity of {address} was not accepted: {reason}")]
    Identity { address: String, reason: String },
    /// A frame that is no message of the expected type.
    #[error("cannot read a message of {bytes} bytes from {peer}: {reason}")]
    Garbage { peer: String, bytes: usize, reason: String },
    /// A message that has no encoding; ours, so a defect.
    #[error("cannot encode a message: {reason}")]
    Encode { reason: String },
}

impl TransportError {
    /// The close reason, if the connection is over.
    pub fn close_reason(&self) -> Option<&CloseReason> {
        match self {
            TransportError::Closed(reason) => Some(reason),
            _ => None,
        }
    }
}

impl Classify for TransportError {
    fn code(&self) -> ErrorCode {
        match self {
            TransportError::Closed(reason) => match reason.kind {
                CloseKind::Refused => ErrorCode::Access,
                CloseKind::Protocol => ErrorCode::Protocol,
                _ => ErrorCode::HostConnect,
            },
            TransportError::StreamReset
            | TransportError::Timeout { .. }
            | TransportError::Unreachable { .. } => ErrorCode::HostConnect,
            TransportError::Identity { .. } => ErrorCode::Access,
            TransportError::TooLarge { .. } | TransportError::Garbage { .. } => ErrorCode::Protocol,
            TransportError::Finished | TransportError::Encode { .. } => ErrorCode::Assert,
        }
    }

    fn retry(&self) -> Retry {
        match self.code() {
            ErrorCode::HostConnect => Retry::MayHelp,
            _ => Retry::IsFutile,
        }
    }

    fn hints(&self) -> Vec<String> {
        let hint = match self {
            TransportError::Unreachable { .. } => {
                "check the address, that the coordinator runs, and that UDP passes"
            }
            TransportError::Identity { .. } => {
                "check that both certificates were issued by the same fleet authority"
            }
            TransportError::Garbage { .. } => "check that both ends run versions that work together",
            _ => return Vec::new(),
        };
        vec![hint.to_owned()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_close_kind_reads_back_from_its_number() {
        for kind in CloseKind::ALL {
            assert_eq!(CloseKind::from_number(kind.number()), kind);
        }
        assert_eq!(CloseKind::from_number(4711), CloseKind::Dropped);
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let reason = CloseReason::new(CloseKind::Refused, "ü".repeat(REASON_BYTES_MAX));
        assert_eq!(reason.text().len(), REASON_BYTES_MAX);
        let odd = CloseReason::new(CloseKind::Refused, format!("x{}", "ü".repeat(REASON_BYTES_MAX)));
        assert_eq!(odd.text().len(), REASON_BYTES_MAX - 1);
    }

    #[test]
    fn what_a_new_connection_may_heal_is_worth_a_retry() {
        let closed = |kind| TransportError::Closed(CloseReason::new(kind, ""));
        for kind in [CloseKind::Dropped, CloseKind::Lost, CloseKind::Shutdown, CloseKind::NotLeader] {
            assert_eq!(closed(kind).retry(), Retry::MayHelp);
            assert_eq!(closed(kind).code(), ErrorCode::HostConnect);
        }
        for kind in [CloseKind::Refused, CloseKind::Protocol] {
            assert_eq!(closed(kind).retry(), Retry::IsFutile);
        }
    }
}
