//! The SFTP back end against a real sshd: as a store like any other, and where it is like no other.

mod support;

use bytes::Bytes;
use pgconvoy_core::failure::Classify as _;
use pgconvoy_storage::decorate::retry::{RetryPolicy, RetryStorage};
use pgconvoy_storage::{
    Feature, IoAction, ObjectKey, PutMode, Storage, StorageError, conformance, list_all, list_children,
};
use pgconvoy_storage_sftp::{SftpOptions, SftpStorage};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};
use support::stores::large;
use support::stores::slow_link::SlowLink;
use support::stores::sshd::{Sshd, slow_flushes};
use support::{Context, Result, Scratch, ensure, limits};

const BODY: Bytes = Bytes::from_static(b"body");

/// A server with a directory for the test user on it.
struct Stage {
    sshd: Sshd,
    directory: PathBuf,
    _scratch: Scratch,
}

impl Stage {
    fn start() -> Result<Stage> {
        Stage::start_with("")
    }

    fn start_with(settings: &str) -> Result<Stage> {
        let scratch = Scratch::new()?;
        let sshd = Sshd::start_with(&scratch, settings)?;
        Ok(Stage { sshd, directory: scratch.private_dir("files")?, _scratch: scratch })
    }

    fn options_at(&self, at: SocketAddr) -> Result<SftpOptions> {
        Ok(SftpOptions {
            host: at.ip().to_string(),
            port: at.port(),
            user: self.sshd.user().to_owned(),
            private_key_file: self.own(&self.sshd.client_key())?,
            private_key_passphrase: None,
            known_hosts_file: None,
            host_fingerprint: Some(self.sshd.fingerprint("host_ed25519")?),
            path: self.directory.join("store").display().to_string(),
            creates_path: true,
        })
    }

    fn options(&self) -> Result<SftpOptions> {
        self.options_at(self.sshd.address())
    }

    fn store(&self) -> Result<SftpStorage> {
        Ok(SftpStorage::new(self.options()?))
    }

    /// Keys belong to the test user; these tests log in as whoever runs them.
    fn own(&self, key: &Path) -> Result<PathBuf> {
        use std::os::unix::fs::{MetadataExt as _, chown};
        let me = rustix::process::geteuid().as_raw();
        if key.metadata()?.uid() != me {
            chown(key, Some(me), None).context("chown")?;
        }
        Ok(key.to_owned())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.join("store").join(name)
    }

    /// All names below the store, temporary ones too.
    fn names(&self) -> Vec<String> {
        names(&self.file(""))
    }
}

fn names(path: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().is_dir() {
            found.extend(names(&entry.path()).iter().map(|below| format!("{name}/{below}")));
        }
        found.push(name);
    }
    found.sort();
    found
}

fn key(text: &str) -> ObjectKey {
    text.parse().expect("a valid key")
}

/// What a store says when it is asked for something that is not there.
async fn first_call(options: SftpOptions) -> Result<(), StorageError> {
    SftpStorage::new(options).stat(&key("nothing")).await.map(drop)
}

fn refusal(result: Result<(), StorageError>) -> Result<(StorageError, String)> {
    let error = result.err().context("it must be refused")?;
    let hint = error.hints().first().cloned().context("a hint")?;
    Ok((error, hint))
}

