//! The contract of a transport.
//!
//! A connection comes in three parts, so that one task reads frames, another takes streams, and any number send:
//! [`Sender`] (shared), [`Receiver`] and [`Incoming`]. The receiver owns the connection: dropping it closes, because a
//! peer that nobody listens to is no peer. Senders alone keep nothing open.

use crate::error::{CloseReason, TransportError};
use crate::identity::PeerIdentity;
use async_trait::async_trait;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

/// Bytes of one control frame. The largest ordinary message, a page of inventory or a batch of receipts, is a quarter of
/// this; what is larger belongs on a stream.
pub const FRAME_BYTES_MAX: usize = 1 << 20;

/// Bytes of control frames that wait for the reader of one connection: a few of the largest, thousands of usual ones.
pub const CONTROL_BYTES_MAX: usize = 4 << 20;

/// Bytes that one read of a stream hands out at most.
pub const CHUNK_BYTES_MAX: usize = 256 << 10;

/// Bytes of one stream's direction that wait for its reader: a frame of the repository's format and no more, so that
/// all slots of a worker together stay within its memory budget.
pub const STREAM_BYTES_MAX: usize = 1 << 20;

/// Streams that one side may have open at a time; the next waits. More than a worker has slots.
pub const STREAMS_MAX: usize = 64;

/// A connection over which nothing passed in one direction for this long is over, for both ends. Longer than a moved
/// route, shorter than a worker's lease.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// Waits for peers.
#[async_trait]
pub trait Listener: Send + Sync {
    /// The next peer whose identity was proved. One peer that fails its handshake is no error of the listener. An error
    /// means that the listener is closed. Safe to cancel.
    async fn accept(&self) -> Result<Connection, TransportError>;

    /// Takes no further peer. Connections that were accepted live on.
    fn close(&self);
}

/// Reaches one peer; whoever needs a new connection asks again.
#[async_trait]
pub trait Connector: Send + Sync {
    async fn connect(&self) -> Result<Connection, TransportError>;
}

/// Sends frames, opens streams, closes. Shared by everybody who speaks to the peer.
#[async_trait]
pub trait Sender: Send + Sync {
    fn peer(&self) -> &PeerIdentity;

    /// Sends one frame; waits while the peer is [`CONTROL_BYTES_MAX`] behind. Success means queued, not received.
    /// Dropping the future before it is done sends nothing or the whole frame.
    async fn send(&self, frame: Bytes) -> Result<(), TransportError>;

    /// Says that no frame follows, and waits until all have reached the peer's side. Streams and the other direction go
    /// on.
    async fn finish(&self) -> Result<(), TransportError>;

    /// Opens a stream; waits while [`STREAMS_MAX`] are open. The peer may hear of it only with the first bytes or the end
    /// that is sent on it.
    async fn open_stream(&self) -> Result<Stream, TransportError>;

    /// Ends the connection at once, in both directions and with all streams. The first reason counts.
    fn close(&self, reason: CloseReason);

    /// Resolves when the connection is over, with the reason that this side knows.
    async fn closed(&self) -> CloseReason;
}

/// Reads frames. Dropping it closes the connection.
#[async_trait]
pub trait Receiver: Send {
    /// The next frame; `None` after the peer's `finish`; an error when the connection is over. Safe to cancel: no frame
    /// is lost.
    async fn recv(&mut self) -> Result<Option<Bytes>, TransportError>;
}

/// Takes the streams that the peer opens. Dropping it takes none.
#[async_trait]
pub trait Incoming: Send {
    /// The next stream. Safe to cancel.
    async fn accept_stream(&mut self) -> Result<Stream, TransportError>;
}

/// One connection to one peer, whole. Take it apart where several tasks use it.
pub struct Connection {
    pub sender: Arc<dyn Sender>,
    pub receiver: Box<dyn Receiver>,
    pub incoming: Box<dyn Incoming>,
}

impl Connection {
    pub fn peer(&self) -> &PeerIdentity {
        self.sender.peer()
    }

    /// See [`Sender::send`].
    pub async fn send(&self, frame: Bytes) -> Result<(), TransportError> {
        self.sender.send(frame).await
    }

    /// See [`Receiver::recv`].
    pub async fn recv(&mut self) -> Result<Option<Bytes>, TransportError> {
        self.receiver.recv().await
    }

    /// See [`Sender::open_stream`].
    pub async fn open_stream(&self) -> Result<Stream, TransportError> {
        self.sender.open_stream().await
    }

    /// See [`Incoming::accept_stream`].
    pub async fn accept_stream(&mut self) -> Result<Stream, TransportError> {
        self.incoming.accept_stream().await
    }

    /// See [`Sender::close`].
    pub fn close(&self, reason: CloseReason) {
        self.sender.close(reason);
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("peer", self.peer()).finish_non_exhaustive()
    }
}

/// Bulk bytes in both directions, each in order. Borders between writes are not kept.
pub struct Stream {
    pub writer: Box<dyn StreamWriter>,
    pub reader: Box<dyn StreamReader>,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").finish_non_exhaustive()
    }
}

/// The sending half of a stream. Dropping it without `finish` resets: half a range must never look like a whole one.
#[async_trait]
pub trait StreamWriter: Send {
    /// Sends bytes; waits while the reader is [`STREAM_BYTES_MAX`] behind. Not safe to cancel: a part may be on its way,
    /// so give the stream up afterwards. [`TransportError::StreamReset`] if the reader was dropped.
    async fn write(&mut self, bytes: Bytes) -> Result<(), TransportError>;

    /// Ends this direction as complete. Nothing can be written afterwards.
    async fn finish(&mut self) -> Result<(), TransportError>;

    /// Gives this direction up.
    fn reset(&mut self);
}

/// The receiving half of a stream. Dropping it tells the writer to stop.
#[async_trait]
pub trait StreamReader: Send {
    /// Up to [`CHUNK_BYTES_MAX`] bytes, never none; `None` at the end, which is the proof that nothing is missing. Safe
    /// to cancel.
    async fn read(&mut self) -> Result<Option<Bytes>, TransportError>;
}
