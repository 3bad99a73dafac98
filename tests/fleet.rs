//! A fleet of real processes: coordinators with etcd, workers over QUIC, jobs from the command line; and what they survive.

mod support;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use support::damage::flip_bit;
use support::fleet::{Fleet, FleetOptions};
use support::middle::{
    Remainder, SLOW, beside_the_source, goes_on, is_done, kept_one_session, limited, log_statements,
    restores_from_each, site, slow, source_of, under_way,
};
use support::units::{Attempt, in_manifest, stored, were_not_done_again};
use support::{Context, Json, Program, Result, assert_refused, data, ensure, labels, limits, same_data};

#[test]
fn a_backup_is_a_job_that_all_workers_share_and_that_is_followed_to_its_end() -> Result<()> {
    let site = site()?;
    let expected = data::fingerprint(&site.cluster)?;
    let fleet = Fleet::start(&site, &FleetOptions::default())?;
    let report =
        fleet.client.run(["backup", "--type=full", "--unit-size=1MiB", "--output=json"])?.ok()?.json()?;
    assert_eq!(report["status"], "ok", "{report}");
    let workers = report["workers"].as_array().context("workers")?;
    ensure!(workers.len() == 2, "only some workers took part: {report}");
    for worker in workers {
        ensure!(worker["units"].as_u64() > Some(0), "{report}");
    }
    let listed = fleet.client.run(["job", "list", "--output=json"])?.ok()?.json()?;
    assert_eq!(listed[0]["state"], "done", "{listed}");
    assert_eq!(listed[0]["label"], report["label"], "{listed}");
    restores_from_each(&site, &expected)
}

#[test]
fn a_leader_that_is_killed_in_mid_backup_is_replaced_and_the_same_backup_ends() -> Result<()> {
    let site = site()?;
    let expected = data::fingerprint(&site.cluster)?;
    log_statements(&site.cluster)?;
    let (mut fleet, id) = under_way(&site, &slow())?;
    let before = fleet.job(&id)?;
    let accepted = fleet.accepted(&site, &id)?;
    let leader = fleet.leader()?;
    fleet.coordinators[leader].kill()?;
    goes_on(&fleet, &site, &before, Instant::now())?;
    let end = fleet.await_end(&id)?;
    is_done(&end)?;
    assert_eq!(end["label"], before["label"], "the same backup goes on");
    were_not_done_again(&site, before["label"].as_str().context("a label")?, &accepted)?;
    kept_one_session(&site.cluster)?;
    let result = &end["result"];
    let (read, database) = (result["bytes"]["read"].as_u64(), result["bytes"]["database"].as_u64());
    let (read, database) = (read.context("bytes read")?, database.context("bytes")?);
    ensure!(read <= database + database / 20, "accepted units were read again: {result}");
    assert_eq!(labels(&site.pgconvoy, 1)?.len(), 1);
    restores_from_each(&site, &expected)
}

#[test]
fn an_incremental_backup_rests_on_the_same_one_under_the_next_leader() -> Result<()> {
    let site = site()?;
    let mut fleet = Fleet::start(&site, &limited("4MiB"))?;
    fleet.client.run(["backup", "--type=full"])?.ok()?;
    let full = labels(&site.pgconvoy, 1)?.pop().context("the full backup")?;
    site.cluster.psql("update document set title = 'changed' where id % 50 = 0")?;
    site.cluster.psql("checkpoint")?;
    let expected = data::fingerprint(&site.cluster)?;
    let id = fleet.submit("--type=incr", &["--delta", "--unit-size=1MiB"])?;
    fleet.await_units(&id, 10)?;
    let leader = fleet.leader()?;
    fleet.coordinators[leader].kill()?;
    let end = fleet.await_end(&id)?;
    is_done(&end)?;
    let (result, number) = (&end["result"], |value: &Json| value.as_u64().context("bytes"));
    ensure!(result["type"] == "incr" && result["prior"] == full.as_str(), "{result}");
    ensure!(number(&result["bytes"]["changed"])? * 4 < number(&result["bytes"]["database"])?, "{result}");
    restores_from_each(&site, &expected)
}

