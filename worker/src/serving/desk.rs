//! Reads what one attempt asks for, a helping at a time. What must wait for a disk runs on blocking threads; what lies in the page
//! cache is a copy, and cheaper than waking another thread for it.
//!
//! Files are opened, judged and read by the same code as where the source computes itself; what a compute worker is told of WAL
//! summaries was audited here, where the file is.
//!
//! Invariant: nothing is read that the claim's parts do not cover.

use super::buffers::{Buffer, Buffers};
use super::protocol::{Answer, Ask, CHUNK_BYTES, Claim, HELPING_BYTES, encode};
use super::squeeze::Squeezer;
use crate::job::JobContext;
use crate::unit::reader::{Opened, PartReader};
use crate::unit::unread::Unread;
use bytes::{BufMut, Bytes, BytesMut};
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::ids::FencingToken;
use pgconvoy_core::wire::{UnitOrder, UnitPart};
use std::collections::VecDeque;
use std::sync::Arc;

/// Wishes that wait here; of more, the rest waits in the stream. Twice as many as a compute worker has under way.
const ASKS_MAX: usize = 512;
/// Answers to small wishes that are given together at most: each may be the text of an error or a list of pages.
const ANSWERS_MAX: usize = 64;

/// What is copied rather than sent by itself.
const SMALL_BYTES: usize = 16 << 10;

/// The part that is open.
struct Open {
    part: usize,
    /// `None`: it is gone.
    reader: Option<PartReader<'static>>,
    /// Nothing lies before this that may still be asked for.
    at: u64,
    is_over: bool,
}

pub(super) struct Desk {
    context: Arc<JobContext>,
    order: UnitOrder,
    open: Option<Open>,
    asks: VecDeque<Ask>,
    buffers: Buffers,
    /// Where lz4 was asked for.
    squeezer: Option<Squeezer>,
}

/// What came of some wishes.
#[derive(Default)]
pub(super) struct Answers {
    /// As they are sent.
    bytes: Vec<Bytes>,
    /// What is small goes together.
    small: BytesMut,
    /// Wishes that they fulfil.
    count: usize,
    /// Bytes of files in them.
    pub(super) read: u64,
    /// Nothing follows them.
    pub(super) is_last: bool,
}

impl Answers {
    fn add(&mut self, bytes: Bytes) {
        if bytes.len() <= SMALL_BYTES {
            return self.small.put_slice(&bytes);
        }
        self.gather();
        self.bytes.push(bytes);
    }

    fn add_chunk(&mut self, raw_bytes: usize, head: Bytes, stored: Bytes) {
        self.add(head);
        self.add(stored);
        self.read += raw_bytes as u64;
    }

    /// Whether one more belongs to the helping.
    fn has_room(&self) -> bool {
        self.read + u64::from(CHUNK_BYTES) <= HELPING_BYTES && self.count < ANSWERS_MAX
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.small.is_empty()
    }

    fn gather(&mut self) {
        if !self.small.is_empty() {
            self.bytes.push(self.small.split().freeze());
        }
    }

    pub(super) fn into_bytes(mut self) -> Vec<Bytes> {
        self.gather();
        self.bytes
    }
}

impl Desk {
    pub(super) fn new(context: Arc<JobContext>, claim: Claim, buffers: Buffers) -> Result<Desk, Failure> {
        let Claim { unit, attempt, parts, reads_all, squeezes, .. } = claim;
        let (token, repositories) = (FencingToken(0), Vec::new());
        let order = UnitOrder { unit, attempt, token, repositories, parts, reads_all, source: None };
        let squeezer = squeezes.then(Squeezer::new).transpose()?;
        Ok(Desk { context, order, open: None, asks: VecDeque::new(), buffers, squeezer })
    }

    pub(super) fn ask(&mut self, asks: impl IntoIterator<Item = Ask>) {
        self.asks.extend(asks);
    }

    /// Whether there is something to do.
    pub(super) fn is_asked(&self) -> bool {
        !self.asks.is_empty()
    }

