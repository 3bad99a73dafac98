//! Which blocks of a part are left unread, since the server's WAL summaries say that the prior backup has them.
//!
//! Samples of what would be left unread are looked at first. A page that WAL has changed though no summary says so ends the
//! belief in all of them: this part is read, and so is everything after it.

use super::reader::PartReader;
use crate::job::{JobContext, Summaries};
use crate::serving::protocol::Told;
use pgconvoy_core::failure::Failure;
use pgconvoy_core::plan::summaries::{Judgement, PageRanges, ToRead, judge, sample};
use pgconvoy_core::wire::{UnitOrder, UnitPart};
use std::ops::Range;
use std::time::Duration;

/// A page that is being written is complete long before this.
const WRITING: Duration = Duration::from_millis(300);

/// Ranges of pages that are told of one part: of a gigabyte, every second page. They fit a message.
const TOLD_MAX: usize = 1 << 16;

pub(crate) struct Unread {
    page_size: u64,
    to_read: PageRanges,
    /// Bytes of the file that are there now and were there in the prior.
    end: u64,
}

impl Unread {
    /// `None`: all of it is read.
    pub(crate) fn of(
        context: &JobContext,
        order: &UnitOrder,
        part: &UnitPart,
        reader: &PartReader<'_>,
    ) -> Result<Option<Unread>, Failure> {
        let usable = |summaries: &&Summaries| !order.reads_all && summaries.wrong().is_none();
        let Some(summaries) = context.summaries.as_ref().filter(usable) else { return Ok(None) };
        // A digest of the whole file needs all of it.
        let (Some(prior_size), false) = (part.prior_size, context.units.file_sha1) else { return Ok(None) };
        let page_size = u64::from(summaries.geometry.page_size.bytes());
        let Some(pages) = pages_of(part.offset..part.offset + part.length, page_size) else {
            return Ok(None);
        };
        let path = part.path.as_str();
        let to_read = summaries.changed.to_read(summaries.geometry, path, Some(prior_size), pages.clone());
        let ToRead::Pages(to_read) = to_read else { return Ok(None) };
        let unread = Unread { page_size, to_read, end: prior_size.min(reader.size()?) };
        let is_right = unread.audit(context, summaries, part, reader, &pages)?;
        Ok(is_right.then_some(unread))
    }

    /// For a compute worker; nothing if it is more than is worth telling: all of it is read then.
    pub(crate) fn told(&self) -> Option<Told> {
        let to_read: Vec<(u32, u32)> =
            self.to_read.iter().take(TOLD_MAX + 1).map(|range| (range.start, range.end)).collect();
        (to_read.len() <= TOLD_MAX).then_some(Told { end: self.end, to_read })
    }

    /// By the source that serves the part, which has audited it.
    pub(super) fn as_told(told: &Told, page_size: u32) -> Unread {
        let to_read = PageRanges::new(told.to_read.iter().map(|(start, end)| *start..*end));
        Unread { page_size: u64::from(page_size), to_read, end: told.end }
    }

    /// Whether these bytes of the file are there and unchanged.
    pub(super) fn may_skip(&self, bytes: Range<u64>) -> bool {
        let is_there = bytes.end <= self.end;
        pages_of(bytes, self.page_size).is_some_and(|pages| is_there && !self.to_read.meets(&pages))
    }

    fn audit(
        &self,
        context: &JobContext,
        summaries: &Summaries,
        part: &UnitPart,
        reader: &PartReader<'_>,
        pages: &Range<u32>,
    ) -> Result<bool, Failure> {
        // Other pages in each backup, the same ones in each attempt.
        let seed = summaries.window.start.0;
        let mut page = vec![0; usize::try_from(self.page_size).unwrap_or_default()];
        for number in sample(seed, part.path.as_str(), &self.to_read.without(pages)) {
            context.check_running()?;
            let offset = u64::from(number) * self.page_size;
            // Read again before it is believed: the server may have been writing it.
            let is_wrong = |page: &[u8]| matches!(judge(page, &summaries.window), Judgement::Wrong(_));
            if offset + self.page_size > self.end
                || !(reader.read_page(offset, &mut page)? && is_wrong(&page))
            {
                continue;
            }
            std::thread::sleep(WRITING);
            if !(reader.read_page(offset, &mut page)? && is_wrong(&page)) {
                continue;
            }
            let reason = format!("page {number} of {} was changed, and no summary says so", part.path);
            tracing::error!("WAL summaries are wrong: {reason}");
            summaries.distrust(reason);
            return Ok(false);
        }
        Ok(true)
    }
}

/// Pages that bytes lie in; `None` if there are more than a file can have.
fn pages_of(bytes: Range<u64>, page_size: u64) -> Option<Range<u32>> {
    let page = |offset: u64| u32::try_from(offset).ok();
    Some(page(bytes.start / page_size)?..page(bytes.end.div_ceil(page_size))?)
}
