//! Listings: Google's pages made into those of [`pgconvoy_storage::listing`].
//!
//! Google lists names in the order of their bytes, objects and prefixes of a page apart; both together are the order that is
//! wanted. A page is asked for from a place on (`startOffset`, which includes the place itself), not by a token that would have to
//! be kept between calls.

use crate::Inner;
use crate::resource::{Page, Resource};
use pgconvoy_storage::listing::Entry;
use pgconvoy_storage::{
    LIST_PAGE_MAX, ListAfter, ListDepth, ListPage, ObjectInfo, ObjectKey, Place, StorageError,
};
use std::time::SystemTime;

const FIELDS: &str = "items(name,size,timeCreated),prefixes,nextPageToken";

impl Inner {
    pub(crate) async fn list(
        &self,
        prefix: Option<&ObjectKey>,
        depth: ListDepth,
        after: Option<&ListAfter>,
        limit: usize,
    ) -> Result<ListPage, StorageError> {
        let limit = limit.clamp(1, LIST_PAGE_MAX);
        // The place itself may come once more.
        let page_max = (limit + usize::from(after.is_some())).min(LIST_PAGE_MAX).to_string();
        let (below, start) = (self.root.below(prefix), after.map(|after| self.offset(after)));
        let at = self.place(prefix);
        let mut entries: Vec<Entry> = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let call = self.api.listing(&at).query("fields", FIELDS).query("maxResults", &page_max);
            let call = [
                ("prefix", Some(below.as_str()).filter(|below| !below.is_empty())),
                ("delimiter", Some("/").filter(|_| depth == ListDepth::Children)),
                ("startOffset", start.as_deref()),
                ("pageToken", token.as_deref()),
            ]
            .into_iter()
            .fold(call, |call, (name, value)| match value {
                Some(value) => call.query(name, value),
                None => call,
            });
            let page: Page = self.api.ask(call).await?;
            entries.extend(self.entries(page.items, page.prefixes, after));
            token = page.next_page_token.filter(|token| !token.is_empty());
            // What is not the repository's can fill whole pages.
            if token.is_none() || !entries.is_empty() {
                break;
            }
        }
        entries.sort_by(Entry::order);
        let is_cut = entries.len() > limit;
        entries.truncate(limit);
        Ok(ListPage::of(entries, is_cut || token.is_some()))
    }

    fn entries(&self, items: Vec<Resource>, prefixes: Vec<String>, after: Option<&ListAfter>) -> Vec<Entry> {
        let objects = items.into_iter().filter_map(|item| {
            let (key, modified) = (self.root.key(&item.name)?, item.created());
            Some(Entry::Object(ObjectInfo { key, size: item.size, modified, etag: None }))
        });
        let prefixes = prefixes
            .into_iter()
            .filter_map(|name| Some(Entry::Prefix(self.root.key(name.strip_suffix('/')?)?)));
        objects.chain(prefixes).filter(|entry| entry.is_after(after)).collect()
    }

    /// The first name that may come after the place.
    fn offset(&self, after: &ListAfter) -> String {
        match after {
            ListAfter::Object(key) => self.root.name(key),
            // What lies under it ends before this: `0` is the character after the slash.
            ListAfter::Prefix(key) => format!("{}0", self.root.name(key)),
        }
    }

    /// Names and ages of everything that begins so, with the store's clock; one call for each thousand.
    pub(crate) async fn walk(
        &self,
        begin: &str,
        at: &Place,
    ) -> Result<(Vec<Resource>, SystemTime), StorageError> {
        let mut found = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let call = self.api.listing(at).query("prefix", begin);
            let call = call.query("fields", "items(name,generation,timeCreated),nextPageToken");
            let call = match &token {
                Some(token) => call.query("pageToken", token),
                None => call,
            };
            let (page, now): (Page, _) = self.api.ask_dated(call).await?;
            found.extend(page.items);
            token = page.next_page_token.filter(|token| !token.is_empty());
            if token.is_none() {
                return Ok((found, now.unwrap_or_else(SystemTime::now)));
            }
        }
    }
}
