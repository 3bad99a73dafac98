//! What WAL summaries allow an incremental backup to leave unread: unchanged blocks of main forks, which are as the prior
//! backup has them.
//!
//! Not here: reading summaries (`common/postgres`), and what to do with a block that is skipped.
//!
//! A backup holds its files as of its *start*, plus what its WAL makes of them. So what counts is all WAL from the prior's
//! start to this one's start: a block that none of it touched is in the prior as it is now, but for hints.
//!
//! Invariants
//! 1. Whatever is not known to be unchanged is read. No coverage without the prior's whole backup, its stop included, in
//!    this server's past: what a dead branch wrote is in no summary of this one.
//! 2. Only main forks are skipped: summaries have visibility maps in part, free space maps not at all.
//! 3. Giving memory back ([`ChangedBlocks`]) reads more, never less.
//!
//! Failure story: any reason not to trust the summaries is a [`NoSummaries`], and then everything is read and hashed.

mod audit;
mod changed;
mod pages;

pub use audit::{Judgement, judge, sample};
pub use changed::{ChangedBlocks, Geometry, Merging, ToRead, Unknown};
pub use pages::PageRanges;

use crate::format::manifest::ManifestHead;
use crate::pg::{ControlFile, Lsn, PgVersion, TimelineHistory, TimelineId, WalSummaryName};
use serde::{Deserialize, Serialize};

/// From the prior backup's start to this one's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    pub prior_timeline: TimelineId,
    pub prior_start: Lsn,
    pub prior_stop: Lsn,
    pub timeline: TimelineId,
    pub start: Lsn,
}

impl Window {
    /// From the start of the prior backup to one that started at `start`.
    pub fn since(prior: &ManifestHead, timeline: TimelineId, start: Lsn) -> Result<Window, NoSummaries> {
        match (prior.online, prior.lsn_start, prior.lsn_stop) {
            (true, Some(prior_start), Some(prior_stop)) => {
                Ok(Window { prior_timeline: prior.timeline, prior_start, prior_stop, timeline, start })
            }
            _ => Err(NoSummaries::PriorOffline),
        }
    }
}

/// What must not have changed since the prior backup: WAL does not tell of it. All else that could matter (system
/// identifier, segment size) is fixed by initdb.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterShape {
    pub version: PgVersion,
    pub catalog_version: u32,
    pub checksums: bool,
    pub page_size: u32,
}

impl ClusterShape {
    pub fn of_prior(prior: &ManifestHead) -> Self {
        ClusterShape {
            version: prior.version,
            catalog_version: prior.catalog_version,
            checksums: prior.checksums,
            page_size: prior.page_size,
        }
    }

    pub fn of(control: &ControlFile) -> Self {
        ClusterShape {
            version: control.version,
            catalog_version: control.catalog_version,
            checksums: control.has_page_checksums(),
            page_size: control.page_size.bytes(),
        }
    }
}

/// Why summaries are not used, for the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoSummaries {
    #[error("PostgreSQL {0} writes none, 17 is the first that does")]
    Version(PgVersion),
    #[error("summarize_wal is off")]
    Off,
    #[error("{what} changed since the prior backup")]
    Changed { what: &'static str },
    #[error("the prior backup was made offline")]
    PriorOffline,
    #[error("the prior backup ended at {stop} of timeline {timeline}, which is not in this server's past")]
    OtherBranch { timeline: TimelineId, stop: Lsn },
    #[error("the prior backup ended at {stop}, this one began at {start} before that")]
    Overlap { stop: Lsn, start: Lsn },
    #[error("WAL of timeline {timeline} from {from} to {to} is not summarized")]
    Gap { timeline: TimelineId, from: Lsn, to: Lsn },
    /// The only reason that time may mend.
    #[error("summaries have come to {reached} of timeline {timeline}, this backup began at {start}")]
    Behind { timeline: TimelineId, reached: Lsn, start: Lsn },
    #[error("summary '{0}' is gone")]
    Vanished(WalSummaryName),
    #[error("summary '{name}' is not valid: {reason}")]
    Invalid { name: WalSummaryName, reason: String },
    #[error("unable to read '{path}': {reason}")]
    Unreadable { path: String, reason: String },
    #[error("the backup was given up while it waited for summaries")]
    GivenUp,
}

