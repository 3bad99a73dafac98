//! Files that grow, shrink and go while a backup reads them.

use super::*;
use pgconvoy_core::format::BlockHash;
use pgconvoy_core::pg::FileClass;
use std::fs::File;

const PAGE: usize = 8192;

fn content(pages: usize) -> Vec<u8> {
    (0..pages * PAGE).map(|at| u8::try_from(at / PAGE % 251).unwrap()).collect()
}

/// What the checksum of these bytes is, whatever was planned.
fn checksum(context: &JobContext, bytes: &[u8]) -> BlockHash {
    let hashes: Vec<u8> = bytes.chunks(PAGE).flat_map(|block| context.secret.hash(block).0).collect();
    context.secret.hash(&hashes)
}

fn present(receipt: &Receipt, part: usize) -> (u64, BlockHash) {
    match &receipt.parts[part] {
        PartReceipt::Present { length, checksum, .. } => (*length, *checksum),
        PartReceipt::Vanished => panic!("part {part} has vanished"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relation_that_grew_gives_what_was_planned_and_one_that_shrank_what_is_there() {
    let site = Site::new().await;
    let context = site.context(PATIENCE).await;
    let bytes = content(300);
    for name in ["base/5/grown", "base/5/shrunk", "base/5/emptied"] {
        site.write(name, &bytes);
    }
    let planned = |name: &str| part(&format!("base/5/{name}"), 200 * PAGE);
    File::options().write(true).open(site.pg().join("base/5/shrunk")).unwrap().set_len(7 * 8192).unwrap();
    File::create(site.pg().join("base/5/emptied")).unwrap();
    let parts = [planned("grown"), planned("shrunk"), planned("emptied")];
    let receipt = run(&context, order(1, &[ONE], &parts)).await.unwrap();
    assert_eq!(present(&receipt, 0), (200 * 8192, checksum(&context, &bytes[..200 * PAGE])));
    assert_eq!(present(&receipt, 1), (7 * 8192, checksum(&context, &bytes[..7 * PAGE])));
    assert_eq!(present(&receipt, 2), (0, checksum(&context, &[])));
    assert_eq!(receipt.read, 207 * 8192);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_no_wal_brings_back_is_read_to_its_end_wherever_that_is() {
    let site = Site::new().await;
    let context = site.context(PATIENCE).await;
    let bytes = content(20);
    site.write("postgresql.auto.conf", &bytes);
    let planned = UnitPart { class: FileClass::Other, ..part("postgresql.auto.conf", 3 * PAGE) };
    let receipt = run(&context, order(1, &[ONE], &[planned])).await.unwrap();
    assert_eq!(present(&receipt, 0), (20 * 8192, checksum(&context, &bytes)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_behind_a_truncation_is_empty_and_one_behind_an_extension_keeps_its_place() {
    let site = Site::new().await;
    let context = site.context(PATIENCE).await;
    let bytes = content(40);
    site.write("base/5/16384", &bytes[..8 * PAGE]);
    let behind = UnitPart { offset: 16 * 8192, ..part("base/5/16384", 16 * PAGE) };
    let receipt = run(&context, order(1, &[ONE], std::slice::from_ref(&behind))).await.unwrap();
    assert_eq!(present(&receipt, 0).0, 0);

    // Extended again: what lies at the planned offset is what counts, not what would follow the first range.
    site.write("base/5/16384", &bytes);
    let receipt = run(&context, order(2, &[ONE], &[behind])).await.unwrap();
    assert_eq!(present(&receipt, 0), (16 * 8192, checksum(&context, &bytes[16 * PAGE..32 * PAGE])));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_the_server_may_remove_has_vanished() {
    let site = Site::new().await;
    let context = site.context(PATIENCE).await;
    let of = |path: &str, class| UnitPart { class, ..part(path, PAGE) };
    let gone = [
        part("base/5/99999", PAGE),
        of("pg_xact/0007", FileClass::Slru),
        of("pg_twophase/00000311", FileClass::TwoPhase),
        of("pg_stat/pgstat.stat", FileClass::Stats),
    ];
    let receipt = run(&context, order(1, &[ONE], &gone)).await.unwrap();
    assert!(receipt.parts.iter().all(|part| *part == PartReceipt::Vanished), "{:?}", receipt.parts);

    for lost in
        [of("postgresql.conf", FileClass::Other), of("global/pg_filenode.map", FileClass::FilenodeMap)]
    {
        let failure = run(&context, order(2, &[ONE], &[lost])).await.unwrap_err().failure;
        assert_eq!(failure.code, ErrorCode::FileMissing, "{failure}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_has_vanished_from_a_data_directory_that_is_not_the_one() {
    let site = Site::new().await;
    let context = site.context(PATIENCE).await;
    // What is left of a file system that was unmounted: the directory, and nothing in it.
    std::fs::rename(site.pg(), site.home.path().join("away")).unwrap();
    std::fs::create_dir(site.pg()).unwrap();
    let failure = run(&context, order(1, &[ONE], &[part("base/5/16384", PAGE)])).await.unwrap_err().failure;
    assert_eq!(failure.code, ErrorCode::PathMissing, "{failure}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_cut_while_it_is_read_ends_where_it_was_cut() {
    let site = Site::new().await;
    let mut context = site.context(PATIENCE).await;
    let bytes = content(1024);
    site.write("base/5/16384", &bytes);
    // 8 MiB at 4 MiB a second: there is time to cut it.
    Arc::get_mut(&mut context).unwrap().bandwidth = Some(Arc::new(Bandwidth::new(4 << 20)));
    let path = site.pg().join("base/5/16384");
    let cutter = std::thread::spawn(move || {
        // Nothing is waited for: it is cut in the middle. The timeout of the unit is PATIENCE.
        std::thread::sleep(Duration::from_millis(300));
        File::options().write(true).open(path).unwrap().set_len(1000 * 8192).unwrap();
    });
    let receipt = run(&context, order(1, &[ONE], &[part("base/5/16384", 1024 * PAGE)])).await.unwrap();
    cutter.join().unwrap();
    assert_eq!(present(&receipt, 0), (1000 * 8192, checksum(&context, &bytes[..1000 * PAGE])));
}
