//! Fetches a pack's windows ahead of the slot, so that the store and the processor work at once.

use super::super::origin::Origin;
use super::blocks::Window;
use bytes::BytesMut;
use pgconvoy_repository::RepositoryError;
use pgconvoy_repository::object::ObjectReader;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// Windows on their way beside the one that the slot has. With one alone a line is empty from the last byte of a window to the first
/// of the next, wherever a store answers more than one question before it gives bytes.
const AHEAD: usize = 2;

type Fetching = JoinHandle<Result<BytesMut, RepositoryError>>;

pub(super) struct Fetcher<'a> {
    runtime: &'a Handle,
    origin: Arc<Origin>,
    objects: &'a [Arc<ObjectReader>],
    windows: std::slice::Iter<'a, Window>,
    ahead: VecDeque<(&'a Window, Fetching)>,
}

impl<'a> Fetcher<'a> {
    pub(super) fn new(
        runtime: &'a Handle,
        origin: &Arc<Origin>,
        objects: &'a [Arc<ObjectReader>],
        windows: &'a [Window],
    ) -> Self {
        let (windows, ahead) = (windows.iter(), VecDeque::with_capacity(AHEAD));
        let mut fetcher = Fetcher { runtime, origin: origin.clone(), objects, windows, ahead };
        fetcher.fill();
        fetcher
    }

    /// The next window, on its way; those after it are asked for.
    pub(super) fn next(&mut self) -> Option<(&'a Window, Fetching)> {
        let next = self.ahead.pop_front();
        self.fill();
        next
    }

    /// The windows that are on their way, if any, and those behind them.
    pub(super) fn rest(mut self) -> impl Iterator<Item = &'a Window> {
        let ahead: Vec<&Window> = std::mem::take(&mut self.ahead).into_iter().map(given_up).collect();
        let behind = self.windows.clone();
        ahead.into_iter().chain(behind)
    }

    fn fill(&mut self) {
        while self.ahead.len() < AHEAD
            && let Some(window) = self.windows.next()
        {
            let fetching = self.begin(window);
            self.ahead.push_back((window, fetching));
        }
    }

    fn begin(&self, window: &Window) -> Fetching {
        let (object, origin) = (self.objects[window.object].clone(), self.origin.clone());
        let frames = window.frames.clone();
        self.runtime.spawn(async move {
            let begin = Instant::now();
            let bytes = object.fetch(origin.repository(), frames).await?;
            if !object.is_whole() {
                origin.gave(bytes.len() as u64, begin.elapsed());
            }
            Ok(bytes.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..])))
        })
    }
}

fn given_up((window, fetching): (&Window, Fetching)) -> &Window {
    fetching.abort();
    window
}

impl Drop for Fetcher<'_> {
    fn drop(&mut self) {
        self.ahead.drain(..).map(given_up).for_each(drop);
    }
}
