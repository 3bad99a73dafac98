//! Reads an object that is there: its footer, then any of its frames.

use super::object_key;
use crate::codec::{Codec, Decompressor};
use crate::error::RepositoryError;
use crate::open::Repository;
use crate::plain::PlainFrames;
use crate::seal::FrameOpener;
use bytes::Bytes;
use futures::future::try_join;
use pgconvoy_core::format::object::{
    FOOTER_RAW_BYTES_MAX, FrameEntry, HEADER_BYTES, Header, Kind, Protection, TRAILER_BYTES, Trailer,
    frame_offsets,
};
use pgconvoy_core::format::{FormatError, decode, decode_next};
use pgconvoy_storage::{ObjectInfo, ObjectKey, StorageError};
use serde::de::DeserializeOwned;
use std::ops::Range;
use std::sync::Arc;

/// Objects up to this size are fetched whole: one request instead of three.
const WHOLE_BYTES_MAX: u64 = 512 << 10;
/// A footer is stored in no more than it holds, give or take what says so: what claims more is refused unread.
const FOOTER_STORED_BYTES_MAX: u32 = FOOTER_RAW_BYTES_MAX + (64 << 10);
/// What is fetched of a larger object's end: its footer lies in there, nearly always.
const TAIL_BYTES: u64 = 128 << 10;

/// An object with its footer read and checked.
#[derive(Debug)]
pub struct ObjectReader {
    place: String,
    name: String,
    key: ObjectKey,
    size: u64,
    /// As it was when it was opened; `None` where it was not looked at as such, or the store has none.
    etag: Option<Arc<str>>,
    header: Header,
    opener: FrameOpener,
    frames: Vec<FrameEntry>,
    offsets: Vec<u64>,
    body: Vec<u8>,
    /// The whole object, if it was fetched whole.
    whole: Option<Bytes>,
    /// What stands for its frames in a plain repository.
    plain: Option<PlainFrames>,
}

/// The parts of an object that are needed before its frames.
struct Ends {
    header: [u8; HEADER_BYTES],
    trailer: Trailer,
    footer: Vec<u8>,
}

impl ObjectReader {
    /// Fetches header, trailer and footer. A missing object is [`StorageError::NotFound`].
    pub async fn open(
        repository: &Repository,
        kind: Kind,
        name: &str,
    ) -> Result<ObjectReader, RepositoryError> {
        let key = object_key(name);
        let storage = repository.storage();
        let Some(info) = storage.stat(&key).await? else {
            return Err(RepositoryError::Missing { place: repository.describe(), object: name.to_owned() });
        };
        if info.size <= WHOLE_BYTES_MAX {
            let bytes = storage.get(&key, WHOLE_BYTES_MAX).await?;
            return Self::from_bytes(repository, kind, name, bytes);
        }
        let size = info.size;
        let tail_start = size - TAIL_BYTES;
        let header = storage.get_range(&key, 0..HEADER_BYTES as u64);
        let (header, tail) = try_join(header, storage.get_range(&key, tail_start..size)).await?;
        let header = *header.first_chunk().expect("a range is returned in full or not at all");
        Self::check_header(repository, kind, name, &header)?;
        let trailer = Trailer::decode(&header, &tail[tail.len() - TRAILER_BYTES..], size)
            .map_err(|source| format_error(repository, name, source))?;
        if trailer.footer_stored > FOOTER_STORED_BYTES_MAX {
            let source = FormatError::Inconsistent { what: "footer", reason: "it is too large".into() };
            return Err(format_error(repository, name, source));
        }
        let footer_end = size - TRAILER_BYTES as u64;
        let footer = if trailer.footer_offset >= tail_start {
            let begin = usize::try_from(trailer.footer_offset - tail_start).expect("it lies in the tail");
            tail[begin..tail.len() - TRAILER_BYTES].to_vec()
        } else {
            storage.get_range(&key, trailer.footer_offset..footer_end).await?.to_vec()
        };
        let opened = Self::from_ends(repository, kind, name, size, Ends { header, trailer, footer }, None)?;
        Ok(ObjectReader { etag: info.etag, ..opened })
    }

