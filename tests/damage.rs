//! Stored objects that are flipped, cut, swapped or gone: `verify` names them, and `restore` never builds on them.
//!
//! Repository 1 is hurt. Alone it must refuse; together with repository 2 the restore takes the good copy and says so.

mod support;

use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Duration;
use support::checks::assert_nothing_startable;
use support::damage::{Wound, cut_tail, delete, flip_bit, flip_bit_at, swap};
use support::repository::name_of;
use support::{
    Cluster, Context, Finished, Json, Pgconvoy, Result, Site, assert_refused_with_one_of, bail, data, ensure,
    note, same_data,
};

const CHECKSUM: i32 = 26;
const FILE_MISSING: i32 = 55;
const SET_INVALID: i32 = 75;

/// A byte of a pack's first frame: headers are shorter, and frames of tens of kilobytes are not.
const FIRST_FRAME: usize = 1 << 10;

/// A site with two backups, all of whose WAL is archived, and the rows that it must give back.
struct Stored {
    site: Site,
    first: String,
    second: String,
    alone: Pgconvoy,
    expected: String,
}

fn stored() -> Result<Stored> {
    let mut site = Site::start()?;
    // archive-get asks again until this has passed; here the answer never changes.
    site.config = site.config.clone().backup("archive-timeout", "\"3s\"");
    site.config.write(&site.scratch.config_file())?;
    let first = site.backup_label(&["--unit-size=4MiB"])?;
    site.cluster.psql("create table between_backups as select generate_series(1, 1000) n")?;
    let second = site.backup_label(&["--unit-size=4MiB"])?;
    site.cluster.switch_and_archive()?;
    let expected = data::fingerprint(&site.cluster)?;
    site.cluster.stop()?;
    let alone = site.only_repos(&[1])?;
    site.pgconvoy.run(["verify"])?.ok()?;
    Ok(Stored { site, first, second, alone, expected })
}

type Hurt = fn(&Path) -> Result<Wound>;

/// What happens to a single object.
const INJURIES: [(&str, Hurt); 4] = [
    ("a bit in the middle", flip_bit),
    ("a bit at the start", |path| flip_bit_at(path, 5)),
    ("the tail", cut_tail),
    ("all of it", delete),
];

/// The last two parts of an object's key: enough to find it, whatever the message puts in front.
fn key_of(path: &Path) -> Result<String> {
    let parent = path.parent().map(name_of).context("an object lies in a directory")?;
    Ok(format!("{parent}/{}", name_of(path)))
}

fn verify_names(stored: &Stored, word: &str) -> Result<()> {
    let finished = stored.site.pgconvoy.run(["verify", "--output=json"])?;
    ensure!(finished.code.is_some_and(|code| code != 0), "verify found nothing\n{finished}");
    ensure!(finished.stdout.contains(word), "'{word}' is not in the report\n{finished}");
    let report = finished.json()?;
    ensure!(report[0]["status"] == "error", "{report}");
    Ok(())
}

fn restore_refuses(stored: &Stored, name: &str, codes: &[i32]) -> Result<()> {
    let copy = stored.site.copy(name)?;
    let path = format!("--pg-path={}", copy.data().display());
    let finished = stored.alone.run(["restore", path.as_str(), "--set", &stored.second])?;
    assert_refused_with_one_of(&finished, codes)?;
    assert_nothing_startable(&copy)
}

/// Both repositories are asked: the second one's copy is taken, and the operator hears of it.
fn restore_takes_the_other(stored: &Stored, name: &str) -> Result<Cluster> {
    let copy = stored.site.copy(name)?;
    let finished = stored.site.try_restore(copy.data(), &["--set", &stored.second])?.ok()?;
    says_that_repository_1_is_hurt(&finished)?;
    Ok(copy)
}

