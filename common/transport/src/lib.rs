//! Connections between the processes of a fleet: small control frames, and streams of bulk bytes beside them.
//!
//! Code map: [`connection`] is the contract (a [`Connection`] and its three parts, streams, limits), [`identity`] says who
//! is at the other end, [`error`] what can go wrong and whether trying again helps, [`typed`] carries serde messages in
//! frames, [`memory`] connects the parts of one process, [`quic`] processes over a network, and `conformance` (a feature)
//! is the suite every transport passes. Under `quic` lie [`protocol`] (the bytes), [`pki`] (certificates) and [`tls`] (who
//! is let in). [`reconnect`] decides whom to try next and when.
//!
//! What this is not: it knows no message and no lease. A connection neither reconnects nor remembers: whoever connects
//! again starts anew, and what must survive that bears its own numbers.
//!
//! Invariants
//! 1. Frames arrive whole, once, in the order in which they were sent, or the connection is over.
//! 2. Bulk bytes arrive in order; a stream that ends without an error is complete. Giving a stream up, by dropping it
//!    too, never looks like its end.
//! 3. Control never waits for bulk.
//! 4. Everything queued has a bound in bytes; beyond it the sender waits, and a reader that does not read costs no more.
//! 5. Who is at the other end is settled before a connection is handed out, and does not change.
//!
//! Failure story: a peer that dies, is cut off or closes ends the connection on this side: with its reason if that
//! arrived, else with [`CloseKind::Lost`]. Frames that were on their way may be gone then; who must part without losing
//! one calls `finish` and reads to the peer's end before closing.

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod connection;
pub mod error;
pub mod identity;
pub mod memory;
pub mod pki;
pub mod protocol;
pub mod quic;
pub mod reconnect;
pub mod tls;
pub mod typed;

pub use connection::{
    Connection, Connector, Incoming, Listener, Receiver, Sender, Stream, StreamReader, StreamWriter,
};
pub use error::{CloseKind, CloseReason, TransportError};
pub use identity::{PeerIdentity, PeerName, Role};
pub use reconnect::{Dial, Redial};
pub use tls::Admission;
pub use typed::{Channel, TypedReceiver, TypedSender};
