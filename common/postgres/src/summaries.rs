//! Reads the WAL summaries that tell what changed since the prior backup. Blocks, but for what it asks the server.
//!
//! Not here: what they mean for a file (`pgconvoy_core::plan::summaries`).
//!
//! The server writes a summary when the WAL has passed the redo position of a checkpoint, some time later and by itself. A
//! backup's start is such a position, so a summary that ends there is a matter of moments: it is waited for.
//!
//! Invariants
//! 1. All needed summaries are read to their end with right checksums, or none counts: one that vanishes or is damaged in
//!    between is a gap.
//! 2. Memory does not grow with the size of a summary; see [`ChangedBlocks`] for what is kept.
//! 3. Every failure is a reason to read everything, never one to fail a backup.

use crate::PostgresError;
use crate::connect::Client;
use pgconvoy_core::pg::wal_summary::SUMMARY_DIRECTORY;
use pgconvoy_core::pg::{SummaryDecoder, TimelineHistory, TimelineId, WalSummaryName};
use pgconvoy_core::plan::summaries::{ChangedBlocks, NoSummaries, Window, coverage};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;
use std::time::{Duration, Instant};

/// How often the directory is looked at while the server is behind.
const POLL: Duration = Duration::from_millis(100);
/// How much of a summary is in memory at once, in bytes.
const PIECE: usize = 256 << 10;
/// A history has a line for each promotion.
const HISTORY_BYTES_MAX: u64 = 1 << 20;

pub struct SummaryRequest<'a> {
    pub directory: &'a Path,
    pub window: Window,
    /// How long the server may take to come to this backup's start.
    pub wait_at_most: Duration,
    /// Asked while waiting; `true` ends it.
    pub given_up: &'a dyn Fn() -> bool,
}

/// What changed in the window, and what it took to know it.
#[derive(Debug)]
pub struct Summarized {
    pub changed: ChangedBlocks,
    /// The summaries that were read, oldest first.
    pub summaries: Vec<WalSummaryName>,
    pub bytes: u64,
    pub waited: Duration,
}

/// Everything that the summaries say of the window, or why it must not be believed.
pub fn load_summaries(request: &SummaryRequest<'_>) -> Result<Summarized, NoSummaries> {
    let began = Instant::now();
    let history = read_history(request.directory, request.window.timeline)?;
    let summaries = loop {
        match coverage(&list(request.directory)?, &request.window, &history) {
            Ok(summaries) => break summaries,
            Err(NoSummaries::Behind { .. }) if (request.given_up)() => return Err(NoSummaries::GivenUp),
            // Ends after `wait_at_most`.
            Err(NoSummaries::Behind { .. }) if began.elapsed() < request.wait_at_most => {
                std::thread::sleep(POLL.min(request.wait_at_most));
            }
            Err(reason) => return Err(reason),
        }
    };
    let waited = began.elapsed();
    let mut changed = ChangedBlocks::default();
    let mut bytes = 0;
    for name in &summaries {
        bytes += merge(request.directory, *name, &mut changed)?;
    }
    Ok(Summarized { changed, summaries, bytes, waited })
}

impl Client {
    /// Whether the server writes summaries: if not, none are worth waiting for.
    pub async fn summarizes_wal(&self) -> Result<bool, PostgresError> {
        // Before version 17 the setting does not exist.
        let sql = "select coalesce(current_setting('summarize_wal', true), 'off') = 'on' as is_on";
        self.session().row("tell whether it summarizes WAL", sql, &[]).await?.get("is_on")
    }
}

/// Without `<timeline>.history` nothing is known of what was before, and only a prior of this timeline will do.
fn read_history(directory: &Path, timeline: TimelineId) -> Result<TimelineHistory, NoSummaries> {
    let path = directory.join("pg_wal").join(format!("{:08X}.history", timeline.0));
    let read = || -> std::io::Result<String> {
        let mut text = String::new();
        File::open(&path)?.take(HISTORY_BYTES_MAX).read_to_string(&mut text)?;
        Ok(text)
    };
    match read() {
        Ok(text) => TimelineHistory::parse(timeline, &text).map_err(|error| unreadable(&path, &error)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(TimelineHistory::without_ancestors(timeline)),
        Err(error) => Err(unreadable(&path, &error)),
    }
}

/// Names of other forms are the server's temporary files, or strangers'.
fn list(directory: &Path) -> Result<Vec<WalSummaryName>, NoSummaries> {
    let path = directory.join(SUMMARY_DIRECTORY);
    let read = || -> std::io::Result<Vec<WalSummaryName>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&path)? {
            names.extend(entry?.file_name().to_str().and_then(|name| name.parse::<WalSummaryName>().ok()));
        }
        Ok(names)
    };
    read().map_err(|error| unreadable(&path, &error))
}

/// How many bytes the summary has.
fn merge(directory: &Path, name: WalSummaryName, changed: &mut ChangedBlocks) -> Result<u64, NoSummaries> {
    let path = directory.join(SUMMARY_DIRECTORY).join(name.to_string());
    let failed = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound => NoSummaries::Vanished(name),
        _ => unreadable(&path, &error),
    };
    let invalid = |error: &dyn std::fmt::Display| NoSummaries::Invalid { name, reason: error.to_string() };
    let mut file = File::open(&path).map_err(failed)?;
    let mut decoder = SummaryDecoder::default();
    let mut merging = changed.merge();
    let mut piece = vec![0; PIECE];
    let mut bytes = 0;
    loop {
        match file.read(&mut piece) {
            Ok(0) => break,
            Ok(read) => {
                decoder.feed(&piece[..read], |part| merging.take(part)).map_err(|error| invalid(&error))?;
                bytes += u64::try_from(read).expect("a buffer's length fits 64 bits");
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
    }
    decoder.finish().map_err(|error| invalid(&error))?;
    Ok(bytes)
}

fn unreadable(path: &Path, error: &dyn std::fmt::Display) -> NoSummaries {
    NoSummaries::Unreadable { path: path.display().to_string(), reason: error.to_string() }
}

#[cfg(test)]
mod tests;
