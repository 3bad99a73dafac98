//! A repository filled with the help of others: what a mate copied counts, and what it did not, or did wrong, is found.

use super::support::{Seal, Site};
use super::syncing::{empty, is_whole, options, source, statuses, sync_with};
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::format::{BackupLabel, layout};
use pgconvoy_core::ids::{Identity, StanzaName};
use pgconvoy_core::wire::{CopyObjects, CopyPart};
use pgconvoy_repository::Repository;
use pgconvoy_repository::sync::{Crew, Hands, Said, SyncMate, SyncOptions, SyncReport, SyncStatus};
use pgconvoy_storage::decorate::guard::{GuardStorage, Stripes};
use pgconvoy_storage::{MemoryStorage, PutMode};
use std::fmt;
use std::sync::{Arc, Mutex};
use tokio::runtime::Handle;

/// What the mate does with the objects of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Conduct {
    CopiesAll,
    /// Every other one, and it says that it has all.
    LiesOfHalf,
    /// It copies all and says nothing: it was lost.
    IsLost,
}

/// A main worker's team of one mate, without a network between them.
struct Pair {
    mate: SyncMate,
    conduct: Conduct,
    told: Mutex<Told>,
}

#[derive(Debug, Default)]
struct Told {
    parts: Vec<CopyPart>,
    by_mate: usize,
    by_main: usize,
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pair").field("conduct", &self.conduct).finish_non_exhaustive()
    }
}

impl Crew for Pair {
    fn copy(&self, part: &CopyPart, hands: &dyn Hands) -> Result<(), Failure> {
        let ready = self.mate.ready(part)?.ok_or_else(|| {
            Failure::new(
                ErrorCode::Assert,
                "a part was given away before its backup had the record of a copy",
            )
        })?;
        let mut told = self.told.lock().unwrap();
        told.parts.push(part.clone());
        for number in 0..part.objects.count() {
            let is_left = self.conduct == Conduct::LiesOfHalf && number % 2 == 0;
            let said = if is_left { Said::Copied } else { self.mate.copy(&ready, number)? };
            let said = if self.conduct == Conduct::IsLost { Said::Nothing } else { said };
            let Some(settled) = hands.settle(number, said) else { return Ok(()) };
            told.by_mate += usize::from(settled.is_theirs);
            told.by_main += usize::from(settled.bytes.is_some() && !settled.is_theirs);
        }
        Ok(())
    }
}

async fn mate_of(from: &Site, to: &Site) -> SyncMate {
    let (source, target) = (from.repository.clone(), to.repository.clone());
    SyncMate::open(source, target, &from.stanza, &options(None)).await.unwrap()
}

async fn shared(from: &Site, to: &Site, conduct: Conduct) -> (SyncReport, Told) {
    let pair = Arc::new(Pair { mate: mate_of(from, to).await, conduct, told: Mutex::default() });
    let crew: Arc<dyn Crew> = pair.clone();
    let options = SyncOptions { crew: Some(crew), ..options(None) };
    let report = sync_with(from, to.repository.clone(), &options).await.unwrap();
    let told = std::mem::take(&mut *pair.told.lock().unwrap());
    (report, told)
}

