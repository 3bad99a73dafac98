//! Two repositories in one store that copies by itself: what it copies, what it must not, and what happens when it does not.

use super::support::{BackupRequest, Files, Flaw, Seal, Site, backup, incremental, segment, wal_content};
use super::syncing::{is_whole, statuses, try_sync};
use pgconvoy_core::format::layout;
use pgconvoy_core::pg::WalFileName;
use pgconvoy_core::units::MIB;
use pgconvoy_repository::codec::Codec;
use pgconvoy_repository::sync::{SyncReport, SyncStatus};
use pgconvoy_storage::MemoryStorage;
use pgconvoy_storage::decorate::fault::{Effect, FaultStorage, Faults, Kind, Operation, Rule};
use pgconvoy_storage::decorate::metrics::{Counters, MetricsStorage};
use std::sync::Arc;

const NOISE: usize = 3 << 20;
const BIG: u64 = 1 << 20;

struct Pair {
    from: Site,
    to: Site,
    reads: Arc<Counters>,
    writes: Arc<Counters>,
    faults: Faults,
}

/// A full backup with a large pack, one that borrows from it, a large segment among small ones; and a repository without the stanza.
async fn pair(seals: (Seal, Seal)) -> Pair {
    let memory = MemoryStorage::new();
    let (theirs, writes) = MetricsStorage::new(Arc::new(memory.beside()));
    let (theirs, faults) = FaultStorage::new(Arc::new(theirs));
    let (ours, reads) = MetricsStorage::new(Arc::new(memory));
    let from = Site::at(Arc::new(ours), seals.0, 1).await;
    from.push((1..=4).map(segment)).await;
    from.push_with(Codec::None, &WalFileName::Segment(segment(5)), wal_content(segment(5))).await;
    from.push((6..=9).map(segment)).await;
    let mut files = Files::sample();
    files.noise("base/5/16384", NOISE);
    let full = backup(
        &from,
        &BackupRequest { files, unit_size: 8 * MIB, ..BackupRequest::new(1_795_000_000, 2, 3) },
    )
    .await;
    incremental(&from, full, Flaw::None).await;
    let to = Site::at(Arc::new(theirs), seals.1, 2).await;
    to.delete("main/cluster/0001").await;
    Pair { from, to, reads, writes, faults }
}

impl Pair {
    async fn sync(&self) -> SyncReport {
        try_sync(&self.from, &self.to, None).await.unwrap()
    }

    fn written(&self) -> u64 {
        self.writes.snapshot().bytes_written
    }

    /// Names of large objects of the full backup.
    async fn large_packs(&self) -> Vec<String> {
        let prefix = format!("main/backup/{}/pack/", self.from.labels().await[0]);
        let mut large = Vec::new();
        for name in self.from.objects().await.into_iter().filter(|name| name.starts_with(&prefix)) {
            if self.from.read(&name).await.len() as u64 >= BIG {
                large.push(name);
            }
        }
        large
    }
}

