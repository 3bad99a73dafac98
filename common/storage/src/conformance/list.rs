//! Listings: order, pages, prefixes.

use super::{key, store};
use crate::{ListAfter, ListDepth, ListPage, ObjectInfo, ObjectKey, Storage, list_all, list_children};

/// In the order of keys: `-` and `.` sort before `/`, digits after.
const NAMES: [&str; 9] = [
    "list/a-b",
    "list/a.b/c",
    "list/a/b",
    "list/a/c/d",
    "list/a/c0",
    "list/a0",
    "list/b",
    "list/c/d/e",
    "list/d",
];

/// The children of `list`, a prefix being marked by its slash.
const CHILDREN: [&str; 7] = ["list/a-b", "list/a.b/", "list/a/", "list/a0", "list/b", "list/c/", "list/d"];

async fn fill(storage: &dyn Storage) {
    for name in NAMES.iter().rev() {
        store(storage, name, name.as_bytes()).await;
    }
    // What must stay out of every listing below `list`.
    store(storage, "list-", b"x").await;
    store(storage, "list0/a", b"x").await;
}

fn keys(page: &ListPage) -> Vec<&str> {
    page.objects.iter().map(|object| object.key.as_str()).collect()
}

/// Objects and prefixes of a page as one sequence.
fn entries(page: &ListPage) -> Vec<String> {
    let prefixes = page.prefixes.iter().map(|prefix| format!("{prefix}/"));
    let mut entries: Vec<String> = page.objects.iter().map(|o| o.key.to_string()).chain(prefixes).collect();
    entries.sort();
    entries
}

async fn page(storage: &dyn Storage, depth: ListDepth, after: Option<&ListAfter>, limit: usize) -> ListPage {
    storage.list(Some(&key("list")), depth, after, limit).await.expect("list")
}

pub(super) async fn a_recursive_listing_is_in_the_order_of_keys(storage: &dyn Storage) {
    fill(storage).await;
    let whole = page(storage, ListDepth::Recursive, None, usize::MAX).await;
    assert_eq!(keys(&whole), NAMES);
    assert_eq!((whole.prefixes, whole.more), (vec![], None));
    for object in whole.objects {
        assert_eq!(usize::try_from(object.size), Ok(object.key.as_str().len()));
        let told =
            storage.stat(&object.key).await.map(|told| told.map(|told| ObjectInfo { etag: None, ..told }));
        assert_eq!(told, Ok(Some(object)), "a listing and a stat must agree");
    }
}

pub(super) async fn children_are_objects_and_prefixes_in_the_order_of_listings(storage: &dyn Storage) {
    fill(storage).await;
    let whole = page(storage, ListDepth::Children, None, usize::MAX).await;
    assert_eq!(keys(&whole), ["list/a-b", "list/a0", "list/b", "list/d"]);
    assert_eq!(whole.prefixes, ["list/a.b", "list/a", "list/c"].map(key));
    assert_eq!(whole.more, None);
    let sorted = list_children(storage, Some(&key("list"))).await.expect("list");
    assert_eq!(sorted.prefixes, ["list/a", "list/a.b", "list/c"].map(key));
}

pub(super) async fn pages_of_any_size_give_the_same_listing(storage: &dyn Storage) {
    fill(storage).await;
    let expected = [(ListDepth::Recursive, &NAMES[..]), (ListDepth::Children, &CHILDREN[..])];
    for (depth, expected) in expected {
        for limit in 1..=expected.len() + 1 {
            let mut listed = Vec::new();
            let mut after = None;
            loop {
                let page = page(storage, depth, after.as_ref(), limit).await;
                let entries = entries(&page);
                assert!(entries.len() <= limit, "{entries:?} are more than {limit}");
                assert!(!entries.is_empty(), "no page that was promised may be empty");
                listed.extend(entries);
                match page.more {
                    Some(more) => after = Some(more),
                    None => break,
                }
            }
            assert_eq!(listed, expected, "{depth:?} in pages of {limit}");
        }
    }
}

pub(super) async fn a_listing_starts_after_any_place(storage: &dyn Storage) {
    fill(storage).await;
    let object = |name| ListAfter::Object(key(name));
    let prefix = |name| ListAfter::Prefix(key(name));
    let recursive = [
        (object("list/a/b"), &NAMES[3..]),
        (object("list/a/bb"), &NAMES[3..]),
        (object("list/0"), &NAMES[..]),
        (object("list/a/c/d/x"), &NAMES[4..]),
        (object("list/d"), &[]),
        (prefix("list/a"), &NAMES[5..]),
        (prefix("list/a/c"), &NAMES[4..]),
        (prefix("list/c"), &NAMES[8..]),
    ];
    for (after, expected) in recursive {
        assert_eq!(keys(&page(storage, ListDepth::Recursive, Some(&after), 99).await), expected, "{after:?}");
    }
    let children = [
        (object("list/a-b"), &CHILDREN[1..]),
        (object("list/a"), &CHILDREN[..]),
        (prefix("list/a"), &CHILDREN[3..]),
        (prefix("list/z"), &[]),
    ];
    for (after, expected) in children {
        assert_eq!(
            entries(&page(storage, ListDepth::Children, Some(&after), 99).await),
            expected,
            "{after:?}"
        );
    }
}

pub(super) async fn a_prefix_is_a_whole_key(storage: &dyn Storage) {
    fill(storage).await;
    for nothing in ["li", "list/b", "list/zzz", "list/a/b/c"] {
        assert_eq!(list_all(storage, Some(&key(nothing))).await, Ok(vec![]), "{nothing}");
        assert_eq!(list_children(storage, Some(&key(nothing))).await, Ok(ListPage::default()), "{nothing}");
    }
    let names = |prefix: Option<ObjectKey>| async move {
        let listed = list_all(storage, prefix.as_ref()).await.expect("list");
        listed.into_iter().map(|object| object.key.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names(Some(key("list/a/c"))).await, ["list/a/c/d"]);
    let everything = names(None).await;
    assert!(everything.is_sorted());
    assert!(["list-", "list/a-b", "list0/a"].iter().all(|name| everything.contains(&(*name).to_owned())));
}

pub(super) async fn what_was_deleted_is_not_listed(storage: &dyn Storage) {
    fill(storage).await;
    storage.delete(&key("list/c/d/e")).await.expect("delete");
    let children = list_children(storage, Some(&key("list"))).await.expect("list");
    assert_eq!(
        children.prefixes,
        ["list/a", "list/a.b"].map(key),
        "a prefix is there while something is under it"
    );
    assert_eq!(list_all(storage, Some(&key("list/c"))).await, Ok(vec![]));
}
