//! What the machine wants done, batch by batch, and how much of it can be done together.

use pgconvoy_core::machine::backup::Effect;
use pgconvoy_core::machine::backup::batching::{Acceptance, Waiting, take_accepted};
use pgconvoy_core::machine::backup::event::AcceptedUnit;
use tokio::sync::mpsc::UnboundedReceiver;

pub(super) struct Wanted {
    queue: UnboundedReceiver<Vec<Effect>>,
    /// The first batch is the one in hand.
    waiting: Waiting,
}

impl Wanted {
    pub(super) fn new(queue: UnboundedReceiver<Vec<Effect>>) -> Wanted {
        Wanted { queue, waiting: Waiting::new() }
    }

    /// Goes on to the next batch. `false`: nobody wants anything any more.
    pub(super) async fn more(&mut self) -> bool {
        self.waiting.pop_front();
        if self.waiting.is_empty() {
            let Some(batch) = self.queue.recv().await else { return false };
            self.waiting.push_back(batch.into());
        }
        true
    }

    /// The next effect of the batch in hand.
    pub(super) fn next(&mut self) -> Option<Effect> {
        self.waiting.front_mut()?.pop_front()
    }

    /// That acceptance, and those that wait behind it.
    pub(super) fn accepted(
        &mut self,
        first: Effect,
        has_room: impl FnMut(&AcceptedUnit) -> bool,
    ) -> Vec<Acceptance> {
        while let Ok(batch) = self.queue.try_recv() {
            self.waiting.push_back(batch.into());
        }
        if let Some(batch) = self.waiting.front_mut() {
            batch.push_front(first);
        }
        take_accepted(&mut self.waiting, has_room)
    }
}