fn says_that_repository_1_is_hurt(finished: &Finished) -> Result<()> {
    let named = ["repo1", "repository 1", "repo 1"].iter().any(|name| finished.stderr.contains(name));
    ensure!(named, "nobody says that repository 1 is damaged\n{finished}");
    Ok(())
}

/// What verify concludes of the second backup: its status in each repository, what restores it, and its hints.
fn conclusion(stored: &Stored) -> Result<(Vec<String>, Json, String)> {
    let finished = stored.site.pgconvoy.run(["verify", "--output=json"])?;
    ensure!(finished.code == Some(CHECKSUM), "{finished}");
    let report = finished.json()?;
    let of_label = |list: &Json| {
        let found = list.as_array().into_iter().flatten().find(|one| one["label"] == stored.second.as_str());
        found.cloned().with_context(|| format!("{} is not in {list}", stored.second))
    };
    let statuses = report[0]["repo"].as_array().context("repo")?.iter();
    let statuses =
        statuses.map(|repo| Ok(of_label(&repo["backup"])?["status"].as_str().context("status")?.to_owned()));
    let hints = finished.stderr.lines().filter(|line| line.contains("HINT")).collect::<Vec<_>>().join("\n");
    Ok((statuses.collect::<Result<_>>()?, of_label(&report[0]["backup"])?["restorable"].clone(), hints))
}

fn comes_up_whole(copy: &Cluster, expected: &str) -> Result<()> {
    copy.start_and_recover()?;
    same_data(copy, expected)?;
    copy.stop()
}

#[test]
fn a_damaged_pack_is_named_refused_and_replaced_by_its_twin() -> Result<()> {
    let stored = stored()?;
    let packs = stored.site.repository(1)?.packs(&stored.second)?;
    let pack = &packs[0];
    for (index, (what, hurt)) in INJURIES.iter().enumerate() {
        note(format!("{} loses {what}", pack.display()));
        let _wound = hurt(pack)?;
        verify_names(&stored, &key_of(pack)?)?;
        restore_refuses(&stored, &format!("alone-{index}"), &[CHECKSUM, FILE_MISSING])?;
        let copy = restore_takes_the_other(&stored, &format!("both-{index}"))?;
        if index == 0 {
            comes_up_whole(&copy, &stored.expected)?;
        }
    }
    let copy = stored.site.restore("healed", &["--repo=1"])?;
    comes_up_whole(&copy, &stored.expected)
}

#[test]
fn packs_that_changed_places_are_found_out() -> Result<()> {
    let stored = stored()?;
    let packs = stored.site.repository(1)?.packs(&stored.second)?;
    ensure!(packs.len() >= 2, "only one pack");
    {
        let _wounds = swap(&packs[0], &packs[1])?;
        verify_names(&stored, &key_of(&packs[0])?)?;
        verify_names(&stored, &key_of(&packs[1])?)?;
        restore_refuses(&stored, "alone", &[CHECKSUM])?;
        let copy = restore_takes_the_other(&stored, "both")?;
        comes_up_whole(&copy, &stored.expected)?;
    }
    // The same unit of another backup has the right shape and the wrong contents.
    let twin = stored.site.repository(1)?.packs(&stored.first)?;
    let _wounds = swap(&packs[0], &twin[0])?;
    verify_names(&stored, &key_of(&packs[0])?)?;
    restore_refuses(&stored, "alone-twin", &[CHECKSUM])
}

#[test]
fn a_damaged_manifest_is_named_refused_and_replaced_by_its_twin() -> Result<()> {
    let stored = stored()?;
    let repository = stored.site.repository(1)?;
    let manifest = repository.manifest(&stored.second);
    for (index, (what, hurt)) in INJURIES.iter().enumerate() {
        note(format!("the manifest loses {what}"));
        let _wound = hurt(&manifest)?;
        verify_names(&stored, &key_of(&manifest)?)?;
        restore_refuses(&stored, &format!("alone-{index}"), &[CHECKSUM, FILE_MISSING])?;
        restore_takes_the_other(&stored, &format!("both-{index}"))?;
    }
    let _wounds = swap(&manifest, &repository.manifest(&stored.first))?;
    verify_names(&stored, &key_of(&manifest)?)?;
    restore_refuses(&stored, "alone-swapped", &[CHECKSUM])?;
    let copy = restore_takes_the_other(&stored, "both-swapped")?;
    comes_up_whole(&copy, &stored.expected)
}

