//! What one repository lacks of another: which clusters, backups and WAL are copied, and which are not, and why.
//!
//! Which packs a backup needs is not here: its manifest tells, and it is read when the backup's turn comes ([`waves`] puts them in
//! order then). So a plan takes no more room than names of backups and WAL files.
//!
//! Invariants
//! 1. A backup comes after all that it refers to, and is left out unless all of that is in the target or on its way there.
//! 2. Nothing is copied over what is decided in the target: another backup under the same label, or its void record, stays.
//!    Nor over what was begun there, unless it is this very backup.
//! 3. Repositories whose clusters have other secrets or systems are not mixed.

use crate::format::BackupLabel;
use crate::format::catalogue::BackupRecord;
use crate::format::cluster::ClusterBody;
use crate::format::layout::{ArchiveId, PackName};
use crate::ids::{ClusterNumber, Identity, PlanNumber};
use crate::pg::{WalFileName, WalPart, WalSegmentName, WalSegmentSize, wal_part};
use crate::plan::backlog::in_order;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};

/// What is decided of a label in one repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    Published(Published),
    Void,
    /// The key is taken; what it says cannot be read.
    Unreadable(String),
}

/// Of a published backup, what a plan needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    pub backup: Identity,
    pub references: Vec<BackupLabel>,
    pub cluster: ClusterNumber,
    /// First and last segment that it needs.
    pub wal: Option<(WalSegmentName, WalSegmentName)>,
}

impl From<&BackupRecord> for Published {
    fn from(record: &BackupRecord) -> Published {
        Published {
            backup: record.backup,
            references: record.references.clone(),
            cluster: record.cluster,
            wal: record.wal_start.zip(record.wal_stop),
        }
    }
}

/// WAL of one cluster, and records of what was given up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Archive {
    pub files: BTreeSet<WalFileName>,
    pub parts: BTreeSet<WalPart>,
    pub dropped: BTreeSet<WalFileName>,
}

/// Under a label, by number, each with the backup that it was made for; or why one of them cannot be read.
pub type Plans = Result<BTreeMap<PlanNumber, Identity>, String>;

/// What lies under a label that was begun and not decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begun {
    /// It bears the record that this backup is being copied.
    Copy(Identity),
    Plans(Plans),
}

/// What a repository has of one stanza.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holdings {
    pub clusters: Vec<ClusterBody>,
    pub entries: BTreeMap<BackupLabel, Entry>,
    /// Of a target: labels that were begun and not decided.
    pub undecided: BTreeMap<BackupLabel, Begun>,
    /// Of a source: plans of the labels that the target has begun.
    pub plans: BTreeMap<BackupLabel, Plans>,
    pub archives: BTreeMap<ArchiveId, Archive>,
}

/// Why two repositories are not synchronised at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SyncRefusal {
    #[error("the source does not have the stanza")]
    NoStanza,
    #[error("backup set {0} is not in the source")]
    NoSuchSet(BackupLabel),
    #[error("cluster {0} of the stanza is another one in the target: {1}")]
    OtherCluster(ClusterNumber, &'static str),
}

/// What becomes of one backup of the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Copy,
    /// It was begun in the target, as the same backup: a copy, once it is known that nobody works at it.
    TakeOver,
    Present,
    /// The label is taken by another backup.
    Conflict(String),
    /// The target has given it up, and that cannot be taken back.
    Void,
    /// What it refers to will not be in the target.
    LeftOut(String),
    /// Its entry in one of the two cannot be read.
    Unreadable(String),
}

impl Step {
    pub const fn name(&self) -> &'static str {
        match self {
            Step::Copy => "copy",
            Step::TakeOver => "take-over",
            Step::Present => "present",
            Step::Conflict(_) => "conflict",
            Step::Void => "void",
            Step::LeftOut(_) => "left-out",
            Step::Unreadable(_) => "unreadable",
        }
    }

    pub fn reason(&self) -> Option<&str> {
        match self {
            Step::Copy | Step::TakeOver | Step::Present => None,
            Step::Void => Some("it was given up in the target"),
            Step::Conflict(reason) | Step::LeftOut(reason) | Step::Unreadable(reason) => Some(reason),
        }
    }

    const fn is_in_target(&self) -> bool {
        matches!(self, Step::Copy | Step::TakeOver | Step::Present)
    }
}

