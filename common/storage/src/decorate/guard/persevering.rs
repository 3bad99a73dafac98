//! Work that goes on to its end when nobody waits for it any more.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::runtime::Handle;

/// Runs in the task that waits for it, with that task's clock; dropped half way, in one of its own.
pub(super) struct Persevering<T: Send + 'static>(Option<Pin<Box<dyn Future<Output = T> + Send>>>);

impl<T: Send + 'static> Persevering<T> {
    pub(super) fn new(work: impl Future<Output = T> + Send + 'static) -> Self {
        Persevering(Some(Box::pin(work)))
    }
}

impl<T: Send + 'static> Future for Persevering<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let work = self.0.as_mut().expect("nobody polls what has ended");
        let polled = work.as_mut().poll(context);
        if polled.is_ready() {
            self.0 = None;
        }
        polled
    }
}

impl<T: Send + 'static> Drop for Persevering<T> {
    fn drop(&mut self) {
        if let (Some(work), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            runtime.spawn(work);
        }
    }
}
