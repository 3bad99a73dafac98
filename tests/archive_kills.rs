//! SIGKILL at random moments of archive-push and archive-get, in the foreground and in the background: nothing is reported
//! that is not whole where it must be, and nothing is handed out that is not whole.
//!
//! The seed is printed and can be given again; `PGCONVOY_KILL_ROUNDS` asks for the long form.

mod support;

use rustix::process::{Pid, Signal};
use std::path::Path;
use std::time::Duration;
use support::wal::SEGMENT_MIB;
use support::{
    ClusterOptions, Context, FakeArchiver, Finished, Program, Random, Result, Running, Site, SiteOptions,
    ensure, files, note,
};

const ROUNDS: u32 = 100;
const ROUNDS_VARIABLE: &str = "PGCONVOY_KILL_ROUNDS";
/// Segments that wait beside the one that is pushed.
const WAITING: u32 = 5;

fn rounds() -> Result<u32> {
    match std::env::var(ROUNDS_VARIABLE) {
        Ok(text) => text.parse().with_context(|| format!("{ROUNDS_VARIABLE}={text}")),
        Err(_) => Ok(ROUNDS),
    }
}

fn site(is_async: bool) -> Result<Site> {
    let cluster = ClusterOptions { wal_segment_mib: SEGMENT_MIB, ..ClusterOptions::default() };
    let options = SiteOptions { cluster, without_data: true, ..SiteOptions::default() };
    let mut site = Site::start_with(&options)?;
    site.config = site
        .config
        .clone()
        .backup("archive-async", if is_async { "true" } else { "false" })
        .backup("archive-get-queue-max", "\"8MiB\"");
    site.config.write(&site.scratch.config_file())?;
    Ok(site)
}

/// Twice as long as an undisturbed command takes, so that about half of them live.
fn span_of(undisturbed: &Finished) -> Duration {
    2 * undisturbed.elapsed
}

/// That stays so though the machine becomes slower or faster.
fn adjusted(span: Duration, has_lived: bool) -> Duration {
    if has_lived { span - span / 10 } else { span + span / 10 }
}

/// The process that holds the lock, by its number in the lock file. It need not live any more.
fn kill_background(site: &Site, command: &str) -> Result<bool> {
    let lock = site.scratch.join(&format!("lock/main-{command}-background.lock"));
    let Ok(text) = std::fs::read_to_string(lock) else { return Ok(false) };
    let Some(pid) =
        text.split_whitespace().nth(1).and_then(|number| number.parse().ok()).and_then(Pid::from_raw)
    else {
        return Ok(false);
    };
    let of_ours = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let is_ours = of_ours.contains(&site.scratch.path().display().to_string());
    Ok(is_ours && rustix::process::kill_process(pid, Signal::KILL).is_ok())
}

#[test]
fn no_segment_is_reported_that_is_not_whole_in_every_required_repository() -> Result<()> {
    for is_async in [true, false] {
        note(format!("asynchronous: {is_async}"));
        let site = site(is_async)?;
        let archiver = FakeArchiver::of(&site)?;
        let mut random = Random::from_environment()?;
        (1..=WAITING).try_for_each(|number| archiver.fill(number))?;
        let mut span = span_of(&archiver.archive(&site.pgconvoy, 1)?.ok()?);
        archiver.fill(1 + WAITING)?;
        let (mut number, mut killed) = (2, 0);
        for _ in 0..rounds()? {
            let finished = push(&site, &archiver, number)?.kill_after(random.moment_within(span))?;
            if random.below(3) == 0 && kill_background(&site, "archive-push")? {
                killed += 1;
            }
            ensure!(finished.code.is_none_or(|code| code == 0), "it failed before it was killed\n{finished}");
            span = adjusted(span, finished.code == Some(0));
            if finished.code == Some(0) {
                is_whole_everywhere(&site, &archiver, number)?;
                archiver.recycle(number)?;
                number += 1;
                archiver.fill(number + WAITING - 1)?;
            }
        }
        note(format!("{} segments were archived, {killed} background processes killed", number - 1));
        ensure!(number > 3, "hardly any push lived: the span is too short");
        // Whoever is left finishes the rest.
        for number in number..number + WAITING {
            archiver.archive(&site.pgconvoy, number)?.ok()?;
            is_whole_everywhere(&site, &archiver, number)?;
        }
        site.pgconvoy.run(["verify"])?.ok()?;
    }
    Ok(())
}

