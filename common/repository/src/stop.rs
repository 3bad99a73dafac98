//! What ending a backup session returned, and, for a leader that finds nobody to ask, the session and the scan before it.
//!
//! One object, so that it is there as a whole or not at all.

use crate::codec::Compressor;
use crate::error::RepositoryError;
use crate::object::{ObjectEncoder, ObjectReader, object_key};
use crate::open::Repository;
use bytes::Bytes;
use pgconvoy_core::failure::Failure;
use pgconvoy_core::format::object::{FRAME_RAW_BYTES, Kind};
use pgconvoy_core::format::wal::StopBody;
use pgconvoy_core::format::{BackupLabel, decode, encode_named, layout};
use pgconvoy_core::ids::{PlanNumber, StanzaName};
use pgconvoy_core::plan::inventory::{EntryKind, Inventory, ScannedEntry};
use pgconvoy_storage::PutMode;
use tokio::sync::mpsc;

/// Frames on their way from the encoding thread to the store: bounds memory, and lets both work at once.
const FRAMES_IN_FLIGHT: usize = 4;

/// A scan, page by page; a page is far smaller than a frame may be.
pub type ScanPages = Box<dyn Iterator<Item = Result<Vec<ScannedEntry>, Failure>> + Send>;

impl Repository {
    /// Create-only. Without pages the record tells no more than what the server returned.
    pub async fn write_stop(
        &self,
        stanza: &StanzaName,
        label: BackupLabel,
        plan: PlanNumber,
        stop: &StopBody,
        pages: Option<ScanPages>,
    ) -> Result<(), RepositoryError> {
        let name = layout::stop(stanza, label, plan);
        let Some(pages) = pages else { return self.put_object(Kind::Stop, &name, stop).await };
        let (encoder, header) = self.encoder(Kind::Stop, &name)?;
        let compressor = self.metadata_compressor();
        let mut upload = self.storage().begin(&object_key(&name), PutMode::Create).await?;
        let (sender, mut receiver) = mpsc::channel(FRAMES_IN_FLIGHT);
        let record = Record { stop: stop.clone(), name, place: self.describe() };
        let encoding =
            tokio::task::spawn_blocking(move || record.encode(pages, encoder, compressor, &sender));
        let mut piece = Some(header);
        while let Some(bytes) = piece {
            upload.write(bytes).await?;
            piece = receiver.recv().await;
        }
        encoding.await.map_err(|_| interrupted())??;
        Ok(upload.finish().await?)
    }

    pub async fn stop_record(
        &self,
        stanza: &StanzaName,
        label: BackupLabel,
        plan: PlanNumber,
    ) -> Result<Option<StopBody>, RepositoryError> {
        match ObjectReader::open(self, Kind::Stop, &layout::stop(stanza, label, plan)).await {
            Ok(object) => object.body().map(Some),
            Err(RepositoryError::Missing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The record with the scan before it, if a source left them.
    pub async fn kept_scan(
        &self,
        stanza: &StanzaName,
        label: BackupLabel,
        plan: PlanNumber,
    ) -> Result<Option<(StopBody, Inventory)>, RepositoryError> {
        let name = layout::stop(stanza, label, plan);
        let object = match ObjectReader::open(self, Kind::Stop, &name).await {
            Ok(object) => object,
            Err(RepositoryError::Missing { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let stop: StopBody = object.body()?;
        let mut inventory = Inventory::default();
        for frame in 0..object.frames().len() {
            let raw = object.read_frame(self, frame).await?;
            let entries: Vec<ScannedEntry> = decode("scan", &raw).map_err(|source| {
                RepositoryError::Format { place: self.describe(), object: name.clone(), source }
            })?;
            for entry in entries {
                inventory.push(entry).map_err(|error| RepositoryError::Contradiction {
                    place: self.describe(),
                    object: name.clone(),
                    reason: error.to_string(),
                })?;
            }
        }
        Ok(stop.kept.is_some().then_some((stop, inventory)))
    }
}

fn interrupted() -> RepositoryError {
    RepositoryError::Interrupted { what: "writing a stop record" }
}

struct Record {
    stop: StopBody,
    name: String,
    place: String,
}

impl Record {
    fn encode(
        &self,
        pages: ScanPages,
        mut encoder: ObjectEncoder,
        mut compressor: Compressor,
        sender: &mpsc::Sender<Bytes>,
    ) -> Result<(), RepositoryError> {
        let send = |bytes| sender.blocking_send(bytes).map_err(|_| interrupted());
        let mut gathered: Vec<ScannedEntry> = Vec::new();
        let mut gathered_bytes = 0;
        for page in pages {
            let page = page.map_err(|error| {
                tracing::warn!("the scan cannot be kept with the stop record: {error}");
                interrupted()
            })?;
            gathered_bytes += page.iter().map(size).sum::<usize>();
            gathered.extend(page);
            if gathered_bytes >= FRAME_RAW_BYTES {
                send(self.frame(&mut encoder, &mut compressor, &gathered)?)?;
                gathered.clear();
                gathered_bytes = 0;
            }
        }
        if !gathered.is_empty() {
            send(self.frame(&mut encoder, &mut compressor, &gathered)?)?;
        }
        send(encoder.finish(&self.stop, &mut compressor)?)
    }

    fn frame(
        &self,
        encoder: &mut ObjectEncoder,
        compressor: &mut Compressor,
        entries: &[ScannedEntry],
    ) -> Result<Bytes, RepositoryError> {
        let raw = encode_named(&entries);
        let mut stored = Vec::new();
        let codec = compressor.compress(&raw, &mut stored).map_err(|source| RepositoryError::Codec {
            place: self.place.clone(),
            object: self.name.clone(),
            source,
        })?;
        let raw_bytes = u32::try_from(raw.len()).expect("compress refuses frames above its limit");
        encoder.frame(codec, raw_bytes, stored)
    }
}

/// What an entry takes beside its names, about: enough to close frames far below their limit.
const ENTRY_BYTES: usize = 128;

fn size(entry: &ScannedEntry) -> usize {
    let destination = match &entry.kind {
        EntryKind::Link { destination } => destination.len(),
        _ => 0,
    };
    entry.path.as_str().len() + destination + ENTRY_BYTES
}
