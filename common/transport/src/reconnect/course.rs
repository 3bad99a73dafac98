//! The policy: pure, so that a table can show it.

use std::time::Duration;

/// The first wait is at most this: shorter than anybody notices, longer than a listener needs to come up.
pub const DELAY_MIN: Duration = Duration::from_millis(250);

/// No wait is longer: after a change of leader the work goes on within 15 s, and most of that is for its lease to end.
pub const DELAY_MAX: Duration = Duration::from_secs(3);

/// A connection that held this long was progress.
pub const STEADY_AFTER: Duration = Duration::from_secs(30);

/// Hints that are followed without a wait. A second one is usual while leadership moves; more is a circle.
pub const HINTS_IN_A_ROW_MAX: u32 = 2;

/// What to do next: wait, then try this address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub wait: Duration,
    pub address: String,
}

/// Which address is next, and how long to wait before.
#[derive(Debug, Clone)]
pub struct Course {
    addresses: Vec<String>,
    /// Index of the address that is next in turn.
    turn: usize,
    /// Attempts in turn since the last progress.
    attempts: u32,
    hint: Option<String>,
    hints_in_a_row: u32,
}

impl Course {
    /// `None` without any address.
    pub fn new(addresses: Vec<String>) -> Option<Course> {
        let course = Course { addresses, turn: 0, attempts: 0, hint: None, hints_in_a_row: 0 };
        (!course.addresses.is_empty()).then_some(course)
    }

    /// The next attempt. Every number makes an equally likely wait.
    pub fn next(&mut self, random: u64) -> Step {
        if let Some(address) = self.hint.take() {
            self.hints_in_a_row += 1;
            if self.hints_in_a_row <= HINTS_IN_A_ROW_MAX {
                return Step { wait: Duration::ZERO, address };
            }
            // What goes round in circles waits like everybody else.
            self.attempts = self.attempts.max(self.round());
            let wait = self.wait(random);
            self.attempts = self.attempts.saturating_add(1);
            return Step { wait, address };
        }
        let wait = self.wait(random);
        let address = self.addresses[self.turn].clone();
        self.turn = (self.turn + 1) % self.addresses.len();
        self.attempts = self.attempts.saturating_add(1);
        self.hints_in_a_row = 0;
        Step { wait, address }
    }

    /// A peer said where the leader is.
    pub fn hinted(&mut self, address: &str) {
        self.hint = Some(address.to_owned());
    }

    /// A connection is over that held for so long.
    pub fn ended(&mut self, held_for: Duration) {
        if held_for >= STEADY_AFTER {
            self.attempts = 0;
            self.hints_in_a_row = 0;
            // Whoever held that long is the likeliest to be back.
            self.turn = (self.turn + self.addresses.len() - 1) % self.addresses.len();
        }
    }

    fn round(&self) -> u32 {
        u32::try_from(self.addresses.len()).unwrap_or(u32::MAX)
    }

    /// Full jitter: anything up to a bound that doubles with every round. All addresses of one round are tried without
    /// a wait between them.
    fn wait(&self, random: u64) -> Duration {
        let rounds = self.attempts / self.round();
        if rounds == 0 || !self.attempts.is_multiple_of(self.round()) {
            return Duration::ZERO;
        }
        let bound = DELAY_MIN.saturating_mul(2u32.saturating_pow(rounds - 1)).min(DELAY_MAX);
        let nanos = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(random % nanos.saturating_add(1))
    }
}
