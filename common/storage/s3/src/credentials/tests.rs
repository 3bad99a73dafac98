#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use super::fetch::Told;
use super::*;

fn after(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

#[test]
fn they_are_renewed_five_minutes_before_their_end_or_after_three_quarters_of_a_short_life() {
    assert_eq!(renewal(after(0), after(3600)), after(3300));
    assert_eq!(renewal(after(0), after(400)), after(300));
    assert_eq!(renewal(after(100), after(50)), after(50), "they ended before they came");
}

#[test]
fn what_was_told_is_never_repeated_in_an_error() {
    let told = r#"{"AccessKeyId":"KEY","SecretAccessKey":"hush","Expiration":"soon"}"#;
    for text in [told, "hush", "{\"AccessKeyId\":\"hush\"}"] {
        let failure = Told::parse(text.as_bytes(), "somebody").unwrap_err().to_string();
        assert!(
            failure.starts_with("no credentials: somebody gave") && !failure.contains("hush"),
            "{failure}"
        );
    }
}
