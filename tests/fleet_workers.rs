//! Workers that are drained, that are told to end, or whose host means other repositories: what becomes of a backup under way.

mod support;

use rustix::process::Signal;
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};
use support::fleet::Fleet;
use support::middle::{
    SLOW, WORKER_LEASE, beside_the_source, goes_on, is_done, limited, restores_from_each, site, slow,
    under_way,
};
use support::units::UnitSeen;
use support::{Repo, Result, Site, data, ensure, limits, note};

/// What that worker has done of the job, and what it holds.
fn of_worker(fleet: &Fleet, site: &Site, id: &str, worker: &str) -> Result<(usize, usize)> {
    let theirs: Vec<UnitSeen> =
        fleet.units(site, id)?.into_iter().filter(|unit| unit.worker == worker).collect();
    let done = theirs.iter().filter(|unit| unit.is_done).count();
    Ok((done, theirs.len() - done))
}

fn await_empty_hands(fleet: &Fleet, site: &Site, id: &str, worker: &str) -> Result<usize> {
    limits::wait_for(&format!("{worker} to hold nothing"), limits::SOON, || {
        let (done, held) = of_worker(fleet, site, id, worker)?;
        Ok((held == 0).then_some(done))
    })
}

#[test]
fn a_drained_worker_gets_nothing_until_it_may_again_whoever_leads() -> Result<()> {
    let site = site()?;
    let (mut fleet, id) = under_way(&site, &slow())?;
    let other = fleet.workers[beside_the_source(&fleet, &id)?].name.clone();
    fleet.client.run(["workers", "drain", &other])?.ok()?;
    let done = await_empty_hands(&fleet, &site, &id, &other)?;
    let before = fleet.job(&id)?;
    let leader = fleet.leader()?;
    fleet.coordinators[leader].kill()?;
    goes_on(&fleet, &site, &before, Instant::now())?;
    assert_eq!(of_worker(&fleet, &site, &id, &other)?, (done, 0), "the next leader gives it something");
    assert_eq!(fleet.workers_in_state("draining")?, std::slice::from_ref(&other));
    fleet.client.run(["workers", "undrain", &other])?.ok()?;
    limits::wait_for("units of the worker that may work again", limits::SOON, || {
        Ok((of_worker(&fleet, &site, &id, &other)?.0 > done).then_some(()))
    })?;
    is_done(&fleet.await_end(&id)?)
}

#[test]
fn a_worker_that_is_told_to_end_parts_with_its_units_before_its_lease_is_over() -> Result<()> {
    let site = site()?;
    let expected = data::fingerprint(&site.cluster)?;
    let (mut fleet, id) = under_way(&site, &slow())?;
    let other = beside_the_source(&fleet, &id)?;
    let name = fleet.workers[other].name.clone();
    let begun = Instant::now();
    fleet.workers[other].stop()?.ok()?;
    note(format!("it ended after {:?}", begun.elapsed()));
    let (done, held) = of_worker(&fleet, &site, &id, &name)?;
    ensure!(held == 0 && done > 0, "{done} are done, {held} are held");
    ensure!(begun.elapsed() < WORKER_LEASE, "as if it had been killed: {:?}", begun.elapsed());
    is_done(&fleet.await_end(&id)?)?;
    restores_from_each(&site, &expected)
}

#[test]
fn at_a_second_signal_a_worker_ends_at_once_and_says_so() -> Result<()> {
    /// Units of this size take longer than a lease.
    const LARGE: [&str; 2] = ["--unit-size=4MiB", "--compress-type=none"];
    const AT_ONCE: Duration = Duration::from_secs(8);
    let site = site()?;
    let fleet = &mut Fleet::start(&site, &limited("128KiB"))?;
    let id = fleet.submit_backup(&LARGE)?;
    let other = limits::wait_for("units in the hands of both", limits::SOON, || {
        if fleet.job(&id)?["source"].is_null() {
            return Ok(None);
        }
        let other = beside_the_source(fleet, &id)?;
        let name = fleet.workers[other].name.clone();
        Ok((of_worker(fleet, &site, &id, &name)?.1 > 0).then_some(other))
    })?;
    let name = fleet.workers[other].name.clone();
    fleet.workers[other].signal(Signal::TERM)?;
    fleet.workers[other].await_log("draining")?;
    let begun = Instant::now();
    fleet.workers[other].signal(Signal::TERM)?;
    await_empty_hands(fleet, &site, &id, &name)?;
    note(format!("its units were free after {:?}", begun.elapsed()));
    ensure!(begun.elapsed() < AT_ONCE, "after {:?} only", begun.elapsed());
    fleet.client.run(["job", "cancel", &id])?.ok()?;
    Ok(())
}

/// A backup whose session is worker 0's; worker 1 comes when it is under way.
fn begun_by_worker_0(fleet: &mut Fleet) -> Result<String> {
    fleet.coordinators.iter_mut().try_for_each(|coordinator| coordinator.start())?;
    fleet.workers[0].start()?;
    fleet.await_workers(1)?;
    let id = fleet.submit_backup(&SLOW)?;
    fleet.await_units(&id, 5)?;
    fleet.workers[1].start()?;
    Ok(id)
}

#[test]
fn a_worker_that_means_other_repositories_stores_nothing_in_them() -> Result<()> {
    let site = site()?;
    let expected = data::fingerprint(&site.cluster)?;
    let mut fleet = Fleet::prepare(&site, &slow())?;
    let [one, two] = &site.repos[..] else { panic!("two repositories") };
    let swapped = [Repo { number: one.number, ..two.clone() }, Repo { number: two.number, ..one.clone() }];
    fleet.configure_worker(&site, 1, &site.config.clone().repos(&swapped))?;
    let id = begun_by_worker_0(&mut fleet)?;
    let end = fleet.await_end(&id)?;
    is_done(&end)?;
    let warnings = end["result"]["warnings"].to_string();
    ensure!(warnings.contains("worker-1 takes no part"), "{end}");
    ensure!(warnings.contains("is not the repository"), "{end}");
    restores_from_each(&site, &expected)
}

#[test]
fn a_worker_that_loses_its_way_to_a_repository_leaves_the_rest_to_the_others() -> Result<()> {
    let site = site()?;
    let expected = data::fingerprint(&site.cluster)?;
    let mut fleet = Fleet::prepare(&site, &slow())?;
    // Worker 1 reaches repository 2 by a link, as others do by a mount.
    let [one, two] = &site.repos[..] else { panic!("two repositories") };
    let way = site.scratch.join("way");
    symlink(&two.path, &way)?;
    let config = site.config.clone().repos(&[one.clone(), two.clone().at(&way)]);
    fleet.configure_worker(&site, 1, &config)?;
    let id = begun_by_worker_0(&mut fleet)?;
    limits::wait_for("units of worker 1", limits::SOON, || {
        Ok((of_worker(&fleet, &site, &id, "worker-1")?.0 > 2).then_some(()))
    })?;
    std::fs::remove_file(&way)?;
    std::fs::write(&way, "no directory")?;
    let end = fleet.await_end(&id)?;
    is_done(&end)?;
    let warnings = end["result"]["warnings"].to_string();
    ensure!(warnings.contains("worker-1 takes no further part, as others store there: repo 2"), "{end}");
    restores_from_each(&site, &expected)
}
