//! What commands and the background processes of a host tell each other: files in the spool directory.
//!
//! ```text
//! <spool>/archive/<stanza>/out/<file>.ok      archived; what there is to warn of
//! <spool>/archive/<stanza>/out/<file>.error   why it is not
//! <spool>/archive/<stanza>/out/global.error   why nothing is
//! <spool>/archive/<stanza>/out/<file>.dropped to be recorded in the repositories
//! <spool>/archive/<stanza>/in/<whose>/<file>  fetched ahead, whole and checked
//! ```
//!
//! Invariants
//! 1. A file appears under its name as a whole: a kill leaves temporary names only.
//! 2. `.ok` holds for one file, told by inode, size and time: not for another one of the same name.
//! 3. All of it can be thrown away: what is lost is asked again. Records of what was dropped are the exception, and leave
//!    for the repositories as soon as these take them.

use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::format::wal::DroppedBody;
use pgconvoy_core::ids::StanzaName;
use pgconvoy_core::pg::WalFileName;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{DirBuilder, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

const GLOBAL: &str = "global";
const OK: &str = "ok";
const ERROR: &str = "error";
const DROPPED: &str = "dropped";
const TEMPORARY: &str = "tmp";
const DIRECTORY_MODE: u32 = 0o750;

/// Which file a status is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct FileMark {
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl FileMark {
    pub fn of(path: &Path) -> io::Result<FileMark> {
        Ok(FileMark::from(&std::fs::metadata(path)?))
    }
}

impl From<&Metadata> for FileMark {
    fn from(data: &Metadata) -> FileMark {
        FileMark { inode: data.ino(), size: data.len(), modified: (data.mtime(), data.mtime_nsec()) }
    }
}

/// That a file is archived.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Archived {
    pub mark: FileMark,
    pub warnings: Vec<String>,
}

/// That a file is not archived, and which telling of it this is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    pub failure: Failure,
    pub telling: (u64, i64, i64),
}

/// The statuses of one stanza's pushes.
#[derive(Debug, Clone)]
pub struct OutSpool {
    directory: PathBuf,
}

impl OutSpool {
    pub fn open(spool: &Path, stanza: &StanzaName) -> Result<OutSpool, Failure> {
        let directory = directory_of(spool, stanza, "out");
        create(&directory)?;
        Ok(OutSpool { directory })
    }

    /// `None`: nobody has made it yet.
    pub fn existing(spool: &Path, stanza: &StanzaName) -> Option<OutSpool> {
        let directory = directory_of(spool, stanza, "out");
        directory.is_dir().then_some(OutSpool { directory })
    }

    fn path(&self, name: &str, kind: &str) -> PathBuf {
        self.directory.join(format!("{name}.{kind}"))
    }

    /// What is not whole, or of another form, counts as nothing: the file is pushed again then.
    pub fn archived(&self, file: &WalFileName) -> Option<Archived> {
        let text = std::fs::read(self.path(&file.to_string(), OK)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// What was last told of the file, or of all.
    pub fn refused(&self, file: &WalFileName) -> Vec<Refused> {
        let read = |name: &str| {
            let path = self.path(name, ERROR);
            let failure = serde_json::from_slice(&std::fs::read(&path).ok()?).ok()?;
            let data: Metadata = std::fs::metadata(&path).ok()?;
            Some(Refused { failure, telling: (data.ino(), data.mtime(), data.mtime_nsec()) })
        };
        [file.to_string().as_str(), GLOBAL].into_iter().filter_map(read).collect()
    }

    pub fn tell_archived(&self, file: &WalFileName, archived: &Archived) -> Result<(), Failure> {
        self.write(&file.to_string(), OK, archived)?;
        self.remove(&file.to_string(), ERROR)
    }

    pub fn tell_refused(&self, file: &WalFileName, failure: &Failure) -> Result<(), Failure> {
        self.write(&file.to_string(), ERROR, failure)
    }

    pub fn tell_all_refused(&self, failure: &Failure) -> Result<(), Failure> {
        self.write(GLOBAL, ERROR, failure)
    }

    /// All that is said to be archived. Statuses of files that do not wait any more are removed, and the word about all.
    pub fn tidy(&self, waiting: &BTreeSet<WalFileName>) -> Result<BTreeMap<WalFileName, Archived>, Failure> {
        let mut archived = BTreeMap::new();
        let entries =
            std::fs::read_dir(&self.directory).map_err(|error| trouble("read", &self.directory, &error))?;
        for entry in entries {
            let path = entry.map_err(|error| trouble("read", &self.directory, &error))?.path();
            let (Some(name), Some(kind)) = (path.file_stem(), path.extension()) else { continue };
            if kind == DROPPED {
                continue;
            }
            let file: Option<WalFileName> = name.to_str().and_then(|name| name.parse().ok());
            match file.filter(|file| waiting.contains(file)) {
                Some(file) if kind == OK => {
                    drop(self.archived(&file).map(|told| archived.insert(file, told)))
                }
                Some(_) => {}
                None => remove(&path)?,
            }
        }
        Ok(archived)
    }

    /// Nobody will ask for its status any more.
    pub fn forget(&self, file: &WalFileName) -> Result<(), Failure> {
        self.remove(&file.to_string(), OK)?;
        self.remove(&file.to_string(), ERROR)
    }

    pub fn note_dropped(&self, file: &WalFileName, record: &DroppedBody) -> Result<(), Failure> {
        self.write(&file.to_string(), DROPPED, record)
    }

    /// What no repository was told yet.
    pub fn dropped(&self) -> Vec<(WalFileName, DroppedBody)> {
        let read = |path: PathBuf| {
            let file = path.file_stem()?.to_str()?.parse().ok()?;
            let record = serde_json::from_slice(&std::fs::read(&path).ok()?).ok()?;
            path.extension().is_some_and(|kind| kind == DROPPED).then_some((file, record))
        };
        let entries = std::fs::read_dir(&self.directory).into_iter().flatten().flatten();
        entries.filter_map(|entry| read(entry.path())).collect()
    }

    pub fn forget_dropped(&self, file: &WalFileName) -> Result<(), Failure> {
        self.remove(&file.to_string(), DROPPED)
    }

    fn write(&self, name: &str, kind: &str, content: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_vec(content)
            .map_err(|error| Failure::new(ErrorCode::Assert, format!("a status has no text: {error}")))?;
        let temporary = self.path(name, &format!("{kind}.{TEMPORARY}"));
        std::fs::write(&temporary, text).map_err(|error| trouble("write", &temporary, &error))?;
        let path = self.path(name, kind);
        std::fs::rename(&temporary, &path).map_err(|error| trouble("rename to", &path, &error))
    }

    fn remove(&self, name: &str, kind: &str) -> Result<(), Failure> {
        remove(&self.path(name, kind))
    }
}

pub(super) fn directory_of(spool: &Path, stanza: &StanzaName, way: &str) -> PathBuf {
    spool.join("archive").join(stanza.as_str()).join(way)
}

pub(super) fn create(directory: &Path) -> Result<(), Failure> {
    let made = DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(directory);
    made.map_err(|error| {
        let message = format!("cannot create spool directory '{}': {error}", directory.display());
        Failure::new(ErrorCode::PathCreate, message)
            .hint("set [paths] spool to a directory that the user who runs PostgreSQL can write")
    })
}

pub(super) fn remove(path: &Path) -> Result<(), Failure> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(trouble("remove", path, &error)),
        _ => Ok(()),
    }
}

