//! Reads what one attempt asks for. All of it blocks: it runs on blocking threads, a helping at a time.
//!
//! Files are opened, judged and read by the same code as where the source computes itself; what a compute worker is told of WAL
//! summaries was audited here, where the file is.
//!
//! Invariant: nothing is read that the claim's parts do not cover.

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
    pub(super) fn new(context: Arc<JobContext>, claim: Claim) -> Result<Desk, Failure> {
        let Claim { unit, attempt, parts, reads_all, squeezes, .. } = claim;
        let (token, repositories) = (FencingToken(0), Vec::new());
        let order = UnitOrder { unit, attempt, token, repositories, parts, reads_all, source: None };
        let squeezer = squeezes.then(Squeezer::new).transpose()?;
        Ok(Desk { context, order, open: None, asks: VecDeque::new(), squeezer })
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

    /// Does what was asked for, until there is a helping of answers.
    pub(super) fn work(&mut self) -> Answers {
        let mut answers = Answers::default();
        let mut count = 0;
        while let Some(ask) = self.asks.pop_front() {
            if let Err(failure) = self.answer(ask, &mut answers) {
                answers.is_last = true;
                // A failure is words; what cannot be said in a frame is told by the stream's end.
                if let Ok(last) = encode(&Answer::Failed(failure)) {
                    answers.add(last);
                }
                break;
            }
            count += 1;
            if answers.read + u64::from(CHUNK_BYTES) > HELPING_BYTES || count >= ANSWERS_MAX {
                break;
            }
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
                let end = part.offset.saturating_add(part.length);
                let is_covered = offset >= part.offset && offset.saturating_add(u64::from(length)) <= end;
                if !is_covered || length > CHUNK_BYTES {
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
    fn read(&mut self, offset: u64, length: u32) -> Result<Vec<u8>, Failure> {
        let behind = || Failure::new(ErrorCode::Protocol, "bytes were asked for again");
        let open = self.open.as_mut().ok_or_else(behind)?;
        let Some(reader) = open.reader.as_mut().filter(|_| !open.is_over) else { return Ok(Vec::new()) };
        reader.skip(offset.checked_sub(open.at).ok_or_else(behind)?);
        let mut bytes = vec![0; length as usize];
        let filled = reader.fill(&mut bytes)?;
        open.is_over = filled < bytes.len();
        open.at = offset + filled as u64;
        bytes.truncate(filled);
        Ok(bytes)
    }

    /// Nothing if it is not all there any more.
    fn page(&mut self, number: u32, offset: u64) -> Result<Vec<u8>, Failure> {
        let (context, number) = (&self.context, number as usize);
        let page_size = context.shape.page_size.bytes();
        let unknown = || Failure::new(ErrorCode::Protocol, "a page of a part that was not opened");
        let open = self.open.as_ref().filter(|open| number <= open.part).ok_or_else(unknown)?;
        let part = self.order.parts.get(number).ok_or_else(unknown)?;
        let end = part.offset.saturating_add(part.length);
        if offset < part.offset || offset.saturating_add(u64::from(page_size)) > end {
            return Err(not_covered(part, offset, u64::from(page_size)));
        }
        let mut page = vec![0; page_size as usize];
        let is_there = match &open.reader {
            Some(reader) if number == open.part => reader.read_page(offset, &mut page)?,
            None if number == open.part => false,
            // The reader is at a later part by now.
            _ => match PartReader::open(context, &self.order, part)? {
                Opened::Present(reader) => reader.read_page(offset, &mut page)?,
                Opened::Vanished => false,
            },
        };
        Ok(if is_there { page } else { Vec::new() })
    }

    fn send(&mut self, raw: Vec<u8>, answers: &mut Answers) -> Result<(), Failure> {
        let length = raw.len();
        let stored = match &mut self.squeezer {
            Some(squeezer) => squeezer.squeeze(raw)?,
            None => raw.into(),
        };
        let number = |bytes: usize| u32::try_from(bytes).expect("a chunk is short");
        let head = Answer::Bytes { raw: number(length), stored: number(stored.len()) };
        answers.add(encode(&head)?);
        answers.add(stored);
        answers.read += length as u64;
        Ok(())
    }
}

fn not_covered(part: &UnitPart, offset: u64, length: u64) -> Failure {
    let message = format!("{length} bytes of {} from {offset} on are not what the ticket is for", part.path);
    Failure::new(ErrorCode::Access, message)
}
