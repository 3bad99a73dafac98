//! Reads one range of one file: of a live data directory here, or of one that a source serves.
//!
//! What is not in the page cache is told apart where the kernel can tell (a read that must not block), so that a backup does
//! not push the server's own pages out: only what was brought in by us is dropped again.

use super::archived::Archived;
use super::unread::Unread;
use crate::fetching::Fetch;
use crate::job::JobContext;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::pg::filenode_map::validate_filenode_map;
use pgconvoy_core::pg::{FileClass, PgVersion, RelativePath};
use pgconvoy_core::wire::{UnitOrder, UnitPart};
use pgconvoy_postgres::PostgresError;
use pgconvoy_postgres::control::read_control;
use rustix::fs::{Advice, fadvise};
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A map is replaced by a rename or, from 16, rewritten in place within microseconds.
const FILENODE_MAP_READS_MAX: u32 = 50;
const FILENODE_MAP_PAUSE: Duration = Duration::from_millis(20);

pub(crate) enum Opened<'a> {
    Present(PartReader<'a>),
    /// Gone, and allowed to be.
    Vanished,
}

enum Content<'a> {
    File {
        file: File,
        caching: Caching,
    },
    /// Read whole beforehand, because its own checksum had to hold.
    Bytes(Vec<u8>),
    /// WAL of a backup of a running server: what is in pg_wal may be written over.
    Archived(Archived),
    /// By a source.
    Served(&'a mut Fetch),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Caching {
    Ask,
    /// The kernel or file system cannot tell what is cached: leave the cache alone.
    Unknown,
}

pub(crate) struct PartReader<'a> {
    path: PathBuf,
    content: Content<'a>,
    at: u64,
    /// `None`: to the end, wherever that is.
    end: Option<u64>,
    relation_segment_blocks: u32,
}

