//! Streamed parts of segments that are not whole yet (`FORMAT.md` section 7).
//!
//! Invariants
//! 1. A part is created once, under a name that says which bytes it holds: a repeated put is a comparison.
//! 2. A part is removed only after what stands for it was seen in the same listing: its whole segment, or a larger part.

use super::{PushResult, Pushed, WalReader};
use crate::codec::{Codec, CodecError, Compressor, Level};
use crate::error::RepositoryError;
use crate::object::object_key;
use crate::open::Repository;
use bytes::Bytes;
use pgconvoy_core::format::layout::{self, ArchiveId};
use pgconvoy_core::format::object::{FRAME_RAW_BYTES, Kind, TAG_BYTES};
use pgconvoy_core::format::wal::WalBody;
use pgconvoy_core::ids::StanzaName;
use pgconvoy_core::pg::{Lsn, WalFileName, WalPart, WalSegmentName, WalSegmentSize, wal_part};
use pgconvoy_storage::{PutMode, StorageError, list_children};
use sha1::{Digest, Sha1};
use std::collections::{BTreeMap, BTreeSet};

/// A part that is compressed, and sealed for each repository that gets it.
#[derive(Debug)]
pub struct PackedPart {
    part: WalPart,
    frames: Vec<Frame>,
    body: WalBody,
}

#[derive(Debug)]
struct Frame {
    codec: Codec,
    raw_bytes: u32,
    stored: Vec<u8>,
}

impl PackedPart {
    /// Computes; `bytes` are those of the part.
    pub fn pack(part: WalPart, bytes: &[u8], codec: Codec, level: Level) -> Result<PackedPart, CodecError> {
        let mut compressor = Compressor::new(codec, level)?;
        let compress = |raw: &[u8]| {
            let mut stored = Vec::with_capacity(raw.len() / 2);
            let codec = compressor.compress(raw, &mut stored)?;
            let raw_bytes = u32::try_from(raw.len()).expect("a frame is far below 4 GiB");
            Ok(Frame { codec, raw_bytes, stored })
        };
        let frames = bytes.chunks(FRAME_RAW_BYTES).map(compress).collect::<Result<_, CodecError>>()?;
        let sha1: [u8; 20] = Sha1::digest(bytes).into();
        let body = WalBody { name: part.to_string(), size: bytes.len() as u64, sha1 };
        Ok(PackedPart { part, frames, body })
    }
}

impl Repository {
    pub async fn put_wal_part(
        &self,
        stanza: &StanzaName,
        archive: ArchiveId,
        packed: &PackedPart,
    ) -> PushResult {
        let name = layout::wal_part(stanza, archive, &packed.part);
        let object = self.seal_part(&name, packed)?;
        match self.storage().put(&object_key(&name), PutMode::Create, object).await {
            Ok(()) => Ok(Pushed::New),
            Err(StorageError::AlreadyExists { .. }) => {
                match self.open_wal_part(stanza, archive, &packed.part).await? {
                    Some(stored) if stored.body == packed.body => Ok(Pushed::Identical),
                    Some(_) => Err(RepositoryError::Duplicate {
                        place: self.describe(),
                        name: packed.part.to_string(),
                    }),
                    None => Err(RepositoryError::Interrupted { what: "comparing a part of a WAL segment" }),
                }
            }
            Err(error) => Err(error.into()),
        }
    }

    fn seal_part(&self, name: &str, packed: &PackedPart) -> Result<Bytes, RepositoryError> {
        let (mut encoder, header) = self.encoder(Kind::Wal, name)?;
        let mut object = header.to_vec();
        for frame in &packed.frames {
            let mut copy = Vec::with_capacity(frame.stored.len() + TAG_BYTES);
            copy.extend_from_slice(&frame.stored);
            object.extend_from_slice(&encoder.frame(frame.codec, frame.raw_bytes, copy)?);
        }
        object.extend_from_slice(&encoder.finish(&packed.body, &mut self.metadata_compressor())?);
        Ok(Bytes::from(object))
    }

    /// `None` is known absence.
    pub(crate) async fn open_wal_part(
        &self,
        stanza: &StanzaName,
        archive: ArchiveId,
        part: &WalPart,
    ) -> Result<Option<WalReader>, RepositoryError> {
        self.open_wal_object(layout::wal_part(stanza, archive, part), &part.to_string()).await
    }

