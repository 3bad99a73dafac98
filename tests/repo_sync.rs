//! `repo-sync`: a repository is filled from its sibling while PostgreSQL is stopped, and stands alone afterwards.
//!
//! Seeds of random choices are printed and can be given again.

mod support;

use std::collections::BTreeSet;
use std::path::Path;
use support::checks::repo_report;
use support::fleet::{Fleet, FleetOptions};
use support::outage::Outage;
use support::repository::name_of;
use support::{
    Context, Json, Pgconvoy, Random, Result, Site, SiteOptions, assert_refused, assert_refused_with_one_of,
    damage, data, ensure, files, labels, limits, note, same_data,
};

const SYNC: [&str; 4] = ["repo-sync", "--from=1", "--to=2", "--output=json"];
/// Where nobody has made repository 2.
const CREATE: [&str; 5] = ["repo-sync", "--from=1", "--to=2", "--create", "--output=json"];
/// Kills of a synchronisation, each followed by one that ends.
const KILLS: u32 = 15;
/// What is published when it is killed, and what is there afterwards, after every so many: the expensive proof.
const VERIFY_EVERY: u32 = 3;
/// A kill may come before the first pack or after the last: so many tries for a backup that is resumed.
const TRIES: u32 = 20;
/// An incremental backup of a small change: far below the 30 MB of a full one.
const SMALL: u64 = 2 << 20;
const FILE_MISSING: i32 = 55;
const REPO_INVALID: i32 = 103;

/// Room for everything that a test stores: the test fills it up.
const SMALL_REPO_MIB: u32 = 256;

/// A cluster that knows repository 1 only. PostgreSQL archives there, whatever a test configures for itself.
struct Pair {
    site: Site,
    /// Knows both.
    both: Pgconvoy,
}

impl Pair {
    fn start() -> Result<Pair> {
        let site = Site::prepare(&SiteOptions::default())?;
        site.config.clone().repos(&site.repos[..1]).write(&site.scratch.config_file())?;
        site.cluster.start()?;
        site.pgconvoy.run(["stanza-create"])?.ok()?;
        data::seed_small(&site.cluster)?;
        let both = site.pgconvoy.with_config(&site.scratch, "both.toml", &site.config)?;
        Ok(Pair { site, both })
    }

    fn backup(&self, kind: &str) -> Result<String> {
        let kind = format!("--type={kind}");
        // Some tens of packs, so that a kill leaves some of them.
        let args = ["backup", &kind, "--output=json", "--unit-size=1MiB"];
        let report = self.site.pgconvoy.run(args)?.ok()?.json()?;
        Ok(report["label"].as_str().with_context(|| report.to_string())?.to_owned())
    }

    fn change(&self, number: u32) -> Result<()> {
        self.site
            .cluster
            .psql(&format!("create table change_{number} as select generate_series(1, 1000) n"))?;
        self.site.cluster.psql("checkpoint").map(drop)
    }

    fn sync(&self, more: &[&str]) -> Result<Json> {
        self.both.run(CREATE.iter().chain(more))?.ok()?.json()
    }

    /// A backup that was killed when some of its packs were stored, and gone on with.
    fn resumed_backup(&self) -> Result<String> {
        let args =
            ["backup", "--type=incr", "--output=json", "--unit-size=1MiB", "--compress-level=19", "--delta"];
        for attempt in 0..TRIES {
            self.site.cluster.psql("update document set title = md5(random()::text)")?;
            self.site.cluster.psql("checkpoint")?;
            let known = unpublished_packs(&self.site)?;
            let mut running = self.site.pgconvoy.start(args)?;
            limits::wait_for("a few packs of a backup", limits::COMMAND, || {
                let there = unpublished_packs(&self.site)? >= known + 3;
                Ok((there || running.has_ended()?).then_some(()))
            })?;
            running.kill()?;
            running.wait(limits::SOON)?;
            let report = self.site.pgconvoy.run(args)?.ok()?.json()?;
            note(format!("attempt {attempt}: {report}"));
            if report["units"]["resumed"].as_u64() > Some(0) {
                return Ok(report["label"].as_str().context("label")?.to_owned());
            }
        }
        support::bail!("no backup was resumed")
    }
}

