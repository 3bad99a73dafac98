//! How figures are told to people: sizes, rates, spans, ages. Short, and of one width as far as that goes.

use pgconvoy_core::units::Timestamp;
use std::time::Duration;

/// `1.4 GiB`: three figures at most before the unit changes.
pub(super) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut tenths = u128::from(bytes) * 10;
    let mut unit = "B";
    for larger in UNITS {
        if tenths < 10_240 {
            break;
        }
        tenths /= 1024;
        unit = larger;
    }
    match tenths {
        0..1000 => format!("{}.{} {unit}", tenths / 10, tenths % 10),
        _ => format!("{} {unit}", tenths / 10),
    }
}

pub(super) fn rate(bytes_a_second: u64) -> String {
    format!("{}/s", bytes(bytes_a_second))
}

/// The two largest parts: `2 h 5 m`.
pub(super) fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} m {} s", seconds % 60),
        (0, ..) => format!("{hours} h {minutes} m"),
        _ => format!("{days} d {hours} h"),
    }
}

pub(super) fn since(then: Timestamp, now: Timestamp) -> Duration {
    Duration::from_millis(u64::try_from(now.0.saturating_sub(then.0)).unwrap_or(0))
}

/// `5 m 3 s ago`, calmly: seconds only while they matter.
pub(super) fn age(then: Timestamp, now: Timestamp) -> String {
    let seconds = since(then, now).as_secs();
    match seconds {
        0..5 => "just now".to_owned(),
        5..60 => format!("{seconds} s ago"),
        60..3_600 => format!("{} min ago", seconds / 60),
        _ => format!("{} ago", span(Duration::from_secs(seconds))),
    }
}

/// For people who compare with a log: `2026-11-26 20:40:05 UTC`.
pub(super) fn clock(time: Timestamp) -> String {
    time.to_utc().strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// `1,234,567`.
pub(super) fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// In whole percent, never 100 before all is done.
pub(super) fn percent(done: u64, total: u64) -> u64 {
    let percent = u128::from(done) * 100 / u128::from(total.max(1));
    u64::try_from(percent).unwrap_or(100).min(100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_keep_to_a_few_figures() {
        for (size, told) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_500_000, "1.4 MiB"),
            (120 << 20, "120 MiB"),
            (1023 << 20, "1023 MiB"),
            (1 << 30, "1.0 GiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(bytes(size), told);
        }
        assert_eq!(rate(2 << 20), "2.0 MiB/s");
    }

    #[test]
    fn spans_tell_their_two_largest_parts() {
        for (seconds, told) in
            [(0, "0 s"), (59, "59 s"), (130, "2 m 10 s"), (7_500, "2 h 5 m"), (180_000, "2 d 2 h")]
        {
            assert_eq!(span(Duration::from_secs(seconds)), told);
        }
    }

    #[test]
    fn ages_are_calm_and_never_negative() {
        let at = |seconds| age(Timestamp(0), Timestamp::from_seconds(seconds));
        assert_eq!([at(1), at(30), at(90), at(7_500)], ["just now", "30 s ago", "1 min ago", "2 h 5 m ago"]);
        assert_eq!(age(Timestamp(5_000), Timestamp(0)), "just now");
    }

    #[test]
    fn counts_are_grouped_and_percents_are_never_early() {
        assert_eq!([count(7), count(1_234), count(1_234_567)], ["7", "1,234", "1,234,567"]);
        assert_eq!([percent(999, 1_000), percent(1_000, 1_000), percent(0, 0)], [99, 100, 0]);
    }
}