impl<'a> PartReader<'a> {
    /// Of this worker's own data directory; WAL of a running server is read from the archive, which everybody sees.
    pub(crate) fn open(
        context: &JobContext,
        order: &UnitOrder,
        part: &UnitPart,
    ) -> Result<Opened<'static>, Failure> {
        if part.class == FileClass::Wal && context.units.start.is_some() {
            let content = Content::Archived(Archived::open(context, order, part)?);
            let path = PathBuf::from(part.path.as_str());
            return Ok(Opened::Present(PartReader::at(context, part, path, content)));
        }
        let source = context.own_source()?;
        let directory = source.directory();
        let path = directory.join(part.path.as_str());
        let content = match part.class {
            FileClass::Control => Content::Bytes(read_control(directory)?.bytes),
            FileClass::FilenodeMap | FileClass::DatabaseFilenodeMap => {
                match filenode_map(&path, context.shape.version)? {
                    Some(bytes) => Content::Bytes(bytes),
                    None => return vanished(context, &part.path, part.class),
                }
            }
            _ => match File::open(&path) {
                Ok(file) => Content::File { file, caching: Caching::Ask },
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return vanished(context, &part.path, part.class);
                }
                Err(error) => return Err(read_failure(&path, &error)),
            },
        };
        Ok(Opened::Present(PartReader::at(context, part, path, content)))
    }

    /// That part of the order, which is served.
    pub(super) fn fetch(
        context: &JobContext,
        number: usize,
        part: &UnitPart,
        fetch: &'a mut Fetch,
    ) -> Result<Opened<'a>, Failure> {
        if !fetch.open(number, part)? {
            return Ok(Opened::Vanished);
        }
        let path = PathBuf::from(part.path.as_str());
        Ok(Opened::Present(PartReader::at(context, part, path, Content::Served(fetch))))
    }

    fn at(context: &JobContext, part: &UnitPart, path: PathBuf, content: Content<'a>) -> PartReader<'a> {
        // WAL replays whatever a protected file gained since the scan. Nothing replays the others.
        let end = part.class.wal_protected().then_some(part.offset + part.length);
        let relation_segment_blocks = context.shape.relation_segment_blocks;
        PartReader { path, content, at: part.offset, end, relation_segment_blocks }
    }

    /// What WAL summaries allow to leave unread of the part, by whoever sees them.
    pub(super) fn unread(
        &mut self,
        context: &JobContext,
        order: &UnitOrder,
        part: &UnitPart,
    ) -> Result<Option<Unread>, Failure> {
        match &mut self.content {
            Content::Served(fetch) => {
                let page_size = context.shape.page_size.bytes();
                Ok(fetch.take_unread().map(|told| Unread::as_told(&told, page_size)))
            }
            _ => Unread::of(context, order, part, self),
        }
    }

    /// A source asks beforehand which bytes of the part will be read.
    pub(super) fn awaits_plan(&self) -> bool {
        matches!(&self.content, Content::Served(fetch) if fetch.awaits_plan())
    }

    /// These ranges of the file will be read, in this order.
    pub(super) fn expect(&mut self, ranges: Vec<Range<u64>>) -> Result<(), Failure> {
        match &mut self.content {
            Content::Served(fetch) => fetch.expect(ranges),
            _ => Ok(()),
        }
    }

    /// Fills as much of the buffer as there is; less only at the end.
    pub(crate) fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, Failure> {
        let left = self.end.map_or(u64::MAX, |end| end.saturating_sub(self.at));
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let buffer = &mut buffer[..wanted];
        let filled = match &mut self.content {
            Content::Bytes(bytes) => {
                let begin = usize::try_from(self.at).unwrap_or(usize::MAX).min(bytes.len());
                let filled = (bytes.len() - begin).min(buffer.len());
                buffer[..filled].copy_from_slice(&bytes[begin..begin + filled]);
                filled
            }
            Content::Archived(segment) => segment.fill(buffer)?,
            Content::Served(fetch) => fetch.fill(buffer)?,
            Content::File { file, caching } => {
                read_file(file, caching, self.at, buffer).map_err(|error| read_failure(&self.path, &error))?
            }
        };
        self.at += filled as u64;
        Ok(filled)
    }

    /// Fills all of the buffer with what lies so many bytes ahead, if the page cache has it: nothing is waited for. `false`: nothing
    /// happened.
    pub(crate) fn fill_cached(&mut self, ahead: u64, buffer: &mut [u8]) -> bool {
        let at = self.at.saturating_add(ahead);
        let end = at.saturating_add(buffer.len() as u64);
        let Content::File { file, caching: Caching::Ask } = &self.content else { return false };
        let is_filled = self.end.is_some_and(|of_part| end <= of_part)
            && file.read_cached(buffer, at).is_ok_and(|read| read == buffer.len());
        if is_filled {
            self.at = end;
        }
        is_filled
    }

    /// Of the file, now.
    pub(super) fn size(&self) -> Result<u64, Failure> {
        match &self.content {
            Content::Bytes(bytes) => Ok(bytes.len() as u64),
            Content::Archived(_) | Content::Served(_) => Ok(0),
            Content::File { file, .. } => {
                file.metadata().map(|data| data.len()).map_err(|error| read_failure(&self.path, &error))
            }
        }
    }

    /// The next bytes are known and stay unread.
    pub(crate) fn skip(&mut self, bytes: u64) {
        self.at += bytes;
        if let Content::Served(fetch) = &mut self.content {
            fetch.skip(bytes);
        }
    }

    /// A page from anywhere in the file; `false` if it is not all there.
    pub(crate) fn read_page(&self, offset: u64, page: &mut [u8]) -> Result<bool, Failure> {
        let Content::File { file, .. } = &self.content else { return Ok(false) };
        match file.read_exact_at(page, offset) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(read_failure(&self.path, &error)),
        }
    }

    /// Reads a page again; tells whether it changed. A file that is shorter by now did change.
    pub(super) fn reread(&mut self, offset: u64, page: &mut [u8]) -> Result<bool, Failure> {
        let mut again = vec![0; page.len()];
        let is_there = match &mut self.content {
            Content::File { .. } => self.read_page(offset, &mut again)?,
            Content::Served(fetch) => fetch.page(offset, &mut again)?,
            Content::Bytes(_) | Content::Archived(_) => return Ok(false),
        };
        if !is_there {
            return Ok(true);
        }
        let changed = again != page;
        page.copy_from_slice(&again);
        Ok(changed)
    }

    /// The number within the relation of the file's first block.
    pub(super) fn first_block_of_segment(&self, class: FileClass) -> u32 {
        match class {
            FileClass::Relation { segment, .. } => segment.saturating_mul(self.relation_segment_blocks),
            _ => 0,
        }
    }
}

/// Judges a file that is not there, with PostgreSQL's word about a tablespace that is not there.
fn vanished(context: &JobContext, path: &RelativePath, class: FileClass) -> Result<Opened<'static>, Failure> {
    let source = context.own_source()?;
    match source.roots.vanished(path, class) {
        Err(PostgresError::RootGone { tablespace: Some(oid), .. })
            if source.tablespaces.is_dropped(oid)? =>
        {
            Ok(Opened::Vanished)
        }
        judged => Ok(judged.map(|()| Opened::Vanished)?),
    }
}

/// The calls that reading consists of.
trait Pages {
    /// Only what the page cache has, without waiting for a disk.
    fn read_cached(&self, buffer: &mut [u8], at: u64) -> Result<usize, Errno>;
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize>;
    fn forget(&self, at: u64, length: usize);
}

