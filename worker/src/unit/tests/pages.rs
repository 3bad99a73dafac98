//! Page checksums, with page and segment sizes for which no server can be had.

use super::*;
use pgconvoy_core::format::BlockHash;
use pgconvoy_core::pg::page::page_checksum;
use pgconvoy_core::pg::{FileClass, Fork, PageSize};
use std::os::unix::fs::FileExt;

/// pd_upper, which is not 0 on a page that is in use.
const UPPER_AT: usize = 14;
const CHECKSUM_AT: usize = 8;

/// A page as a server with checksums writes it.
fn page(size: u32, block: u32) -> Vec<u8> {
    let mut state = u64::from(block) | 1 << 40;
    let mut page: Vec<u8> = (0..size)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state.to_le_bytes()[6]
        })
        .collect();
    page[UPPER_AT] = 1;
    let checksum = page_checksum(&page, block);
    page[CHECKSUM_AT..CHECKSUM_AT + 2].copy_from_slice(&checksum.to_le_bytes());
    page
}

/// A file of so many pages, of which these are damaged by a bit.
pub(super) fn file(size: u32, first: u32, pages: u32, damaged: &[u32]) -> Vec<u8> {
    let pages = (0..pages).map(|number| {
        let mut page = page(size, first + number);
        page[size as usize - 1] ^= u8::from(damaged.contains(&number)) << 3;
        page
    });
    pages.flatten().collect()
}

pub(super) struct Geometry {
    pub(super) page_size: u32,
    pub(super) segment_blocks: u32,
}

pub(super) async fn checking(site: &Site, geometry: &Geometry) -> Arc<JobContext> {
    check(site.context(PATIENCE).await, geometry)
}

pub(super) fn check(mut context: Arc<JobContext>, geometry: &Geometry) -> Arc<JobContext> {
    let shape = &mut Arc::get_mut(&mut context).unwrap().shape;
    shape.check_pages = true;
    shape.page_size = PageSize::new(geometry.page_size).unwrap();
    shape.relation_segment_blocks = geometry.segment_blocks;
    context
}

pub(super) fn whole(path: &str, segment: u32, page_size: u32, bytes: usize) -> UnitPart {
    let class = FileClass::Relation { fork: Fork::Main, segment };
    UnitPart { class, block_size: page_size, ..part(path, bytes) }
}

/// Pages looked at, and the bad ones among them.
pub(super) fn pages_of(receipt: &Receipt) -> Vec<(u64, Vec<u32>)> {
    let pages = |part: &PartReceipt| match part {
        PartReceipt::Present { pages_checked, bad_pages, .. } => (*pages_checked, bad_pages.clone()),
        PartReceipt::Vanished => (0, Vec::new()),
    };
    receipt.parts.iter().map(pages).collect()
}

pub(super) const USUAL: Geometry = Geometry { page_size: 8192, segment_blocks: 131_072 };

