//! Connections between workers and coordinators: ordered each by itself, in no order among each other, and lost at any moment.
//!
//! A message is lost only together with its connection: once one is lost, nothing more arrives there, and both ends learn of it
//! some time later, each in its own time.

use crate::world::{Action, World};
use crate::{Millis, coordinator::CoordinatorAct, worker::WorkerAct};
use pgconvoy_core::wire::{Instruction, Report};
use std::collections::BTreeMap;

pub(crate) type ConnectionId = u64;

/// How long an end waits for a silent peer.
pub(crate) const IDLE_TIMEOUT: Millis = 10_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Worker,
    Coordinator,
}

pub(crate) struct Connection {
    pub(crate) worker: usize,
    pub(crate) coordinator: usize,
    worker_boot: u32,
    coordinator_boot: u32,
    /// Worker's end, coordinator's end.
    open: [bool; 2],
    /// When the last message arrives, in each direction: to the worker, to the coordinator.
    last: [Millis; 2],
    /// Something was lost: nothing arrives any more.
    is_torn: bool,
}

#[derive(Default)]
pub(crate) struct Network {
    pub(crate) connections: BTreeMap<ConnectionId, Connection>,
    count: ConnectionId,
    /// `(worker, coordinator)`: nothing passes until then.
    pub(crate) cut: BTreeMap<(usize, usize), Millis>,
}

#[derive(Debug, Clone)]
pub(crate) enum Message {
    Up(Box<Report>),
    Down(Box<Instruction>),
    /// The other end closed it; to a worker: because it is no leader, with who is.
    Closed {
        leader: Option<usize>,
        is_goodbye: bool,
    },
}

fn side(end: End) -> usize {
    match end {
        End::Worker => 0,
        End::Coordinator => 1,
    }
}

impl World {
    pub(crate) fn connect(&mut self, worker: usize, coordinator: usize) -> Option<ConnectionId> {
        if !self.coordinators[coordinator].is_up || self.is_cut(worker, coordinator) {
            return None;
        }
        self.network.count += 1;
        let id = self.network.count;
        let connection = Connection {
            worker,
            coordinator,
            worker_boot: self.workers[worker].boot,
            coordinator_boot: self.coordinators[coordinator].boot,
            open: [true; 2],
            last: [0; 2],
            is_torn: false,
        };
        self.network.connections.insert(id, connection);
        Some(id)
    }

    fn is_cut(&self, worker: usize, coordinator: usize) -> bool {
        self.network.cut.get(&(worker, coordinator)).is_some_and(|until| *until > self.now)
    }

    /// Says something from one end to the other.
    pub(crate) fn send(&mut self, id: ConnectionId, from: End, message: Message) {
        let latency = self.rng.range(1, 20) + if self.rng.percent(2) { self.rng.range(0, 2_000) } else { 0 };
        let Some(connection) = self.network.connections.get_mut(&id) else { return };
        if !connection.open[side(from)] {
            return;
        }
        let at = (self.now + latency).max(connection.last[side(from)] + 1);
        connection.last[side(from)] = at;
        self.at(at, Action::Deliver { connection: id, from, message });
    }

    pub(crate) fn deliver(&mut self, id: ConnectionId, from: End, message: Message) {
        let Some(connection) = self.network.connections.get(&id) else { return };
        let (worker, coordinator) = (connection.worker, connection.coordinator);
        if connection.is_torn || self.is_cut(worker, coordinator) {
            return self.tear(id);
        }
        let to = match from {
            End::Worker => End::Coordinator,
            End::Coordinator => End::Worker,
        };
        if connection.open[side(to)] {
            self.hand_over(id, to, message);
        }
    }

    fn hand_over(&mut self, id: ConnectionId, to: End, message: Message) {
        let connection = &self.network.connections[&id];
        let action = match to {
            End::Worker => Action::Worker {
                id: connection.worker,
                boot: connection.worker_boot,
                act: WorkerAct::Received(id, message),
            },
            End::Coordinator => Action::Coordinator {
                id: connection.coordinator,
                boot: connection.coordinator_boot,
                act: CoordinatorAct::Received(id, message),
            },
        };
        self.at(self.now, action);
    }

    /// Nothing arrives any more; both ends learn of it.
    pub(crate) fn tear(&mut self, id: ConnectionId) {
        let Some(connection) = self.network.connections.get_mut(&id) else { return };
        if std::mem::replace(&mut connection.is_torn, true) {
            return;
        }
        for end in [End::Worker, End::Coordinator] {
            let after = self.rng.range(1, IDLE_TIMEOUT);
            self.at(self.now + after, Action::Break { connection: id, end });
        }
    }

    /// One end finds the connection broken.
    pub(crate) fn break_off(&mut self, id: ConnectionId, end: End) {
        let Some(connection) = self.network.connections.get_mut(&id) else { return };
        if std::mem::replace(&mut connection.open[side(end)], false) {
            self.hand_over(id, end, Message::Closed { leader: None, is_goodbye: false });
        }
        self.forget_closed(id);
    }

    /// One end closes it on purpose; the other hears of it after all that was said before.
    pub(crate) fn close(&mut self, id: ConnectionId, end: End, leader: Option<usize>, is_goodbye: bool) {
        self.send(id, end, Message::Closed { leader, is_goodbye });
        if let Some(connection) = self.network.connections.get_mut(&id) {
            connection.open[side(end)] = false;
        }
        self.forget_closed(id);
    }

    /// The end that was told that it is over.
    pub(crate) fn is_closed(&mut self, id: ConnectionId, end: End) {
        if let Some(connection) = self.network.connections.get_mut(&id) {
            connection.open[side(end)] = false;
        }
        self.forget_closed(id);
    }

    fn forget_closed(&mut self, id: ConnectionId) {
        if self.network.connections.get(&id).is_some_and(|connection| {
            connection.open == [false; 2] && connection.last.iter().all(|last| *last < self.now)
        }) {
            self.network.connections.remove(&id);
        }
    }

    /// A process died or froze: what is connected to it breaks, unless it is back before anybody notices.
    pub(crate) fn silence(&mut self, worker: Option<usize>, coordinator: Option<usize>, is_dead: bool) {
        let concerned: Vec<ConnectionId> = self
            .network
            .connections
            .iter()
            .filter(|(_, one)| Some(one.worker) == worker || Some(one.coordinator) == coordinator)
            .map(|(id, _)| *id)
            .collect();
        for id in concerned {
            if is_dead {
                self.tear(id);
            } else {
                self.at(self.now + IDLE_TIMEOUT, Action::IdleCheck { connection: id });
            }
        }
    }

    pub(crate) fn idle_check(&mut self, id: ConnectionId) {
        let Some(connection) = self.network.connections.get(&id) else { return };
        let is_silent = |since: Option<Millis>| since.is_some_and(|since| self.now >= since + IDLE_TIMEOUT);
        if is_silent(self.workers[connection.worker].frozen_since)
            || is_silent(self.coordinators[connection.coordinator].frozen_since)
        {
            self.tear(id);
        }
    }
}
