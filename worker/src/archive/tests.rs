//! Repositories in memory whose faults a test decides, and segments with a real header.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use pgconvoy_core::format::HashSecret;
use pgconvoy_core::ids::ClusterNumber;
use pgconvoy_core::pg::{WalFileName, WalSegmentSize};
use pgconvoy_core::units::Timestamp;
use pgconvoy_repository::RepositorySettings;
use pgconvoy_repository::codec::Codec;
use pgconvoy_repository::set::Place;
use pgconvoy_repository::wal::{PushManner, Threads};
use pgconvoy_storage::decorate::fault::{FaultStorage, Faults};
use pgconvoy_storage::{MemoryStorage, PutMode, Storage, list_all};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

pub(super) const OURS: SystemId = SystemId(7_400_000_000_000_000_001);
pub(super) const ANOTHER: SystemId = SystemId(7_400_000_000_000_000_002);
pub(super) const SEGMENT: &str = "000000010000000000000001";
pub(super) const SEGMENT_BYTES: usize = 1 << 20;

pub(super) fn manner() -> PushManner {
    let stall = Duration::from_secs(60);
    PushManner::alike(Codec::Zst, Codec::Zst.default_level(), Threads::new(1), stall)
}

pub(super) const fn identity(system_id: SystemId) -> ClusterIdentity {
    ClusterIdentity { system_id, version: PgVersion::V15 }
}

/// Numbered from 1.
pub(super) struct Fleet {
    stores: BTreeMap<RepoKey, (Arc<dyn Storage>, Faults)>,
    pub(super) stanza: StanzaName,
    pub(super) directory: tempfile::TempDir,
}

impl Fleet {
    /// So many repositories that know our cluster.
    pub(super) async fn new(repositories: u16) -> Fleet {
        let mut stores = BTreeMap::new();
        for number in 1..=repositories {
            let (storage, faults) = FaultStorage::new(Arc::new(MemoryStorage::new()));
            stores.insert(RepoKey(number), (Arc::new(storage) as Arc<dyn Storage>, faults));
        }
        let stanza = "main".parse().unwrap();
        let fleet = Fleet { stores, stanza, directory: tempfile::tempdir().unwrap() };
        for key in fleet.keys() {
            fleet.set(key).open_or_create(key, Timestamp(0)).await.unwrap();
            fleet.add_cluster(key, 1, OURS).await;
        }
        fleet
    }

    pub(super) async fn add_cluster(&self, key: RepoKey, number: u32, system_id: SystemId) {
        let cluster = ClusterBody {
            number: ClusterNumber(number),
            system_id,
            version: PgVersion::V15,
            control_version: 1300,
            catalog_version: 202_209_061,
            page_size: 8192,
            wal_segment_size: WalSegmentSize::DEFAULT,
            hash_secret: HashSecret::from_random_bytes([7; HashSecret::BYTES]),
            created: Timestamp(0),
        };
        self.repository(key).await.create_cluster(&self.stanza, &cluster).await.unwrap();
    }

    pub(super) fn keys(&self) -> Vec<RepoKey> {
        self.stores.keys().copied().collect()
    }

    pub(super) fn faults(&self, number: u16) -> &Faults {
        &self.stores[&RepoKey(number)].1
    }

    pub(super) fn storage(&self, number: u16) -> &dyn Storage {
        self.stores[&RepoKey(number)].0.as_ref()
    }

    fn set(&self, key: RepoKey) -> Arc<RepositorySet> {
        self.connect()(key).unwrap()
    }

    pub(super) fn connect(&self) -> Connect {
        let stores: BTreeMap<RepoKey, Arc<dyn Storage>> =
            self.stores.iter().map(|(key, (storage, _))| (*key, storage.clone())).collect();
        Arc::new(move |key| {
            let settings = RepositorySettings {
                number: key,
                secret: None,
                layout: pgconvoy_core::config::Layout::Packed,
            };
            Ok(Arc::new(RepositorySet::new([Place::at(stores[&key].clone(), settings)])))
        })
    }

    pub(super) async fn repository(&self, key: RepoKey) -> Arc<Repository> {
        self.set(key).open(key).await.unwrap()
    }

    /// Writes a file as it would lie in pg_wal.
    pub(super) fn wal_file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    pub(super) fn doors(&self) -> Doors {
        Doors::new(self.connect(), self.stanza.clone())
    }

    pub(super) fn push<'a>(
        &'a self,
        doors: &'a Doors,
        repositories: &'a [PushRepository],
        path: &'a std::path::Path,
    ) -> Push<'a> {
        Push {
            doors,
            repositories,
            file: path.file_name().unwrap().to_str().unwrap().parse().unwrap(),
            path,
            cluster: None,
            is_header_checked: true,
            manner: manner(),
        }
    }

    /// Pushes to one repository.
    pub(super) async fn give(&self, number: u16, name: &str, content: &[u8]) {
        let path = self.wal_file(name, content);
        let repositories = [PushRepository { key: RepoKey(number), is_required: true }];
        self.push(&self.doors(), &repositories, &path).run().await.unwrap();
    }

    pub(super) async fn content(&self, number: u16, name: &str) -> Vec<u8> {
        let archive = ArchiveId { version: PgVersion::V15, number: ClusterNumber(1) };
        let repository = self.repository(RepoKey(number)).await;
        let reader =
            repository.open_wal(&self.stanza, archive, &name.parse().unwrap()).await.unwrap().unwrap();
        let mut content = Vec::new();
        let keep = |piece: &[u8]| {
            content.extend_from_slice(piece);
            Ok(())
        };
        reader.read(&repository, keep).await.unwrap();
        content
    }

    /// Overwrites one byte in the middle of what is stored.
    pub(super) async fn damage(&self, number: u16, name: &str) {
        let storage = self.storage(number);
        let objects = list_all(storage, None).await.unwrap();
        let object = objects.iter().find(|object| object.key.as_str().ends_with(name)).unwrap();
        let mut body = storage.get(&object.key, u64::MAX).await.unwrap().to_vec();
        body[100] ^= 1;
        storage.put(&object.key, PutMode::Overwrite, body.into()).await.unwrap();
    }

    pub(super) async fn has(&self, number: u16, archive: u32, name: &str) -> bool {
        let archive = ArchiveId { version: PgVersion::V15, number: ClusterNumber(archive) };
        let file: WalFileName = name.parse().unwrap();
        self.repository(RepoKey(number)).await.has_wal(&self.stanza, archive, &file).await.unwrap()
    }
}

/// A segment of version 15 whose content depends on `seed`.
pub(super) fn segment(system_id: SystemId, seed: u8) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..SEGMENT_BYTES).map(|at| u8::try_from(at % 251).unwrap() ^ seed).collect();
    bytes[..40].fill(0);
    bytes[0..4].copy_from_slice(&[0x10, 0xd1, 0x02, 0x00]);
    bytes[4..8].copy_from_slice(&1u32.to_le_bytes());
    bytes[8..16].copy_from_slice(&(SEGMENT_BYTES as u64).to_le_bytes());
    bytes[24..32].copy_from_slice(&system_id.0.to_le_bytes());
    bytes[32..36].copy_from_slice(&u32::try_from(SEGMENT_BYTES).unwrap().to_le_bytes());
    bytes[36..40].copy_from_slice(&8192u32.to_le_bytes());
    bytes
}