/// What the target lacks of one archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveStep {
    pub archive: ArchiveId,
    /// Histories first, then by position.
    pub files: Vec<WalFileName>,
    pub parts: Vec<WalPart>,
    pub dropped: Vec<WalFileName>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SyncPlan {
    pub clusters: Vec<ClusterNumber>,
    /// In the order in which they are copied.
    pub backups: Vec<(BackupLabel, Step)>,
    /// Of those to be copied, the ones that backups published in the target refer to, with these. Somebody has removed what they need: what
    /// is left of it may be published again, but what is stored anew is sealed anew, and they could not open it.
    pub relying: BTreeMap<BackupLabel, Vec<BackupLabel>>,
    pub archives: Vec<ArchiveStep>,
}

impl SyncPlan {
    /// `set`: this backup with what it refers to and the WAL that these need, and nothing else.
    pub fn new(
        source: &Holdings,
        target: &Holdings,
        set: Option<BackupLabel>,
    ) -> Result<SyncPlan, SyncRefusal> {
        let clusters = missing_clusters(source, target)?;
        let wanted = set.map(|set| needed_by(set, source)).transpose()?;
        let backups = backups(source, target, wanted.as_ref());
        let relying = relying(&backups, target);
        let needs = wanted.map(|wanted| WalNeeds::of(source, &wanted));
        let archive = |cluster: &ClusterBody| {
            let id = cluster.archive_id();
            let there = source.archives.get(&id)?;
            let own = target.archives.get(&id).cloned().unwrap_or_default();
            ArchiveStep::new(cluster, there, &own, needs.as_ref())
        };
        let archives = source.clusters.iter().filter_map(archive).collect();
        Ok(SyncPlan { clusters, backups, relying, archives })
    }
}

fn missing_clusters(source: &Holdings, target: &Holdings) -> Result<Vec<ClusterNumber>, SyncRefusal> {
    if source.clusters.is_empty() {
        return Err(SyncRefusal::NoStanza);
    }
    let secret = source.clusters.first().map(|cluster| &cluster.hash_secret);
    if let Some(other) = target.clusters.iter().find(|cluster| Some(&cluster.hash_secret) != secret) {
        return Err(SyncRefusal::OtherCluster(
            other.number,
            "its stanza was created apart from the source's",
        ));
    }
    let mut missing = Vec::new();
    for cluster in &source.clusters {
        match target.clusters.iter().find(|other| other.number == cluster.number) {
            None => missing.push(cluster.number),
            Some(other) if cluster.is_same_cluster(other) => {}
            Some(_) => {
                return Err(SyncRefusal::OtherCluster(
                    cluster.number,
                    "its system identifier or version differs",
                ));
            }
        }
    }
    Ok(missing)
}

/// A backup and everything that it refers to, directly or not.
fn needed_by(set: BackupLabel, source: &Holdings) -> Result<BTreeSet<BackupLabel>, SyncRefusal> {
    if !source.entries.get(&set).is_some_and(|entry| *entry != Entry::Void) {
        return Err(SyncRefusal::NoSuchSet(set));
    }
    let mut needed = BTreeSet::new();
    let mut waiting = vec![set];
    while let Some(label) = waiting.pop() {
        if !needed.insert(label) {
            continue;
        }
        if let Some(Entry::Published(published)) = source.entries.get(&label) {
            waiting.extend(&published.references);
        }
    }
    Ok(needed)
}

fn backups(
    source: &Holdings,
    target: &Holdings,
    wanted: Option<&BTreeSet<BackupLabel>>,
) -> Vec<(BackupLabel, Step)> {
    let is_wanted = |label: &BackupLabel| wanted.is_none_or(|wanted| wanted.contains(label));
    let there = source.entries.iter().filter(|(label, entry)| is_wanted(label) && **entry != Entry::Void);
    let mut oldest_first: Vec<(BackupLabel, &Entry)> = there.map(|(label, entry)| (*label, entry)).collect();
    oldest_first.sort_by_key(|(label, _)| (label.made(), *label));
    let mut steps: BTreeMap<BackupLabel, Step> = BTreeMap::new();
    let mut in_order = Vec::new();
    for (label, entry) in oldest_first {
        let step = match entry {
            Entry::Published(published) => match step(label, published, source, target) {
                step @ (Step::Copy | Step::TakeOver) => {
                    unsatisfied(published, &steps).map_or(step, Step::LeftOut)
                }
                decided => decided,
            },
            Entry::Unreadable(reason) => Step::Unreadable(format!("its entry in the source: {reason}")),
            Entry::Void => continue,
        };
        steps.insert(label, step.clone());
        in_order.push((label, step));
    }
    in_order
}

