//! Restores what one pack holds: fetches its frames in large ranges, opens them, checks every block, and writes.
//!
//! What one repository cannot give, block by block, is wanted from the next one that has the same backup. Where the
//! blocks lie is for each repository's own footer to say; what they must be is not: all have to agree on the hashes.

mod blocks;
mod comparison;
mod fetch;
mod parts;
mod trouble;

use super::data::Work;
use super::origin::Origin;
use super::stock::InHand;
use super::sync::SyncQueue;
use blocks::{Piece, Wanted, Window};
use bytes::{Buf, BytesMut};
use fetch::Fetcher;
use parts::Parts;
use pgconvoy_core::failure::Failure;
use pgconvoy_core::format::layout::PackName;
use pgconvoy_core::format::object::Kind;
use pgconvoy_core::format::pack::{PackBody, PackRange};
use pgconvoy_core::plan::quickest::{Giver, quickest};
use pgconvoy_core::plan::restore::PackWork;
use pgconvoy_repository::RepositoryError;
use pgconvoy_repository::codec::Decompressor;
use pgconvoy_repository::object::ObjectReader;
use pgconvoy_repository::pack::PackReader;
use std::cell::Cell;
use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};
use trouble::{Complaint, Trouble, given_up, tell};

/// One thread's tools.
pub(super) struct PackSlot<'a> {
    work: &'a Work<'a>,
    queue: SyncQueue,
    decompressor: Decompressor,
    /// Content of the frame at hand.
    raw: Vec<u8>,
    /// How long this thread waited for stores, altogether.
    waited: Cell<Duration>,
}

/// A pack as one repository has it.
struct Opened {
    /// The pack, then the packs that it refers to.
    objects: Vec<Arc<ObjectReader>>,
    body: PackBody,
    pieces: Vec<Piece>,
}

impl<'a> PackSlot<'a> {
    pub(super) fn new(work: &'a Work<'a>, queue: SyncQueue) -> Self {
        PackSlot { work, queue, decompressor: Decompressor::new(), raw: Vec::new(), waited: Cell::default() }
    }

