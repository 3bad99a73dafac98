//! Reading a file: many requests on their way at once, put together in order.
//!
//! One call reads one file in one session, by one handle: two handles, opened one after the other, could be of two objects.

use crate::failure::is_refused_with;
use crate::session::{Answer, Fault, Lane, OpenFile};
use crate::tree::Tree;
use crate::wire::{self, code, flags};
use bytes::Bytes;
use pgconvoy_storage::{IoAction, ObjectInfo, ObjectKey, StorageError};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

/// Bytes asked for and not yet there, of one call.
const IN_FLIGHT_BYTES_MAX: u64 = 32 << 20;
/// Bytes of a whole object that are asked for before its size is known. What is not there costs an answer and no memory.
const SPECULATIVE_BYTES_MAX: u64 = 1 << 20;

/// What is wanted of an object.
#[derive(Debug, Clone)]
pub(crate) enum Wanted {
    /// All of it, if it is no longer than that.
    Whole(u64),
    Range(Range<u64>),
}

struct Pieces<'a> {
    lane: &'a Lane,
    file: &'a OpenFile,
    /// Up to where pieces were asked for.
    asked: u64,
    in_flight: VecDeque<(Range<u64>, Answer)>,
}

impl Pieces<'_> {
    /// Asks for what comes before `end`, as far as it may be on its way.
    fn ask(&mut self, end: u64) {
        let piece = u64::try_from(self.lane.abilities().read_bytes_max).expect("a piece fits 64 bits");
        let begin = self.in_flight.front().map_or(self.asked, |(range, _)| range.start);
        while self.asked < end && self.asked < begin.saturating_add(IN_FLIGHT_BYTES_MAX) {
            let next = end.min(self.asked.saturating_add(piece));
            let answer = self.request(self.asked..next);
            self.in_flight.push_back((self.asked..next, answer));
            self.asked = next;
        }
    }

    fn request(&self, range: Range<u64>) -> Answer {
        let length = u32::try_from(range.end - range.start).expect("a piece is shorter than 4 GiB");
        self.lane.send(wire::read(&self.file.handle, range.start, length))
    }

    /// The next data in order, at most up to `end`; shorter than asked for only at the end of the file.
    async fn next(&mut self, end: u64) -> Result<Option<Bytes>, Fault> {
        let Some((mut range, answer)) = self.in_flight.pop_front() else { return Ok(None) };
        let mut data = answer.data().await?.unwrap_or_default();
        let mut whole = None;
        loop {
            let length = u64::try_from(data.len()).expect("a length in memory fits 64 bits");
            let wanted = range.end.min(end).saturating_sub(range.start);
            if length >= wanted || length == 0 {
                data.truncate(usize::try_from(wanted).unwrap_or(usize::MAX));
                break;
            }
            // A server may give less than it has.
            whole.get_or_insert_with(Vec::new).extend_from_slice(&data);
            range.start += length;
            data = self.request(range.clone()).data().await?.unwrap_or_default();
        }
        Ok(Some(match whole {
            Some(mut whole) => {
                whole.extend_from_slice(&data);
                whole.into()
            }
            None => data,
        }))
    }
}

impl Tree {
    pub(crate) async fn read(
        self: &Arc<Self>,
        key: &ObjectKey,
        wanted: Wanted,
    ) -> Result<Bytes, StorageError> {
        let lane = self.lane().await?;
        if let Wanted::Range(_) = &wanted
            && let Some(body) = self.read_kept(key, &wanted).await
        {
            return Ok(body);
        }
        let file = self.open_object(&lane, key).await?;
        let (body, _) = self.read_open(&lane, key, &file, &wanted).await?;
        if let Wanted::Range(_) = wanted {
            self.keep(key, file);
        }
        Ok(body)
    }

    /// By a file that is open already. `None`, if there is none or anything is not as it was: then what counts is found out anew.
    async fn read_kept(self: &Arc<Self>, key: &ObjectKey, wanted: &Wanted) -> Option<Bytes> {
        let file = self.kept().take(key)?;
        let Some(body) = self.read_unchanged(key, &file, wanted).await else {
            self.met().forget_file(key);
            return None;
        };
        self.keep(key, file);
        Some(body)
    }

