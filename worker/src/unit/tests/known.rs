//! Units whose files an earlier backup has.

use super::*;
use crate::job::Summaries;
use pgconvoy_core::format::BackupLabel;
use pgconvoy_core::ids::{Attempt, PlanNumber, UnitId};
use pgconvoy_core::pg::{Lsn, PageSize, TimelineId};
use pgconvoy_core::plan::summaries::{ChangedBlocks, Geometry, Window};
use pgconvoy_core::wire::{PriorBackup, PriorRange};
use pgconvoy_repository::pack::PackReader;

pub(super) const FULL: &str = "20261122-103000F";
pub(super) const FIRST: &str = "20261122-103000F_20261123-103000I";
const SECOND: &str = "20261122-103000F_20261124-103000I";
/// Three frames and a bit.
const SOME_PAGES: usize = 400;
pub(super) const PAGE: u64 = 8192;

fn label(text: &str) -> BackupLabel {
    text.parse().unwrap()
}

/// A job for a backup of that label, which rests on these.
pub(super) async fn job(site: &Site, own: &str, priors: &[(&str, &[&str], &[RepoKey])]) -> Arc<JobContext> {
    let mut context = site.context(PATIENCE).await;
    let job = Arc::get_mut(&mut context).unwrap();
    job.units.label = label(own);
    let prior = |(prior, references, repositories): &(&str, &[&str], &[RepoKey])| PriorBackup {
        label: label(prior),
        references: references.iter().map(|text| label(text)).collect(),
        repositories: repositories.to_vec(),
    };
    job.units.priors = priors.iter().map(prior).collect();
    context
}

/// The part, as unit 1 of that prior has it under its `label`-th reference.
pub(super) fn known(mut part: UnitPart, prior: u8, label: u32) -> UnitPart {
    let (plan, unit, attempt) = (PlanNumber(1), UnitId(1), Attempt(1));
    let (offset, length) = (part.offset, part.length);
    part.prior.push(PriorRange { prior, label, plan, unit, attempt, place: 0, offset, length });
    part
}

pub(super) fn change_page(site: &Site, part: &UnitPart, page: usize) {
    let path = site.pg().join(part.path.as_str());
    let mut content = std::fs::read(&path).unwrap();
    content[page * 8192 + 100] ^= 0xff;
    std::fs::write(&path, content).unwrap();
}

