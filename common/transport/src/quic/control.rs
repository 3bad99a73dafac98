//! The control stream of a connection, and the handles of one end.
//!
//! Frames go through a queue to one task that writes them: a caller that gives up waiting must not leave half a frame in
//! the stream. The task lives as long as the connection.

use super::failures::{close_code, close_reason};
use super::settings::CONTROL_PRIORITY;
use super::stream;
use crate::connection::{
    CHUNK_BYTES_MAX, CONTROL_BYTES_MAX, Connection, FRAME_BYTES_MAX, Incoming, Receiver, Sender, Stream,
};
use crate::error::{CloseKind, CloseReason, TransportError};
use crate::identity::PeerIdentity;
use crate::pki::{Revoked, Serial};
use crate::protocol::{Decoder, ProtocolError, encode_frame_head};
use async_trait::async_trait;
use bytes::Bytes;
use quinn::{ConnectionError, ReadError, RecvStream, SendStream};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

/// What the smallest frame counts for, so that empty ones are bounded as well.
const FRAME_COST_MIN: usize = 256;

/// What all handles of one end share.
pub(super) struct Link {
    connection: quinn::Connection,
    peer: PeerIdentity,
    /// Said first by this side.
    own: OnceLock<CloseReason>,
}

impl Link {
    pub(super) fn close(&self, reason: CloseReason) {
        let kind = reason.kind();
        if self.own.set(reason.clone()).is_ok() {
            self.connection.close(close_code(kind), reason.text().as_bytes());
        }
    }

    pub(super) fn reason_of(&self, error: &ConnectionError) -> CloseReason {
        close_reason(error, self.own.get())
    }

    /// The reason, if the connection is over.
    pub(super) fn close_reason(&self) -> Option<CloseReason> {
        self.connection.close_reason().map(|error| self.reason_of(&error))
    }

    async fn closed(&self) -> CloseReason {
        self.reason_of(&self.connection.closed().await)
    }

    fn protocol_error(&self, error: &ProtocolError) -> TransportError {
        let reason = CloseReason::new(CloseKind::Protocol, error.to_string());
        self.close(reason.clone());
        TransportError::Closed(self.close_reason().unwrap_or(reason))
    }

    /// Does `work`, unless the connection ends first.
    async fn unless_closed<T>(&self, work: impl Future<Output = T>) -> Result<T, TransportError> {
        tokio::select! {
            biased;
            reason = self.closed() => Err(TransportError::Closed(reason)),
            done = work => Ok(done),
        }
    }
}

/// What the handshake leaves: a connection whose prefaces were exchanged.
pub(super) struct Greeted {
    pub(super) connection: quinn::Connection,
    pub(super) peer: PeerIdentity,
    pub(super) serial: Serial,
    pub(super) send: SendStream,
    pub(super) recv: RecvStream,
    /// Holds what followed the preface.
    pub(super) decoder: Decoder,
}

/// Makes the handles of a connection and starts its task.
pub(super) fn connect(greeted: Greeted, revoked: Revoked, runtime: &Handle) -> Connection {
    let Greeted { connection, peer, serial, send, recv, decoder } = greeted;
    let link = Arc::new(Link { connection, peer, own: OnceLock::new() });
    let (frames, queued) = mpsc::unbounded_channel();
    runtime.spawn(serve(Arc::clone(&link), send, queued, revoked, serial));
    let speaker = Speaker {
        link: Arc::clone(&link),
        room: Arc::new(Semaphore::new(CONTROL_BYTES_MAX)),
        frames: Mutex::new(Some(frames)),
    };
    Connection {
        sender: Arc::new(speaker),
        receiver: Box::new(Listening { link: Arc::clone(&link), recv, decoder, is_finished: false }),
        incoming: Box::new(Taking { link }),
    }
}

/// On its way to the task that writes. Bounded by the permits, so the channel need not be.
enum Parcel {
    Frame {
        frame: Bytes,
        room: OwnedSemaphorePermit,
    },
    /// None follows; the answer says that all are there.
    End {
        arrived: oneshot::Sender<()>,
    },
}

/// Writes frames and watches the peer's certificate, until the connection is over.
async fn serve(
    link: Arc<Link>,
    send: SendStream,
    frames: mpsc::UnboundedReceiver<Parcel>,
    revoked: Revoked,
    serial: Serial,
) {
    tokio::select! {
        () = write_frames(&link, send, frames) => {}
        () = revoked.comes_to_contain(&serial) => {
            tracing::warn!(peer = %link.peer, %serial, "the certificate of a connected peer was revoked");
            link.close(CloseReason::new(CloseKind::Refused, format!("the certificate {serial} was revoked")));
        }
        _ = link.connection.closed() => {}
    }
}

