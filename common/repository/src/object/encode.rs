//! Builds an object piece by piece; the caller sends each piece to the store.

use crate::codec::{Codec, Compressor};
use crate::error::RepositoryError;
use crate::open::Repository;
use crate::seal::{FrameSealer, FreshSalt};
use bytes::Bytes;
use pgconvoy_core::format::object::{FrameEntry, HEADER_BYTES, Header, Kind, Protection, Trailer};
use pgconvoy_core::format::{FormatError, encode_named};
use serde::Serialize;

/// One object being written. Frames come in order; the footer ends it.
#[derive(Debug)]
pub struct ObjectEncoder {
    place: String,
    name: String,
    header: [u8; HEADER_BYTES],
    sealer: FrameSealer,
    frames: Vec<FrameEntry>,
    bytes: u64,
}

impl Repository {
    /// A new object with a salt of its own, and the header to write first.
    pub fn encoder(&self, kind: Kind, name: &str) -> Result<(ObjectEncoder, Bytes), RepositoryError> {
        let place = self.describe();
        let seal = |source| RepositoryError::Seal { place: place.clone(), source };
        let (header, sealer) = match self.writing_key().filter(|_| !kind.is_always_plain()) {
            None => {
                let header = Header::new(kind, Protection::None).encode();
                (header, FrameSealer::plain(&header, name).map_err(seal)?)
            }
            Some(key) => {
                let salt = FreshSalt::generate().map_err(seal)?;
                let protection =
                    Protection::Aes256Gcm { generation: key.generation(), salt: *salt.as_bytes() };
                let header = Header::new(kind, protection).encode();
                (header, FrameSealer::aes(key, self.identity(), &header, salt, name).map_err(seal)?)
            }
        };
        let bytes = HEADER_BYTES as u64;
        let encoder =
            ObjectEncoder { place, name: name.to_owned(), header, sealer, frames: Vec::new(), bytes };
        Ok((encoder, Bytes::copy_from_slice(&header)))
    }
}

impl ObjectEncoder {
    /// Seals compressed content; `stored` needs room for a tag to be sealed without a copy.
    pub fn frame(
        &mut self,
        codec: Codec,
        raw_bytes: u32,
        mut stored: Vec<u8>,
    ) -> Result<Bytes, RepositoryError> {
        self.sealer.seal(false, &mut stored, 0).map_err(|source| self.seal_error(source))?;
        self.frames.push(FrameEntry(raw_bytes, self.length(stored.len())?, codec.number()));
        self.bytes += stored.len() as u64;
        Ok(Bytes::from(stored))
    }

    /// How many frames are written.
    pub fn frames(&self) -> u32 {
        u32::try_from(self.frames.len()).expect("the sealer refuses more frames than that")
    }

    /// Footer and trailer: the rest of the object.
    pub fn finish<B: Serialize>(
        &mut self,
        body: &B,
        compressor: &mut Compressor,
    ) -> Result<Bytes, RepositoryError> {
        self.finish_encoded(&encode_named(body), compressor)
    }

    /// The same with a body that is MessagePack already.
    pub(crate) fn finish_encoded(
        &mut self,
        body: &[u8],
        compressor: &mut Compressor,
    ) -> Result<Bytes, RepositoryError> {
        // `[frames, body]`: a two-element array.
        let mut raw = vec![0x92];
        raw.extend_from_slice(&encode_named(&self.frames));
        raw.extend_from_slice(body);
        let raw_bytes = self.length(raw.len())?;
        let mut content = Vec::with_capacity(raw.len() / 2 + 64);
        content.extend_from_slice(&[0; 5]);
        let codec = compressor.compress_footer(&raw, &mut content).map_err(|source| {
            RepositoryError::Codec { place: self.place.clone(), object: self.name.clone(), source }
        })?;
        content[0] = codec.number();
        content[1..5].copy_from_slice(&raw_bytes.to_be_bytes());
        self.sealer.seal(true, &mut content, 0).map_err(|source| self.seal_error(source))?;
        let trailer = Trailer {
            footer_offset: self.bytes,
            footer_stored: self.length(content.len())?,
            frames: self.frames(),
        };
        content.extend_from_slice(&trailer.encode(&self.header));
        self.bytes += content.len() as u64;
        Ok(Bytes::from(content))
    }

    /// Bytes of the object so far; after `finish` its size.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn seal_error(&self, source: crate::seal::SealError) -> RepositoryError {
        RepositoryError::Seal { place: self.place.clone(), source }
    }

    fn length(&self, bytes: usize) -> Result<u32, RepositoryError> {
        u32::try_from(bytes).map_err(|_| RepositoryError::Format {
            place: self.place.clone(),
            object: self.name.clone(),
            source: FormatError::Inconsistent {
                what: "frame",
                reason: format!("{bytes} bytes are too many"),
            },
        })
    }
}
