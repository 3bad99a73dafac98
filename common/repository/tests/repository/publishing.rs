//! Creating and publishing, when answers are lost and others are quicker.

use super::support::{BackupRequest, Seal, Site, backup, contents, segment, writer};
use async_trait::async_trait;
use bytes::Bytes;
use pgconvoy_core::format::layout;
use pgconvoy_core::format::plan::{HeartbeatBody, Writer};
use pgconvoy_core::ids::PlanNumber;
use pgconvoy_core::units::Timestamp;
use pgconvoy_repository::backup::Swept;
use pgconvoy_repository::{Repository, RepositoryError};
use pgconvoy_storage::decorate::fault::{Effect, FaultStorage, KeyPattern, Kind, Operation, Rule};
use pgconvoy_storage::{
    Features, ListAfter, ListDepth, ListPage, MemoryStorage, ObjectInfo, ObjectKey, PutMode, Storage,
    StorageError, Upload,
};
use std::ops::Range;
use std::sync::Arc;

async fn site() -> Site {
    let site = Site::new(Seal::Encrypted).await;
    site.push((1..=4).map(segment)).await;
    site
}

#[tokio::test]
async fn publishing_again_after_a_lost_answer_finds_its_own_entry() {
    let site = site().await;
    let (contents, record) = self::contents(&site, &BackupRequest::new(1_795_000_000, 2, 3)).await;
    let publish = || site.repository.publish(&site.stanza, contents.clone(), record.clone());
    publish().await.unwrap();
    publish().await.unwrap();
    let entry = layout::catalogue_entry(&site.stanza, record.label);
    site.delete(&entry).await;
    publish().await.unwrap();
    assert!(site.verify().await.is_ok(), "the entry names the manifest that is there");
}

#[tokio::test]
async fn a_manifest_of_another_backup_is_not_taken_for_ones_own() {
    let site = site().await;
    let (contents, record) = self::contents(&site, &BackupRequest::new(1_795_000_000, 2, 3)).await;
    site.repository.publish(&site.stanza, contents.clone(), record.clone()).await.unwrap();
    site.delete(&layout::catalogue_entry(&site.stanza, record.label)).await;
    let elsewhere = self::site().await;
    let request = BackupRequest { identity: 200, ..BackupRequest::new(1_795_000_000, 2, 3) };
    let (other, claim) = self::contents(&elsewhere, &request).await;
    assert_eq!(claim.label, record.label);
    let refused = site.repository.publish(&site.stanza, other, claim).await;
    assert!(matches!(refused, Err(RepositoryError::Contradiction { .. })), "{refused:?}");
    assert!(site.labels().await.is_empty(), "nothing was published");
}

#[tokio::test]
async fn a_sweep_goes_on_past_what_a_retention_keeps_and_the_next_one_ends_it() {
    let site = site().await;
    let (_, record) = self::contents(&site, &BackupRequest::new(1_795_000_000, 2, 3)).await;
    let void = Repository::void_record(record.label, "taken for dead", &writer(), Timestamp(0));
    assert!(site.repository.give_up(&site.stanza, void).await.unwrap());
    let (faulty, faults) = FaultStorage::new(site.storage.clone());
    let kept = layout::packs(&site.stanza, record.label, PlanNumber(1));
    let rule = Rule::always(Operation::Delete, Effect::Fail(Kind::Kept));
    faults.add(rule.on(KeyPattern::Under(kept.parse().unwrap())));
    let repository = Repository::open(Arc::new(faulty), &site.settings).await.unwrap();
    let under = layout::backup(&site.stanza, record.label) + "/";
    let names = async || {
        let all = site.objects().await;
        all.into_iter().filter(|name| name.starts_with(&under)).collect::<Vec<_>>()
    };
    let begun = names().await;
    let swept = repository.sweep(&site.stanza, record.label).await.unwrap();
    assert!(swept.kept.is_some_and(|error| error.is_kept()));
    let left = names().await;
    assert!(
        !left.is_empty() && left.len() < begun.len() && left.iter().all(|name| name.starts_with(&kept)),
        "{left:?}"
    );
    let swept = site.repository.sweep(&site.stanza, record.label).await.unwrap();
    assert_eq!(swept, Swept { removed: left.len(), kept: None });
}