#[tokio::test(flavor = "multi_thread")]
async fn each_damaged_page_is_told_in_every_page_size_and_segment_size() {
    for page_size in [1024, 2048, 4096, 8192, 16_384, 32_768] {
        for segment_blocks in [131_072, 64, 65] {
            let site = Site::new().await;
            let context = checking(&site, &Geometry { page_size, segment_blocks }).await;
            // The third segment: its checksums rest on the number of blocks in the two before it.
            let content = file(page_size, 2 * segment_blocks, 64, &[0, 31, 63]);
            site.write("base/5/16384.2", &content);
            let third = whole("base/5/16384.2", 2, page_size, content.len());
            let receipt = run(&context, order(1, &[ONE], std::slice::from_ref(&third))).await.unwrap();
            assert_eq!(pages_of(&receipt), [(64, vec![0, 31, 63])], "{page_size} {segment_blocks}");

            // The last 32 of them in a unit of their own: blocks are still counted from the start of the file.
            let half = u64::from(page_size) * 32;
            let behind = UnitPart { offset: half, length: half, ..third };
            let receipt = run(&context, order(2, &[ONE], &[behind])).await.unwrap();
            assert_eq!(pages_of(&receipt), [(32, vec![63])], "{page_size} {segment_blocks}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_size_that_is_not_the_clusters_would_fail_every_page() {
    let site = Site::new().await;
    let content = file(8192, 65, 4, &[]);
    site.write("base/5/16384.1", &content);
    let second = whole("base/5/16384.1", 1, 8192, content.len());
    let bad = async |segment_blocks| {
        let context = checking(&site, &Geometry { page_size: 8192, segment_blocks }).await;
        let unit = order(segment_blocks, &[ONE], std::slice::from_ref(&second));
        pages_of(&run(&context, unit).await.unwrap())
    };
    assert_eq!(bad(65).await, [(4, vec![])]);
    assert_eq!(bad(64).await, [(4, vec![0, 1, 2, 3])]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_zeros_is_no_error_and_a_page_in_anothers_place_is_one() {
    let site = Site::new().await;
    let context = checking(&site, &USUAL).await;
    let mut content = file(8192, 0, 6, &[]);
    content[8192..2 * 8192].fill(0);
    content.copy_within(3 * 8192..4 * 8192, 4 * 8192);
    // The end of a page that was never written: nobody can judge it.
    content.extend_from_slice(&[7; 512]);
    site.write("base/5/16384", &content);
    let all = whole("base/5/16384", 0, 8192, content.len());
    let receipt = run(&context, order(1, &[ONE], &[all])).await.unwrap();
    assert_eq!(pages_of(&receipt), [(6, vec![4])]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_is_being_written_is_no_error_and_is_stored_whole() {
    let site = Site::new().await;
    let context = checking(&site, &USUAL).await;
    let whole_file = file(8192, 0, 40, &[]);
    let mut torn = whole_file.clone();
    // Half of it is from before the write, as a reader can find it.
    torn[20 * 8192 + 4096..21 * 8192].fill(0);
    // And one that nobody will mend.
    torn[30 * 8192 + 100] ^= 1;
    site.write("base/5/16384", &torn);
    let path = site.pg().join("base/5/16384");
    let writer = std::thread::spawn({
        let half = whole_file[20 * 8192 + 4096..21 * 8192].to_vec();
        move || {
            // As long as the kernel holds up a process that makes too many pages dirty: the reader has looked twice by
            // then. The timeout of the unit is PATIENCE.
            std::thread::sleep(Duration::from_millis(200));
            let file = std::fs::File::options().write(true).open(path).unwrap();
            file.write_all_at(&half, 20 * 8192 + 4096).unwrap();
        }
    });
    let all = whole("base/5/16384", 0, 8192, torn.len());
    let receipt = run(&context, order(1, &[ONE], &[all])).await.unwrap();
    writer.join().unwrap();
    assert_eq!(pages_of(&receipt), [(40, vec![30])]);

    let mut stored = whole_file;
    stored[30 * 8192 + 100] ^= 1;
    let hashes: Vec<u8> = stored.chunks(8192).flat_map(|block| context.secret.hash(block).0).collect();
    let PartReceipt::Present { checksum, .. } = &receipt.parts[0] else { panic!("it is there") };
    assert_eq!(*checksum, context.secret.hash(&hashes));
    let _: &BlockHash = checksum;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_rubbish_is_told_page_by_page_in_bearable_time() {
    let site = Site::new().await;
    let context = checking(&site, &USUAL).await;
    // A second for each MiB of it would be more than `run` waits for.
    let pages = 24 * 128;
    let rubbish = site.relation("16384", pages);
    let receipt = run(&context, order(1, &[ONE], &[rubbish])).await.unwrap();
    assert_eq!(pages_of(&receipt)[0].1.len(), pages);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_page_is_told_by_each_backup_and_its_block_is_never_taken_from_an_earlier_one() {
    let site = Site::new().await;
    let geometry = Geometry { page_size: 8192, segment_blocks: 131_072 };
    let content = file(8192, 0, 20, &[7]);
    site.write("base/5/16384", &content);
    let part = whole("base/5/16384", 0, 8192, content.len());
    let context = check(known::job(&site, known::FULL, &[]).await, &geometry);
    let full = run(&context, order(1, &[ONE], std::slice::from_ref(&part))).await.unwrap();
    assert_eq!(pages_of(&full), [(20, vec![7])]);
    let priors: &[(&str, &[&str], &[RepoKey])] = &[(known::FULL, &[known::FULL], &[ONE])];
    let context = check(known::job(&site, known::FIRST, priors).await, &geometry);
    let incr = run(&context, order(1, &[ONE], &[known::known(part, 0, 0)])).await.unwrap();
    assert_eq!((pages_of(&incr), incr.changed), (vec![(20, vec![7])], 8192));
}