    /// What is read, if the path leads to such a file still.
    async fn read_unchanged(&self, key: &ObjectKey, file: &OpenFile, wanted: &Wanted) -> Option<Bytes> {
        let lane = file.lane();
        let look = lane.send(wire::lstat(&self.path(Some(key))));
        let (body, of_file) = self.read_open(&lane, key, file, wanted).await.ok()?;
        let of_path = self.info(key, look.attributes().await.ok()?).ok()??;
        // Without a time nothing tells one file from another.
        (of_path.modified.is_some() && of_path == of_file).then_some(body)
    }

    async fn read_open(
        &self,
        lane: &Lane,
        key: &ObjectKey,
        file: &OpenFile,
        wanted: &Wanted,
    ) -> Result<(Bytes, ObjectInfo), StorageError> {
        let facts = lane.send(wire::fstat(&file.handle));
        let (begin, guess) = match wanted {
            Wanted::Whole(size_max) => (0, *size_max.min(&SPECULATIVE_BYTES_MAX)),
            Wanted::Range(range) => (range.start, range.end),
        };
        let mut pieces = Pieces { lane, file, asked: begin, in_flight: VecDeque::new() };
        pieces.ask(guess);
        let error = |fault| self.error(Some(key), IoAction::Read, fault);
        let Some(found) = self.info(key, facts.attributes().await.map_err(error)?)? else {
            return Err(self.absent(lane, key).await);
        };
        let (at, size) = (self.place(Some(key)), found.size);
        let end = match wanted {
            Wanted::Whole(size_max) if size > *size_max => {
                return Err(StorageError::TooLarge { at, size, size_max: *size_max });
            }
            Wanted::Whole(_) => size,
            Wanted::Range(range) => match range.end.max(range.start) {
                wanted if wanted > size => return Err(StorageError::Truncated { at, size, wanted }),
                end => end,
            },
        };
        let Ok(length) = usize::try_from(end - begin) else {
            return Err(StorageError::TooLarge { at, size, size_max: u64::MAX >> 1 });
        };
        pieces.ask(end);
        let first = pieces.next(end).await.map_err(error)?.unwrap_or_default();
        if first.len() == length {
            return Ok((first, found));
        }
        let mut body = Vec::with_capacity(length);
        body.extend_from_slice(&first);
        drop(first);
        loop {
            pieces.ask(end);
            let Some(data) = pieces.next(end).await.map_err(error)? else { break };
            body.extend_from_slice(&data);
        }
        if body.len() == length {
            return Ok((body.into(), found));
        }
        let size = begin + u64::try_from(body.len()).expect("a length in memory fits 64 bits");
        Err(StorageError::Truncated { at: self.place(Some(key)), size, wanted: end })
    }

    /// A named pipe would keep the server waiting for a writer, so what is not known for a file is looked at first.
    async fn open_object(&self, lane: &Lane, key: &ObjectKey) -> Result<OpenFile, StorageError> {
        let path = self.path(Some(key));
        let error = |fault| self.error(Some(key), IoAction::Open, fault);
        let is_known = self.met().is_file(key);
        if !is_known {
            let parents = self.ask_parents(lane, key);
            let answer = lane.send(wire::lstat(&path));
            self.judge_parents(parents).await?;
            let found = match answer.attributes().await {
                Ok(found) => self.info(key, found)?,
                Err(fault) if is_refused_with(&fault, code::NO_SUCH_FILE) => None,
                Err(fault) => return Err(error(fault)),
            };
            if found.is_none() {
                return Err(self.absent(lane, key).await);
            }
        }
        match lane.open(&path, flags::READ, None).await {
            Ok(file) => {
                self.met().add_file(key);
                Ok(file)
            }
            Err(fault) if is_refused_with(&fault, code::NO_SUCH_FILE) => {
                self.met().forget_file(key);
                Err(self.absent(lane, key).await)
            }
            Err(fault) => Err(error(fault)),
        }
    }
}