    /// Reads a part to its end: its stored bytes. `None`: it is not there any more, as its segment came.
    pub(crate) async fn check_wal_part(
        &self,
        stanza: &StanzaName,
        archive: ArchiveId,
        part: &WalPart,
        size: WalSegmentSize,
    ) -> Result<Option<u64>, RepositoryError> {
        let Some(reader) = self.open_wal_part(stanza, archive, part).await? else { return Ok(None) };
        reader.check(self).await?;
        if reader.body.size != part.bytes() || !part.fits(size) {
            return Err(RepositoryError::Contradiction {
                place: self.describe(),
                object: layout::wal_part(stanza, archive, part),
                reason: format!("its {} bytes are no such part of a segment", reader.body.size),
            });
        }
        Ok(Some(reader.stored_bytes()))
    }

    /// The parts that lead furthest from the beginning of the segment without a gap, in order.
    pub async fn wal_parts(
        &self,
        stanza: &StanzaName,
        archive: ArchiveId,
        segment: WalSegmentName,
        size: WalSegmentSize,
    ) -> Result<Vec<WalPart>, RepositoryError> {
        let (parts, _) = self.parts_and_segments(stanza, archive, &segment.directory()).await?;
        Ok(wal_part::chain(&parts, segment, size))
    }

    /// Of each timeline the last segment that there are parts of, if it may be the timeline's last.
    pub async fn streamed_ends(
        &self,
        stanza: &StanzaName,
        archive: ArchiveId,
    ) -> Result<Vec<WalSegmentName>, RepositoryError> {
        let directories = self.wal_directories(stanza, archive).await?;
        let mut last_of_timelines: BTreeMap<&str, &str> = BTreeMap::new();
        for directory in directories.iter().filter(|directory| directory.len() == 16) {
            last_of_timelines.extend(directory.get(..8).map(|timeline| (timeline, directory.as_str())));
        }
        let mut ends = Vec::new();
        for directory in last_of_timelines.into_values() {
            let (parts, _) = self.parts_and_segments(stanza, archive, directory).await?;
            ends.extend(parts.iter().map(WalPart::segment).max());
        }
        Ok(ends)
    }

    /// Hands out what such parts hold, from the beginning of their segment on. Each piece is proved to be what was stored;
    /// a part that is gone is an error: what stands for it is to be looked for.
    pub async fn read_wal_parts(
        &self,
        stanza: &StanzaName,
        archive: ArchiveId,
        chain: &[WalPart],
        mut sink: impl FnMut(&[u8]) -> Result<(), RepositoryError>,
    ) -> Result<(), RepositoryError> {
        let mut reached = chain.first().map_or(Lsn(0), WalPart::start);
        for part in chain {
            let Some(reader) = self.open_wal_part(stanza, archive, part).await? else {
                let object = layout::wal_part(stanza, archive, part);
                return Err(RepositoryError::Missing { place: self.describe(), object });
            };
            // Known only at the end of a part to be what was stored, so it is kept until then: 16 MiB at most.
            let mut content = Vec::new();
            reader
                .read(self, |piece| {
                    content.extend_from_slice(piece);
                    Ok(())
                })
                .await?;
            let seen = reached.0.saturating_sub(part.start().0);
            let new = usize::try_from(seen).ok().and_then(|seen| content.get(seen..)).unwrap_or_default();
            if content.len() as u64 != part.bytes() {
                return Err(RepositoryError::Contradiction {
                    place: self.describe(),
                    object: layout::wal_part(stanza, archive, part),
                    reason: format!("it holds {} bytes", content.len()),
                });
            }
            sink(new)?;
            reached = part.end();
        }
        Ok(())
    }

    /// Removes from one directory the parts that nobody needs; how many those were.
    pub async fn remove_superseded_parts(
        &self,
        stanza: &StanzaName,
        archive: ArchiveId,
        directory: &str,
    ) -> Result<usize, RepositoryError> {
        let (parts, segments) = self.parts_and_segments(stanza, archive, directory).await?;
        let superseded = wal_part::superseded(&parts, |segment| segments.contains(&segment));
        for part in &superseded {
            self.storage().delete(&object_key(&layout::wal_part(stanza, archive, part))).await?;
        }
        Ok(superseded.len())
    }

    async fn parts_and_segments(
        &self,
        stanza: &StanzaName,
        archive: ArchiveId,
        directory: &str,
    ) -> Result<(Vec<WalPart>, BTreeSet<WalSegmentName>), RepositoryError> {
        let prefix = object_key(&format!("{}/{directory}", layout::archive(stanza, archive)));
        let objects = list_children(self.storage(), Some(&prefix)).await?.objects;
        let names = || objects.iter().map(|object| object.key.name());
        let segment = |name: &str| match name.parse() {
            Ok(WalFileName::Segment(segment)) => Some(segment),
            _ => None,
        };
        Ok((names().filter_map(|name| name.parse().ok()).collect(), names().filter_map(segment).collect()))
    }
}

#[cfg(test)]
mod tests;