fn unpublished_packs(site: &Site) -> Result<usize> {
    let stanza = site.repository(1)?.stanza();
    let mut found = 0;
    for entry in std::fs::read_dir(stanza.join("backup"))? {
        let path = entry?.path();
        if !stanza.join("catalogue").join(name_of(&path)).exists() {
            found += whole(&path.join("pack"))?.len();
        }
    }
    Ok(found)
}

/// Objects below a directory that are complete: what is being written has another name.
fn whole(directory: &Path) -> Result<BTreeSet<String>> {
    if !directory.exists() {
        return Ok(BTreeSet::new());
    }
    let found = files::walk(directory)?;
    let names = found.iter().filter(|path| path.is_file() && !name_of(path).contains(".pgconvoy"));
    names.map(|path| Ok(path.strip_prefix(directory)?.display().to_string())).collect()
}

/// Packs of all backups, published or not.
fn stored_packs(site: &Site, repo: u16) -> Result<u64> {
    let found = whole(&site.repository(repo)?.stanza().join("backup"))?;
    Ok(u64::try_from(found.iter().filter(|name| name.contains("/pack/")).count())?)
}

fn statuses(report: &Json) -> Vec<String> {
    let backups = report["backup"].as_array().cloned().unwrap_or_default();
    backups.iter().map(|backup| backup["status"].as_str().unwrap_or_default().to_owned()).collect()
}

/// Of all backups.
fn packs(report: &Json, what: &str) -> u64 {
    let backups = report["backup"].as_array().cloned().unwrap_or_default();
    backups.iter().filter_map(|backup| backup["packs"][what].as_u64()).sum()
}

fn wal(site: &Site, repo: u16) -> Result<BTreeSet<String>> {
    whole(&site.repository(repo)?.stanza().join("wal"))
}

#[test]
fn a_repository_that_was_added_later_is_filled_and_stands_alone() -> Result<()> {
    let pair = Pair::start()?;
    let site = &pair.site;
    let mut known = vec![pair.backup("full")?];
    pair.change(1)?;
    known.push(pair.backup("incr")?);
    known.push(pair.resumed_backup()?);
    site.cluster.switch_and_archive()?;
    let expected = data::fingerprint(&site.cluster)?;
    site.cluster.stop()?;

    let refused = pair.both.run(SYNC)?;
    assert_refused_with_one_of(&refused, &[55, 73, 103])?;
    let is_told = ["stanza-create", "--create"].iter().all(|hint| refused.stderr.contains(hint));
    ensure!(is_told && !site.repos[1].path.join("pgconvoy.repo").exists(), "{refused}");
    let report = pair.sync(&[])?;
    assert_eq!(statuses(&report), ["copied"; 3], "{report}");
    assert_eq!(labels(&pair.both, 2)?, known);
    pair.both.run(["verify", "--repo=2"])?.ok()?;
    let again = pair.sync(&[])?;
    assert_eq!(
        (statuses(&again), again["archive"].clone()),
        (vec!["present".to_owned(); 3], Json::Array(vec![]))
    );

    let away = Outage::away(&site.repos[0].path, false)?;
    let alone = site.only_repos(&[2])?;
    let copy = site.copy("alone")?;
    alone.run(["restore", &format!("--pg-path={}", copy.data().display())])?.ok()?;
    copy.start_and_recover()?;
    same_data(&copy, &expected)?;
    copy.stop()?;
    drop(away);

    the_next_backup_rests_on_the_copy_in_both(&pair, &known)?;
    wal_that_a_repository_missed_is_brought(&pair)
}

fn the_next_backup_rests_on_the_copy_in_both(pair: &Pair, known: &[String]) -> Result<()> {
    let site = &pair.site;
    site.config.write(&site.scratch.config_file())?;
    site.cluster.start()?;
    site.pgconvoy.run(["stanza-create"])?.ok()?;
    pair.change(2)?;
    let report = pair.both.run(["backup", "--type=incr", "--output=json"])?.ok()?.json()?;
    assert_eq!(
        (&report["status"], report["prior"].as_str()),
        (&Json::from("ok"), known.last().map(String::as_str))
    );
    for repo in [1, 2] {
        let stored = repo_report(&report, repo)?["bytes-stored"].as_u64().context("bytes-stored")?;
        ensure!(stored < SMALL, "{report}");
    }
    let (read, all) = (report["bytes"]["read"].as_u64(), report["bytes"]["database"].as_u64());
    ensure!(read.zip(all).is_some_and(|(read, all)| read * 4 < all), "files are not taken over: {report}");
    pair.both.run(["verify"])?.ok().map(drop)
}

