//! Bulk bytes between the two ends of a connection: a bidirectional QUIC stream each.

use super::control::Link;
use crate::connection::{CHUNK_BYTES_MAX, Stream, StreamReader, StreamWriter};
use crate::error::TransportError;
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use quinn::{ReadError, RecvStream, SendStream, VarInt, WriteError};
use std::collections::VecDeque;
use std::sync::Arc;

/// The code of a stream that was given up. Why is said on the control stream, if at all.
const GIVEN_UP: VarInt = VarInt::from_u32(1);

/// Packets' worth of bytes that one read takes at once: about 90 KiB at usual packet sizes.
const PIECES: usize = 64;

pub(super) fn wrap(link: &Arc<Link>, (send, recv): (SendStream, RecvStream)) -> Stream {
    Stream {
        writer: Box::new(Writer { link: Arc::clone(link), send, state: State::Open }),
        reader: Box::new(Reader { link: Arc::clone(link), recv, pieces: VecDeque::new(), end: None }),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Finished,
    Reset,
}

struct Writer {
    link: Arc<Link>,
    send: SendStream,
    state: State,
}

impl Writer {
    fn check(&self) -> Result<(), TransportError> {
        match self.state {
            State::Open => Ok(()),
            State::Finished => Err(TransportError::Finished),
            State::Reset => Err(TransportError::StreamReset),
        }
    }
}

#[async_trait]
impl StreamWriter for Writer {
    async fn write(&mut self, bytes: Bytes) -> Result<(), TransportError> {
        self.check()?;
        if bytes.is_empty() {
            return Ok(());
        }
        self.send.write_chunk(bytes).await.map_err(|error| match error {
            WriteError::ConnectionLost(error) => TransportError::Closed(self.link.reason_of(&error)),
            WriteError::Stopped(_) | WriteError::ClosedStream | WriteError::ZeroRttRejected => {
                TransportError::StreamReset
            }
        })
    }

    async fn finish(&mut self) -> Result<(), TransportError> {
        self.check()?;
        if let Some(reason) = self.link.close_reason() {
            return Err(TransportError::Closed(reason));
        }
        self.send.finish().map_err(|_closed| TransportError::StreamReset)?;
        self.state = State::Finished;
        Ok(())
    }

    fn reset(&mut self) {
        if self.state == State::Open {
            self.state = State::Reset;
            // Fails only for a stream that is over already.
            let _ = self.send.reset(GIVEN_UP);
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Left alone, quinn would end the stream as if it were complete.
        self.reset();
    }
}

struct Reader {
    link: Arc<Link>,
    recv: RecvStream,
    /// Read and not yet handed out.
    pieces: VecDeque<Bytes>,
    /// What every further read answers.
    end: Option<Result<(), TransportError>>,
}

impl Reader {
    /// Hands out as many of the pieces as one read may, as one.
    fn take(&mut self) -> Option<Bytes> {
        let mut first = self.pieces.pop_front()?;
        if first.len() > CHUNK_BYTES_MAX {
            self.pieces.push_front(first.split_off(CHUNK_BYTES_MAX));
            return Some(first);
        }
        let mut length = first.len();
        let more = self.pieces.iter().take_while(|piece| {
            length += piece.len();
            length <= CHUNK_BYTES_MAX
        });
        let count = more.count();
        if count == 0 {
            return Some(first);
        }
        let total = first.len() + self.pieces.iter().take(count).map(Bytes::len).sum::<usize>();
        let mut chunk = BytesMut::with_capacity(total);
        chunk.extend_from_slice(&first);
        for piece in self.pieces.drain(..count) {
            chunk.extend_from_slice(&piece);
        }
        Some(chunk.freeze())
    }
}

#[async_trait]
impl StreamReader for Reader {
    async fn read(&mut self) -> Result<Option<Bytes>, TransportError> {
        loop {
            if let Some(chunk) = self.take() {
                return Ok(Some(chunk));
            }
            if let Some(end) = &self.end {
                return end.clone().map(|()| None);
            }
            let mut pieces = [const { Bytes::new() }; PIECES];
            match self.recv.read_chunks(&mut pieces).await {
                Ok(Some(count)) => {
                    self.pieces.extend(pieces.into_iter().take(count).filter(|piece| !piece.is_empty()));
                }
                Ok(None) => self.end = Some(Ok(())),
                Err(ReadError::ConnectionLost(error)) => {
                    self.end = Some(Err(TransportError::Closed(self.link.reason_of(&error))));
                }
                Err(_given_up) => self.end = Some(Err(TransportError::StreamReset)),
            }
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // Fails only for a stream that is over already.
        let _ = self.recv.stop(GIVEN_UP);
    }
}
