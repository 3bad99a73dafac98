//! Makes a stanza in repositories.
//!
//! The hash secret and the number of a cluster are the same in all repositories: whichever has the stanza already is
//! copied from.

use crate::keeper::{SourceConfig, blocking};
use pgconvoy_core::failure::{Context, ErrorCode, Failure};
use pgconvoy_core::format::HashSecret;
use pgconvoy_core::format::cluster::ClusterBody;
use pgconvoy_core::ids::{ClusterNumber, RepoKey, StanzaName};
use pgconvoy_core::pg::ControlFile;
use pgconvoy_core::units::Timestamp;
use pgconvoy_postgres::PostgresError;
use pgconvoy_postgres::connect::Client;
use pgconvoy_postgres::control::{existing_postmaster, read_control};
use pgconvoy_repository::{Repository, RepositoryError, RepositorySet};

/// What became of a stanza in one repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    /// The repository itself is new as well.
    WithRepository,
    New,
    WasThere,
}

/// pg_control of the stanza's cluster; of a running one only after the server agreed that it is its own.
pub async fn identify(config: &SourceConfig, online: bool, force: bool) -> Result<ControlFile, Failure> {
    let directory = config.directory.clone();
    let control = blocking(move || {
        if !online && !force {
            existing_postmaster(&directory)?;
        }
        Ok(read_control(&directory)?.control)
    })
    .await?;
    if online {
        let client = Client::connect(&config.connect).await?;
        same_system(config, &control, &client)?;
    }
    Ok(control)
}

fn same_system(config: &SourceConfig, control: &ControlFile, client: &Client) -> Result<(), Failure> {
    let server = client.settings();
    if server.system_id == control.system_id {
        return Ok(());
    }
    Err(PostgresError::SystemMismatch {
        directory: config.directory.clone(),
        place: server.place.clone(),
        found: control.system_id,
        expected: server.system_id,
    }
    .into())
}

/// Creates what is missing, in every repository; what is there is left alone. One result per repository.
pub async fn create(
    set: &RepositorySet,
    repositories: &[RepoKey],
    stanza: &StanzaName,
    control: &ControlFile,
    now: Timestamp,
) -> Result<Vec<(RepoKey, Result<Made, Failure>)>, Failure> {
    let mut opened = Vec::new();
    let mut results = Vec::new();
    let mut known: Option<ClusterBody> = None;
    for key in repositories {
        let found = async {
            let (repository, is_new) = set.open_or_create(*key, now).await?;
            let cluster = repository.clusters(stanza).await?.pop();
            if let Some(cluster) = &cluster {
                compare(&repository, stanza, cluster, control)?;
            }
            Ok::<_, Failure>((repository, is_new, cluster))
        };
        match found.await.context(format!("repo {key}")) {
            Ok((repository, is_new, cluster)) => {
                known = known.or_else(|| cluster.clone());
                opened.push((*key, repository, is_new, cluster));
            }
            Err(failure) => results.push((*key, Err(failure))),
        }
    }
    let wanted = match known {
        Some(known) => known,
        None if results.is_empty() => new_cluster(control, now)?,
        // It may have the stanza: a secret made without it would keep the two apart for ever.
        None => {
            for (key, ..) in opened {
                let failure = Failure::new(
                    ErrorCode::RepoInvalid,
                    "nothing was created, because another repository could not be asked",
                );
                results.push((
                    key,
                    Err(failure.hint("mend the other repository, or leave it out of the configuration")),
                ));
            }
            results.sort_by_key(|(key, _)| *key);
            return Ok(results);
        }
    };
    for (key, repository, is_new, cluster) in opened {
        let made = match cluster {
            Some(cluster) if cluster.hash_secret != wanted.hash_secret || cluster.number != wanted.number => {
                Err(Failure::new(ErrorCode::RepoInvalid, "its stanza was created apart from that of the other repositories")
                    .hint("backups to it alone still work with --repo; to use it with the others, delete its stanza first"))
            }
            Some(_) => Ok(Made::WasThere),
            None => {
                let made = if is_new { Made::WithRepository } else { Made::New };
                repository.create_cluster(stanza, &wanted).await.map(|()| made).map_err(Failure::from)
            }
        };
        results.push((key, made.context(format!("repo {key}"))));
    }
    results.sort_by_key(|(key, _)| *key);
    Ok(results)
}

fn new_cluster(control: &ControlFile, now: Timestamp) -> Result<ClusterBody, Failure> {
    let secret: [u8; HashSecret::BYTES] = crate::random::bytes()?;
    Ok(ClusterBody {
        number: ClusterNumber(1),
        system_id: control.system_id,
        version: control.version,
        control_version: control.control_version,
        catalog_version: control.catalog_version,
        page_size: control.page_size.bytes(),
        wal_segment_size: control.wal_segment_size,
        hash_secret: HashSecret::from_random_bytes(secret),
        created: now,
    })
}

pub(crate) fn compare(
    repository: &Repository,
    stanza: &StanzaName,
    cluster: &ClusterBody,
    control: &ControlFile,
) -> Result<(), RepositoryError> {
    if cluster.system_id == control.system_id && cluster.version == control.version {
        return Ok(());
    }
    Err(RepositoryError::OtherCluster {
        place: repository.describe(),
        stanza: stanza.clone(),
        difference: format!(
            "is PostgreSQL {} with system identifier {}, and the data directory is {} with {}",
            cluster.version, cluster.system_id, control.version, control.system_id
        ),
    })
}
