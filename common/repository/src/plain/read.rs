//! Reads parts of files as what a reader of packs takes for frames.

use super::{PlainFiles, blocking};
use crate::error::RepositoryError;
use bytes::{Bytes, BytesMut};
use pgconvoy_core::format::layout::PackName;
use pgconvoy_core::format::object::FrameEntry;
use pgconvoy_core::format::pack::PackRange;
use pgconvoy_core::format::plain::{Extent, lay_out};
use pgconvoy_core::ids::StanzaName;
use pgconvoy_core::pg::RelativePath;
use pgconvoy_storage::{IoAction, StorageError};
use rustix::io::Errno;
use std::fs::File;
use std::io::ErrorKind;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

/// The frames of a plain pack.
#[derive(Debug, Clone)]
pub(crate) struct PlainFrames(Arc<Frames>);

#[derive(Debug)]
struct Frames {
    files: PlainFiles,
    stanza: StanzaName,
    pack: PackName,
    /// Of each range of the pack.
    paths: Vec<RelativePath>,
    extents: Vec<Extent>,
}

impl PlainFrames {
    /// Also gives the ranges the runs that lead to these frames.
    pub(crate) fn of(
        files: &PlainFiles,
        stanza: &StanzaName,
        pack: PackName,
        ranges: &mut [PackRange],
    ) -> Result<PlainFrames, RepositoryError> {
        let object = pack.key(stanza);
        let wrong = |reason: &dyn std::fmt::Display| files.contradiction(&object, reason.to_string());
        let paths = ranges.iter().map(|range| range.path.parse()).collect::<Result<_, _>>();
        let paths = paths.map_err(|error| wrong(&error))?;
        let extents = lay_out(ranges).map_err(|error| wrong(&error))?;
        let (files, stanza) = (files.clone(), stanza.clone());
        Ok(PlainFrames(Arc::new(Frames { files, stanza, pack, paths, extents })))
    }

    pub(crate) fn entries(&self) -> Vec<FrameEntry> {
        self.0.extents.iter().map(Extent::frame).collect()
    }

    pub(crate) async fn fetch(&self, frames: Range<usize>) -> Result<Bytes, RepositoryError> {
        let own = self.0.clone();
        blocking("reading a file of a backup", move || own.read(&own.extents[frames])).await
    }
}

impl Frames {
    fn read(&self, extents: &[Extent]) -> Result<Bytes, RepositoryError> {
        let mut bytes = BytesMut::zeroed(extents.iter().map(|extent| extent.length as usize).sum());
        let mut rest = &mut bytes[..];
        let mut open: Option<(usize, File, String)> = None;
        for extent in extents {
            if open.as_ref().is_none_or(|(range, ..)| *range != extent.range) {
                let path = self.paths[extent.range].as_str();
                let (file, name) = self.files.open(&self.stanza, self.pack, path)?;
                open = Some((extent.range, file, name));
            }
            let Some((_, file, name)) = &open else { continue };
            let (wanted, after) = rest.split_at_mut(extent.length as usize);
            rest = after;
            file.read_exact_at(wanted, extent.offset).map_err(|error| match error.kind() {
                ErrorKind::UnexpectedEof => self.truncated(file, name, extent),
                _ => {
                    self.files.error(name, IoAction::Read, Errno::from_io_error(&error).unwrap_or(Errno::IO))
                }
            })?;
        }
        Ok(bytes.freeze())
    }

    fn truncated(&self, file: &File, name: &str, extent: &Extent) -> RepositoryError {
        let size = file.metadata().map_or(0, |metadata| metadata.len());
        let wanted = extent.offset + u64::from(extent.length);
        StorageError::Truncated { at: self.files.place(name), size, wanted }.into()
    }
}
