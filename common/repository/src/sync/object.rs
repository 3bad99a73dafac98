//! One object from repository to repository: opened, proved, sealed anew, or copied by the store itself.
//!
//! Without encryption on either side an object whose footer stays as it is would be written again to the byte: tags bind its name, and no
//! repository. Where both lie in one store, that store copies it ([`Storage::copy`](pgconvoy_storage::Storage::copy)), after it was read
//! and proved here like any other, and only as what it was then. So only the way there is saved.

use super::Sync;
use super::trouble::Trouble;
use crate::codec::{Codec, Decompressor};
use crate::error::RepositoryError;
use crate::object::{ObjectEncoder, ObjectReader, object_key};
use crate::verify::pack::batches;
use bytes::Bytes;
use pgconvoy_core::format::object::{Kind, Protection, TAG_BYTES};
use pgconvoy_storage::{Origin, PutMode, StorageError, Upload};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Objects up to this size go in one put, which a retry can compare with what is there.
const WHOLE_BYTES_MAX: u64 = 4 << 20;

/// Smaller ones are quicker put than copied, which takes several requests.
const COPY_BYTES_MIN: u64 = 1 << 20;

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

/// An object that was not there before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Written {
    /// That it takes in the target.
    pub(super) bytes: u64,
    /// Those that the store copied by itself: all or none.
    pub(super) bytes_by_store: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Put {
    New(Written),
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
            let put = match self.copied_by_store(object, body, proof) {
                Ok(None) => {
                    proof.begin();
                    self.upload(object, kind, body, proof)
                }
                Ok(Some(put)) => Ok(put),
                Err(trouble) => Err(trouble),
            };
            match put {
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

    /// From where the target's store may copy this object, with a footer of this body.
    fn origin_of(&self, object: &ObjectReader, body: &[u8]) -> Option<&Origin> {
        let (source, target) = (&self.source.repository, &self.target.repository);
        let is_the_same = !source.is_encrypted()
            && !target.is_encrypted()
            && *object.protection() == Protection::None
            && !object.is_plain()
            && body == object.encoded_body();
        if !is_the_same || object.size() < COPY_BYTES_MIN || self.copies_fail.load(Ordering::Relaxed) {
            return None;
        }
        let origin = source.storage().origin().filter(|_| object.info().etag.is_some())?;
        target.storage().copies_from(origin).filter(|limit| object.size() <= *limit).map(|_| origin)
    }

    /// `None`: the store does not, and nothing was done.
    fn copied_by_store(
        &self,
        object: &ObjectReader,
        body: &[u8],
        proof: &mut dyn Proof,
    ) -> Result<Option<Put>, Trouble> {
        let Some(origin) = self.origin_of(object, body) else { return Ok(None) };
        // What lies around the frames was proved when the object was opened, after it was looked at.
        self.proved_frames(object, proof, |_, _, _| Ok(()))?;
        let key = object_key(object.name());
        let bytes = object.size();
        match self.target.wait(self.target.repository.storage().copy(origin, &object.info(), &key)) {
            Ok(()) => {
                self.source.count(bytes);
                Ok(Some(Put::New(Written { bytes, bytes_by_store: bytes })))
            }
            Err(StorageError::AlreadyExists { .. }) => Ok(Some(Put::Exists)),
            // What may be put and read need not be copied: another right, another server.
            Err(
                error @ (StorageError::NotSupported { .. }
                | StorageError::Refused { .. }
                | StorageError::Access { .. }),
            ) => {
                if !self.copies_fail.swap(true, Ordering::Relaxed) {
                    tracing::warn!("the store does not copy by itself, everything goes by here: {error}");
                }
                Ok(None)
            }
            Err(error) => Err(Trouble::of_upload(error)),
        }
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
                Ok(Put::New(Written { bytes: encoder.bytes(), bytes_by_store: 0 }))
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
        let mut compressor = self.target.repository.metadata_compressor();
        self.proved_frames(object, proof, |number, stored, raw| {
            let entry = object.frames()[number];
            let mut content = Vec::with_capacity(stored.len());
            let failed = |source| self.codec_error(object, source);
            // A frame of a plain repository is part of a file; any other is decrypted where it was, its tag behind it.
            let codec = if object.is_plain() {
                compressor.compress(raw, &mut content).map_err(failed)?
            } else {
                content.extend_from_slice(&stored[..stored.len() - TAG_BYTES]);
                Codec::from_number(entry.codec()).map_err(failed)?
            };
            self.send(outgoing, encoder.frame(codec, entry.raw_bytes(), content)?)
        })
    }

    /// Reads all frames; each is proved, and taken as it is stored and as it is raw. Ends with the proof of the whole.
    fn proved_frames(
        &self,
        object: &ObjectReader,
        proof: &mut dyn Proof,
        mut take: impl FnMut(usize, &[u8], &[u8]) -> Result<(), Trouble>,
    ) -> Result<(), Trouble> {
        let mut decompressor = Decompressor::new();
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
                take(number, stored, &raw)?;
            }
        }
        Ok(proof.end()?)
    }

    fn codec_error(&self, object: &ObjectReader, source: crate::codec::CodecError) -> RepositoryError {
        RepositoryError::Codec { place: object.place().to_owned(), object: object.name().to_owned(), source }
    }
}