#[test]
fn a_worker_that_is_killed_costs_only_its_share() -> Result<()> {
    let site = site()?;
    let expected = data::fingerprint(&site.cluster)?;
    let mut fleet = Fleet::start(&site, &slow())?;
    let id = fleet.submit_backup(&["--unit-size=1MiB", "--compress-type=none"])?;
    let under_way = fleet.await_units(&id, 10)?;
    let other = beside_the_source(&fleet, &id)?;
    fleet.workers[other].kill()?;
    let left = Remainder::of(&under_way)?;
    is_done(&fleet.await_end(&id)?)?;
    left.cost_a_share_and_a_lease()?;
    restores_from_each(&site, &expected)
}

#[test]
fn the_worker_that_keeps_the_session_is_the_backup() -> Result<()> {
    let site = site()?;
    let (mut fleet, id) = under_way(&site, &slow())?;
    let source = source_of(&fleet, &id)?;
    let number = fleet.workers.iter().position(|worker| worker.name == source).context("the source")?;
    fleet.workers[number].kill()?;
    fleet.workers[number].start()?;
    let end = fleet.await_end(&id)?;
    assert_eq!(end["state"], "failed", "{end}");
    assert!(labels(&site.pgconvoy, 1)?.is_empty() && labels(&site.pgconvoy, 2)?.is_empty());
    let id = fleet.submit_backup(&[])?;
    is_done(&fleet.await_end(&id)?)
}

#[test]
fn a_zombie_changes_nothing_when_it_wakes() -> Result<()> {
    let site = site()?;
    let expected = data::fingerprint(&site.cluster)?;
    let (mut fleet, id) = under_way(&site, &slow())?;
    let label = fleet.job(&id)?["label"].as_str().context("a label")?.to_owned();
    let zombie = beside_the_source(&fleet, &id)?;
    fleet.workers[zombie].freeze()?;
    let name = fleet.workers[zombie].name.clone();
    let seen = fleet.units(&site, &id)?.into_iter();
    let held: BTreeSet<Attempt> =
        seen.filter(|unit| !unit.is_done && unit.worker == name).map(|unit| unit.attempt).collect();
    let redone = limits::wait_for("units of the zombie, done by another", limits::SOON, || {
        let seen = fleet.units(&site, &id)?.into_iter().filter(|unit| unit.is_done && unit.worker != name);
        let done: BTreeSet<u64> = seen.map(|unit| unit.attempt.unit).collect();
        let redone: Vec<Attempt> = held.iter().filter(|lost| done.contains(&lost.unit)).copied().collect();
        Ok((!redone.is_empty() && redone.len() == held.len()).then_some(redone))
    })?;
    ensure!(fleet.workers_in_state("lost")?.contains(&name), "its lease is not over");
    // The job does not end before the zombie has shown what it does.
    fleet.client.run(["job", "pause", &id])?.ok()?;
    let packs = |repo| -> Result<BTreeSet<Attempt>> {
        Ok(stored(&site, repo, &label)?.into_iter().filter(|pack| held.contains(pack)).collect())
    };
    let before = [packs(1)?, packs(2)?];
    fleet.workers[zombie].thaw()?;
    let late = limits::wait_for("packs that the zombie stores", limits::SOON, || {
        let late = packs(1)?.difference(&before[0]).copied().collect::<BTreeSet<_>>();
        let elsewhere = packs(2)?.difference(&before[1]).copied().collect::<BTreeSet<_>>();
        Ok((!late.is_empty() && late == elsewhere).then_some(late))
    })?;
    fleet.await_workers(fleet.workers.len())?;
    fleet.client.run(["job", "resume", &id])?.ok()?;
    is_done(&fleet.await_end(&id)?)?;
    for repo in [1, 2] {
        let named = in_manifest(&site, repo, &label)?;
        for lost in late.iter().chain(&redone) {
            ensure!(
                !named.contains_key(lost),
                "repository {repo}: the manifest names {lost:?}, which {name} stored late"
            );
            let others = named.iter().filter(|(other, by)| other.unit == lost.unit && **by != name);
            ensure!(others.count() == 1, "repository {repo}: nobody else did unit {}: {named:?}", lost.unit);
        }
    }
    restores_from_each(&site, &expected)
}

