//! Many segments, and repositories that are away for a while: nobody waits for them who need not, and they miss nothing.
//!
//! Repositories that are slow or fail now and then: `tests/archive_bad_disk.rs`.

mod support;

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use support::repository::name_of;
use support::wal::SEGMENT_MIB;
use support::{
    ClusterOptions, Context, FakeArchiver, Pgconvoy, Result, Site, SiteOptions, ensure, limits, note,
};

/// Segments in all; `PGCONVOY_SEGMENTS` asks for another number.
const SEGMENTS: u32 = 1000;
const SEGMENTS_VARIABLE: &str = "PGCONVOY_SEGMENTS";

fn segments() -> Result<u32> {
    match std::env::var(SEGMENTS_VARIABLE) {
        Ok(text) => text.parse().with_context(|| format!("{SEGMENTS_VARIABLE}={text}")),
        Err(_) => Ok(SEGMENTS),
    }
}

/// A cluster with the smallest segments, and two repositories of which the second may be optional.
fn site(is_async: bool, second_required: bool) -> Result<Site> {
    let cluster = ClusterOptions { wal_segment_mib: SEGMENT_MIB, ..ClusterOptions::default() };
    let mut site = Site::start_with(&SiteOptions { cluster, without_data: true, ..SiteOptions::default() })?;
    // With a directory for them, the commands and their background processes keep logs.
    site.scratch.private_dir("log")?;
    site.repos[1].required = second_required;
    site.config = site
        .config
        .clone()
        .repos(&site.repos)
        .backup("archive-async", if is_async { "true" } else { "false" })
        .backup("archive-timeout", "\"30s\"");
    site.config.write(&site.scratch.config_file())?;
    Ok(site)
}

/// The second repository's path leads nowhere until this is dropped.
struct Away {
    from: PathBuf,
    to: PathBuf,
}

impl Away {
    fn second(site: &Site) -> Result<Away> {
        let from = site.repos[1].path.clone();
        let to = from.with_extension("away");
        std::fs::rename(&from, &to)?;
        Ok(Away { from, to })
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        if let Err(error) = std::fs::rename(&self.to, &self.from) {
            note(format!("{} stays away: {error}", self.from.display()));
        }
    }
}

fn held(site: &Site, number: u16) -> Result<BTreeSet<String>> {
    Ok(site.repository(number)?.segments()?.iter().map(|path| name_of(path)).collect())
}

fn wait_until_both_hold(site: &Site, numbers: RangeInclusive<u32>) -> Result<()> {
    let expected: BTreeSet<String> = numbers.map(FakeArchiver::name).collect();
    for number in [1, 2] {
        let what = format!("{} segments in repository {number}", expected.len());
        limits::wait_for(&what, limits::COMMAND, || {
            Ok(held(site, number)?.is_superset(&expected).then_some(()))
        })?;
    }
    Ok(())
}

/// Each of some segments comes back from the repository alone as it went.
fn comes_back(site: &Site, archiver: &FakeArchiver, repository: &Pgconvoy, numbers: &[u32]) -> Result<()> {
    for number in numbers {
        let fetched = site.scratch.join("fetched");
        repository.archive_get(archiver.data(), &FakeArchiver::name(*number), &fetched, &[])?.ok()?;
        ensure!(std::fs::read(&fetched)? == archiver.content(*number)?, "segment {number} came back changed");
        std::fs::remove_file(&fetched)?;
    }
    Ok(())
}

/// Pushed one after another, as PostgreSQL does, with so many more waiting behind each.
fn archive(
    site: &Site,
    archiver: &FakeArchiver,
    numbers: RangeInclusive<u32>,
    mut each: impl FnMut(u32) -> Result<()>,
) -> Result<()> {
    const WAITING: u32 = 20;
    let mut filled = *numbers.start();
    for number in numbers.clone() {
        while filled <= *numbers.end() && filled < number + WAITING {
            archiver.fill(filled)?;
            filled += 1;
        }
        archiver.archive(&site.pgconvoy, number)?.ok()?;
        each(number)?;
    }
    Ok(())
}

