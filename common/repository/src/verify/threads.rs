//! Plain threads that share a list of work.

use super::{Checked, Interrupted, Job};
use std::sync::atomic::{AtomicUsize, Ordering};

impl Job {
    /// Does `work` for every item, several at once, and gives what it told, in order of the items.
    pub(crate) fn each<T: Sync, R: Send>(
        &self,
        what: &str,
        items: &[T],
        work: impl Fn(&T) -> Checked<Option<R>> + Sync,
    ) -> Checked<Vec<(usize, R)>> {
        let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let one_thread = || -> Checked<Vec<(usize, R)>> {
            let mut told = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some(item) = items.get(number) else { return Ok(told) };
                self.go_on()?;
                told.extend(work(item)?.map(|result| (number, result)));
                self.tell(what, done.fetch_add(1, Ordering::Relaxed) + 1, items.len());
            }
        };
        let mut told = Vec::new();
        std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..self.threads.min(items.len())).map(|_| scope.spawn(one_thread)).collect();
            for thread in threads {
                match thread.join() {
                    Ok(result) => told.extend(result?),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            Ok::<(), Interrupted>(())
        })?;
        told.sort_by_key(|(number, _)| *number);
        Ok(told)
    }
}
