//! Compute workers: units of a lone primary that are computed on other hosts, and what becomes of them when either end, or the
//! network between them, is lost.

mod support;

use pgconvoy_core::failure::ErrorCode;
use pgconvoy_core::ids::{Attempt, UnitId};
use pgconvoy_core::pg::FileClass;
use pgconvoy_core::ticket::{Admits, TicketSecret};
use pgconvoy_core::units::Timestamp;
use pgconvoy_core::wire::{JobId, UnitPart};
use pgconvoy_transport::pki::Credentials;
use pgconvoy_transport::quic::{DialConfig, QuicDialer};
use pgconvoy_transport::{Admission, Dial as _, Role, Stream};
use pgconvoy_worker::serving::protocol::{Answer, Ask, Claim, Intake, encode};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};
use support::fleet::Fleet;
use support::middle::{WORKER_LEASE, is_done, restores_from_each, site};
use support::offload::{ALWAYS, Offload, OffloadFleet, SOURCE};
use support::units::in_manifest;
use support::{Cluster, Context, Json, Result, Site, data, ensure, limits, note, same_data};
use tokio::runtime::{Handle, Runtime};

const SMALL_UNITS: &str = "--unit-size=1MiB";
/// Of each compute worker: a backup by three of them takes about fifteen seconds.
const RATE: u64 = 1 << 20;
/// Of each compute worker, when only two of three do what they should.
const QUICK_RATE: u64 = 2 << 20;
/// The least that may be configured, of a store or a worker: a unit takes a quarter of a minute.
const HARDLY: u64 = 64 << 10;
const THIRD: usize = 3;
/// Of so many units one may be begun a second time while its first worker is still at it.
const UNITS_PER_DOUBLED: u64 = 20;
/// Longer than a connection lives without its peer.
const CUT: Duration = Duration::from_secs(12);

/// Who stored the packs of that backup.
fn computed_by(site: &Site, label: &str) -> Result<BTreeSet<String>> {
    let mut workers = BTreeSet::new();
    for repo in [1, 2] {
        workers.extend(in_manifest(site, repo, label)?.into_values());
    }
    Ok(workers)
}

fn label_of(report: &Json) -> Result<&str> {
    report["label"].as_str().with_context(|| format!("no label in {report}"))
}

fn amcheck_finds_nothing(copy: &Cluster) -> Result<()> {
    copy.client("pg_amcheck")?.args(["--all", "--install-missing"]).run(limits::COMMAND)?.ok()?;
    Ok(())
}

#[test]
fn every_unit_of_a_lone_primary_is_computed_by_workers_that_see_no_data() -> Result<()> {
    let mut site = site()?;
    let offload =
        Offload { computers: 4, with_outsider: true, computer_limit: None, slots: 1, can_be_cut: true };
    let fleet = OffloadFleet::start(&mut site, &offload)?;
    let arguments = |kind| ["backup", kind, ALWAYS, SMALL_UNITS, "--output=json"];
    let before = fleet.source_cpu()?;
    let full = fleet.fleet.client.run(arguments("--type=full"))?.ok()?.json()?;
    let offloaded = fleet.source_cpu()? - before;
    let computers = computed_by(&site, label_of(&full)?)?;
    ensure!(!computers.contains(SOURCE) && !computers.contains("worker-5"), "{computers:?}: {full}");
    ensure!(computers.len() == 4, "only {computers:?} computed: {full}");

    site.cluster.psql("update document set title = 'changed' where id % 50 = 0")?;
    let incr = fleet.fleet.client.run(arguments("--type=incr"))?.ok()?.json()?;
    let computers = computed_by(&site, label_of(&incr)?)?;
    ensure!(!computers.contains(SOURCE), "{computers:?}: {incr}");

    let before = fleet.source_cpu()?;
    fleet.fleet.client.run(["backup", "--type=full", SMALL_UNITS])?.ok()?;
    note(format!(
        "CPU of the source: {offloaded:.2} s, computing there {:.2} s",
        fleet.source_cpu()? - before
    ));
    drop(fleet);

    let label = format!("--set={}", label_of(&incr)?);
    let expected = data::fingerprint(&site.cluster)?;
    for (repo, name) in [("--repo=1", "copy-1"), ("--repo=2", "copy-2")] {
        let copy = site.restore(name, &[repo, &label, "--type=immediate", "--target-action=promote"])?;
        copy.start_and_recover()?;
        same_data(&copy, &expected)?;
        amcheck_finds_nothing(&copy)?;
    }
    site.pgconvoy.run(["verify"])?.ok()?;
    Ok(())
}

