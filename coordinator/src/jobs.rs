//! A job as its leader has it in hand: the record, the way to what runs, and how fast it goes.

use crate::errand::ErrandControl;
use crate::progress::Progress;
use crate::records::JobKeeper;
use crate::running::BackupControl;
use pgconvoy_core::failure::Failure;
use pgconvoy_core::record::JobRecord;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Over how long a rate is taken: long enough to be calm, short enough to follow a change.
const RATE_WINDOW: Duration = Duration::from_secs(15);

/// What runs for a job, if anything does.
pub(crate) enum RunControl {
    Nothing,
    Backup(BackupControl),
    Errand(ErrandControl),
}

impl RunControl {
    pub(crate) fn cancel(&self, reason: Failure) {
        match self {
            RunControl::Nothing => {}
            RunControl::Backup(backup) => backup.abandon(reason),
            RunControl::Errand(errand) => errand.cancel(reason),
        }
    }

    pub(crate) fn backup(&self) -> Option<&BackupControl> {
        match self {
            RunControl::Backup(backup) => Some(backup),
            RunControl::Nothing | RunControl::Errand(_) => None,
        }
    }

    pub(crate) fn pause(&self, paused: bool) {
        if let RunControl::Backup(backup) = self {
            if paused { backup.pause() } else { backup.resume() }
        }
    }
}

pub(crate) struct Live {
    pub(crate) keeper: Arc<JobKeeper>,
    pub(crate) control: RunControl,
    pub(crate) progress: Option<watch::Receiver<Progress>>,
    pub(crate) is_cancelled: bool,
    meter: Meter,
}

/// A job for whoever looks at it.
#[derive(Debug, Clone)]
pub struct JobView {
    pub record: JobRecord,
    pub progress: Option<Progress>,
    /// Bytes a second, lately.
    pub rate: u64,
    /// Until all units are done, as things go; `None` while nothing goes.
    pub eta: Option<Duration>,
}

impl Live {
    /// Nothing runs for it: it waits, or is over.
    pub(crate) fn waiting(keeper: Arc<JobKeeper>) -> Live {
        Live {
            keeper,
            control: RunControl::Nothing,
            progress: None,
            is_cancelled: false,
            meter: Meter::default(),
        }
    }

    pub(crate) fn record(&self) -> JobRecord {
        self.keeper.record()
    }

    pub(crate) fn progress(&self) -> Option<Progress> {
        self.progress.as_ref().map(|progress| progress.borrow().clone())
    }

    pub(crate) fn measure(&mut self, now: Instant) {
        if let Some(progress) = self.progress() {
            self.meter.add(now, progress.bytes_done);
        }
    }

    pub(crate) fn view(&self) -> JobView {
        let (record, progress) = (self.record(), self.progress());
        let rate = if record.state.is_over() { 0 } else { self.meter.rate() };
        let left = progress.as_ref().map(|progress| progress.bytes_total.saturating_sub(progress.bytes_done));
        let eta =
            left.and_then(|left| Some(Duration::from_millis(left.checked_mul(1000)?.checked_div(rate)?)));
        JobView { record, progress, rate, eta }
    }
}

/// Bytes done at moments within the window.
#[derive(Debug, Default)]
struct Meter(VecDeque<(Instant, u64)>);

impl Meter {
    fn add(&mut self, now: Instant, bytes: u64) {
        self.0.push_back((now, bytes));
        while self.0.len() > 2 && self.0.front().is_some_and(|(at, _)| now.duration_since(*at) > RATE_WINDOW)
        {
            self.0.pop_front();
        }
    }

    /// Bytes a second.
    fn rate(&self) -> u64 {
        let (Some((begin, first)), Some((end, last))) = (self.0.front(), self.0.back()) else { return 0 };
        let milliseconds = end.duration_since(*begin).as_millis().max(1);
        let bytes = u128::from(last.saturating_sub(*first));
        u64::try_from(bytes * 1000 / milliseconds).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_follows_what_happened_lately() {
        let begin = Instant::now();
        let mut meter = Meter::default();
        for second in 0..40 {
            let bytes = if second < 20 { second * 1_000_000 } else { 20_000_000 + (second - 20) * 1000 };
            meter.add(begin + Duration::from_secs(second), bytes);
        }
        assert_eq!(meter.rate(), 1000);
        assert_eq!(Meter::default().rate(), 0);
    }
}
