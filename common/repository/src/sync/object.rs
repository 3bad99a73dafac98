//! One object from repository to repository: opened, proved, sealed anew.

use super::Sync;
use super::trouble::Trouble;
use crate::codec::{Codec, Decompressor};
use crate::error::RepositoryError;
use crate::object::{ObjectEncoder, ObjectReader, object_key};
use crate::verify::pack::batches;
use bytes::Bytes;
use pgconvoy_core::format::object::{Kind, TAG_BYTES};
use pgconvoy_storage::{PutMode, StorageError, Upload};
use std::time::Duration;

/// Objects up to this size go in one put, which a retry can compare with what is there.
const WHOLE_BYTES_MAX: u64 = 4 << 20;

/// Tries of one object. Single requests were repeated below for as long as the store's time-out allows.
const UPLOADS_MAX: u32 = 3;
/// Before the second one; more before later ones.
const PAUSE: Duration = Duration::from_millis(500);

/// What an object's content is proved by. The object is complete only after `end`.
pub(super) trait Proof {
    /// The object is read from its start, perhaps once more.
    fn begin(&mut self) {}
    fn frame(&mut self, number: usize, raw: &[u8]) -> Result<(), RepositoryError>;
    fn end(&mut self) -> Result<(), RepositoryError>;
}

/// Where there is nothing to compare with but the frames' own tags.
pub(super) struct TagsOnly;

impl Proof for TagsOnly {
    fn frame(&mut self, _: usize, _: &[u8]) -> Result<(), RepositoryError> {
        Ok(())
    }

    fn end(&mut self) -> Result<(), RepositoryError> {
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Put {
    /// Bytes that it takes in the target.
    New(u64),
    /// Something has its name.
    Exists,
}

/// Where the pieces of a new object go.
enum Outgoing {
    Whole(Vec<u8>),
    Upload(Box<dyn Upload>),
}

impl Sync {
    /// `body` is the new footer's, encoded. What ends an upload need not end them all: each try is an upload of its own, under a new salt.
    pub(super) fn reseal(
        &self,
        object: &ObjectReader,
        kind: Kind,
        body: &[u8],
        proof: &mut dyn Proof,
    ) -> Result<Put, Trouble> {
        for number in 1.. {
            proof.begin();
            match self.upload(object, kind, body, proof) {
                Err(Trouble::Passing(failure)) if number < UPLOADS_MAX => {
                    tracing::warn!("{}: {failure}, trying again", object.name());
                    let cancel = &self.options.cancel;
                    let pause =
                        async { cancel.run_until_cancelled(tokio::time::sleep(PAUSE * number)).await };
                    self.target.wait(pause).ok_or(Trouble::Interrupted)?;
                }
                Err(Trouble::Passing(failure)) => return Err(Trouble::Fatal(failure)),
                other => return other,
            }
        }
        Err(Trouble::Interrupted)
    }

    fn upload(
        &self,
        object: &ObjectReader,
        kind: Kind,
        body: &[u8],
        proof: &mut dyn Proof,
    ) -> Result<Put, Trouble> {
        let key = object_key(object.name());
        let storage = self.target.repository.storage();
        let (mut encoder, header) = self.target.repository.encoder(kind, object.name())?;
        let mut outgoing = if object.size() <= WHOLE_BYTES_MAX && !object.is_plain() {
            Outgoing::Whole(Vec::new())
        } else {
            match self.target.wait(storage.begin(&key, PutMode::Create)) {
                Err(StorageError::AlreadyExists { .. }) => return Ok(Put::Exists),
                begun => Outgoing::Upload(begun.map_err(Trouble::of_upload)?),
            }
        };
        let written = self
            .send(&mut outgoing, header)
            .and_then(|()| self.frames(object, &mut encoder, proof, &mut outgoing))
            .and_then(|()| {
                let end = encoder.finish_encoded(body, &mut self.target.repository.metadata_compressor())?;
                self.send(&mut outgoing, end)
            });
        let finished = match (written, outgoing) {
            (Ok(()), Outgoing::Whole(bytes)) => {
                self.target.wait(storage.put(&key, PutMode::Create, Bytes::from(bytes)))
            }
            (Ok(()), Outgoing::Upload(upload)) => self.target.wait(upload.finish()),
            (Err(trouble), Outgoing::Upload(upload)) => {
                self.target.wait(upload.abort());
                return Err(trouble);
            }
            (Err(trouble), Outgoing::Whole(_)) => return Err(trouble),
        };
        match finished {
            Ok(()) => {
                self.source.count(encoder.bytes());
                Ok(Put::New(encoder.bytes()))
            }
            Err(StorageError::AlreadyExists { .. }) => Ok(Put::Exists),
            Err(error) => Err(Trouble::of_upload(error)),
        }
    }

    fn send(&self, outgoing: &mut Outgoing, bytes: Bytes) -> Result<(), Trouble> {
        match outgoing {
            Outgoing::Whole(whole) => whole.extend_from_slice(&bytes),
            Outgoing::Upload(upload) => {
                self.target.wait(upload.write(bytes)).map_err(Trouble::of_upload)?;
            }
        }
        Ok(())
    }

    fn frames(
        &self,
        object: &ObjectReader,
        encoder: &mut ObjectEncoder,
        proof: &mut dyn Proof,
        outgoing: &mut Outgoing,
    ) -> Result<(), Trouble> {
        let mut decompressor = Decompressor::new();
        let mut compressor = self.target.repository.metadata_compressor();
        let mut raw = Vec::new();
        for batch in batches(object.frames()) {
            self.source.go_on()?;
            let mut fetched =
                self.source.wait(object.fetch(&self.source.repository, batch.clone()))?.to_vec();
            let mut rest = fetched.as_mut_slice();
            for number in batch {
                let entry = object.frames()[number];
                let (stored, after) = rest.split_at_mut(entry.stored_bytes() as usize);
                rest = after;
                object.decode_frame(number, stored, &mut decompressor, &mut raw)?;
                proof.frame(number, &raw)?;
                let mut content = Vec::with_capacity(stored.len() + TAG_BYTES);
                let failed = |source| self.codec_error(object, source);
                // A frame of a plain repository is part of a file; any other is decrypted where it was, its tag behind it.
                let codec = if object.is_plain() {
                    compressor.compress(&raw, &mut content).map_err(failed)?
                } else {
                    content.extend_from_slice(&stored[..stored.len() - TAG_BYTES]);
                    Codec::from_number(entry.codec()).map_err(failed)?
                };
                self.send(outgoing, encoder.frame(codec, entry.raw_bytes(), content)?)?;
            }
        }
        Ok(proof.end()?)
    }

    fn codec_error(&self, object: &ObjectReader, source: crate::codec::CodecError) -> RepositoryError {
        RepositoryError::Codec { place: object.place().to_owned(), object: object.name().to_owned(), source }
    }
}