#[test]
fn a_thousand_segments_do_not_wait_for_a_repository_that_nobody_needs_and_it_gets_them_all() -> Result<()> {
    let site = site(true, false)?;
    let archiver = FakeArchiver::of(&site)?;
    let count = segments()?;
    let (leaves, returns) = (count / 4, count * 3 / 4);
    let mut away = None;
    archive(&site, &archiver, 1..=count, |number| {
        if number == leaves {
            away = Some(Away::second(&site)?);
        }
        if number == returns {
            away = None;
            let missing = returns - leaves;
            let held = held(&site, 2)?.len();
            ensure!(held < usize::try_from(count - missing / 2)?, "it was not away: it has {held}");
        }
        Ok(())
    })?;
    wait_until_both_hold(&site, 1..=count)?;
    let middle = [leaves + 1, leaves + 2, (leaves + returns) / 2, returns - 1];
    comes_back(&site, &archiver, &site.only_repos(&[2])?, &middle)?;
    site.only_repos(&[2])?.run(["verify"])?.ok()?;
    Ok(())
}

#[test]
fn without_asynchronous_pushes_the_backlog_is_filled_by_later_ones() -> Result<()> {
    let site = site(false, false)?;
    let archiver = FakeArchiver::of(&site)?;
    archive(&site, &archiver, 1..=5, |_| Ok(()))?;
    {
        let _away = Away::second(&site)?;
        for number in 6..=40 {
            archiver.fill(number)?;
            let finished = archiver.archive(&site.pgconvoy, number)?.ok()?;
            ensure!(finished.stderr.contains("repo 2"), "nobody was warned\n{finished}");
        }
    }
    archive(&site, &archiver, 41..=42, |_| Ok(()))?;
    wait_until_both_hold(&site, 1..=42)?;
    comes_back(&site, &archiver, &site.only_repos(&[2])?, &[6, 20, 40])
}

#[test]
fn a_required_repository_that_is_away_keeps_the_word_back_and_nothing_else() -> Result<()> {
    for is_async in [true, false] {
        note(format!("asynchronous: {is_async}"));
        let site = site(is_async, true)?;
        let archiver = FakeArchiver::of(&site)?;
        const WAITING: u32 = 60;
        {
            let _away = Away::second(&site)?;
            (1..=WAITING).try_for_each(|number| archiver.fill(number))?;
            for _ in 0..2 {
                let finished = archiver.push(&site.pgconvoy, 1)?;
                ensure!(finished.code.is_some_and(|code| (1..126).contains(&code)), "{finished}");
                ensure!(finished.stderr.contains("repo 2"), "the repository is not named\n{finished}");
            }
            let expected: BTreeSet<String> = (1..=WAITING).map(FakeArchiver::name).collect();
            limits::wait_for("all segments in repository 1", limits::SOON, || {
                Ok(held(&site, 1)?.is_superset(&expected).then_some(()))
            })?;
        }
        archive_patiently(&site, &archiver, 1..=WAITING)?;
        wait_until_both_hold(&site, 1..=WAITING)?;
        comes_back(&site, &archiver, &site.only_repos(&[2])?, &[1, WAITING])?;
    }
    Ok(())
}

/// As PostgreSQL: what fails is tried again.
fn archive_patiently(site: &Site, archiver: &FakeArchiver, numbers: RangeInclusive<u32>) -> Result<()> {
    for number in numbers {
        limits::wait_for(&format!("archiving of segment {number}"), limits::SOON, || {
            Ok((archiver.archive(&site.pgconvoy, number)?.code == Some(0)).then_some(()))
        })?;
    }
    Ok(())
}

#[test]
fn postgresql_counts_failures_only_for_a_repository_that_is_required() -> Result<()> {
    for required in [false, true] {
        note(format!("required: {required}"));
        let site = site(true, required)?;
        site.cluster.switch_and_archive()?;
        let failed = || -> Result<u64> {
            Ok(site.cluster.psql("select failed_count from pg_stat_archiver")?.parse()?)
        };
        let before = failed()?;
        let segment = {
            let _away = Away::second(&site)?;
            let segment = site.cluster.psql("select pg_walfile_name(pg_current_wal_insert_lsn())")?;
            site.cluster.psql("select txid_current(); select pg_switch_wal()")?;
            if required {
                limits::wait_for("a failure", limits::SOON, || Ok((failed()? > before).then_some(())))?;
                let last = site.cluster.psql("select last_archived_wal from pg_stat_archiver")?;
                ensure!(last < segment, "it counts as archived, and one of two has it");
            } else {
                site.cluster.wait_until_archived(&segment)?;
                assert_eq!(failed()?, before);
            }
            limits::wait_for("the segment in repository 1", limits::SOON, || {
                Ok(held(&site, 1)?.contains(&segment).then_some(()))
            })?;
            segment
        };
        site.cluster.switch_and_archive()?;
        limits::wait_for("the segment in repository 2", limits::SOON, || {
            Ok(held(&site, 2)?.contains(&segment).then_some(()))
        })?;
    }
    Ok(())
}
