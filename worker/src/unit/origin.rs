//! Where the bytes of one attempt come from: this worker's own data directory, or a source that serves it.

use super::reader::{Opened, PartReader};
use crate::fetching::Fetch;
use crate::job::{JobContext, Summaries};
use pgconvoy_core::failure::Failure;
use pgconvoy_core::wire::{UnitOrder, UnitPart};

pub(super) enum Origin {
    Own,
    Served(Box<Fetch>),
}

impl Origin {
    pub(super) fn begin(context: &JobContext, order: &UnitOrder) -> Result<Origin, Failure> {
        match &order.source {
            Some(remote) => Ok(Origin::Served(Box::new(Fetch::begin(context, order, remote)?))),
            None => Ok(Origin::Own),
        }
    }

    /// Parts are opened in their order.
    pub(super) fn open<'a>(
        &'a mut self,
        context: &JobContext,
        order: &UnitOrder,
        number: usize,
        part: &UnitPart,
    ) -> Result<Opened<'a>, Failure> {
        match self {
            Origin::Own => PartReader::open(context, order, part),
            Origin::Served(fetch) => PartReader::fetch(context, number, part, fetch),
        }
    }

    /// What samples have shown of summaries so far, in any unit of the job, where the files are.
    pub(super) fn wrong_summary(&self, context: &JobContext) -> Option<String> {
        let wrong = match self {
            Origin::Own => context.summaries.as_ref().and_then(Summaries::wrong),
            Origin::Served(fetch) => fetch.wrong_summary(),
        };
        wrong.map(str::to_owned)
    }
}
