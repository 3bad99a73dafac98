//! From configured repositories to a set that can be opened: the only place that names concrete stores.
//!
//! Nothing is looked at here: a repository that is away, or whose key is wrong, says so when it is opened, so that a
//! command can go on with the others.

use crate::host::cores;
use crate::key_locks::FileLocks;
#[cfg(feature = "azure")]
use pgconvoy_core::config::AzureConfig;
#[cfg(feature = "gcs")]
use pgconvoy_core::config::GcsConfig;
#[cfg(any(feature = "azure", feature = "gcs", feature = "s3"))]
use pgconvoy_core::config::LockConfig;
#[cfg(feature = "s3")]
use pgconvoy_core::config::S3Config;
use pgconvoy_core::config::{BackupOptions, CipherType, CreateOnlyBy, RepoConfig, RepoKind, SftpConfig};
use pgconvoy_core::failure::Failure;
#[cfg(any(feature = "azure", feature = "gcs", feature = "s3"))]
use pgconvoy_core::format::layout;
use pgconvoy_core::ids::RepoKey;
#[cfg(any(feature = "azure", feature = "gcs", feature = "s3"))]
use pgconvoy_core::units::Timestamp;
use pgconvoy_repository::set::{Place, Purpose};
use pgconvoy_repository::{Repository, RepositorySet, RepositorySettings};
use pgconvoy_storage::bandwidth::Bandwidth;
use pgconvoy_storage::decorate::guard::{GuardStorage, KeyLocks};
use pgconvoy_storage::decorate::hedge::HedgeStorage;
use pgconvoy_storage::decorate::limit::LimitStorage;
use pgconvoy_storage::decorate::retry::{RetryPolicy, RetryStorage};
#[cfg(any(feature = "azure", feature = "gcs", feature = "s3"))]
use pgconvoy_storage::parts::PartSlots;
#[cfg(any(feature = "azure", feature = "gcs", feature = "s3"))]
use pgconvoy_storage::versions::VersionedStore;
#[cfg(any(feature = "azure", feature = "gcs", feature = "s3"))]
use pgconvoy_storage::{AsOf, Lock};
use pgconvoy_storage::{PosixStorage, Storage, StorageError};
use pgconvoy_storage_sftp::{SftpOptions, SftpStorage};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
#[cfg(any(feature = "azure", feature = "gcs", feature = "s3"))]
use std::time::SystemTime;

/// A repository, or why it is not to be had.
pub type Opened = (RepoKey, Result<Arc<Repository>, Failure>);

/// For a command: as many parts and requests at a time as its slots can use.
pub fn repository_set(repos: &[RepoConfig], options: &BackupOptions) -> Result<Arc<RepositorySet>, Failure> {
    repository_set_for(repos, options.io_timeout, options.slots(cores()))
}

/// For so many slots. A store may take up to `io_timeout` for one call, its repetitions included.
pub fn repository_set_for(
    repos: &[RepoConfig],
    io_timeout: Duration,
    slots: usize,
) -> Result<Arc<RepositorySet>, Failure> {
    let policy = RetryPolicy::within(io_timeout);
    let places: Vec<Place> = repos.iter().map(|repo| place(repo, policy, slots)).collect::<Result<_, _>>()?;
    Ok(Arc::new(RepositorySet::new(places)))
}

/// Opens each; one that cannot be opened is an error of its own.
pub async fn open_all(repos: &[RepoConfig], options: &BackupOptions) -> Result<Vec<Opened>, Failure> {
    let set = repository_set(repos, options)?;
    let mut opened = Vec::new();
    for repo in repos {
        opened.push((repo.key, set.open(repo.key).await.map_err(Failure::from)));
    }
    Ok(opened)
}

/// How a store guards what lasts of a repository.
#[cfg(any(feature = "azure", feature = "gcs", feature = "s3"))]
fn lock(repo: &RepoConfig) -> Option<Lock> {
    let LockConfig { mode, period } = repo.lock?;
    Some(Lock { mode, period, covers: |key| layout::is_lasting(key.as_str()) })
}

/// The store itself, or as it was.
#[cfg(any(feature = "azure", feature = "gcs", feature = "s3"))]
fn seen<S: Storage + VersionedStore + 'static>(store: S, as_of: Option<Timestamp>) -> Arc<dyn Storage> {
    let Some(moment) = as_of else { return Arc::new(store) };
    let since_1970 = Duration::from_millis(u64::try_from(moment.0).unwrap_or_default());
    Arc::new(AsOf::new(Arc::new(store), SystemTime::UNIX_EPOCH + since_1970, &moment.to_string()))
}

/// Makes the store of a place, for one purpose.
type Open = Box<dyn Fn(Purpose) -> Result<Arc<dyn Storage>, StorageError> + Send + Sync>;

