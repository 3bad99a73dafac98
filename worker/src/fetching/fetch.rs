//! One attempt's bytes, from the source that serves it. Called on a slot's own thread; every wait has a limit.
//!
//! Answers come in the order of the wishes. What arrives while the slot computes waits in the stream's own window, and what must
//! be passed to come at a page that is read again waits here: no more than was asked for.

use super::ahead::{Ahead, Asked, Wanted};
use super::line::Line;
use crate::job::JobContext;
use crate::serving::protocol::{Answer, Ask, CHUNK_BYTES, Claim, Told, encode};
use crate::serving::unsqueeze;
use bytes::{Buf, Bytes, BytesMut};
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::wire::{RemoteSource, UnitOrder, UnitPart};
use std::collections::VecDeque;
use std::ops::Range;

/// Bytes of a part, not used yet.
struct Chunk {
    asked: Asked,
    pieces: VecDeque<Bytes>,
    /// The file has no more than these.
    is_last: bool,
}

enum Got {
    Opened { part: usize, unread: Option<Told> },
    Vanished { part: usize },
    Bytes(Chunk),
}

pub(crate) struct Fetch {
    line: Line,
    ahead: Ahead,
    /// Wishes without an answer, the oldest first.
    asked: VecDeque<Asked>,
    /// Answers that were passed on the way to a page.
    passed: VecDeque<Got>,
    /// Number of the part at hand.
    part: usize,
    /// Where the next byte lies in the file.
    at: u64,
    current: Option<Chunk>,
    /// The file ends at `at`.
    is_over: bool,
    unread: Option<Told>,
    wrong_summary: Option<String>,
}

impl Fetch {
    /// Claims the attempt. Blocks until the source is reached.
    pub(crate) fn begin(
        context: &JobContext,
        order: &UnitOrder,
        remote: &RemoteSource,
    ) -> Result<Fetch, Failure> {
        let may_skip = context.units.summaries.is_some() && !context.units.file_sha1 && !order.reads_all;
        let wanted = |part: &UnitPart| Wanted::of(part, may_skip && part.prior_size.is_some());
        let mut line = Line::open(context, remote)?;
        let claim = Claim {
            job: context.remote.job(),
            unit: order.unit,
            attempt: order.attempt,
            parts: order.parts.clone(),
            reads_all: order.reads_all,
            squeezes: line.is_squeezed(),
            ticket: remote.ticket,
        };
        line.say(encode(&claim)?)?;
        Ok(Fetch {
            line,
            ahead: Ahead::new(order.parts.iter().map(wanted).collect()),
            asked: VecDeque::new(),
            passed: VecDeque::new(),
            part: 0,
            at: 0,
            current: None,
            is_over: false,
            unread: None,
            wrong_summary: None,
        })
    }

    /// What the source has found out about its WAL summaries.
    pub(crate) fn wrong_summary(&self) -> Option<&str> {
        self.wrong_summary.as_deref()
    }

    /// Comes to that part, a later one than before; `false` if it has vanished.
    pub(crate) fn open(&mut self, number: usize, part: &UnitPart) -> Result<bool, Failure> {
        self.drop_current();
        loop {
            let (opened, is_there, unread) = match self.next_got()? {
                // Of the part before, which had less than was asked for.
                Got::Bytes(chunk) => {
                    self.ahead.used(chunk.asked.bytes);
                    continue;
                }
                Got::Opened { part, unread } => (part, true, unread),
                Got::Vanished { part } => (part, false, None),
            };
            if !is_there && self.ahead.awaits(opened) {
                self.ahead.expect([]);
            }
            if opened == number {
                (self.part, self.at, self.is_over, self.unread) = (number, part.offset, !is_there, unread);
                return Ok(is_there);
            }
        }
    }

    /// What WAL summaries allow to leave unread of the part.
    pub(crate) fn take_unread(&mut self) -> Option<Told> {
        self.unread.take()
    }

    /// Whether nothing of the part comes before it is told what is needed.
    pub(crate) fn awaits_plan(&self) -> bool {
        self.ahead.awaits(self.part)
    }

    /// These ranges of the part will be read, in this order.
    pub(crate) fn expect(&mut self, ranges: impl IntoIterator<Item = Range<u64>>) -> Result<(), Failure> {
        self.ahead.expect(ranges);
        self.top_up()
    }

    /// The next bytes are known and stay unread.
    pub(crate) fn skip(&mut self, bytes: u64) {
        self.at += bytes;
    }

    /// Fills as much of the buffer as there is; less only at the end.
    pub(crate) fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, Failure> {
        let mut filled = 0;
        while filled < buffer.len() {
            if self.current.is_none() {
                if self.is_over {
                    break;
                }
                self.current = Some(self.next_chunk()?);
            }
            if let Some(chunk) = &mut self.current {
                let copied = copy(&mut chunk.pieces, &mut buffer[filled..]);
                (filled, self.at) = (filled + copied, self.at + copied as u64);
                if chunk.pieces.is_empty() {
                    self.drop_current();
                }
            }
        }
        // While these bytes are computed on, the next ones come.
        self.top_up()?;
        Ok(filled)
    }

    /// A page of the part as it is now; `false` if it is not all there.
    pub(crate) fn page(&mut self, offset: u64, page: &mut [u8]) -> Result<bool, Failure> {
        let part = u32::try_from(self.part).expect("a unit has a few thousand parts");
        let ask = Ask::Page { part, offset };
        self.line.say(encode(&ask)?)?;
        self.asked.push_back(Asked { ask, part: self.part, bytes: 0 });
        loop {
            match self.receive()? {
                Got::Bytes(mut chunk) if chunk.asked.ask == ask => {
                    let copied = copy(&mut chunk.pieces, page);
                    return Ok(copied == page.len());
                }
                passed => self.passed.push_back(passed),
            }
        }
    }

