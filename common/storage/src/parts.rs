//! Uploads in parts, several under way at once, for stores that join parts to an object.
//!
//! A [`PartStore`] says how one part is stored and how parts are joined; [`PartedUpload`] is the upload that comes of it: it
//! fills parts, keeps [`PartLimits::in_flight_max`] of them on their way, tries each again by itself, and joins them at the
//! end. An object that fits one part is one ordinary put.
//!
//! Invariants
//! 1. Nothing is visible before the join: a part alone is no object.
//! 2. One upload holds the part that is being filled and those that are under way, never more; all uploads of a store together have
//!    no more parts under way than its [`PartSlots`].
//! 3. A join whose answer was lost is told from somebody else's object by [`PartStore::is_joined`], never by its size. An upload
//!    that is gone is no absence of an object: who finds the object there was overtaken, anybody else may begin again.
//! 4. A beginning whose answer was lost leaves an upload that nobody knows. It is removed once an object that was to be created is
//!    there, since whoever else is still uploading to that key was overtaken; where the object never comes, a sweep removes it.
//! 5. An upload that is not finished discards its parts: in `abort` and a `finish` that fails before they return, else in the
//!    background.

use crate::decorate::retry::{RetryPolicy, Tries};
use crate::{ObjectKey, Place, PutMode, Storage, StorageError, Upload};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;

/// How stores remove parts that are of no use any more: somebody waits, and what stays is only room until a sweep.
pub const TIDYING: RetryPolicy = RetryPolicy {
    attempts_max: 5,
    backoff_first: Duration::from_millis(50),
    backoff_max: Duration::from_millis(500),
    deadline: Duration::from_secs(10),
    attempt_timeout: Some(Duration::from_secs(3)),
};
/// What cleaning up after a join may take: somebody waits for the answer.
const DISCARD_MAX: Duration = Duration::from_secs(5);

/// A store that takes an object in parts. A clone is the same store.
#[async_trait]
pub trait PartStore: Storage + Clone + 'static {
    /// What a begun upload is known by.
    type Ticket: Send + Sync + 'static;
    /// What the store says of a part that it took.
    type Part: Send + Sync + 'static;

    async fn begin_parts(&self, key: &ObjectKey, mode: PutMode) -> Result<Self::Ticket, StorageError>;

    /// Stores one part; the first is 0. The same part again replaces it.
    async fn put_part(
        &self,
        ticket: &Self::Ticket,
        number: u32,
        body: Bytes,
    ) -> Result<Self::Part, StorageError>;

    /// Makes the object of these parts, in their order. The mode of the beginning holds here. `NotFound`: the upload, or a part
    /// of it, is not there any more.
    async fn join_parts(&self, ticket: &Self::Ticket, parts: &[Self::Part]) -> Result<(), StorageError>;

    /// Whether the object under the key is what a join of this very upload made.
    async fn is_joined(&self, ticket: &Self::Ticket) -> Result<bool, StorageError>;

    /// Removes the parts of an upload that was given up, as far as possible.
    async fn discard_parts(&self, ticket: &Self::Ticket);

    /// Removes every other upload to this key, as far as possible; asked for only once none of them can create the object any more.
    /// A store that keeps nothing of a beginning has nothing to do.
    async fn discard_strays(&self, key: &ObjectKey) {
        let _ = key;
    }
}

/// How an upload is cut, and how hard it tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartLimits {
    /// Bytes of each part but the last.
    pub bytes: usize,
    /// Parts of one upload that are under way at a time.
    pub in_flight_max: usize,
    /// Parts of one object.
    pub parts_max: u32,
    /// For each request; parts and joins get more time of it.
    pub retry: RetryPolicy,
}

/// The smallest upload that is joined, with parts of so many bytes.
pub const fn joined_from(part_bytes: usize) -> u64 {
    // A length in memory fits 64 bits.
    part_bytes as u64 + 1
}

/// Room for parts that are under way to one store, of all uploads together.
#[derive(Debug, Clone)]
pub struct PartSlots(Arc<Semaphore>);

