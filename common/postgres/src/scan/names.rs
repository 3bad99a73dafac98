//! The names in one directory, sorted, in one allocation: a database may have a million files in one.

use crate::PostgresError;
use rustix::fd::BorrowedFd;
use rustix::fs::Dir;
use std::path::Path;

#[derive(Debug, Default)]
pub(super) struct Names {
    text: String,
    /// Begin and end of each name.
    spans: Vec<(u32, u32)>,
}

impl Names {
    /// `path` is for messages only.
    pub(super) fn read(directory: BorrowedFd<'_>, path: &Path) -> Result<Self, PostgresError> {
        let failed = |error: rustix::io::Errno| PostgresError::file("list", path, error);
        let mut names = Names::default();
        for entry in Dir::read_from(directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let bytes = entry.file_name().to_bytes();
            if bytes == b"." || bytes == b".." {
                continue;
            }
            let name = std::str::from_utf8(bytes).map_err(|_| PostgresError::NameEncoding {
                directory: path.to_owned(),
                name: String::from_utf8_lossy(bytes).into_owned(),
            })?;
            names.push(name).ok_or_else(|| PostgresError::FileInvalid {
                path: path.to_owned(),
                reason: "its names have more than 4 GiB".to_owned(),
            })?;
        }
        let text = names.text.as_str();
        names.spans.sort_unstable_by(|one, other| slice(text, *one).cmp(slice(text, *other)));
        Ok(names)
    }

    fn push(&mut self, name: &str) -> Option<()> {
        let begin = u32::try_from(self.text.len()).ok()?;
        self.text.push_str(name);
        self.spans.push((begin, u32::try_from(self.text.len()).ok()?));
        Some(())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &str> + Clone {
        self.spans.iter().map(|span| slice(&self.text, *span))
    }
}

fn slice(text: &str, (begin, end): (u32, u32)) -> &str {
    &text[begin as usize..end as usize]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn names_come_sorted_by_their_bytes() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["2", "10", "1_fsm", "1", "ä", "Z"] {
            std::fs::write(directory.path().join(name), "").unwrap();
        }
        let file = std::fs::File::open(directory.path()).unwrap();
        let names = Names::read(file.as_fd(), directory.path()).unwrap();
        assert_eq!(names.iter().collect::<Vec<_>>(), ["1", "10", "1_fsm", "2", "Z", "ä"]);
    }

    #[test]
    fn a_name_that_is_not_utf8_is_refused_with_its_directory() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(std::ffi::OsStr::from_bytes(b"caf\xe9")), "").unwrap();
        let file = std::fs::File::open(directory.path()).unwrap();
        let error = Names::read(file.as_fd(), directory.path()).unwrap_err();
        assert!(
            matches!(&error, PostgresError::NameEncoding { directory: at, .. } if at == directory.path()),
            "{error}"
        );
    }
}