#[test]
fn a_worker_that_is_cut_off_is_given_up_and_comes_back_when_the_network_is_healed() -> Result<()> {
    let site = site()?;
    let expected = data::fingerprint(&site.cluster)?;
    let (fleet, id) = under_way(&site, &FleetOptions { with_network: true, ..slow() })?;
    let other = beside_the_source(&fleet, &id)?;
    let name = fleet.workers[other].name.clone();
    let under_way = fleet.job(&id)?;
    fleet.cut(other)?;
    let left = Remainder::of(&under_way)?;
    limits::wait_for("the end of its lease", limits::SOON, || {
        Ok(fleet.workers_in_state("lost")?.contains(&name).then_some(()))
    })?;
    fleet.heal(other)?;
    fleet.await_workers(fleet.workers.len())?;
    is_done(&fleet.await_end(&id)?)?;
    left.cost_a_share_and_a_lease()?;
    restores_from_each(&site, &expected)
}

#[test]
fn a_source_that_is_cut_off_keeps_its_session_and_the_same_backup_ends() -> Result<()> {
    let site = site()?;
    let expected = data::fingerprint(&site.cluster)?;
    let (fleet, id) = under_way(&site, &FleetOptions { with_network: true, ..slow() })?;
    let label = fleet.job(&id)?["label"].clone();
    let source = source_of(&fleet, &id)?;
    let number = fleet.workers.iter().position(|worker| worker.name == source).context("the source")?;
    fleet.cut(number)?;
    limits::wait_for("the end of its lease", limits::SOON, || {
        Ok(fleet.workers_in_state("lost")?.contains(&source).then_some(()))
    })?;
    fleet.heal(number)?;
    let end = fleet.await_end(&id)?;
    is_done(&end)?;
    assert_eq!(end["label"], label);
    restores_from_each(&site, &expected)
}

#[test]
fn a_leader_that_slept_past_its_lease_cannot_publish_what_the_next_one_gave_up() -> Result<()> {
    let site = site()?;
    let (mut fleet, id) = under_way(&site, &slow())?;
    let before = fleet.job(&id)?;
    let leader = fleet.leader()?;
    fleet.coordinators[leader].freeze()?;
    let frozen = Instant::now();
    limits::wait_for("another leader", limits::SOON, || Ok((fleet.leader()? != leader).then_some(())))?;
    goes_on(&fleet, &site, &before, frozen)?;
    fleet.client.run(["job", "cancel", &id])?.ok()?;
    let end = fleet.await_end(&id)?;
    assert_eq!(end["state"], "cancelled", "{end}");
    fleet.coordinators[leader].thaw()?;
    // It wakes as a follower; a backup of the fleet works with it there.
    let id = fleet.submit_backup(&[])?;
    is_done(&fleet.await_end(&id)?)?;
    for number in [1, 2] {
        assert_eq!(labels(&site.pgconvoy, number)?.len(), 1, "what was given up was published");
    }
    site.pgconvoy.run(["verify"])?.ok()?;
    Ok(())
}

#[test]
fn etcd_may_restart_and_lose_its_quorum_for_a_while() -> Result<()> {
    let site = site()?;
    let expected = data::fingerprint(&site.cluster)?;
    let options = FleetOptions { etcd_nodes: 3, ..slow() };
    let (mut fleet, id) = under_way(&site, &options)?;
    let before = fleet.job(&id)?;
    fleet.etcd.kill(0)?;
    fleet.etcd.kill(1)?;
    let taken = Instant::now();
    limits::wait_for("20 s without a quorum", limits::SOON, || {
        Ok((taken.elapsed() >= Duration::from_secs(20)).then_some(()))
    })?;
    fleet.etcd.launch(0)?;
    fleet.etcd.launch(1)?;
    fleet.etcd.await_healthy([0, 1, 2])?;
    goes_on(&fleet, &site, &before, Instant::now())?;
    is_done(&fleet.await_end(&id)?)?;
    restores_from_each(&site, &expected)
}

#[test]
fn a_job_is_paused_resumed_and_cancelled() -> Result<()> {
    let site = site()?;
    let fleet = Fleet::start(&site, &slow())?;
    let id = fleet.submit_backup(&SLOW)?;
    fleet.await_units(&id, 5)?;
    fleet.client.run(["job", "pause", &id])?.ok()?;
    let paused = fleet.await_job(&id, "paused, with nothing under way", |job| {
        job["state"] == "paused" && job["units"]["leased"] == 0
    })?;
    let again = fleet.job(&id)?;
    assert_eq!(again["units"]["done"], paused["units"]["done"], "nothing is done while it is paused");
    fleet.client.run(["job", "resume", &id])?.ok()?;
    let done = paused["units"]["done"].as_u64().context("units")?;
    fleet.await_units(&id, done + 5)?;
    fleet.client.run(["job", "cancel", &id])?.ok()?;
    let end = fleet.await_end(&id)?;
    assert_eq!(end["state"], "cancelled", "{end}");
    assert!(labels(&site.pgconvoy, 1)?.is_empty());
    Ok(())
}

