//! Fetches a pack's windows one ahead of the slot, so that the store and the processor work at once.

use super::super::origin::Origin;
use super::blocks::Window;
use bytes::BytesMut;
use pgconvoy_repository::RepositoryError;
use pgconvoy_repository::object::ObjectReader;
use std::sync::Arc;
use std::time::Instant;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

type Fetching = JoinHandle<Result<BytesMut, RepositoryError>>;

pub(super) struct Fetcher<'a> {
    runtime: &'a Handle,
    origin: Arc<Origin>,
    objects: &'a [Arc<ObjectReader>],
    windows: std::slice::Iter<'a, Window>,
    ahead: Option<(&'a Window, Fetching)>,
}

impl<'a> Fetcher<'a> {
    pub(super) fn new(
        runtime: &'a Handle,
        origin: &Arc<Origin>,
        objects: &'a [Arc<ObjectReader>],
        windows: &'a [Window],
    ) -> Self {
        let mut fetcher =
            Fetcher { runtime, origin: origin.clone(), objects, windows: windows.iter(), ahead: None };
        fetcher.begin_next();
        fetcher
    }

    /// The next window, on its way; the one after it is asked for.
    pub(super) fn next(&mut self) -> Option<(&'a Window, Fetching)> {
        let next = self.ahead.take();
        if next.is_some() {
            self.begin_next();
        }
        next
    }

    /// The window that is on its way, if any, and those behind it.
    pub(super) fn rest(mut self) -> impl Iterator<Item = &'a Window> {
        let ahead = self.ahead.take().map(|(window, fetching)| {
            fetching.abort();
            window
        });
        let behind = self.windows.clone();
        ahead.into_iter().chain(behind)
    }

    fn begin_next(&mut self) {
        self.ahead = self.windows.next().map(|window| {
            let (object, origin) = (self.objects[window.object].clone(), self.origin.clone());
            let frames = window.frames.clone();
            let fetching = self.runtime.spawn(async move {
                let begin = Instant::now();
                let bytes = object.fetch(origin.repository(), frames).await?;
                if !object.is_whole() {
                    origin.gave(bytes.len() as u64, begin.elapsed());
                }
                Ok(bytes.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..])))
            });
            (window, fetching)
        });
    }
}

impl Drop for Fetcher<'_> {
    fn drop(&mut self) {
        if let Some((_, fetching)) = self.ahead.take() {
            fetching.abort();
        }
    }
}