#[test]
fn a_backup_survives_a_compute_worker_that_is_killed_and_a_source_that_is_cut_off_for_a_while() -> Result<()>
{
    let mut site = site()?;
    let expected = data::fingerprint(&site.cluster)?;
    let offload = Offload {
        computers: 3,
        with_outsider: false,
        computer_limit: Some(RATE),
        slots: 1,
        can_be_cut: true,
    };
    let mut fleet = OffloadFleet::start(&mut site, &offload)?;
    let id = fleet.fleet.submit_backup(&[ALWAYS, SMALL_UNITS])?;
    fleet.fleet.await_units(&id, 6)?;
    who_has_no_ticket_gets_nothing(&fleet, &id)?;
    fleet.fleet.workers[1].kill()?;
    let seen = fleet.fleet.await_units(&id, 10)?;
    fleet.cut()?;
    let since = Instant::now();
    limits::wait_for("the end of the cut", limits::SOON, || Ok((since.elapsed() >= CUT).then_some(())))?;
    fleet.heal()?;
    let healed = fleet.fleet.job(&id)?;
    ensure!(healed["state"] != "done", "it was done before it was cut off: {seen}, then {healed}");
    let end = fleet.fleet.await_end(&id)?;
    is_done(&end)?;
    let label = end["label"].as_str().context("a label")?;
    let computers = computed_by(&site, label)?;
    ensure!(!computers.contains(SOURCE) && computers.len() >= 2, "{computers:?}: {end}");
    drop(fleet);
    restores_from_each(&site, &expected)
}

#[test]
fn a_slow_store_a_straggler_and_a_worker_that_drains_cost_a_backup_no_more_than_their_shares() -> Result<()> {
    let mut site = site()?;
    let offload = Offload {
        computers: 3,
        with_outsider: false,
        computer_limit: Some(QUICK_RATE),
        slots: 1,
        can_be_cut: true,
    };
    let mut all = OffloadFleet::start(&mut site, &offload)?;
    let fleet = &mut all.fleet;
    let usual = std::fs::read_to_string(fleet.workers[THIRD].program.config_file())?;
    let undisturbed = timed_run(fleet, || Ok(()))?;
    note(format!("three compute workers take {:?} for {} units", undisturbed.took, undisturbed.units));

    let behind_a_slow_store =
        usual.replace("[repo.1]\n", &format!("[repo.1]\nbandwidth-max = \"{HARDLY}B\"\n"));
    restart_third_with(fleet, &behind_a_slow_store)?;
    let slow_store = timed_run(fleet, || Ok(()))?;
    costs_a_share("a slow store behind one of them", &undisturbed, &slow_store)?;

    let straggler = usual.replace(&format!("\"{QUICK_RATE}B\""), &format!("\"{HARDLY}B\""));
    restart_third_with(fleet, &straggler)?;
    let straggling = timed_run(fleet, || Ok(()))?;
    costs_a_share("a straggler", &undisturbed, &straggling)?;
    for run in [&slow_store, &straggling] {
        ensure!(run.doubled > 0, "nobody else began what it had in hand");
    }

    restart_third_with(fleet, &usual)?;
    let drain = || fleet.client.run(["workers", "drain", &fleet.workers[THIRD].name])?.ok().map(drop);
    let drained = timed_run(fleet, drain)?;
    costs_a_share("one of them drained", &undisturbed, &drained)?;
    drop(all);
    site.pgconvoy.run(["verify"])?.ok()?;
    Ok(())
}

/// What became of a backup by three compute workers.
struct Run {
    took: Duration,
    units: u64,
    /// Begun a second time while their first worker was still at them.
    doubled: u64,
}