    /// Whether more may be asked now.
    pub(super) fn has_room(&self) -> bool {
        self.asks.len() < ASKS_MAX
    }

    /// The next helping, as far as nothing has to be waited for; nothing where the first wish needs a thread that may wait.
    pub(super) fn work_at_once(&mut self) -> Answers {
        let mut answers = Answers::default();
        // Compressing is no work for a thread that others wait for.
        if self.squeezer.is_some() || self.context.check_running().is_err() {
            return answers;
        }
        while answers.has_room()
            && let Some(Ask::Read { offset, length }) = self.asks.front()
            && let Some(chunk) = self.read_cached(*offset, *length)
            && let Ok(head) = head_of(chunk.len(), chunk.len())
        {
            self.asks.pop_front();
            answers.add_chunk(chunk.len(), head, chunk.freeze());
            answers.count += 1;
        }
        answers
    }

    /// Does what was asked for, until there is a helping of answers. Blocks.
    pub(super) fn work(&mut self) -> Answers {
        let mut answers = Answers::default();
        while answers.has_room()
            && let Some(ask) = self.asks.pop_front()
        {
            if let Err(failure) = self.answer(ask, &mut answers) {
                answers.is_last = true;
                // A failure is words; what cannot be said in a frame is told by the stream's end.
                if let Ok(last) = encode(&Answer::Failed(failure)) {
                    answers.add(last);
                }
                break;
            }
            answers.count += 1;
        }
        answers
    }

    fn answer(&mut self, ask: Ask, answers: &mut Answers) -> Result<(), Failure> {
        self.context.check_running()?;
        match ask {
            Ask::Open { part } => {
                let answer = self.open(part)?;
                answers.add(encode(&answer)?);
            }
            Ask::Read { offset, length } => {
                let part = self.open_part()?;
                if !is_covered(part, offset, length) {
                    return Err(not_covered(part, offset, u64::from(length)));
                }
                let raw = self.read(offset, length)?;
                self.send(raw, answers)?;
            }
            Ask::Rest => {
                let part = self.open_part()?;
                if part.class.wal_protected() {
                    return Err(not_covered(part, part.offset, u64::MAX));
                }
                let at = self.open.as_ref().map_or(0, |open| open.at);
                let raw = self.read(at, CHUNK_BYTES)?;
                if raw.len() == CHUNK_BYTES as usize {
                    // There may be more, which is the next answer to the same wish.
                    self.asks.push_front(Ask::Rest);
                }
                self.send(raw, answers)?;
            }
            Ask::Page { part, offset } => {
                let page = self.page(part, offset)?;
                self.send(page, answers)?;
            }
        }
        Ok(())
    }

    fn open(&mut self, number: u32) -> Result<Answer, Failure> {
        let part = number as usize;
        let is_next = self.open.as_ref().is_none_or(|open| open.part < part);
        let Some(wanted) = self.order.parts.get(part).filter(|_| is_next) else {
            return Err(Failure::new(ErrorCode::Protocol, format!("there is no part {number} to be opened")));
        };
        let at = wanted.offset;
        let opened = PartReader::open(&self.context, &self.order, wanted)?;
        let (reader, answer) = match opened {
            Opened::Vanished => (None, Answer::Vanished),
            Opened::Present(reader) => {
                let unread = Unread::of(&self.context, &self.order, wanted, &reader)?;
                let unread = unread.as_ref().and_then(Unread::told);
                let summaries = self.context.summaries.as_ref();
                let wrong_summary = summaries.and_then(|summaries| summaries.wrong()).map(str::to_owned);
                (Some(reader), Answer::Opened { unread, wrong_summary })
            }
        };
        self.open = Some(Open { part, reader, at, is_over: false });
        Ok(answer)
    }

    fn open_part(&self) -> Result<&UnitPart, Failure> {
        let open = self.open.as_ref().and_then(|open| self.order.parts.get(open.part));
        open.ok_or_else(|| Failure::new(ErrorCode::Protocol, "bytes were asked for before a part was opened"))
    }