/// It is out of the configuration while WAL is archived and a backup is made.
fn wal_that_a_repository_missed_is_brought(pair: &Pair) -> Result<()> {
    let site = &pair.site;
    site.config.clone().repos(&site.repos[..1]).write(&site.scratch.config_file())?;
    let before = wal(site, 2)?.len();
    for number in 3..6 {
        pair.change(number)?;
        site.cluster.switch_and_archive()?;
    }
    let label = pair.backup("incr")?;
    site.cluster.switch_and_archive()?;
    site.cluster.stop()?;
    let report = pair.sync(&[])?;
    assert_eq!(statuses(&report).last().map(String::as_str), Some("copied"), "{report}");
    assert_eq!(labels(&pair.both, 2)?.last(), Some(&label));
    let (ours, theirs) = (wal(site, 1)?, wal(site, 2)?);
    assert_eq!(ours, theirs);
    ensure!(theirs.len() >= before + 4, "{report}");
    assert_eq!(report["archive"][0]["files"], theirs.len() - before, "{report}");
    pair.both.run(["verify"])?.ok().map(drop)
}

#[test]
fn a_synchronisation_killed_at_any_moment_is_gone_on_with_and_copies_nothing_twice() -> Result<()> {
    let pair = Pair::start()?;
    let site = &pair.site;
    pair.backup("full")?;
    pair.change(1)?;
    pair.backup("incr")?;
    site.cluster.switch_and_archive()?;
    site.cluster.stop()?;
    let mut random = Random::from_environment()?;
    pair.sync(&[])?;
    let total = (stored_packs(site, 2)?, wal(site, 2)?);
    let objects = u64::try_from(whole(&site.repository(2)?.stanza())?.len())?;
    let mut interrupted = 0;
    for round in 1..=KILLS {
        std::fs::remove_dir_all(&site.repos[1].path)?;
        interrupted += u32::from(kill(&pair, random.below(objects), round)?);
        let is_begun = site.repos[1].path.join("pgconvoy.repo").exists();
        if is_begun && round % VERIFY_EVERY == 0 {
            for label in labels(&pair.both, 2)? {
                pair.both.run(["verify", "--repo=2", "--set", &label])?.ok().context("what was published")?;
            }
        }
        let left = (stored_packs(site, 2).unwrap_or_default(), wal(site, 2).unwrap_or_default());
        let report = pair.sync(&[]).with_context(|| format!("round {round}"))?;
        note(format!("round {round}: {} of {} packs were there: {report}", left.0, total.0));
        ensure!(statuses(&report).iter().all(|status| status == "copied" || status == "present"), "{report}");
        // Packs of backups that were published are not even looked at.
        assert_eq!(packs(&report, "copied") + left.0, total.0, "{report}");
        let files = report["archive"][0]["files"].as_u64().unwrap_or_default();
        assert_eq!(usize::try_from(files)? + left.1.len(), total.1.len(), "{report}");
        assert_eq!((stored_packs(site, 2)?, wal(site, 2)?), total);
        if round % VERIFY_EVERY == 0 {
            pair.both.run(["verify", "--repo=2"])?.ok()?;
        }
    }
    ensure!(interrupted * 3 >= KILLS * 2, "only {interrupted} of {KILLS} were killed before their end");
    Ok(())
}

