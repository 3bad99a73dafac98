//! One repository with a stanza and its WAL.

use super::{BackupRequest, Files, backup};
use pgconvoy_core::config::Layout;
use pgconvoy_core::format::catalogue::{BackupRecord, CatalogueBody};
use pgconvoy_core::format::cluster::ClusterBody;
use pgconvoy_core::format::{BackupLabel, HashSecret};
use pgconvoy_core::ids::{ClusterNumber, Identity, RepoKey, StanzaName, SystemId};
use pgconvoy_core::pg::{Lsn, PgVersion, TimelineId, WalFileName, WalSegmentName, WalSegmentSize};
use pgconvoy_core::units::{MIB, Timestamp};
use pgconvoy_repository::codec::Codec;
use pgconvoy_repository::keys::KeySource;
use pgconvoy_repository::verify::{BackupVerification, RepoVerification, VerifyOptions, verify};
use pgconvoy_repository::wal::push_wal;
use pgconvoy_repository::{Repository, RepositorySettings};
use pgconvoy_storage::{MemoryStorage, ObjectKey, PosixStorage, PutMode, Storage, list_all};
use std::io::Cursor;
use std::path::PathBuf;
use std::sync::Arc;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

pub(crate) const VERSION: PgVersion = PgVersion::V15;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seal {
    Plain,
    Encrypted,
}

pub(crate) struct Site {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) repository: Arc<Repository>,
    pub(crate) settings: RepositorySettings,
    pub(crate) stanza: StanzaName,
    pub(crate) cluster: ClusterBody,
    directory: TempDir,
}

/// The segment with this number on timeline 1, of 1 MiB so that tests are quick.
pub(crate) fn segment(number: u64) -> WalSegmentName {
    let size = WalSegmentSize::new(MIB).unwrap();
    WalSegmentName::containing(TimelineId(1), Lsn(number * MIB), size)
}

/// A segment's bytes: most of it compresses, as real WAL does.
pub(crate) fn wal_content(segment: WalSegmentName) -> Vec<u8> {
    let mut content = vec![0; 1 << 20];
    for (at, byte) in content.iter_mut().take(4096).enumerate() {
        *byte = u8::try_from((at * 31 + segment.to_string().bytes().map(usize::from).sum::<usize>()) % 251)
            .unwrap();
    }
    content
}

impl Site {
    pub(crate) async fn new(seal: Seal) -> Site {
        Self::at(Arc::new(MemoryStorage::new()), seal, 1).await
    }

    pub(crate) async fn on_disk(seal: Seal) -> Site {
        let directory = TempDir::new().unwrap();
        let key_file = directory.path().join("key");
        pgconvoy_repository::keys::create_key_file(&key_file).unwrap();
        let storage = PosixStorage::create(&directory.path().join("repository")).unwrap();
        Self::build(Arc::new(storage), Self::settings(seal, &key_file, 1), directory).await
    }

    pub(crate) async fn at(storage: Arc<dyn Storage>, seal: Seal, number: u16) -> Site {
        let directory = TempDir::new().unwrap();
        let key_file = directory.path().join("key");
        pgconvoy_repository::keys::create_key_file(&key_file).unwrap();
        Self::build(storage, Self::settings(seal, &key_file, number), directory).await
    }

    /// `directory` lives as long as the site does.
    async fn build(storage: Arc<dyn Storage>, settings: RepositorySettings, directory: TempDir) -> Site {
        let now = Timestamp::from_seconds(1_000);
        let (repository, _) = Repository::open_or_create(storage.clone(), &settings, now).await.unwrap();
        let repository = Arc::new(repository);
        let stanza: StanzaName = "main".parse().unwrap();
        let cluster = Self::cluster_body();
        if repository.clusters(&stanza).await.unwrap().is_empty() {
            repository.create_cluster(&stanza, &cluster).await.unwrap();
        }
        Site { storage, repository, settings, stanza, cluster, directory }
    }

    /// A repository that is there, or a new one, that opens with the key file.
    pub(crate) async fn open(storage: Arc<dyn Storage>, seal: Seal, key_file: &std::path::Path) -> Site {
        Self::build(storage, Self::settings(seal, key_file, 1), TempDir::new().unwrap()).await
    }

    pub(crate) fn settings(seal: Seal, key_file: &std::path::Path, number: u16) -> RepositorySettings {
        let file = KeySource::KeyFile(key_file.to_str().unwrap().to_owned());
        RepositorySettings {
            number: RepoKey(number),
            secret: (seal == Seal::Encrypted).then_some(file),
            layout: Layout::Packed,
        }
    }

