//! Everything that can fail in a fleet, at random and for minutes: workers, coordinators, etcd, the network, PostgreSQL,
//! and an operator who pauses and cancels. Whatever a job is told to have come to is what the repositories show.
//!
//! The seed is printed and can be given again; `PGCONVOY_FAULTS_SECONDS` asks for the long form.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use support::fleet::{Fleet, FleetOptions};
use support::{Context, Json, Random, Result, Site, data, ensure, labels, note, same_data};

/// How long faults are thrown in the short form.
const SPAN: Duration = Duration::from_secs(120);
/// Seconds for a night instead.
const SPAN_VARIABLE: &str = "PGCONVOY_FAULTS_SECONDS";
/// Between two faults.
const CALM_MAX: Duration = Duration::from_secs(9);
/// How long something stays as it is: longer than any lease of the fleet, at times.
const AILMENT_MAX: Duration = Duration::from_secs(20);
/// Of each kind.
const MEMBERS: usize = 3;
/// An error that says that the program itself is wrong.
const ASSERT: u64 = 25;

/// What is wrong with one part of the fleet, until it is mended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Ailment {
    WorkerKilled(usize),
    WorkerFrozen(usize),
    WorkerCut(usize),
    CoordinatorKilled(usize),
    CoordinatorFrozen(usize),
    NodeKilled(usize),
    NodeFrozen(usize),
    ServerCrashed,
    JobPaused,
}

impl Ailment {
    /// What it is wrong with: nothing else happens to that meanwhile.
    fn victim(self) -> (&'static str, usize) {
        match self {
            Ailment::WorkerKilled(n) | Ailment::WorkerFrozen(n) | Ailment::WorkerCut(n) => ("worker", n),
            Ailment::CoordinatorKilled(n) | Ailment::CoordinatorFrozen(n) => ("coordinator", n),
            Ailment::NodeKilled(n) | Ailment::NodeFrozen(n) => ("etcd", n),
            Ailment::ServerCrashed => ("server", 0),
            Ailment::JobPaused => ("job", 0),
        }
    }

    fn random(random: &mut Random) -> Result<Ailment> {
        let member = usize::try_from(random.below(MEMBERS as u64))?;
        Ok(match random.below(12) {
            0 | 1 => Ailment::WorkerKilled(member),
            2 => Ailment::WorkerFrozen(member),
            3 | 4 => Ailment::WorkerCut(member),
            5 | 6 => Ailment::CoordinatorKilled(member),
            7 => Ailment::CoordinatorFrozen(member),
            8 => Ailment::NodeKilled(member),
            9 => Ailment::NodeFrozen(member),
            10 => Ailment::ServerCrashed,
            _ => Ailment::JobPaused,
        })
    }
}

/// A job as it was last seen.
#[derive(Debug, Default, Clone)]
struct Seen {
    done: u64,
    epoch: u64,
    last: Json,
}

struct Storm<'a> {
    site: &'a Site,
    fleet: Fleet,
    random: Random,
    /// Until when.
    ailing: BTreeMap<Ailment, Instant>,
    jobs: BTreeMap<String, Seen>,
    /// The job that has not ended, as far as is known.
    open: Option<String>,
    began: Instant,
}

fn is_over(job: &Json) -> bool {
    ["done", "partial", "failed", "cancelled"].iter().any(|state| job["state"] == *state)
}

