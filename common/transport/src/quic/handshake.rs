//! From two sockets that speak QUIC to a connection: whose certificate it is, and the prefaces.

use super::control::Greeted;
use super::failures::{close_code, connect_error};
use crate::connection::CHUNK_BYTES_MAX;
use crate::error::{CloseKind, CloseReason, TransportError};
use crate::pki::CertificateFacts;
use crate::protocol::{Decoder, ProtocolError, VERSIONS, encode_preface, negotiate};
use quinn::{ReadError, RecvStream, SendStream, WriteError};
use rustls::pki_types::CertificateDer;

/// The listening side: the peer speaks first.
pub(super) async fn welcome(connection: quinn::Connection, address: &str) -> Result<Greeted, TransportError> {
    let facts = facts(&connection, address)?;
    let (mut send, mut recv) =
        connection.accept_bi().await.map_err(|error| connect_error(address, &error))?;
    let decoder = hear(&connection, &mut recv, address).await?;
    say(&mut send, address).await?;
    let (peer, serial) = (facts.member.identity, facts.serial);
    Ok(Greeted { connection, peer, serial, send, recv, decoder })
}

/// The connecting side. Only the peer's answer shows that it accepted our certificate: in TLS 1.3 this side is done first.
pub(super) async fn greet(connection: quinn::Connection, address: &str) -> Result<Greeted, TransportError> {
    let facts = facts(&connection, address)?;
    let (mut send, mut recv) = connection.open_bi().await.map_err(|error| connect_error(address, &error))?;
    say(&mut send, address).await?;
    let decoder = hear(&connection, &mut recv, address).await?;
    let (peer, serial) = (facts.member.identity, facts.serial);
    Ok(Greeted { connection, peer, serial, send, recv, decoder })
}

/// What the certificate says that the handshake accepted.
fn facts(connection: &quinn::Connection, address: &str) -> Result<CertificateFacts, TransportError> {
    let chain =
        connection.peer_identity().and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
    let identity = |reason: String| TransportError::Identity { address: address.to_owned(), reason };
    let own = chain.as_ref().and_then(|chain| chain.first());
    let own = own.ok_or_else(|| identity("it showed no certificate".to_owned()))?;
    CertificateFacts::from_der(own).map_err(|error| identity(error.to_string()))
}

async fn say(send: &mut SendStream, address: &str) -> Result<(), TransportError> {
    send.write_chunk(encode_preface(VERSIONS)).await.map_err(|error| match error {
        WriteError::ConnectionLost(error) => connect_error(address, &error),
        other => TransportError::Unreachable { address: address.to_owned(), reason: other.to_string() },
    })
}

async fn hear(
    connection: &quinn::Connection,
    recv: &mut RecvStream,
    address: &str,
) -> Result<Decoder, TransportError> {
    let mut decoder = Decoder::default();
    loop {
        let preface = decoder.preface().map_err(|error| refuse(connection, &error))?;
        if let Some(theirs) = preface {
            let version = negotiate(VERSIONS, theirs).map_err(|error| refuse(connection, &error))?;
            tracing::debug!(address, version, "the protocol version was agreed on");
            return Ok(decoder);
        }
        match recv.read_chunk(CHUNK_BYTES_MAX, true).await {
            Ok(Some(chunk)) => decoder.push(&chunk.bytes),
            Err(ReadError::ConnectionLost(error)) => return Err(connect_error(address, &error)),
            Ok(None) | Err(_) => {
                let bytes = decoder.held_bytes();
                return Err(refuse(connection, &ProtocolError::Truncated { bytes }));
            }
        }
    }
}

fn refuse(connection: &quinn::Connection, error: &ProtocolError) -> TransportError {
    let reason = CloseReason::new(CloseKind::Protocol, error.to_string());
    connection.close(close_code(reason.kind()), reason.text().as_bytes());
    TransportError::Closed(reason)
}
