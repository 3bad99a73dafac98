//! Whether a backup's data directory is what its manifest says: every name, leading to the bytes that packs tell of.
//!
//! What an attempt of the backup itself stored is read and hashed where its pack is checked. Here is what that does not see: names that
//! are missing, and files of earlier backups, which have to be the very same ones.

use super::{PlainFiles, published};
use crate::error::RepositoryError;
use pgconvoy_core::format::layout;
use pgconvoy_core::format::manifest::{FileRecord, ManifestHead, Record};
use pgconvoy_core::format::plain::{TABLESPACE_LINKS, link_to, place, tablespace_of_link};
use pgconvoy_core::ids::StanzaName;
use pgconvoy_storage::IoAction;
use rustix::io::Errno;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt as _;

const COMPARED_BYTES: usize = 1 << 20;

/// An object, and what is wrong with it.
pub(crate) type Flaw = (String, String);

impl PlainFiles {
    /// Of some records of a manifest.
    pub(crate) fn flaws(&self, stanza: &StanzaName, head: &ManifestHead, records: &[Record]) -> Vec<Flaw> {
        let data = layout::data(stanza, head.label);
        records
            .iter()
            .filter_map(|record| {
                let name = format!("{data}/{}", place(record.path().as_str()));
                let checked = match record {
                    Record::Directory(_) => self.check_entry(&data, record.path().as_str()),
                    // What it leads to comes next, or is an entry of its own.
                    Record::Link(link) if tablespace_of_link(link.path.as_str()).is_none() => Ok(()),
                    Record::Link(link) => self.check_entry(&data, link.path.as_str()),
                    Record::File(file) => self.check_file(stanza, head, file, &name),
                };
                checked.err().map(|error| (name, error.to_string()))
            })
            .collect()
    }

    /// Of what PostgreSQL needs beside the cluster's own files.
    pub(crate) fn label_flaw(&self, stanza: &StanzaName, head: &ManifestHead) -> Option<Flaw> {
        let name = format!("{}/{}", layout::data(stanza, head.label), super::tree::BACKUP_LABEL);
        let wanted = head.backup_label.as_ref()?.as_bytes();
        let read = std::fs::read(self.path(&name)).map_err(self.failed(&name, IoAction::Read));
        match read {
            Ok(found) if found == wanted => None,
            Ok(_) => Some((name, "it is not the one that PostgreSQL gave".to_owned())),
            Err(error) => Some((name, error.to_string())),
        }
    }

    fn check_entry(&self, data: &str, path: &str) -> Result<(), RepositoryError> {
        let name = format!("{data}/{}", place(path));
        if !self.look(&name)?.is_some_and(|found| found.is_dir()) {
            return Err(self.error(&name, IoAction::Open, Errno::NOENT));
        }
        let Some(tablespace) = tablespace_of_link(path) else { return Ok(()) };
        let link = format!("{data}/{TABLESPACE_LINKS}/{tablespace}");
        let found = std::fs::read_link(self.path(&link)).map_err(self.failed(&link, IoAction::Open))?;
        if found.as_os_str() != link_to(tablespace).as_str() {
            return Err(self.contradiction(&link, "it leads somewhere else"));
        }
        Ok(())
    }

    fn check_file(
        &self,
        stanza: &StanzaName,
        head: &ManifestHead,
        file: &FileRecord,
        name: &str,
    ) -> Result<(), RepositoryError> {
        let opened = |name: &str| {
            let file = self.open_file(name).map_err(|errno| self.error(name, IoAction::Open, errno))?;
            let metadata = file.metadata().map_err(self.failed(name, IoAction::Open))?;
            Ok::<_, RepositoryError>((file, metadata))
        };
        let (here, metadata) = opened(name)?;
        if metadata.len() != file.size {
            let reason = format!("it has {} bytes, its manifest says {}", metadata.len(), file.size);
            return Err(self.contradiction(name, reason));
        }
        let pack = file.ranges.first().and_then(|range| head.pack_of(range));
        let Some(pack) = pack.filter(|pack| pack.label != head.label) else { return Ok(()) };
        let known = published(stanza, pack, file.path.as_str());
        let (there, known_metadata) = opened(&known)?;
        if (metadata.dev(), metadata.ino()) == (known_metadata.dev(), known_metadata.ino()) {
            return Ok(());
        }
        match is_same(here, there).map_err(self.failed(name, IoAction::Read))? {
            true => Ok(()),
            false => Err(self.contradiction(name, format!("it is not what {known} is"))),
        }
    }
}

fn is_same(one: impl Read, other: impl Read) -> std::io::Result<bool> {
    let mut one = BufReader::with_capacity(COMPARED_BYTES, one);
    let mut other = BufReader::with_capacity(COMPARED_BYTES, other);
    loop {
        let (ours, theirs) = (one.fill_buf()?, other.fill_buf()?);
        let length = ours.len().min(theirs.len());
        if ours[..length] != theirs[..length] || (length == 0 && ours.len() != theirs.len()) {
            return Ok(false);
        }
        if length == 0 {
            return Ok(true);
        }
        one.consume(length);
        other.consume(length);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn files_are_the_same_if_every_byte_and_the_end_is() {
        let long = vec![7; 2 * COMPARED_BYTES + 5];
        let mut changed = long.clone();
        changed[COMPARED_BYTES + 1] ^= 1;
        assert!(is_same(&long[..], &long[..]).unwrap());
        assert!(is_same(&b""[..], &b""[..]).unwrap());
        for other in [&changed[..], &long[1..], &long[..COMPARED_BYTES], &b""[..]] {
            assert!(!is_same(&long[..], other).unwrap());
            assert!(!is_same(other, &long[..]).unwrap());
        }
    }
}