#[tokio::test]
async fn a_backup_that_was_given_up_is_not_published() {
    let site = site().await;
    let (contents, record) = self::contents(&site, &BackupRequest::new(1_795_000_000, 2, 3)).await;
    let void = Repository::void_record(record.label, "taken for dead", &writer(), Timestamp(0));
    assert!(site.repository.give_up(&site.stanza, void).await.unwrap());
    let refused = site.repository.publish(&site.stanza, contents, record.clone()).await;
    assert!(matches!(refused, Err(RepositoryError::Void { .. })), "{refused:?}");
    site.repository.sweep(&site.stanza, record.label).await.unwrap();
    assert!(site.objects().await.iter().all(|name| !name.contains("/backup/")), "all is swept");
}

#[tokio::test]
async fn an_unfinished_backup_is_that_of_whoever_put_the_newest_heartbeat() {
    let site = site().await;
    let (_, record) = self::contents(&site, &BackupRequest::new(1_795_000_000, 2, 3)).await;
    let who = async || {
        let unfinished = site.repository.unfinished(&site.stanza).await.unwrap();
        unfinished[0].writer().unwrap().host.clone()
    };
    assert_eq!(who().await, writer().host, "the plan's");
    for (sequence, host) in [(7, "first"), (8, "second")] {
        let heartbeat = HeartbeatBody { writer: Writer { host: host.into(), ..writer() }, sequence };
        site.repository.beat(&site.stanza, record.label, PlanNumber(1), &heartbeat).await.unwrap();
        assert_eq!(who().await, host);
    }
}

#[tokio::test]
async fn a_published_backup_is_neither_given_up_nor_swept() {
    let site = site().await;
    let label = backup(&site, &BackupRequest::new(1_795_000_000, 2, 3)).await;
    let void = Repository::void_record(label, "too late", &writer(), Timestamp(0));
    assert!(!site.repository.give_up(&site.stanza, void).await.unwrap());
    assert!(site.repository.sweep(&site.stanza, label).await.is_err());
    assert!(site.verify().await.is_ok());
}

/// A store in which somebody else's key slot replaces ours just before our identity is put.
#[derive(Debug)]
struct Raced {
    memory: MemoryStorage,
    slot_of_the_other: Bytes,
}

#[async_trait]
impl Storage for Raced {
    fn describe(&self) -> String {
        self.memory.describe()
    }

    fn features(&self) -> Features {
        self.memory.features()
    }

    async fn put(&self, key: &ObjectKey, mode: PutMode, body: Bytes) -> Result<(), StorageError> {
        if key.as_str() == layout::REPOSITORY {
            let slot = SLOT.parse().unwrap();
            self.memory.put(&slot, PutMode::Overwrite, self.slot_of_the_other.clone()).await?;
        }
        self.memory.put(key, mode, body).await
    }

    async fn begin(&self, key: &ObjectKey, mode: PutMode) -> Result<Box<dyn Upload>, StorageError> {
        self.memory.begin(key, mode).await
    }

    async fn get(&self, key: &ObjectKey, size_max: u64) -> Result<Bytes, StorageError> {
        self.memory.get(key, size_max).await
    }

    async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, StorageError> {
        self.memory.get_range(key, range).await
    }

    async fn stat(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>, StorageError> {
        self.memory.stat(key).await
    }

    async fn list(
        &self,
        prefix: Option<&ObjectKey>,
        depth: ListDepth,
        after: Option<&ListAfter>,
        limit: usize,
    ) -> Result<ListPage, StorageError> {
        self.memory.list(prefix, depth, after, limit).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<(), StorageError> {
        self.memory.delete(key).await
    }
}

const SLOT: &str = "keys/0001/default";

#[tokio::test]
async fn a_repository_whose_slot_was_overtaken_is_refused_before_anything_is_written() {
    let other = site().await;
    let slot_of_the_other = other.read(SLOT).await.into();
    let storage = Arc::new(Raced { memory: MemoryStorage::new(), slot_of_the_other });
    let created = Repository::open_or_create(storage, &other.settings, Timestamp(0)).await;
    assert!(matches!(created, Err(RepositoryError::Key(_))), "{created:?}");
}