#[test]
fn a_server_that_dies_ends_its_backup_and_the_next_one_succeeds() -> Result<()> {
    const DB: [u64; 2] = [56, 57];
    let site = site()?;
    let fleet = Fleet::start(&site, &slow())?;
    let id = fleet.submit_backup(&SLOW)?;
    fleet.await_units(&id, 5)?;
    site.cluster.crash()?;
    let end = fleet.await_end(&id)?;
    assert_eq!(end["state"], "failed", "{end}");
    ensure!(end["error"]["code"].as_u64().is_some_and(|code| DB.contains(&code)), "{end}");
    site.cluster.start()?;
    let id = fleet.submit_backup(&[])?;
    is_done(&fleet.await_end(&id)?)?;
    assert_eq!(labels(&site.pgconvoy, 1)?.len(), 1);
    Ok(())
}

#[test]
fn verify_and_restore_are_jobs_of_a_worker() -> Result<()> {
    let site = site()?;
    let expected = data::fingerprint(&site.cluster)?;
    let fleet = Fleet::start(&site, &FleetOptions::default())?;
    fleet.client.run(["backup", "--type=full"])?.ok()?;
    let verified = fleet.client.run(["verify", "--output=json"])?.ok()?.json()?;
    assert_eq!(verified[0]["status"], "ok", "{verified}");
    {
        let label = labels(&site.pgconvoy, 1)?.remove(0);
        let _wound = flip_bit(&site.repository(1)?.packs(&label)?[0])?;
        let verified = fleet.client.run(["verify"])?;
        assert_refused(&verified, 26)?;
        let told = format!("backup: {label}, restorable from repo2 alone");
        ensure!(verified.stdout.contains(&told) && verified.stderr.contains("--repo=2"), "{verified}");
    }
    let copy = site.copy("copy")?;
    let path = format!("--pg-path={}", copy.data().display());
    let arguments = ["restore", "--worker=worker-1", &path, "--type=immediate", "--target-action=promote"];
    fleet.client.run(arguments)?.ok()?;
    copy.start_and_recover()?;
    same_data(&copy, &expected)
}

#[test]
fn a_worker_of_another_fleet_is_refused_and_told() -> Result<()> {
    let site = site()?;
    let mut fleet = Fleet::start(&site, &FleetOptions { workers: 1, ..FleetOptions::default() })?;
    let mut stranger = fleet.stranger(&site, "worker-7")?;
    stranger.start()?;
    let started = Instant::now();
    limits::wait_for("some attempts of the stranger", limits::SOON, || {
        Ok((started.elapsed() >= Duration::from_secs(5)).then_some(()))
    })?;
    assert_eq!(fleet.workers_in_state("up")?, ["worker-0"]);
    let said = stranger.stop()?;
    ensure!(said.stderr.contains("identity"), "nobody says why\n{said}");
    let leader = fleet.leader()?;
    fleet.coordinators[leader].await_log("a peer was turned away")?;
    fleet.coordinators[leader].await_log("identity")?;
    // The fleet's own are served all the same.
    fleet.client.run(["backup", "--type=full"])?.ok()?;
    fleet.workers[0].stop()?.ok()?;
    Ok(())
}