    /// Reads an object that is in memory as a whole.
    pub fn from_bytes(
        repository: &Repository,
        kind: Kind,
        name: &str,
        bytes: Bytes,
    ) -> Result<ObjectReader, RepositoryError> {
        let size = bytes.len() as u64;
        let short = || FormatError::Short { what: kind.name(), found: bytes.len() };
        let header = *bytes
            .first_chunk::<HEADER_BYTES>()
            .filter(|_| bytes.len() >= HEADER_BYTES + TRAILER_BYTES)
            .ok_or_else(|| format_error(repository, name, short()))?;
        Self::check_header(repository, kind, name, &header)?;
        let trailer = Trailer::decode(&header, &bytes[bytes.len() - TRAILER_BYTES..], size)
            .map_err(|source| format_error(repository, name, source))?;
        let begin = usize::try_from(trailer.footer_offset).expect("decode checked it against the size");
        let footer = bytes[begin..bytes.len() - TRAILER_BYTES].to_vec();
        Self::from_ends(repository, kind, name, size, Ends { header, trailer, footer }, Some(bytes))
    }

    fn check_header(
        repository: &Repository,
        kind: Kind,
        name: &str,
        bytes: &[u8; HEADER_BYTES],
    ) -> Result<Header, RepositoryError> {
        let header = Header::decode(bytes).map_err(|source| format_error(repository, name, source))?;
        if header.kind != kind {
            let source = FormatError::Kind { what: kind.name(), found: header.kind, expected: kind };
            return Err(format_error(repository, name, source));
        }
        if header.protection == Protection::None && repository.is_encrypted() && !kind.is_always_plain() {
            return Err(RepositoryError::Downgrade { place: repository.describe(), object: name.to_owned() });
        }
        Ok(header)
    }

    fn from_ends(
        repository: &Repository,
        kind: Kind,
        name: &str,
        size: u64,
        mut ends: Ends,
        whole: Option<Bytes>,
    ) -> Result<ObjectReader, RepositoryError> {
        let place = repository.describe();
        let seal = |source| RepositoryError::Seal { place: place.clone(), source };
        let format = |source| format_error(repository, name, source);
        let header = Self::check_header(repository, kind, name, &ends.header)?;
        let opener = match &header.protection {
            Protection::None => FrameOpener::plain(&ends.header, name).map_err(seal)?,
            Protection::Aes256Gcm { generation, salt } => {
                let key = repository.key_of(*generation)?;
                FrameOpener::aes(key, repository.identity(), &ends.header, salt, name).map_err(seal)?
            }
        };
        let content = opener.open(ends.trailer.frames, true, &mut ends.footer).map_err(seal)?;
        let (codec, raw_bytes, stored) = match &*content {
            [codec, a, b, c, d, stored @ ..] => (*codec, u32::from_be_bytes([*a, *b, *c, *d]), stored),
            short => return Err(format(FormatError::Short { what: "footer", found: short.len() })),
        };
        if raw_bytes > FOOTER_RAW_BYTES_MAX {
            return Err(format(FormatError::Inconsistent {
                what: "footer",
                reason: "it is too large".into(),
            }));
        }
        let codec_error =
            |source| RepositoryError::Codec { place: place.clone(), object: name.to_owned(), source };
        let codec = Codec::from_number(codec).map_err(codec_error)?;
        let mut raw = Vec::new();
        Decompressor::new()
            .decompress_footer(codec, stored, raw_bytes as usize, &mut raw)
            .map_err(codec_error)?;
        // `[frames, body]`: a two-element array.
        let mut rest = raw
            .strip_prefix(&[0x92])
            .ok_or_else(|| format(FormatError::Decode { what: "footer", reason: "it is no pair".into() }))?;
        let frames: Vec<FrameEntry> = decode_next("frame table", &mut rest).map_err(format)?;
        let offsets = frame_offsets(&frames, &ends.trailer).map_err(format)?;
        let body = rest.to_vec();
        let (name, key) = (name.to_owned(), object_key(name));
        let etag = None;
        Ok(ObjectReader {
            place,
            name,
            key,
            size,
            etag,
            header,
            opener,
            frames,
            offsets,
            body,
            whole,
            plain: None,
        })
    }

    pub fn body<B: DeserializeOwned>(&self) -> Result<B, RepositoryError> {
        decode(self.header.kind.name(), &self.body).map_err(|source| RepositoryError::Format {
            place: self.place.clone(),
            object: self.name.clone(),
            source,
        })
    }

    /// As it is stored, with what a newer version may have put in.
    pub(crate) fn encoded_body(&self) -> &[u8] {
        &self.body
    }

    /// Its frames are parts of files that lie beside it.
    pub(crate) fn has_plain(&mut self, plain: PlainFrames) {
        self.frames = plain.entries();
        let begin = |end: &mut u64, frame: &FrameEntry| {
            let begin = *end;
            *end += u64::from(frame.stored_bytes());
            Some(begin)
        };
        self.offsets = self.frames.iter().scan(0, begin).collect();
        self.plain = Some(plain);
    }

