#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use super::*;
use crate::access::SasFacts;
use crate::testing::{Answer, Server, store};
use bytes::Bytes;
use pgconvoy_core::failure::{Classify, Retry};
use pgconvoy_storage::{ObjectKey, PutMode, Storage};

fn key() -> ObjectKey {
    "a".parse().unwrap()
}

/// What a put comes to when the server answers so.
async fn put_answered(head: &str, code: &str) -> StorageError {
    let body = format!(
        "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>Words.\nRequestId:1</Message></Error>"
    );
    let answer = Answer::new(&format!("{head}\r\nx-ms-error-code: {code}"), &body);
    let server = Server::start(move |_, _| answer.clone()).await;
    store(&server).put(&key(), PutMode::Create, Bytes::from_static(b"x")).await.unwrap_err()
}

#[tokio::test]
async fn each_refusal_has_its_class_and_says_whether_to_try_again() {
    use Retry::{IsFutile, MayHelp};
    let table = [
        ("409 Conflict", "BlobAlreadyExists", IsFutile, "exists already"),
        ("412 Failed", "ConditionNotMet", IsFutile, "exists already"),
        (
            "409 Conflict",
            "BlobImmutableDueToPolicy",
            IsFutile,
            "an immutability policy or a legal hold protects it",
        ),
        ("412 Failed", "LeaseIdMissing", IsFutile, "somebody holds a lease on it (LeaseIdMissing)"),
        ("409 Conflict", "Other", IsFutile, "it answered 409 (Other: Words.)"),
        ("400 Bad", "Crc64Mismatch", MayHelp, "what was sent arrived damaged"),
        ("400 Bad", "Other", IsFutile, "it answered 400 (Other: Words.)"),
        ("403 No", "AuthenticationFailed", IsFutile, "the key is not one of account acct's two access keys"),
        ("403 No", "AuthorizationFailure", IsFutile, "account acct does not allow this request"),
        ("403 No", "KeyBasedAuthenticationNotPermitted", IsFutile, "takes no account keys"),
        ("404 No", "ContainerNotFound", IsFutile, "account acct has no container 'box'"),
        ("409 No", "ContainerBeingDeleted", MayHelp, "ContainerBeingDeleted"),
        ("500 Oh", "InternalError", MayHelp, "it answered 500 (InternalError: Words.)"),
        ("500 Oh", "OperationTimedOut", MayHelp, "did not answer in time"),
        ("503 Busy", "ServerBusy", MayHelp, "asks for patience: it answered 503 (ServerBusy: Words.)"),
        ("429 Busy", "TooManyRequests", MayHelp, "asks for patience"),
    ];
    for (head, code, retry, text) in table {
        let error = put_answered(head, code).await;
        assert!(error.to_string().contains(text), "{code}: {error}");
        assert_eq!(error.retry(), retry, "{error}");
    }
}

#[tokio::test]
async fn a_busy_server_is_left_alone_for_as_long_as_it_says() {
    for (head, seconds) in [("retry-after: 7", 7.0), ("x-ms-retry-after-ms: 1500", 1.5)] {
        let error = put_answered(&format!("503 Busy\r\n{head}"), "ServerBusy").await;
        assert_eq!(error.retry_after().map(|wait| wait.as_secs_f64()), Some(seconds), "{head}");
    }
}

#[tokio::test]
async fn only_a_blob_that_the_service_calls_missing_is_absent() {
    for (head, is_absent) in [
        ("404 No\r\nx-ms-error-code: BlobNotFound", true),
        ("404 No\r\nx-ms-error-code: ContainerNotFound", false),
        ("404 No\r\nx-ms-error-code: ResourceNotFound", false),
        ("404 No", false),
        ("410 Gone", false),
    ] {
        let server = Server::start(move |_, _| Answer::new(head, "")).await;
        let stat = store(&server).stat(&key()).await;
        let got = store(&server).get(&key(), 9).await.unwrap_err();
        assert_eq!((stat == Ok(None), got.is_not_found()), (is_absent, is_absent), "{head}: {stat:?}, {got}");
        assert_eq!(store(&server).delete(&key()).await.is_ok(), is_absent, "{head}");
    }
}

#[tokio::test]
async fn a_clock_that_is_off_is_told_before_the_key_is_doubted() {
    let head = "403 No\r\ndate: Thu, 26 Nov 2020 10:00:00 GMT\r\nx-ms-error-code: AuthenticationFailed";
    let server = Server::start(move |_, _| Answer::new(head, "")).await;
    // HEAD and GET: with and without a body.
    for error in
        [store(&server).stat(&key()).await.unwrap_err(), store(&server).get(&key(), 1).await.unwrap_err()]
    {
        let text = error.to_string();
        assert!(
            text.contains("this host's clock is ") && text.contains(" minutes ahead of the store's"),
            "{text}"
        );
        assert!(error.hints()[0].contains("NTP"));
    }
}

