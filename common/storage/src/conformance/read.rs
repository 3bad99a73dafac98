//! Reading whole objects, ranges and facts.

use super::{key, pattern, store};
use crate::{PutMode, Storage, StorageError, list_all};
use bytes::Bytes;

pub(super) async fn what_is_missing_is_not_found(storage: &dyn Storage) {
    store(storage, "missing/there", b"x").await;
    for name in ["missing/not", "missing/not/at/all", "missing", "missing/there/below"] {
        let got = storage.get(&key(name), 99).await;
        assert!(matches!(got, Err(StorageError::NotFound { .. })), "{name}: {got:?}");
        let got = storage.get_range(&key(name), 0..0).await;
        assert!(matches!(got, Err(StorageError::NotFound { .. })), "{name}: {got:?}");
        assert_eq!(storage.stat(&key(name)).await, Ok(None), "{name}");
    }
}

pub(super) async fn an_object_larger_than_allowed_is_refused(storage: &dyn Storage) {
    store(storage, "large/a", b"12345").await;
    let got = storage.get(&key("large/a"), 4).await;
    assert!(matches!(got, Err(StorageError::TooLarge { .. })), "{got:?}");
    assert_eq!(storage.get(&key("large/a"), 5).await, Ok(Bytes::from_static(b"12345")));
}

pub(super) async fn ranges_are_exact_or_an_error(storage: &dyn Storage) {
    store(storage, "range/a", b"0123456789").await;
    let wanted = key("range/a");
    for (range, expected) in [(0..10, "0123456789"), (3..5, "34"), (9..10, "9"), (4..4, ""), (10..10, "")] {
        let got = storage.get_range(&wanted, range.clone()).await;
        assert_eq!(got, Ok(Bytes::from_static(expected.as_bytes())), "{range:?}");
    }
    for range in [0..11, 9..11, 10..11, 50..60, 0..u64::MAX] {
        let got = storage.get_range(&wanted, range.clone()).await;
        assert!(matches!(got, Err(StorageError::Truncated { .. })), "{range:?}: {got:?}");
    }
}

pub(super) async fn an_empty_object_is_an_object(storage: &dyn Storage) {
    store(storage, "empty/a", b"").await;
    assert_eq!(storage.get(&key("empty/a"), 0).await, Ok(Bytes::new()));
    assert_eq!(storage.get_range(&key("empty/a"), 0..0).await, Ok(Bytes::new()));
    let info = storage.stat(&key("empty/a")).await.expect("stat").expect("it is there");
    assert_eq!((info.key, info.size), (key("empty/a"), 0));
    let again = storage.put(&key("empty/a"), PutMode::Create, Bytes::from_static(b"x")).await;
    assert!(matches!(again, Err(StorageError::AlreadyExists { .. })), "{again:?}");
}

pub(super) async fn a_large_object_comes_back_whole(storage: &dyn Storage) {
    const SIZE: usize = 20 << 20;
    let body = pattern(SIZE);
    let (streamed, whole) = (key("huge/streamed"), key("huge/whole"));
    let mut upload = storage.begin(&streamed, PutMode::Create).await.expect("begin");
    // Chunks that no part size of any store is a multiple of.
    let mut rest = body.clone();
    while !rest.is_empty() {
        let chunk = rest.split_to(rest.len().min(300_007));
        upload.write(chunk).await.expect("write");
    }
    upload.finish().await.expect("finish");
    storage.put(&whole, PutMode::Create, body.clone()).await.expect("put");
    for wanted in [&streamed, &whole] {
        let size = u64::try_from(SIZE).expect("20 MiB fit");
        let info = storage.stat(wanted).await.expect("stat").expect("it is there");
        assert_eq!(info.size, size);
        let got = storage.get(wanted, size).await.expect("get");
        assert!(got == body, "all bytes of '{wanted}' must come back");
        let middle = storage.get_range(wanted, 5_000_000..15_000_001).await.expect("range");
        assert!(middle == body.slice(5_000_000..15_000_001), "a range of '{wanted}' must be its bytes");
    }
}

pub(super) async fn odd_keys_are_kept_apart(storage: &dyn Storage) {
    let names = [
        "odd/a b",
        "odd/a+b",
        "odd/a%20b",
        "odd/a%2Fb",
        "odd/a=b&c",
        "odd/a?b",
        "odd/a#b",
        "odd/a'b\"c",
        "odd/a..b",
        "odd/~a",
        "odd/-a",
        "odd/*",
        "odd/A b",
        "odd/größe",
        "odd/日本",
        "odd/a:b;c,d@e!$()[]{}|<>^`",
    ];
    for name in names {
        let put = storage.put(&key(name), PutMode::Create, Bytes::from_static(name.as_bytes())).await;
        assert_eq!(put, Ok(()), "{name}");
    }
    for name in names {
        assert_eq!(storage.get(&key(name), 99).await, Ok(Bytes::from_static(name.as_bytes())), "{name}");
    }
    let listed = list_all(storage, Some(&key("odd"))).await.expect("list");
    let mut expected = names.map(key);
    expected.sort();
    assert_eq!(listed.into_iter().map(|info| info.key).collect::<Vec<_>>(), expected);
}
