//! Seconds of wall and CPU time, and the middle of several.

use anyhow::{Context, Result};
use rustix::time::{ClockId, clock_gettime};
use std::time::Instant;

/// The unit of /proc's CPU times: USER_HZ, which Linux fixes at 100 for all that it shows to programs.
const TICKS_PER_SECOND: f64 = 100.0;

/// What something took, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cost {
    pub wall: f64,
    pub cpu: f64,
}

impl Cost {
    /// Of work in this process, all its threads included.
    pub fn of<T>(work: impl FnOnce() -> Result<T>) -> Result<(Cost, T)> {
        let (begin, cpu) = (Instant::now(), process_cpu());
        let value = work()?;
        Ok((Cost { wall: begin.elapsed().as_secs_f64(), cpu: process_cpu() - cpu }, value))
    }

    /// Of children that are started and waited for in it.
    pub fn of_children<T>(work: impl FnOnce() -> Result<T>) -> Result<(Cost, T)> {
        let (begin, cpu) = (Instant::now(), children_cpu()?);
        let value = work()?;
        let wall = begin.elapsed().as_secs_f64();
        Ok((Cost { wall, cpu: children_cpu()? - cpu }, value))
    }
}

/// CPU seconds of this process so far.
pub fn process_cpu() -> f64 {
    seconds(ClockId::ProcessCPUTime)
}

/// CPU seconds of the calling thread so far.
pub fn thread_cpu() -> f64 {
    seconds(ClockId::ThreadCPUTime)
}

fn seconds(clock: ClockId) -> f64 {
    let now = clock_gettime(clock);
    let nanoseconds = u32::try_from(now.tv_nsec).expect("the kernel's nanoseconds are below a second's");
    let seconds = u32::try_from(now.tv_sec).expect("a process does not compute for a century");
    f64::from(seconds) + f64::from(nanoseconds) / 1e9
}

/// CPU seconds of all children that were waited for, and of theirs.
pub fn children_cpu() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/self/stat").context("/proc/self/stat")?;
    // The second field is the program's name in brackets and may hold spaces; cutime and cstime are the 16th and 17th.
    let (_, fields) = text.rsplit_once(')').context("/proc/self/stat has no name")?;
    let ticks = fields.split_whitespace().skip(13).take(2).map(str::parse::<u32>);
    let ticks = ticks.collect::<Result<Vec<u32>, _>>().context("/proc/self/stat")?;
    Ok(ticks.into_iter().map(f64::from).sum::<f64>() / TICKS_PER_SECOND)
}

/// Collects samples; the middle one is the figure, the outer ones show how far to trust it.
#[derive(Debug, Clone, Default)]
pub struct Median(Vec<f64>);

impl Median {
    pub fn add(&mut self, sample: f64) {
        self.0.push(sample);
        self.0.sort_by(f64::total_cmp);
    }

    /// The middle sample; not a number without any.
    pub fn value(&self) -> f64 {
        self.0.get(self.0.len() / 2).copied().unwrap_or(f64::NAN)
    }

    /// Smallest and largest sample.
    pub fn spread(&self) -> (f64, f64) {
        let first = self.0.first().copied().unwrap_or(f64::NAN);
        (first, self.0.last().copied().unwrap_or(f64::NAN))
    }

    pub fn count(&self) -> usize {
        self.0.len()
    }
}

impl FromIterator<f64> for Median {
    fn from_iter<I: IntoIterator<Item = f64>>(samples: I) -> Self {
        let mut median = Median::default();
        samples.into_iter().for_each(|sample| median.add(sample));
        median
    }
}