/// Whether summaries may be asked at all.
pub fn same_shape(prior: ClusterShape, now: ClusterShape) -> Result<(), NoSummaries> {
    if !now.version.has_wal_summaries() {
        return Err(NoSummaries::Version(now.version));
    }
    let differences = [
        ("the version", (prior.version, prior.catalog_version) != (now.version, now.catalog_version)),
        ("the setting of page checksums", prior.checksums != now.checksums),
        ("the page size", prior.page_size != now.page_size),
    ];
    match differences.into_iter().find(|(_, differ)| *differ) {
        Some((what, _)) => Err(NoSummaries::Changed { what }),
        None => Ok(()),
    }
}

/// WAL of one timeline, from `from` up to (not including) `to`.
struct Span {
    timeline: TimelineId,
    from: Lsn,
    to: Lsn,
}

/// The summaries that together tell all that happened in the window, oldest first. `history` is that of the window's
/// timeline. Summaries may overlap and reach beyond it: what they say in addition is read without need.
pub fn coverage(
    summaries: &[WalSummaryName],
    window: &Window,
    history: &TimelineHistory,
) -> Result<Vec<WalSummaryName>, NoSummaries> {
    let mut needed = Vec::new();
    for span in spans(window, history)? {
        let mut within: Vec<WalSummaryName> = summaries
            .iter()
            .filter(|name| name.timeline() == span.timeline)
            .filter(|name| name.start() < span.to && name.end() > span.from)
            .copied()
            .collect();
        within.sort();
        let reached = within.iter().fold(span.from, |reached, name| {
            if name.start() <= reached { reached.max(name.end()) } else { reached }
        });
        if reached < span.to {
            return Err(missing(summaries, window, &span, reached));
        }
        needed.extend(within);
    }
    Ok(needed)
}

/// Whether anything later is summarized: then nobody goes back for what is missing.
fn missing(summaries: &[WalSummaryName], window: &Window, span: &Span, reached: Lsn) -> NoSummaries {
    let is_later = |name: &&WalSummaryName| {
        name.timeline() > span.timeline && name.timeline() <= window.timeline
            || name.timeline() == span.timeline && name.start() > reached
    };
    match summaries.iter().filter(is_later).min() {
        None => NoSummaries::Behind { timeline: span.timeline, reached, start: window.start },
        Some(later) => {
            let to = if later.timeline() == span.timeline { later.start().min(span.to) } else { span.to };
            NoSummaries::Gap { timeline: span.timeline, from: reached, to }
        }
    }
}

/// The way from the prior's start to this start, over the forks of the history. Pieces without WAL are left out.
fn spans(window: &Window, history: &TimelineHistory) -> Result<Vec<Span>, NoSummaries> {
    let Window { prior_timeline, prior_start, prior_stop, timeline, start } = *window;
    if prior_start > prior_stop || prior_stop > start {
        return Err(NoSummaries::Overlap { stop: prior_stop, start });
    }
    let is_past = history.timeline() == timeline
        && history.contains(prior_timeline, prior_start)
        && history.contains(prior_timeline, prior_stop)
        && history.contains(timeline, start);
    if !is_past {
        return Err(NoSummaries::OtherBranch { timeline: prior_timeline, stop: prior_stop });
    }
    let mut from = prior_start;
    let mut spans = Vec::new();
    let forks = history.entries().iter().map(|entry| (entry.timeline, entry.end));
    for (timeline, to) in forks.skip_while(|fork| fork.0 < prior_timeline).chain([(timeline, start)]) {
        if from < to {
            spans.push(Span { timeline, from, to });
        }
        from = to;
    }
    Ok(spans)
}

#[cfg(test)]
mod tests;