impl Pages for File {
    fn read_cached(&self, buffer: &mut [u8], at: u64) -> Result<usize, Errno> {
        preadv2(self, &mut [IoSliceMut::new(buffer)], at, ReadWriteFlags::NOWAIT)
    }

    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        FileExt::read_at(self, buffer, at)
    }

    fn forget(&self, at: u64, length: usize) {
        // Advice only: that it fails changes nothing about the backup.
        let _ = fadvise(self, at, NonZeroU64::new(length as u64), Advice::DontNeed);
    }
}

fn read_file(file: &impl Pages, caching: &mut Caching, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        let at = offset + filled as u64;
        if *caching == Caching::Ask {
            match file.read_cached(&mut buffer[filled..], at) {
                // The end of the file, or a file system's word for "not cached": only a read that may wait can tell.
                Ok(0) | Err(Errno::AGAIN) => {}
                Ok(read) => {
                    filled += read;
                    continue;
                }
                Err(Errno::INTR) => continue,
                Err(_) => *caching = Caching::Unknown,
            }
        }
        match file.read_at(&mut buffer[filled..], at) {
            Ok(0) => return Ok(filled),
            Ok(read) => {
                if *caching == Caching::Ask {
                    file.forget(at, read);
                }
                filled += read;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// `None`: it is not there.
fn filenode_map(path: &Path, version: PgVersion) -> Result<Option<Vec<u8>>, Failure> {
    let mut last = None;
    for _ in 0..FILENODE_MAP_READS_MAX {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(read_failure(path, &error)),
        };
        match validate_filenode_map(version, &bytes) {
            Ok(()) => return Ok(Some(bytes)),
            Err(error) => last = Some(error),
        }
        std::thread::sleep(FILENODE_MAP_PAUSE);
    }
    let reason = last.map_or_else(String::new, |error| error.to_string());
    Err(Failure::new(ErrorCode::Checksum, format!("{} stays invalid: {reason}", path.display()))
        .hint("the database that it belongs to is damaged: PostgreSQL itself could not open it"))
}

fn read_failure(path: &Path, error: &io::Error) -> Failure {
    Failure::new(ErrorCode::FileRead, format!("cannot read {}: {error}", path.display()))
        .hint("does this user own the data directory, and is its disk healthy?")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
    use super::*;
    use std::cell::Cell;

    /// A file system that answers "nothing" for what is not cached, where it should say "try again".
    struct Misleading {
        content: Vec<u8>,
        cached: usize,
        forgotten: Cell<usize>,
    }

    impl Pages for Misleading {
        fn read_cached(&self, buffer: &mut [u8], at: u64) -> Result<usize, Errno> {
            Ok(copy(&self.content[..self.cached], buffer, at))
        }

        fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
            Ok(copy(&self.content, buffer, at))
        }

        fn forget(&self, _at: u64, length: usize) {
            self.forgotten.set(self.forgotten.get() + length);
        }
    }

    fn copy(content: &[u8], buffer: &mut [u8], at: u64) -> usize {
        let begin = usize::try_from(at).unwrap().min(content.len());
        let length = buffer.len().min(content.len() - begin);
        buffer[..length].copy_from_slice(&content[begin..begin + length]);
        length
    }

    #[test]
    fn an_end_that_only_the_cache_speaks_of_is_not_believed() {
        let file = Misleading { content: vec![7; 100], cached: 30, forgotten: Cell::new(0) };
        let mut buffer = vec![0; 200];
        assert_eq!(read_file(&file, &mut Caching::Ask, 0, &mut buffer).unwrap(), 100);
        assert_eq!(buffer[..100], file.content);
        assert_eq!(file.forgotten.get(), 70, "what the server had in its cache stays there");
    }

    #[test]
    fn a_real_file_is_read_to_its_end_and_not_beyond() {
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, &[5; 20_000]).unwrap();
        let mut buffer = vec![0; 8192];
        let mut caching = Caching::Ask;
        assert_eq!(read_file(&file, &mut caching, 16_384, &mut buffer).unwrap(), 20_000 - 16_384);
        assert_eq!(read_file(&file, &mut caching, 20_000, &mut buffer).unwrap(), 0);
    }

    #[test]
    fn what_the_cache_has_is_read_at_once_or_nothing_happens() {
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, &[5; 20_000]).unwrap();
        let content = Content::File { file, caching: Caching::Ask };
        let path = PathBuf::from("relation");
        let mut reader = PartReader { path, content, at: 0, end: Some(16_384), relation_segment_blocks: 1 };
        let mut page = vec![0; 8192];
        // Not every file system can tell what is cached.
        if reader.fill_cached(8192, &mut page) {
            assert_eq!((reader.at, &page[..]), (16_384, &[5; 8192][..]));
        } else {
            assert_eq!(reader.at, 0);
            reader.at = 16_384;
        }
        assert!(!reader.fill_cached(0, &mut page), "it lies behind the part");
        reader.end = None;
        assert!(!reader.fill_cached(0, &mut page), "only a read that may wait can tell where a file ends");
        assert_eq!(reader.at, 16_384);
    }
}
