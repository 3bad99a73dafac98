//! Backups of every kind, killed at random moments and gone on with: the result is whole, and what was stored is not stored
//! again.
//!
//! The seed is printed and can be given again; `PGCONVOY_KILL_ROUNDS` asks for the long form.

mod support;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;
use support::checks::repo_report;
use support::repository::name_of;
use support::{
    Context, Json, Pgconvoy, Random, Result, Running, Site, SiteOptions, data, ensure, files, labels, limits,
    note, same_data,
};

/// Backups that were killed with packs left in both repositories, in full, differential and incremental ones by turns.
const RESUMED: u64 = 40;
const RESUMED_VARIABLE: &str = "PGCONVOY_KILL_ROUNDS";
/// A kill may come before the first pack or after the last word: so many times as many kills, and no more.
const KILLS_PER_RESUMED: u64 = 3;
/// A restore from each repository after every so many: the expensive proof.
const RESTORE_EVERY: u64 = 10;
/// What is stored beside data: footers, and pages that the server wrote between two attempts.
const OVERHEAD: u64 = 512 << 10;
const KINDS: [&str; 3] = ["full", "diff", "incr"];

fn wanted() -> Result<u64> {
    match std::env::var(RESUMED_VARIABLE) {
        Ok(text) => text.parse().with_context(|| format!("{RESUMED_VARIABLE}={text}")),
        Err(_) => Ok(RESUMED),
    }
}

/// Some tens of units, each slow enough to compress that a kill leaves some done and some not.
fn arguments(kind: &str) -> [String; 7] {
    let kind = format!("--type={kind}");
    let slow = ["--unit-size=1MiB", "--compress-type=zst", "--compress-level=9"];
    ["backup", &kind, "--output=json", "--delta", slow[0], slow[1], slow[2]].map(str::to_owned)
}

/// Bytes of packs by the name that they have below their label, as far as they are whole.
type Packs = BTreeMap<String, u64>;

fn packs(label: &Path) -> Result<Packs> {
    let root = label.join("pack");
    if !root.exists() {
        return Ok(Packs::new());
    }
    let whole = |path: &Path| path.file_name().is_some_and(|name| !name.to_string_lossy().contains('.'));
    files::walk(&root)?
        .iter()
        .filter(|path| path.is_file() && whole(path))
        .map(|path| Ok((path.strip_prefix(&root)?.display().to_string(), path.metadata()?.len())))
        .collect()
}

/// Labels that somebody began in a repository and nobody decided, with their packs, as far as they can be gone on with: a
/// manifest that is there belongs to whoever wrote it.
fn left_in(site: &Site, repo: u16) -> Result<BTreeMap<String, Packs>> {
    let stanza = site.repository(repo)?.stanza();
    let mut left = BTreeMap::new();
    for entry in std::fs::read_dir(stanza.join("backup"))? {
        let path = entry?.path();
        let name = name_of(&path);
        let is_decided = stanza.join("catalogue").join(&name).exists();
        if !is_decided && path.join("plan-0001").exists() && !path.join("manifest").exists() {
            left.insert(name, packs(&path)?);
        }
    }
    Ok(left)
}

/// The label that is unfinished in both repositories, and bytes of the packs that both have.
fn left_in_both(site: &Site) -> Result<Option<(String, u64)>> {
    let (one, two) = (left_in(site, 1)?, left_in(site, 2)?);
    ensure!(one.len() <= 1 && two.len() <= 1, "several backups are unfinished: {one:?} {two:?}");
    let both = one.into_iter().find_map(|(label, one)| Some((two.get(&label)?, label, one)));
    Ok(both.map(|(two, label, one)| {
        let bytes = one.iter().filter(|(name, _)| two.contains_key(*name)).map(|(_, bytes)| bytes).sum();
        (label, bytes)
    }))
}

fn has_manifest(site: &Site, label: &str) -> Result<bool> {
    let stanzas = [site.repository(1)?.stanza(), site.repository(2)?.stanza()];
    Ok(stanzas.iter().any(|stanza| stanza.join("backup").join(label).join("manifest").exists()))
}

