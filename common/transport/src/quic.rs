//! Connections over a real network: QUIC with mutual TLS 1.3, one UDP socket for all peers. `PROTOCOL.md` beside this
//! file says what is on the wire.
//!
//! Code map: `listener` takes peers and turns away those who are none, `crowd` counts them, `dialer` reaches them, `control` is the stream of
//! frames that every connection has, `stream` the bulk beside it, `settings` maps our limits onto QUIC's, `socket` and
//! `runtime` are where it meets the machine, `failures` words what went wrong.
//!
//! Invariants
//! 1. A connection is handed out only after both certificates were accepted and both prefaces were exchanged.
//! 2. Half-open handshakes are bounded in number and time, and whoever did not prove its address costs no state once
//!    some are pending.
//! 3. Bulk that is stuck cannot fill a window that control needs: QUIC's windows for the connection are the sum of those
//!    of all streams.
//! 4. A certificate that is revoked ends the connections that it opened.
//!
//! Failure story: whatever a peer sends ends its own connection at most, with a reason for both sides' logs. A listener
//! whose socket fails ends, and `accept` says so.

mod control;
mod crowd;
mod dialer;
mod failures;
mod handshake;
mod listener;
mod runtime;
pub(crate) mod settings;
pub(crate) mod socket;
mod stream;

pub use dialer::{DialConfig, QuicConnector, QuicDialer};
pub use listener::{ListenConfig, QuicListener, Refusals};
pub use settings::{
    HANDSHAKE_TIMEOUT, HANDSHAKES_MAX, HANDSHAKES_OF_HOST_MAX, KEEP_ALIVE_INTERVAL, Load, UNPROVED_MAX,
};

#[cfg(test)]
mod tests;