/// `meanwhile` comes once some units are done.
fn timed_run(fleet: &Fleet, meanwhile: impl FnOnce() -> Result<()>) -> Result<Run> {
    let begin = Instant::now();
    let id = fleet.submit_backup(&[ALWAYS, SMALL_UNITS, "--compress-type=none"])?;
    fleet.await_units(&id, 3)?;
    meanwhile()?;
    let doubled = Cell::new(0);
    let end = fleet.await_job(&id, "its end", |job| {
        doubled.set(doubled.get().max(job["units"]["doubled"].as_u64().unwrap_or_default()));
        job["finished"].is_string()
    })?;
    is_done(&end)?;
    let units = end["result"]["units"]["total"].as_u64().with_context(|| end.to_string())?;
    Ok(Run { took: begin.elapsed(), units, doubled: doubled.get() })
}

/// The two others do the third one's share, and what it has in hand is theirs after less than a lease.
fn costs_a_share(what: &str, undisturbed: &Run, run: &Run) -> Result<()> {
    note(format!("{what}: {:?}, {} of {} units begun twice", run.took, run.doubled, run.units));
    ensure!(run.took < undisturbed.took * 3 / 2 + WORKER_LEASE, "{what}: it took {:?}", run.took);
    ensure!(run.doubled * UNITS_PER_DOUBLED <= run.units, "{what}: {} were begun twice", run.doubled);
    Ok(())
}

fn restart_third_with(fleet: &mut Fleet, configuration: &str) -> Result<()> {
    let third = &mut fleet.workers[THIRD];
    third.stop()?.ok()?;
    third.reconfigure(|_| configuration.to_owned())?;
    third.start()?;
    fleet.await_workers(4)
}

/// Peers of all kinds at the source's own port: with a good certificate and a ticket of their own making, or without a
/// worker's certificate.
fn who_has_no_ticket_gets_nothing(fleet: &OffloadFleet, job: &str) -> Result<()> {
    let runtime = Runtime::new()?;
    let dialer = |name: &str| -> Result<QuicDialer> {
        Ok(QuicDialer::new(DialConfig {
            credentials: credentials(fleet.fleet.pki(), name)?,
            expects: Admission::of([Role::Worker]),
            revoked: Default::default(),
            runtime: Handle::current(),
        })?)
    };
    let address = fleet.listens().to_string();
    runtime.block_on(limits::within(async {
        let refused =
            dialer("coordinator-0")?.dial(&address).await.err().context("a coordinator is let in")?;
        ensure!(refused.to_string().contains("a worker is expected"), "{refused}");

        let connection = dialer("worker-7")?.dial(&address).await?;
        let Stream { mut writer, reader } = connection.open_stream().await?;
        let worker = "worker-7".parse()?;
        let parts = vec![UnitPart {
            path: "PG_VERSION".parse()?,
            class: FileClass::Version,
            offset: 0,
            length: 3,
            block_size: 8192,
            prior_size: None,
            prior: Vec::new(),
        }];
        let (job, unit, attempt) = (JobId(job.parse()?), UnitId(1), Attempt(1));
        let admits = Admits { job, unit, attempt, worker: &worker, parts: &parts };
        let ticket = TicketSecret::from_random_bytes([0; TicketSecret::BYTES]).sign(&admits);
        writer
            .write(encode(&Claim { job, unit, attempt, parts, reads_all: false, squeezes: false, ticket })?)
            .await?;
        writer.write(encode(&Ask::Open { part: 0 })?).await?;
        writer.write(encode(&Ask::Rest)?).await?;
        let mut intake = Intake::new(reader, "the source".to_owned());
        let answer: Option<Answer> = intake.message(1 << 20).await?;
        let Some(Answer::Failed(failure)) = answer else { support::bail!("it answers {answer:?}") };
        ensure!(failure.code == ErrorCode::Access, "{failure}");
        let more: Option<Answer> = intake.message(1 << 20).await?;
        ensure!(more.is_none(), "after the refusal it says {more:?}");
        Ok(())
    }))?
}

fn credentials(pki: &Path, name: &str) -> Result<Credentials> {
    let text = |file: &str| std::fs::read_to_string(pki.join(file));
    let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    let now = Timestamp::from_seconds(i64::try_from(seconds)?);
    let (ca, cert, key) = (text("ca.crt")?, text(&format!("{name}.crt"))?, text(&format!("{name}.key"))?);
    Ok(Credentials::from_pem(&ca, &cert, &key, now)?)
}
