#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use super::*;
use crate::decorate::retry::{RetryPolicy, RetryStorage};
use crate::{conformance, list_all, list_children};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::atomic::{AtomicUsize, Ordering};
use temporary::TEMPORARY_PREFIX;

fn key(text: &str) -> ObjectKey {
    text.parse().unwrap()
}

const BODY: Bytes = Bytes::from_static(b"body");

struct Dir {
    storage: PosixStorage,
    path: std::path::PathBuf,
    _guard: tempfile::TempDir,
}

fn dir() -> Dir {
    let guard = tempfile::tempdir().unwrap();
    let path = guard.path().join("store");
    Dir { storage: PosixStorage::create(&path).unwrap(), path, _guard: guard }
}

/// All names below a directory, temporary ones too.
fn names(path: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if entry.file_type().unwrap().is_dir() {
            names.extend(self::names(&entry.path()).iter().map(|below| format!("{name}/{below}")));
        }
        names.push(name);
    }
    names.sort();
    names
}

async fn run_suite(prepare: impl Fn(PosixStorage) -> Arc<dyn Storage>) {
    let guard = tempfile::tempdir().unwrap();
    let count = AtomicUsize::new(0);
    conformance::suite(async || {
        let number = count.fetch_add(1, Ordering::Relaxed);
        prepare(PosixStorage::create(&guard.path().join(number.to_string())).unwrap())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_directory_is_a_store() {
    run_suite(|storage| Arc::new(storage)).await;
}

#[tokio::test]
async fn a_directory_copies_by_itself() {
    let guard = tempfile::tempdir().unwrap();
    let count = AtomicUsize::new(0);
    conformance::copies(async || {
        let number = count.fetch_add(1, Ordering::Relaxed);
        Arc::new(PosixStorage::create(&guard.path().join(number.to_string())).unwrap()) as Arc<dyn Storage>
    })
    .await;
}

#[tokio::test]
async fn a_copy_is_a_file_of_its_own_in_another_directory_of_the_filesystem() {
    let (from, to) = (dir(), dir());
    from.storage.put(&key("a/b"), PutMode::Create, BODY).await.unwrap();
    let object = from.storage.stat(&key("a/b")).await.unwrap().unwrap();
    let origin = from.storage.origin().unwrap();
    assert!(to.storage.copies_from(origin).is_some());
    to.storage.copy(origin, &object, &key("c/d")).await.unwrap();
    fs::write(from.path.join("a/b"), b"text").unwrap();
    assert_eq!(to.storage.get(&key("c/d"), 9).await, Ok(BODY));
    assert_eq!(names(&to.path), ["c", "c/d"], "nothing temporary is left");
    let refused = to.storage.copy(origin, &object, &key("c/e")).await;
    assert!(matches!(refused, Err(StorageError::Changed { .. })), "written to in its place: {refused:?}");
    assert_eq!(names(&to.path), ["c", "c/d"]);
}

#[tokio::test]
async fn another_filesystem_is_no_place_to_copy_from() {
    let here = dir();
    // Of its own wherever Linux runs.
    let there = PosixStorage::open(Path::new("/proc")).unwrap();
    assert_eq!(here.storage.copies_from(there.origin().unwrap()), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_directory_on_a_filesystem_that_only_has_links_is_a_store() {
    run_suite(|storage| {
        storage.root.has_rename_noreplace.store(false, Ordering::Relaxed);
        Arc::new(storage)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_directory_behind_retries_is_a_store() {
    run_suite(|storage| Arc::new(RetryStorage::new(Arc::new(storage), RetryPolicy::default()))).await;
}

#[tokio::test]
async fn files_and_directories_are_not_for_others() {
    let dir = dir();
    dir.storage.put(&key("a/b"), PutMode::Create, BODY).await.unwrap();
    let mode = |name| fs::metadata(dir.path.join(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode("a") & !0o750, 0);
    assert_eq!(mode("a/b") & !0o640, 0);
    assert_eq!(mode("a/b") & 0o600, 0o600);
}

#[tokio::test]
async fn no_put_leaves_a_temporary_file_whether_it_wins_loses_or_is_dropped() {
    for has_rename in [true, false] {
        let dir = dir();
        dir.storage.root.has_rename_noreplace.store(has_rename, Ordering::Relaxed);
        dir.storage.put(&key("a"), PutMode::Create, BODY).await.unwrap();
        assert!(dir.storage.put(&key("a"), PutMode::Create, BODY).await.is_err());
        dir.storage.put(&key("a"), PutMode::Overwrite, BODY).await.unwrap();
        let mut upload = dir.storage.begin(&key("b"), PutMode::Create).await.unwrap();
        upload.write(BODY).await.unwrap();
        assert_eq!(names(&dir.path).len(), 2);
        drop(upload);
        dir.storage.begin(&key("b"), PutMode::Create).await.unwrap().abort().await;
        assert_eq!(names(&dir.path), ["a"]);
    }
}

#[tokio::test]
async fn a_symbolic_link_below_the_root_is_an_error_for_every_call() {
    let dir = dir();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "secret").unwrap();
    symlink(outside.path(), dir.path.join("link")).unwrap();
    symlink(outside.path().join("secret"), dir.path.join("file")).unwrap();
    let refused = |result: Result<(), StorageError>| {
        assert!(matches!(result, Err(StorageError::Obstructed { .. })), "{result:?}");
    };
    for name in ["link/secret", "file"] {
        refused(dir.storage.get(&key(name), 99).await.map(drop));
        refused(dir.storage.get_range(&key(name), 0..1).await.map(drop));
        refused(dir.storage.stat(&key(name)).await.map(drop));
    }
    refused(dir.storage.put(&key("link/new"), PutMode::Overwrite, BODY).await);
    refused(dir.storage.delete(&key("link/secret")).await);
    refused(list_all(&dir.storage, Some(&key("link"))).await.map(drop));
    refused(list_all(&dir.storage, None).await.map(drop));
    assert_eq!(names(outside.path()), ["secret"]);
}

#[tokio::test]
async fn a_put_onto_a_symbolic_link_replaces_the_link_and_not_what_it_points_to() {
    let dir = dir();
    let outside = tempfile::tempdir().unwrap();
    let secret = outside.path().join("secret");
    fs::write(&secret, "secret").unwrap();
    symlink(&secret, dir.path.join("file")).unwrap();
    let created = dir.storage.put(&key("file"), PutMode::Create, BODY).await;
    assert!(matches!(created, Err(StorageError::AlreadyExists { .. })), "{created:?}");
    dir.storage.put(&key("file"), PutMode::Overwrite, BODY).await.unwrap();
    assert_eq!(fs::read(&secret).unwrap(), b"secret");
    assert_eq!(dir.storage.get(&key("file"), 99).await, Ok(BODY));
}

#[tokio::test]
async fn what_is_neither_file_nor_directory_is_an_error_and_never_waited_for() {
    let dir = dir();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        dir.path.join("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    let got = dir.storage.get(&key("pipe"), 99).await;
    assert!(matches!(got, Err(StorageError::Obstructed { .. })), "{got:?}");
    let listed = list_all(&dir.storage, None).await;
    assert!(matches!(listed, Err(StorageError::Obstructed { .. })), "{listed:?}");
}

#[tokio::test]
async fn names_that_are_no_keys_and_empty_directories_are_not_listed() {
    let dir = dir();
    fs::create_dir_all(dir.path.join("empty/deep")).unwrap();
    fs::create_dir_all(dir.path.join(".snapshot/x")).unwrap();
    fs::write(dir.path.join(".snapshot/x/y"), "").unwrap();
    fs::write(dir.path.join(format!("{TEMPORARY_PREFIX}0")), "").unwrap();
    fs::create_dir_all(dir.path.join("lost+found")).unwrap();
    fs::write(dir.path.join("lost+found/#12"), "").unwrap();
    dir.storage.put(&key("a/b"), PutMode::Create, BODY).await.unwrap();
    let children = list_children(&dir.storage, None).await.unwrap();
    assert_eq!((children.objects.len(), children.prefixes), (0, vec![key("a")]));
    assert_eq!(list_all(&dir.storage, None).await.unwrap().len(), 1);
}

#[tokio::test]
async fn an_empty_directory_in_an_objects_place_gives_way_and_a_full_one_does_not() {
    let dir = dir();
    for mode in [PutMode::Create, PutMode::Overwrite] {
        fs::create_dir(dir.path.join("a")).unwrap();
        dir.storage.put(&key("a"), mode, BODY).await.unwrap();
        dir.storage.delete(&key("a")).await.unwrap();
        dir.storage.put(&key("b/c"), PutMode::Overwrite, BODY).await.unwrap();
        let obstructed = dir.storage.put(&key("b"), mode, BODY).await;
        assert!(matches!(obstructed, Err(StorageError::Obstructed { .. })), "{obstructed:?}");
    }
    let below_a_file = dir.storage.put(&key("b/c/d"), PutMode::Create, BODY).await;
    assert!(matches!(below_a_file, Err(StorageError::Obstructed { .. })), "{below_a_file:?}");
    assert_eq!(dir.storage.stat(&key("b/c/d")).await, Ok(None));
}

#[tokio::test]
async fn deleting_the_last_object_of_a_directory_removes_it_and_a_put_makes_it_again() {
    let dir = dir();
    dir.storage.put(&key("a/b/c"), PutMode::Create, BODY).await.unwrap();
    dir.storage.put(&key("a/d"), PutMode::Create, BODY).await.unwrap();
    dir.storage.delete(&key("a/b/c")).await.unwrap();
    assert_eq!(names(&dir.path), ["a", "a/d"]);
    dir.storage.delete(&key("a/d")).await.unwrap();
    assert_eq!(names(&dir.path), Vec::<String>::new());
    dir.storage.put(&key("a/b/c"), PutMode::Create, BODY).await.unwrap();
    assert_eq!(dir.storage.get(&key("a/b/c"), 9).await, Ok(BODY));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn puts_and_deletes_that_fight_over_a_directory_all_succeed() {
    let dir = dir();
    let fighters = (0..4).map(|fighter| {
        let storage = dir.storage.clone();
        tokio::spawn(async move {
            let mine = key(&format!("a/b/{fighter}"));
            for _ in 0..50 {
                storage.put(&mine, PutMode::Create, BODY).await.unwrap();
                assert_eq!(storage.get(&mine, 9).await, Ok(BODY));
                storage.delete(&mine).await.unwrap();
            }
        })
    });
    for fighter in fighters.collect::<Vec<_>>() {
        fighter.await.unwrap();
    }
    assert_eq!(list_all(&dir.storage, None).await, Ok(vec![]));
}

#[tokio::test]
async fn a_root_that_went_away_is_not_an_empty_store() {
    let dir = dir();
    dir.storage.put(&key("a"), PutMode::Create, BODY).await.unwrap();
    let aside = dir.path.with_file_name("aside");
    fs::rename(&dir.path, &aside).unwrap();
    for put_another_in_its_place in [false, true] {
        if put_another_in_its_place {
            fs::create_dir(&dir.path).unwrap();
        }
        let lost = |result: Result<(), StorageError>| {
            assert!(matches!(result, Err(StorageError::Unavailable { .. })), "{result:?}");
        };
        lost(dir.storage.get(&key("b"), 9).await.map(drop));
        lost(dir.storage.stat(&key("b/c")).await.map(drop));
        lost(list_all(&dir.storage, Some(&key("b"))).await.map(drop));
        lost(dir.storage.delete(&key("b")).await);
        lost(dir.storage.put(&key("b"), PutMode::Create, BODY).await);
    }
    assert_eq!(names(&aside), ["a"]);
}

#[tokio::test]
async fn a_root_that_is_not_there_does_not_open() {
    let dir = dir();
    let missing = PosixStorage::open(&dir.path.join("missing"));
    assert!(matches!(missing, Err(StorageError::NotFound { .. })), "{missing:?}");
    fs::write(dir.path.join("file"), "").unwrap();
    let file = PosixStorage::open(&dir.path.join("file"));
    assert!(matches!(file, Err(StorageError::Obstructed { .. })), "{file:?}");
    PosixStorage::create(&dir.path.join("x/y/z")).unwrap();
}

#[tokio::test]
async fn a_sweep_takes_old_temporary_files_and_nothing_else() {
    let dir = dir();
    dir.storage.put(&key("a/b"), PutMode::Create, BODY).await.unwrap();
    fs::create_dir(dir.path.join("empty")).unwrap();
    let old = dir.path.join("a").join(format!("{TEMPORARY_PREFIX}old"));
    let fresh = dir.path.join(format!("{TEMPORARY_PREFIX}fresh"));
    fs::write(&fresh, "").unwrap();
    fs::write(dir.path.join(".foreign"), "").unwrap();
    let two_hours = Duration::from_secs(7200);
    let file = fs::File::create(&old).unwrap();
    file.set_modified(SystemTime::now() - two_hours).unwrap();
    assert_eq!(dir.storage.sweep_temporary(Some(&key("b")), two_hours / 2).await, Ok(0));
    assert_eq!(dir.storage.sweep_temporary(None, two_hours * 2).await, Ok(0));
    assert_eq!(dir.storage.sweep_temporary(None, two_hours / 2).await, Ok(1));
    let left = names(&dir.path);
    assert_eq!(left, [".foreign", &format!("{TEMPORARY_PREFIX}fresh"), "a", "a/b"]);
}

#[tokio::test]
async fn an_upload_whose_temporary_file_was_swept_fails_and_publishes_nothing() {
    let dir = dir();
    let mut upload = dir.storage.begin(&key("a"), PutMode::Create).await.unwrap();
    upload.write(BODY).await.unwrap();
    assert_eq!(dir.storage.sweep_temporary(None, Duration::ZERO).await, Ok(1));
    let finished = upload.finish().await;
    assert!(matches!(finished, Err(StorageError::Io { action: IoAction::Publish, .. })), "{finished:?}");
    assert_eq!(dir.storage.stat(&key("a")).await, Ok(None));
}

#[tokio::test]
async fn a_file_that_shrinks_while_it_is_read_is_truncated() {
    let dir = dir();
    fs::write(dir.path.join("a"), "12345").unwrap();
    let (file, _) = dir.storage.root.open_object(&key("a")).unwrap();
    let read = dir.storage.root.read(&key("a"), &file, 0..9);
    assert!(matches!(read, Err(StorageError::Truncated { size: 5, wanted: 9, .. })), "{read:?}");
}
