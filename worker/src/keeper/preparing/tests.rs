#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use super::*;
use crate::job::testing::{ONE, STALL, Site, TWO, cluster, stanza, units};
use pgconvoy_core::ids::ClusterNumber;
use pgconvoy_core::wire::RepositorySeen;
use pgconvoy_repository::RepositorySettings;
use pgconvoy_repository::set::Place;
use pgconvoy_storage::MemoryStorage;
use pgconvoy_storage::decorate::fault::{Effect, Kind, Operation, Rule};

fn keys(opened: &Opened) -> Vec<RepoKey> {
    opened.repositories.keys().copied().collect()
}

#[tokio::test]
async fn a_repository_that_cannot_be_opened_is_named_and_the_other_serves() {
    for effect in [Effect::Fail(Kind::Access), Effect::Stall] {
        for (bad, good) in [(ONE, TWO), (TWO, ONE)] {
            let site = Site::new().await;
            site.faults(bad).add(Rule::always(Operation::Any, effect));
            let opened = open(&site.set, &units(STALL)).await.unwrap();
            assert_eq!(keys(&opened), [good], "{effect:?}");
            assert_eq!(opened.failed.len(), 1);
            assert_eq!(opened.failed[0].repository, bad);
            assert_eq!(opened.secret, cluster(ClusterNumber(1), 3).hash_secret);
        }
    }
}

#[tokio::test]
async fn without_any_repository_the_job_cannot_begin() {
    let site = Site::new().await;
    for key in [ONE, TWO] {
        site.faults(key).add(Rule::always(Operation::Any, Effect::Fail(Kind::Unavailable)));
    }
    let failure = open(&site.set, &units(STALL)).await.unwrap_err();
    assert!(failure.message.starts_with("repo 1: "), "{failure}");
}

/// Repository 1 as the site has it, and a second one whose stanza has this cluster.
async fn beside(site: &Site, number: ClusterNumber, secret_seed: u8) -> RepositorySet {
    let settings =
        RepositorySettings { number: TWO, secret: None, layout: pgconvoy_core::config::Layout::Packed };
    let other = RepositorySet::new([
        Place::at(Arc::new(MemoryStorage::new()), settings),
        Place::at(
            site.storage(ONE),
            RepositorySettings { number: ONE, secret: None, layout: pgconvoy_core::config::Layout::Packed },
        ),
    ]);
    let (repository, _) = other.open_or_create(TWO, pgconvoy_core::units::Timestamp(0)).await.unwrap();
    repository.create_cluster(&stanza(), &cluster(number, secret_seed)).await.unwrap();
    other
}

#[tokio::test]
async fn a_repository_with_another_secret_or_another_cluster_is_left_out() {
    let site = Site::new().await;
    for (number, secret, code) in [(1, 4, ErrorCode::RepoInvalid), (2, 3, ErrorCode::BackupMismatch)] {
        let set = beside(&site, ClusterNumber(number), secret).await;
        let opened = open(&set, &units(STALL)).await.unwrap();
        assert_eq!(keys(&opened), [ONE]);
        assert_eq!(opened.failed[0].failure.code, code);
    }
}

#[tokio::test]
async fn a_repository_that_only_has_the_same_number_is_left_out() {
    let site = Site::new().await;
    let known = RepositorySeen { repository: ONE, identity: site.repository(ONE).await.identity() };
    let another = RepositorySeen { repository: TWO, ..known };
    let units = UnitContext { identities: vec![known, another], ..units(STALL) };
    let opened = open(&site.set, &units).await.unwrap();
    assert_eq!(keys(&opened), [ONE]);
    assert_eq!((opened.failed[0].repository, opened.failed[0].failure.code), (TWO, ErrorCode::RepoInvalid));
}
