//! One of several coordinators: follows while another one leads, leads when it may, and says to everybody who does.
//!
//! Invariants
//! 1. Workers are admitted by the leader only; a follower sends them on to it.
//! 2. A leadership that is lost takes its workers' connections and its work with it before the next attempt begins.
//!
//! Failure story: a leader that freezes finds its lease over when it wakes, and follows. One that cannot reach the lease store
//! stops leading when its lease is over by its own clock, whatever the store thinks.

use crate::lead::{Lead, LeadDeps};
use crate::leader::{Leadership, Ttls};
use crate::survey::Survey;
use crate::workshop::Workshop;
use bytes::Bytes;
use pgconvoy_core::failure::Failure;
use pgconvoy_core::format::plan::Writer;
use pgconvoy_core::format::{decode, encode_named};
use pgconvoy_core::ids::Identity;
use pgconvoy_lease::keys::Shard;
use pgconvoy_lease::{FleetKeys, LeaseStore};
use pgconvoy_transport::pki::Revoked;
use pgconvoy_transport::{CloseKind, CloseReason, Connection, Listener};
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How long a follower waits for a sign that the leader is gone before it tries by itself. A watch tells it sooner; this is for
/// watches that end unheard.
const CAMPAIGN_INTERVAL: Duration = Duration::from_millis(500);

/// Where a leader is reached; stands at its key in the lease store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderAddress {
    pub name: String,
    /// For workers: host and port, UDP.
    pub quic: String,
    /// For everybody else: an https URL.
    pub api: String,
}

/// What this coordinator is at the moment.
#[derive(Clone)]
pub enum Standing {
    Following(Option<LeaderAddress>),
    Leading(Arc<Lead>),
}

pub struct FleetDeps {
    pub address: LeaderAddress,
    pub fleet: FleetKeys,
    pub leases: Arc<dyn LeaseStore>,
    pub workshop: Arc<dyn Workshop>,
    pub runtime: Handle,
    pub ttls: Ttls,
    /// Who writes to repositories from here.
    pub writer: Writer,
    pub identity: Arc<dyn Fn() -> Result<Identity, Failure> + Send + Sync>,
    /// Certificates that are not welcome any more, as somebody follows them.
    pub revoked: Revoked,
}

pub struct Fleet {
    deps: FleetDeps,
    standing: watch::Sender<Standing>,
    /// When the lease store last said who leads.
    heard: Mutex<Option<Instant>>,
}

impl Fleet {
    pub fn new(deps: FleetDeps) -> Arc<Fleet> {
        let standing = watch::Sender::new(Standing::Following(None));
        Arc::new(Fleet { deps, standing, heard: Mutex::default() })
    }

    /// Who this coordinator is.
    pub fn name(&self) -> &str {
        &self.deps.address.name
    }

    pub(crate) fn survey(&self) -> Arc<Survey> {
        Survey::new(self.deps.workshop.clone(), self.deps.runtime.clone())
    }

    /// Whether what is known of the leader is no older than a leader's lease: a store that is cut off says nothing.
    pub(crate) fn knows_of_late(&self) -> bool {
        let standing = self.standing.borrow();
        if let Standing::Leading(lead) = &*standing {
            return lead.leadership().is_alive();
        }
        let heard = *self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.is_some_and(|heard| heard.elapsed() <= self.deps.ttls.leader)
    }

    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// Leads and follows until it is told to stop. Must be called on the arbiter that actors live on.
    pub async fn run(self: &Arc<Self>, stop: CancellationToken) {
        while !stop.is_cancelled() {
            match self.campaign().await {
                Ok(Some(leadership)) => self.lead(Arc::new(leadership), &stop).await,
                Ok(None) => {}
                Err(failure) => tracing::debug!("the lease store was not reached: {failure}"),
            }
            let _ = tokio::time::timeout(CAMPAIGN_INTERVAL, stop.cancelled()).await;
        }
    }

    /// Takes the leadership if it is free; else takes note of who has it.
    async fn campaign(&self) -> Result<Option<Leadership>, Failure> {
        let key = self.deps.fleet.leader(Shard(0));
        let holder = self.deps.leases.holder(&key).await?;
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        if let Some(entry) = holder {
            let leader: Option<LeaderAddress> = decode("leader's address", &entry.value).ok();
            self.standing.send_if_modified(|standing| {
                let is_known = matches!(standing, Standing::Following(known) if *known == leader);
                if !is_known {
                    *standing = Standing::Following(leader);
                }
                !is_known
            });
            return Ok(None);
        }
        let value = Bytes::from(encode_named(&self.deps.address));
        let (leases, keys) = (self.deps.leases.clone(), self.deps.fleet.clone());
        Leadership::campaign(leases, keys, value, self.deps.ttls.leader).await
    }

    async fn lead(&self, leadership: Arc<Leadership>, stop: &CancellationToken) {
        tracing::info!("this coordinator leads, epoch {}", leadership.epoch());
        let deps = LeadDeps {
            leadership: leadership.clone(),
            workshop: self.deps.workshop.clone(),
            runtime: self.deps.runtime.clone(),
            ttls: self.deps.ttls,
            writer: self.deps.writer.clone(),
            identity: self.deps.identity.clone(),
            revoked: self.deps.revoked.clone(),
        };
        match Lead::take_over(deps).await {
            Ok(lead) => {
                self.standing.send_replace(Standing::Leading(lead.clone()));
                tokio::select! {
                    () = lead.run() => tracing::warn!("this coordinator leads no more"),
                    () = stop.cancelled() => {}
                }
                self.standing.send_replace(Standing::Following(None));
                lead.end();
            }
            Err(failure) => tracing::error!("this coordinator cannot lead: {failure}"),
        }
        leadership.resign().await;
    }

    /// Admits workers, or sends them to whoever leads. Returns when the listener is closed. On the actors' arbiter.
    pub async fn listen(self: Arc<Self>, listener: Arc<dyn Listener>) {
        while let Ok(connection) = listener.accept().await {
            let standing = self.standing.borrow().clone();
            match standing {
                Standing::Leading(lead) => {
                    actix::spawn(async move { lead.admit(connection).await });
                }
                Standing::Following(leader) => send_on(&connection, leader),
            }
        }
    }
}

fn send_on(connection: &Connection, leader: Option<LeaderAddress>) {
    let text = leader.map(|leader| leader.quic).unwrap_or_default();
    connection.close(CloseReason::new(CloseKind::NotLeader, text));
}
