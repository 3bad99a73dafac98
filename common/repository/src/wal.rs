//! WAL files in a repository: pushed to several at once from one read, and fetched back with their checksum proved.

mod dropped;
mod listing;
mod parts;
mod push;

pub use parts::PackedPart;
pub use push::{
    PushManner, PushNews, PushResult, Pushed, Threads, WalSource, WalTarget, push_wal, push_wal_as,
    push_wal_telling,
};

use crate::codec::Decompressor;
use crate::error::RepositoryError;
use crate::object::{ObjectReader, object_key};
use crate::open::Repository;
use bytes::Bytes;
use futures::stream::{self, Stream, StreamExt};
use pgconvoy_core::format::layout::{self, ArchiveId};
use pgconvoy_core::format::object::Kind;
use pgconvoy_core::format::wal::WalBody;
use pgconvoy_core::ids::StanzaName;
use pgconvoy_core::pg::{TimelineHistory, TimelineId, WalFileName, WalPart, WalSegmentName};
use pgconvoy_storage::list_children;
use sha1::{Digest, Sha1};
use std::pin::Pin;

/// A history has a line of some 50 bytes for each promotion: more than this is something else.
const HISTORY_BYTES_MAX: u64 = 1 << 20;

/// Frames that are fetched while earlier ones are opened.
const FRAMES_AHEAD: usize = 4;

/// A stored WAL file, its footer read.
#[derive(Debug)]
pub struct WalReader {
    pub(crate) object: ObjectReader,
    pub body: WalBody,
}

impl Repository {
    /// `None` is known absence.
    pub async fn open_wal(
        &self,
        stanza: &StanzaName,
        archive: ArchiveId,
        file: &WalFileName,
    ) -> Result<Option<WalReader>, RepositoryError> {
        self.open_wal_object(layout::wal_file(stanza, archive, file), &file.to_string()).await
    }