impl Storm<'_> {
    fn log(&self, what: impl std::fmt::Display) {
        note(format!("{:7.1} s: {what}", self.began.elapsed().as_secs_f64()));
    }

    /// One more thing goes wrong, unless its victim suffers already.
    fn strike(&mut self) -> Result<()> {
        let ailment = Ailment::random(&mut self.random)?;
        if self.ailing.keys().any(|other| other.victim() == ailment.victim()) {
            return Ok(());
        }
        self.log(format!("{ailment:?}"));
        match ailment {
            Ailment::WorkerKilled(n) => self.fleet.workers[n].kill()?,
            Ailment::WorkerFrozen(n) => self.fleet.workers[n].freeze()?,
            Ailment::WorkerCut(n) => self.fleet.cut(n)?,
            Ailment::CoordinatorKilled(n) => self.fleet.coordinators[n].kill()?,
            Ailment::CoordinatorFrozen(n) => self.fleet.coordinators[n].freeze()?,
            Ailment::NodeKilled(n) => self.fleet.etcd.kill(n)?,
            Ailment::NodeFrozen(n) => self.fleet.etcd.freeze(n)?,
            Ailment::ServerCrashed => self.site.cluster.crash()?,
            Ailment::JobPaused => self.command("pause")?,
        }
        let until = Instant::now() + self.random.moment_within(AILMENT_MAX);
        self.ailing.insert(ailment, until);
        Ok(())
    }

    fn mend(&mut self, ailment: Ailment) -> Result<()> {
        self.log(format!("{ailment:?} is mended"));
        match ailment {
            Ailment::WorkerKilled(n) => self.fleet.workers[n].start()?,
            Ailment::WorkerFrozen(n) => self.fleet.workers[n].thaw()?,
            Ailment::WorkerCut(n) => self.fleet.heal(n)?,
            Ailment::CoordinatorKilled(n) => self.fleet.coordinators[n].start()?,
            Ailment::CoordinatorFrozen(n) => self.fleet.coordinators[n].thaw()?,
            Ailment::NodeKilled(n) => self.fleet.etcd.launch(n)?,
            Ailment::NodeFrozen(n) => self.fleet.etcd.thaw(n)?,
            Ailment::ServerCrashed => self.site.cluster.start()?,
            Ailment::JobPaused => self.command("resume")?,
        }
        self.ailing.remove(&ailment);
        Ok(())
    }

    fn mend_what_is_due(&mut self) -> Result<()> {
        let now = Instant::now();
        let due: Vec<Ailment> =
            self.ailing.iter().filter(|(_, until)| **until <= now).map(|(ailment, _)| *ailment).collect();
        due.into_iter().try_for_each(|ailment| self.mend(ailment))
    }

    fn mend_all(&mut self) -> Result<()> {
        while let Some(ailment) = self.ailing.keys().next().copied() {
            self.mend(ailment)?;
        }
        Ok(())
    }

    /// An operator's, to the open job. Perhaps nobody answers, or the job is over: then there is nothing to command.
    fn command(&self, verb: &str) -> Result<()> {
        if let Some(id) = &self.open {
            let finished = self.fleet.client.run(["job", verb, id])?;
            ensure!(!finished.stderr.contains("panicked"), "{finished}");
        }
        Ok(())
    }

    fn submit(&mut self) -> Result<()> {
        let kind = ["--type=full", "--type=incr", "--type=diff"][usize::try_from(self.random.below(3))?];
        let mut words = vec!["backup", kind, "--detach", "--unit-size=1MiB"];
        // Without it files are passed over that are as they were.
        words.extend((self.random.below(2) == 0).then_some("--delta"));
        let finished = self.fleet.client.run(words)?;
        match finished.code {
            Some(0) => {
                let id = finished.stdout.trim().to_owned();
                self.log(format!("job {id}"));
                self.jobs.insert(id.clone(), Seen::default());
                self.open = Some(id);
                Ok(())
            }
            // Nobody leads at the moment, or the leader lost the leadership over it.
            _ => {
                self.log(format!("not submitted: {}", finished.stderr.lines().next().unwrap_or_default()));
                ensure!(!finished.stderr.contains("panicked"), "{finished}");
                Ok(())
            }
        }
    }

    /// Looks at the open job: nothing that was accepted is lost, and no leader acts after a newer one.
    fn look(&mut self) -> Result<()> {
        let Some(id) = self.open.clone() else { return Ok(()) };
        // While nobody leads there is no answer.
        let Ok(job) = self.fleet.job(&id) else { return Ok(()) };
        let seen = self.jobs.get_mut(&id).context("a job that nobody submitted")?;
        let done = job["units"]["done"].as_u64().unwrap_or_default();
        let epoch = job["epoch"].as_u64().unwrap_or_default();
        ensure!(epoch >= seen.epoch, "epoch {epoch} acts after {}: {job}", seen.epoch);
        let forgets = epoch == seen.epoch && done < seen.done;
        ensure!(!forgets || is_over(&job), "accepted units are lost: {} before, then {job}", seen.done);
        *seen = Seen { done, epoch, last: job.clone() };
        if is_over(&job) {
            self.log(format!("job {id} ended as {}: {}", job["state"], job["error"]));
            self.open = None;
        }
        Ok(())
    }

    fn only_one_runs(&self) -> Result<()> {
        let Ok(listed) = self.fleet.client.run(["job", "list", "--output=json"])?.ok() else { return Ok(()) };
        let listed = listed.json()?;
        let jobs = listed.as_array().context("a list of jobs")?;
        let under_way = jobs.iter().filter(|job| job["state"] == "running" || job["state"] == "paused");
        ensure!(under_way.count() <= 1, "two backups of one stanza at once: {listed}");
        Ok(())
    }

    fn rage(&mut self, span: Duration) -> Result<()> {
        while self.began.elapsed() < span {
            let calm_until = Instant::now() + self.random.moment_within(CALM_MAX);
            while Instant::now() < calm_until {
                self.mend_what_is_due()?;
                if self.open.is_none() {
                    self.submit()?;
                }
                self.look()?;
                self.only_one_runs()?;
            }
            self.strike()?;
            if self.random.below(20) == 0 {
                self.log("cancel");
                self.command("cancel")?;
            }
        }
        Ok(())
    }

    /// A later job has resumed that backup and came to its end.
    fn went_on(&self, label: Option<&str>) -> bool {
        let came_through = |job: &Json| job["state"] == "done" || job["state"] == "partial";
        self.jobs.values().any(|seen| came_through(&seen.last) && seen.last["label"].as_str() == label)
    }

    /// What each job is told to have come to, and what each repository has.
    fn what_was_told_is_true(&self) -> Result<()> {
        let published: Vec<BTreeSet<String>> = [1, 2]
            .into_iter()
            .map(|number| Ok(labels(&self.site.only_repos(&[number])?, number)?.into_iter().collect()))
            .collect::<Result<_>>()?;
        let mut states: BTreeMap<String, u32> = BTreeMap::new();
        for (id, Seen { last: job, .. }) in &self.jobs {
            let state = job["state"].as_str().context("a job without a state")?;
            *states.entry(state.to_owned()).or_default() += 1;
            let label = job["label"].as_str();
            let places =
                label.map_or(0, |label| published.iter().filter(|labels| labels.contains(label)).count());
            match state {
                "done" => ensure!(places == 2, "job {id} is done and not published: {job}"),
                "partial" => ensure!(places == 1, "job {id} is partial: {job}"),
                "failed" if self.went_on(label) => {}
                _ => ensure!(places == 0, "job {id} ended as {state} and is published: {job}"),
            }
            if state == "failed" {
                let error = &job["error"];
                ensure!(error["code"].as_u64().is_some_and(|code| code != ASSERT), "{job}");
                ensure!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{job}");
            }
        }
        note(format!("{} jobs: {states:?}", self.jobs.len()));
        Ok(())
    }
}