fn by_store(report: &SyncReport) -> u64 {
    let backups = report.backups.iter().map(|backup| backup.bytes_by_store);
    backups.chain(report.archives.iter().map(|archive| archive.bytes_by_store)).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_copies_what_is_large_and_stays_as_it_is_and_all_of_it_was_read() {
    let pair = pair((Seal::Plain, Seal::Plain)).await;
    let (read, written) = (pair.reads.snapshot().bytes_read, pair.written());
    let report = pair.sync().await;
    assert_eq!((report.errors.len(), statuses(&report)), (0, vec![SyncStatus::Copied; 2]));
    let copied = by_store(&report);
    assert!(report.backups[0].bytes_by_store >= NOISE as u64, "{report:?}");
    assert!((BIG..2 * BIG).contains(&report.archives[0].bytes_by_store), "{report:?}");
    assert!(report.backups[0].bytes > report.backups[0].bytes_by_store, "its papers are small");
    let seen = pair.writes.snapshot();
    assert_eq!(seen.bytes_copied, copied);
    assert!(pair.written() - written < BIG / 2, "{seen:?}");
    assert!(pair.reads.snapshot().bytes_read - read >= copied, "nothing is copied unread");
    is_whole(&pair.to).await;
    let differs = |name: &str| name == layout::REPOSITORY || name.starts_with("main/catalogue/");
    assert_eq!(pair.from.objects().await, pair.to.objects().await);
    for name in pair.from.objects().await.iter().filter(|name| !differs(name)) {
        assert_eq!(pair.from.read(name).await, pair.to.read(name).await, "{name}");
    }
    let json = report.to_json();
    assert_eq!(json["backup"][0]["bytes-by-store"], report.backups[0].bytes_by_store);
    let text = pgconvoy_repository::sync::json_to_text(&json);
    assert!(text.contains("were copied by the store itself"), "{text}");
    let again = pair.sync().await;
    assert_eq!((statuses(&again), by_store(&again)), (vec![SyncStatus::Present; 2], 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_key_on_either_side_everything_is_sealed_anew() {
    for seals in
        [(Seal::Plain, Seal::Encrypted), (Seal::Encrypted, Seal::Plain), (Seal::Encrypted, Seal::Encrypted)]
    {
        let pair = pair(seals).await;
        let report = pair.sync().await;
        assert_eq!(statuses(&report), [SyncStatus::Copied; 2]);
        assert_eq!((by_store(&report), pair.writes.snapshot().copies), (0, 0), "{seals:?}");
        assert!(pair.written() > NOISE as u64);
        is_whole(&pair.to).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_object_is_found_and_not_copied() {
    let pair = pair((Seal::Plain, Seal::Plain)).await;
    let name = pair.large_packs().await.remove(0);
    let whole = pair.from.read(&name).await;
    let mut hurt = whole.clone();
    hurt[whole.len() / 2] ^= 1;
    pair.from.overwrite(&name, hurt).await;
    let report = pair.sync().await;
    assert_eq!(statuses(&report), [SyncStatus::Error; 2]);
    assert!(report.errors[0].message.contains(&name), "{:?}", report.errors);
    assert!(!pair.to.objects().await.contains(&name));
    pair.from.overwrite(&name, whole).await;
    let report = pair.sync().await;
    assert_eq!(statuses(&report), [SyncStatus::Copied; 2]);
    assert!(report.backups[0].bytes_by_store >= NOISE as u64);
    is_whole(&pair.to).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_store_refuses_to_copy_is_put() {
    for kind in [Kind::Access, Kind::ReadOnly] {
        let pair = pair((Seal::Plain, Seal::Plain)).await;
        pair.faults.add(Rule::always(Operation::Copy, Effect::Fail(kind)));
        let report = pair.sync().await;
        // A right that is missing is one thing, a store that takes nothing any more another.
        if kind == Kind::ReadOnly {
            assert!(report.verdict().is_err(), "{report:?}");
            continue;
        }
        assert_eq!((statuses(&report), by_store(&report)), (vec![SyncStatus::Copied; 2], 0));
        is_whole(&pair.to).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_fails_is_tried_again_and_one_whose_answer_was_lost_is_found() {
    for effect in [Effect::Fail(Kind::Unavailable), Effect::LoseAnswer(Kind::Timeout)] {
        let pair = pair((Seal::Plain, Seal::Plain)).await;
        let rule = pair.faults.add(Rule::always(Operation::Copy, effect).times(2));
        let report = pair.sync().await;
        assert_eq!((report.errors.len(), statuses(&report)), (0, vec![SyncStatus::Copied; 2]), "{effect:?}");
        assert_eq!(pair.faults.strikes(rule), 2);
        assert!(pair.written() < BIG, "nothing large is put");
        is_whole(&pair.to).await;
    }
}
