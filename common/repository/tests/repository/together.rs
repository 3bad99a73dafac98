//! What verify concludes of two repositories together. What a restore from both does, `worker/src/restore/tests/together.rs` holds against it.

use super::support::{Seal, Site, segment, wal_content};
use pgconvoy_core::format::layout;
use pgconvoy_core::format::object::Kind;
use pgconvoy_core::pg::WalFileName;
use pgconvoy_repository::Repository;
use pgconvoy_repository::object::ObjectReader;
use pgconvoy_repository::verify::{RepoVerification, StanzaVerification, VerifyOptions, to_json, verify};
use pgconvoy_storage::MemoryStorage;
use pgconvoy_storage::decorate::fault::{self, Effect, FaultStorage, KeyPattern, Operation, Rule};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// With the same two backups.
async fn two() -> [Site; 2] {
    let mut sites = Vec::new();
    for (seal, number) in [(Seal::Plain, 1), (Seal::Encrypted, 2)] {
        let site = Site::at(Arc::new(MemoryStorage::new()), seal, number).await;
        site.fill().await;
        sites.push(site);
    }
    sites.try_into().ok().unwrap()
}

/// Of both backups, as the report has it.
fn told(repositories: Vec<RepoVerification>) -> Value {
    let stanza = StanzaVerification { name: "main".into(), repositories, without: Vec::new() };
    to_json(&[stanza])[0]["backup"].clone()
}

async fn concluded(sites: &[Site; 2]) -> [Value; 2] {
    let told = told(vec![sites[0].verify().await, sites[1].verify().await]);
    [told[0]["restorable"].clone(), told[1]["restorable"].clone()]
}

fn wal_name(site: &Site, number: u64) -> String {
    layout::wal_file(&site.stanza, site.cluster.archive_id(), &WalFileName::Segment(segment(number)))
}

/// A pack of the first backup with several frames, and a byte of each of them.
async fn pack_with_frames(site: &Site) -> (String, Vec<usize>) {
    let first = format!("/{}/pack/", site.labels().await[0]);
    for name in site.objects().await.into_iter().filter(|name| name.contains(&first)) {
        let pack = ObjectReader::open(&site.repository, Kind::Pack, &name).await.unwrap();
        let frames = pack.frames().len();
        if frames > 1 {
            let byte = |frame: usize| pack.stored_range(frame..frame + 1).start + 3;
            return (name, (0..frames).map(|frame| usize::try_from(byte(frame)).unwrap()).collect());
        }
    }
    panic!("every pack has one frame");
}

async fn flip(site: &Site, name: &str, at: usize) {
    let mut bytes = site.read(name).await;
    bytes[at] ^= 1;
    site.overwrite(name, bytes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_bad_frames_of_a_pack_are_known_and_the_first_is_told() {
    let site = Site::with_two_backups(Seal::Plain).await;
    let (name, frames) = pack_with_frames(&site).await;
    flip(&site, &name, frames[0]).await;
    let one = site.verify().await;
    flip(&site, &name, frames[1]).await;
    let both = site.verify().await;
    let errors = |report: &RepoVerification| -> Vec<String> {
        report.errors().map(ToString::to_string).filter(|error| error.contains(&name)).collect()
    };
    let (one, both) = (errors(&one), errors(&both));
    assert_eq!((one.len(), both.len()), (1, 1), "{one:?} {both:?}");
    assert_eq!(both[0], format!("{} (and 1 more of its {} frames)", one[0], frames.len()));
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_are_made_good_by_a_repository_that_is_sealed_otherwise() {
    let sites = two().await;
    let whole = json!({ "alone": [1, 2], "together": true });
    assert_eq!(concluded(&sites).await, [whole.clone(), whole.clone()]);
    let (name, frames) = pack_with_frames(&sites[0]).await;
    flip(&sites[0], &name, frames[0]).await;
    assert_eq!(concluded(&sites).await, [json!({ "alone": [2], "together": true }), whole.clone()]);
    flip(&sites[1], &name, pack_with_frames(&sites[1]).await.1[1]).await;
    assert_eq!(concluded(&sites).await[0], json!({ "alone": [], "together": true }));
    flip(&sites[1], &name, pack_with_frames(&sites[1]).await.1[0]).await;
    assert_eq!(concluded(&sites).await, [json!({ "alone": [], "together": false }), whole]);
}

#[tokio::test(flavor = "multi_thread")]
async fn segments_are_made_good_by_each_other_unless_two_contents_bear_one_name() {
    let sites = two().await;
    let [first, second] = &sites;
    first.delete(&wal_name(first, 2)).await;
    flip(second, &wal_name(second, 3), 200).await;
    assert_eq!(concluded(&sites).await[0], json!({ "alone": [], "together": true }));
    let restored = segment(2);
    first.push([restored]).await;
    first.delete(&wal_name(first, 3)).await;
    assert_eq!(concluded(&sites).await[0], json!({ "alone": [], "together": false }));
    let mut other = wal_content(segment(3));
    other[9] ^= 1;
    first.push_file(&WalFileName::Segment(segment(3)), other).await;
    second.delete(&wal_name(second, 3)).await;
    second.push([segment(3)]).await;
    assert_eq!(concluded(&sites).await[0], json!({ "alone": [1, 2], "together": null }));
}

/// An object that did not come is neither whole nor lost.
#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_answer_is_an_error_and_no_loss() {
    let sites = two().await;
    let (name, _) = pack_with_frames(&sites[0]).await;
    let (storage, faults) = FaultStorage::new(sites[0].storage.clone());
    let effect = Effect::Fail(fault::Kind::Unavailable);
    faults.add(Rule::always(Operation::Any, effect).on(KeyPattern::Exactly(name.parse().unwrap())));
    let repository = Arc::new(Repository::open(Arc::new(storage), &sites[0].settings).await.unwrap());
    let options = VerifyOptions { set: None, process_max: 2, cancel: CancellationToken::new() };
    let away = verify(repository, &sites[0].stanza, &options, Arc::new(|_| {})).await.unwrap();
    assert!(away.errors().any(|error| error.to_string().contains(&name)), "{away:?}");
    let conclude = async |away: &RepoVerification| {
        told(vec![away.clone(), sites[1].verify().await])[0]["restorable"].clone()
    };
    assert_eq!(conclude(&away).await, json!({ "alone": [2], "together": true }));
    sites[1].delete(&name).await;
    assert_eq!(conclude(&away).await, json!({ "alone": [], "together": null }));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_built_on_a_repository_that_might_not_open() {
    let sites = two().await;
    flip(&sites[0], layout::REPOSITORY, 100).await;
    let told = concluded(&sites).await;
    assert_eq!(told[0], json!({ "alone": [2], "together": true }));
    let (name, _) = pack_with_frames(&sites[1]).await;
    sites[1].delete(&name).await;
    assert_eq!(concluded(&sites).await[0], json!({ "alone": [], "together": null }));
}