fn span() -> Result<Duration> {
    match std::env::var(SPAN_VARIABLE) {
        Ok(text) => Ok(Duration::from_secs(text.parse().with_context(|| format!("{SPAN_VARIABLE}={text}"))?)),
        Err(_) => Ok(SPAN),
    }
}

#[test]
fn whatever_fails_a_job_ends_as_it_is_told_and_the_next_backup_is_whole() -> Result<()> {
    let mut site = Site::start()?;
    site.config = site.config.clone().backup("archive-timeout", "\"30s\"");
    site.config.write(&site.scratch.config_file())?;
    let expected = data::fingerprint(&site.cluster)?;
    let options = FleetOptions {
        coordinators: MEMBERS,
        workers: MEMBERS,
        etcd_nodes: MEMBERS,
        bandwidth_max: Some("3MiB".to_owned()),
        with_network: true,
        ..FleetOptions::default()
    };
    let fleet = Fleet::start(&site, &options)?;
    let random = Random::from_environment()?;
    let mut storm = Storm {
        site: &site,
        fleet,
        random,
        ailing: BTreeMap::new(),
        jobs: BTreeMap::new(),
        open: None,
        began: Instant::now(),
    };
    storm.rage(span()?)?;
    storm.mend_all()?;
    storm.fleet.etcd.await_healthy(0..MEMBERS)?;
    if let Some(id) = storm.open.clone() {
        storm.fleet.await_end(&id)?;
        storm.look()?;
    }
    storm.fleet.await_workers(MEMBERS)?;
    let id = storm.fleet.submit_backup(&[])?;
    let last = storm.fleet.await_end(&id)?;
    ensure!(last["state"] == "done", "after all is mended: {last}");
    storm.jobs.insert(id, Seen { last, ..Seen::default() });
    storm.what_was_told_is_true()?;
    site.pgconvoy.run(["verify"])?.ok()?;
    restores_from_each(&site, &expected)
}

/// `verify` has read all of them; the oldest and the newest are started.
fn restores_from_each(site: &Site, expected: &str) -> Result<()> {
    for number in [1, 2] {
        let published = labels(&site.only_repos(&[number])?, number)?;
        for label in BTreeSet::from_iter(published.first().into_iter().chain(published.last())) {
            let (repo, set) = (format!("--repo={number}"), format!("--set={label}"));
            let options = [repo.as_str(), &set, "--type=immediate", "--target-action=promote"];
            let copy = site.restore(&format!("copy-{number}-{label}"), &options)?;
            copy.start_and_recover()?;
            same_data(&copy, expected)?;
            copy.stop()?;
        }
    }
    Ok(())
}