fn stored(report: &Json) -> Result<u64> {
    repo_report(report, 1)?["bytes-stored"].as_u64().context("bytes-stored")
}

/// Every row gets new content, in space that is used again: what a backup stores is as large each time.
fn change(site: &Site) -> Result<()> {
    ["update item set text = md5(random()::text)", "vacuum (truncate off) item", "checkpoint"]
        .into_iter()
        .try_for_each(|step| site.cluster.psql(step).map(drop))
}

/// Starts a backup; returns when both repositories have its plan, or it is over.
fn begin(site: &Site, kind: &str) -> Result<Running> {
    let known = [plans(site, 1)?, plans(site, 2)?];
    let running = site.pgconvoy.start(arguments(kind))?;
    limits::wait_for("a plan in both repositories", limits::COMMAND, || {
        let is_there = plans(site, 1)? > known[0] && plans(site, 2)? > known[1];
        Ok((is_there || running.has_ended()?).then_some(()))
    })?;
    Ok(running)
}

/// Kills a backup so long after it was planned; whether it had ended well before.
fn kill(site: &Site, kind: &str, moment: Duration) -> Result<bool> {
    let running = begin(site, kind)?;
    let planned = running.elapsed();
    let killed = running.kill_after(planned + moment)?;
    ensure!(killed.code.is_none_or(|code| code == 0), "it failed before it was killed\n{killed}");
    Ok(killed.code.is_some())
}

/// The newest plan of all, by label and number.
fn plans(site: &Site, repo: u16) -> Result<Option<String>> {
    let backups = site.repository(repo)?.stanza().join("backup");
    if !backups.exists() {
        return Ok(None);
    }
    let all = files::walk(&backups)?;
    let plans = all.iter().filter(|path| name_of(path).starts_with("plan-"));
    Ok(plans.filter_map(|path| path.strip_prefix(&backups).ok()).map(|path| path.display().to_string()).max())
}

/// What an undisturbed backup of a kind takes and stores.
struct Undisturbed {
    /// From its plan to its end.
    copying: Duration,
    stored: u64,
}

impl Undisturbed {
    fn measure(site: &Site, kind: &str) -> Result<Undisturbed> {
        let running = begin(site, kind)?;
        let planned = running.elapsed();
        let finished = running.wait(limits::COMMAND)?.ok()?;
        let copying = finished.elapsed.saturating_sub(planned);
        Ok(Undisturbed { copying, stored: stored(&finished.json()?)? })
    }
}

/// The backup under `label` is resumed, perhaps killed once more, and comes to its end without storing anything twice.
fn resume(
    site: &Site,
    kind: &str,
    label: &str,
    usual: &Undisturbed,
    again_after: Option<Duration>,
) -> Result<()> {
    let was_killed = match again_after {
        Some(moment) => !kill(site, kind, moment)?,
        None => false,
    };
    let Some((still, left)) = left_in_both(site)? else {
        // The second attempt came to its end before it was killed, or so far that nobody may go on with it.
        let is_listed = again_after.is_some() && labels(&site.pgconvoy, 1)?.contains(&label.to_owned());
        ensure!(is_listed || was_killed && has_manifest(site, label)?, "nothing is left of {label}");
        return Ok(());
    };
    ensure!(still == label, "{still} instead of {label} is unfinished");
    let report = site.pgconvoy.run(arguments(kind))?.ok()?.json()?;
    note(format!("{kind} {label}: {left} bytes were left: {report}"));
    ensure!(report["label"] == label && report["type"] == kind, "{report}");
    let again = stored(&report)?;
    let most = usual.stored + OVERHEAD;
    ensure!(again + left <= most, "{again} bytes stored beside {left}, {most} is what it takes: {report}");
    ensure!(left < OVERHEAD || report["units"]["resumed"].as_u64() > Some(0), "{report}");
    site.pgconvoy.run(["verify", "--set", label])?.ok().map(drop)
}