    pub(crate) fn cluster_body() -> ClusterBody {
        let mut secret = [0; HashSecret::BYTES];
        secret.iter_mut().zip(7u8..).for_each(|(byte, value)| *byte = value);
        ClusterBody {
            number: ClusterNumber(1),
            system_id: SystemId(7_000_000_000_000_000_001),
            version: VERSION,
            control_version: VERSION.control_version(),
            catalog_version: VERSION.catalog_version(),
            page_size: 8192,
            wal_segment_size: WalSegmentSize::new(MIB).unwrap(),
            hash_secret: HashSecret::from_random_bytes(secret),
            created: Timestamp::from_seconds(1_000),
        }
    }

    /// Two full backups with the WAL between them and after, and a history file.
    pub(crate) async fn with_two_backups(seal: Seal) -> Site {
        let site = Self::new(seal).await;
        site.fill().await;
        site
    }

    pub(crate) async fn fill(&self) {
        self.push((1..=9).map(segment)).await;
        backup(self, &BackupRequest::new(1_795_000_000, 2, 3)).await;
        let mut files = Files::sample();
        files.change("base/5/1259", 8192);
        backup(self, &BackupRequest { files, identity: 2, ..BackupRequest::new(1_795_000_500, 5, 6) }).await;
    }

    pub(crate) async fn push(&self, segments: impl IntoIterator<Item = WalSegmentName>) {
        for segment in segments {
            self.push_file(&WalFileName::Segment(segment), wal_content(segment)).await;
        }
    }

    pub(crate) async fn push_file(&self, file: &WalFileName, content: Vec<u8>) {
        self.push_with(Codec::Zst, file, content).await;
    }

    pub(crate) async fn push_with(&self, codec: Codec, file: &WalFileName, content: Vec<u8>) {
        let source: pgconvoy_repository::wal::WalSource =
            Arc::new(move || Ok(Box::new(Cursor::new(content.clone()))));
        let target = (self.repository.clone(), self.cluster.archive_id());
        let pushed =
            push_wal(&[target], &self.stanza, file, source, codec, codec.default_level()).await.unwrap();
        pushed.into_iter().for_each(|result| {
            result.unwrap();
        });
    }

    pub(crate) async fn verify(&self) -> RepoVerification {
        self.try_verify(None).await.unwrap()
    }

    pub(crate) async fn try_verify(
        &self,
        set: Option<BackupLabel>,
    ) -> Result<RepoVerification, pgconvoy_core::failure::Failure> {
        let options = VerifyOptions { set, process_max: 2, cancel: CancellationToken::new() };
        verify(self.repository.clone(), &self.stanza, &options, Arc::new(|_| {})).await
    }

    /// Its backups; none if the stanza is not there yet.
    pub(crate) async fn verify_if_there(&self) -> Vec<BackupVerification> {
        match self.repository.clusters(&self.stanza).await.unwrap().is_empty() {
            true => Vec::new(),
            false => self.verify().await.backups,
        }
    }

    pub(crate) async fn labels(&self) -> Vec<BackupLabel> {
        self.repository.catalogue_labels(&self.stanza).await.unwrap()
    }

    pub(crate) async fn record(&self, label: BackupLabel) -> BackupRecord {
        match self.repository.catalogue_entry(&self.stanza, label).await.unwrap() {
            Some(CatalogueBody::Published(record)) => *record,
            other => panic!("{other:?}"),
        }
    }

    /// Keys of all objects.
    pub(crate) async fn objects(&self) -> Vec<String> {
        list_all(self.storage.as_ref(), None)
            .await
            .unwrap()
            .into_iter()
            .map(|object| object.key.to_string())
            .collect()
    }

    pub(crate) async fn read(&self, name: &str) -> Vec<u8> {
        self.storage.get(&key(name), 64 << 20).await.unwrap().to_vec()
    }

    /// As only damage does it: over what is there.
    pub(crate) async fn overwrite(&self, name: &str, bytes: Vec<u8>) {
        self.storage.put(&key(name), PutMode::Overwrite, bytes.into()).await.unwrap();
    }

    pub(crate) async fn delete(&self, name: &str) {
        self.storage.delete(&key(name)).await.unwrap();
    }

    pub(crate) async fn reopen(&self) -> Result<Repository, pgconvoy_repository::RepositoryError> {
        Repository::open(self.storage.clone(), &self.settings).await
    }

    pub(crate) fn directory(&self) -> PathBuf {
        self.directory.path().to_owned()
    }

    pub(crate) fn identity(number: u8) -> Identity {
        Identity::from_random_bytes([number; 16])
    }
}

fn key(name: &str) -> ObjectKey {
    name.parse().unwrap()
}