impl PartSlots {
    /// For a worker with so many slots, each of which has two units in flight and so fills two parts: with parts of 5 MiB all
    /// together stay within the 24 MiB that a slot may use for each repository, but for one MiB with a single slot.
    pub fn for_slots(slots: usize) -> PartSlots {
        PartSlots(Arc::new(Semaphore::new(2 + slots)))
    }

    async fn take(&self) -> OwnedSemaphorePermit {
        Arc::clone(&self.0).acquire_owned().await.expect("nobody closes it")
    }
}

/// See the module.
pub struct PartedUpload<S: PartStore> {
    store: S,
    key: ObjectKey,
    mode: PutMode,
    limits: PartLimits,
    slots: PartSlots,
    /// The part that is being filled.
    filling: BytesMut,
    /// From the first part on.
    begun: Option<Begun<S>>,
    is_dead: bool,
}

struct Begun<S: PartStore> {
    ticket: Arc<S::Ticket>,
    /// An earlier try to begin may have worked as well.
    may_have_strays: bool,
    next: u32,
    under_way: JoinSet<Result<(u32, S::Part), StorageError>>,
    done: Vec<(u32, S::Part)>,
}

impl<S: PartStore> Begun<S> {
    /// Waits until fewer than `limit` parts are under way.
    async fn settle(&mut self, limit: usize, at: &Place) -> Result<(), StorageError> {
        while self.under_way.len() >= limit.max(1) {
            let Some(ended) = self.under_way.join_next().await else { return Ok(()) };
            self.done.push(ended.unwrap_or_else(|error| Err(lost(at, &error)))?);
        }
        Ok(())
    }
}

fn lost(at: &Place, error: &JoinError) -> StorageError {
    StorageError::Unavailable { at: at.clone(), reason: format!("the upload of a part ended: {error}") }
}

impl<S: PartStore> PartedUpload<S> {
    pub fn new(store: S, key: &ObjectKey, mode: PutMode, limits: PartLimits, slots: &PartSlots) -> Self {
        PartedUpload {
            store,
            key: key.clone(),
            mode,
            limits,
            slots: slots.clone(),
            filling: BytesMut::new(),
            begun: None,
            is_dead: false,
        }
    }

    fn place(&self) -> Place {
        Place::new(self.store.describe(), Some(&self.key))
    }

    fn tries(&self) -> Tries {
        Tries::new(self.limits.retry, self.place())
    }

    async fn begin(&self) -> Result<Begun<S>, StorageError> {
        let mut tries = self.tries();
        let ticket = loop {
            match tries.once(self.store.begin_parts(&self.key, self.mode)).await {
                Ok(ticket) => break Arc::new(ticket),
                Err(error) => tries.judge(error).await?,
            }
        };
        let may_have_strays = tries.is_repeated();
        Ok(Begun { ticket, may_have_strays, next: 0, under_way: JoinSet::new(), done: Vec::new() })
    }

    async fn begun(&mut self) -> Result<&mut Begun<S>, StorageError> {
        if self.begun.is_none() {
            self.begun = Some(self.begin().await?);
        }
        Ok(self.begun.as_mut().expect("it was begun above"))
    }

    /// Puts the filled part on its way.
    async fn send_part(&mut self) -> Result<(), StorageError> {
        let body = std::mem::take(&mut self.filling).freeze();
        let at = self.place();
        let limits = self.limits;
        let begun = self.begun().await?;
        begun.settle(limits.in_flight_max, &at).await?;
        let number = begun.next;
        if number >= limits.parts_max {
            let reason = format!("an object of more than {number} parts of {} bytes", limits.bytes);
            return Err(StorageError::NotSupported { at, reason });
        }
        begun.next += 1;
        let ticket = Arc::clone(&begun.ticket);
        let slot = self.slots.take().await;
        let store = self.store.clone();
        let tries = Tries::of_part(limits.retry, at);
        self.begun().await?.under_way.spawn(async move {
            let part = tries.repeat(|| store.put_part(&ticket, number, body.clone())).await;
            drop(slot);
            part.map(|part| (number, part))
        });
        Ok(())
    }

