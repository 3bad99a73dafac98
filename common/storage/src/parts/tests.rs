#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use super::*;
use crate::pace::Pace;
use crate::{Features, ListAfter, ListDepth, ListPage, MemoryStorage, ObjectInfo};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Mutex;
use std::time::Duration;

const LIMITS: PartLimits = PartLimits {
    bytes: 10,
    in_flight_max: 3,
    parts_max: 100,
    retry: RetryPolicy {
        attempts_max: 4,
        backoff_first: Duration::from_millis(100),
        backoff_max: Duration::from_secs(1),
        deadline: Duration::from_secs(30),
        attempt_timeout: Some(Duration::from_secs(5)),
    },
};

/// Objects in memory, parts beside them; some requests fail or lose their answer.
#[derive(Debug, Clone)]
struct Parts {
    limits: PartLimits,
    line: Option<Arc<Line>>,
    objects: MemoryStorage,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    begun: u32,
    /// Begun by requests whose answer was lost.
    strays: u32,
    loses_answers_of_beginnings: u32,
    /// By upload and number.
    parts: BTreeMap<(u32, u32), Bytes>,
    /// Which upload an object was joined by.
    joined: BTreeMap<String, u32>,
    running: usize,
    running_most: usize,
    /// How many of the next parts fail before they are stored.
    failures: u32,
    loses_answer_of_join: bool,
    /// As servers that know the condition for puts only.
    joins_over_objects: bool,
    /// As servers that know the condition for puts only, and say so.
    refuses_condition_of_joins: bool,
    discarded: u32,
}

/// A line that carries one part in four seconds, and several in turns; and who paces it.
#[derive(Debug)]
struct Line {
    pace: Pace,
    wire: Semaphore,
}

impl Line {
    async fn carry(&self) -> Result<(), StorageError> {
        for _ in 0..40 {
            let _turn = self.wire.acquire().await.unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }
}

#[derive(Debug)]
struct Ticket {
    number: u32,
    key: ObjectKey,
    mode: PutMode,
}

impl Default for Parts {
    fn default() -> Parts {
        Parts { limits: LIMITS, line: None, objects: MemoryStorage::new(), state: Arc::default() }
    }
}

impl Parts {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn upload(&self, name: &str, mode: PutMode) -> Box<PartedUpload<Parts>> {
        Box::new(PartedUpload::new(self.clone(), &key(name), mode, self.limits, &PartSlots::for_slots(4)))
    }

    fn unavailable(&self) -> StorageError {
        StorageError::Unavailable { at: Place::new("parts", None), reason: "on order".to_owned() }
    }
}

#[async_trait]
impl PartStore for Parts {
    type Ticket = Ticket;
    type Part = u32;

    async fn begin_parts(&self, key: &ObjectKey, mode: PutMode) -> Result<Ticket, StorageError> {
        let mut state = self.state();
        state.begun += 1;
        if state.loses_answers_of_beginnings > 0 {
            state.loses_answers_of_beginnings -= 1;
            state.strays += 1;
            return Err(self.unavailable());
        }
        Ok(Ticket { number: state.begun, key: key.clone(), mode })
    }

    async fn put_part(&self, ticket: &Ticket, number: u32, body: Bytes) -> Result<u32, StorageError> {
        {
            let mut state = self.state();
            state.running += 1;
            state.running_most = state.running_most.max(state.running);
        }
        // A request takes its time, on the paused clock.
        match &self.line {
            Some(line) => line.pace.run(line.carry()).await?,
            None => tokio::time::sleep(Duration::from_millis(50)).await,
        }
        let mut state = self.state();
        state.running -= 1;
        if state.failures > 0 {
            state.failures -= 1;
            return Err(self.unavailable());
        }
        state.parts.insert((ticket.number, number), body);
        Ok(number)
    }

    async fn join_parts(&self, ticket: &Ticket, parts: &[u32]) -> Result<(), StorageError> {
        let body: Vec<u8> = {
            let state = self.state();
            let stored = parts.iter().map(|number| state.parts.get(&(ticket.number, *number)));
            let Some(stored) = stored.collect::<Option<Vec<_>>>() else {
                return Err(StorageError::NotFound { at: Place::new("parts", Some(&ticket.key)) });
            };
            stored.into_iter().flatten().copied().collect()
        };
        if self.state().refuses_condition_of_joins && ticket.mode == PutMode::Create {
            let (at, reason) = (Place::new("parts", Some(&ticket.key)), "no conditions".to_owned());
            return Err(StorageError::NotSupported { at, reason });
        }
        let mode = if self.state().joins_over_objects { PutMode::Overwrite } else { ticket.mode };
        self.objects.put(&ticket.key, mode, body.into()).await?;
        let mut state = self.state();
        state.parts.retain(|(upload, _), _| *upload != ticket.number);
        state.joined.insert(ticket.key.to_string(), ticket.number);
        if std::mem::take(&mut state.loses_answer_of_join) { Err(self.unavailable()) } else { Ok(()) }
    }

