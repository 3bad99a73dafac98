//! What the server's WAL summaries say of the time since the prior backup, for the units of a job.

use super::{Directory, Known, blocking};
use crate::job::Summaries;
use pgconvoy_core::pg::PageSize;
use pgconvoy_core::plan::summaries::{ClusterShape, Geometry, NoSummaries, same_shape};
use pgconvoy_core::wire::{SummaryBasis, UnitContext};
use pgconvoy_postgres::summaries::{Summarized, SummaryRequest, load_summaries};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A summary that ends at this backup's start is a matter of moments; reading everything is the other choice.
const PATIENCE: Duration = Duration::from_secs(30);

/// `None`: everything is read. That is never an error, and the log has the reason.
pub(super) async fn load(
    known: &Known,
    directory: &Directory,
    units: &UnitContext,
    ended: CancellationToken,
) -> Option<Summaries> {
    let basis = units.summaries?;
    match try_to(known, directory, basis, ended).await {
        Ok((read, geometry)) => {
            let (relations, bytes) = read.changed.extent();
            tracing::info!(
                "{} WAL summaries tell what changed since the prior backup: {relations} relations, {bytes} bytes of \
                 memory, waited {:?}",
                read.summaries.len(),
                read.waited
            );
            Some(Summaries::new(read.changed, geometry, basis.window))
        }
        Err(reason) => {
            tracing::info!("WAL summaries are not used: {reason}");
            None
        }
    }
}

async fn try_to(
    known: &Known,
    directory: &Directory,
    basis: SummaryBasis,
    ended: CancellationToken,
) -> Result<(Summarized, Geometry), NoSummaries> {
    let facts = &known.facts;
    let now = ClusterShape {
        version: facts.version,
        catalog_version: facts.catalog_version,
        checksums: facts.checksums,
        page_size: facts.page_size,
    };
    same_shape(basis.prior, now)?;
    if !known.summarizes_wal {
        return Err(NoSummaries::Off);
    }
    let page_size =
        PageSize::new(facts.page_size).map_err(|_| NoSummaries::Changed { what: "the page size" })?;
    let geometry = Geometry { page_size, segment_pages: facts.relation_segment_blocks };
    let directory = directory.roots.directory().to_owned();
    let reading = blocking(move || {
        let request = SummaryRequest {
            directory: &directory,
            window: basis.window,
            wait_at_most: PATIENCE,
            given_up: &|| ended.is_cancelled(),
        };
        Ok(load_summaries(&request))
    });
    let read = reading.await.unwrap_or(Err(NoSummaries::GivenUp))?;
    Ok((read, geometry))
}