/// Kills it as soon as so many objects are there, which is a better spread than moments are; false: it had ended by then.
fn kill(pair: &Pair, objects: u64, round: u32) -> Result<bool> {
    let stanza = pair.site.repository(2)?.stanza();
    let running = pair.both.start(CREATE)?;
    limits::wait_for("some objects in the target", limits::COMMAND, || {
        let there = u64::try_from(whole(&stanza)?.len())?;
        Ok((there >= objects || running.has_ended()?).then_some(()))
    })?;
    let finished = running.kill_and_wait()?;
    let (code, signal, after) = (finished.code, finished.signal, finished.elapsed);
    note(format!("round {round}: killed at {objects} objects after {after:?}: {code:?} {signal:?}"));
    ensure!(finished.code.is_none_or(|code| code == 0), "it failed before it was killed\n{finished}");
    Ok(finished.signal.is_some())
}

#[test]
fn damage_in_the_source_is_named_and_costs_only_what_needs_it_and_one_set_comes_alone() -> Result<()> {
    let pair = Pair::start()?;
    let site = &pair.site;
    let first = pair.backup("full")?;
    pair.change(1)?;
    let resting = pair.backup("incr")?;
    pair.change(2)?;
    let second = pair.backup("full")?;
    site.cluster.switch_and_archive()?;
    site.cluster.stop()?;

    let pack = site.repository(1)?.packs(&first)?.remove(0);
    let wound = damage::flip_bit(&pack)?;
    let refused = pair.both.run(CREATE)?;
    let report = refused.json()?;
    assert_eq!(statuses(&report), ["error", "error", "copied"], "{report}");
    assert_eq!(labels(&pair.both, 2)?, std::slice::from_ref(&second));
    let named = format!("{} ", name_of(&pack));
    ensure!(refused.stderr.contains(named.trim()) && refused.stderr.contains(&first), "{refused}");
    ensure!(
        refused.code.is_some_and(|code| [26, 95, 104].contains(&code)) && refused.has_hint(),
        "{refused}"
    );
    drop(wound);

    std::fs::remove_dir_all(&site.repos[1].path)?;
    let report = pair.sync(&[&format!("--set={resting}")])?;
    assert_eq!(statuses(&report), ["copied", "copied"], "{report}");
    assert_eq!(labels(&pair.both, 2)?, [first, resting.clone()]);
    pair.both.run(["verify", "--repo=2"])?.ok()?;
    assert_eq!(statuses(&pair.sync(&[])?), ["present", "present", "copied"]);
    pair.both.run(["verify", "--repo=2"])?.ok()?;
    let unknown = pair.both.run(["repo-sync", "--from=1", "--to=2", "--set=20301122-103000F"])?;
    assert_refused(&unknown, 75)?;
    let itself = pair.both.run(["repo-sync", "--from=1", "--to=1"])?;
    ensure!(itself.code == Some(32), "{itself}");
    let busy = pair.both.run(["repo-sync", "--from=2"])?;
    ensure!(busy.code == Some(37), "{busy}");
    Ok(())
}

#[test]
fn a_source_without_the_stanza_is_told_with_the_repository_that_has_it() -> Result<()> {
    let Pair { site, both } = Pair::start()?;
    let told = |from: u16, to: u16, code: i32, words: &str| -> Result<()> {
        let refused = both.run(["repo-sync", &format!("--from={from}"), &format!("--to={to}")])?;
        assert_refused(&refused, code)?;
        ensure!(refused.stderr.contains(words) && !refused.stderr.contains("stanza-create"), "{refused}");
        Ok(())
    };
    let path = &site.repos[1].path;
    ensure!(!path.exists(), "somebody has made {}", path.display());
    told(2, 1, FILE_MISSING, "repo 1 has stanza main: --from=1 copies from there")?;
    support::user::private_dir(path)?;
    told(2, 1, REPO_INVALID, "repo 1 has stanza main: --from=1 copies from there")?;
    both.run(["stanza-create"])?.ok()?;
    site.cluster.stop()?;
    std::fs::remove_dir_all(path.join("main"))?;
    told(2, 1, FILE_MISSING, "repo 1 has stanza main: --from=1 copies from there")?;
    std::fs::remove_dir_all(site.repos[0].path.join("main"))?;
    told(2, 1, FILE_MISSING, "no other repository that is configured here has stanza main")?;
    Ok(())
}