async fn write_frames(link: &Link, mut send: SendStream, mut frames: mpsc::UnboundedReceiver<Parcel>) {
    // Fails only for a stream that is over, which the first write says as well.
    let _ = send.set_priority(CONTROL_PRIORITY);
    while let Some(parcel) = frames.recv().await {
        let written = match parcel {
            Parcel::Frame { frame, room } => {
                let head = encode_frame_head(&frame).expect("frames that are too large are refused before");
                let written = send.write_all_chunks(&mut [Bytes::copy_from_slice(&head), frame]).await;
                drop(room);
                written.is_ok()
            }
            Parcel::End { arrived } => {
                let ended = send.finish().is_ok() && matches!(send.stopped().await, Ok(None));
                // Whoever waited may have given up.
                let _ = arrived.send(());
                ended
            }
        };
        if !written {
            let text = "the control stream was stopped";
            link.close(CloseReason::new(CloseKind::Protocol, text));
            return;
        }
    }
    // All senders are gone, which ends nothing: the stream must not look finished.
    std::future::pending().await
}

struct Speaker {
    link: Arc<Link>,
    room: Arc<Semaphore>,
    /// Empty after `finish`.
    frames: Mutex<Option<mpsc::UnboundedSender<Parcel>>>,
}

impl Speaker {
    /// Queues a parcel; the end of the frames closes the queue behind it.
    fn push(&self, parcel: Parcel) -> Result<(), TransportError> {
        let mut frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(queue) = frames.as_ref() else { return Err(TransportError::Finished) };
        let is_last = matches!(parcel, Parcel::End { .. });
        let sent = queue.send(parcel);
        if is_last {
            *frames = None;
        }
        // The task ends with the connection only.
        let over = || CloseReason::new(CloseKind::Dropped, "");
        sent.map_err(|_| TransportError::Closed(self.link.close_reason().unwrap_or_else(over)))
    }
}

#[async_trait]
impl Sender for Speaker {
    fn peer(&self) -> &PeerIdentity {
        &self.link.peer
    }

    async fn send(&self, frame: Bytes) -> Result<(), TransportError> {
        let bytes = frame.len();
        if bytes > FRAME_BYTES_MAX {
            return Err(TransportError::TooLarge { bytes, max: FRAME_BYTES_MAX });
        }
        let cost = u32::try_from(bytes.max(FRAME_COST_MIN)).expect("the largest frame fits 32 bits");
        let room = self.link.unless_closed(Arc::clone(&self.room).acquire_many_owned(cost)).await?;
        let room = room.expect("the semaphore of a connection is never closed");
        self.push(Parcel::Frame { frame, room })
    }

    async fn finish(&self) -> Result<(), TransportError> {
        let (arrived, arrival) = oneshot::channel();
        self.push(Parcel::End { arrived })?;
        match arrival.await {
            Ok(()) => Ok(()),
            // The task is gone, so the connection is over.
            Err(_) => Err(TransportError::Closed(self.link.closed().await)),
        }
    }

    async fn open_stream(&self) -> Result<Stream, TransportError> {
        match self.link.connection.open_bi().await {
            Ok(halves) => Ok(stream::wrap(&self.link, halves)),
            Err(error) => Err(TransportError::Closed(self.link.reason_of(&error))),
        }
    }

    fn close(&self, reason: CloseReason) {
        self.link.close(reason);
    }

    async fn closed(&self) -> CloseReason {
        self.link.closed().await
    }
}

struct Listening {
    link: Arc<Link>,
    recv: RecvStream,
    decoder: Decoder,
    is_finished: bool,
}

impl Listening {
    /// What arrived is in the decoder before anything is awaited, so a cancelled call loses nothing.
    async fn next(&mut self) -> Result<Option<Bytes>, TransportError> {
        loop {
            match self.decoder.frame() {
                Ok(Some(frame)) => return Ok(Some(frame)),
                Ok(None) if self.is_finished => return Ok(None),
                Ok(None) => {}
                Err(error) => return Err(self.link.protocol_error(&error)),
            }
            match self.recv.read_chunk(CHUNK_BYTES_MAX, true).await {
                Ok(Some(chunk)) => self.decoder.push(&chunk.bytes),
                Ok(None) => {
                    self.decoder.end().map_err(|error| self.link.protocol_error(&error))?;
                    self.is_finished = true;
                }
                Err(ReadError::ConnectionLost(error)) => {
                    return Err(TransportError::Closed(self.link.reason_of(&error)));
                }
                Err(_given_up) => {
                    let bytes = self.decoder.held_bytes();
                    return Err(self.link.protocol_error(&ProtocolError::Truncated { bytes }));
                }
            }
        }
    }
}

#[async_trait]
impl Receiver for Listening {
    async fn recv(&mut self) -> Result<Option<Bytes>, TransportError> {
        // A close overtakes frames that were not read yet.
        let link = Arc::clone(&self.link);
        link.unless_closed(self.next()).await?
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.link.close(CloseReason::new(CloseKind::Dropped, ""));
    }
}

struct Taking {
    link: Arc<Link>,
}

#[async_trait]
impl Incoming for Taking {
    async fn accept_stream(&mut self) -> Result<Stream, TransportError> {
        match self.link.connection.accept_bi().await {
            Ok(halves) => Ok(stream::wrap(&self.link, halves)),
            Err(error) => Err(TransportError::Closed(self.link.reason_of(&error))),
        }
    }
}