    /// As many bytes as there are; fewer only at the end, after which there are none, whatever is written then.
    fn read(&mut self, offset: u64, length: u32) -> Result<Buffer, Failure> {
        let behind = || Failure::new(ErrorCode::Protocol, "bytes were asked for again");
        let open = self.open.as_mut().ok_or_else(behind)?;
        let Some(reader) = open.reader.as_mut().filter(|_| !open.is_over) else {
            return Ok(self.buffers.take(0));
        };
        reader.skip(offset.checked_sub(open.at).ok_or_else(behind)?);
        let mut chunk = self.buffers.take(length);
        let filled = reader.fill(chunk.as_mut_slice())?;
        open.is_over = filled < chunk.len();
        open.at = offset + filled as u64;
        chunk.truncate(filled);
        Ok(chunk)
    }

    /// All of it from the page cache; `None` leaves everything as it was, for [`read`](Self::read) to do and to judge.
    fn read_cached(&mut self, offset: u64, length: u32) -> Option<Buffer> {
        let open = self.open.as_mut().filter(|open| !open.is_over)?;
        let part = self.order.parts.get(open.part)?;
        let ahead = offset.checked_sub(open.at).filter(|_| is_covered(part, offset, length))?;
        let mut chunk = self.buffers.take(length);
        if !open.reader.as_mut()?.fill_cached(ahead, chunk.as_mut_slice()) {
            return None;
        }
        open.at = offset + u64::from(length);
        Some(chunk)
    }

    /// Nothing if it is not all there any more.
    fn page(&mut self, number: u32, offset: u64) -> Result<Buffer, Failure> {
        let (context, number) = (&self.context, number as usize);
        let page_size = context.shape.page_size.bytes();
        let unknown = || Failure::new(ErrorCode::Protocol, "a page of a part that was not opened");
        let open = self.open.as_ref().filter(|open| number <= open.part).ok_or_else(unknown)?;
        let part = self.order.parts.get(number).ok_or_else(unknown)?;
        let end = part.offset.saturating_add(part.length);
        if offset < part.offset || offset.saturating_add(u64::from(page_size)) > end {
            return Err(not_covered(part, offset, u64::from(page_size)));
        }
        let mut page = self.buffers.take(page_size);
        let is_there = match &open.reader {
            Some(reader) if number == open.part => reader.read_page(offset, page.as_mut_slice())?,
            None if number == open.part => false,
            // The reader is at a later part by now.
            _ => match PartReader::open(context, &self.order, part)? {
                Opened::Present(reader) => reader.read_page(offset, page.as_mut_slice())?,
                Opened::Vanished => false,
            },
        };
        if !is_there {
            page.truncate(0);
        }
        Ok(page)
    }

    fn send(&mut self, raw: Buffer, answers: &mut Answers) -> Result<(), Failure> {
        let length = raw.len();
        let squeezed = match &mut self.squeezer {
            Some(squeezer) => squeezer.squeeze(raw.as_ref())?,
            None => None,
        };
        let stored = squeezed.unwrap_or_else(|| raw.freeze());
        answers.add_chunk(length, head_of(length, stored.len())?, stored);
        Ok(())
    }
}

/// What goes before the bytes of a chunk.
fn head_of(raw: usize, stored: usize) -> Result<Bytes, Failure> {
    let number = |bytes: usize| u32::try_from(bytes).expect("a chunk is short");
    Ok(encode(&Answer::Bytes { raw: number(raw), stored: number(stored) })?)
}

fn is_covered(part: &UnitPart, offset: u64, length: u32) -> bool {
    let end = part.offset.saturating_add(part.length);
    length <= CHUNK_BYTES && offset >= part.offset && offset.saturating_add(u64::from(length)) <= end
}

fn not_covered(part: &UnitPart, offset: u64, length: u64) -> Failure {
    let message = format!("{length} bytes of {} from {offset} on are not what the ticket is for", part.path);
    Failure::new(ErrorCode::Access, message)
}