    fn drop_current(&mut self) {
        if let Some(chunk) = self.current.take() {
            self.is_over |= chunk.is_last;
            self.ahead.used(chunk.asked.bytes);
        }
    }

    fn next_chunk(&mut self) -> Result<Chunk, Failure> {
        match self.next_got()? {
            Got::Bytes(chunk) if chunk.asked.part == self.part && self.is_next(&chunk) => Ok(chunk),
            _ => Err(Failure::new(ErrorCode::Assert, "what a source was asked for is not what is needed")),
        }
    }

    fn is_next(&self, chunk: &Chunk) -> bool {
        match chunk.asked.ask {
            Ask::Read { offset, .. } => offset == self.at,
            _ => true,
        }
    }

    fn next_got(&mut self) -> Result<Got, Failure> {
        if let Some(passed) = self.passed.pop_front() {
            return Ok(passed);
        }
        self.top_up()?;
        self.receive()
    }

    /// Asks for as much as may be under way, once that is worth saying.
    fn top_up(&mut self) -> Result<(), Failure> {
        if !self.asked.is_empty() && !self.ahead.has_room(self.asked.len()) {
            return Ok(());
        }
        let mut asks = BytesMut::new();
        while let Some(asked) = self.ahead.next(self.asked.len()) {
            asks.extend_from_slice(&encode(&asked.ask)?);
            self.asked.push_back(asked);
        }
        if asks.is_empty() { Ok(()) } else { self.line.say(asks.freeze()) }
    }

    /// The answer to the oldest wish.
    fn receive(&mut self) -> Result<Got, Failure> {
        let Some(asked) = self.asked.front().copied() else {
            return Err(Failure::new(ErrorCode::Assert, "a slot waits for a source that was asked nothing"));
        };
        let (answer, body) = self.line.answer()?;
        match (answer, asked.ask) {
            (Answer::Failed(failure), _) => Err(failure.context(format!("source {}", self.line.worker()))),
            (Answer::Vanished, Ask::Open { .. }) => {
                self.asked.pop_front();
                Ok(Got::Vanished { part: asked.part })
            }
            (Answer::Opened { unread, wrong_summary }, Ask::Open { .. }) => {
                self.asked.pop_front();
                self.wrong_summary = wrong_summary.or(self.wrong_summary.take());
                Ok(Got::Opened { part: asked.part, unread })
            }
            (Answer::Bytes { raw, stored }, Ask::Read { .. } | Ask::Rest | Ask::Page { .. }) => {
                self.bytes(asked, raw, stored, body).map(Got::Bytes)
            }
            _ => Err(self.line.nonsense()),
        }
    }

    fn bytes(
        &mut self,
        mut asked: Asked,
        raw: u32,
        stored: u32,
        body: VecDeque<Bytes>,
    ) -> Result<Chunk, Failure> {
        let most = match asked.ask {
            Ask::Read { length, .. } => length,
            _ => CHUNK_BYTES,
        };
        if raw > most || stored > raw {
            return Err(self.line.nonsense());
        }
        let is_last = raw < most;
        if asked.ask == Ask::Rest && !is_last {
            // More of it follows, and only its end gives its place to others.
            asked.bytes = 0;
        } else {
            self.asked.pop_front();
        }
        let pieces = unsqueeze(body, stored as usize, raw as usize)?;
        Ok(Chunk { asked, pieces, is_last })
    }
}

/// From the front of the pieces; what was copied is gone from them.
fn copy(pieces: &mut VecDeque<Bytes>, buffer: &mut [u8]) -> usize {
    let mut copied = 0;
    while let Some(piece) = pieces.front_mut().filter(|_| copied < buffer.len()) {
        let count = piece.len().min(buffer.len() - copied);
        buffer[copied..copied + count].copy_from_slice(&piece[..count]);
        piece.advance(count);
        copied += count;
        if piece.is_empty() {
            pieces.pop_front();
        }
    }
    copied
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
    use super::*;
    use crate::job::testing::{ONE, PATIENCE, Site, order, part};
    use crate::serving::testing::Source;
    use std::time::Duration;

    const BYTES: usize = 6 << 20;

    fn fetched(context: &JobContext, order: &UnitOrder) -> (bool, Vec<u8>) {
        let mut fetch = Fetch::begin(context, order, order.source.as_ref().unwrap()).unwrap();
        assert!(fetch.open(0, &order.parts[0]).unwrap());
        let mut bytes = vec![0; BYTES];
        assert_eq!(fetch.fill(&mut bytes).unwrap(), BYTES);
        (fetch.line.is_squeezed(), bytes)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_slot_that_starves_again_and_again_asks_for_lz4_and_gets_the_same_bytes() {
        let site = Site::new().await;
        let content: Vec<u8> = (0..BYTES).map(|at| u8::try_from(at / 1000 % 251).unwrap()).collect();
        site.write("base/5/16384", &content);
        let source = Source::of(&site.context(PATIENCE).await);
        let there = source.computer(&site, PATIENCE).await;
        source.network.delay(Duration::from_millis(50));
        for (unit, squeezes) in [(1, false), (2, false), (3, false), (4, true)] {
            let order = source.serves(order(unit, &[ONE], &[part("base/5/16384", BYTES)]));
            let context = there.clone();
            let work = tokio::task::spawn_blocking(move || fetched(&context, &order));
            let (is_squeezed, bytes) = work.await.unwrap();
            assert_eq!(is_squeezed, squeezes);
            assert!(bytes == content, "unit {unit} came back changed");
        }
    }
}