    async fn add(&mut self, mut chunk: Bytes) -> Result<(), StorageError> {
        while !chunk.is_empty() {
            // Not before more follows: the last part may be a short one, and one part alone is a plain put.
            if self.filling.len() == self.limits.bytes {
                self.send_part().await?;
            }
            self.filling.reserve(chunk.len().min(self.limits.bytes - self.filling.len()));
            let room = self.limits.bytes - self.filling.len();
            self.filling.extend_from_slice(&chunk.split_to(room.min(chunk.len())));
        }
        Ok(())
    }

    /// One put, repeated as the retry decorator would.
    async fn put_whole(&mut self) -> Result<(), StorageError> {
        let body = std::mem::take(&mut self.filling).freeze();
        self.tries().put(&self.store, &self.key, self.mode, body).await
    }

    async fn join(&mut self) -> Result<(), StorageError> {
        let at = self.place();
        let begun = self.begun.as_mut().expect("a part was sent above");
        begun.settle(1, &at).await?;
        begun.done.sort_by_key(|(number, _)| *number);
        let parts: Vec<S::Part> = std::mem::take(&mut begun.done).into_iter().map(|(_, part)| part).collect();
        let ticket = Arc::clone(&begun.ticket);
        let mut tries = Tries::of_part(self.limits.retry, at);
        let store = &self.store;
        match made(store, &ticket, &mut tries, || store.join_parts(&ticket, &parts)).await {
            Err(error) if error.is_not_found() => Err(self.gone(&tries).await),
            decided => decided,
        }
    }

    /// What is left after the last step, as far as it can be had in short.
    async fn tidied(&mut self, joined: Result<(), StorageError>) -> Result<(), StorageError> {
        let Some(begun) = self.begun.take() else { return joined };
        let is_decided = self.mode == PutMode::Create
            && joined.as_ref().map_or_else(StorageError::is_already_exists, |()| true);
        let has_strays = is_decided && begun.may_have_strays;
        // A command may end right after this, and with it what is left to the background.
        let tidy = async {
            if joined.is_err() {
                discard(self.store.clone(), begun).await;
            }
            if has_strays {
                self.store.discard_strays(&self.key).await;
            }
        };
        let _ = timeout(DISCARD_MAX, tidy).await;
        joined
    }

    /// Makes an object of `size` bytes of parts that the store finds by itself: for an upload that nothing was written to.
    pub async fn finish_with<F>(
        mut self,
        size: u64,
        parts: u32,
        find: impl Fn(Arc<S::Ticket>, u32) -> F + Clone + Send + Sync + 'static,
    ) -> Result<(), StorageError>
    where
        F: Future<Output = Result<S::Part, StorageError>> + Send + 'static,
    {
        let joined = match self.find_parts(parts, find).await {
            Ok(()) => self.join().await,
            Err(error) => Err(error),
        };
        self.tidied(joined).await?;
        self.compared(size).await
    }

    async fn find_parts<F>(
        &mut self,
        parts: u32,
        find: impl Fn(Arc<S::Ticket>, u32) -> F + Clone + Send + Sync + 'static,
    ) -> Result<(), StorageError>
    where
        F: Future<Output = Result<S::Part, StorageError>> + Send + 'static,
    {
        let (at, limits) = (self.place(), self.limits);
        let begun = self.begun().await?;
        for number in 0..parts {
            begun.settle(limits.in_flight_max, &at).await?;
            let (find, ticket) = (find.clone(), Arc::clone(&begun.ticket));
            let tries = Tries::of_part(limits.retry, at.clone());
            begun.under_way.spawn(async move {
                let part = tries.repeat(|| find(Arc::clone(&ticket), number)).await;
                part.map(|part| (number, part))
            });
        }
        Ok(())
    }

