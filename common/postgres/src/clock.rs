//! Time as the database host's clock tells it, the only clock that file times may be compared with.

use crate::PostgresError;
use crate::connect::Client;
use std::time::{Duration, Instant};

/// Microseconds since 1970, by the clock of the database host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DatabaseTime(i64);

impl DatabaseTime {
    pub fn from_microseconds(microseconds: i64) -> Self {
        DatabaseTime(microseconds)
    }

    pub fn microseconds(self) -> i64 {
        self.0
    }

    pub fn milliseconds(self) -> i64 {
        self.0.div_euclid(1_000)
    }

    /// Whole seconds, as file times are compared.
    pub fn seconds(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// How long until the next whole second begins.
    fn until_next_second(self) -> Duration {
        let left = 1_000_000 - self.0.rem_euclid(1_000_000);
        Duration::from_micros(left.unsigned_abs())
    }
}

impl std::fmt::Display for DatabaseTime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:06}", self.seconds(), self.0.rem_euclid(1_000_000))
    }
}

/// A clock that needs longer for one second was set back, and waiting for it could take hours.
const NEXT_SECOND_TIMEOUT: Duration = Duration::from_secs(10);

impl Client {
    pub async fn database_clock(&self) -> Result<DatabaseTime, PostgresError> {
        let sql = "select (extract(epoch from pg_catalog.clock_timestamp()) * 1000000)::int8 as now";
        let row = self.session().row("tell the time", sql, &[]).await?;
        row.get("now").map(DatabaseTime)
    }

    /// Waits until the database's clock has left the second in which it was asked, and returns the time of asking: what is
    /// changed from now on gets a later time in seconds than anything that was listed before.
    pub async fn wait_next_second(&self) -> Result<DatabaseTime, PostgresError> {
        let asked = self.database_clock().await?;
        let began = Instant::now();
        let mut now = asked;
        while now.seconds() <= asked.seconds() {
            if began.elapsed() > NEXT_SECOND_TIMEOUT {
                let place = self.session().place().to_owned();
                return Err(PostgresError::ClockStands { place, timeout: NEXT_SECOND_TIMEOUT });
            }
            tokio::time::sleep(now.until_next_second()).await;
            now = self.database_clock().await?;
        }
        Ok(asked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_ends_exactly_where_the_next_second_begins() {
        assert_eq!(DatabaseTime(5_250_000).until_next_second(), Duration::from_millis(750));
        assert_eq!(DatabaseTime(5_000_000).until_next_second(), Duration::from_secs(1));
        assert_eq!(DatabaseTime(-250_000).until_next_second(), Duration::from_millis(250));
    }

    #[test]
    fn seconds_before_1970_are_rounded_down_like_file_times() {
        assert_eq!(DatabaseTime(-1).seconds(), -1);
        assert_eq!(DatabaseTime(1_999_999).seconds(), 1);
    }
}
