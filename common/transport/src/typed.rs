//! Messages in frames: what is sent is a value, what arrives is a value or a clear error.
//!
//! Values are MessagePack with field names, so that a newer peer may add fields. A frame holds exactly one value: bytes
//! that follow it are garbage too.
//!
//! Failure story: a frame that cannot be read is reported and consumed; the caller decides whether that ends the
//! connection (it should, with [`CloseKind::Protocol`](crate::CloseKind::Protocol)).

use crate::connection::{Connection, FRAME_BYTES_MAX, Incoming, Receiver, Sender};
use crate::error::{CloseReason, TransportError};
use crate::identity::PeerIdentity;
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::Cursor;
use std::marker::PhantomData;
use std::sync::Arc;

/// A connection that speaks `Out` and hears `In`.
pub struct Channel<Out, In> {
    pub sender: TypedSender<Out>,
    pub receiver: TypedReceiver<In>,
    pub incoming: Box<dyn Incoming>,
}

impl<Out: Serialize + Sync, In: DeserializeOwned> Channel<Out, In> {
    pub fn new(connection: Connection) -> Channel<Out, In> {
        let Connection { sender, receiver, incoming } = connection;
        let peer = sender.peer().clone();
        Channel {
            sender: TypedSender { sender, message: PhantomData },
            receiver: TypedReceiver { receiver, peer, message: PhantomData },
            incoming,
        }
    }

    pub fn peer(&self) -> &PeerIdentity {
        self.sender.peer()
    }

    /// See [`TypedSender::send`].
    pub async fn send(&self, message: &Out) -> Result<(), TransportError> {
        self.sender.send(message).await
    }

    /// See [`TypedReceiver::recv`].
    pub async fn recv(&mut self) -> Result<Option<In>, TransportError> {
        self.receiver.recv().await
    }

    /// See [`Sender::close`].
    pub fn close(&self, reason: CloseReason) {
        self.sender.close(reason);
    }
}

/// Sends values. Clone it for every task that speaks.
pub struct TypedSender<Out> {
    sender: Arc<dyn Sender>,
    message: PhantomData<fn(&Out)>,
}

impl<Out> Clone for TypedSender<Out> {
    fn clone(&self) -> Self {
        TypedSender { sender: Arc::clone(&self.sender), message: PhantomData }
    }
}

impl<Out> TypedSender<Out> {
    pub fn peer(&self) -> &PeerIdentity {
        self.sender.peer()
    }

    /// The sender beneath: for streams and for the end of the connection.
    pub fn raw(&self) -> &Arc<dyn Sender> {
        &self.sender
    }

    /// See [`Sender::close`].
    pub fn close(&self, reason: CloseReason) {
        self.sender.close(reason);
    }
}

impl<Out: Serialize + Sync> TypedSender<Out> {
    /// Sends one value; waits as [`Sender::send`] does, and is cancelled like it.
    pub async fn send(&self, message: &Out) -> Result<(), TransportError> {
        self.sender.send(encode(message)?).await
    }
}

/// Reads values. Dropping it closes the connection.
pub struct TypedReceiver<In> {
    receiver: Box<dyn Receiver>,
    peer: PeerIdentity,
    message: PhantomData<fn() -> In>,
}

impl<In: DeserializeOwned> TypedReceiver<In> {
    /// The next value; `None` after the peer's `finish`. Safe to cancel.
    pub async fn recv(&mut self) -> Result<Option<In>, TransportError> {
        let Some(frame) = self.receiver.recv().await? else { return Ok(None) };
        decode(&frame).map(Some).map_err(|reason| TransportError::Garbage {
            peer: self.peer.to_string(),
            bytes: frame.len(),
            reason,
        })
    }
}

/// One value as the bytes of a frame.
pub fn encode<T: Serialize>(message: &T) -> Result<Bytes, TransportError> {
    let bytes = rmp_serde::to_vec_named(message)
        .map_err(|error| TransportError::Encode { reason: error.to_string() })?;
    if bytes.len() > FRAME_BYTES_MAX {
        return Err(TransportError::TooLarge { bytes: bytes.len(), max: FRAME_BYTES_MAX });
    }
    Ok(bytes.into())
}

/// The value that these bytes are, to the last one; else why not.
pub fn decode<T: DeserializeOwned>(frame: &Bytes) -> Result<T, String> {
    let mut deserializer = rmp_serde::Deserializer::new(Cursor::new(frame.as_ref()));
    let message = T::deserialize(&mut deserializer).map_err(|error| error.to_string())?;
    match u64::try_from(frame.len()) {
        Ok(length) if deserializer.position() == length => Ok(message),
        _ => Err(format!("the message ends after {} bytes", deserializer.position())),
    }
}

#[cfg(test)]
mod tests;