/// Bytes that the pack holds itself, and the labels of those that it refers to.
pub(super) async fn footer(site: &Site, key: RepoKey, own: &str) -> (u64, Vec<String>) {
    let name = PackName { label: label(own), plan: PlanNumber(1), unit: UnitId(1), attempt: Attempt(1) };
    let (repository, secret) = (site.repository(key).await, site.context(STALL).await.secret.clone());
    let stanza = crate::job::testing::stanza();
    let pack = PackReader::open(&repository, &stanza, name, None, &secret).await.unwrap();
    let labels = pack.body.foreign.iter().map(|pack| pack.label.to_string()).collect();
    (pack.body.ranges.iter().map(PackRange::own_bytes).sum(), labels)
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_that_an_earlier_backup_has_are_referred_to_wherever_they_lie() {
    let site = Site::new().await;
    let part = site.relation("16384", SOME_PAGES);
    let both: &[RepoKey] = &[ONE, TWO];
    let whole = run(&job(&site, FULL, &[]).await, order(1, both, std::slice::from_ref(&part))).await.unwrap();
    assert_eq!((whole.changed, whole.read), (part.length, part.length));

    change_page(&site, &part, 7);
    let context = job(&site, FIRST, &[(FULL, &[FULL], both)]).await;
    let first = run(&context, order(1, both, &[known(part.clone(), 0, 0)])).await.unwrap();
    assert_eq!((first.changed, first.read), (PAGE, part.length));

    change_page(&site, &part, 300);
    let context = job(&site, SECOND, &[(FIRST, &[FULL, FIRST], both)]).await;
    let second = run(&context, order(1, both, &[known(part.clone(), 0, 1)])).await.unwrap();
    assert_eq!(second.changed, PAGE);
    for key in both {
        assert_eq!(footer(&site, *key, FIRST).await, (PAGE, vec![FULL.to_owned()]));
        let (own, labels) = footer(&site, *key, SECOND).await;
        assert_eq!((own, labels), (PAGE, vec![FULL.to_owned(), FIRST.to_owned()]), "no chain to walk");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_follows_another_backup_gets_what_it_lacks_from_the_same_read() {
    let site = Site::new().await;
    let part = site.relation("16384", SOME_PAGES);
    run(&job(&site, FULL, &[]).await, order(1, &[ONE], std::slice::from_ref(&part))).await.unwrap();
    let context = job(&site, FIRST, &[(FULL, &[FULL], &[ONE])]).await;
    let receipt = run(&context, order(1, &[ONE, TWO], &[known(part.clone(), 0, 0)])).await.unwrap();
    assert_eq!((receipt.read, receipt.changed), (part.length, 0));
    assert_eq!(footer(&site, ONE, FIRST).await.0, 0);
    assert_eq!(footer(&site, TWO, FIRST).await, (part.length, Vec::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_two_earlier_backups_have_is_taken_from_either() {
    let site = Site::new().await;
    let part = site.relation("16384", SOME_PAGES);
    let both: &[RepoKey] = &[ONE, TWO];
    run(&job(&site, FULL, &[]).await, order(1, both, std::slice::from_ref(&part))).await.unwrap();
    change_page(&site, &part, 7);
    // An attempt that died had this page already.
    run(&job(&site, FIRST, &[]).await, order(1, both, std::slice::from_ref(&part))).await.unwrap();
    change_page(&site, &part, 9);
    let context = job(&site, SECOND, &[(FULL, &[FULL], both), (FIRST, &[FIRST], both)]).await;
    let again = known(known(part, 0, 0), 1, 0);
    let receipt = run(&context, order(1, both, &[again])).await.unwrap();
    assert_eq!(receipt.changed, PAGE, "page 9 only");
    assert_eq!(footer(&site, TWO, SECOND).await, (PAGE, vec![FULL.to_owned(), FIRST.to_owned()]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_looked_up_is_stored_again() {
    let site = Site::new().await;
    let part = site.relation("16384", SOME_PAGES);
    let context = job(&site, FIRST, &[(FULL, &[FULL], &[ONE, TWO])]).await;
    let receipt = run(&context, order(1, &[ONE, TWO], &[known(part.clone(), 0, 0)])).await.unwrap();
    assert_eq!((receipt.changed, stored(&receipt)), (part.length, vec![ONE, TWO]));
}

/// Says of every page that nothing has changed.
pub(super) fn silent_summaries() -> Summaries {
    let window = Window {
        prior_timeline: TimelineId(1),
        prior_start: Lsn(1),
        prior_stop: Lsn(1),
        timeline: TimelineId(1),
        start: Lsn(1),
    };
    let geometry = Geometry { page_size: PageSize::new(8192).unwrap(), segment_pages: 131_072 };
    Summaries::new(ChangedBlocks::default(), geometry, window)
}

/// Every hash in the footer is that of the bytes which the file has there.
pub(super) async fn describes_the_file(site: &Site, key: RepoKey, own: &str, part: &UnitPart) {
    let name = PackName { label: label(own), plan: PlanNumber(1), unit: UnitId(1), attempt: Attempt(1) };
    let (repository, secret) = (site.repository(key).await, site.context(STALL).await.secret.clone());
    let stanza = crate::job::testing::stanza();
    let pack = PackReader::open(&repository, &stanza, name, None, &secret).await.unwrap();
    let content = std::fs::read(site.pg().join(part.path.as_str())).unwrap();
    for range in &pack.body.ranges {
        let begin = usize::try_from(range.offset).unwrap();
        let bytes = &content[begin..begin + usize::try_from(range.length).unwrap()];
        for (number, block) in bytes.chunks(range.block_size as usize).enumerate() {
            assert_eq!(range.hash(number), Some(secret.hash(block)), "block {number} of repo {key}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_file_that_was_cut_within_a_block_is_read_whatever_summaries_say() {
    const BLOCK: u32 = 16_384;
    let site = Site::new().await;
    let both: &[RepoKey] = &[ONE, TWO];
    let whole = UnitPart { block_size: BLOCK, ..site.relation("16384", 10) };
    run(&job(&site, FULL, &[]).await, order(1, both, std::slice::from_ref(&whole))).await.unwrap();

    let path = site.pg().join(whole.path.as_str());
    std::fs::File::options().write(true).open(&path).unwrap().set_len(9 * PAGE).unwrap();
    let mut context = job(&site, FIRST, &[(FULL, &[FULL], both)]).await;
    Arc::get_mut(&mut context).unwrap().summaries = Some(silent_summaries());
    let cut = UnitPart { length: 9 * PAGE, prior_size: Some(10 * PAGE), ..known(whole, 0, 0) };
    let receipt = run(&context, order(1, both, std::slice::from_ref(&cut))).await.unwrap();
    assert_eq!((receipt.skipped, receipt.read, receipt.changed), (8 * PAGE, PAGE, PAGE));
    for key in both {
        describes_the_file(&site, *key, FIRST, &cut).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_last_block_that_was_short_is_stored_again_when_the_file_has_grown() {
    const BLOCK: u32 = 16_384;
    let site = Site::new().await;
    let both: &[RepoKey] = &[ONE, TWO];
    let grown = UnitPart { block_size: BLOCK, ..site.relation("16384", 12) };
    let before = UnitPart { length: 9 * PAGE, ..grown.clone() };
    run(&job(&site, FULL, &[]).await, order(1, both, std::slice::from_ref(&before))).await.unwrap();
    let context = job(&site, FIRST, &[(FULL, &[FULL], both)]).await;
    let mut part = known(before, 0, 0);
    (part.length, part.block_size) = (grown.length, 8192);
    let receipt = run(&context, order(1, both, std::slice::from_ref(&part))).await.unwrap();
    assert_eq!((receipt.read, receipt.changed), (12 * PAGE, 4 * PAGE), "from the short block on");
    describes_the_file(&site, TWO, FIRST, &part).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn repositories_that_follow_different_backups_each_refer_to_their_own() {
    let site = Site::new().await;
    let part = site.relation("16384", SOME_PAGES);
    run(&job(&site, FULL, &[]).await, order(1, &[ONE, TWO], std::slice::from_ref(&part))).await.unwrap();
    change_page(&site, &part, 7);
    let context = job(&site, FIRST, &[(FULL, &[FULL], &[ONE])]).await;
    run(&context, order(1, &[ONE], &[known(part.clone(), 0, 0)])).await.unwrap();
    change_page(&site, &part, 300);
    let priors: &[(&str, &[&str], &[RepoKey])] = &[(FIRST, &[FULL, FIRST], &[ONE]), (FULL, &[FULL], &[TWO])];
    let context = job(&site, SECOND, priors).await;
    let both = known(known(part.clone(), 0, 1), 1, 0);
    let receipt = run(&context, order(1, &[ONE, TWO], &[both])).await.unwrap();
    assert_eq!(receipt.read, part.length, "once");
    assert_eq!(footer(&site, ONE, SECOND).await, (PAGE, vec![FULL.to_owned(), FIRST.to_owned()]));
    assert_eq!(footer(&site, TWO, SECOND).await, (2 * PAGE, vec![FULL.to_owned()]));
    for key in [ONE, TWO] {
        describes_the_file(&site, key, SECOND, &part).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_are_found_by_their_offset_whatever_the_borders_of_units_were() {
    let site = Site::new().await;
    let whole = site.relation("16384", SOME_PAGES);
    run(&job(&site, FULL, &[]).await, order(1, &[ONE], std::slice::from_ref(&whole))).await.unwrap();
    change_page(&site, &whole, 150);
    let context = job(&site, FIRST, &[(FULL, &[FULL], &[ONE])]).await;
    let mut part = known(whole, 0, 0);
    (part.offset, part.length) = (100 * PAGE, 200 * PAGE);
    let receipt = run(&context, order(1, &[ONE], std::slice::from_ref(&part))).await.unwrap();
    assert_eq!((receipt.read, receipt.changed), (200 * PAGE, PAGE));
    describes_the_file(&site, ONE, FIRST, &part).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_backups_that_gave_a_file_blocks_of_different_sizes_the_first_one_counts() {
    let site = Site::new().await;
    let part = site.relation("16384", SOME_PAGES);
    let large = UnitPart { block_size: 16_384, ..part.clone() };
    run(&job(&site, FULL, &[]).await, order(1, &[ONE], &[large])).await.unwrap();
    run(&job(&site, FIRST, &[]).await, order(1, &[ONE], std::slice::from_ref(&part))).await.unwrap();
    change_page(&site, &part, 7);
    let priors: &[(&str, &[&str], &[RepoKey])] = &[(FULL, &[FULL], &[ONE]), (FIRST, &[FIRST], &[ONE])];
    let context = job(&site, SECOND, priors).await;
    let receipt = run(&context, order(1, &[ONE], &[known(known(part.clone(), 0, 0), 1, 0)])).await.unwrap();
    assert_eq!(receipt.changed, 2 * PAGE, "one block of two pages");
    assert_eq!(footer(&site, ONE, SECOND).await.1, [FULL]);
    describes_the_file(&site, ONE, SECOND, &part).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_does_not_say_what_it_has_is_left_out_and_costs_the_others_nothing_more() {
    let site = Site::new().await;
    let part = site.relation("16384", SOME_PAGES);
    let both: &[RepoKey] = &[ONE, TWO];
    run(&job(&site, FULL, &[]).await, order(1, both, std::slice::from_ref(&part))).await.unwrap();
    change_page(&site, &part, 7);
    let mut context = job(&site, FIRST, &[(FULL, &[FULL], both)]).await;
    Arc::get_mut(&mut context).unwrap().units.stall_timeout_ms = u64::try_from(STALL.as_millis()).unwrap();
    site.faults(TWO).add(Rule::always(Operation::Stat, Effect::Stall));
    let parts = [known(part.clone(), 0, 0), known(part.clone(), 0, 0)];
    let receipt = run(&context, order(1, both, &parts)).await.unwrap();
    assert_eq!((stored(&receipt), receipt.failed[0].repository), (vec![ONE], TWO));
    assert_eq!(receipt.changed, 2 * PAGE, "what the other one has is known");
    let began = Instant::now();
    let next = run(&context, order(2, both, &parts)).await.unwrap();
    assert_eq!((stored(&next), next.failed[0].repository), (vec![ONE], TWO));
    assert!(began.elapsed() < STALL, "it is paid for once");
}
