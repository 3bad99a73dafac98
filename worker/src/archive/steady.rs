//! A file that must not become another while it is read.
//!
//! PostgreSQL renames a segment that it does not need any more and writes over it. Whoever reads it at that moment would
//! store another segment's bytes under its name, for ever.
//!
//! Invariant: the end of the file is reached only if its name still leads to it and nobody has written to it meanwhile.

use super::spool::FileMark;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

pub(super) struct SteadyFile {
    file: File,
    path: PathBuf,
    mark: FileMark,
}

impl SteadyFile {
    pub(super) fn open(path: &Path) -> io::Result<SteadyFile> {
        let mark = FileMark::of(path)?;
        let steady = SteadyFile { file: File::open(path)?, path: path.to_owned(), mark };
        steady.check()?;
        Ok(steady)
    }

    fn check(&self) -> io::Result<()> {
        let opened = FileMark::from(&self.file.metadata()?);
        if opened == self.mark && FileMark::of(&self.path)? == self.mark {
            return Ok(());
        }
        Err(io::Error::other("it was changed while it was read"))
    }
}

impl Read for SteadyFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        if read == 0 && !buffer.is_empty() {
            self.check()?;
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    type Change = fn(&Path);

    #[test]
    fn a_file_that_is_renamed_replaced_or_written_to_has_no_end() {
        let nothing: Change = |_| {};
        let rename: Change = |path| std::fs::rename(path, path.with_extension("next")).unwrap();
        let replace: Change = |path| {
            std::fs::write(path.with_extension("other"), "some WAL").unwrap();
            std::fs::rename(path.with_extension("other"), path).unwrap();
        };
        let grow: Change = |path| std::fs::write(path, "some more WAL").unwrap();
        for (change, is_steady) in [(nothing, true), (rename, false), (replace, false), (grow, false)] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("segment");
            std::fs::write(&path, "some WAL").unwrap();
            let mut steady = SteadyFile::open(&path).unwrap();
            steady.read_exact(&mut [0; 4]).unwrap();
            change(&path);
            assert_eq!(steady.read_to_end(&mut Vec::new()).is_ok(), is_steady);
        }
    }
}
