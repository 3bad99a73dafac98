//! A backup that was made before: its head and entry in memory, its files on disk, as a repository has them.

use anyhow::{Context, Result};
use pgconvoy_core::format::catalogue::BackupRecord;
use pgconvoy_core::format::manifest::{FileRecord, ManifestHead, Record};
use pgconvoy_core::machine::backup::contents::BackupContents;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};

/// A frame of a manifest.
const FRAME_BYTES: usize = 1 << 20;

pub(crate) struct Earlier {
    pub(crate) record: Box<BackupRecord>,
    pub(crate) head: Box<ManifestHead>,
    frames: File,
}

impl Earlier {
    pub(crate) fn keep(contents: &BackupContents) -> Result<Earlier> {
        let frames = tempfile::tempfile()?;
        let mut out = BufWriter::new(&frames);
        let mut frame = Vec::with_capacity(FRAME_BYTES + FRAME_BYTES / 8);
        for record in contents.records() {
            record.encode(&mut frame);
            if frame.len() >= FRAME_BYTES {
                write(&mut out, &mut frame)?;
            }
        }
        write(&mut out, &mut frame)?;
        out.flush()?;
        drop(out);
        let record = Box::new(contents.record(&[], 0, None));
        Ok(Earlier { record, head: Box::new(contents.head.clone()), frames })
    }

    /// Hands the files on, a frame at a time.
    pub(crate) fn list(&self, mut taken: impl FnMut(Vec<FileRecord>)) -> Result<()> {
        use std::io::{Seek, SeekFrom};
        let mut file = &self.frames;
        file.seek(SeekFrom::Start(0))?;
        let mut frames = BufReader::new(file);
        let mut length = [0; 8];
        while frames.read_exact(&mut length).is_ok() {
            let mut frame = vec![0; usize::try_from(u64::from_be_bytes(length))?];
            frames.read_exact(&mut frame)?;
            let (mut rest, mut files) = (frame.as_slice(), Vec::new());
            while !rest.is_empty() {
                if let Record::File(file) = Record::decode_next(&mut rest).context("a record")? {
                    files.push(file);
                }
            }
            taken(files);
        }
        Ok(())
    }
}

fn write(out: &mut impl Write, frame: &mut Vec<u8>) -> Result<()> {
    out.write_all(&(frame.len() as u64).to_be_bytes())?;
    out.write_all(frame)?;
    frame.clear();
    Ok(())
}