#[test]
fn a_killed_backup_is_gone_on_with_and_stores_nothing_twice() -> Result<()> {
    let site = Site::start_with(&SiteOptions { without_data: true, ..SiteOptions::default() })?;
    let mut random = Random::from_environment()?;
    site.cluster.psql("create table item as select n, md5(n::text) text from generate_series(1, 60000) n")?;
    change(&site)?;
    let mut usual = BTreeMap::new();
    for kind in KINDS {
        change(&site)?;
        usual.insert(kind, Undisturbed::measure(&site, kind)?);
    }
    let (mut resumed, mut kills) = (0, 0);
    while resumed < wanted()? {
        kills += 1;
        ensure!(kills <= wanted()? * KILLS_PER_RESUMED, "{resumed} of {kills} kills left something");
        let kind = KINDS[usize::try_from(resumed % 3)?];
        change(&site)?;
        kill(&site, kind, random.moment_within(usual[kind].copying))?;
        let left = left_in_both(&site)?;
        let Some((label, _)) = left.filter(|(_, bytes)| *bytes > 0) else { continue };
        if random.below(6) == 0 {
            // Another kind comes first: it gives up what was left, and no other backup may suffer from that.
            let other = KINDS[usize::try_from((resumed + 1) % 3)?];
            let report = site.pgconvoy.run(arguments(other))?.ok()?.json()?;
            ensure!(report["label"] != label.as_str() && report["units"]["resumed"] == 0, "{report}");
            continue;
        }
        let again_after = (random.below(4) == 0).then(|| random.moment_within(usual[kind].copying / 2));
        resume(&site, kind, &label, &usual[kind], again_after).with_context(|| format!("kill {kills}"))?;
        resumed += 1;
        if resumed % RESTORE_EVERY == 0 {
            restores_from_each(&site, &label)?;
        }
    }
    note(format!("{resumed} backups were resumed after {kills} kills"));
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

/// The same program under another version: as long, so that its bytes can take the place of those.
const OURS: &[u8] = env!("CARGO_PKG_VERSION").as_bytes();
const OTHER: &str = "9.9.9";

fn of_another_version(site: &Site) -> Result<Pgconvoy> {
    ensure!(OTHER.len() == OURS.len(), "another length");
    let mut program = std::fs::read(site.pgconvoy.binary())?;
    let places: Vec<usize> =
        program.windows(OURS.len()).enumerate().filter(|(_, at)| *at == OURS).map(|(at, _)| at).collect();
    places.iter().for_each(|at| program[*at..at + OTHER.len()].copy_from_slice(OTHER.as_bytes()));
    let path = site.scratch.join("pgconvoy-of-another-version");
    std::fs::write(&path, program)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    Ok(site.pgconvoy.clone().with_binary(&path))
}

#[test]
fn another_version_of_the_program_goes_on_with_what_one_has_begun() -> Result<()> {
    let site = Site::start()?;
    let expected = data::fingerprint(&site.cluster)?;
    let mut left = None;
    for round in 1..=20 {
        kill(&site, "full", Duration::from_millis(150 * round))?;
        left = left_in_both(&site)?.filter(|(_, bytes)| *bytes > 0);
        if left.is_some() {
            break;
        }
    }
    let (label, bytes) = left.context("no kill left a pack in both repositories")?;
    note(format!("{bytes} bytes are left of {label}"));
    let other = of_another_version(&site)?;
    ensure!(other.run(["version"])?.ok()?.stdout.contains(OTHER), "it is the same version");
    let report = other.run(arguments("full"))?.ok()?.json()?;
    ensure!(report["label"] == label.as_str(), "{label} is not gone on with: {report}");
    ensure!(report["units"]["resumed"].as_u64() > Some(0), "{report}");
    let info = site.pgconvoy.run(["info", "--output=json"])?.ok()?.json()?;
    ensure!(info[0]["backup"][0]["backrest"]["version"] == OTHER, "{info}");
    let copy = site.restore("copy", &["--type=immediate", "--target-action=promote"])?;
    copy.start_and_recover()?;
    same_data(&copy, &expected)
}
