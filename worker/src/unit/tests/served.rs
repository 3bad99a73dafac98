//! Units that are computed where no file is: what a source serves gives what it would have given where it lies.

use super::known::{FIRST, FULL, PAGE, describes_the_file, job, known, silent_summaries};
use super::pages::{USUAL, check, checking, file, pages_of, whole};
use super::*;
use crate::serving::testing::Source;
use pgconvoy_core::pg::page::PageHeader;
use pgconvoy_core::pg::{FileClass, Lsn};
use pgconvoy_core::plan::summaries::Window;
use pgconvoy_core::wire::PriorRange;
use std::os::unix::fs::FileExt;

const BOTH: [RepoKey; 2] = [ONE, TWO];

/// What must not depend on who computes.
fn outcome(receipt: Receipt) -> (Vec<PartReceipt>, u64, u64, u64) {
    assert_eq!((stored(&receipt).len(), receipt.wrong_summary), (receipt.stored.len(), None));
    (receipt.parts, receipt.read, receipt.changed, receipt.skipped)
}

fn other(path: &str, planned: usize) -> UnitPart {
    UnitPart { class: FileClass::Other, ..part(path, planned) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unit_has_the_same_receipt_wherever_it_is_computed() {
    let site = Site::new().await;
    // Longer than what is asked for ahead, in blocks that are no divisors of a chunk.
    let large = site.relation("16384", 500);
    let mut cut = site.relation("16385", 40);
    cut.length += 100 * PAGE;
    let mut grown = site.relation("16386", 40);
    grown.length -= 10 * PAGE;
    site.write("base/5/16388", b"");
    site.write("postgresql.conf", &[b'#'; 300_000]);
    let parts = [
        large.clone(),
        cut,
        grown,
        // Never there.
        part("base/5/16387", 8192),
        part("base/5/16388", 0),
        UnitPart { offset: 100 * PAGE, length: 7 * PAGE, ..large },
        // Read to its end, whatever was planned.
        other("postgresql.conf", 10),
        UnitPart { class: FileClass::Control, ..part("global/pg_control", 8192) },
        other("PG_VERSION", 3),
    ];
    let source = site.context(PATIENCE).await;
    let here = run(&source, order(1, &BOTH, &parts)).await.unwrap();
    let served = Source::of(&source);
    let there = served.computer(&site, PATIENCE).await;
    let receipt = run(&there, served.serves(order(2, &BOTH, &parts))).await.unwrap();
    assert_eq!(outcome(receipt), outcome(here));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_small_files_and_those_that_shrink_well_come_whole() {
    let site = Site::new().await;
    let source = site.context(PATIENCE).await;
    let parts: Vec<UnitPart> = (0..700)
        .map(|number| {
            let (path, bytes) = (format!("base/5/{}", 20_000 + number), 100 * number % 9000);
            site.write(&path, &vec![u8::try_from(number % 251).unwrap(); bytes]);
            part(&path, bytes)
        })
        .collect();
    let here = run(&source, order(1, &[ONE], &parts)).await.unwrap();
    let served = Source::of(&source);
    let there = served.computer(&site, PATIENCE).await;
    let receipt = run(&there, served.serves(order(2, &[ONE], &parts))).await.unwrap();
    assert_eq!(outcome(receipt), outcome(here));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_is_being_written_is_asked_for_again_while_later_files_are_under_way() {
    let site = Site::new().await;
    let content = file(8192, 0, 40, &[]);
    let mut torn = content.clone();
    torn[20 * 8192 + 4096..21 * 8192].fill(0);
    torn[30 * 8192 + 100] ^= 1;
    site.write("base/5/16384", &torn);
    site.write("base/5/16385", &content);
    let path = site.pg().join("base/5/16384");
    let writer = std::thread::spawn({
        let half = content[20 * 8192 + 4096..21 * 8192].to_vec();
        move || {
            // As in the test of one that is read here. The timeout of the unit is PATIENCE.
            std::thread::sleep(Duration::from_millis(200));
            let file = std::fs::File::options().write(true).open(path).unwrap();
            file.write_all_at(&half, 20 * 8192 + 4096).unwrap();
        }
    });
    let served = Source::of(&checking(&site, &USUAL).await);
    let there = check(served.computer(&site, PATIENCE).await, &USUAL);
    let parts = ["base/5/16384", "base/5/16385"].map(|path| whole(path, 0, 8192, content.len()));
    let receipt = run(&there, served.serves(order(1, &[ONE], &parts))).await.unwrap();
    writer.join().unwrap();
    assert_eq!(pages_of(&receipt), [(40, vec![30]), (40, vec![])]);
    let mut stored = content;
    stored[30 * 8192 + 100] ^= 1;
    let hashes: Vec<u8> = stored.chunks(8192).flat_map(|block| there.secret.hash(block).0).collect();
    let PartReceipt::Present { checksum, .. } = &receipt.parts[0] else { panic!("it is there") };
    assert_eq!(*checksum, there.secret.hash(&hashes));
}

/// Two files as an earlier backup has them, at a source whose summaries say that nothing has changed since; and their parts,
/// of which the second has grown by pages that the backup lacks.
async fn since_a_backup(site: &Site, window: Option<Window>) -> (Arc<JobContext>, Vec<UnitPart>) {
    let before = [site.relation("16384", 600), site.relation("16385", 300)];
    run(&job(site, FULL, &[]).await, order(1, &BOTH, &before)).await.unwrap();
    let mut context = job(site, FIRST, &[(FULL, &[FULL], &BOTH)]).await;
    let own = Arc::get_mut(&mut context).unwrap();
    let mut summaries = silent_summaries();
    summaries.window = window.unwrap_or(summaries.window);
    own.units.summaries = Some(pgconvoy_core::wire::SummaryBasis {
        window: summaries.window,
        prior: pgconvoy_core::plan::summaries::ClusterShape {
            version: own.shape.version,
            catalog_version: 0,
            checksums: false,
            page_size: 8192,
        },
    });
    own.summaries = Some(summaries);
    let parts = before.into_iter().zip(0..).map(|(part, place)| {
        let prior_size = Some(part.length);
        let mut part = UnitPart { prior_size, ..known(part, 0, 0) };
        part.prior = part.prior.into_iter().map(|range| PriorRange { place, ..range }).collect();
        part
    });
    let mut parts: Vec<UnitPart> = parts.collect();
    let grown = site.relation("16385", 310);
    parts[1].length = grown.length;
    (context, parts)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_summaries_leave_unread_is_neither_read_nor_sent() {
    let site = Site::new().await;
    let (source, parts) = since_a_backup(&site, None).await;
    let here = run(&source, order(1, &BOTH, &parts)).await.unwrap();
    assert_eq!((here.skipped, here.read), (900 * PAGE, 10 * PAGE));
    let served = Source::of(&source);
    let mut there = job(&site, FIRST, &[(FULL, &[FULL], &BOTH)]).await;
    Arc::get_mut(&mut there).unwrap().units = source.units.clone();
    let there = served.remote(there);
    let mut again = order(1, &BOTH, &parts);
    again.attempt = pgconvoy_core::ids::Attempt(2);
    let receipt = run(&there, served.serves(again)).await.unwrap();
    assert_eq!(outcome(receipt), outcome(here.clone()));
    describes_the_file(&site, ONE, FIRST, &parts[0]).await;

    let all = UnitOrder { reads_all: true, ..order(2, &BOTH, &parts) };
    let receipt = run(&there, served.serves(all)).await.unwrap();
    assert_eq!((receipt.skipped, receipt.read), (0, 910 * PAGE));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_finds_its_summaries_wrong_says_so_in_the_receipt_of_whoever_it_serves() {
    let site = Site::new().await;
    let window = Window { start: Lsn(u64::MAX), ..silent_summaries().window };
    let (source, parts) = since_a_backup(&site, Some(window)).await;
    let header = std::fs::read(site.pg().join("base/5/16384")).unwrap();
    assert!(
        PageHeader::read(&header[..8192]).unwrap().lsn > window.prior_start,
        "as if it was changed since"
    );
    let served = Source::of(&source);
    let mut there = job(&site, FIRST, &[(FULL, &[FULL], &BOTH)]).await;
    Arc::get_mut(&mut there).unwrap().units = source.units.clone();
    let there = served.remote(there);
    let receipt = run(&there, served.serves(order(1, &BOTH, &parts))).await.unwrap();
    assert_eq!((receipt.skipped, receipt.read), (0, 910 * PAGE));
    assert!(receipt.wrong_summary.unwrap().contains("was changed, and no summary says so"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_source_cannot_read_bears_its_own_words_and_number() {
    let site = Site::new().await;
    let source = site.context(PATIENCE).await;
    std::fs::create_dir(site.pg().join("base/5/16384")).unwrap();
    let parts = [part("base/5/16384", 8192)];
    let here = run(&source, order(1, &[ONE], &parts)).await.unwrap_err().failure;
    let served = Source::of(&source);
    let there = served.computer(&site, PATIENCE).await;
    let failure = run(&there, served.serves(order(1, &[ONE], &parts))).await.unwrap_err().failure;
    assert_eq!(failure, here.context("source local"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_ends_or_says_nothing_was_not_reached() {
    let site = Site::new().await;
    let source = site.context(PATIENCE).await;
    let served = Source::of(&source);
    let relation = [site.relation("16384", 8)];
    let order = served.serves(order(1, &[ONE], &relation));

    let there = served.computer(&site, STALL).await;
    served.network.cut();
    let failure = run(&there, order.clone()).await.unwrap_err().failure;
    assert_eq!((failure.code, failure.retry), (ErrorCode::HostConnect, Retry::MayHelp), "{failure}");
    served.network.heal();
    let receipt = run(&there, order.clone()).await;
    // The next second it is still believed to be away.
    assert!(receipt.is_ok() || receipt.unwrap_err().failure.code == ErrorCode::HostConnect);

    let there = served.computer(&site, PATIENCE).await;
    run(&there, order.clone()).await.unwrap();
    served.hub.close();
    let failure = run(&there, order).await.unwrap_err().failure;
    assert_eq!((failure.code, failure.retry), (ErrorCode::HostConnect, Retry::MayHelp), "{failure}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_at_the_address_must_be_the_worker_that_the_order_names() {
    let site = Site::new().await;
    let served = Source::known_as("another", &site.context(PATIENCE).await);
    let there = served.computer(&site, PATIENCE).await;
    let order = served.serves(order(1, &[ONE], &[site.relation("16384", 8)]));
    let failure = run(&there, order).await.unwrap_err().failure;
    assert_eq!(failure.code, ErrorCode::Access, "{failure}");
    assert!(failure.message.contains("worker another is there, worker local is expected"), "{failure}");
}