async fn is_a_store(
    stage: &Stage,
    at: SocketAddr,
    wrap: impl Fn(SftpStorage) -> Arc<dyn Storage>,
) -> Result<()> {
    let options = stage.options_at(at)?;
    let count = AtomicUsize::new(0);
    conformance::suite(async || {
        let number = count.fetch_add(1, Ordering::Relaxed);
        wrap(SftpStorage::new(SftpOptions { path: format!("{}{number}", options.path), ..options.clone() }))
    })
    .await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_sftp_server_is_a_store() -> Result<()> {
    let stage = Stage::start()?;
    is_a_store(&stage, stage.sshd.address(), |store| Arc::new(store)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_sftp_server_behind_retries_and_a_line_with_a_delay_is_a_store() -> Result<()> {
    let stage = Stage::start()?;
    let line = SlowLink::delaying(stage.sshd.address(), Duration::from_millis(1))?;
    let wrap =
        |store| Arc::new(RetryStorage::new(Arc::new(store), RetryPolicy::default())) as Arc<dyn Storage>;
    is_a_store(&stage, line.address(), wrap).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_server_that_allows_one_session_to_a_connection_is_a_store() -> Result<()> {
    let stage = Stage::start_with("MaxSessions 1\n")?;
    is_a_store(&stage, stage.sshd.address(), |store| Arc::new(store)).await
}

#[tokio::test]
async fn a_store_says_where_it_is_and_what_it_can_and_tells_no_secret() -> Result<()> {
    let stage = Stage::start()?;
    let secret = Some(pgconvoy_core::config::Secret::new("correct horse"));
    let options = SftpOptions { private_key_passphrase: secret, ..stage.options()? };
    let store = SftpStorage::new(options.clone());
    let (user, port) = (stage.sshd.user(), stage.sshd.address().port());
    assert_eq!(store.describe(), format!("sftp:{user}@127.0.0.1:{port}{}", options.path));
    store.put(&key("a"), PutMode::Create, BODY).await?;
    assert!(!format!("{store:?} {options:?}").contains("horse"));
    for feature in Feature::ALL {
        let is_lacking = matches!(feature, Feature::PlainFiles | Feature::BatchedDeletes);
        assert_eq!(store.features().has(*feature), !is_lacking, "{feature:?}");
    }
    let space = store.space().await?.context("space")?;
    assert!(0 < space.free && space.free <= space.total, "{space:?}");
    Ok(())
}

#[tokio::test]
async fn a_host_key_is_believed_by_file_or_fingerprint_whatever_its_kind() -> Result<()> {
    let stage = Stage::start()?;
    let options = stage.options()?;
    for kind in ["ed25519", "ecdsa", "rsa"] {
        let fingerprint = Some(stage.sshd.fingerprint(&format!("host_{kind}"))?);
        first_call(SftpOptions { host_fingerprint: fingerprint, ..options.clone() }).await.context(kind)?;
        let file = Some(stage.sshd.known_hosts(stage.sshd.address(), &[kind])?);
        let by_file =
            SftpOptions { host_fingerprint: None, known_hosts_file: file.clone(), ..options.clone() };
        first_call(by_file.clone()).await.context(kind)?;
        let hash = support::Program::new("ssh-keygen")?.args(["-q", "-H", "-f"]).arg(file.context("a file")?);
        hash.run(limits::TOOL)?.ok()?;
        first_call(by_file).await.context("hashed")?;
    }
    Ok(())
}

#[tokio::test]
async fn a_host_key_that_changed_is_unknown_or_has_another_fingerprint_is_refused() -> Result<()> {
    let stage = Stage::start()?;
    let options = stage.options()?;
    let shown = stage.sshd.fingerprint("host_ed25519")?;
    let (error, hint) = refusal(
        first_call(SftpOptions {
            host_fingerprint: Some(stage.sshd.fingerprint("client_key")?),
            ..options.clone()
        })
        .await,
    )?;
    assert!(error.to_string().contains(&shown) && hint.contains("in between"), "{error}\n{hint}");
    let (ip, port) = (options.host.as_str(), options.port);
    let other = stage.sshd.public_key("client_key")?;
    for (name, line, says, hints) in [
        ("changed", format!("# 1\n[{ip}]:{port} {other}"), "line 2 of", "replace line 2"),
        ("unknown", format!("elsewhere {other}"), "does not know", "ssh-keyscan -p"),
    ] {
        let file = Some(stage.sshd.write(name, &line)?);
        let by_file = SftpOptions { host_fingerprint: None, known_hosts_file: file, ..options.clone() };
        let (error, hint) = refusal(first_call(by_file).await)?;
        assert!(error.to_string().contains(says) && error.to_string().contains(&shown), "{error}");
        assert!(hint.contains(hints), "{hint}");
    }
    assert!(stage.names().is_empty(), "nothing was sent to a server that is not believed");
    Ok(())
}

#[tokio::test]
async fn keys_of_every_kind_log_in_and_a_stranger_learns_what_to_do() -> Result<()> {
    let stage = Stage::start()?;
    for kind in ["ed25519", "ecdsa", "rsa"] {
        let name = format!("user_{kind}");
        let file = stage.sshd.make_key(&name, &["-t", kind])?;
        let options = SftpOptions { private_key_file: stage.own(&file)?, ..stage.options()? };
        let (error, hint) = refusal(first_call(options.clone()).await)?;
        assert_eq!(error.code().number(), 105, "{error}");
        assert!(error.to_string().contains(&stage.sshd.fingerprint(&name)?), "{error}");
        assert!(hint.contains("authorized_keys"), "{hint}");
        stage.sshd.let_in(&name)?;
        first_call(options).await.context(kind)?;
    }
    Ok(())
}

#[tokio::test]
async fn a_server_that_is_not_there_may_be_tried_again_and_a_directory_that_is_not_there_is_absent()
-> Result<()> {
    let mut stage = Stage::start()?;
    let options = SftpOptions { creates_path: false, ..stage.options()? };
    let missing = first_call(options.clone()).await;
    assert!(matches!(missing, Err(StorageError::NotFound { .. })), "{missing:?}");
    stage.sshd.kill()?;
    let gone = first_call(options).await;
    assert!(matches!(gone, Err(StorageError::Unavailable { .. })), "{gone:?}");
    Ok(())
}

#[tokio::test]
async fn a_server_that_lacks_an_extension_is_refused_or_known_to_be_weaker() -> Result<()> {
    let stage = Stage::start_with("Subsystem sftp internal-sftp -P hardlink\n")?;
    let store = stage.store()?;
    let refused = store.put(&key("a"), PutMode::Create, BODY).await;
    assert!(
        matches!(&refused, Err(StorageError::NotSupported { reason, .. }) if reason.contains("hardlink")),
        "{refused:?}"
    );
    store.put(&key("a"), PutMode::Overwrite, BODY).await?;
    assert!(!store.features().has(Feature::CreateOnly));
    assert_eq!(stage.names(), ["a"]);

    let stage = Stage::start_with("Subsystem sftp internal-sftp -P posix-rename,fsync,statvfs,limits\n")?;
    let store = stage.store()?;
    store.put(&key("a/b"), PutMode::Create, BODY).await?;
    let refused = store.put(&key("a/b"), PutMode::Overwrite, BODY).await;
    assert!(matches!(refused, Err(StorageError::NotSupported { .. })), "{refused:?}");
    assert!(!store.features().has(Feature::DurablePut), "a server that cannot sync keeps no promise of it");
    assert_eq!((store.space().await?, store.get(&key("a/b"), 9).await?), (None, BODY));
    Ok(())
}

/// Within what the program allows for each step, a sync of all of it too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_object_comes_back_range_by_range() -> Result<()> {
    let stage = Stage::start()?;
    let store = RetryStorage::new(Arc::new(stage.store()?), RetryPolicy::default());
    large::comes_back_range_by_range(&store, &key("a"), large::Server::Elsewhere).await?;
    assert_eq!(stage.names(), ["a"]);
    Ok(())
}

/// A step has three seconds, the disk takes sixteen for all of it, and four where four sessions share it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_object_reaches_a_slow_disk_step_by_step_and_not_at_its_end() -> Result<()> {
    const BYTES: usize = 320 << 20;
    let scratch = Scratch::new()?;
    let sshd = Sshd::start_with(&scratch, &slow_flushes(&scratch, Duration::from_millis(50))?)?;
    let stage = Stage { sshd, directory: scratch.private_dir("files")?, _scratch: scratch };
    let store = RetryStorage::new(Arc::new(stage.store()?), RetryPolicy::within(Duration::from_secs(3)));
    let mut upload = store.begin(&key("a"), PutMode::Create).await?;
    let chunk = Bytes::from(vec![7; 1 << 20]);
    for _ in 0..BYTES / chunk.len() {
        upload.write(chunk.clone()).await?;
    }
    upload.finish().await?;
    let size = store.stat(&key("a")).await?.context("it is there")?.size;
    assert_eq!(size, u64::try_from(BYTES)?);
    Ok(())
}

#[tokio::test]
async fn no_put_leaves_a_temporary_file_whether_it_wins_loses_or_is_dropped() -> Result<()> {
    let stage = Stage::start()?;
    let store = stage.store()?;
    store.put(&key("a"), PutMode::Create, BODY).await?;
    assert!(store.put(&key("a"), PutMode::Create, BODY).await.is_err());
    store.put(&key("a"), PutMode::Overwrite, BODY).await?;
    let mut upload = store.begin(&key("b"), PutMode::Create).await?;
    upload.write(BODY).await?;
    assert_eq!(stage.names().len(), 2);
    drop(upload);
    store.begin(&key("b"), PutMode::Create).await?.abort().await;
    limits::wait_for("what was dropped to be removed", limits::SOON, || {
        Ok((stage.names() == ["a"]).then_some(()))
    })
}

#[tokio::test]
async fn a_link_or_a_pipe_below_the_root_is_an_error_and_never_followed_or_waited_for() -> Result<()> {
    use std::os::unix::fs::symlink;
    let stage = Stage::start()?;
    let store = stage.store()?;
    store.put(&key("a"), PutMode::Create, BODY).await?;
    let outside = stage.directory.join("outside");
    std::fs::create_dir(&outside)?;
    support::user::give(&outside)?;
    std::fs::write(outside.join("secret"), "secret")?;
    symlink(&outside, stage.file("link"))?;
    symlink(outside.join("secret"), stage.file("file"))?;
    let (mode, fifo) = (rustix::fs::Mode::from_raw_mode(0o644), rustix::fs::FileType::Fifo);
    rustix::fs::mknodat(rustix::fs::CWD, stage.file("pipe"), fifo, mode, 0)?;
    let refused = |result: Result<(), StorageError>| {
        assert!(matches!(result, Err(StorageError::Obstructed { .. })), "{result:?}");
    };
    for name in ["link/secret", "file", "pipe"] {
        refused(store.get(&key(name), 99).await.map(drop));
        refused(store.get_range(&key(name), 0..1).await.map(drop));
        refused(store.stat(&key(name)).await.map(drop));
    }
    refused(store.put(&key("link/new"), PutMode::Overwrite, BODY).await);
    refused(store.put(&key("link/new"), PutMode::Create, BODY).await);
    refused(store.delete(&key("link/secret")).await);
    refused(list_all(&store, Some(&key("link"))).await.map(drop));
    refused(list_all(&store, None).await.map(drop));
    limits::wait_for("nothing to be left behind the link", limits::SOON, || {
        Ok((names(&outside) == ["secret"]).then_some(()))
    })
}

#[tokio::test]
async fn directories_come_and_go_with_what_is_in_them() -> Result<()> {
    let stage = Stage::start()?;
    let store = stage.store()?;
    store.put(&key("a/b/c"), PutMode::Create, BODY).await?;
    store.put(&key("a/d"), PutMode::Create, BODY).await?;
    store.delete(&key("a/b/c")).await?;
    assert_eq!(stage.names(), ["a", "a/d"]);
    store.delete(&key("a/d")).await?;
    assert!(stage.names().is_empty());
    for mode in [PutMode::Create, PutMode::Overwrite] {
        std::fs::create_dir(stage.file("e"))?;
        store.put(&key("e"), mode, BODY).await.context("an empty directory gives way")?;
        store.delete(&key("e")).await?;
        store.put(&key("f/g"), PutMode::Overwrite, BODY).await?;
        let obstructed = store.put(&key("f"), mode, BODY).await;
        assert!(matches!(obstructed, Err(StorageError::Obstructed { .. })), "{obstructed:?}");
    }
    let below_a_file = store.put(&key("f/g/h"), PutMode::Create, BODY).await;
    assert!(matches!(below_a_file, Err(StorageError::Obstructed { .. })), "{below_a_file:?}");
    assert_eq!(store.stat(&key("f/g/h")).await?, None);
    std::fs::create_dir_all(stage.file("empty/deep"))?;
    std::fs::create_dir_all(stage.file(".snapshot/x"))?;
    assert_eq!(list_children(&store, None).await?.prefixes, [key("f")]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn puts_and_deletes_that_fight_over_a_directory_all_succeed() -> Result<()> {
    let stage = Stage::start()?;
    let store = stage.store()?;
    let fighters = (0..4).map(|fighter| {
        let store = store.clone();
        tokio::spawn(async move {
            let mine = key(&format!("a/b/{fighter}"));
            for _ in 0..20 {
                store.put(&mine, PutMode::Create, BODY).await?;
                ensure!(store.get(&mine, 9).await? == BODY);
                store.delete(&mine).await?;
            }
            Ok(())
        })
    });
    for fighter in fighters.collect::<Vec<_>>() {
        fighter.await??;
    }
    assert_eq!(list_all(&store, None).await?, []);
    Ok(())
}

#[tokio::test]
async fn a_root_that_went_away_is_not_an_empty_store() -> Result<()> {
    let stage = Stage::start()?;
    let store = stage.store()?;
    store.put(&key("a"), PutMode::Create, BODY).await?;
    std::fs::rename(stage.file(""), stage.directory.join("aside"))?;
    let lost = |result: Result<(), StorageError>| {
        assert!(matches!(result, Err(StorageError::Unavailable { .. })), "{result:?}");
    };
    lost(store.get(&key("b"), 9).await.map(drop));
    lost(store.stat(&key("b/c")).await.map(drop));
    lost(list_all(&store, Some(&key("b"))).await.map(drop));
    lost(store.delete(&key("b")).await);
    lost(store.put(&key("b"), PutMode::Create, BODY).await);
    assert_eq!(names(&stage.directory.join("aside")), ["a"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn ranges_of_an_object_that_others_replace_or_remove_are_of_what_is_there_now() -> Result<()> {
    let stage = Stage::start()?;
    let (reader, other) = (stage.store()?, stage.store()?);
    let object = key("a/b");
    let read = async |range| reader.get_range(&object, range).await;
    other.put(&object, PutMode::Create, Bytes::from_static(b"first")).await?;
    assert_eq!(read(0..2).await?, "fi");
    assert_eq!(read(2..5).await?, "rst");
    other.put(&object, PutMode::Overwrite, Bytes::from_static(b"another")).await?;
    assert_eq!(read(0..7).await?, "another");
    // As long as before, and as old as it may be: SFTP tells times in seconds.
    other.put(&object, PutMode::Overwrite, Bytes::from_static(b"a third")).await?;
    let later = SystemTime::now() + Duration::from_secs(2);
    std::fs::File::options().write(true).open(stage.file("a/b"))?.set_modified(later)?;
    assert_eq!(read(0..7).await?, "a third");
    std::fs::rename(stage.file("a/b"), stage.file("a/c"))?;
    std::os::unix::fs::symlink("c", stage.file("a/b"))?;
    let linked = read(0..7).await;
    assert!(linked.is_err(), "{linked:?}");
    std::fs::remove_file(stage.file("a/b"))?;
    let gone = read(0..7).await;
    assert!(matches!(gone, Err(StorageError::NotFound { .. })), "{gone:?}");
    assert_eq!(reader.get_range(&key("a/c"), 2..7).await?, "third");
    reader.delete(&key("a/c")).await?;
    let gone = reader.get_range(&key("a/c"), 2..7).await;
    assert!(matches!(gone, Err(StorageError::NotFound { .. })), "{gone:?}");
    Ok(())
}

#[tokio::test]
async fn a_sweep_takes_old_temporary_files_and_nothing_else() -> Result<()> {
    let stage = Stage::start()?;
    let store = stage.store()?;
    store.put(&key("a/b"), PutMode::Create, BODY).await?;
    std::fs::create_dir(stage.file("empty"))?;
    support::user::give(&stage.file("empty"))?;
    for name in [".pgconvoy-fresh", ".foreign", "a/.pgconvoy-old"] {
        std::fs::write(stage.file(name), "")?;
    }
    let two_hours = Duration::from_secs(7200);
    let old = std::fs::File::options().write(true).open(stage.file("a/.pgconvoy-old"))?;
    old.set_modified(SystemTime::now() - two_hours)?;
    assert_eq!(store.sweep_temporary(Some(&key("b")), two_hours / 2).await?, 0);
    assert_eq!(store.sweep_temporary(None, two_hours * 2).await?, 0);
    assert_eq!(store.sweep_temporary(None, two_hours / 2).await?, 1);
    assert_eq!(stage.names(), [".foreign", ".pgconvoy-fresh", "a", "a/b"]);
    let mut upload = store.begin(&key("c"), PutMode::Create).await?;
    upload.write(BODY).await?;
    assert_eq!(store.sweep_temporary(None, Duration::ZERO).await?, 2);
    let finished = upload.finish().await;
    assert!(matches!(finished, Err(StorageError::Io { action: IoAction::Publish, .. })), "{finished:?}");
    assert_eq!(store.stat(&key("c")).await?, None);
    Ok(())
}
