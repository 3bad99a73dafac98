//! What threads take their work from.

use crate::desk::POLL;
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

pub(super) struct Tasks<T> {
    waiting: Mutex<VecDeque<T>>,
    changed: Condvar,
}

impl<T> Default for Tasks<T> {
    fn default() -> Self {
        Tasks { waiting: Mutex::default(), changed: Condvar::new() }
    }
}

impl<T> Tasks<T> {
    pub(super) fn push(&self, task: T) {
        self.lock().push_back(task);
        self.changed.notify_one();
    }

    pub(super) fn push_first(&self, task: T) {
        self.lock().push_front(task);
        self.changed.notify_one();
    }

    pub(super) fn clear(&self) {
        self.lock().clear();
    }

    pub(super) fn wake(&self) {
        // Whoever is about to wait has looked around with this lock held.
        drop(self.lock());
        self.changed.notify_all();
    }

    /// `None` when all is over, and now and then, so that whoever waits can look around.
    pub(super) fn next_unless(&self, is_over: impl Fn() -> bool) -> Option<T> {
        let idle = |waiting: &mut VecDeque<T>| waiting.is_empty() && !is_over();
        let waited = self.changed.wait_timeout_while(self.lock(), POLL, idle);
        waited.unwrap_or_else(PoisonError::into_inner).0.pop_front()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<T>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
