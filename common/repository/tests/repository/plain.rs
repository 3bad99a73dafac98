//! Repositories that keep files as such: what becomes one, and how an attempt's files get there.

use pgconvoy_core::config::Layout;
use pgconvoy_core::failure::{Classify, ErrorCode};
use pgconvoy_core::format::layout::PackName;
use pgconvoy_core::ids::{Attempt, PlanNumber, RepoKey, StanzaName, UnitId};
use pgconvoy_core::units::Timestamp;
use pgconvoy_repository::keys::KeySource;
use pgconvoy_repository::{Repository, RepositoryError, RepositorySettings};
use pgconvoy_storage::{MemoryStorage, PosixStorage, Storage};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const NOW: Timestamp = Timestamp(1_795_000_000_000);

fn settings(layout: Layout) -> RepositorySettings {
    RepositorySettings { number: RepoKey(1), secret: None, layout }
}

async fn create(
    storage: Arc<dyn Storage>,
    settings: &RepositorySettings,
) -> Result<Repository, RepositoryError> {
    Ok(Repository::open_or_create(storage, settings, NOW).await?.0)
}

#[tokio::test]
async fn only_a_directory_without_a_cipher_can_keep_files_as_such() {
    let refused = create(Arc::new(MemoryStorage::new()), &settings(Layout::Plain)).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::RepoInvalid, "{refused}");
    assert!(refused.hints()[0].contains("posix"), "{:?}", refused.hints());
    let folder = tempfile::tempdir().unwrap();
    let storage = || Arc::new(PosixStorage::open(folder.path()).unwrap());
    let secret = Some(KeySource::KeyFile("/nowhere".into()));
    let encrypted = RepositorySettings { secret, ..settings(Layout::Plain) };
    let refused = create(storage(), &encrypted).await.unwrap_err();
    assert!(matches!(refused, RepositoryError::PlainAndEncrypted { .. }), "{refused}");
    assert!(std::fs::read_dir(folder.path()).unwrap().next().is_none(), "nothing was made of it");
    create(storage(), &settings(Layout::Plain)).await.unwrap();
}

#[tokio::test]
async fn a_repository_keeps_the_layout_that_it_was_made_with() {
    for (made, told) in [(Layout::Plain, Layout::Packed), (Layout::Packed, Layout::Plain)] {
        let folder = tempfile::tempdir().unwrap();
        let storage = || Arc::new(PosixStorage::open(folder.path()).unwrap());
        create(storage(), &settings(made)).await.unwrap();
        let refused = Repository::open(storage(), &settings(told)).await.unwrap_err();
        assert!(matches!(refused, RepositoryError::OtherLayout { .. }), "{refused}");
        assert!(refused.hints()[0].contains(&format!("layout = \"{made}\"")), "{:?}", refused.hints());
        let opened = Repository::open(storage(), &settings(made)).await.unwrap();
        assert_eq!(opened.plain().is_some(), made == Layout::Plain);
    }
}

struct Attempts {
    folder: tempfile::TempDir,
    repository: Repository,
    stanza: StanzaName,
}

impl Attempts {
    async fn new() -> Attempts {
        let folder = tempfile::tempdir().unwrap();
        let storage = Arc::new(PosixStorage::open(folder.path()).unwrap());
        let repository = create(storage, &settings(Layout::Plain)).await.unwrap();
        // As a plan makes it.
        std::fs::create_dir_all(folder.path().join("main/backup")).unwrap();
        Attempts { folder, repository, stanza: "main".parse().unwrap() }
    }

    fn pack(attempt: u32) -> PackName {
        PackName {
            label: "20261122-103000F".parse().unwrap(),
            plan: PlanNumber(1),
            unit: UnitId(3),
            attempt: Attempt(attempt),
        }
    }

    /// One file, in two pieces.
    fn store(&self, attempt: u32, content: &[u8], same: Option<PackName>) -> Result<u64, RepositoryError> {
        let mut files = self.repository.plain_attempt(&self.stanza, Self::pack(attempt)).unwrap();
        let (begin, end) = content.split_at(content.len() / 2);
        files.append("base/1/2", begin)?;
        files.append("base/1/2", end)?;
        files.end_file(same)?;
        files.finish()
    }

    fn path(&self, attempt: u32) -> PathBuf {
        self.folder.path().join(Self::pack(attempt).files(&self.stanza)).join("base/1/2")
    }
}

fn inode(path: &Path) -> u64 {
    path.metadata().unwrap().ino()
}

#[tokio::test]
async fn a_file_is_written_once_and_never_again() {
    let attempts = Attempts::new().await;
    assert_eq!(attempts.store(1, b"words", None).unwrap(), 5);
    let path = attempts.path(1);
    assert_eq!(std::fs::read(&path).unwrap(), b"words");
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o440);
    attempts.store(1, b"other", None).unwrap_err();
    assert_eq!(std::fs::read(&path).unwrap(), b"words");
}

#[tokio::test]
async fn the_same_content_becomes_a_link_and_is_not_stored_twice() {
    let attempts = Attempts::new().await;
    attempts.store(1, b"words", None).unwrap();
    assert_eq!(attempts.store(2, b"words", Some(Attempts::pack(1))).unwrap(), 0);
    assert_eq!(inode(&attempts.path(1)), inode(&attempts.path(2)));
    let beside = std::fs::read_dir(attempts.path(2).parent().unwrap()).unwrap();
    assert_eq!(beside.count(), 1, "no other name is left");
}

#[tokio::test]
async fn what_cannot_be_linked_stays_as_it_was_written() {
    let attempts = Attempts::new().await;
    attempts.store(1, b"cut", None).unwrap();
    for (attempt, of) in [(2, 1), (3, 9)] {
        assert_eq!(attempts.store(attempt, b"words", Some(Attempts::pack(of))).unwrap(), 5);
        assert_eq!(std::fs::read(attempts.path(attempt)).unwrap(), b"words");
    }
}

#[tokio::test]
async fn no_path_leads_out_of_an_attempt_and_nothing_is_made_where_the_repository_is_gone() {
    let attempts = Attempts::new().await;
    for path in ["../out", "/out", "a/../../out", ""] {
        let mut files = attempts.repository.plain_attempt(&attempts.stanza, Attempts::pack(1)).unwrap();
        files.append(path, b"x").unwrap_err();
    }
    std::fs::remove_dir_all(attempts.folder.path().join("main")).unwrap();
    attempts.store(1, b"words", None).unwrap_err();
    assert!(!attempts.folder.path().join("main").exists());
}