fn objects(told: &Told) -> usize {
    told.parts.iter().map(|part| part.objects.count()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_mate_copied_counts_as_copied_and_the_main_worker_publishes_it() {
    for (ours, theirs) in [(Seal::Encrypted, Seal::Encrypted), (Seal::Plain, Seal::Encrypted)] {
        let (from, to) = (source(ours).await, empty(theirs).await);
        let (report, told) = shared(&from, &to, Conduct::CopiesAll).await;
        assert_eq!((statuses(&report), report.errors.len()), (vec![SyncStatus::Copied; 3], 0));
        assert!(objects(&told) > 4 && told.by_mate == objects(&told) && told.by_main == 0, "{told:?}");
        let archive = &report.archives[0];
        assert_eq!((archive.files, archive.parts, archive.present), (11, 1, 0));
        is_whole(&to).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_mate_only_says_it_has_copied_the_main_worker_finds_and_copies() {
    let (from, to) = (source(Seal::Encrypted).await, empty(Seal::Encrypted).await);
    let (report, told) = shared(&from, &to, Conduct::LiesOfHalf).await;
    assert_eq!((statuses(&report), report.errors.len()), (vec![SyncStatus::Copied; 3], 0));
    assert!(told.by_main > 0 && told.by_mate > 0, "{told:?}");
    assert_eq!(told.by_main + told.by_mate, objects(&told), "{told:?}");
    is_whole(&to).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_lost_mate_left_is_found_there_and_not_copied_again() {
    let (from, to) = (source(Seal::Encrypted).await, empty(Seal::Encrypted).await);
    let (report, told) = shared(&from, &to, Conduct::IsLost).await;
    assert_eq!((statuses(&report), report.errors.len()), (vec![SyncStatus::Copied; 3], 0));
    assert_eq!((told.by_main, told.by_mate), (0, 0), "{told:?}");
    assert_eq!(usize::try_from(report.archives[0].present).unwrap(), wal_objects(&told));
    is_whole(&to).await;
}

fn wal_objects(told: &Told) -> usize {
    let wal = told.parts.iter().filter(|part| matches!(part.objects, CopyObjects::Wal { .. }));
    wal.map(|part| part.objects.count()).sum()
}

/// A crew of which one puts something else under the name of an object and says that it has copied it.
#[derive(Debug)]
struct Spoiler {
    to: Arc<Repository>,
    runtime: Handle,
    stanza: StanzaName,
    /// A pack, or a WAL file.
    spoils_packs: bool,
    spoiled: Mutex<Option<String>>,
}

impl Spoiler {
    fn name(&self, part: &CopyPart, number: usize) -> Option<String> {
        match &part.objects {
            CopyObjects::Packs { packs, .. } if self.spoils_packs => Some(packs[number].key(&self.stanza)),
            CopyObjects::Wal { archive, files } if !self.spoils_packs => {
                Some(layout::wal_file(&self.stanza, *archive, &files[number]))
            }
            _ => None,
        }
    }
}

impl Crew for Spoiler {
    fn copy(&self, part: &CopyPart, hands: &dyn Hands) -> Result<(), Failure> {
        for number in 0..part.objects.count() {
            let mut spoiled = self.spoiled.lock().unwrap();
            let said = match self.name(part, number).filter(|_| spoiled.is_none()) {
                Some(name) => {
                    let (key, bytes) = (name.parse().unwrap(), b"no object of pgconvoy".to_vec().into());
                    self.runtime.block_on(self.to.storage().put(&key, PutMode::Create, bytes)).unwrap();
                    *spoiled = Some(name);
                    Said::Copied
                }
                None => Said::Nothing,
            };
            drop(spoiled);
            if hands.settle(number, said).is_none() {
                return Ok(());
            }
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mates_damaged_object_is_found_and_named_and_what_needs_it_is_not_published() {
    for spoils_packs in [false, true] {
        let (from, to) = (source(Seal::Encrypted).await, empty(Seal::Encrypted).await);
        let spoiler = Arc::new(Spoiler {
            to: to.repository.clone(),
            runtime: Handle::current(),
            stanza: from.stanza.clone(),
            spoils_packs,
            spoiled: Mutex::default(),
        });
        let crew: Arc<dyn Crew> = spoiler.clone();
        let options = SyncOptions { crew: Some(crew), ..options(None) };
        let report = sync_with(&from, to.repository.clone(), &options).await.unwrap();
        let spoiled = spoiler.spoiled.lock().unwrap().clone().unwrap();
        let told: Vec<String> = report.errors.iter().map(ToString::to_string).collect();
        assert!(told.iter().any(|error| error.contains(&spoiled)), "{spoiled} is not named: {told:?}");
        assert_eq!(statuses(&report)[0], SyncStatus::Error, "{report:?}");
        let first = from.labels().await[0];
        let rests = |label: &BackupLabel| *label == first || !label.is_full();
        assert!(!to.labels().await.iter().any(rests), "a backup is published on what a mate has spoiled");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mate_helps_with_no_other_repositories_and_no_backup_that_is_not_being_copied() {
    let (from, to) = (source(Seal::Encrypted).await, empty(Seal::Encrypted).await);
    let (_, told) = shared(&from, &to, Conduct::CopiesAll).await;
    let is_of_packs = |part: &&CopyPart| matches!(part.objects, CopyObjects::Packs { .. });
    let part = told.parts.iter().find(is_of_packs).cloned().unwrap();
    let mate = mate_of(&from, &to).await;
    let looked = tokio::task::spawn_blocking(move || {
        // Its backup is published by now, and has no record of a copy any more.
        assert!(mate.ready(&part).unwrap().is_none());
        let other = Identity::from_random_bytes([9; 16]);
        for strange in [CopyPart { source: other, ..part.clone() }, CopyPart { target: other, ..part }] {
            assert_eq!(mate.ready(&strange).unwrap_err().code, ErrorCode::RepoInvalid);
        }
    });
    looked.await.unwrap();
}

/// Locks are each host's own, and what a late mate puts again would be another pack of the same name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_only_locks_guard_takes_no_help() {
    let from = source(Seal::Encrypted).await;
    let guarded = GuardStorage::new(Arc::new(MemoryStorage::new()), Arc::new(Stripes::default()));
    let to = Site::at(Arc::new(guarded), Seal::Encrypted, 2).await;
    let (source, target) = (from.repository.clone(), to.repository.clone());
    let refused = SyncMate::open(source, target, &from.stanza, &options(None)).await.err().unwrap();
    assert_eq!(refused.code, ErrorCode::NotSupported);
    assert!(refused.hints[0].contains("one worker copies by itself"), "{refused:?}");
}