#[test]
fn a_damaged_catalogue_entry_is_named_and_never_taken_for_a_backup() -> Result<()> {
    let stored = stored()?;
    let repository = stored.site.repository(1)?;
    let entry = repository.catalogue_entry(&stored.second);
    let readable: &[(&str, Hurt)] = &INJURIES[..3];
    for (index, (what, hurt)) in readable.iter().enumerate() {
        note(format!("the catalogue entry loses {what}"));
        let _wound = hurt(&entry)?;
        verify_names(&stored, &key_of(&entry)?)?;
        restore_refuses(&stored, &format!("alone-{index}"), &[CHECKSUM])?;
        restore_takes_the_other(&stored, &format!("both-{index}"))?;
    }
    {
        let _wounds = swap(&entry, &repository.catalogue_entry(&stored.first))?;
        verify_names(&stored, &key_of(&entry)?)?;
        restore_refuses(&stored, "alone-swapped", &[CHECKSUM])?;
    }
    // Without its entry it is no backup: asking for it is an error, restoring it from the other repository is not.
    let _wound = delete(&entry)?;
    let asked = stored.alone.run(["verify", "--set", &stored.second])?;
    ensure!(asked.code == Some(SET_INVALID) && asked.stderr.contains(&stored.second), "{asked}");
    restore_refuses(&stored, "alone-deleted", &[SET_INVALID, FILE_MISSING])?;
    let copy = stored.site.copy("both-deleted")?;
    stored.site.try_restore(copy.data(), &["--set", &stored.second])?.ok()?;
    comes_up_whole(&copy, &stored.expected)
}

#[test]
fn damaged_wal_is_named_and_never_ends_in_a_promotion() -> Result<()> {
    let stored = stored()?;
    let segment = first_segment_of_backup(&stored)?;
    for (index, (what, hurt)) in INJURIES.iter().enumerate() {
        note(format!("{} loses {what}", segment.display()));
        let _wound = hurt(&segment)?;
        verify_names(&stored, &name_of(&segment)[..24])?;
        recovery_from_the_first_alone_stops(&stored, &format!("alone-{index}"))?;
    }
    let segments = stored.site.repository(1)?.segments()?;
    let other = segments.iter().find(|path| **path != segment).context("a second segment")?;
    let _wounds = swap(&segment, other)?;
    verify_names(&stored, &name_of(&segment)[..24])?;
    recovery_from_the_first_alone_stops(&stored, "alone-swapped")?;
    let copy = stored.site.copy("both")?;
    stored.site.try_restore(copy.data(), &["--set", &stored.second])?.ok()?;
    comes_up_whole(&copy, &stored.expected)
}

fn first_segment_of_backup(stored: &Stored) -> Result<PathBuf> {
    let info = stored.alone.run(["info", "--output=json"])?.ok()?.json()?;
    let backups = info[0]["backup"].as_array().context("backup")?;
    let backup = backups
        .iter()
        .find(|backup| backup["label"] == stored.second.as_str())
        .context("the second backup")?;
    stored.site.repository(1)?.segment(backup["archive"]["start"].as_str().context("archive start")?)
}

