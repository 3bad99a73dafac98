//! WAL that is copied out of the archive into a backup.

use super::*;
use crate::job::testing::{archive, compress, stanza};
use pgconvoy_core::pg::{FileClass, WalFileName, WalSegmentName};
use pgconvoy_repository::codec::{Codec, Level};
use pgconvoy_repository::wal::{PushManner, Threads, WalSource, push_wal_as};

const SEGMENT: &str = "000000010000000000000003";
const SIZE: usize = 3 << 20;

fn content() -> Vec<u8> {
    (0..SIZE).map(|at| u8::try_from(at * at % 253).unwrap()).collect()
}

/// The repositories have the segment; pg_wal has another one of that name, which was written over.
async fn archived(site: &Site, repositories: &[RepoKey]) {
    let name: WalSegmentName = SEGMENT.parse().unwrap();
    let source: WalSource = Arc::new(move || Ok(Box::new(std::io::Cursor::new(content()))));
    let codec = Codec::from_number(compress().codec).unwrap();
    let level = Level::new(codec, compress().level).unwrap();
    let manner = PushManner::alike(codec, level, Threads::new(1), PATIENCE);
    for key in repositories {
        let targets = [(site.repository(*key).await, archive())];
        let file = WalFileName::Segment(name);
        let pushed = push_wal_as(&targets, &stanza(), &file, source.clone(), &manner).await.unwrap();
        assert!(pushed.iter().all(Result::is_ok));
    }
    site.write(&format!("pg_wal/{SEGMENT}"), &[7; SIZE]);
}

async fn online(site: &Site, stall: Duration) -> Arc<JobContext> {
    let mut context = site.context(stall).await;
    Arc::get_mut(&mut context).unwrap().units.start = Some("0/3000028".parse().unwrap());
    context
}

fn segment() -> UnitPart {
    UnitPart { class: FileClass::Wal, ..part(&format!("pg_wal/{SEGMENT}"), SIZE) }
}

fn is_whole(context: &JobContext, receipt: &Receipt) -> bool {
    let hashes: Vec<u8> = content().chunks(8192).flat_map(|block| context.secret.hash(block).0).collect();
    let expected = context.secret.hash(&hashes);
    let of_size = u64::try_from(SIZE).unwrap();
    matches!(&receipt.parts[0], PartReceipt::Present { length, checksum, .. } if (*length, *checksum) == (of_size, expected))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_is_copied_from_the_archive_and_not_from_pg_wal() {
    let site = Site::new().await;
    archived(&site, &[ONE, TWO]).await;
    let context = online(&site, PATIENCE).await;
    let receipt = run(&context, order(1, &[ONE, TWO], &[segment()])).await.unwrap();
    assert_eq!(stored(&receipt), [ONE, TWO]);
    assert!(is_whole(&context, &receipt));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_cannot_open_a_segment_is_passed_by() {
    let site = Site::new().await;
    archived(&site, &[TWO]).await;
    let context = online(&site, PATIENCE).await;
    // Whichever of the two is first in its turn.
    for unit in [1, 2] {
        let receipt = run(&context, order(unit, &[ONE, TWO], &[segment()])).await.unwrap();
        assert!(is_whole(&context, &receipt), "unit {unit}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_that_no_repository_has_fails_the_unit() {
    let site = Site::new().await;
    archived(&site, &[]).await;
    let context = online(&site, PATIENCE).await;
    let failure = run(&context, order(1, &[ONE, TWO], &[segment()])).await.unwrap_err().failure;
    assert_eq!(failure.code, ErrorCode::FileMissing, "{failure}");
    assert!(failure.message.contains(SEGMENT), "{failure}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wal_of_a_stopped_cluster_is_read_where_it_lies() {
    let site = Site::new().await;
    archived(&site, &[ONE]).await;
    let context = site.context(PATIENCE).await;
    let receipt = run(&context, order(1, &[ONE], &[segment()])).await.unwrap();
    assert!(!is_whole(&context, &receipt), "the file in pg_wal is another one");
    assert_eq!(receipt.read, u64::try_from(SIZE).unwrap());
}
