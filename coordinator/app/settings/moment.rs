//! A moment as it is typed.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use pgconvoy_core::plan::recovery::TargetTime;
use pgconvoy_core::units::Timestamp;

/// `YYYY-MM-DD HH:MM:SS` with or without a fraction and an offset. Without an offset it is this machine's time, which is said.
pub(super) fn read(text: &str) -> Option<TargetTime> {
    read_in(text, &TimeZone::system())
}

fn read_in(text: &str, zone: &TimeZone) -> Option<TargetTime> {
    let moment = match text.trim().parse::<jiff::Timestamp>() {
        Ok(moment) => moment,
        Err(_) => {
            let local = text.trim().parse::<DateTime>().ok()?.to_zoned(zone.clone()).ok()?;
            tracing::info!("'{text}' names no offset and is taken for {local}");
            local.timestamp()
        }
    };
    Some(TargetTime {
        moment: Timestamp(moment.as_millisecond()),
        text: moment.strftime("%Y-%m-%d %H:%M:%S%.6f+00").to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn east() -> TimeZone {
        TimeZone::fixed(jiff::tz::offset(2))
    }

    fn text(typed: &str) -> Option<String> {
        read_in(typed, &east()).map(|time| time.text)
    }

    #[test]
    fn a_moment_is_the_same_in_whatever_zone_it_is_typed() {
        let noon = Some("2026-11-26 12:00:00.000000+00".to_owned());
        for typed in [
            "2026-11-26 12:00:00+00",
            "2026-11-26 12:00:00Z",
            "2026-11-26T12:00:00.000Z",
            "2026-11-26 07:30:00-04:30",
            "2026-11-26 14:00:00",
            " 2026-11-26 14:00 ",
        ] {
            assert_eq!(text(typed), noon, "{typed}");
        }
    }

    #[test]
    fn fractions_are_kept_for_postgresql_and_rounded_down_for_the_choice_of_a_backup() {
        let time = read_in("2026-11-26 12:00:00.123987+00", &east()).expect("a moment");
        assert_eq!(time.text, "2026-11-26 12:00:00.123987+00");
        assert_eq!(time.moment.0.rem_euclid(1000), 123);
    }

    #[test]
    fn what_is_no_moment_is_none() {
        for typed in ["", "now", "yesterday", "2026-11-26 25:00:00", "2026-13-01 00:00:00+00"] {
            assert_eq!(text(typed), None, "{typed}");
        }
    }
}