    /// What the store made by itself is as long as it is to be, or it is removed.
    async fn compared(&self, size: u64) -> Result<(), StorageError> {
        let at = self.place();
        match self.tries().repeat(|| self.store.stat(&self.key)).await? {
            Some(made) if made.size == size => Ok(()),
            None => Err(StorageError::NotFound { at }),
            Some(made) => {
                // It is this upload's: nothing else could take its name.
                self.store.delete(&self.key).await?;
                let reason = format!("it copied {} of {size} bytes", made.size);
                Err(StorageError::NotSupported { at, reason })
            }
        }
    }

    /// Why an upload that was not joined is not there: somebody else's object ended it, or somebody swept it.
    async fn gone(&self, tries: &Tries) -> StorageError {
        let at = self.place();
        if self.mode == PutMode::Create {
            match tries.once(self.store.stat(&self.key)).await {
                Ok(Some(_)) => return StorageError::AlreadyExists { at },
                Ok(None) => {}
                Err(error) => return error,
            }
        }
        let reason = "the upload is gone: its parts were swept, or a rule of the store removed them";
        StorageError::Unavailable { at, reason: reason.to_owned() }
    }

    fn dead(&self) -> StorageError {
        StorageError::Unavailable { at: self.place(), reason: "the upload failed before".to_owned() }
    }
}

#[async_trait]
impl<S: PartStore> Upload for PartedUpload<S> {
    async fn write(&mut self, chunk: Bytes) -> Result<(), StorageError> {
        if self.is_dead {
            return Err(self.dead());
        }
        // Until it is done: a cancelled write leaves a hole.
        self.is_dead = true;
        self.add(chunk).await?;
        self.is_dead = false;
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<(), StorageError> {
        if self.is_dead {
            return Err(self.dead());
        }
        if self.begun.is_none() {
            return self.put_whole().await;
        }
        let joined = match self.send_part().await {
            Ok(()) => self.join().await,
            Err(error) => Err(error),
        };
        self.tidied(joined).await
    }

    async fn abort(mut self: Box<Self>) {
        if let Some(begun) = self.begun.take() {
            discard(self.store.clone(), begun).await;
        }
    }
}

/// Takes the step that makes an object visible until it is decided what came of it: an earlier try may have done it all, with its answer
/// lost, and then there is an object already, or no upload any more.
async fn made<S: PartStore, F>(
    store: &S,
    ticket: &S::Ticket,
    tries: &mut Tries,
    make: impl Fn() -> F + Send,
) -> Result<(), StorageError>
where
    F: Future<Output = Result<(), StorageError>> + Send,
{
    loop {
        let error = match tries.once(make()).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        if !(error.is_not_found() || error.is_already_exists() && tries.is_repeated()) {
            tries.judge(error).await?;
            continue;
        }
        match tries.once(store.is_joined(ticket)).await {
            Ok(true) => {
                // Who joins tidies up as well; the try that did so may not have come to it.
                let _ = timeout(DISCARD_MAX, store.discard_parts(ticket)).await;
                return Ok(());
            }
            Ok(false) => return Err(error),
            Err(unknown) => tries.judge(unknown).await?,
        }
    }
}

/// An object that a store makes by itself in one request, which is to leave the ticket's mark on it. Tried again as a join is.
pub async fn make_at_once<S: PartStore, F>(
    store: &S,
    key: &ObjectKey,
    retry: RetryPolicy,
    make: impl Fn(Arc<S::Ticket>) -> F + Send + Sync,
) -> Result<(), StorageError>
where
    F: Future<Output = Result<(), StorageError>> + Send,
{
    let ticket = Arc::new(store.begin_parts(key, PutMode::Create).await?);
    let mut tries = Tries::of_part(retry, Place::new(store.describe(), Some(key)));
    made(store, &ticket, &mut tries, || make(Arc::clone(&ticket))).await
}

/// Parts that are under way end first: one that arrives later would stay.
async fn discard<S: PartStore>(store: S, mut begun: Begun<S>) {
    begun.under_way.shutdown().await;
    store.discard_parts(&begun.ticket).await;
}

impl<S: PartStore> Drop for PartedUpload<S> {
    fn drop(&mut self) {
        if let (Some(begun), Ok(runtime)) = (self.begun.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(discard(self.store.clone(), begun));
        }
    }
}

#[cfg(test)]
mod tests;
