//! Manifests, written and read a frame at a time.

use crate::codec::Compressor;
use crate::error::RepositoryError;
use crate::object::{ObjectEncoder, ObjectReader, object_key};
use crate::open::Repository;
use bytes::Bytes;
use pgconvoy_core::format::catalogue::ManifestReference;
use pgconvoy_core::format::manifest::{ManifestHead, Record};
use pgconvoy_core::format::object::{FRAME_RAW_BYTES, Kind};
use pgconvoy_core::format::{BackupLabel, layout};
use pgconvoy_core::ids::StanzaName;
use pgconvoy_core::machine::backup::contents::BackupContents;
use pgconvoy_storage::PutMode;
use sha1::{Digest, Sha1};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Frames on their way from the encoding thread to the store: bounds memory, and lets both work at once.
const FRAMES_IN_FLIGHT: usize = 4;

impl Repository {
    /// Writes the manifest, create-only, and tells what the catalogue entry will refer to.
    pub async fn write_manifest(
        &self,
        stanza: &StanzaName,
        head: ManifestHead,
        contents: Arc<BackupContents>,
    ) -> Result<ManifestReference, RepositoryError> {
        let name = layout::manifest(stanza, head.label);
        let (encoder, header) = self.encoder(Kind::Manifest, &name)?;
        let compressor = self.metadata_compressor();
        let mut upload = self.storage().begin(&object_key(&name), PutMode::Create).await?;
        let (sender, mut receiver) = mpsc::channel(FRAMES_IN_FLIGHT);
        let encoding =
            tokio::task::spawn_blocking(move || encode(&head, &contents, encoder, compressor, &sender));
        let mut reference = Reference { size: 0, sha1: Sha1::new() };
        let mut piece = Some(header);
        while let Some(bytes) = piece {
            reference.add(&bytes);
            upload.write(bytes).await?;
            piece = receiver.recv().await;
        }
        encoding.await.map_err(|_| RepositoryError::Interrupted { what: "writing a manifest" })??;
        upload.finish().await?;
        Ok(reference.finish())
    }
}

/// Stored bytes of a manifest that are read at once for its SHA-1.
const DIGEST_BYTES: u64 = 4 << 20;

impl Repository {
    /// What a catalogue entry would say of the manifest that is stored.
    pub async fn stored_manifest(
        &self,
        stanza: &StanzaName,
        label: BackupLabel,
    ) -> Result<ManifestReference, RepositoryError> {
        let name = layout::manifest(stanza, label);
        let key = object_key(&name);
        let missing = || RepositoryError::Missing { place: self.describe(), object: name.clone() };
        let size = self.storage().stat(&key).await?.ok_or_else(missing)?.size;
        let mut reference = Reference { size: 0, sha1: Sha1::new() };
        while reference.size < size {
            let end = size.min(reference.size + DIGEST_BYTES);
            reference.add(&self.storage().get_range(&key, reference.size..end).await?);
        }
        Ok(reference.finish())
    }

    /// The manifest that an attempt whose answer was lost left behind, if it is of this very backup.
    pub(crate) async fn own_manifest(
        &self,
        stanza: &StanzaName,
        head: &ManifestHead,
    ) -> Result<ManifestReference, RepositoryError> {
        let reference = self.stored_manifest(stanza, head.label).await?;
        let stored = ManifestReader::open(self, stanza, head.label, &reference).await?;
        if stored.head() == head {
            return Ok(reference);
        }
        Err(RepositoryError::Contradiction {
            place: self.describe(),
            object: layout::manifest(stanza, head.label),
            reason: "another backup has written it".into(),
        })
    }
}

struct Reference {
    size: u64,
    sha1: Sha1,
}

impl Reference {
    fn add(&mut self, bytes: &Bytes) {
        self.size += bytes.len() as u64;
        self.sha1.update(bytes);
    }

    fn finish(self) -> ManifestReference {
        ManifestReference { size: self.size, sha1: self.sha1.finalize().into() }
    }
}

fn encode(
    head: &ManifestHead,
    contents: &BackupContents,
    mut encoder: ObjectEncoder,
    mut compressor: Compressor,
    sender: &mpsc::Sender<Bytes>,
) -> Result<(), RepositoryError> {
    let gone = |_| RepositoryError::Interrupted { what: "writing a manifest" };
    let mut raw = Vec::with_capacity(FRAME_RAW_BYTES + (64 << 10));
    let mut flush = |raw: &mut Vec<u8>, encoder: &mut ObjectEncoder| {
        let mut stored = Vec::new();
        let codec = compressor.compress(raw, &mut stored).map_err(|source| RepositoryError::Codec {
            place: "manifest".into(),
            object: contents.head.label.to_string(),
            source,
        })?;
        let raw_bytes = u32::try_from(raw.len()).expect("compress refuses frames above its limit");
        raw.clear();
        sender.blocking_send(encoder.frame(codec, raw_bytes, stored)?).map_err(gone)
    };
    for record in contents.records() {
        record.encode(&mut raw);
        if raw.len() >= FRAME_RAW_BYTES {
            flush(&mut raw, &mut encoder)?;
        }
    }
    if !raw.is_empty() {
        flush(&mut raw, &mut encoder)?;
    }
    sender.blocking_send(encoder.finish(head, &mut compressor)?).map_err(gone)
}

/// A manifest that is being read.
#[derive(Debug)]
pub struct ManifestReader {
    object: ObjectReader,
    head: ManifestHead,
    next: usize,
}

impl ManifestReader {
    /// `reference` is what the catalogue entry says of it.
    pub async fn open(
        repository: &Repository,
        stanza: &StanzaName,
        label: BackupLabel,
        reference: &ManifestReference,
    ) -> Result<ManifestReader, RepositoryError> {
        let name = layout::manifest(stanza, label);
        let object = ObjectReader::open(repository, Kind::Manifest, &name).await?;
        let head: ManifestHead = object.body()?;
        let contradiction = |reason: &str| RepositoryError::Contradiction {
            place: repository.describe(),
            object: name.clone(),
            reason: reason.to_owned(),
        };
        if head.label != label {
            return Err(contradiction("it is the manifest of another backup"));
        }
        if object.size() != reference.size {
            return Err(contradiction("its size is not the one in the catalogue"));
        }
        Ok(ManifestReader { object, head, next: 0 })
    }

    pub fn head(&self) -> &ManifestHead {
        &self.head
    }

    /// The next records, validated against the head; `None` after the last.
    pub async fn next_records(
        &mut self,
        repository: &Repository,
    ) -> Result<Option<Vec<Record>>, RepositoryError> {
        if self.next == self.object.frames().len() {
            return Ok(None);
        }
        let raw = self.object.read_frame(repository, self.next).await?;
        self.next += 1;
        let format = |source| RepositoryError::Format {
            place: self.object.place().to_owned(),
            object: self.object.name().to_owned(),
            source,
        };
        let mut rest = raw.as_slice();
        let mut records = Vec::new();
        while !rest.is_empty() {
            let record = Record::decode_next(&mut rest).map_err(format)?;
            record.validate(&self.head).map_err(format)?;
            records.push(record);
        }
        Ok(Some(records))
    }
}