#[tokio::test]
async fn a_refusal_quotes_nothing_that_was_signed() {
    let detail =
        "<AuthenticationErrorDetail>The MAC signature 'c2ln' is not the same</AuthenticationErrorDetail>";
    let body =
        format!("<Error><Code>AuthenticationFailed</Code><Message>No.\nSig c2ln</Message>{detail}</Error>");
    let server = Server::start(move |_, _| Answer::new("403 No", &body)).await;
    let error = store(&server).get(&key(), 9).await.unwrap_err();
    assert!(!format!("{error} {error:?}").contains("c2ln"), "{error:?}");
}

#[tokio::test]
async fn answers_that_are_not_the_range_are_no_bytes_of_the_object() {
    for (head, body, text) in [
        ("200 OK", "0123456789", "the answer is not the range"),
        ("206 Partial\r\ncontent-range: bytes 0-2/10", "012", "the answer is not the range"),
        ("206 Partial\r\ncontent-range: bytes 4-5/10", "45", "the answer is not the range"),
        ("206 Partial\r\ncontent-range: bytes 4-6/5", "456", "ends at byte 5"),
        ("206 Partial\r\ncontent-range: bytes 4-6/*", "456", "does not say what it holds"),
        ("206 Partial\r\ncontent-range: garbage", "456", ""),
    ] {
        let server = Server::start(move |_, _| Answer::new(head, body)).await;
        let error = store(&server).get_range(&key(), 4..7).await.unwrap_err();
        assert!(error.to_string().contains(text), "{head}: {error}");
    }
    let server = Server::start(|_, _| Answer::new("206 Partial\r\ncontent-range: bytes 4-6/10", "456")).await;
    assert_eq!(store(&server).get_range(&key(), 4..7).await.unwrap(), "456");
}

#[tokio::test]
async fn every_body_goes_with_its_checksum_and_a_create_with_its_condition() {
    let server = Server::start(|_, _| Answer::new("201 Created", "")).await;
    store(&server).put(&key(), PutMode::Create, Bytes::from_static(b"123456789")).await.unwrap();
    store(&server).put(&key(), PutMode::Overwrite, Bytes::from_static(b"123456789")).await.unwrap();
    let seen = server.seen();
    assert!(seen.iter().all(|request| request.starts_with("PUT /acct/box/p%2Fa HTTP/1.1\r\n")), "{seen:?}");
    assert!(seen.iter().all(|request| request.contains("x-ms-content-crc64: iJh5CoYUi64=\r\n")), "{seen:?}");
    let conditions: Vec<bool> = seen.iter().map(|request| request.contains("if-none-match: *\r\n")).collect();
    assert_eq!(conditions, [true, false]);
}

#[tokio::test]
async fn a_block_that_arrived_damaged_is_sent_again_alone() {
    let server = Server::start(|number, request| match (number, request.contains("blockid=")) {
        (1, true) => Answer::new("400 Bad\r\nx-ms-error-code: Crc64Mismatch", ""),
        _ => Answer::new("201 Created", ""),
    })
    .await;
    let mut upload = store(&server).begin(&key(), PutMode::Create).await.unwrap();
    upload.write(Bytes::from(vec![b'x'; 11 << 20])).await.unwrap();
    upload.finish().await.unwrap();
    let seen = server.seen();
    let blocks = seen.iter().filter(|request| request.contains("blockid=")).count();
    assert_eq!((blocks, seen.len()), (4, 5), "three blocks, one of them twice, and a commit");
    assert!(
        seen[4].contains("comp=blocklist") && seen[4].contains("x-ms-meta-pgconvoyupload: "),
        "{}",
        seen[4]
    );
}

#[test]
fn what_a_signature_lacks_is_said_in_its_own_letters() {
    let expires_at = OffsetDateTime::from_unix_timestamp(1_795_687_200).unwrap();
    let sas = SasFacts {
        permissions: "rl".to_owned(),
        expires: "2026-11-26T10:00Z".to_owned(),
        expires_at: Some(expires_at),
    };
    let asked = Asked {
        at: Place::new("azure:acct/box", None),
        action: IoAction::Write,
        container: "box".to_owned(),
        account: "acct".to_owned(),
        host: "acct.blob".to_owned(),
        access: AccessFacts::Sas(sas),
    };
    let said = |code: &str| Said { status: 403, code: code.to_owned(), ..Said::default() };
    let before = expires_at - azure_core::time::Duration::seconds(1);
    let table = [
        (
            before,
            "AuthorizationPermissionMismatch",
            "the shared access signature grants 'rl', which is not enough",
        ),
        (before, "AuthenticationFailed", "the shared access signature is none of account acct"),
        (expires_at, "AuthenticationFailed", "the shared access signature expired at 2026-11-26T10:00Z"),
    ];
    for (now, code, text) in table {
        let error = asked.clone().refusal(&said(code), now);
        assert_eq!(error.to_string(), format!("unable to write azure:acct/box: {text} ({code})"));
        assert_eq!(error.hints().len(), 1);
    }
}
