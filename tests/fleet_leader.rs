//! Leaders of a fleet that stop in good order, or stop at the worst of moments and come back.

mod support;

use std::path::{Path, PathBuf};
use std::time::Instant;
use support::bad_disk::{BadDisk, Call, Fault};
use support::fleet::{Fleet, FleetOptions};
use support::middle::{goes_on, is_done, kept_one_session, log_statements, site, slow, under_way};
use support::units::were_not_done_again;
use support::{Context, Json, Result, Site, SiteOptions, ensure, labels, limits};

#[test]
fn a_leader_that_is_told_to_stop_hands_the_same_backup_over() -> Result<()> {
    let site = site()?;
    log_statements(&site.cluster)?;
    let (mut fleet, id) = under_way(&site, &slow())?;
    let before = fleet.job(&id)?;
    let accepted = fleet.accepted(&site, &id)?;
    let leader = fleet.leader()?;
    let told = Instant::now();
    fleet.coordinators[leader].stop()?.ok()?;
    ensure!(!fleet.leads(leader)?, "it has ended without giving the leadership back");
    goes_on(&fleet, &site, &before, told)?;
    let end = fleet.await_end(&id)?;
    is_done(&end)?;
    assert_eq!(end["label"], before["label"], "the same backup goes on");
    were_not_done_again(&site, before["label"].as_str().context("a label")?, &accepted)?;
    kept_one_session(&site.cluster)?;
    site.pgconvoy.run(["verify"])?.ok()?;
    Ok(())
}

const REPOSITORIES: [u16; 2] = [1, 2];

/// The catalogue entry of a label in each repository.
fn entries(site: &Site, label: &str) -> Result<Vec<PathBuf>> {
    REPOSITORIES.iter().map(|number| Ok(site.repository(*number)?.catalogue_entry(label))).collect()
}

/// Whether an entry is on its way, under another name.
fn is_written(entry: &Path) -> Result<bool> {
    let catalogue = entry.parent().context("a catalogue")?;
    let Ok(names) = std::fs::read_dir(catalogue) else { return Ok(false) };
    for name in names {
        if name?.file_name().to_string_lossy().starts_with(".pgconvoy-") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// One worker, and a first coordinator that leads and has some trouble with every repository's catalogue.
fn with_a_leader_on_a_bad_disk(site: &Site) -> Result<(Fleet, BadDisk)> {
    let disk = BadDisk::below(&site.scratch, &site.scratch.join("repo?/main/catalogue"))?;
    let mut fleet = Fleet::prepare(site, &FleetOptions { workers: 1, ..FleetOptions::default() })?;
    fleet.coordinators[0].program = disk.of(&fleet.coordinators[0].program);
    fleet.coordinators[0].start()?;
    ensure!(fleet.leader()? == 0, "another one leads");
    fleet.coordinators[1].start()?;
    fleet.workers[0].start()?;
    fleet.await_workers(1)?;
    Ok((fleet, disk))
}

#[test]
fn a_leader_that_slept_in_the_middle_of_publishing_finds_that_the_next_one_gave_up() -> Result<()> {
    let site = Site::start_with(&SiteOptions { without_data: true, ..SiteOptions::default() })?;
    let (mut fleet, disk) = with_a_leader_on_a_bad_disk(&site)?;
    disk.suffers(&[Fault::slow(Call::Name, limits::COMMAND)])?;
    let id = fleet.submit_backup(&[])?;
    let job = fleet.await_job(&id, "a label", |job| job["label"].is_string())?;
    let label = job["label"].as_str().context("a label")?;
    let entries = entries(&site, label)?;
    limits::wait_for("entries that only need their names", limits::SOON, || {
        let written = entries.iter().map(|entry| is_written(entry)).collect::<Result<Vec<bool>>>()?;
        Ok(written.into_iter().all(|one| one).then_some(()))
    })?;
    ensure!(!entries.iter().any(|entry| entry.exists()), "it is published");
    // Without the worker's answers the next leader gets no further than this one.
    fleet.workers[0].freeze()?;
    fleet.coordinators[0].freeze()?;
    limits::wait_for("another leader", limits::SOON, || Ok((fleet.leader()? == 1).then_some(())))?;
    let path = format!("jobs/{id}");
    limits::wait_for("the end of the job", limits::SOON, || {
        // Until it has taken over, it has no jobs.
        let _ = fleet.post(&site, 1, "operator", &format!("{path}/cancel"));
        let job = fleet.get(&site, 1, "operator", &path).unwrap_or_default();
        Ok((job["state"] == "cancelled").then_some(()))
    })?;
    let voids: Vec<Vec<u8>> = entries.iter().map(std::fs::read).collect::<Result<_, _>>()?;
    disk.mend()?;
    fleet.coordinators[0].thaw()?;
    fleet.workers[0].thaw()?;
    limits::wait_for("the end of the old leader's attempt", limits::SOON, || {
        let written = entries.iter().map(|entry| is_written(entry)).collect::<Result<Vec<bool>>>()?;
        Ok((!written.into_iter().any(|one| one)).then_some(()))
    })?;
    fleet.coordinators[0].await_log("this coordinator leads no more")?;
    for (number, (entry, void)) in REPOSITORIES.into_iter().zip(entries.iter().zip(&voids)) {
        ensure!(std::fs::read(entry)? == *void, "{} was written again", entry.display());
        assert!(labels(&site.pgconvoy, number)?.is_empty());
        let shown = site
            .only_repos(&[number])?
            .run(["repo-get", &format!("main/catalogue/{label}")])?
            .ok()?
            .json()?;
        ensure!(
            shown["void"]["reason"].as_str().is_some_and(|reason| reason.contains("cancelled")),
            "{shown}"
        );
    }
    is_well(&site, &fleet)
}

/// The next backup succeeds, and is the only one.
fn is_well(site: &Site, fleet: &Fleet) -> Result<()> {
    fleet.await_workers(1)?;
    let id = fleet.submit_backup(&[])?;
    let end: Json = fleet.await_end(&id)?;
    is_done(&end)?;
    for number in REPOSITORIES {
        assert_eq!(labels(&site.pgconvoy, number)?, [end["label"].as_str().context("a label")?]);
    }
    site.pgconvoy.run(["verify"])?.ok()?;
    Ok(())
}
