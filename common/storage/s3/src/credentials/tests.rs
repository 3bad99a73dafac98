#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use super::fetch::Told;
use super::*;
use std::time::Duration;

#[test]
fn they_live_from_now_to_their_end() {
    let at = |seconds: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let life = |end: Option<u64>| given(Credentials::new("", "", None, end.map(at), ""), at(100)).life;
    assert_eq!(life(Some(160)), Some(Duration::from_secs(60)));
    assert_eq!(life(Some(50)), Some(Duration::ZERO), "they ended before they came");
    assert_eq!(life(None), None);
}

#[test]
fn an_environment_shows_names_and_no_values() {
    let environment = Environment::of([
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "hush".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "hush".to_owned()),
    ]);
    assert_eq!(format!("{environment:?}"), r#"{"AWS_CONTAINER_AUTHORIZATION_TOKEN"}"#);
    assert_eq!(environment.get("AWS_CONTAINER_AUTHORIZATION_TOKEN"), Some("hush"));
}

/// This program once more, with another environment.
#[test]
fn a_variable_that_is_no_text_harms_nobody() {
    use std::os::unix::ffi::OsStringExt as _;
    const INSIDE: &str = "PGCONVOY_TEST_INSIDE";
    if std::env::var_os(INSIDE).is_some() {
        let environment = Environment::of_process();
        assert_eq!(environment.get("AWS_ROLE_ARN"), Some("role"));
        assert_eq!(environment.get("AWS_ROLE_SESSION_NAME"), None);
        return;
    }
    let garbage = std::ffi::OsString::from_vec(vec![0xff, 0xfe]);
    let again = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "credentials::tests::a_variable_that_is_no_text_harms_nobody"])
        .env(INSIDE, "1")
        .env("AWS_ROLE_ARN", "role")
        .env("AWS_ROLE_SESSION_NAME", &garbage)
        .env("SOME_OTHER", &garbage)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&again.stdout);
    assert!(again.status.success() && told.contains("1 passed"), "{told}");
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
