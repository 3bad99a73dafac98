//! What the benchmarks share: how long they run, what they measure by, and the rows that they print.
//!
//! It is not a statistics library. A figure is the median of pairs that were run in turn, CPU time is preferred to wall
//! time, and a run fails only far beyond its budget: neighbours on the same machine move results by a third.

#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    reason = "every benchmark compiles this and uses a part of it"
)]

pub mod clock;
pub mod memory;
pub mod table;

pub use clock::{Cost, Median, children_cpu, process_cpu, thread_cpu};
pub use table::{Budget, Table, Unit};

/// How thorough a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// For every check of the project: little data, few rounds.
    Short,
    /// For `RESULTS.md`.
    Full,
}

impl Form {
    /// `--short` on the command line; anything else there is cargo's.
    pub fn from_arguments() -> Form {
        if std::env::args().any(|argument| argument == "--short") { Form::Short } else { Form::Full }
    }

    pub fn pick<T>(self, short: T, full: T) -> T {
        match self {
            Form::Short => short,
            Form::Full => full,
        }
    }
}

/// For tables: bytes as people read them.
pub fn mebibytes(bytes: u64) -> f64 {
    float(bytes) / 1_048_576.0
}

/// For ratios. Exact below eight petabytes.
pub fn float(bytes: u64) -> f64 {
    bytes as f64
}

/// A line about what is being done, beside the rows on stdout.
#[allow(clippy::print_stderr, reason = "progress of a program that people watch")]
pub fn note(text: impl std::fmt::Display) {
    eprintln!("   {text}");
}
