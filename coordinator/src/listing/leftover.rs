//! What packs of an unfinished backup hold.
//!
//! Only packs that every repository has count: what was receipted is in all of them. A footer that cannot be read means that
//! its blocks are stored again.

use super::Listing;
use futures::StreamExt;
use pgconvoy_core::failure::Failure;
use pgconvoy_core::format::layout::PackName;
use pgconvoy_core::format::manifest::RangeRecord;
use pgconvoy_core::format::pack::PackRange;
use pgconvoy_core::format::{BackupLabel, HashSecret};
use pgconvoy_core::ids::{PlanNumber, RepoKey};
use pgconvoy_core::machine::backup::Event;
use pgconvoy_core::pg::RelativePath;
use pgconvoy_repository::Repository;
use pgconvoy_repository::pack::PackReader;
use std::collections::BTreeSet;

/// Footers read at once: enough to hide a store's latency, few enough for its limits.
const FOOTERS_AT_ONCE: usize = 16;

impl Listing {
    /// Of plans 1 to `plans`.
    pub(crate) async fn leftover(
        &self,
        label: BackupLabel,
        plans: PlanNumber,
        repositories: &[RepoKey],
    ) -> Event {
        if let Err(failure) = self.list_leftover(label, plans, repositories).await {
            tracing::warn!(
                "unfinished backup {label} is stored again as far as it cannot be looked at: {failure}"
            );
        }
        Event::LeftoverRead { round: self.round }
    }

    async fn list_leftover(
        &self,
        label: BackupLabel,
        plans: PlanNumber,
        repositories: &[RepoKey],
    ) -> Result<(), Failure> {
        let mut common: Option<BTreeSet<PackName>> = None;
        for key in repositories {
            let repository = self.set.open(*key).await?;
            let mut packs = BTreeSet::new();
            for plan in 1..=plans.0 {
                packs.extend(repository.packs(&self.stanza, label, PlanNumber(plan)).await?);
            }
            common = Some(common.map_or(packs.clone(), |common| &common & &packs));
        }
        let Some(first) = repositories.first() else { return Ok(()) };
        let repository = self.set.open(*first).await?;
        let secret = repository.cluster(&self.stanza).await?.hash_secret;
        let reading =
            common.unwrap_or_default().into_iter().map(|name| self.ranges(&repository, name, &secret));
        let mut reading = futures::stream::iter(reading).buffer_unordered(FOOTERS_AT_ONCE);
        while let Some(ranges) = reading.next().await {
            self.tell(Event::LeftoverListed { round: self.round, ranges }).await?;
        }
        Ok(())
    }

    async fn ranges(
        &self,
        repository: &Repository,
        name: PackName,
        secret: &HashSecret,
    ) -> Vec<(RelativePath, RangeRecord)> {
        let body = match PackReader::open(repository, &self.stanza, name, None, secret).await {
            Ok(reader) => reader.body,
            Err(error) => {
                tracing::info!("pack {name} of an unfinished backup is stored again: {error}");
                return Vec::new();
            }
        };
        let range = |(place, range): (u32, &PackRange)| {
            let record = RangeRecord {
                offset: range.offset,
                length: range.length,
                label: 1,
                plan: name.plan,
                unit: name.unit,
                attempt: name.attempt,
                place,
                worker: 0,
                slot: body.slot,
            };
            Some((range.path.parse().ok()?, record))
        };
        (0..).zip(&body.ranges).filter_map(range).collect()
    }
}
