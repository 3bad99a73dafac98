//! SIGKILL at random moments: what is published is whole, what is not whole does not start, the next run succeeds.
//!
//! The seed is printed and can be given again; `PGCONVOY_KILL_ROUNDS` asks for the long form.

mod support;

use std::collections::BTreeSet;
use std::time::Duration;
use support::cluster::assert_does_not_start;
use support::repository::name_of;
use support::{
    Cluster, Context, Finished, Random, Result, Site, data, ensure, files, labels, note, same_data,
};

/// Of each kind, backup and restore: 32 in all.
const ROUNDS: u32 = 16;
/// Rounds of each kind, for a night instead of a few minutes.
const ROUNDS_VARIABLE: &str = "PGCONVOY_KILL_ROUNDS";
/// A restore and a start after every so many rounds of backup: the expensive proof.
const RESTORE_EVERY: u32 = 8;

fn rounds() -> Result<u32> {
    match std::env::var(ROUNDS_VARIABLE) {
        Ok(text) => text.parse().with_context(|| format!("{ROUNDS_VARIABLE}={text}")),
        Err(_) => Ok(ROUNDS),
    }
}

/// A little longer than an undisturbed run, so that the last moments get their share.
fn span_of(undisturbed: Duration) -> Duration {
    undisturbed + undisturbed / 10
}

#[test]
fn a_backup_killed_at_any_moment_publishes_nothing_that_is_not_whole() -> Result<()> {
    let site = Site::start()?;
    let mut random = Random::from_environment()?;
    let undisturbed = site.try_backup(&[])?.ok()?.elapsed;
    let expected = data::fingerprint(&site.cluster)?;
    let mut known: BTreeSet<String> = published(&site)?;
    for round in 1..=rounds()? {
        let moment = random.moment_within(span_of(undisturbed));
        let finished = site.pgconvoy.start(["backup", "--type=full"])?.kill_after(moment)?;
        note(format!(
            "round {round}: killed after {moment:?}: code {:?} signal {:?}",
            finished.code, finished.signal
        ));
        ensure!(finished.code.is_none_or(|code| code == 0), "it failed before it was killed\n{finished}");
        whatever_is_new_is_whole(&site, &known)?;
        let label = site.backup_label(&[]).with_context(|| format!("the run after round {round}"))?;
        site.pgconvoy.run(["verify", "--set", &label])?.ok()?;
        nothing_unpublished_is_left(&site)?;
        if round % RESTORE_EVERY == 0 {
            let copy =
                site.restore(&format!("copy-{round}"), &["--type=immediate", "--target-action=promote"])?;
            copy.start_and_recover()?;
            same_data(&copy, &expected)?;
        }
        known = published(&site)?;
        ensure!(known.contains(&label), "{label} is not listed");
    }
    site.pgconvoy.run(["verify"])?.ok()?;
    Ok(())
}

fn published(site: &Site) -> Result<BTreeSet<String>> {
    Ok(labels(&site.pgconvoy, 1)?.into_iter().chain(labels(&site.pgconvoy, 2)?).collect())
}

/// Killed between its publication and its last word: then the backup is whole in each repository that lists it.
fn whatever_is_new_is_whole(site: &Site, known: &BTreeSet<String>) -> Result<()> {
    for number in [1, 2] {
        let alone = site.only_repos(&[number])?;
        for label in labels(&alone, number)?.iter().filter(|label| !known.contains(*label)) {
            note(format!("{label} was published in repository {number}"));
            alone.run(["verify", "--set", label])?.ok()?;
        }
    }
    Ok(())
}

/// A backup that succeeds sweeps what an earlier one left unfinished.
fn nothing_unpublished_is_left(site: &Site) -> Result<()> {
    for number in [1, 2] {
        let listed: BTreeSet<String> = labels(&site.pgconvoy, number)?.into_iter().collect();
        for entry in std::fs::read_dir(site.repository(number)?.stanza().join("backup"))? {
            let path = entry?.path();
            let packs = path.join("pack");
            let left = packs.exists() && !files::walk(&packs)?.is_empty();
            ensure!(!left || listed.contains(&name_of(&path)), "packs are left in {}", path.display());
        }
    }
    Ok(())
}

#[test]
fn a_restore_killed_at_any_moment_never_starts_though_incomplete() -> Result<()> {
    let site = Site::start()?;
    let mut random = Random::from_environment()?;
    site.backup(&[])?;
    site.cluster.switch_and_archive()?;
    let expected = data::fingerprint(&site.cluster)?;
    site.cluster.stop()?;
    let copy = site.copy("undisturbed")?;
    let undisturbed = site.try_restore(copy.data(), &[])?.ok()?.elapsed;
    for round in 1..=rounds()? {
        let copy = site.copy(&format!("copy-{round}"))?;
        let moment = random.moment_within(span_of(undisturbed));
        let path = format!("--pg-path={}", copy.data().display());
        let finished = site.pgconvoy.start(["restore", path.as_str()])?.kill_after(moment)?;
        note(format!(
            "round {round}: killed after {moment:?}: code {:?} signal {:?}",
            finished.code, finished.signal
        ));
        ensure!(finished.code.is_none_or(|code| code == 0), "it failed before it was killed\n{finished}");
        finish_killed_restore(&site, &copy, &finished, &expected)
            .with_context(|| format!("round {round}"))?;
        copy.stop()?;
        std::fs::remove_dir_all(copy.data())?;
    }
    Ok(())
}

fn finish_killed_restore(site: &Site, copy: &Cluster, killed: &Finished, expected: &str) -> Result<()> {
    let has_control = copy.data().join("global/pg_control").exists();
    ensure!(has_control || killed.code != Some(0), "a restore that succeeded left no pg_control");
    if !has_control {
        if copy.data().exists() {
            assert_does_not_start(copy)?;
        }
        site.try_restore(copy.data(), &[])?.ok().context("a restore finds its own marker and goes on")?;
    }
    // Where pg_control had its name, everything else was there before it.
    copy.start_and_recover()?;
    same_data(copy, expected)
}
