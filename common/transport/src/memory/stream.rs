//! Bulk bytes between the two ends of a connection.

use super::wire::{Side, Wire};
use crate::connection::{CHUNK_BYTES_MAX, STREAM_BYTES_MAX, Stream, StreamReader, StreamWriter};
use crate::error::TransportError;
use async_trait::async_trait;
use bytes::Bytes;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;

const CHUNKS_MAX: usize = STREAM_BYTES_MAX / CHUNK_BYTES_MAX;

/// Bytes on their way; without any it is the end of the stream.
struct Parcel {
    due: Instant,
    bytes: Option<Bytes>,
}

/// A stream as its opener and as its acceptor hold it. The permit is one of the opener's streams and returns when the
/// opener has let go of both halves.
pub(super) fn open(wire: &Arc<Wire>, opener: Side, permit: OwnedSemaphorePermit) -> (Stream, Stream) {
    let permit = Arc::new(permit);
    let (there_sender, there) = mpsc::channel(CHUNKS_MAX);
    let (back_sender, back) = mpsc::channel(CHUNKS_MAX);
    let half = |side: Side, sender, parcels, permit: Option<Arc<OwnedSemaphorePermit>>| Stream {
        writer: Box::new(Writer {
            wire: Arc::clone(wire),
            side,
            parcels: State::Open(sender),
            _permit: permit.clone(),
        }),
        reader: Box::new(Reader {
            wire: Arc::clone(wire),
            side,
            parcels,
            head: None,
            is_finished: false,
            _permit: permit,
        }),
    };
    (half(opener, there_sender, back, Some(permit)), half(opener.other(), back_sender, there, None))
}

enum State {
    Open(mpsc::Sender<Parcel>),
    Finished,
    Reset,
}

struct Writer {
    wire: Arc<Wire>,
    side: Side,
    parcels: State,
    _permit: Option<Arc<OwnedSemaphorePermit>>,
}

impl Writer {
    async fn send(&self, bytes: Option<Bytes>) -> Result<(), TransportError> {
        let sender = match &self.parcels {
            State::Open(sender) => sender,
            State::Finished => return Err(TransportError::Finished),
            State::Reset => return Err(TransportError::StreamReset),
        };
        let parcel = Parcel { due: self.wire.faults().due(self.side.sends()), bytes };
        let sent = self.wire.unless_ended(self.side, sender.send(parcel)).await?;
        sent.map_err(|_reader_gone| TransportError::StreamReset)
    }
}

#[async_trait]
impl StreamWriter for Writer {
    async fn write(&mut self, mut bytes: Bytes) -> Result<(), TransportError> {
        while !bytes.is_empty() {
            let chunk = bytes.split_to(bytes.len().min(CHUNK_BYTES_MAX));
            self.send(Some(chunk)).await?;
        }
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), TransportError> {
        self.send(None).await?;
        self.parcels = State::Finished;
        Ok(())
    }

    fn reset(&mut self) {
        if matches!(self.parcels, State::Open(_)) {
            self.parcels = State::Reset;
        }
    }
}

struct Reader {
    wire: Arc<Wire>,
    side: Side,
    parcels: mpsc::Receiver<Parcel>,
    /// Taken from the queue and not yet handed out: survives a read that was cancelled.
    head: Option<Parcel>,
    is_finished: bool,
    _permit: Option<Arc<OwnedSemaphorePermit>>,
}

#[async_trait]
impl StreamReader for Reader {
    async fn read(&mut self) -> Result<Option<Bytes>, TransportError> {
        if self.is_finished {
            return Ok(None);
        }
        let arrival = async {
            if self.head.is_none() {
                self.head = self.parcels.recv().await;
            }
            let Some(head) = &self.head else { return None };
            self.wire.faults().passes(self.side.receives(), head.due).await;
            self.head.take()
        };
        let parcel = self.wire.unless_ended(self.side, arrival).await?;
        // A writer that went away without a word of the end gave up.
        let Some(parcel) = parcel else { return Err(TransportError::StreamReset) };
        self.is_finished = parcel.bytes.is_none();
        Ok(parcel.bytes)
    }
}
