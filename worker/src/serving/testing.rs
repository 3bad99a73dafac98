//! A source and a compute worker of a test's own, with a network in memory between them.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use super::{Door, Hub};
use crate::fetching::RemoteSources;
use crate::job::JobContext;
use crate::job::testing::Site;
use async_trait::async_trait;
use pgconvoy_core::ids::{Identity, WorkerName};
use pgconvoy_core::ticket::{Admits, Ticket};
use pgconvoy_core::wire::{JobId, RemoteSource, UnitOrder};
use pgconvoy_transport::memory::{self, Faults, MemoryDialer};
use pgconvoy_transport::{Connection, Connector, Dial, PeerIdentity, Role, TransportError};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

pub(crate) const SOURCE: &str = "local";
pub(crate) const COMPUTER: &str = "computer";

pub(crate) fn job() -> JobId {
    JobId(Identity::from_random_bytes([9; 16]))
}

pub(crate) fn worker(name: &str) -> WorkerName {
    name.parse().unwrap()
}

/// The way of one peer to the listener, whatever address it dials.
pub(crate) struct Way {
    dialer: MemoryDialer,
    peer: PeerIdentity,
    network: Faults,
}

#[async_trait]
impl Dial for Way {
    async fn dial(&self, _address: &str) -> Result<Connection, TransportError> {
        self.dialer.connector(self.peer.clone(), self.network.clone()).connect().await
    }
}

pub(crate) struct Source {
    pub(crate) hub: Arc<Hub>,
    pub(crate) door: Door,
    pub(crate) network: Faults,
    dialer: MemoryDialer,
}

impl Source {
    /// Serves what that job sees.
    pub(crate) fn of(context: &Arc<JobContext>) -> Source {
        Source::known_as(SOURCE, context)
    }

    pub(crate) fn known_as(name: &str, context: &Arc<JobContext>) -> Source {
        let identity = PeerIdentity { name: worker(name).into(), role: Role::Worker };
        let (listener, dialer) = memory::listen(identity);
        let hub = Hub::new("source:7434".to_owned(), Handle::current());
        let door = hub.open(job(), context.clone()).unwrap();
        tokio::spawn(hub.clone().listen(Arc::new(listener)));
        Source { hub, door, network: Faults::default(), dialer }
    }

    pub(crate) fn way(&self, name: &str, role: Role) -> Way {
        let peer = PeerIdentity { name: worker(name).into(), role };
        Way { dialer: self.dialer.clone(), peer, network: self.network.clone() }
    }

    pub(crate) fn ticket(&self, name: &str, order: &UnitOrder) -> Ticket {
        let admits = Admits {
            job: job(),
            unit: order.unit,
            attempt: order.attempt,
            worker: &worker(name),
            parts: &order.parts,
        };
        self.door.serving().secret.sign(&admits)
    }

    /// The order as the leader gives it to a compute worker.
    pub(crate) fn serves(&self, order: UnitOrder) -> UnitOrder {
        let ticket = self.ticket(COMPUTER, &order);
        let address = self.door.serving().address;
        let remote = RemoteSource { worker: worker(SOURCE), address, ticket, standby: None };
        UnitOrder { source: Some(remote), ..order }
    }

    /// The job at a worker that sees nothing of it.
    pub(crate) fn remote(&self, mut context: Arc<JobContext>) -> Arc<JobContext> {
        let own = Arc::get_mut(&mut context).unwrap();
        (own.source, own.worker, own.summaries) = (None, worker(COMPUTER), None);
        let way = Arc::new(self.way(COMPUTER, Role::Worker));
        own.remote = RemoteSources::new(Some(way), job(), own.ended.clone());
        context
    }

    pub(crate) async fn computer(&self, site: &Site, stall: Duration) -> Arc<JobContext> {
        self.remote(site.context(stall).await)
    }
}