fn step(label: BackupLabel, published: &Published, source: &Holdings, target: &Holdings) -> Step {
    match (target.entries.get(&label), target.undecided.get(&label)) {
        (Some(Entry::Published(other)), _) if other.backup == published.backup => Step::Present,
        (Some(Entry::Published(other)), _) => Step::Conflict(format!(
            "the target has backup {} under this label, and the source {}",
            other.backup, published.backup
        )),
        (Some(Entry::Void), _) => Step::Void,
        (Some(Entry::Unreadable(reason)), _) => {
            Step::Unreadable(format!("its entry in the target: {reason}"))
        }
        (None, Some(begun)) => step_of_begun(published, begun, source.plans.get(&label)),
        (None, None) => Step::Copy,
    }
}

/// A backup that was gone on with has plans of several jobs, each with an identity of its own.
fn step_of_begun(published: &Published, begun: &Begun, plans: Option<&Plans>) -> Step {
    let own = match begun {
        Begun::Copy(copied) if *copied == published.backup => return Step::Copy,
        Begun::Copy(copied) => {
            return Step::Conflict(format!(
                "backup {copied} is being copied into the target under this label, and the source has {}",
                published.backup
            ));
        }
        Begun::Plans(Ok(own)) => own,
        Begun::Plans(Err(reason)) => {
            return Step::Unreadable(format!(
                "it was begun in the target, where its plans tell nothing: {reason}"
            ));
        }
    };
    let theirs = match plans {
        Some(Ok(theirs)) => theirs,
        Some(Err(reason)) => return Step::Unreadable(format!("its plans in the source: {reason}")),
        None => return Step::Unreadable("its plans in the source are not known".into()),
    };
    match own.iter().find(|(number, begun)| theirs.get(number) != Some(begun)) {
        None => Step::TakeOver,
        Some((number, begun)) => Step::Conflict(format!(
            "backup {begun} was begun in the target under this label (plan {}), and the source has {}",
            number.0, published.backup
        )),
    }
}

/// Why not all of its references will be in the target.
fn unsatisfied(published: &Published, steps: &BTreeMap<BackupLabel, Step>) -> Option<String> {
    published.references.iter().find_map(|reference| match steps.get(reference) {
        Some(step) if step.is_in_target() => None,
        Some(step) => Some(format!("it refers to {reference}, whose state is {}", step.name())),
        None => Some(format!("it refers to {reference}, which the source does not have")),
    })
}

fn relying(backups: &[(BackupLabel, Step)], target: &Holdings) -> BTreeMap<BackupLabel, Vec<BackupLabel>> {
    let copied = |label: &BackupLabel| {
        backups.iter().any(|(other, step)| other == label && matches!(step, Step::Copy | Step::TakeOver))
    };
    let mut relying: BTreeMap<BackupLabel, Vec<BackupLabel>> = BTreeMap::new();
    for (label, entry) in &target.entries {
        let Entry::Published(published) = entry else { continue };
        for reference in published.references.iter().filter(|reference| copied(reference)) {
            relying.entry(*reference).or_default().push(*label);
        }
    }
    relying
}

/// The WAL that some backups need.
struct WalNeeds(BTreeMap<ClusterNumber, BTreeSet<WalSegmentName>>);

impl WalNeeds {
    fn of(source: &Holdings, labels: &BTreeSet<BackupLabel>) -> WalNeeds {
        let mut needs: BTreeMap<ClusterNumber, BTreeSet<WalSegmentName>> = BTreeMap::new();
        for label in labels {
            let Some(Entry::Published(published)) = source.entries.get(label) else { continue };
            let cluster = source.clusters.iter().find(|cluster| cluster.number == published.cluster);
            if let Some(cluster) = cluster {
                let segments = published.segments(cluster.wal_segment_size);
                needs.entry(cluster.number).or_default().extend(segments);
            }
        }
        WalNeeds(needs)
    }

