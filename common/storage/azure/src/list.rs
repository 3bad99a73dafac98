//! Listing, page by page.
//!
//! Azure goes on behind a page by a *marker*, which is its own word and says nothing to anybody else. A walk asks for the
//! next page by the last entry that it saw, so the markers of the latest pages are kept here: the usual next page costs
//! what it should. Any other place is asked for by `startFrom`, which newer versions of the service know.
//!
//! Invariants
//! 1. What comes is compared with the place that was asked for. A server that does not know `startFrom` lists from the
//!    beginning, and what comes before the place is skipped: slower, never wrong.
//! 2. A page says that there is more only when one more entry was seen: Azure's pages may be empty and not the last.
//! 3. A marker that the server does not take any more is no error: the place is asked for again without it.

pub(crate) mod page;

use crate::AzureStorage;
use crate::door::Delimited;
use azure_core::http::Context;
use azure_storage_blob::models::BlobContainerClientListBlobsOptions;
use futures::StreamExt as _;
use page::RawPage;
use pgconvoy_storage::listing::Entry;
use pgconvoy_storage::{IoAction, LIST_PAGE_MAX, ListAfter, ListDepth, ListPage, ObjectKey, StorageError};
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// Walks that are under way at a time, with room; a marker that was pushed out costs a `startFrom`.
const MARKERS_MAX: usize = 256;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Spot {
    prefix: Option<ObjectKey>,
    depth: ListDepth,
    after: ListAfter,
}

/// The markers of the latest pages, by what those pages ended with.
#[derive(Debug, Default)]
pub(crate) struct Markers(Mutex<VecDeque<(Spot, String)>>);

impl Markers {
    fn keep(&self, spot: Spot, marker: String) {
        let mut kept = self.lock();
        kept.retain(|(known, _)| *known != spot);
        kept.push_back((spot, marker));
        while kept.len() > MARKERS_MAX {
            kept.pop_front();
        }
    }

    fn find(&self, spot: &Spot) -> Option<String> {
        self.lock().iter().find(|(known, _)| known == spot).map(|(_, marker)| marker.clone())
    }

    fn forget(&self, spot: &Spot) {
        self.lock().retain(|(known, _)| known != spot);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<(Spot, String)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a request begins.
#[derive(Debug, Clone)]
enum From {
    Beginning,
    Marker(String),
    Name(String),
}

/// One listing of one call.
struct Walk<'a> {
    store: &'a AzureStorage,
    prefix: Option<&'a ObjectKey>,
    depth: ListDepth,
    /// What the names of blobs begin with.
    names: String,
}

impl AzureStorage {
    pub(crate) async fn list_page(
        &self,
        prefix: Option<&ObjectKey>,
        depth: ListDepth,
        after: Option<&ListAfter>,
        limit: usize,
    ) -> Result<ListPage, StorageError> {
        let names = match prefix {
            Some(prefix) => format!("{}{prefix}/", self.root()),
            None => self.root(),
        };
        let walk = Walk { store: self, prefix, depth, names };
        let limit = limit.clamp(1, LIST_PAGE_MAX);
        let Some(after) = after else { return walk.page(From::Beginning, None, limit).await };
        let spot = walk.spot(after.clone());
        if let Some(marker) = self.0.markers.find(&spot) {
            match walk.page(From::Marker(marker), Some(after), limit).await {
                Err(StorageError::Refused { .. } | StorageError::NotSupported { .. }) => {
                    self.0.markers.forget(&spot);
                }
                answer => return answer,
            }
        }
        let name = self.start_from(after);
        let from = if name > walk.names { From::Name(name) } else { From::Beginning };
        walk.page(from, Some(after), limit).await
    }

    /// What the names of all blobs of the store begin with.
    pub(crate) fn root(&self) -> String {
        self.0.root.as_ref().map_or(String::new(), |root| format!("{root}/"))
    }

    /// The first name that may come behind a place; `0` is the character behind `/`.
    fn start_from(&self, after: &ListAfter) -> String {
        match after {
            ListAfter::Object(key) => format!("{}{key}", self.root()),
            ListAfter::Prefix(key) => format!("{}{key}0", self.root()),
        }
    }
}

impl Walk<'_> {
    fn spot(&self, after: ListAfter) -> Spot {
        Spot { prefix: self.prefix.cloned(), depth: self.depth, after }
    }

    async fn page(
        &self,
        from: From,
        after: Option<&ListAfter>,
        limit: usize,
    ) -> Result<ListPage, StorageError> {
        let mut found: Vec<Entry> = Vec::new();
        let mut from = from;
        // Entries in a row that lie before the place. One may be the place itself, more are a server's that begins elsewhere.
        let mut skipped = 0;
        loop {
            let place_itself = usize::from(matches!(from, From::Name(_)));
            let size = if skipped > 1 { LIST_PAGE_MAX } else { limit - found.len() + place_itself };
            let raw = self.request(from, size).await?;
            let came = raw.entries.len();
            let before = found.len();
            found.extend(raw.entries.into_iter().filter(|entry| entry.is_after(after)));
            skipped = if found.len() > before { 0 } else { skipped + came };
            let is_cut = found.len() > limit;
            found.truncate(limit);
            let Some(marker) = raw.marker else {
                return Ok(ListPage::of(found, is_cut));
            };
            if found.len() == limit {
                let is_more = is_cut || self.has_more(marker.clone()).await?;
                let page = ListPage::of(found, is_more);
                if let (Some(last), false) = (&page.more, is_cut) {
                    self.store.0.markers.keep(self.spot(last.clone()), marker);
                }
                return Ok(page);
            }
            from = From::Marker(marker);
        }
    }

    /// Whether anything at all comes behind a marker.
    async fn has_more(&self, marker: String) -> Result<bool, StorageError> {
        let mut marker = marker;
        loop {
            let raw = self.request(From::Marker(marker), 1).await?;
            match raw {
                RawPage { entries, .. } if !entries.is_empty() => return Ok(true),
                RawPage { marker: Some(next), .. } => marker = next,
                RawPage { marker: None, .. } => return Ok(false),
            }
        }
    }

    /// One request: its entries in the order of listings.
    async fn request(&self, from: From, size: usize) -> Result<RawPage, StorageError> {
        let mut options = BlobContainerClientListBlobsOptions {
            prefix: Some(self.names.clone()).filter(|names| !names.is_empty()),
            maxresults: Some(i32::try_from(size).unwrap_or(i32::MAX)),
            ..BlobContainerClientListBlobsOptions::default()
        };
        match from {
            From::Beginning => {}
            From::Marker(marker) => options.marker = Some(marker),
            From::Name(name) => options.start_from = Some(name),
        }
        if self.depth == ListDepth::Children {
            options.method_options.context = Context::new().with_value(Delimited);
        }
        let request = async {
            let mut pages = self.store.0.container.list_blobs(Some(options))?.into_pages();
            pages.next().await.transpose()
        };
        let answer = self.store.ask(self.prefix, IoAction::List, Box::pin(request)).await?;
        let Some(answer) = answer else { return Ok(RawPage::default()) };
        let body = answer.into_body();
        RawPage::parse(body.as_ref(), &self.store.root()).map_err(|reason| StorageError::NotSupported {
            at: self.store.place(self.prefix),
            reason: format!("the answer is no listing: {reason}"),
        })
    }
}

#[cfg(test)]
mod tests;
