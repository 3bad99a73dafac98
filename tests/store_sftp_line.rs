//! The SFTP back end over lines that are long or break, and over servers that die.

mod support;

use bytes::Bytes;
use pgconvoy_core::failure::{Classify as _, Retry};
use pgconvoy_storage::decorate::retry::{RetryPolicy, RetryStorage};
use pgconvoy_storage::{ObjectKey, PutMode, Storage, StorageError, list_all};
use pgconvoy_storage_sftp::{SftpOptions, SftpStorage};
use std::net::SocketAddr;
use std::os::unix::fs::chown;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use support::stores::slow_link::{Line, SlowLink};
use support::stores::sshd::Sshd;
use support::{Context, Result, Scratch, ensure, limits, note};

/// Each way, so a question and its answer take twice that.
const DELAY: Duration = Duration::from_millis(25);
const LARGE_BYTES: usize = 64 << 20;
/// A gigabit. On loopback alone an object takes less time than the few questions that no store can do without.
const BANDWIDTH: u64 = 100 << 20;
/// The best of several counts, since others use the machine too; the first one also makes sessions.
const ROUNDS: usize = 4;

fn key(text: &str) -> ObjectKey {
    text.parse().expect("a valid key")
}

fn store_at(scratch: &Scratch, sshd: &Sshd, at: SocketAddr) -> Result<SftpStorage> {
    let private_key_file = sshd.client_key();
    chown(&private_key_file, Some(rustix::process::geteuid().as_raw()), None)?;
    let files = scratch.join("files");
    if !files.exists() {
        scratch.private_dir("files")?;
    }
    Ok(SftpStorage::new(SftpOptions {
        host: at.ip().to_string(),
        port: at.port(),
        user: sshd.user().to_owned(),
        private_key_file,
        private_key_passphrase: None,
        known_hosts_file: None,
        host_fingerprint: Some(sshd.fingerprint("host_ed25519")?),
        path: files.display().to_string(),
        creates_path: false,
    }))
}

/// Bytes that repeat at no power of two.
fn pattern(length: usize) -> Bytes {
    (0..=250u8).cycle().take(length).collect()
}

async fn upload(store: &dyn Storage, to: &ObjectKey, body: &Bytes) -> Result<(), StorageError> {
    let mut upload = store.begin(to, PutMode::Create).await?;
    let mut rest = body.clone();
    while !rest.is_empty() {
        upload.write(rest.split_to(rest.len().min(1 << 20))).await?;
    }
    upload.finish().await
}

