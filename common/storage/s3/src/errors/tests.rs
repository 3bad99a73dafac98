#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use super::*;
use pgconvoy_core::failure::{Classify, Retry};

fn asker() -> Asker {
    Asker {
        bucket: "backups".to_owned(),
        region: "eu-north-1".to_owned(),
        endpoint: "https://s3.example".to_owned(),
        renews: false,
        locks: false,
    }
}

fn sorted(action: IoAction, status: u16, code: &str) -> StorageError {
    let answer = Answer { status, code: code.to_owned(), message: "words".to_owned(), ..Answer::default() };
    asker().sort(Place::new("s3:backups", None), action, &answer)
}

#[test]
fn each_word_of_the_store_has_a_class_and_where_an_operator_can_help_a_hint() {
    use Retry::{IsFutile, MayHelp};
    let table = [
        (404, "NoSuchKey", IsFutile, "s3:backups does not exist", ""),
        (
            404,
            "NoSuchBucket",
            IsFutile,
            "bucket 'backups' does not exist at https://s3.example",
            "create the bucket",
        ),
        (404, "", IsFutile, "it answered 404", "is the address of an S3 service"),
        (403, "InvalidAccessKeyId", IsFutile, "does not know the access key", "correct 'key'"),
        (
            403,
            "SignatureDoesNotMatch",
            IsFutile,
            "the signature is wrong",
            "'key-secret' does not belong to 'key'",
        ),
        (
            403,
            "AccessDenied",
            IsFutile,
            "access is denied: it answered 403 (AccessDenied: words)",
            "s3:PutObject",
        ),
        (
            403,
            "RequestTimeTooSkewed",
            IsFutile,
            "the clocks of this host and of the store",
            "set this host's clock",
        ),
        (400, "ExpiredToken", IsFutile, "the session token is not valid any more", "set a new 'token'"),
        (
            301,
            "PermanentRedirect",
            IsFutile,
            "is served by another endpoint",
            "correct 'region' and 'endpoint'",
        ),
        (400, "KMS.DisabledException", IsFutile, "KMS.DisabledException", "check 'kms-key-id'"),
        (403, "InvalidObjectState", IsFutile, "in an archive class", "restore the object first"),
        (400, "EntityTooLarge", IsFutile, "it answered 400 (EntityTooLarge: words)", ""),
        (400, "RequestTimeout", MayHelp, "did not answer in time", ""),
        (400, "BadDigest", MayHelp, "what arrived there is not what was sent", ""),
        (409, "ConditionalRequestConflict", MayHelp, "is not available", ""),
        (200, "InternalError", MayHelp, "is not available: it answered 200 (InternalError: words)", ""),
        (200, "SomethingNew", MayHelp, "is not available", ""),
        (500, "", MayHelp, "is not available", ""),
        (503, "SlowDown", MayHelp, "asks for patience", ""),
        (429, "", MayHelp, "asks for patience", ""),
        (200, "SlowDown", MayHelp, "asks for patience", ""),
    ];
    for (status, code, retry, words, hint) in table {
        let error = sorted(IoAction::Write, status, code);
        assert_eq!(error.retry(), retry, "{status} {code}: {error}");
        assert!(error.to_string().contains(words), "{status} {code}: {error}");
        assert!(hint.is_empty() || error.hints().concat().contains(hint), "{error}: {:?}", error.hints());
    }
}

#[test]
fn only_the_words_for_it_are_absence() {
    for (status, code) in
        [(404, "NoSuchBucket"), (404, ""), (404, "NotFound"), (410, "Gone"), (403, "AccessDenied")]
    {
        let error = sorted(IoAction::Read, status, code);
        assert!(!error.is_not_found(), "{status} {code}: {error}");
    }
}

#[test]
fn a_wrong_region_is_answered_with_the_right_one() {
    let answer = Answer {
        status: 400,
        code: "AuthorizationHeaderMalformed".to_owned(),
        region: Some("eu-west-1".to_owned()),
        ..Answer::default()
    };
    let error = asker().sort(Place::new("s3:backups", None), IoAction::Read, &answer);
    assert_eq!(
        error.to_string(),
        "unable to read s3:backups: the bucket is in region eu-west-1, not in eu-north-1"
    );
    assert_eq!(error.hints(), ["set region = \"eu-west-1\", and an endpoint of that region"]);
}

#[test]
fn a_denied_delete_names_the_right_and_the_lock() {
    let hints = sorted(IoAction::Remove, 403, "AccessDenied").hints().concat();
    assert!(hints.contains("s3:DeleteObject") && hints.contains("Object Lock"), "{hints}");
}

#[test]
fn an_expired_token_is_worth_a_retry_where_it_is_renewed() {
    let asker = Asker { renews: true, ..asker() };
    let answer = Answer { status: 400, code: "ExpiredToken".to_owned(), ..Answer::default() };
    let error = asker.sort(Place::new("s3:backups", None), IoAction::Read, &answer);
    assert_eq!(error.retry(), Retry::MayHelp);
}

#[test]
fn an_element_is_found_by_its_name() {
    let body = "<Error><Code>A</Code><Region>eu-west-1</Region></Error>";
    assert_eq!(xml_text(body, "Region"), Some("eu-west-1"));
    assert_eq!(xml_text(body, "Endpoint"), None);
}

#[test]
fn what_a_lock_keeps_is_no_refusal_and_a_bucket_without_locks_is_named() {
    let answer = |status, code: &str, message: &str| Answer {
        status,
        code: code.to_owned(),
        message: message.to_owned(),
        ..Answer::default()
    };
    let at = || Place::new("s3:backups", None);
    let locked = "Access Denied because object protected by object lock.";
    let worm = "Object is WORM protected and cannot be overwritten";
    for kept in [answer(403, "AccessDenied", locked), answer(400, "InvalidRequest", worm)] {
        let error = asker().sort(at(), IoAction::Remove, &kept);
        assert!(error.is_kept() && error.hints()[0].contains("lock-period"), "{error}");
    }
    assert!(!asker().sort(at(), IoAction::Remove, &answer(403, "AccessDenied", "Access Denied")).is_kept());
    let missing = answer(400, "InvalidRequest", "Bucket is missing Object Lock Configuration");
    let locking = Asker { locks: true, ..asker() };
    let hints = |asker: &Asker| asker.sort(at(), IoAction::Write, &missing).hints();
    assert!(hints(&locking)[0].contains("enable Object Lock"), "{:?}", hints(&locking));
    assert!(!hints(&asker())[0].contains("Object Lock"), "{:?}", hints(&asker()));
}