    async fn is_joined(&self, ticket: &Ticket) -> Result<bool, StorageError> {
        Ok(self.state().joined.get(ticket.key.as_str()) == Some(&ticket.number))
    }

    async fn discard_parts(&self, ticket: &Ticket) {
        let mut state = self.state();
        state.parts.retain(|(upload, _), _| *upload != ticket.number);
        state.discarded += 1;
    }

    async fn discard_strays(&self, _key: &ObjectKey) {
        self.state().strays = 0;
    }
}

#[async_trait]
impl Storage for Parts {
    fn describe(&self) -> String {
        "parts".to_owned()
    }
    fn features(&self) -> Features {
        self.objects.features().with_joins_from(joined_from(self.limits.bytes))
    }
    async fn put(&self, key: &ObjectKey, mode: PutMode, body: Bytes) -> Result<(), StorageError> {
        self.objects.put(key, mode, body).await
    }
    async fn begin(&self, key: &ObjectKey, mode: PutMode) -> Result<Box<dyn Upload>, StorageError> {
        Ok(self.upload(key.as_str(), mode))
    }
    async fn get(&self, key: &ObjectKey, size_max: u64) -> Result<Bytes, StorageError> {
        self.objects.get(key, size_max).await
    }
    async fn get_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes, StorageError> {
        self.objects.get_range(key, range).await
    }
    async fn stat(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>, StorageError> {
        self.objects.stat(key).await
    }
    async fn list(
        &self,
        prefix: Option<&ObjectKey>,
        depth: ListDepth,
        after: Option<&ListAfter>,
        limit: usize,
    ) -> Result<ListPage, StorageError> {
        self.objects.list(prefix, depth, after, limit).await
    }
    async fn delete(&self, key: &ObjectKey) -> Result<(), StorageError> {
        self.objects.delete(key).await
    }
}

fn key(name: &str) -> ObjectKey {
    name.parse().unwrap()
}

fn pattern(bytes: u8) -> Bytes {
    (0..bytes).collect()
}

async fn body_of(store: &Parts, name: &str) -> Bytes {
    store.get(&key(name), 1 << 20).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn uploads_in_parts_are_a_store() {
    let limits = PartLimits { bytes: 64 << 10, parts_max: 10_000, ..LIMITS };
    crate::conformance::suite(async || Arc::new(Parts { limits, ..Parts::default() }) as Arc<dyn Storage>)
        .await;
}

#[tokio::test(start_paused = true)]
async fn an_object_of_any_length_and_chunks_of_any_size_come_back_as_written() {
    for length in [0u8, 1, 9, 10, 11, 20, 21, 95] {
        for chunk in [1usize, 3, 10, 25, 100] {
            let store = Parts::default();
            let mut upload = store.upload("a", PutMode::Create);
            for piece in pattern(length).chunks(chunk) {
                upload.write(Bytes::copy_from_slice(piece)).await.unwrap();
            }
            upload.finish().await.unwrap();
            assert_eq!(body_of(&store, "a").await, pattern(length), "{length} bytes by {chunk}");
            assert_eq!(store.state().begun, u32::from(length > 10), "one part alone is a plain put");
            assert!(store.state().parts.is_empty());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn several_parts_are_under_way_but_no_more_than_allowed() {
    let store = Parts::default();
    let mut upload = store.upload("a", PutMode::Create);
    upload.write(pattern(200)).await.unwrap();
    upload.finish().await.unwrap();
    assert_eq!(store.state().running_most, LIMITS.in_flight_max);
}

/// Five at once take 20 seconds, and a try may take five: nothing arrives unless fewer are sent.
#[tokio::test(start_paused = true)]
async fn a_line_too_narrow_for_all_parts_at_once_carries_them_a_few_at_a_time() {
    let line = Arc::new(Line { pace: Pace::new(64), wire: Semaphore::new(1) });
    let limits = PartLimits { in_flight_max: 5, ..LIMITS };
    let store = Parts { limits, line: Some(Arc::clone(&line)), ..Parts::default() };
    let mut upload = store.upload("a", PutMode::Create);
    upload.write(pattern(120)).await.unwrap();
    upload.finish().await.unwrap();
    assert_eq!(body_of(&store, "a").await, pattern(120));
    assert!(line.pace.limit() < 5.0, "{}", line.pace.limit());
}

#[tokio::test(start_paused = true)]
async fn a_store_that_ignores_create_only_in_joins_is_found_out() {
    let store = Parts::default();
    let proved = crate::prove_create_only(&store, &key("probe")).await;
    assert_eq!(proved, Ok(crate::CreateOnly::Honoured));
    store.state().joins_over_objects = true;
    let proved = crate::prove_create_only(&store, &key("probe")).await;
    assert_eq!(proved, Ok(crate::CreateOnly::Ignored));
    assert_eq!(crate::list_all(&store, None).await, Ok(vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_refuses_the_condition_of_joins_is_found_out() {
    let store = Parts::default();
    store.state().refuses_condition_of_joins = true;
    let proved = crate::prove_create_only(&store, &key("probe")).await;
    assert!(matches!(proved, Ok(crate::CreateOnly::Refused { .. })), "{proved:?}");
    assert_eq!(crate::list_all(&store, None).await, Ok(vec![]));
    assert!(store.state().parts.is_empty());
}

#[tokio::test(start_paused = true)]
async fn all_uploads_together_stay_within_the_room_of_their_slots() {
    const SLOT_MIB: usize = 24;
    const PART_MIB: usize = 5;
    for slots in 1..20 {
        let (store, room) = (Parts::default(), PartSlots::for_slots(slots));
        let mut uploads = tokio::task::JoinSet::new();
        for number in 0..2 * slots {
            let (store, room) = (store.clone(), room.clone());
            uploads.spawn(async move {
                let name = key(&format!("{number}"));
                let mut upload = Box::new(PartedUpload::new(store, &name, PutMode::Create, LIMITS, &room));
                upload.write(pattern(100)).await.unwrap();
                upload.finish().await.unwrap();
            });
        }
        uploads.join_all().await;
        let most = store.state().running_most;
        // Beside the parts on their way each upload fills one.
        let mib = PART_MIB * (most + 2 * slots);
        assert!(mib <= SLOT_MIB * slots + usize::from(slots == 1), "{slots} slots: {most} parts, {mib} MiB");
        assert!(most > slots, "{slots} slots: {most} parts at once");
    }
}

/// What the store has somewhere else comes here, in parts of ten bytes.
async fn find_all(store: &Parts, all: Bytes, size: u64) -> Result<(), StorageError> {
    let parts = u32::try_from(all.len().div_ceil(10)).unwrap();
    let finder = store.clone();
    let find = move |ticket: Arc<Ticket>, number: u32| {
        let start = usize::try_from(number).unwrap() * 10;
        let (store, part) = (finder.clone(), all.slice(start..all.len().min(start + 10)));
        async move { store.put_part(&ticket, number, part).await }
    };
    store.upload("a", PutMode::Create).finish_with(size, parts, find).await
}

#[tokio::test(start_paused = true)]
async fn parts_that_the_store_finds_make_an_object_of_the_size_that_is_known_or_none() {
    for length in [0u8, 1, 10, 95] {
        let store = Parts::default();
        store.state().failures = 2;
        assert_eq!(find_all(&store, pattern(length), u64::from(length)).await, Ok(()));
        assert_eq!(body_of(&store, "a").await, pattern(length));
        assert!(store.state().running_most <= LIMITS.in_flight_max);
        let again = find_all(&store, pattern(length), u64::from(length)).await;
        assert!(matches!(again, Err(StorageError::AlreadyExists { .. })), "{again:?}");
        assert_eq!(body_of(&store, "a").await, pattern(length));
    }
    let store = Parts::default();
    let refused = find_all(&store, pattern(95), 96).await;
    assert!(matches!(refused, Err(StorageError::NotSupported { .. })), "{refused:?}");
    assert_eq!(crate::list_all(&store, None).await, Ok(vec![]));
    store.state().failures = 1000;
    let refused = find_all(&store, pattern(95), 95).await;
    assert!(matches!(refused, Err(StorageError::Unavailable { .. })), "{refused:?}");
    let state = store.state();
    assert!(state.parts.is_empty() && state.discarded > 0, "{state:?}");
}

#[tokio::test(start_paused = true)]
async fn a_part_that_fails_is_sent_again_alone() {
    let store = Parts::default();
    store.state().failures = 3;
    let mut upload = store.upload("a", PutMode::Create);
    upload.write(pattern(95)).await.unwrap();
    upload.finish().await.unwrap();
    assert_eq!(body_of(&store, "a").await, pattern(95));
}

#[tokio::test(start_paused = true)]
async fn a_part_that_never_succeeds_ends_the_upload_and_leaves_nothing() {
    let store = Parts::default();
    store.state().failures = u32::MAX;
    let mut upload = store.upload("a", PutMode::Create);
    upload.write(pattern(25)).await.unwrap();
    assert!(matches!(upload.finish().await, Err(StorageError::Unavailable { .. })));
    assert_eq!(store.state().discarded, 1, "before the error is told");
    assert_eq!(store.stat(&key("a")).await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn a_join_whose_answer_was_lost_is_known_as_ones_own() {
    let store = Parts::default();
    store.state().loses_answer_of_join = true;
    let mut upload = store.upload("a", PutMode::Create);
    upload.write(pattern(25)).await.unwrap();
    upload.finish().await.unwrap();
    assert_eq!(body_of(&store, "a").await, pattern(25));
}

#[tokio::test(start_paused = true)]
async fn a_beginning_whose_answer_was_lost_leaves_nothing_once_the_object_is_there() {
    let store = Parts::default();
    for is_refused in [false, true] {
        store.state().loses_answers_of_beginnings = 2;
        let mut upload = store.upload("a", PutMode::Create);
        upload.write(pattern(25)).await.unwrap();
        assert_eq!(store.state().strays, 2);
        assert_eq!(upload.finish().await.is_err(), is_refused);
        assert_eq!(store.state().strays, 0);
    }
}

/// Another's upload to the same key may yet win, or replace what is there.
#[tokio::test(start_paused = true)]
async fn strays_stay_while_any_other_upload_can_still_win() {
    let store = Parts::default();
    store.state().loses_answers_of_beginnings = 1;
    let mut upload = store.upload("a", PutMode::Overwrite);
    upload.write(pattern(25)).await.unwrap();
    upload.finish().await.unwrap();
    assert_eq!(store.state().strays, 1);
    store.state().loses_answers_of_beginnings = 1;
    let mut upload = store.upload("b", PutMode::Create);
    upload.write(pattern(25)).await.unwrap();
    store.state().failures = u32::MAX;
    assert!(upload.finish().await.is_err());
    assert_eq!(store.state().strays, 2);
}

#[tokio::test(start_paused = true)]
async fn somebody_elses_object_is_a_conflict_whatever_was_lost() {
    let store = Parts::default();
    let mut upload = store.upload("a", PutMode::Create);
    upload.write(pattern(25)).await.unwrap();
    store.put(&key("a"), PutMode::Create, pattern(25)).await.unwrap();
    let error = upload.finish().await.unwrap_err();
    assert!(error.is_already_exists(), "{error}");
}

/// What finishing comes to when the parts were swept before.
async fn finish_after_a_sweep(store: &Parts, mode: PutMode) -> Result<(), StorageError> {
    let mut upload = store.upload("a", mode);
    upload.write(pattern(25)).await.unwrap();
    // The parts that are under way arrive, the last one aside.
    tokio::time::sleep(Duration::from_secs(1)).await;
    store.state().parts.clear();
    upload.finish().await
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_is_gone_may_be_begun_again_and_is_no_absence() {
    for mode in [PutMode::Create, PutMode::Overwrite] {
        let store = Parts::default();
        let gone = finish_after_a_sweep(&store, mode).await;
        assert!(matches!(gone, Err(StorageError::Unavailable { .. })), "{gone:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_finds_an_object_in_place_of_the_own_upload_was_overtaken() {
    let store = Parts::default();
    store.put(&key("a"), PutMode::Create, pattern(3)).await.unwrap();
    let gone = finish_after_a_sweep(&store, PutMode::Create).await;
    assert!(matches!(gone, Err(StorageError::AlreadyExists { .. })), "{gone:?}");
    let gone = finish_after_a_sweep(&store, PutMode::Overwrite).await;
    assert!(matches!(gone, Err(StorageError::Unavailable { .. })), "it is another's: {gone:?}");
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_was_cancelled_in_a_write_is_dead() {
    let store = Parts::default();
    store.state().failures = 1;
    let mut upload = store.upload("a", PutMode::Create);
    let cut = tokio::time::timeout(Duration::from_millis(10), upload.write(pattern(95))).await;
    assert!(cut.is_err(), "three parts are under way, and the fourth waits");
    assert!(upload.write(pattern(1)).await.is_err());
    assert!(upload.finish().await.is_err());
    assert_eq!(store.stat(&key("a")).await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn an_aborted_upload_has_discarded_its_parts_when_abort_returns() {
    let store = Parts::default();
    let mut upload = store.upload("a", PutMode::Create);
    upload.write(pattern(95)).await.unwrap();
    upload.abort().await;
    assert_eq!(store.state().discarded, 1);
    assert!(store.state().parts.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_object_of_too_many_parts_is_refused() {
    let store = Parts::default();
    let limits = PartLimits { parts_max: 3, ..LIMITS };
    let mut upload =
        PartedUpload::new(store.clone(), &key("a"), PutMode::Create, limits, &PartSlots::for_slots(1));
    let error = upload.write(pattern(200)).await.unwrap_err();
    assert!(matches!(error, StorageError::NotSupported { .. }), "{error}");
}
