//! What every store must do, whatever it is made of. It panics at the first thing a store does wrong.
//!
//! Each check gets a store of its own from `make`, which must be empty: checks share the keys they use, and one lists
//! everything. On a real server that is a fresh prefix of a bucket for each call of `make`.

mod copy;
mod list;
mod put;
mod read;

use crate::{ObjectKey, PutMode, Storage};
use bytes::Bytes;
use std::sync::Arc;

/// Runs all checks, one after the other.
pub async fn suite<F: AsyncFn() -> Arc<dyn Storage>>(make: F) {
    put::one_of_many_creators_wins(make().await).await;
    put::a_create_refuses_what_exists_and_leaves_it_alone(&*make().await).await;
    put::an_overwrite_replaces_the_whole_object(&*make().await).await;
    put::an_upload_is_invisible_until_it_finishes(&*make().await).await;
    put::an_upload_that_must_create_loses_to_a_put_in_between(&*make().await).await;
    put::a_dropped_or_aborted_upload_leaves_nothing(&*make().await).await;
    put::an_upload_without_chunks_is_an_empty_object(&*make().await).await;
    put::a_delete_is_idempotent_and_frees_the_key(&*make().await).await;
    put::many_deletes_leave_what_they_do_not_name(&*make().await).await;
    put::the_proof_of_create_only_holds(&*make().await).await;
    read::what_is_missing_is_not_found(&*make().await).await;
    read::an_object_larger_than_allowed_is_refused(&*make().await).await;
    read::ranges_are_exact_or_an_error(&*make().await).await;
    read::an_empty_object_is_an_object(&*make().await).await;
    read::a_large_object_comes_back_whole(&*make().await).await;
    read::odd_keys_are_kept_apart(&*make().await).await;
    list::a_recursive_listing_is_in_the_order_of_keys(&*make().await).await;
    list::children_are_objects_and_prefixes_in_the_order_of_listings(&*make().await).await;
    list::pages_of_any_size_give_the_same_listing(&*make().await).await;
    list::a_listing_starts_after_any_place(&*make().await).await;
    list::a_prefix_is_a_whole_key(&*make().await).await;
    list::what_was_deleted_is_not_listed(&*make().await).await;
}

/// Runs all checks of copies that a store makes by itself, within one store that can be told so.
pub async fn copies<F: AsyncFn() -> Arc<dyn Storage>>(make: F) {
    copy::a_copy_is_the_object_and_nothing_is_left_of_making_it(&*make().await).await;
    copy::a_copy_never_replaces(&*make().await).await;
    copy::what_has_changed_since_it_was_looked_at_is_not_copied(&*make().await).await;
    copy::what_is_not_there_any_more_is_not_copied(&*make().await).await;
    copy::objects_of_odd_keys_are_copied(&*make().await).await;
    copy::what_was_only_listed_is_not_copied(&*make().await).await;
    copy::nothing_is_copied_from_a_store_of_another_kind(&*make().await).await;
}

fn key(text: &str) -> ObjectKey {
    text.parse().expect("the suite's keys are valid")
}

async fn store(storage: &dyn Storage, name: &str, body: &'static [u8]) {
    let stored = storage.put(&key(name), PutMode::Create, Bytes::from_static(body)).await;
    stored.unwrap_or_else(|error| panic!("unable to store '{name}': {error}"));
}

/// Bytes that repeat at no power of two.
fn pattern(length: usize) -> Bytes {
    (0..=250u8).cycle().take(length).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryStorage;
    use crate::bandwidth::Bandwidth;
    use crate::decorate::fault::FaultStorage;
    use crate::decorate::hedge::HedgeStorage;
    use crate::decorate::limit::LimitStorage;
    use crate::decorate::metrics::MetricsStorage;
    use crate::decorate::retry::{RetryPolicy, RetryStorage};
    use std::time::Duration;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn memory_is_a_store() {
        suite(async || Arc::new(MemoryStorage::new()) as Arc<dyn Storage>).await;
    }

    #[tokio::test]
    async fn memory_copies_by_itself() {
        copies(async || Arc::new(MemoryStorage::new()) as Arc<dyn Storage>).await;
    }

    #[tokio::test]
    async fn decorators_pass_on_what_a_store_copies_by_itself_and_count_it_apart() {
        copies(async || {
            let (counted, _) = MetricsStorage::new(Arc::new(MemoryStorage::new()));
            let (faulty, _) = FaultStorage::new(Arc::new(HedgeStorage::new(Arc::new(counted))));
            let retried = RetryStorage::new(Arc::new(faulty), RetryPolicy::default());
            Arc::new(LimitStorage::new(Arc::new(retried), Arc::new(Bandwidth::of(None)))) as Arc<dyn Storage>
        })
        .await;
        let (memory, body) = (MemoryStorage::new(), pattern(5000));
        memory.put(&key("from"), PutMode::Create, body).await.expect("put");
        let object = memory.stat(&key("from")).await.expect("stat").expect("it is there");
        let (counted, counters) = MetricsStorage::new(Arc::new(memory.beside()));
        // So slow that a byte which came by here would take its time.
        let limited = LimitStorage::new(Arc::new(counted), Arc::new(Bandwidth::new(1)));
        let origin = memory.origin().expect("a store that copies");
        let copied = tokio::time::timeout(PATIENCE, limited.copy(origin, &object, &key("to"))).await;
        assert_eq!(copied, Ok(Ok(())));
        let seen = counters.snapshot();
        assert_eq!((seen.copies, seen.bytes_copied, seen.bytes_written, seen.bytes_read), (1, 5000, 0, 0));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn decorators_without_anything_to_do_are_stores() {
        suite(async || {
            let (counted, _) = MetricsStorage::new(Arc::new(MemoryStorage::new()));
            let (faulty, _) = FaultStorage::new(Arc::new(counted));
            Arc::new(RetryStorage::new(Arc::new(faulty), RetryPolicy::default())) as Arc<dyn Storage>
        })
        .await;
    }
}
