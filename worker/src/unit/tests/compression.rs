//! Repositories that have their frames compressed in ways of their own.

use super::known::{FIRST, FULL, change_page, footer, job, known};
use super::*;
use crate::job::testing::{compress, stanza};
use pgconvoy_core::format::BackupLabel;
use pgconvoy_core::ids::{Attempt, PlanNumber, UnitId};
use pgconvoy_core::wire::{Compress, UnitContext};
use pgconvoy_repository::codec::Codec;
use pgconvoy_repository::pack::PackReader;
use std::collections::BTreeSet;

/// Two frames and a bit.
const PAGES_STORED: usize = 300;
const ZST: Compress = Compress { codec: Codec::Zst.number(), level: 3 };

/// A relation that any codec makes smaller; no two blocks are the same.
fn compressible(site: &Site) -> UnitPart {
    let part = site.relation("16384", PAGES_STORED);
    let content: Vec<u8> =
        (0..PAGES_STORED).flat_map(|page| u16::try_from(page).unwrap().to_le_bytes().repeat(4096)).collect();
    std::fs::write(site.pg().join(part.path.as_str()), content).unwrap();
    part
}

/// Of all frames of unit 1.
async fn codecs(site: &Site, key: RepoKey, label: &str) -> BTreeSet<u8> {
    let label: BackupLabel = label.parse().unwrap();
    let name = PackName { label, plan: PlanNumber(1), unit: UnitId(1), attempt: Attempt(1) };
    let (repository, secret) = (site.repository(key).await, site.context(STALL).await.secret.clone());
    let pack = PackReader::open(&repository, &stanza(), name, None, &secret).await.unwrap();
    pack.object.frames().iter().map(|frame| frame.codec()).collect()
}

/// The first repository has the usual compression, the second one its own.
async fn differing(site: &Site, own: &str, priors: &[(&str, &[&str], &[RepoKey])]) -> Arc<JobContext> {
    let mut context = job(site, own, priors).await;
    Arc::get_mut(&mut context).unwrap().units.own_compress.insert(TWO, ZST);
    context
}

#[tokio::test(flavor = "multi_thread")]
async fn each_repository_has_its_codec_from_one_read_and_refers_to_its_own_frames() {
    let site = Site::new().await;
    let part = compressible(&site);
    let both: &[RepoKey] = &[ONE, TWO];
    let context = differing(&site, FULL, &[]).await;
    let full = run(&context, order(1, both, std::slice::from_ref(&part))).await.unwrap();
    assert_eq!((full.read, full.changed), (part.length, part.length));

    change_page(&site, &part, 7);
    let context = differing(&site, FIRST, &[(FULL, &[FULL], both)]).await;
    let first = run(&context, order(1, both, &[known(part.clone(), 0, 0)])).await.unwrap();
    assert_eq!((first.read, first.changed), (part.length, 8192));
    for (key, codec) in [(ONE, compress().codec), (TWO, ZST.codec)] {
        for label in [FULL, FIRST] {
            assert_eq!(codecs(&site, key, label).await, BTreeSet::from([codec]), "{label}");
        }
        assert_eq!(footer(&site, key, FIRST).await, (8192, vec![FULL.to_owned()]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn repositories_with_the_same_codec_share_what_comes_of_it() {
    let site = Site::new().await;
    let context = differing(&site, FULL, &[]).await;
    let mut units = context.units.clone();
    let ways = |units: &UnitContext| {
        let compressors = Compressors::new(units).unwrap();
        (compressors.way_of(ONE, units), compressors.way_of(TWO, units))
    };
    let (one, two) = ways(&units);
    assert_ne!(one, two);
    units.own_compress.insert(ONE, ZST);
    let (one, two) = ways(&units);
    assert_eq!(one, two);
}