/// The best times for an upload and a download.
async fn measure(store: &dyn Storage, body: &Bytes) -> Result<(Duration, Duration)> {
    let size = u64::try_from(body.len())?;
    // So that the directory stays when the large object goes.
    store.put(&key("dir/small"), PutMode::Overwrite, Bytes::from_static(b"small")).await?;
    let mut best = (Duration::MAX, Duration::MAX);
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        upload(store, &key("dir/large"), body).await?;
        let uploaded = begun.elapsed();
        let begun = Instant::now();
        let got = store.get_range(&key("dir/large"), 0..size).await?;
        let downloaded = begun.elapsed();
        ensure!(got == *body, "all bytes come back");
        store.delete(&key("dir/large")).await?;
        best = (best.0.min(uploaded), best.1.min(downloaded));
    }
    Ok(best)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gigabit_line_of_fifty_milliseconds_keeps_half_of_its_throughput() -> Result<()> {
    let scratch = Scratch::new()?;
    let sshd = Sshd::start(&scratch)?;
    let body = pattern(LARGE_BYTES);
    let line = |delay| SlowLink::before(sshd.address(), Line { delay, bandwidth: Some(BANDWIDTH) });
    let (near, far) = (line(Duration::ZERO)?, line(DELAY)?);
    let (near_up, near_down) = measure(&store_at(&scratch, &sshd, near.address())?, &body).await?;
    let (far_up, far_down) = measure(&store_at(&scratch, &sshd, far.address())?, &body).await?;
    let rate = |took: Duration| 64.0 / took.as_secs_f64();
    let (up, down) =
        (near_up.as_secs_f64() / far_up.as_secs_f64(), near_down.as_secs_f64() / far_down.as_secs_f64());
    note(format!("upload {:.0} MiB/s near, {:.0} MiB/s far: {up:.2}", rate(near_up), rate(far_up)));
    note(format!("download {:.0} MiB/s near, {:.0} MiB/s far: {down:.2}", rate(near_down), rate(far_down)));
    let far = SlowLink::delaying(sshd.address(), DELAY)?;
    for (name, at) in [("loopback", sshd.address()), ("loopback with the delay", far.address())] {
        let (up, down) = measure(&store_at(&scratch, &sshd, at)?, &body).await?;
        note(format!("{name}: upload {:.0} MiB/s, download {:.0} MiB/s", rate(up), rate(down)));
    }
    ensure!(up >= 0.5 && down >= 0.5, "upload {up:.2}, download {down:.2} of the throughput without a delay");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_dies_in_mid_upload_publishes_nothing_and_is_swept_when_it_is_back() -> Result<()> {
    let scratch = Scratch::new()?;
    let mut sshd = Sshd::start(&scratch)?;
    let store = store_at(&scratch, &sshd, sshd.address())?;
    let body = pattern(16 << 20);
    upload(&store, &key("dir/before"), &body).await?;
    let mut lost = store.begin(&key("dir/lost"), PutMode::Create).await?;
    lost.write(body.clone()).await?;
    sshd.kill()?;
    let error = match lost.write(body.clone()).await {
        Ok(()) => lost.finish().await.err().context("an upload to a dead server must fail")?,
        Err(error) => error,
    };
    ensure!(
        matches!(error, StorageError::Unavailable { .. }) && error.retry() == Retry::MayHelp,
        "{error:?}"
    );
    sshd.restart()?;
    // Another connection to the server that died may not have heard of its end yet.
    let store = RetryStorage::new(Arc::new(store), RetryPolicy::default());
    let listed: Vec<_> = list_all(&store, None).await?.into_iter().map(|info| info.key).collect();
    ensure!(listed == [key("dir/before")], "half published: {listed:?}");
    ensure!(temporary_files(&scratch.join("files/dir")) == 1, "what the server could not remove");
    ensure!(store.sweep_temporary(None, Duration::ZERO).await? == 1);
    ensure!(temporary_files(&scratch.join("files/dir")) == 0);
    upload(&store, &key("dir/lost"), &body).await?;
    ensure!(store.get(&key("dir/lost"), 16 << 20).await? == body);
    Ok(())
}

fn temporary_files(directory: &Path) -> usize {
    let names = std::fs::read_dir(directory).into_iter().flatten().flatten();
    names.filter(|entry| entry.file_name().to_string_lossy().starts_with(".pgconvoy-")).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_whose_connection_breaks_go_on_with_another_one() -> Result<()> {
    let scratch = Scratch::new()?;
    let sshd = Sshd::start(&scratch)?;
    let line = SlowLink::delaying(sshd.address(), Duration::from_millis(1))?;
    let store = store_at(&scratch, &sshd, line.address())?;
    let store = Arc::new(RetryStorage::new(Arc::new(store), RetryPolicy::default()));
    let (body, stored) = (pattern(100_000), Arc::new(AtomicUsize::new(0)));
    let writer = |number: usize| {
        let (store, body, stored) = (store.clone(), body.clone(), stored.clone());
        tokio::spawn(async move {
            for round in 0..10 {
                let to = key(&format!("a/{number}/{round}"));
                store.put(&to, PutMode::Create, body.clone()).await?;
                ensure!(store.get(&to, 100_000).await? == body);
                stored.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        })
    };
    let writers: Vec<_> = (0..4).map(writer).collect();
    for cut in 1..=6 {
        limits::wait_for("some more objects", limits::SOON, || {
            let is_over = writers.iter().all(|writer| writer.is_finished());
            Ok((is_over || stored.load(Ordering::Relaxed) >= cut * 5).then_some(()))
        })?;
        line.cut();
    }
    for writer in writers {
        writer.await??;
    }
    ensure!(list_all(&*store, None).await?.len() == 40);
    Ok(())
}