    fn has(&self, cluster: ClusterNumber, file: &WalFileName) -> bool {
        match file {
            WalFileName::History(_) => true,
            WalFileName::Segment(segment) => {
                self.0.get(&cluster).is_some_and(|segments| segments.contains(segment))
            }
            WalFileName::Partial(_) | WalFileName::BackupHistory { .. } => false,
        }
    }
}

/// More than any backup has: a label that lies must not cost all memory.
const SEGMENTS_MAX: u64 = 1 << 22;

impl Published {
    /// Every segment from the backup's start to its stop.
    pub fn segments(&self, size: WalSegmentSize) -> impl Iterator<Item = WalSegmentName> {
        let number = |segment: &WalSegmentName| segment.segment_number(size);
        let count = self.wal.map_or(0, |(first, last)| {
            number(&last).checked_sub(number(&first)).map_or(0, |between| between + 1).min(SEGMENTS_MAX)
        });
        let all =
            std::iter::successors(self.wal.map(|(first, _)| first), move |segment| Some(segment.next(size)));
        all.take(usize::try_from(count).unwrap_or(usize::MAX))
    }
}

impl ArchiveStep {
    /// `None`: nothing is lacking.
    fn new(
        cluster: &ClusterBody,
        source: &Archive,
        own: &Archive,
        needs: Option<&WalNeeds>,
    ) -> Option<ArchiveStep> {
        let is_needed = |file: &WalFileName| needs.is_none_or(|needs| needs.has(cluster.number, file));
        let lacking = source.files.difference(&own.files).filter(|file| is_needed(file)).copied();
        let files = in_order(lacking, cluster.wal_segment_size);
        let (mut parts, mut dropped) = (Vec::new(), Vec::new());
        if needs.is_none() {
            let all: Vec<WalPart> = source.parts.union(&own.parts).copied().collect();
            let is_whole = |segment| {
                let whole = WalFileName::Segment(segment);
                source.files.contains(&whole) || own.files.contains(&whole)
            };
            let useless = wal_part::superseded(&all, is_whole);
            parts.extend(source.parts.difference(&own.parts).filter(|part| !useless.contains(part)));
            let is_nowhere = |file: &&WalFileName| !source.files.contains(file) && !own.files.contains(file);
            dropped.extend(source.dropped.difference(&own.dropped).filter(is_nowhere));
        }
        let is_nothing = files.is_empty() && parts.is_empty() && dropped.is_empty();
        (!is_nothing).then_some(ArchiveStep { archive: cluster.archive_id(), files, parts, dropped })
    }
}

/// Packs of one backup in the order in which they can be copied: those of an earlier plan first, since later ones refer to
/// them. Packs of one wave do not refer to each other.
pub fn waves(packs: impl IntoIterator<Item = PackName>) -> Vec<Vec<PackName>> {
    let mut waves: BTreeMap<PlanNumber, BTreeSet<PackName>> = BTreeMap::new();
    for pack in packs {
        waves.entry(pack.plan).or_default().insert(pack);
    }
    waves.into_values().map(|wave| wave.into_iter().collect()).collect()
}

impl fmt::Display for SyncPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for cluster in &self.clusters {
            writeln!(f, "cluster {cluster}")?;
        }
        for (label, step) in &self.backups {
            write!(f, "{:9} {label}", step.name())?;
            match step.reason() {
                Some(reason) => writeln!(f, "  {reason}")?,
                None => f.write_char('\n')?,
            }
        }
        for archive in &self.archives {
            let mut names = archive.files.iter().map(ToString::to_string);
            writeln!(f, "archive {}", archive.archive)?;
            names.try_for_each(|name| writeln!(f, "  {name}"))?;
            archive.parts.iter().try_for_each(|part| writeln!(f, "  {part}"))?;
            archive.dropped.iter().try_for_each(|file| writeln!(f, "  {file} (dropped)"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