#[test]
fn two_backups_of_one_stanza_never_run_at_once_and_the_most_urgent_one_is_next() -> Result<()> {
    let site = site()?;
    let fleet = Fleet::start(&site, &limited("4MiB"))?;
    let first = fleet.submit_backup(&SLOW)?;
    let later = fleet.submit("--type=incr", &[])?;
    let urgent = fleet.submit("--type=incr", &[])?;
    fleet.await_units(&first, 5)?;
    for waiting in [&later, &urgent] {
        assert_eq!(fleet.job(waiting)?["state"], "queued");
    }
    let told = fleet.client.run(["job", "priority", &urgent, "7", "--output=json"])?.ok()?.json()?;
    assert_eq!(told["priority"], 7, "{told}");
    follows_to_the_end(&fleet, &first)?;
    is_done(&fleet.job(&first)?)?;
    let (later, urgent) = (fleet.await_end(&later)?, fleet.await_end(&urgent)?);
    is_done(&later)?;
    is_done(&urgent)?;
    let time = |job: &Json, which: &str| job[which].as_str().map(str::to_owned).context("a time");
    ensure!(time(&urgent, "created")? >= time(&later, "created")?, "{later}, then {urgent}");
    ensure!(time(&urgent, "finished")? <= time(&later, "started")?, "{later}, before {urgent}");
    Ok(())
}

/// Whoever follows a job on a terminal sees it come nearer to its end.
fn follows_to_the_end(fleet: &Fleet, id: &str) -> Result<()> {
    let follow = format!(
        "{} --config={} job follow {id}",
        fleet.client.binary().display(),
        fleet.client.config_file().display()
    );
    // Its terminal is a real one, and what appears there is written to ours.
    let script = Program::new("script")?.env("TERM", "xterm").args(["-q", "-e", "-c", &follow, "/dev/null"]);
    let shown = script.run(limits::COMMAND)?.ok()?.stdout;
    let done: Vec<&str> =
        shown.split('[').filter_map(|part| part.split_once("] ")?.1.split('/').next()).collect();
    let different: BTreeSet<&str> = done.iter().copied().collect();
    ensure!(different.len() >= 3, "hardly any progress was shown: {shown:?}");
    Ok(())
}

#[test]
fn a_worker_pushes_wal_ahead_and_commands_do_without_it_when_it_is_gone() -> Result<()> {
    let mut site = site()?;
    site.config = site.config.clone().backup("archive-async", "true");
    site.config.write(&site.scratch.config_file())?;
    let mut fleet = Fleet::start(&site, &FleetOptions { workers: 1, ..FleetOptions::default() })?;
    let lock = site.scratch.join("lock/main-archive-push-background.lock");
    limits::wait_for("a worker that pushes", limits::SOON, || {
        let holder = std::fs::read_to_string(&lock).unwrap_or_default();
        let pid = holder.split_whitespace().nth(1).unwrap_or_default();
        let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        Ok(command.trim_end_matches('\0').ends_with("worker").then_some(()))
    })?;
    for round in 0..2 {
        let segment = site.cluster.switch_and_archive()?;
        for number in [1, 2] {
            site.repository(number)?.segment(&segment).with_context(|| format!("round {round}"))?;
        }
        fleet.workers[0].kill()?;
    }
    assert_eq!(site.cluster.psql("select failed_count from pg_stat_archiver")?, "0");
    Ok(())
}

#[test]
fn a_viewer_may_look_and_not_submit() -> Result<()> {
    const ACCESS: i32 = 105;
    let site = site()?;
    let fleet = Fleet::start(&site, &FleetOptions::default())?;
    let viewer = fleet.client_of(&site, "viewer")?;
    viewer.run(["job", "list"])?.ok()?;
    assert_refused(&viewer.run(["backup", "--type=full", "--detach"])?, ACCESS)
}

#[test]
fn a_fleet_that_cannot_be_reached_is_an_error_and_never_a_silent_backup_here() -> Result<()> {
    const HOST: i32 = 49;
    let site = site()?;
    let fleet = Fleet::prepare(&site, &FleetOptions::default())?;
    let finished = fleet.client.run(["backup", "--type=full"])?;
    assert_refused(&finished, HOST)?;
    ensure!(finished.stderr.contains("--embedded"), "no hint at --embedded\n{finished}");
    assert!(labels(&site.pgconvoy, 1)?.is_empty());
    fleet.client.run(["backup", "--type=full", "--embedded"])?.ok()?;
    Ok(())
}

#[test]
fn a_job_tells_that_the_limit_of_its_workers_is_what_limits_it() -> Result<()> {
    let site = site()?;
    let (fleet, id) = under_way(&site, &slow())?;
    fleet.await_job(&id, "the stage that limits it", |job| job["limiting-stage"] == "bandwidth")?;
    let end = fleet.await_end(&id)?;
    ensure!(end["limiting-stage"].is_null(), "{end}");
    is_done(&end)
}