pub(super) fn trouble(what: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::new(ErrorCode::FileWrite, format!("cannot {what} '{}': {error}", path.display()))
        .hint("the spool directory needs a little space, and the rights of the user who runs PostgreSQL")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    const FILE: &str = "000000010000000000000001";

    struct Site {
        folder: tempfile::TempDir,
        spool: OutSpool,
        file: WalFileName,
    }

    fn site() -> Site {
        let folder = tempfile::tempdir().unwrap();
        let spool = OutSpool::open(folder.path(), &"main".parse().unwrap()).unwrap();
        std::fs::write(folder.path().join(FILE), "some WAL").unwrap();
        Site { folder, spool, file: FILE.parse().unwrap() }
    }

    impl Site {
        fn mark(&self) -> FileMark {
            FileMark::of(&self.folder.path().join(FILE)).unwrap()
        }

        fn archived(&self) -> Archived {
            Archived { mark: self.mark(), warnings: vec!["repo 2 is away".to_owned()] }
        }
    }

    #[test]
    fn what_was_told_is_read_back_and_success_ends_the_error() {
        let site = site();
        assert_eq!((site.spool.archived(&site.file), site.spool.refused(&site.file)), (None, vec![]));
        let failure = Failure::new(ErrorCode::FileWrite, "it is full").hint("make room");
        site.spool.tell_refused(&site.file, &failure).unwrap();
        assert_eq!(site.spool.refused(&site.file)[0].failure, failure);
        site.spool.tell_archived(&site.file, &site.archived()).unwrap();
        assert_eq!(site.spool.archived(&site.file), Some(site.archived()));
        assert_eq!(site.spool.refused(&site.file), []);
        site.spool.tell_all_refused(&failure).unwrap();
        assert_eq!(site.spool.refused(&site.file).len(), 1);
    }

    #[test]
    fn an_error_that_is_told_again_is_news() {
        let site = site();
        let failure = Failure::new(ErrorCode::FileWrite, "it is full");
        let telling = || {
            site.spool.tell_refused(&site.file, &failure).unwrap();
            site.spool.refused(&site.file)[0].telling
        };
        assert_ne!(telling(), telling());
    }

    #[test]
    fn a_status_holds_for_the_file_that_it_was_made_of() {
        let site = site();
        let before = site.mark();
        std::fs::write(site.folder.path().join("another"), "some WAL").unwrap();
        std::fs::rename(site.folder.path().join("another"), site.folder.path().join(FILE)).unwrap();
        assert_ne!(site.mark(), before);
    }

    #[test]
    fn statuses_of_what_does_not_wait_any_more_go_and_what_is_no_status_counts_for_nothing() {
        let site = site();
        let other: WalFileName = "000000010000000000000002".parse().unwrap();
        let failure = Failure::new(ErrorCode::FileWrite, "it is full");
        site.spool.tell_archived(&site.file, &site.archived()).unwrap();
        site.spool.tell_archived(&other, &site.archived()).unwrap();
        site.spool.tell_all_refused(&failure).unwrap();
        let known = site.spool.tidy(&BTreeSet::from([site.file])).unwrap();
        assert_eq!(known, BTreeMap::from([(site.file, site.archived())]));
        assert_eq!(site.spool.archived(&other), None);
        assert_eq!(site.spool.refused(&other), []);
        std::fs::write(site.spool.path(FILE, OK), "{\"mark\":").unwrap();
        assert_eq!(site.spool.archived(&site.file), None);
    }
}
