//! Memory that is really there, as the kernel counts it.

use anyhow::{Context, Result};
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

const KIB: u64 = 1024;
/// Looking costs CPU time, so memory is watched in a round of its own, which no time is taken from.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(20);

/// The highest resident size of this process since [`forget_peak`], in bytes.
pub fn peak() -> Result<u64> {
    field("VmHWM:")
}

/// The resident size of this process at this moment, in bytes.
pub fn resident() -> Result<u64> {
    field("VmRSS:")
}

/// Lets [`peak`] begin anew.
pub fn forget_peak() -> Result<()> {
    fs::write("/proc/self/clear_refs", "5").context("/proc/self/clear_refs")
}

fn field(name: &str) -> Result<u64> {
    let text = fs::read_to_string("/proc/self/status").context("/proc/self/status")?;
    kilobytes(&text, name).with_context(|| format!("/proc/self/status has no {name}"))
}

fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * KIB)
}

/// Watches a process group while it runs: the largest sum of its processes' proportional set sizes, in which a page that
/// two of them share counts half for each.
pub struct Watcher {
    peak: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Watcher {
    pub fn start(group: u32) -> Watcher {
        let (peak, ended) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (seen, end) = (peak.clone(), ended.clone());
        let thread = std::thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                seen.fetch_max(proportional_size(group), Ordering::Relaxed);
                std::thread::sleep(SAMPLE_INTERVAL);
            }
        });
        Watcher { peak, ended, thread }
    }

    /// Bytes at the highest sample.
    pub fn stop(self) -> u64 {
        self.ended.store(true, Ordering::Relaxed);
        self.thread.join().expect("the watching thread only reads files");
        self.peak.load(Ordering::Relaxed)
    }
}

/// A process may end between any two of these reads, and then counts nothing.
fn proportional_size(group: u32) -> u64 {
    let Ok(entries) = fs::read_dir("/proc") else { return 0 };
    let processes = entries.flatten().map(|entry| entry.path());
    processes
        .filter(|process| group_of(&process.join("stat")) == Some(group))
        .filter_map(|process| fs::read_to_string(process.join("smaps_rollup")).ok())
        .filter_map(|text| kilobytes(&text, "Pss:"))
        .sum()
}

/// The fifth field of a stat file, after the name in brackets.
fn group_of(stat: &std::path::Path) -> Option<u32> {
    let text = fs::read_to_string(stat).ok()?;
    text.rsplit_once(')')?.1.split_whitespace().nth(2)?.parse().ok()
}
