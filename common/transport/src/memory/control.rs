//! Frames, and the handles of one end.

use super::faults::Faults;
use super::stream;
use super::wire::{Side, Wire};
use crate::connection::{
    CONTROL_BYTES_MAX, Connection, FRAME_BYTES_MAX, Incoming, Receiver, STREAMS_MAX, Sender, Stream,
};
use crate::error::{CloseKind, CloseReason, TransportError};
use crate::identity::PeerIdentity;
use async_trait::async_trait;
use bytes::Bytes;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;

/// What the smallest frame counts for, so that empty ones are bounded as well.
const FRAME_COST_MIN: usize = 256;

/// A frame on its way; without bytes it says that none follows.
struct Parcel {
    due: Instant,
    frame: Option<Bytes>,
    _room: Option<OwnedSemaphorePermit>,
}

struct Opened {
    due: Instant,
    stream: Stream,
}

/// Connects two ends.
pub(super) fn connect(near: PeerIdentity, far: PeerIdentity, faults: Faults) -> (Connection, Connection) {
    let wire = Arc::new(Wire::new(near, far, faults));
    let (near_out, far_in) = queues();
    let (far_out, near_in) = queues();
    (end(&wire, Side::Near, near_out, near_in), end(&wire, Side::Far, far_out, far_in))
}

struct Outbox {
    frames: mpsc::UnboundedSender<Parcel>,
    streams: mpsc::UnboundedSender<Opened>,
}

struct Inbox {
    frames: mpsc::UnboundedReceiver<Parcel>,
    streams: mpsc::UnboundedReceiver<Opened>,
}

/// Both queues are bounded by permits, so the channels need not be.
fn queues() -> (Outbox, Inbox) {
    let (frames, frames_in) = mpsc::unbounded_channel();
    let (streams, streams_in) = mpsc::unbounded_channel();
    (Outbox { frames, streams }, Inbox { frames: frames_in, streams: streams_in })
}

fn end(wire: &Arc<Wire>, side: Side, outbox: Outbox, inbox: Inbox) -> Connection {
    let speaker = Arc::new(Speaker {
        wire: Arc::clone(wire),
        side,
        room: Arc::new(Semaphore::new(CONTROL_BYTES_MAX)),
        places: Arc::new(Semaphore::new(STREAMS_MAX)),
        frames: Mutex::new(Some(outbox.frames.clone())),
        streams: outbox.streams.clone(),
    });
    Connection {
        sender: speaker,
        receiver: Box::new(Listening {
            wire: Arc::clone(wire),
            side,
            frames: inbox.frames,
            head: None,
            is_finished: false,
            _outbox: outbox,
        }),
        incoming: Box::new(Taking { wire: Arc::clone(wire), side, streams: inbox.streams, head: None }),
    }
}

struct Speaker {
    wire: Arc<Wire>,
    side: Side,
    room: Arc<Semaphore>,
    places: Arc<Semaphore>,
    /// Empty after `finish`.
    frames: Mutex<Option<mpsc::UnboundedSender<Parcel>>>,
    streams: mpsc::UnboundedSender<Opened>,
}

impl Speaker {
    /// Waits for permits, unless the connection ends first.
    async fn permits(
        &self,
        from: &Arc<Semaphore>,
        count: u32,
    ) -> Result<OwnedSemaphorePermit, TransportError> {
        let acquired = self.wire.unless_ended(self.side, Arc::clone(from).acquire_many_owned(count)).await?;
        Ok(acquired.expect("the semaphores of a connection are never closed"))
    }

    /// Queues a parcel; the end of the frames closes the queue behind it.
    fn push(&self, parcel: Parcel) -> Result<(), TransportError> {
        let mut frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(queue) = frames.as_ref() else { return Err(TransportError::Finished) };
        let is_last = parcel.frame.is_none();
        // A reader that is gone has closed the connection, and the next wait on it says so.
        let _ = queue.send(parcel);
        if is_last {
            *frames = None;
        }
        Ok(())
    }
}

#[async_trait]
impl Sender for Speaker {
    fn peer(&self) -> &PeerIdentity {
        self.wire.peer_of(self.side)
    }

    async fn send(&self, frame: Bytes) -> Result<(), TransportError> {
        let bytes = frame.len();
        if bytes > FRAME_BYTES_MAX {
            return Err(TransportError::TooLarge { bytes, max: FRAME_BYTES_MAX });
        }
        let cost = u32::try_from(bytes.max(FRAME_COST_MIN)).expect("the largest frame fits 32 bits");
        let room = self.permits(&self.room, cost).await?;
        let due = self.wire.faults().due(self.side.sends());
        self.push(Parcel { due, frame: Some(frame), _room: Some(room) })
    }

    async fn finish(&self) -> Result<(), TransportError> {
        let due = self.wire.faults().due(self.side.sends());
        self.push(Parcel { due, frame: None, _room: None })?;
        self.wire.unless_ended(self.side, self.wire.faults().passes(self.side.sends(), due)).await
    }

    async fn open_stream(&self) -> Result<Stream, TransportError> {
        let place = self.permits(&self.places, 1).await?;
        let (ours, theirs) = stream::open(&self.wire, self.side, place);
        let due = self.wire.faults().due(self.side.sends());
        match self.streams.send(Opened { due, stream: theirs }) {
            Ok(()) => Ok(ours),
            Err(_nobody_takes_streams) => Err(TransportError::StreamReset),
        }
    }

    fn close(&self, reason: CloseReason) {
        self.wire.close(self.side, reason);
    }

    async fn closed(&self) -> CloseReason {
        self.wire.ended(self.side).await
    }
}

struct Listening {
    wire: Arc<Wire>,
    side: Side,
    frames: mpsc::UnboundedReceiver<Parcel>,
    /// Taken from the queue and not yet handed out: survives a `recv` that was cancelled.
    head: Option<Parcel>,
    is_finished: bool,
    /// Keeps this end's queues open when all its senders are dropped: that is no end of the connection.
    _outbox: Outbox,
}

#[async_trait]
impl Receiver for Listening {
    async fn recv(&mut self) -> Result<Option<Bytes>, TransportError> {
        let arrival = async {
            if self.is_finished {
                return None;
            }
            if self.head.is_none() {
                self.head = self.frames.recv().await;
            }
            let Some(head) = &self.head else { return std::future::pending().await };
            self.wire.faults().passes(self.side.receives(), head.due).await;
            self.head.take().and_then(|parcel| parcel.frame)
        };
        let frame = self.wire.unless_ended(self.side, arrival).await?;
        self.is_finished = frame.is_none();
        Ok(frame)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.wire.close(self.side, CloseReason::new(CloseKind::Dropped, ""));
    }
}

struct Taking {
    wire: Arc<Wire>,
    side: Side,
    streams: mpsc::UnboundedReceiver<Opened>,
    head: Option<Opened>,
}

#[async_trait]
impl Incoming for Taking {
    async fn accept_stream(&mut self) -> Result<Stream, TransportError> {
        let arrival = async {
            if self.head.is_none() {
                self.head = self.streams.recv().await;
            }
            let Some(head) = &self.head else { return std::future::pending().await };
            self.wire.faults().passes(self.side.receives(), head.due).await;
            match self.head.take() {
                Some(opened) => opened.stream,
                None => std::future::pending().await,
            }
        };
        self.wire.unless_ended(self.side, arrival).await
    }
}
