//! What quinn says of a connection's end, in the words of the contract.

use crate::error::{CloseKind, CloseReason, TransportError};
use crate::tls::plain_text;
use quinn::{ConnectionError, TransportErrorCode, VarInt};

/// Codes of TLS alerts: RFC 9001, section 4.8.
const CRYPTO_CODES: std::ops::RangeInclusive<u64> = 0x100..=0x1ff;

/// The alert of a side that speaks no protocol of ours.
const NO_APPLICATION_PROTOCOL: u64 = 0x100 + 120;

/// How a close reason travels. What is only concluded, never said, goes out as its weaker sibling.
pub(super) fn close_code(kind: CloseKind) -> VarInt {
    let said = if kind == CloseKind::Lost { CloseKind::Dropped } else { kind };
    VarInt::from_u32(said.number())
}

/// Why a connection that was handed out is over. `own` is what this side said, if it closed.
pub(super) fn close_reason(error: &ConnectionError, own: Option<&CloseReason>) -> CloseReason {
    match error {
        ConnectionError::ApplicationClosed(close) => {
            let number = u32::try_from(close.error_code.into_inner()).unwrap_or(u32::MAX);
            CloseReason::new(CloseKind::from_number(number), String::from_utf8_lossy(&close.reason))
        }
        ConnectionError::LocallyClosed => {
            own.cloned().unwrap_or_else(|| CloseReason::new(CloseKind::Dropped, ""))
        }
        ConnectionError::TimedOut => CloseReason::new(CloseKind::Lost, "nothing was heard of the peer"),
        ConnectionError::Reset => CloseReason::new(CloseKind::Lost, "the peer has started anew"),
        ConnectionError::ConnectionClosed(close) if is_crypto(close.error_code) => {
            let text = String::from_utf8_lossy(&close.reason);
            CloseReason::new(CloseKind::Refused, plain_text(&text))
        }
        other => CloseReason::new(CloseKind::Protocol, other.to_string()),
    }
}

/// Why a connection did not come about, for either side.
pub(super) fn connect_error(address: &str, error: &ConnectionError) -> TransportError {
    let address = address.to_owned();
    let unreachable =
        |address, reason: &str| TransportError::Unreachable { address, reason: reason.to_owned() };
    match error {
        ConnectionError::TransportError(ours) if is_crypto(ours.code) => {
            crypto_error(address, ours.code, plain_text(&ours.reason).to_owned())
        }
        ConnectionError::ConnectionClosed(theirs) if is_crypto(theirs.error_code) => {
            let text = String::from_utf8_lossy(&theirs.reason);
            let reason = format!("the peer did not accept this side's certificate: {}", plain_text(&text));
            crypto_error(address, theirs.error_code, reason)
        }
        ConnectionError::ConnectionClosed(theirs)
            if theirs.error_code == TransportErrorCode::CONNECTION_REFUSED =>
        {
            unreachable(address, "it takes no further connections at the moment")
        }
        ConnectionError::ApplicationClosed(_) => TransportError::Closed(close_reason(error, None)),
        ConnectionError::TimedOut => unreachable(address, "nobody answers"),
        other => unreachable(address, &other.to_string()),
    }
}

fn crypto_error(address: String, code: TransportErrorCode, reason: String) -> TransportError {
    if u64::from(code) == NO_APPLICATION_PROTOCOL {
        let reason = "it speaks another protocol, or a version too far from ours".to_owned();
        TransportError::Unreachable { address, reason }
    } else {
        TransportError::Identity { address, reason }
    }
}

fn is_crypto(code: TransportErrorCode) -> bool {
    CRYPTO_CODES.contains(&u64::from(code))
}