    async fn open_wal_object(&self, name: String, held: &str) -> Result<Option<WalReader>, RepositoryError> {
        let object = match ObjectReader::open(self, Kind::Wal, &name).await {
            Ok(object) => object,
            Err(error) if ObjectReader::is_absence(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let body: WalBody = object.body()?;
        if body.name != held {
            return Err(RepositoryError::Contradiction {
                place: self.describe(),
                object: name,
                reason: format!("it holds {}", body.name),
            });
        }
        Ok(Some(WalReader { object, body }))
    }

    /// What the archived history file of a timeline says; `None` if it is not there.
    pub async fn timeline_history(
        &self,
        stanza: &StanzaName,
        archive: ArchiveId,
        timeline: TimelineId,
    ) -> Result<Option<TimelineHistory>, RepositoryError> {
        let Some(reader) = self.open_wal(stanza, archive, &WalFileName::History(timeline)).await? else {
            return Ok(None);
        };
        let contradiction = |reason: String| RepositoryError::Contradiction {
            place: self.describe(),
            object: reader.object.name().to_owned(),
            reason,
        };
        if reader.body.size > HISTORY_BYTES_MAX {
            return Err(contradiction(format!("{} bytes are too many for a history", reader.body.size)));
        }
        let mut content = Vec::new();
        reader
            .read(self, |piece| {
                content.extend_from_slice(piece);
                Ok(())
            })
            .await?;
        let text = String::from_utf8(content).map_err(|error| contradiction(error.to_string()))?;
        TimelineHistory::parse(timeline, &text).map(Some).map_err(|error| contradiction(error.to_string()))
    }

    /// Whether the archive has a file of that name; what it holds is not looked at.
    pub async fn has_wal(
        &self,
        stanza: &StanzaName,
        archive: ArchiveId,
        file: &WalFileName,
    ) -> Result<bool, RepositoryError> {
        let name = layout::wal_file(stanza, archive, file);
        Ok(self.storage().stat(&object_key(&name)).await?.is_some())
    }

    /// Of the segments, those that are not in the archive.
    pub async fn missing_wal(
        &self,
        stanza: &StanzaName,
        archive: ArchiveId,
        segments: &[WalSegmentName],
    ) -> Result<Vec<WalSegmentName>, RepositoryError> {
        let mut missing = Vec::new();
        for segment in segments {
            if !self.has_wal(stanza, archive, &WalFileName::Segment(*segment)).await? {
                missing.push(*segment);
            }
        }
        Ok(missing)
    }

    /// All files of an archive, in order of name. Names that are no WAL file's are left out.
    pub async fn wal_files(
        &self,
        stanza: &StanzaName,
        archive: ArchiveId,
    ) -> Result<Vec<WalFileName>, RepositoryError> {
        Ok(self.wal_files_and_parts(stanza, archive).await?.0)
    }

    /// The same, and what was streamed of segments.
    pub async fn wal_files_and_parts(
        &self,
        stanza: &StanzaName,
        archive: ArchiveId,
    ) -> Result<(Vec<WalFileName>, Vec<WalPart>), RepositoryError> {
        let prefix = object_key(&layout::archive(stanza, archive));
        let (mut files, mut parts) = (Vec::new(), Vec::new());
        for directory in list_children(self.storage(), Some(&prefix)).await?.prefixes {
            let objects = list_children(self.storage(), Some(&directory)).await?.objects;
            let names = || objects.iter().map(|object| object.key.name());
            files.extend(names().filter_map(|name| name.parse::<WalFileName>().ok()));
            parts.extend(names().filter_map(|name| name.parse::<WalPart>().ok()));
        }
        Ok((files, parts))
    }
}

impl WalReader {
    /// Hands out the plain file piece by piece. The checksum is known only at the end: the caller keeps what it got out of
    /// sight until this returns.
    pub async fn read(
        &self,
        repository: &Repository,
        mut sink: impl FnMut(&[u8]) -> Result<(), RepositoryError>,
    ) -> Result<(), RepositoryError> {
        let mut pieces = self.pieces(repository);
        let mut raw = Vec::new();
        while pieces.next(&mut raw).await? {
            sink(&raw)?;
        }
        Ok(())
    }

    /// The same for who must wait between two pieces.
    pub fn pieces<'a>(&'a self, repository: &'a Repository) -> WalPieces<'a> {
        let fetches =
            (0..self.object.frames().len()).map(|frame| self.object.fetch(repository, frame..frame + 1));
        WalPieces {
            reader: self,
            place: repository,
            fetched: Box::pin(stream::iter(fetches).buffered(FRAMES_AHEAD).enumerate()),
            decompressor: Decompressor::new(),
            size: 0,
            sha1: Sha1::new(),
        }
    }

    /// What it takes in the repository.
    pub fn stored_bytes(&self) -> u64 {
        self.object.size()
    }

    /// Reads it all and keeps nothing.
    pub async fn check(&self, repository: &Repository) -> Result<(), RepositoryError> {
        self.read(repository, |_| Ok(())).await
    }
}

type Fetched<'a> = Pin<Box<dyn Stream<Item = (usize, Result<Bytes, RepositoryError>)> + Send + 'a>>;

/// A stored WAL file on its way out.
pub struct WalPieces<'a> {
    reader: &'a WalReader,
    place: &'a Repository,
    fetched: Fetched<'a>,
    decompressor: Decompressor,
    size: u64,
    sha1: Sha1,
}

impl WalPieces<'_> {
    /// Puts the next piece in place of what `raw` holds. `false`: that was all, and its checksum is proved.
    pub async fn next(&mut self, raw: &mut Vec<u8>) -> Result<bool, RepositoryError> {
        let Some((frame, stored)) = self.fetched.next().await else {
            return self.prove().map(|()| false);
        };
        self.reader.object.decode_frame(frame, &mut stored?.to_vec(), &mut self.decompressor, raw)?;
        self.size += raw.len() as u64;
        self.sha1.update(&raw);
        Ok(true)
    }

    fn prove(&mut self) -> Result<(), RepositoryError> {
        let WalReader { object, body } = self.reader;
        let found: [u8; 20] = self.sha1.finalize_reset().into();
        if self.size == body.size && found == body.sha1 {
            return Ok(());
        }
        Err(RepositoryError::Contradiction {
            place: self.place.describe(),
            object: object.name().to_owned(),
            reason: "its content does not match its SHA-1".into(),
        })
    }
}
