//! What Prometheus is told: `pgconvoy_*` of coordinator, workers, jobs, backups and repositories, and `pgbackrest_*` as pgbackrest_exporter
//! names it, so that dashboards and alerts made for that go on working.
//!
//! Code map: `text` is the form, `own` and `backrest` make families out of values; this file gathers the values.
//!
//! Invariants
//! 1. Nobody waits for a store: repositories are told as they were read last ([`crate::survey`]), with the age of that.
//! 2. What concerns the whole fleet is told by its leader only, so that a sum over coordinators counts it once.
//! 3. No label grows without a bound but a backup's name, which the exporter has as well: no job's id, no file.

mod backrest;
mod own;
mod text;

use crate::actors::backup::now;
use crate::api::{Shared, stock};
use crate::fleet::Standing;
use own::{Fleet, Here};
use std::time::Duration;
use text::Page;

pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// The first scrape waits so long for the first look into repositories; far less than Prometheus waits.
const PATIENCE: Duration = Duration::from_secs(2);

/// All of it, as text.
pub(crate) async fn of(shared: &Shared) -> String {
    let lead = match &*shared.fleet.standing().borrow() {
        Standing::Leading(lead) => Some(lead.clone()),
        Standing::Following(_) => None,
    };
    let (streams, streams_max) = shared.followers();
    let here = Here { name: shared.fleet.name().to_owned(), leads: lead.is_some(), streams, streams_max };
    let mut page = Page::default();
    own::of_coordinator(&mut page, &here);
    if let Some(lead) = lead {
        let (jobs, workers) = (lead.jobs(), lead.workers());
        let epoch = lead.leadership().epoch();
        own::of_fleet(&mut page, &Fleet { epoch, jobs: &jobs, workers: &workers });
        match stock::report(shared, &lead, PATIENCE).await {
            Ok(report) => {
                own::of_repositories(&mut page, &report, now());
                backrest::of_info(&mut page, &report.info, &jobs, now());
            }
            Err(failure) => tracing::warn!("repositories are not told to Prometheus: {failure}"),
        }
    }
    page.text()
}
