//! Where the time of a unit goes, on the thread that does it.

use pgconvoy_core::ids::RepoKey;
use pgconvoy_core::wire::Spent;
use std::time::{Duration, Instant};

pub(super) struct Stopwatch {
    begin: Instant,
    reading: Duration,
    pacing: Duration,
}

/// All that a slot spent on a unit, before the stores have confirmed it.
#[derive(Clone, Copy)]
pub(super) struct Lap {
    whole: Duration,
    reading: Duration,
    pacing: Duration,
}

impl Stopwatch {
    pub(super) fn start() -> Stopwatch {
        Stopwatch { begin: Instant::now(), reading: Duration::ZERO, pacing: Duration::ZERO }
    }

    pub(super) fn read<T>(&mut self, work: impl FnOnce() -> T) -> T {
        timed(&mut self.reading, work)
    }

    pub(super) fn pace<T>(&mut self, work: impl FnOnce() -> T) -> T {
        timed(&mut self.pacing, work)
    }

    pub(super) fn stop(&self) -> Lap {
        Lap { whole: self.begin.elapsed(), reading: self.reading, pacing: self.pacing }
    }
}

pub(super) fn timed<T>(sum: &mut Duration, work: impl FnOnce() -> T) -> T {
    let begin = Instant::now();
    let done = work();
    *sum += begin.elapsed();
    done
}

/// How long one repository held a unit up.
pub(super) struct Upload {
    pub(super) repository: RepoKey,
    /// The slot waited for room in its queue.
    pub(super) queued: Duration,
    /// From the last piece to the confirmation.
    pub(super) settled: Duration,
}

impl Lap {
    /// While the stores confirm one unit the slot does the next: a confirmation costs only what is longer than that.
    pub(super) fn spent(&self, uploads: &[Upload]) -> Spent {
        let queued: Duration = uploads.iter().map(|upload| upload.queued).sum();
        let waited = self.reading + self.pacing + queued;
        let upload = |upload: &Upload| {
            (upload.repository, microseconds(upload.queued + upload.settled.saturating_sub(self.whole)))
        };
        Spent {
            read_us: microseconds(self.reading),
            compute_us: microseconds(self.whole.saturating_sub(waited)),
            bandwidth_us: microseconds(self.pacing),
            upload_us: uploads.iter().map(upload).collect(),
        }
    }
}

fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn what_is_neither_read_nor_waited_for_is_computed() {
        let lap = Lap { whole: ms(100), reading: ms(20), pacing: ms(10) };
        let uploads = [
            Upload { repository: RepoKey(1), queued: ms(5), settled: ms(40) },
            Upload { repository: RepoKey(2), queued: ms(15), settled: ms(130) },
        ];
        let spent = lap.spent(&uploads);
        assert_eq!((spent.read_us, spent.compute_us, spent.bandwidth_us), (20_000, 50_000, 10_000));
        assert_eq!(
            spent.upload_us,
            [(RepoKey(1), 5_000), (RepoKey(2), 45_000)],
            "half hidden by the next unit"
        );
    }
}