fn place(repo: &RepoConfig, policy: RetryPolicy, slots: usize) -> Result<Place, Failure> {
    // Shared by whatever is opened here, however often.
    #[cfg(any(feature = "azure", feature = "gcs", feature = "s3"))]
    let slots = PartSlots::for_slots(slots);
    #[cfg(not(any(feature = "azure", feature = "gcs", feature = "s3")))]
    let _ = slots;
    let bandwidth = repo.bandwidth_max.map(|bytes| Arc::new(Bandwidth::new(bytes.0)));
    let (description, open) = match &repo.kind {
        RepoKind::Posix => posix(&repo.path),
        RepoKind::Sftp(config) => sftp(config, &repo.path),
        #[cfg(feature = "s3")]
        RepoKind::S3(config) => s3(config.clone(), repo, policy, slots),
        #[cfg(feature = "azure")]
        RepoKind::Azure(config) => azure(config.clone(), repo, policy, slots),
        #[cfg(feature = "gcs")]
        RepoKind::Gcs(config) => gcs(config.clone(), repo, policy, slots),
        #[cfg(not(all(feature = "s3", feature = "azure", feature = "gcs")))]
        other => return Err(absent(repo.key, other)),
    };
    let locks = locks(repo, policy);
    let is_remote = !matches!(repo.kind, RepoKind::Posix);
    Ok(Place {
        description,
        connect: Arc::new(move |purpose| {
            let mut store = open(purpose)?;
            if is_remote {
                store = Arc::new(HedgeStorage::new(store));
            }
            store = Arc::new(RetryStorage::new(store, policy));
            // Around the repetitions, so that all of them are made under one lock; within a limit, whose waits need none.
            if let Some(locks) = &locks {
                store = Arc::new(GuardStorage::new(store, locks.clone()));
            }
            if let Some(bandwidth) = &bandwidth {
                store = Arc::new(LimitStorage::new(store, bandwidth.clone()));
            }
            Ok(store)
        }),
        settings: settings(repo),
    })
}

#[cfg(not(all(feature = "s3", feature = "azure", feature = "gcs")))]
fn absent(key: RepoKey, kind: &RepoKind) -> Failure {
    let message = format!("repo {key} has type {}, which is not part of this build", kind.repo_type());
    let code = pgconvoy_core::failure::ErrorCode::NotSupported;
    Failure::new(code, message).hint("use a repository of type posix or sftp")
}

fn posix(path: &str) -> (String, Open) {
    let description = format!("posix:{path}");
    let path = PathBuf::from(path);
    let open: Open = Box::new(move |purpose| {
        let store = match purpose {
            Purpose::Use => PosixStorage::open(&path)?,
            Purpose::Create => PosixStorage::create(&path)?,
        };
        Ok(Arc::new(store) as Arc<dyn Storage>)
    });
    (description, open)
}

/// It connects when it is first used.
fn sftp(config: &SftpConfig, path: &str) -> (String, Open) {
    let options = SftpOptions::new(config, path, false);
    let description = options.describe();
    let open: Open = Box::new(move |purpose| {
        let creates_path = purpose == Purpose::Create;
        let store = SftpStorage::new(SftpOptions { creates_path, ..options.clone() });
        Ok(Arc::new(store) as Arc<dyn Storage>)
    });
    (description, open)
}

#[cfg(feature = "s3")]
fn s3(config: S3Config, repo: &RepoConfig, policy: RetryPolicy, slots: PartSlots) -> (String, Open) {
    use pgconvoy_storage_s3::{Options, S3Storage, credentials::Environment};
    let (path, lock, as_of) = (repo.path.clone(), lock(repo), repo.as_of);
    let description = S3Storage::description(&config, &path);
    let open: Open = Box::new(move |_| {
        let environment = Environment::of_process();
        let options = Options { retry: policy, slots: slots.clone(), environment, lock };
        Ok(seen(S3Storage::connect(&config, &path, options)?, as_of))
    });
    (description, open)
}

#[cfg(feature = "azure")]
fn azure(config: AzureConfig, repo: &RepoConfig, policy: RetryPolicy, slots: PartSlots) -> (String, Open) {
    use pgconvoy_storage_azure::{AzureOptions, AzureStorage, Surroundings, describe};
    let (path, lock, as_of) = (repo.path.clone(), lock(repo), repo.as_of);
    let description = describe(&config, &path);
    let open: Open = Box::new(move |_| {
        let surroundings = Surroundings::of_process();
        let options =
            AzureOptions { path: path.clone(), retry: policy, slots: slots.clone(), surroundings, lock };
        Ok(seen(AzureStorage::new(&config, options)?, as_of))
    });
    (description, open)
}

#[cfg(feature = "gcs")]
fn gcs(config: GcsConfig, repo: &RepoConfig, policy: RetryPolicy, slots: PartSlots) -> (String, Open) {
    use pgconvoy_storage_gcs::{GcsStorage, describe};
    let (path, lock, as_of) = (repo.path.clone(), lock(repo), repo.as_of);
    let description = describe(&config.bucket, &path);
    let open: Open =
        Box::new(move |_| Ok(seen(GcsStorage::open(&config, &path, slots.clone(), policy, lock)?, as_of)));
    (description, open)
}

/// For a store that cannot tell by itself who was first. Who has a lock may look, put and, for an upload, join: each of these takes as
/// long as a call may.
fn locks(repo: &RepoConfig, policy: RetryPolicy) -> Option<Arc<dyn KeyLocks>> {
    match repo.create_only {
        CreateOnlyBy::Store => None,
        CreateOnlyBy::Lock => Some(Arc::new(FileLocks::new(&repo.lock_path, policy.deadline * 2))),
    }
}

fn settings(repo: &RepoConfig) -> RepositorySettings {
    let secret = match repo.cipher {
        CipherType::None => None,
        CipherType::Aes256Gcm => Some(repo.key_source.clone()),
    };
    RepositorySettings { number: repo.key, secret, layout: repo.layout }
}
