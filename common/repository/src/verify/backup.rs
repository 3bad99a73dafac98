//! One published backup: its manifest, its plans, and every pack that it refers to.

use super::expected::Expected;
use super::losses::{Damage, losses};
use super::pack::{self, PackCheck, PackResult, PackTask};
use super::{BackupStatus, BackupVerification, Checked, Entries, Finding, Job, identities};
use crate::error::RepositoryError;
use crate::manifest::ManifestReader;
use pgconvoy_core::format::HashSecret;
use pgconvoy_core::format::catalogue::BackupRecord;
use pgconvoy_core::format::layout::{self, PackName};
use pgconvoy_core::format::manifest::ManifestHead;
use pgconvoy_core::format::object::Kind;
use pgconvoy_core::format::plan::PlanBody;
use pgconvoy_core::ids::PlanNumber;
use pgconvoy_core::plan::restorable::{Holding, Manifest, PackLoss, Seen};
use std::collections::{BTreeMap, BTreeSet};

/// What came of each pack whose data was read, so that it is read once.
pub(super) type KnownPacks = BTreeMap<PackName, KnownPack>;

pub(super) struct KnownPack {
    finding: Option<Finding>,
    pub(super) damage: Damage,
    /// Packs that blocks of it lie in, in the order of its footer.
    pub(super) foreign: Vec<PackName>,
}

impl From<PackResult> for KnownPack {
    fn from(PackResult { finding, damage, foreign, .. }: PackResult) -> KnownPack {
        KnownPack { finding, damage, foreign }
    }
}

pub(super) struct Outcome {
    pub(super) backup: BackupVerification,
    /// Flaws of objects that tell of the backup's making, and that no restore needs.
    pub(super) papers: Vec<Finding>,
}

pub(super) fn check(
    job: &Job,
    record: &BackupRecord,
    entries: &Entries,
    secret: &HashSecret,
    known: &mut KnownPacks,
) -> Checked<Outcome> {
    let mut errors = Vec::new();
    let mut papers = Vec::new();
    let mut holding = Holding::of(record.backup);
    let manifest = layout::manifest(&job.stanza, record.label);
    errors.extend(record.references.iter().filter(|label| !entries.contains_key(label)).map(|label| {
        let reason = format!("backup {} rests on it, and it is not published", record.label);
        job.finding(&layout::catalogue_entry(&job.stanza, *label), &reason)
    }));
    match manifest_digest(job, record).and_then(|()| read_manifest(job, record, secret)) {
        Err(error) => {
            errors.push(job.finding(&manifest, &error));
            // A restore refuses what it cannot read, and does not look at the SHA-1.
            if read_manifest(job, record, secret).is_err_and(|error| error.is_loss()) {
                holding.manifest = Manifest::Refused;
            }
        }
        Ok((mut expected, flaws)) => {
            errors.extend(flaws.iter().map(|flaw| job.finding(&manifest, flaw)));
            let packs = packs(job, record, entries, secret, &mut expected, known)?;
            errors.extend(packs.mismatches);
            errors.extend(expected.check_split_files(job, &manifest, secret));
            if errors.is_empty() {
                holding.manifest = Manifest::Whole(expected.digest());
                holding.losses = Some(packs.losses);
            }
            errors.extend(packs.damage);
            errors.dedup();
            errors.extend(data_directory(job, record)?);
            papers = self::papers(job, record, &expected.plans);
        }
    }
    job.go_on()?;
    let status = if errors.is_empty() { BackupStatus::Valid } else { BackupStatus::Invalid };
    let seen = Seen::Published(holding);
    Ok(Outcome {
        backup: BackupVerification { seen, ..BackupVerification::new(record.label, status, errors) },
        papers,
    })
}

/// Size and SHA-1 of the stored manifest, against the catalogue entry.
fn manifest_digest(job: &Job, record: &BackupRecord) -> Result<(), RepositoryError> {
    let stored = job.wait(job.repository.stored_manifest(&job.stanza, record.label))?;
    job.count(stored.size);
    if stored == record.manifest {
        return Ok(());
    }
    Err(RepositoryError::Contradiction {
        place: job.repository.describe(),
        object: layout::manifest(&job.stanza, record.label),
        reason: "its size and SHA-1 are not those in the catalogue entry".to_owned(),
    })
}

fn read_manifest(
    job: &Job,
    record: &BackupRecord,
    secret: &HashSecret,
) -> Result<(Expected, Vec<String>), RepositoryError> {
    let opening = ManifestReader::open(&job.repository, &job.stanza, record.label, &record.manifest);
    let mut manifest = job.wait(opening)?;
    let (expected, mut flaws) = Expected::read(job, &mut manifest, secret)?;
    if let Some(what) = difference(manifest.head(), record) {
        flaws.push(format!("its {what} is not the one in the catalogue entry"));
    }
    Ok((expected, flaws))
}

/// The first thing that manifest and entry tell differently.
pub(crate) fn difference(head: &ManifestHead, record: &BackupRecord) -> Option<&'static str> {
    let told = [
        ("UUID", head.backup == record.backup),
        ("type", head.kind == record.kind),
        ("prior", head.prior == record.prior),
        ("list of references", head.references == record.references),
        ("version of PostgreSQL", head.version == record.version),
        ("timeline", head.timeline == record.timeline),
        ("LSN", (head.lsn_start, head.lsn_stop) == (record.lsn_start, record.lsn_stop)),
        ("range of WAL", (head.wal_start, head.wal_stop) == (record.wal_start, record.wal_stop)),
        ("time", (head.started, head.stopped) == (record.started, record.stopped)),
    ];
    told.into_iter().find(|(_, is_same)| !is_same).map(|(what, _)| what)
}

