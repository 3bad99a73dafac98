#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use super::*;
use crate::testing::{Answer, Server, store};
use azure_core::http::Url;
use pgconvoy_storage::{Storage, list_all};
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const BLOBS: usize = 50;

/// How a server may differ from the usual one.
#[derive(Debug, Clone, Copy, Default)]
struct Ways {
    ignores_start_from: bool,
    /// Between two pages it gives one that is empty and not the last.
    gives_empty_pages: bool,
}

/// Lists `p/k00` to `p/k49`. A marker is a number, with an `e` where an empty page comes first.
async fn lister(ways: Ways, refuses_markers: Arc<AtomicBool>) -> Server {
    Server::start(move |_, request| {
        let line = request.split(' ').nth(1).unwrap();
        let url: Url = format!("http://server{line}").parse().unwrap();
        let asked = |name: &str| {
            url.query_pairs().find(|(known, _)| known == name).map(|(_, value)| value.into_owned())
        };
        if refuses_markers.load(Ordering::SeqCst) && asked("marker").is_some() {
            return Answer::new("400 Bad\r\nx-ms-error-code: OutOfRangeInput", "");
        }
        let marker = asked("marker");
        let size: usize = asked("maxresults").unwrap().parse().unwrap();
        let is_empty =
            ways.gives_empty_pages && marker.as_ref().is_some_and(|marker| marker.starts_with('e'));
        let begin = match (&marker, asked("startFrom").filter(|_| !ways.ignores_start_from)) {
            (Some(marker), _) => marker.trim_start_matches('e').parse().unwrap(),
            (None, Some(name)) => (0..BLOBS).find(|number| name_of(*number) >= name).unwrap_or(BLOBS),
            (None, None) => 0,
        };
        let end = if is_empty { begin } else { BLOBS.min(begin + size) };
        let mut body = "<EnumerationResults><Blobs>".to_owned();
        for number in begin..end {
            let properties = "<Properties><Content-Length>1</Content-Length></Properties>";
            write!(body, "<Blob><Name>{}</Name>{properties}</Blob>", name_of(number)).unwrap();
        }
        let next = match end {
            end if is_empty => end.to_string(),
            // A server may not know that nothing follows.
            BLOBS if !ways.gives_empty_pages || begin == BLOBS => String::new(),
            end => format!("{}{end}", if ways.gives_empty_pages { "e" } else { "" }),
        };
        write!(body, "</Blobs><NextMarker>{next}</NextMarker></EnumerationResults>").unwrap();
        Answer::new("200 OK", &body)
    })
    .await
}

fn name_of(number: usize) -> String {
    format!("p/k{number:02}")
}

fn key(number: usize) -> ObjectKey {
    format!("k{number:02}").parse().unwrap()
}

/// A page behind a blob, as numbers, and whether more is promised.
async fn page_behind(store: &AzureStorage, number: usize, limit: usize) -> (Vec<usize>, bool) {
    let page = store.list(None, ListDepth::Recursive, Some(&key(number).into()), limit).await.unwrap();
    let numbers = page.objects.iter().map(|object| object.key.as_str()[1..].parse().unwrap()).collect();
    (numbers, page.more.is_some())
}

/// Page by page to the end; no page that was promised is empty.
async fn walk(store: &AzureStorage, limit: usize) -> Vec<ObjectKey> {
    let mut keys = Vec::new();
    let mut after = None;
    loop {
        let page = store.list(None, ListDepth::Recursive, after.as_ref(), limit).await.unwrap();
        assert!(!page.objects.is_empty() && page.objects.len() <= limit, "{page:?}");
        keys.extend(page.objects.into_iter().map(|object| object.key));
        match page.more {
            Some(more) => after = Some(more),
            None => return keys,
        }
    }
}

#[tokio::test]
async fn any_place_is_found_whether_or_not_the_server_can_begin_there() {
    for ignores_start_from in [false, true] {
        let server = lister(Ways { ignores_start_from, ..Ways::default() }, Arc::default()).await;
        let store = store(&server);
        for limit in [1, 7, 29, 30, 1000] {
            let (numbers, is_more) = page_behind(&store, 19, limit).await;
            let end = BLOBS.min(20 + limit);
            assert_eq!(numbers, (20..end).collect::<Vec<_>>(), "{limit}, {ignores_start_from}");
            assert_eq!(is_more, end < BLOBS, "{limit}, {ignores_start_from}");
        }
        assert_eq!(page_behind(&store, BLOBS - 1, 5).await, (vec![], false));
        assert!(server.seen().len() < 30, "{} requests", server.seen().len());
    }
}

#[tokio::test]
async fn a_walk_costs_a_request_a_page_and_one_to_look_whether_there_is_another() {
    let server = lister(Ways { ignores_start_from: true, ..Ways::default() }, Arc::default()).await;
    let keys = walk(&store(&server), 10).await;
    assert_eq!(keys, (0..BLOBS).map(key).collect::<Vec<_>>());
    assert_eq!(server.seen().len(), 9, "five pages, and a look behind each but the last");
}

#[tokio::test]
async fn empty_pages_in_between_are_neither_the_end_nor_a_page() {
    let server = lister(Ways { gives_empty_pages: true, ..Ways::default() }, Arc::default()).await;
    let store = store(&server);
    for limit in [1, 3, 25, 50, 51] {
        assert_eq!(walk(&store, limit).await, (0..BLOBS).map(key).collect::<Vec<_>>(), "{limit}");
    }
    assert_eq!(list_all(&store, None).await.unwrap().len(), BLOBS);
}

#[tokio::test]
async fn a_marker_that_is_not_taken_any_more_costs_a_request_and_nothing_else() {
    let refuses_markers = Arc::new(AtomicBool::new(false));
    let server = lister(Ways::default(), Arc::clone(&refuses_markers)).await;
    let store = store(&server);
    let first = store.list(None, ListDepth::Recursive, None, 10).await.unwrap();
    assert_eq!(first.more, Some(key(9).into()));
    refuses_markers.store(true, Ordering::SeqCst);
    // The rest fits one answer, so that no marker is needed.
    assert_eq!(page_behind(&store, 9, 40).await, ((10..BLOBS).collect(), false));
}
