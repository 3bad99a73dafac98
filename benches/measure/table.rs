//! One row per figure: what, how much, how much it may be.
//!
//! Invariant: a benchmark fails beyond 1.5 times its budget and never within, so that a busy machine fails nobody; how the
//! budget itself is kept shows in the row.

use std::fmt;
use std::io::Write;
use std::process::ExitCode;

/// How far beyond its budget a figure may be before the run fails.
const TOLERANCE: f64 = 1.5;

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Budget {
    AtMost(f64),
    AtLeast(f64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Times,
    Seconds,
    Milliseconds,
    Mebibytes,
}

impl Unit {
    fn show(self, value: f64) -> String {
        match self {
            Unit::Times => format!("{value:.2} x"),
            Unit::Seconds => format!("{value:.2} s"),
            Unit::Milliseconds => format!("{value:.1} ms"),
            Unit::Mebibytes => format!("{value:.1} MiB"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Held,
    Missed,
    Failed,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Held => "held",
            Verdict::Missed => "**missed**",
            Verdict::Failed => "**FAILED**",
        })
    }
}

impl Budget {
    fn judge(self, value: f64) -> Verdict {
        let (held, tolerated) = match self {
            Budget::AtMost(limit) => (value <= limit, value <= limit * TOLERANCE),
            Budget::AtLeast(limit) => (value >= limit, value >= limit / TOLERANCE),
        };
        match (held, tolerated) {
            (true, _) => Verdict::Held,
            (false, true) => Verdict::Missed,
            // What is not a number ends here too.
            (false, false) => Verdict::Failed,
        }
    }

    fn show(self, unit: Unit) -> String {
        match self {
            Budget::AtMost(limit) => format!("<= {}", unit.show(limit)),
            Budget::AtLeast(limit) => format!(">= {}", unit.show(limit)),
        }
    }
}

/// Prints rows of one table; the header is printed once, by whoever runs the benchmarks.
#[derive(Debug, Default)]
pub struct Table {
    failed: bool,
}

impl Table {
    /// A figure with a budget.
    pub fn judge(&mut self, what: &str, value: f64, unit: Unit, budget: Budget, how: impl fmt::Display) {
        let verdict = budget.judge(value);
        self.failed |= verdict == Verdict::Failed;
        print(what, &unit.show(value), &budget.show(unit), &verdict.to_string(), how);
    }

    /// A figure that nobody judges.
    pub fn tell(&mut self, what: &str, value: f64, unit: Unit, how: impl fmt::Display) {
        print(what, &unit.show(value), "", "", how);
    }

    pub fn end(self) -> ExitCode {
        if self.failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }
}

fn print(what: &str, value: &str, budget: &str, verdict: &str, how: impl fmt::Display) {
    let mut out = std::io::stdout().lock();
    // A reader that has gone away does not change what was measured.
    let _ = writeln!(out, "| {what} | {value} | {budget} | {verdict} | {how} |");
    let _ = out.flush();
}
