//! How far long work has come: a bar on a terminal, a line in the log now and then elsewhere.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use pgconvoy_core::units::ByteCount;
use std::io::{IsTerminal, stderr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Often enough to see that it goes on, seldom enough for a log of a night.
const LINE_EVERY: Duration = Duration::from_secs(30);
/// The terminal need not be drawn for each frame.
const DRAWS_PER_SECOND: u8 = 10;
const TEMPLATE: &str = "{prefix} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} eta {eta} {msg}";

pub struct Bar(Kind);

enum Kind {
    Terminal(ProgressBar),
    Lines { label: String, total: u64, begun: Instant, last: Mutex<Instant> },
}

impl Bar {
    pub fn new(label: &str, total_bytes: u64) -> Bar {
        if !stderr().is_terminal() {
            let now = Instant::now();
            return Bar(Kind::Lines {
                label: label.to_owned(),
                total: total_bytes,
                begun: now,
                last: Mutex::new(now),
            });
        }
        let bar = ProgressBar::with_draw_target(
            Some(total_bytes),
            ProgressDrawTarget::stderr_with_hz(DRAWS_PER_SECOND),
        );
        let style = ProgressStyle::with_template(TEMPLATE).expect("the template is a constant");
        bar.set_style(style.progress_chars("=> "));
        bar.set_prefix(label.to_owned());
        Bar(Kind::Terminal(bar))
    }

    /// Bytes done so far.
    pub fn set(&self, done: u64) {
        match &self.0 {
            Kind::Terminal(bar) => bar.set_position(done),
            Kind::Lines { label, total, begun, last } => {
                let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
                if last.elapsed() >= LINE_EVERY {
                    *last = Instant::now();
                    tracing::info!("{}", line(label, done, *total, begun.elapsed()));
                }
            }
        }
    }

    /// A few words behind the numbers, such as what each repository is doing.
    pub fn note(&self, text: &str) {
        if let Kind::Terminal(bar) = &self.0 {
            bar.set_message(text.to_owned());
        }
    }

    /// Takes the bar away: what comes of the work is said elsewhere.
    pub fn finish(self) {
        if let Kind::Terminal(bar) = self.0 {
            bar.finish_and_clear();
        }
    }
}

fn line(label: &str, done: u64, total: u64, elapsed: Duration) -> String {
    let percent = u128::from(done) * 100 / u128::from(total.max(1));
    let rate = u128::from(done) * 1000 / elapsed.as_millis().max(1);
    let rate = ByteCount(u64::try_from(rate).unwrap_or(u64::MAX));
    format!("{label}: {percent}% of {}, {rate}/s", ByteCount(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_share_total_and_rate() {
        let text = line("backup X", 512 << 20, 1 << 30, Duration::from_secs(4));
        assert_eq!(text, "backup X: 50% of 1GiB, 128MiB/s");
        assert_eq!(line("nothing", 0, 0, Duration::ZERO), "nothing: 0% of 0B, 0B/s");
    }
}