/// Where files are kept as such: every name that the manifest says, and where it leads.
fn data_directory(job: &Job, record: &BackupRecord) -> Checked<Vec<Finding>> {
    let Some(files) = job.repository.plain() else { return Ok(Vec::new()) };
    let name = layout::manifest(&job.stanza, record.label);
    let opening = ManifestReader::open(&job.repository, &job.stanza, record.label, &record.manifest);
    let mut manifest = match job.wait(opening) {
        Ok(manifest) => manifest,
        Err(error) => return Ok(vec![job.finding(&name, &error)]),
    };
    let head = manifest.head().clone();
    let mut flaws: Vec<_> = files.label_flaw(&job.stanza, &head).into_iter().collect();
    loop {
        job.go_on()?;
        match job.wait(manifest.next_records(&job.repository)) {
            Ok(Some(records)) => flaws.extend(files.flaws(&job.stanza, &head, &records)),
            Ok(None) => break,
            Err(error) => return Ok(vec![job.finding(&name, &error)]),
        }
    }
    Ok(flaws.into_iter().map(|(object, reason)| job.finding(&object, &reason)).collect())
}

#[derive(Default)]
struct Packs {
    /// What packs are, and the manifest does not say.
    mismatches: Vec<Finding>,
    /// What is wrong with packs themselves.
    damage: Vec<Finding>,
    losses: BTreeMap<PackName, PackLoss>,
}

/// Reads the packs that were not read before, and compares all that the manifest refers to with it.
fn packs(
    job: &Job,
    record: &BackupRecord,
    entries: &Entries,
    secret: &HashSecret,
    expected: &mut Expected,
    known: &mut KnownPacks,
) -> Checked<Packs> {
    let what = format!("backup {}", record.label);
    let check = PackCheck { job, secret, backups: identities(entries), references: &record.references };
    let task = |(number, name): (usize, &PackName)| PackTask {
        name: *name,
        expected: expected.of_pack(number),
        reads_data: !known.contains_key(name),
    };
    let tasks: Vec<PackTask<'_>> = expected.packs.iter().enumerate().map(task).collect();
    let told = job.each(&what, &tasks, |task| pack::check(&check, task).map(Some))?;
    let mut packs = Packs::default();
    let mut checksums = Vec::new();
    for (number, mut result) in told {
        packs.mismatches.extend(result.mismatch.take());
        checksums.append(&mut result.checksums);
        if tasks[number].reads_data {
            known.insert(tasks[number].name, result.into());
        }
    }
    let names: BTreeSet<PackName> = expected.packs.iter().copied().collect();
    checksums.into_iter().for_each(|(slot, checksum)| expected.set_checksum(slot, checksum));
    let borrowed = names.iter().filter_map(|name| known.get(name)).flat_map(|pack| &pack.foreign);
    let needed: BTreeSet<PackName> = names.iter().chain(borrowed).copied().collect();
    let unread = needed.iter().filter(|name| !known.contains_key(name));
    let tasks: Vec<PackTask<'_>> =
        unread.map(|name| PackTask { name: *name, expected: &[], reads_data: true }).collect();
    for (number, result) in job.each(&what, &tasks, |task| pack::check(&check, task).map(Some))? {
        known.insert(tasks[number].name, result.into());
    }
    packs.damage.extend(needed.iter().filter_map(|name| known.get(name)?.finding.clone()));
    packs.losses = losses(&check, expected, known)?;
    Ok(packs)
}

/// Plans and stop records: written for every backup, and read by nobody but who asks how it came about.
fn papers(job: &Job, record: &BackupRecord, plans: &BTreeSet<PlanNumber>) -> Vec<Finding> {
    let (stanza, label) = (&job.stanza, record.label);
    let mut findings = Vec::new();
    for number in plans {
        let name = layout::plan(stanza, label, *number);
        match job.wait(job.repository.get_object::<PlanBody>(Kind::Plan, &name)) {
            Ok(Some(plan))
                if plan.label == label && plan.number == *number && plan.backup == record.backup => {}
            Ok(Some(_)) => findings.push(job.finding(&name, &"it is the plan of another backup")),
            Ok(None) => findings.push(job.finding(&name, &"it is missing, and packs were written by it")),
            Err(error) => findings.push(job.finding(&name, &error)),
        }
    }
    if record.online
        && let Some(number) = plans.last()
    {
        findings.extend(stop_record(job, record, *number));
    }
    findings
}

fn stop_record(job: &Job, record: &BackupRecord, plan: PlanNumber) -> Option<Finding> {
    let name = layout::stop(&job.stanza, record.label, plan);
    let reason: String = match job.wait(job.repository.stop_record(&job.stanza, record.label, plan)) {
        Ok(Some(stop))
            if (Some(stop.start_lsn), Some(stop.stop_lsn)) == (record.lsn_start, record.lsn_stop) =>
        {
            return None;
        }
        Ok(Some(_)) => "its LSNs are not those in the catalogue entry".to_owned(),
        Ok(None) => "it is missing, and the backup was online".to_owned(),
        Err(error) => error.to_string(),
    };
    Some(job.finding(&name, &reason))
}