fn push(site: &Site, archiver: &FakeArchiver, number: u32) -> Result<Running> {
    let path = Path::new("pg_wal").join(FakeArchiver::name(number));
    let call: Program = site.pgconvoy.call([Path::new("archive-push"), &path])?;
    call.current_dir(archiver.data()).start()
}

fn is_whole_everywhere(site: &Site, archiver: &FakeArchiver, number: u32) -> Result<()> {
    for repository in [1, 2] {
        let fetched = site.scratch.join("fetched");
        let alone = site.only_repos(&[repository])?;
        let get = alone.archive_get(
            archiver.data(),
            &FakeArchiver::name(number),
            &fetched,
            &["--no-archive-async"],
        )?;
        get.ok()
            .with_context(|| format!("segment {number} was reported, repository {repository} lacks it"))?;
        ensure!(std::fs::read(&fetched)? == archiver.content(number)?, "segment {number} is not what it was");
        std::fs::remove_file(&fetched)?;
    }
    Ok(())
}

#[test]
fn no_segment_is_handed_out_that_is_not_whole() -> Result<()> {
    const SEGMENTS: u32 = 40;
    for is_async in [true, false] {
        note(format!("asynchronous: {is_async}"));
        let site = site(is_async)?;
        let archiver = FakeArchiver::of(&site)?;
        (1..=SEGMENTS).try_for_each(|number| archiver.fill(number))?;
        (1..=SEGMENTS).try_for_each(|number| archiver.archive(&site.pgconvoy, number)?.ok().map(drop))?;
        let mut random = Random::from_environment()?;
        let destination = archiver.data().join("pg_wal/RECOVERYXLOG");
        let first = FakeArchiver::name(1);
        let mut span = span_of(&site.pgconvoy.archive_get(archiver.data(), &first, &destination, &[])?.ok()?);
        std::fs::remove_file(&destination)?;
        let (mut number, mut lived) = (2, 0);
        for _ in 0..rounds()? {
            let call = site.pgconvoy.call(["archive-get", &FakeArchiver::name(number)])?.arg(&destination);
            let running = call.current_dir(archiver.data()).start()?;
            let finished = running.kill_after(random.moment_within(span))?;
            if random.below(3) == 0 {
                kill_background(&site, "archive-get")?;
            }
            ensure!(finished.code.is_none_or(|code| code == 0), "it failed before it was killed\n{finished}");
            ensure!(finished.code.is_none() || destination.exists(), "success without a file\n{finished}");
            span = adjusted(span, destination.exists());
            if destination.exists() {
                let content = std::fs::read(&destination)?;
                ensure!(content == archiver.content(number)?, "segment {number} is not what it was");
                std::fs::remove_file(&destination)?;
                number = number % SEGMENTS + 1;
                lived += 1;
            }
        }
        ensure!(lived > 1, "hardly any command lived: the span is too short");
        nothing_half_is_left_under_a_name(&site, &archiver)?;
    }
    Ok(())
}

/// Whatever bears a segment's name in the spool is that segment as a whole.
fn nothing_half_is_left_under_a_name(site: &Site, archiver: &FakeArchiver) -> Result<()> {
    let spool = site.scratch.join("spool");
    if !spool.exists() {
        return Ok(());
    }
    for path in files::walk(&spool)? {
        let name = support::repository::name_of(&path);
        if name.len() == 24 {
            let number = u32::from_str_radix(&name[16..], 16)?;
            ensure!(std::fs::read(&path)? == archiver.content(number)?, "{} is not whole", path.display());
        }
    }
    Ok(())
}
