//! The network between two processes, and how a test breaks it.

use crate::connection::IDLE_TIMEOUT;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Which way bytes go, as the connecting side sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Outbound,
    Inbound,
}

/// The state of one direction.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Line {
    pub(super) cut_since: Option<Instant>,
    pub(super) delay: Duration,
    /// Cuts that lasted longer than [`IDLE_TIMEOUT`]; a connection that saw the number grow is over.
    pub(super) outages: u64,
}

struct Lines {
    outbound: watch::Sender<Line>,
    inbound: watch::Sender<Line>,
}

/// A handle on the network; clones are the same network. A new one is without fault.
#[derive(Clone)]
pub struct Faults(Arc<Lines>);

impl Default for Faults {
    fn default() -> Self {
        Faults(Arc::new(Lines {
            outbound: watch::Sender::new(Line::default()),
            inbound: watch::Sender::new(Line::default()),
        }))
    }
}

impl Faults {
    /// Everything sent from now on arrives this much later, in both directions.
    pub fn delay(&self, delay: Duration) {
        for line in [&self.0.outbound, &self.0.inbound] {
            line.send_modify(|line| line.delay = delay);
        }
    }

    /// Nothing passes any more, in neither direction. What is on its way waits for [`Faults::heal`]; after
    /// [`IDLE_TIMEOUT`] both ends give the connection up.
    pub fn cut(&self) {
        self.cut_one_way(Direction::Outbound);
        self.cut_one_way(Direction::Inbound);
    }

    /// As [`Faults::cut`], for one direction. Both ends give up all the same: one hears nothing, the other no answer.
    pub fn cut_one_way(&self, direction: Direction) {
        self.line(direction).send_modify(|line| {
            line.cut_since.get_or_insert_with(Instant::now);
        });
    }

    /// Both directions pass again. A connection that was cut for too long is over nevertheless.
    pub fn heal(&self) {
        for line in [&self.0.outbound, &self.0.inbound] {
            line.send_modify(|line| {
                if let Some(since) = line.cut_since.take()
                    && since.elapsed() >= IDLE_TIMEOUT
                {
                    line.outages += 1;
                }
            });
        }
    }

    pub(super) fn line(&self, direction: Direction) -> &watch::Sender<Line> {
        match direction {
            Direction::Outbound => &self.0.outbound,
            Direction::Inbound => &self.0.inbound,
        }
    }

    pub(super) fn outages(&self) -> u64 {
        self.0.outbound.borrow().outages + self.0.inbound.borrow().outages
    }

    /// When something sent now will be there, if nothing is cut.
    pub(super) fn due(&self, direction: Direction) -> Instant {
        Instant::now() + self.line(direction).borrow().delay
    }

    /// Resolves when something that is due then has passed.
    pub(super) async fn passes(&self, direction: Direction, due: Instant) {
        let mut line = self.line(direction).subscribe();
        loop {
            let is_cut = line.borrow_and_update().cut_since.is_some();
            if !is_cut && due <= Instant::now() {
                return;
            }
            tokio::select! {
                // The sender lives in `self`, so this is a change.
                _ = line.changed() => {}
                () = tokio::time::sleep_until(due), if !is_cut => {}
            }
        }
    }

    /// Resolves when neither direction is cut.
    pub(super) async fn both_up(&self) {
        loop {
            for direction in [Direction::Outbound, Direction::Inbound] {
                self.passes(direction, Instant::now()).await;
            }
            if self.0.outbound.borrow().cut_since.is_none() && self.0.inbound.borrow().cut_since.is_none() {
                return;
            }
        }
    }
}