/// Either the restore refuses at once, or PostgreSQL stops in the middle of recovery: it does not open for writing.
fn recovery_from_the_first_alone_stops(stored: &Stored, name: &str) -> Result<()> {
    /// Two segments' worth of asking again, and the start.
    const PATIENCE: Duration = Duration::from_secs(60);
    let copy = stored.site.copy(name)?;
    let path = format!("--pg-path={}", copy.data().display());
    let finished = stored.alone.run(["restore", path.as_str(), "--set", &stored.second])?;
    if finished.code != Some(0) {
        assert_refused_with_one_of(&finished, &[CHECKSUM, FILE_MISSING])?;
        return assert_nothing_startable(&copy);
    }
    if copy.start().is_ok() {
        copy.wait_until_gone(PATIENCE).context("PostgreSQL goes on without its WAL")?;
    }
    copy.was_not_promoted()
}

/// A pack of the second backup, and a byte of one of its frames that is not the first.
fn pack_with_frames(stored: &Stored) -> Result<(PathBuf, usize)> {
    for pack in stored.site.repository(1)?.packs(&stored.second)? {
        let late = usize::try_from(pack.metadata()?.len())? * 4 / 5;
        let _wound = flip_bit_at(&pack, late)?;
        let told = stored.alone.run(["verify", "--set", &stored.second])?.stdout;
        let frame = told.split_once(": frame ").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
        if frame.is_some_and(|frame: u32| frame > 0) {
            return Ok((pack, late));
        }
    }
    bail!("every pack has one frame")
}

/// Damage at different places in both repositories is no loss; at the same place it is.
#[test]
fn a_backup_that_no_repository_has_whole_is_told_from_one_that_is_lost() -> Result<()> {
    let stored = stored()?;
    let both = |status: &str| vec![status.to_owned(); 2];
    let (pack, last_frame) = pack_with_frames(&stored)?;
    let twins = stored.site.repository(2)?.packs(&stored.second)?;
    let twin = twins
        .iter()
        .find(|path| key_of(path).ok() == key_of(&pack).ok())
        .context("the pack in repository 2")?;

    let _first = flip_bit_at(&pack, FIRST_FRAME)?;
    let (statuses, restorable, hints) = conclusion(&stored)?;
    assert_eq!(statuses, ["invalid", "valid"]);
    assert_eq!(restorable, json!({ "alone": [2], "together": true }));
    assert!(hints.contains(&format!("backup {} can be restored", stored.second)), "{hints}");
    assert!(hints.contains("--repo=2") && hints.contains("repo-sync does not repair"), "{hints}");
    {
        let _elsewhere = flip_bit_at(twin, last_frame)?;
        let (statuses, restorable, hints) = conclusion(&stored)?;
        assert_eq!(statuses, both("invalid"));
        assert_eq!(restorable, json!({ "alone": [], "together": true }));
        assert!(hints.contains("without --repo, from several repositories together"), "{hints}");
        let text = stored.site.pgconvoy.run(["verify", "--set", &stored.second])?;
        let line = format!("backup: {}, restorable without --repo", stored.second);
        assert!(text.stdout.contains(&line), "{text}");
        restore_refuses(&stored, "alone", &[CHECKSUM])?;
        let copy = restore_takes_the_other(&stored, "together")?;
        comes_up_whole(&copy, &stored.expected)?;
    }
    let _same = flip_bit_at(twin, FIRST_FRAME)?;
    let (statuses, restorable, hints) = conclusion(&stored)?;
    assert_eq!(statuses, both("invalid"));
    assert_eq!(restorable, json!({ "alone": [], "together": false }));
    assert!(hints.contains("cannot be restored any more"), "{hints}");
    let copy = stored.site.copy("lost")?;
    let refused = stored.site.try_restore(copy.data(), &["--set", &stored.second])?;
    assert_refused_with_one_of(&refused, &[CHECKSUM])?;
    ensure!(refused.stderr.contains(&key_of(&pack)?), "the error does not name the pack\n{refused}");
    ensure!(!copy.data().join("global/pg_control").exists(), "a lost backup was published");
    let copy = stored.site.copy("before")?;
    stored.site.try_restore(copy.data(), &["--set", &stored.first])?.ok().map(drop)
}
