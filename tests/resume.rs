//! Backups of every kind, killed at random moments and gone on with: the result is whole, and what was stored is not stored
//! again.
//!
//! The seed is printed and can be given again; `PGCONVOY_KILL_ROUNDS` asks for the long form.

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use support::checks::repo_report;
use support::{
    Context, Json, Random, Result, Site, SiteOptions, data, ensure, files, labels, note, same_data,
};

/// In full, differential and incremental backups by turns.
const ROUNDS: u64 = 40;
const ROUNDS_VARIABLE: &str = "PGCONVOY_KILL_ROUNDS";
/// A restore from each repository after every so many rounds: the expensive proof.
const RESTORE_EVERY: u64 = 10;
/// Footers, and pages that the server wrote between two attempts.
const OVERHEAD: u64 = 2 << 20;

fn rounds() -> Result<u64> {
    match std::env::var(ROUNDS_VARIABLE) {
        Ok(text) => text.parse().with_context(|| format!("{ROUNDS_VARIABLE}={text}")),
        Err(_) => Ok(ROUNDS),
    }
}

/// Some tens of units for each backup, in order that a kill leaves some of them done.
fn arguments(kind: &str) -> [String; 5] {
    let kind = format!("--type={kind}");
    ["backup", &kind, "--output=json", "--unit-size=1MiB", "--delta"].map(str::to_owned)
}

/// Bytes of packs by the name that they have below their label, as far as they are whole.
fn packs(label: &Path) -> Result<BTreeMap<String, u64>> {
    let root = label.join("pack");
    if !root.exists() {
        return Ok(BTreeMap::new());
    }
    let whole = |path: &Path| path.file_name().is_some_and(|name| !name.to_string_lossy().contains('.'));
    files::walk(&root)?
        .iter()
        .filter(|path| path.is_file() && whole(path))
        .map(|path| Ok((path.strip_prefix(&root)?.display().to_string(), path.metadata()?.len())))
        .collect()
}

/// The label that a killed backup left in a repository, and its packs.
fn left_in(site: &Site, repo: u16) -> Result<Option<(String, BTreeMap<String, u64>)>> {
    let published = labels(&site.pgconvoy, repo)?;
    for entry in std::fs::read_dir(site.repository(repo)?.stanza().join("backup"))? {
        let path = entry?.path();
        let name = support::repository::name_of(&path);
        if !published.contains(&name) && path.join("plan-0001").exists() {
            return Ok(Some((name, packs(&path)?)));
        }
    }
    Ok(None)
}

/// Bytes of packs that both repositories have of the same unfinished label.
fn left_in_both(site: &Site) -> Result<(Option<String>, u64)> {
    let (one, two) = (left_in(site, 1)?, left_in(site, 2)?);
    let label = one.as_ref().or(two.as_ref()).map(|(label, _)| label.clone());
    let bytes = match (&one, &two) {
        (Some((_, one)), Some((_, two))) => {
            one.iter().filter(|(name, _)| two.contains_key(*name)).map(|(_, bytes)| bytes).sum()
        }
        _ => 0,
    };
    Ok((label, bytes))
}

fn stored(report: &Json) -> Result<u64> {
    repo_report(report, 1)?["bytes-stored"].as_u64().context("bytes-stored")
}

/// A fifth of the rows get new content, in space that is used again.
fn change(site: &Site) -> Result<()> {
    ["update item set text = md5(random()::text) where random() < 0.2", "vacuum item", "checkpoint"]
        .into_iter()
        .try_for_each(|step| site.cluster.psql(step).map(drop))
}

#[test]
fn a_killed_backup_is_gone_on_with_and_stores_nothing_twice() -> Result<()> {
    let site = Site::start_with(&SiteOptions { without_data: true, ..SiteOptions::default() })?;
    let mut random = Random::from_environment()?;
    site.cluster.psql("create table item as select n, md5(n::text) text from generate_series(1, 60000) n")?;
    change(&site)?;
    let first = site.pgconvoy.run(arguments("full"))?.ok()?;
    // Each kind is killed within the time that it takes itself.
    let mut took = BTreeMap::from([("full", first.elapsed)]);
    for kind in ["diff", "incr"] {
        change(&site)?;
        took.insert(kind, site.pgconvoy.run(arguments(kind))?.ok()?.elapsed);
    }
    let mut undisturbed = BTreeMap::from([("full", stored(&first.json()?)?)]);
    let (mut resumed, mut saved) = (0, 0);
    for round in 0..rounds()? {
        let kind = ["full", "diff", "incr"][usize::try_from(round % 3)?];
        change(&site)?;
        let moment = random.moment_within(took[kind] + took[kind] / 10);
        let killed = site.pgconvoy.start(arguments(kind))?.kill_after(moment)?;
        ensure!(killed.code.is_none_or(|code| code == 0), "it failed before it was killed\n{killed}");
        let (label, left) = left_in_both(&site)?;
        // Now and then another kind comes first: it gives up what was left, and no other backup may suffer from that.
        let next =
            if random.below(5) == 0 { ["diff", "incr", "full"][usize::try_from(round % 3)?] } else { kind };
        let finished = site.pgconvoy.run(arguments(next))?.ok().with_context(|| format!("round {round}"))?;
        let report = finished.json()?;
        note(format!("round {round}: {kind}, {next}, killed after {moment:?}, {left} bytes left: {report}"));
        let made = report["label"].as_str().context("label")?.to_owned();
        if let Some(label) = label.filter(|label| next == kind && finished.stderr.contains(label.as_str())) {
            ensure!(made == label, "it goes on under its label");
            resumed += 1;
            saved += left;
            if let Some(whole) = undisturbed.get(kind) {
                let again = stored(&report)?;
                ensure!(
                    again + left <= whole + OVERHEAD,
                    "{again} bytes stored beside {left} of {whole}: {report}"
                );
            }
            ensure!(left < OVERHEAD || report["units"]["resumed"].as_u64() > Some(0), "{report}");
        } else if next == "full" {
            undisturbed.insert("full", stored(&report)?);
        }
        site.pgconvoy.run(["verify", "--set", &made])?.ok()?;
        if round % RESTORE_EVERY == RESTORE_EVERY - 1 {
            restores_from_each(&site, &made)?;
        }
    }
    ensure!(resumed >= 3 && saved > 0, "only {resumed} backups were resumed, {saved} bytes saved");
    note(format!("{resumed} backups were resumed, {saved} bytes were not stored again"));
    site.pgconvoy.run(["verify"])?.ok().map(drop)
}

fn restores_from_each(site: &Site, label: &str) -> Result<()> {
    let expected = data::fingerprint(&site.cluster)?;
    for repo in [1, 2] {
        let options =
            [&*format!("--repo={repo}"), "--set", label, "--type=immediate", "--target-action=promote"];
        let copy = site.restore(&format!("{label}-{repo}"), &options)?;
        copy.start_and_recover()?;
        same_data(&copy, &expected)?;
        copy.stop()?;
        std::fs::remove_dir_all(copy.data())?;
    }
    Ok(())
}