    pub(super) fn restore(&mut self, in_hand: &Arc<InHand>, pack: &PackWork) -> Result<(), Failure> {
        let object = pack.pack.key(&self.work.chosen.stanza);
        let queue = self.queue.clone();
        let mut parts = Parts::new(self.work, &queue, in_hand, pack);
        let mut wanted = Vec::with_capacity(pack.parts.len());
        for part in 0..pack.parts.len() {
            if !parts.believe(part)? {
                wanted.push(Wanted::whole(part));
            }
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let mut complaints: Vec<Complaint> = Vec::new();
        let mut origins = Origins::new(self.work, pack.bytes);
        while let Some(origin) = origins.next() {
            let mut trouble = Trouble::default();
            let (begin, waited) = (Instant::now(), self.waited.get());
            wanted = self.take(&origin, pack, wanted, &mut parts, &mut trouble)?;
            let waited = self.waited.get() - waited;
            origin.was_taken_from(waited, begin.elapsed().saturating_sub(waited));
            complaints.extend(trouble.into_complaint(&origin));
            if wanted.is_empty() {
                tell(&object, &complaints, &origin);
                return Ok(());
            }
        }
        self.work.halt.check()?;
        Err(given_up(&object, complaints))
    }

    /// Takes from one repository what is wanted, and gives back what is still wanted after that. An error is the target's
    /// or a signal; what the repository cannot do is trouble.
    fn take(
        &mut self,
        origin: &Arc<Origin>,
        pack: &PackWork,
        wanted: Vec<Wanted>,
        parts: &mut Parts<'_>,
        trouble: &mut Trouble,
    ) -> Result<Vec<Wanted>, Failure> {
        let _busy = origin.busy_with(pack.bytes);
        let mut missing = Vec::new();
        let reader = match self.open(origin, pack)? {
            Ok(reader) => reader,
            Err(error) => {
                trouble.add(error);
                return Ok(wanted);
            }
        };
        let mut pieces = find(&reader, wanted, parts, &mut missing, trouble)?;
        let PackReader { object, body } = reader;
        let objects = match self.wait(referred(origin, self.work, object, &body, &pieces))? {
            Ok(objects) => objects,
            Err(error) => {
                trouble.add(error);
                missing.extend(pieces.into_iter().map(|piece| piece.wanted));
                return Ok(missing);
            }
        };
        let windows = blocks::windows(&mut pieces, |object, frame| {
            objects[object].frames().get(frame).map_or(0, |entry| u64::from(entry.stored_bytes()))
        });
        let opened = Opened { objects, body, pieces };
        let runtime = &self.work.around.runtime;
        let mut fetcher = Fetcher::new(runtime, origin, &opened.objects, &windows);
        while let Some((window, fetching)) = fetcher.next() {
            let fetched = self.wait(fetching)?;
            match fetched.unwrap_or(Err(RepositoryError::Interrupted { what: "reading a pack" })) {
                Ok(stored) => {
                    self.work.around.progress.fetch(stored.len() as u64);
                    self.unpack(&opened, window, stored, parts, &mut missing, trouble)?;
                }
                Err(error) => {
                    trouble.add(error);
                    missing.extend(opened.wanted_of(window));
                }
            }
            if trouble.is_away() {
                break;
            }
        }
        missing.extend(fetcher.rest().flat_map(|window| opened.wanted_of(window)));
        Ok(missing)
    }

    fn open(&self, origin: &Origin, pack: &PackWork) -> Result<Result<PackReader, RepositoryError>, Failure> {
        let chosen = self.work.chosen;
        if origin.key() == chosen.origin.key()
            && let Some(opening) = self.work.openings.take(pack.pack)
            && let Ok(opened) = self.wait(opening)?
        {
            return Ok(opened);
        }
        let (stanza, secret, backup) = (&chosen.stanza, &chosen.secret, chosen.backup_of(pack.pack));
        self.wait(origin.open_pack(stanza, pack.pack, backup, secret))
    }

    /// On the runtime, as long as nobody wants the restore to end.
    fn wait<T>(&self, work: impl Future<Output = T>) -> Result<T, Failure> {
        self.work.halt.check()?;
        let stop = &self.work.around.stop;
        let begin = Instant::now();
        let done = self.work.around.runtime.block_on(async {
            tokio::select! {
                () = stop.cancelled() => None,
                done = work => Some(done),
            }
        });
        self.waited.set(self.waited.get() + begin.elapsed());
        done.ok_or_else(super::terminated)
    }

    /// All pieces of a window, frame by frame.
    fn unpack(
        &mut self,
        opened: &Opened,
        window: &Window,
        mut stored: BytesMut,
        parts: &mut Parts<'_>,
        missing: &mut Vec<Wanted>,
        trouble: &mut Trouble,
    ) -> Result<(), Failure> {
        let object = &opened.objects[window.object];
        let mut next = window.frames.start;
        for pieces in opened.pieces[window.pieces.clone()].chunk_by(|a, b| a.frame == b.frame) {
            self.work.halt.check()?;
            let frame = pieces[0].frame;
            let length = |frame: usize| object.frames()[frame].stored_bytes() as usize;
            // What lies between wanted frames came along.
            stored.advance((next..frame).map(length).sum());
            let mut bytes = stored.split_to(length(frame));
            next = frame + 1;
            if let Err(error) = object.decode_frame(frame, &mut bytes, &mut self.decompressor, &mut self.raw)
            {
                trouble.add(error);
                missing.extend(pieces.iter().map(|piece| piece.wanted.clone()));
                continue;
            }
            for piece in pieces {
                let range = &opened.body.ranges[parts.planned(piece.wanted.part).place as usize];
                match self.check(piece, range) {
                    Some(bytes) => parts.write(&piece.wanted, bytes)?,
                    None => {
                        let reason = format!("a block of {} does not match its hash", range.path);
                        let (place, object) = (object.place().to_owned(), object.name().to_owned());
                        trouble.add(RepositoryError::Contradiction { place, object, reason });
                        missing.push(piece.wanted.clone());
                    }
                }
            }
        }
        Ok(())
    }

    /// The bytes of a piece, if each of its blocks has the hash that the range's checksum was made of.
    fn check(&self, piece: &Piece, range: &PackRange) -> Option<&[u8]> {
        let block_size = u64::from(range.block_size);
        let begin = u64::from(piece.wanted.blocks.start) * block_size;
        let end = (u64::from(piece.wanted.blocks.end) * block_size).min(range.length);
        let length = usize::try_from(end.checked_sub(begin)?).ok()?;
        let bytes = self.raw.get(piece.skip..piece.skip.checked_add(length)?)?;
        let secret = &self.work.chosen.secret;
        let mut blocks = bytes.chunks(range.block_size as usize).zip(piece.wanted.blocks.start as usize..);
        blocks.all(|(block, number)| range.hash(number) == Some(secret.hash(block))).then_some(bytes)
    }
}

impl Opened {
    fn wanted_of(&self, window: &Window) -> impl Iterator<Item = Wanted> + '_ {
        self.pieces[window.pieces.clone()].iter().map(|piece| piece.wanted.clone())
    }
}

