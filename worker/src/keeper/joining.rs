//! Takes part in a backup whose session another worker holds: finds out what this worker can be to it.
//!
//! What is not the session's own server is a standby, if standbys may be read; who sees no data at all computes what sources
//! serve, if it may.

use super::{Keeper, Known, SourceConfig, blocking, offline, online, scanning, standby};
use crate::job::{JobContext, Shape, Source, Tablespaces};
use crate::serving::Door;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::pg::PageSize;
use pgconvoy_core::wire::{ClusterTerms, PreflightOrder, Standing, UnitContext};
use pgconvoy_postgres::connect::Client;
use std::sync::Arc;

impl Keeper {
    /// What units are read from, and what is known of it. Proves the directory first, if this worker has not.
    pub(super) async fn join(&mut self, units: &UnitContext) -> Result<(Shape, Option<Source>), Failure> {
        if self.directory.is_none() {
            match self.ground.sources.of(&units.stanza) {
                Some(config) => self.join_with(config, units).await?,
                None => return Ok((self.terms(units)?, None)),
            }
        }
        let (Some(known), Some(directory)) = (&self.known, &self.directory) else {
            return Err(Failure::new(ErrorCode::Assert, "units came before a session"));
        };
        let source = Source {
            roots: directory.roots.clone(),
            tablespaces: Tablespaces::asking(scanning::ask(&known.session, directory, &self.ground.runtime)),
            standby: known.session.standby(),
        };
        let shape = Shape {
            version: known.facts.version,
            page_size: PageSize::new(known.facts.page_size)?,
            relation_segment_blocks: known.facts.relation_segment_blocks,
            check_pages: known.facts.checksums && known.options.checksum_page.unwrap_or(true),
        };
        Ok((shape, Some(source)))
    }

    async fn join_with(&mut self, config: SourceConfig, units: &UnitContext) -> Result<(), Failure> {
        let order = PreflightOrder { stanza: units.stanza.clone(), options: units.options.clone() };
        let (known, directory) = match units.start {
            Some(start) => {
                let client = Client::connect(&config.connect).await?;
                if client.settings().in_recovery {
                    let terms = units.reading.standbys.ok_or_else(|| unwanted(&client))?;
                    standby::join(order, config, client, terms, self.watcher(), &self.ground.runtime).await?
                } else {
                    online::join(order, config, client, start).await?
                }
            }
            None => {
                let known = blocking(move || offline::preflight(order, config)).await?;
                let wanted = units.reading.offline_control;
                if wanted.is_some() && wanted != offline::control_crc(&known) {
                    return Err(another_directory(&known));
                }
                let (_, directory) = offline::open(&known)?;
                (known, directory)
            }
        };
        (self.known, self.directory) = (Some(known), Some(directory));
        Ok(())
    }

    /// What somebody who sees no data is told of it.
    fn terms(&self, units: &UnitContext) -> Result<Shape, Failure> {
        let (worker, stanza) = (&self.ground.worker, &units.stanza);
        let refused = |reason: &str| {
            let message = format!("worker {worker} has no data of stanza {stanza}, and {reason}");
            Failure::new(ErrorCode::OptionInvalid, message)
        };
        if !self.ground.computes.allows(stanza) {
            let hint =
                format!("[worker] compute = [\"{stanza}\"]: a worker that computes sees its pages in clear");
            return Err(refused("its configuration does not let it compute for it").hint(hint));
        }
        let terms = units.reading.offload.ok_or_else(|| refused("the job offloads nothing"))?;
        let ClusterTerms { version, page_size, relation_segment_blocks, check_pages } = terms;
        Ok(Shape { version, page_size: PageSize::new(page_size)?, relation_segment_blocks, check_pages })
    }

    /// Compute workers may fetch what it sees, if the job wants that and this worker listens.
    pub(super) fn serve_others(&self, context: &Arc<JobContext>) -> Result<Option<Door>, Failure> {
        let (wanted, has_data) = (context.units.reading.offload.is_some(), context.source.is_some());
        let hub = self.ground.serving.as_ref().filter(|_| wanted && has_data);
        hub.map(|hub| hub.open(self.reporter.job(), context.clone())).transpose()
    }

    /// What this worker is to the job, once it knows.
    pub(super) fn standing(&self) -> Standing {
        let serves = self.door.as_ref().map(Door::serving);
        match self.known.as_ref().map(|known| known.session.standby()) {
            None => Standing::Compute,
            Some(None) => Standing::Primary { serves },
            Some(Some(incarnation)) => Standing::Standby { incarnation, serves },
        }
    }
}

fn another_directory(known: &Known) -> Failure {
    let message = format!(
        "{} is not the directory that is backed up, but another one",
        known.config.directory.display()
    );
    Failure::new(ErrorCode::DbMismatch, message)
        .hint("without a server only workers that see the very same directory can take part")
}

fn unwanted(client: &Client) -> Failure {
    let message = format!("PostgreSQL at {} is a standby, and none is to be read", client.settings().place);
    Failure::new(ErrorCode::DbMismatch, message).hint("backup-standby = prefer reads standbys as well")
}