    /// Its frames came when it was opened: fetching them asks nobody.
    pub fn is_whole(&self) -> bool {
        self.whole.is_some() && !self.is_plain()
    }

    pub(crate) fn is_plain(&self) -> bool {
        self.plain.is_some()
    }

    pub fn frames(&self) -> &[FrameEntry] {
        &self.frames
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn place(&self) -> &str {
        &self.place
    }

    /// Cipher, key generation and salt, as its header tells.
    pub fn protection(&self) -> &Protection {
        &self.header.protection
    }

    /// Stored bytes of the whole object.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// As what it was opened. Whatever is done to an object with this entity tag is done to what was read of it.
    pub(crate) fn info(&self) -> ObjectInfo {
        ObjectInfo { key: self.key.clone(), size: self.size, modified: None, etag: self.etag.clone() }
    }

    /// Where a run of frames lies in the object.
    pub fn stored_range(&self, frames: Range<usize>) -> Range<u64> {
        let Some(last) = frames.clone().last() else { return 0..0 };
        self.offsets[frames.start]..self.offsets[last] + u64::from(self.frames[last].stored_bytes())
    }

    /// Fetches a run of frames as they are stored, in one request.
    pub async fn fetch(
        &self,
        repository: &Repository,
        frames: Range<usize>,
    ) -> Result<Bytes, RepositoryError> {
        if let Some(plain) = &self.plain {
            return plain.fetch(frames).await;
        }
        let range = self.stored_range(frames);
        if let Some(whole) = &self.whole {
            let begin = usize::try_from(range.start).expect("frames lie in the object");
            let end = usize::try_from(range.end).expect("frames lie in the object");
            return Ok(whole.slice(begin..end));
        }
        Ok(repository.storage().get_range(&self.key, range).await?)
    }

    /// Opens and decompresses one stored frame; `out` is replaced.
    pub fn decode_frame(
        &self,
        frame: usize,
        stored: &mut [u8],
        decompressor: &mut Decompressor,
        out: &mut Vec<u8>,
    ) -> Result<(), RepositoryError> {
        if self.plain.is_some() {
            out.clear();
            out.extend_from_slice(stored);
            return Ok(());
        }
        let entry = self.frames[frame];
        let number = u32::try_from(frame).expect("frame_offsets compared it with a u32");
        let place = FramePlace { place: &self.place, object: &self.name, opener: &self.opener };
        decode_frame(&place, number, entry, stored, decompressor, out)
    }

    /// Fetches and opens one frame, for readers of few frames.
    pub async fn read_frame(
        &self,
        repository: &Repository,
        frame: usize,
    ) -> Result<Vec<u8>, RepositoryError> {
        let mut stored = self.fetch(repository, frame..frame + 1).await?.to_vec();
        let mut out = Vec::new();
        self.decode_frame(frame, &mut stored, &mut Decompressor::new(), &mut out)?;
        Ok(out)
    }

    /// Whether a failed read means that the object is not there.
    pub fn is_absence(error: &RepositoryError) -> bool {
        matches!(
            error,
            RepositoryError::Missing { .. } | RepositoryError::Storage(StorageError::NotFound { .. })
        )
    }
}

/// Which object a frame belongs to, for messages, and what opens it.
pub struct FramePlace<'a> {
    pub place: &'a str,
    pub object: &'a str,
    pub opener: &'a FrameOpener,
}

/// Opens and decompresses one stored frame; `out` is replaced.
pub fn decode_frame(
    place: &FramePlace<'_>,
    number: u32,
    entry: FrameEntry,
    stored: &mut [u8],
    decompressor: &mut Decompressor,
    out: &mut Vec<u8>,
) -> Result<(), RepositoryError> {
    let codec_error = |source| RepositoryError::Codec {
        place: place.place.to_owned(),
        object: place.object.to_owned(),
        source,
    };
    let content = place
        .opener
        .open(number, false, stored)
        .map_err(|source| RepositoryError::Seal { place: place.place.to_owned(), source })?;
    let codec = Codec::from_number(entry.codec()).map_err(codec_error)?;
    out.clear();
    decompressor.decompress(codec, content, entry.raw_bytes() as usize, out).map_err(codec_error)
}

fn format_error(repository: &Repository, name: &str, source: FormatError) -> RepositoryError {
    RepositoryError::Format { place: repository.describe(), object: name.to_owned(), source }
}
