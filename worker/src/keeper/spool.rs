//! What a scan found, kept on disk for a coordinator that has to ask again: the plan of a backup rests on one scan, whoever
//! leads. A file without a name: it goes with the process.

use crate::outbox::Reporter;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::format::{decode, encode_named};
use pgconvoy_core::plan::inventory::ScannedEntry;
use pgconvoy_core::wire::{ReportBody, ScanEnd};
use pgconvoy_repository::stop::ScanPages;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Of one page as it is kept; pages are bounded by what fits a report.
const PAGE_BYTES_MAX: u32 = 1 << 20;

/// A scan under way.
pub(super) struct Recording(Option<BufWriter<File>>);

/// A scan that is over.
pub(super) struct Scan {
    end: ScanEnd,
    pages: Option<File>,
}

impl Recording {
    /// Without a directory nothing is kept.
    pub(super) fn begin(directory: Option<&Path>) -> Result<Recording, Failure> {
        let Some(directory) = directory else { return Ok(Recording(None)) };
        let create = || {
            std::fs::create_dir_all(directory)?;
            tempfile::tempfile_in(directory)
        };
        let file = create().map_err(|error| {
            Failure::new(ErrorCode::FileOpen, format!("cannot spool in {}: {error}", directory.display()))
                .hint("set [paths] spool to a directory that this user can write")
        })?;
        Ok(Recording(Some(BufWriter::new(file))))
    }

    pub(super) fn add(&mut self, page: &[ScannedEntry]) -> Result<(), Failure> {
        let Some(file) = &mut self.0 else { return Ok(()) };
        let bytes = encode_named(&page);
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        file.write_all(&length.to_le_bytes()).and_then(|()| file.write_all(&bytes)).map_err(unwritable)
    }

    pub(super) fn end(self, end: ScanEnd) -> Scan {
        let pages = self.0.and_then(|file| {
            file.into_inner().inspect_err(|error| tracing::warn!("a scan cannot be repeated: {error}")).ok()
        });
        Scan { end, pages }
    }
}

impl Scan {
    pub(super) fn is_kept(&self) -> bool {
        self.pages.is_some()
    }

    /// What was found, once more; `None` if it was not kept. Moves nothing that `tell` rests on.
    pub(super) fn pages(&self) -> Option<ScanPages> {
        let file = self.pages.as_ref()?.try_clone();
        let file = file.inspect_err(|error| tracing::warn!("the scan cannot be kept: {error}")).ok()?;
        let mut pages = BufReader::new(FromStart { file, position: 0 });
        Some(Box::new(std::iter::from_fn(move || next(&mut pages).transpose())))
    }

    /// Reports everything again.
    pub(super) async fn tell(&mut self, reporter: &Reporter) -> Result<ScanEnd, Failure> {
        let lost = || Failure::new(ErrorCode::Assert, "the scan was not kept, and cannot be repeated");
        let file = self.pages.as_mut().ok_or_else(lost)?;
        file.rewind().map_err(unreadable)?;
        let mut pages = BufReader::new(file);
        while let Some(page) = next(&mut pages)? {
            reporter.send(ReportBody::Scanned(page)).await?;
        }
        Ok(self.end.clone())
    }
}

/// Reads a file without its cursor.
struct FromStart {
    file: File,
    position: u64,
}

impl Read for FromStart {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.file.read_at(buffer, self.position)?;
        self.position += read as u64;
        Ok(read)
    }
}

fn next(pages: &mut impl Read) -> Result<Option<Vec<ScannedEntry>>, Failure> {
    let mut length = [0; 4];
    match pages.read_exact(&mut length) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(unreadable(error)),
    }
    let length = u32::from_le_bytes(length);
    if length > PAGE_BYTES_MAX {
        return Err(Failure::new(ErrorCode::FileInvalid, "the spooled scan is damaged"));
    }
    let mut bytes = vec![0; length as usize];
    pages.read_exact(&mut bytes).map_err(unreadable)?;
    Ok(Some(decode("spooled page of a scan", &bytes)?))
}

fn unwritable(error: std::io::Error) -> Failure {
    Failure::new(ErrorCode::FileWrite, format!("cannot spool a scan: {error}"))
        .hint("is the disk of [paths] spool full?")
}

fn unreadable(error: std::io::Error) -> Failure {
    Failure::new(ErrorCode::FileRead, format!("cannot read a spooled scan: {error}"))
}