/// Where the wanted blocks lie, as far as this repository's footer is believed.
fn find(
    reader: &PackReader,
    wanted: Vec<Wanted>,
    parts: &mut Parts<'_>,
    missing: &mut Vec<Wanted>,
    trouble: &mut Trouble,
) -> Result<Vec<Piece>, Failure> {
    let mut pieces = Vec::new();
    for one in wanted {
        let planned = parts.planned(one.part);
        let path = parts.file(one.part).path.as_str();
        let range = reader.range(planned.place, path, planned.offset, planned.length);
        match range {
            Ok(range) if parts.agree(one.part, range)? => {
                for lacking in parts.lacking(one, range)? {
                    blocks::find(&lacking, range, &reader.body, &mut pieces);
                }
            }
            Ok(_) => {
                let (place, object) = (reader.object.place().to_owned(), reader.object.name().to_owned());
                let reason = format!("it says of {path} something else than the other repositories");
                trouble.add(RepositoryError::Contradiction { place, object, reason });
                missing.push(one);
            }
            Err(error) => {
                trouble.add(error);
                missing.push(one);
            }
        }
    }
    Ok(pieces)
}

/// The pack and those of the packs it refers to in which something is wanted.
async fn referred(
    origin: &Origin,
    work: &Work<'_>,
    own: ObjectReader,
    body: &PackBody,
    pieces: &[Piece],
) -> Result<Vec<Arc<ObjectReader>>, RepositoryError> {
    let mut objects = vec![Arc::new(own)];
    let used = pieces.iter().map(|piece| piece.object).max().unwrap_or_default();
    for foreign in &body.foreign[..used] {
        let name = PackName {
            label: foreign.label,
            plan: foreign.plan,
            unit: foreign.unit,
            attempt: foreign.attempt,
        };
        let key = name.key(&work.chosen.stanza);
        let object = ObjectReader::open(origin.repository(), Kind::Pack, &key).await?;
        let is_listed = |number: u32, raw: u32| {
            object.frames().get(number as usize).is_some_and(|one| one.raw_bytes() == raw)
        };
        if !foreign.frames.iter().all(|frame| is_listed(frame.0, frame.3)) {
            let reason = "it lacks frames that a later pack refers to".to_owned();
            return Err(RepositoryError::Contradiction {
                place: object.place().to_owned(),
                object: key,
                reason,
            });
        }
        objects.push(Arc::new(object));
    }
    Ok(objects)
}

/// The repositories that have the backup: the chosen one, or, when waiting for it is most of the work, the one that will have
/// given the pack first; then the others. Who does not answer comes last.
struct Origins<'a> {
    work: &'a Work<'a>,
    waiting: VecDeque<Arc<Origin>>,
    knows_all: bool,
}

impl<'a> Origins<'a> {
    fn new(work: &'a Work<'a>, bytes: u64) -> Self {
        let chosen = work.chosen;
        let mut waiting = VecDeque::from([chosen.origin.clone()]);
        if !chosen.origin.is_slow() {
            return Origins { work, waiting, knows_all: false };
        }
        chosen.others.begin_to_look(&work.around.runtime);
        waiting.extend(chosen.others.known().iter().cloned());
        waiting.make_contiguous().sort_by_key(|origin| origin.is_away());
        let present = waiting.iter().filter(|origin| !origin.is_away());
        let givers: Vec<Giver> = present.map(|origin| origin.giver()).collect();
        if let Some(first) = quickest(&givers, bytes) {
            waiting.swap(0, first);
        }
        let knows_all = waiting.len() > 1;
        Origins { work, waiting, knows_all }
    }

    fn next(&mut self) -> Option<Arc<Origin>> {
        if !self.knows_all && self.waiting.front().is_none_or(|first| first.is_away()) {
            self.knows_all = true;
            // One that hangs is waited for as long as its time-out, unless somebody wants the restore to end.
            let looking = self.work.around.stop.run_until_cancelled(self.work.chosen.others.find());
            let found = self.work.around.runtime.block_on(looking).unwrap_or_default();
            self.waiting.extend(found.iter().cloned());
            self.waiting.make_contiguous().sort_by_key(|origin| origin.is_away());
        }
        self.waiting.pop_front()
    }
}