#[test]
fn a_fleet_does_it_as_a_job_of_one_worker() -> Result<()> {
    let site = Site::start_with(&SiteOptions { without_data: true, ..SiteOptions::default() })?;
    let label = site.backup_label(&["--repo=1"])?;
    site.cluster.switch_and_archive()?;
    assert_eq!(labels(&site.pgconvoy, 2)?, [""; 0]);
    let fleet = Fleet::start(&site, &FleetOptions::default())?;
    let report = fleet.client.run(SYNC)?.ok()?.json()?;
    assert_eq!(statuses(&report), ["copied"], "{report}");
    assert_eq!(labels(&site.pgconvoy, 2)?, [label]);
    let told = fleet.client.run(["repo-sync", "--from=1", "--to=2"])?.ok()?;
    ensure!(told.stdout.contains("present"), "{told}");
    let refused = fleet.client.run(["repo-sync", "--from=1", "--to=9"])?;
    assert_refused(&refused, 32)?;
    let refused = fleet.client.run(CREATE)?;
    assert_refused(&refused, 31)?;
    site.pgconvoy.run(["verify"])?.ok().map(drop)
}

#[test]
fn a_plain_repository_fills_a_packed_one_and_is_not_filled_itself() -> Result<()> {
    let site = Site::start_with(&SiteOptions { first_repo_keeps_files: true, ..SiteOptions::default() })?;
    site.backup_label(&["--repo=1"])?;
    site.cluster.psql("create table later as select generate_series(1, 1000) n")?;
    site.cluster.psql("checkpoint")?;
    site.pgconvoy.run(["backup", "--type=incr", "--repo=1"])?.ok()?;
    site.cluster.switch_and_archive()?;
    let expected = data::fingerprint(&site.cluster)?;
    let report = site.pgconvoy.run(SYNC)?.ok()?.json()?;
    assert_eq!(statuses(&report), ["copied", "copied"], "{report}");
    site.pgconvoy.run(["verify"])?.ok()?;
    let copy = site.restore("alone", &["--repo=2"])?;
    copy.start_and_recover()?;
    same_data(&copy, &expected)?;
    copy.stop()?;
    // Both are priors of what comes next, each with frames of its own.
    site.cluster.psql("insert into later select generate_series(1, 1000)")?;
    let next = site.pgconvoy.run(["backup", "--type=incr", "--output=json"])?.ok()?.json()?;
    let stored = repo_report(&next, 2)?["bytes-stored"].as_u64().context("bytes-stored")?;
    ensure!(next["status"] == "ok" && stored < SMALL, "{next}");
    site.pgconvoy.run(["verify"])?.ok()?;
    assert_refused(&site.pgconvoy.run(["repo-sync", "--from=2", "--to=1"])?, 67)
}

#[test]
fn a_backup_that_a_repository_was_dropped_from_on_its_way_is_completed_there() -> Result<()> {
    let options = SiteOptions { small_second_repo_mib: Some(SMALL_REPO_MIB), ..SiteOptions::default() };
    let mut site = Site::start_with(&options)?;
    // What fails must not cost the default minute for each segment.
    site.config = site.config.clone().backup("archive-timeout", "\"15s\"");
    site.config.write(&site.scratch.config_file())?;
    site.cluster.switch_and_archive()?;
    let disk = site.mounts.first().context("no mount")?;
    disk.fill_up_to(3 << 20)?;
    let dropped = site.try_backup(&[])?;
    assert_refused(&dropped, 104)?;
    disk.relieve()?;
    let label = dropped.json()?["label"].as_str().context("label")?.to_owned();
    assert_eq!(labels(&site.pgconvoy, 2)?, [""; 0]);
    let left = stored_packs(&site, 2)?;
    ensure!(left > 0, "it was dropped before it had anything");

    let report = site.pgconvoy.run(SYNC)?.ok()?.json()?;
    assert_eq!((statuses(&report), packs(&report, "present")), (vec!["copied".to_owned()], left), "{report}");
    assert_eq!(labels(&site.pgconvoy, 2)?, [label]);
    site.pgconvoy.run(["verify"])?.ok()?;
    let expected = data::fingerprint(&site.cluster)?;
    let copy = site.restore("alone", &["--repo=2", "--type=immediate", "--target-action=promote"])?;
    copy.start_and_recover()?;
    same_data(&copy, &expected)?;
    copy.stop()
}
