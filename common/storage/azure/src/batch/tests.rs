#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use super::*;
use crate::testing::{self, Answer as Reply, Server, at, store, store_of};
use crate::{AzureStorage, Surroundings};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit as _, Mac as _};
use pgconvoy_core::config::{AzureConfig, AzureKeyType, Secret, UriStyle};
use pgconvoy_core::failure::{Classify as _, Retry};
use pgconvoy_storage::decorate::retry::{RetryPolicy, RetryStorage};
use pgconvoy_storage::{Feature, Storage as _};
use std::collections::HashSet;
use std::fmt::Write as _;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const GONE: &str = "202 Accepted\r\nx-ms-request-id: 1";
const ABSENT: &str = "404 No such blob\r\nx-ms-error-code: BlobNotFound";
const NOT_TAKEN: &str = "400 Bad\r\nx-ms-error-code: InvalidQueryParameterValue";

fn key(name: &str) -> ObjectKey {
    name.parse().unwrap()
}

fn keys(count: usize) -> Vec<ObjectKey> {
    (0..count).map(|number| key(&format!("k{number:04}"))).collect()
}

fn is_batch(request: &str) -> bool {
    request.starts_with("POST ") && request.contains("comp=batch")
}

fn header<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let find = |line: &'a str| line.split_once(": ").filter(|(known, _)| known.eq_ignore_ascii_case(name));
    text.lines().find_map(find).map(|(_, value)| value)
}

/// The whole requests that a batch holds, by their numbers; what is documented of its form is looked at here.
fn parts(batch: &str) -> Vec<String> {
    let (head, body) = batch.split_once("\r\n\r\n").unwrap();
    let kind = header(head, "content-type").unwrap();
    let boundary = kind.strip_prefix("multipart/mixed; boundary=").unwrap();
    assert_eq!(body.replace("\r\n", "").matches(['\r', '\n']).count(), 0, "lines end in both");
    let parts = body.strip_suffix(&format!("--{boundary}--\r\n")).unwrap();
    let opens = format!("--{boundary}\r\n");
    let parts = parts.split(&opens).skip(1).enumerate();
    let part = |(number, part): (usize, &str)| {
        let (envelope, request) = part.split_once("\r\n\r\n").unwrap();
        let expected = format!(
            "Content-Type: application/http\r\nContent-Transfer-Encoding: binary\r\nContent-ID: {number}"
        );
        assert_eq!(envelope, expected);
        assert!(request.ends_with("Content-Length: 0\r\n\r\n\r\n"), "{request}");
        request.to_owned()
    };
    parts.map(part).collect()
}

fn line(request: &str) -> &str {
    request.lines().next().unwrap()
}

/// The name behind the store's path in a request for a blob.
fn name(request: &str) -> String {
    let path = line(request).split(' ').nth(1).unwrap();
    path.split('?').next().unwrap().strip_prefix("/acct/box/p%2F").unwrap().to_owned()
}

/// Answers each part by its name: a status with headers.
fn answered(batch: &str, answer: impl Fn(&str) -> String) -> Reply {
    let mut body = String::new();
    for (number, part) in parts(batch).iter().enumerate() {
        let status = answer(&name(part));
        write!(
            body,
            "--b\r\nContent-Type: application/http\r\nContent-ID: {number}\r\n\r\nHTTP/1.1 {status}\r\n\r\n"
        )
        .unwrap();
    }
    Reply::new("202 Accepted\r\ncontent-type: multipart/mixed; boundary=b", &format!("{body}--b--"))
}

/// A server on which the blobs are answered as told, in batches and alone.
async fn server(answer: impl Fn(&str) -> String + Send + Sync + 'static) -> Server {
    Server::start(move |_, request| match is_batch(request) {
        true => answered(request, &answer),
        false => Reply::new(&answer(&name(request)), ""),
    })
    .await
}

/// One that takes no batches, for which it answers as told.
async fn old_server(
    refusal: &'static str,
    answer: impl Fn(&str) -> String + Send + Sync + 'static,
) -> Server {
    Server::start(move |_, request| match is_batch(request) {
        true => Reply::new(refusal, "<Error/>"),
        false => Reply::new(&answer(&name(request)), ""),
    })
    .await
}

/// Numbers of batches and of single deletes.
fn counts(server: &Server) -> (usize, usize) {
    let seen = server.seen();
    let batches = seen.iter().filter(|request| is_batch(request)).count();
    (batches, seen.len() - batches)
}

fn takes_batches(store: &AzureStorage) -> bool {
    store.features().has(Feature::BatchedDeletes)
}

#[tokio::test]
async fn a_part_is_addressed_and_signed_as_an_ordinary_delete_of_the_same_name() {
    let names = ["many/c&d<e>", "many/f g+h%20'\"", "many/größe", "a?b#c;d=e", "x:y@z,~!$()*[]|^`{}"];
    let server = server(|_| GONE.to_owned()).await;
    let store = store(&server);
    let keys = names.map(key);
    store.delete_many(&keys).await.unwrap();
    for key in &keys {
        store.delete(key).await.unwrap();
    }
    let seen = server.seen();
    assert_eq!(seen.len(), 1 + keys.len());
    let batch = &seen[0];
    assert!(batch.starts_with("POST /acct/box?restype=container&comp=batch HTTP/1.1\r\n"), "{batch}");
    let head = batch.split_once("\r\n\r\n").unwrap().0;
    assert_eq!(header(head, "x-ms-version"), header(&seen[1], "x-ms-version"));
    assert!(header(head, "authorization").unwrap().starts_with("SharedKey acct:"));
    let parts = parts(batch);
    for (part, alone) in parts.iter().zip(&seen[1..]) {
        assert_eq!(line(part), line(alone));
        assert_eq!(header(part, "x-ms-version"), None, "the batch's is that of all");
        let date = header(part, "x-ms-date").unwrap();
        let path = line(part).split(' ').nth(1).unwrap();
        let signed = format!("DELETE\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:{date}\n/acct{path}");
        let mut mac = Hmac::<sha2::Sha256>::new_from_slice(b"secret-key").unwrap();
        mac.update(signed.as_bytes());
        let expected = format!("SharedKey acct:{}", BASE64.encode(mac.finalize().into_bytes()));
        assert_eq!(header(part, "Authorization"), Some(expected.as_str()));
    }
    assert_eq!(parts.len(), keys.len());
}

#[tokio::test]
async fn a_part_names_the_account_only_where_an_ordinary_path_does() {
    for (style, expected) in [
        (UriStyle::Host, "DELETE /box/p%2Fk0000 HTTP/1.1\r\n"),
        (UriStyle::Path, "DELETE /acct/box/p%2Fk0000 HTTP/1.1\r\n"),
    ] {
        let config = AzureConfig { uri_style: style, ..testing::config() };
        let batch = store_of(config, Surroundings::default(), None).batch(&keys(2)).await.unwrap();
        let azure_core::http::Body::Bytes(body) = batch.request.body() else { panic!("bytes") };
        assert!(String::from_utf8_lossy(body).contains(expected), "{style:?}");
    }
}

#[tokio::test]
async fn a_signature_goes_in_the_query_of_each_part_and_a_token_in_its_head() {
    let sas = "sv=2024-11-04&sp=rwdl&sig=c2VjcmV0%3D";
    let deleting = server(|_| GONE.to_owned()).await;
    let key = Some(Secret::new(sas));
    let config = AzureConfig { key_type: AzureKeyType::Sas, key, ..at(&deleting) };
    store_of(config, Surroundings::default(), None).delete_many(&keys(3)).await.unwrap();
    let seen = deleting.seen();
    assert!(seen[0].starts_with(&format!("POST /acct/box?restype=container&comp=batch&{sas} HTTP/1.1\r\n")));
    for (number, part) in parts(&seen[0]).iter().enumerate() {
        assert_eq!(line(part), format!("DELETE /acct/box/p%2Fk000{number}?{sas} HTTP/1.1"));
        assert_eq!(header(part, "Authorization"), None);
    }

    let (deleting, store, _identity) = with_tokens("token", |_| GONE.to_owned()).await;
    store.delete_many(&keys(3)).await.unwrap();
    let seen = deleting.seen();
    assert_eq!(header(&seen[0], "authorization"), Some("Bearer token"));
    for part in parts(&seen[0]) {
        assert_eq!(header(&part, "Authorization"), Some("Bearer token"));
        assert!(line(&part).ends_with(" HTTP/1.1") && !line(&part).contains('?'));
    }
}

/// A store whose requests bear that token.
async fn with_tokens(
    token: &str,
    answer: impl Fn(&str) -> String + Send + Sync + 'static,
) -> (Server, AzureStorage, Server) {
    let body = format!(r#"{{"access_token":"{token}","expires_in":"3600","token_type":"Bearer"}}"#);
    let identity = Server::start(move |_, _| Reply::new("200 OK", &body)).await;
    let around = Surroundings { metadata_service: Some(identity.url()), ..Surroundings::default() };
    let server = server(answer).await;
    let config = AzureConfig { key_type: AzureKeyType::Auto, key: None, ..at(&server) };
    (server, store_of(config, around, None), identity)
}

#[tokio::test]
async fn a_token_that_would_add_lines_to_a_part_is_refused_and_not_shown() {
    let (server, store, _identity) =
        with_tokens("evil\\r\\nx-ms-delete-snapshots: include", |_| GONE.to_owned()).await;
    let error = store.delete_many(&keys(2)).await.unwrap_err();
    assert!(error.to_string().contains("Authorization is none for a header"), "{error}");
    assert!(!format!("{error} {error:?}").contains("evil"), "{error:?}");
    assert_eq!(server.seen().len(), 0);
}

#[tokio::test]
async fn any_number_of_keys_goes_in_batches_of_256_and_each_key_once() {
    for (count, expected) in
        [(0, (0, 0)), (1, (0, 1)), (2, (1, 0)), (256, (1, 0)), (257, (1, 1)), (600, (3, 0))]
    {
        let deleted = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&deleted);
        let server = server(move |name| {
            noted.lock().unwrap().push(name.to_owned());
            if name.ends_with('7') { ABSENT.to_owned() } else { GONE.to_owned() }
        })
        .await;
        let store = store(&server);
        assert_eq!(store.delete_many(&keys(count)).await, Ok(()));
        assert_eq!(counts(&server), expected, "{count} keys");
        let deleted = deleted.lock().unwrap();
        assert_eq!((deleted.len(), deleted.iter().collect::<HashSet<_>>().len()), (count, count));
        assert!(takes_batches(&store));
    }
}

#[tokio::test]
async fn a_batch_holds_no_more_than_the_service_takes() {
    let sas = format!("sig=c2VjcmV0&long={}", "x".repeat(48 << 10));
    let server = server(|_| GONE.to_owned()).await;
    let config = AzureConfig { key_type: AzureKeyType::Sas, key: Some(Secret::new(sas)), ..at(&server) };
    let batch = store_of(config, Surroundings::default(), None).batch(&keys(256)).await.unwrap();
    assert!((50..100).contains(&batch.parts), "{}", batch.parts);
    assert!(batch.request.body().len().unwrap() <= 4 << 20);
}

#[tokio::test]
async fn what_is_kept_holds_up_nothing_else_and_is_the_error_in_the_end() {
    for (status, words) in [
        ("409 No\r\nx-ms-error-code: BlobImmutableDueToPolicy", "BlobImmutableDueToPolicy"),
        ("409 No\r\nx-ms-error-code: BlobImmutableDueToLegalHold", "BlobImmutableDueToLegalHold"),
        ("412 No\r\nx-ms-error-code: LeaseIdMissing", "az storage blob lease break"),
    ] {
        let deleted = Arc::new(Mutex::new(HashSet::new()));
        let noted = Arc::clone(&deleted);
        let server = server(move |name| {
            if ["k0003", "k0200"].contains(&name) {
                return status.to_owned();
            }
            noted.lock().unwrap().insert(name.to_owned());
            GONE.to_owned()
        })
        .await;
        let store = store(&server);
        let error = store.delete_many(&keys(300)).await.unwrap_err();
        assert!(error.is_kept() && error.to_string().contains(words), "{error}");
        assert!(error.to_string().contains("'k0003'"), "the first: {error}");
        assert_eq!(
            error,
            store.delete(&key("k0003")).await.unwrap_err(),
            "as if it had been asked for alone"
        );
        assert_eq!(deleted.lock().unwrap().len(), 298);
        assert_eq!(counts(&server), (2, 1));
        assert!(takes_batches(&store));
    }
}

#[tokio::test]
async fn a_server_that_is_busy_with_one_part_is_an_error_that_a_retry_may_mend() {
    for (status, is_patience) in [
        ("503 Busy\r\nx-ms-error-code: ServerBusy\r\nretry-after: 7", true),
        ("429 Busy\r\nretry-after: 7", true),
        ("500 Oh\r\nx-ms-error-code: InternalError", false),
        ("500 Oh\r\nx-ms-error-code: OperationTimedOut", false),
        ("408 Late", false),
    ] {
        let answer = move |name: &str| match name {
            "k0000" => "409 No\r\nx-ms-error-code: BlobImmutableDueToPolicy".to_owned(),
            "k0001" => status.to_owned(),
            _ => GONE.to_owned(),
        };
        let server = server(answer).await;
        let store = store(&server);
        let limit = store.0.pace.limit();
        let error = store.delete_many(&keys(5)).await.unwrap_err();
        assert_eq!(error.retry(), Retry::MayHelp, "{status}: {error}");
        assert!(error.to_string().contains("'k0001'"), "{error}");
        assert_eq!(error.retry_after(), is_patience.then_some(Duration::from_secs(7)), "{status}");
        assert_eq!(store.0.pace.limit() < limit, is_patience, "the pace hears of it: {status}");
        assert_eq!(counts(&server), (1, 0));
    }
}

#[tokio::test]
async fn what_only_the_batch_refuses_is_deleted_alone() {
    let asked = Mutex::new(HashSet::new());
    let server = server(move |name| {
        let is_first = asked.lock().unwrap().insert(name.to_owned());
        let is_odd = ["k0001", "k0003"].contains(&name);
        if is_odd && is_first { "400 Bad\r\nx-ms-error-code: InvalidUri".to_owned() } else { GONE.to_owned() }
    })
    .await;
    let store = store(&server);
    assert_eq!(store.delete_many(&keys(5)).await, Ok(()));
    assert_eq!(counts(&server), (1, 2));
    assert!(takes_batches(&store), "it took the others");
}

#[tokio::test]
async fn a_store_that_takes_no_batches_is_not_asked_for_one_again() {
    for refusal in [
        NOT_TAKEN,
        "400 Bad",
        "403 No\r\nx-ms-error-code: AuthorizationResourceTypeMismatch",
        "404 No\r\nx-ms-error-code: ResourceNotFound",
        "405 No\r\nx-ms-error-code: UnsupportedHttpVerb",
        "409 No\r\nx-ms-error-code: FeatureNotYetSupportedForHierarchicalNamespaceAccounts",
        "411 Length",
        "501 No\r\nx-ms-error-code: NotImplemented",
    ] {
        let is_late = |name: &str| name.ends_with('5');
        let server =
            old_server(refusal, move |name| if is_late(name) { ABSENT.to_owned() } else { GONE.to_owned() })
                .await;
        let store = store(&server);
        assert!(takes_batches(&store));
        assert_eq!(store.delete_many(&keys(300)).await, Ok(()), "{refusal}");
        assert_eq!(counts(&server), (1, 300), "{refusal}");
        assert!(!takes_batches(&store), "{refusal}");
        assert_eq!(store.delete_many(&keys(3)).await, Ok(()));
        assert_eq!(counts(&server), (1, 303), "{refusal}");
    }
}

#[tokio::test]
async fn a_gateway_that_refuses_each_part_or_all_of_them_within_an_answer_takes_no_batches_either() {
    let whole = "--b\r\nContent-Type: application/http\r\n\r\nHTTP/1.1 400 One of the request inputs is not valid.\r\n\
                 x-ms-error-code: InvalidInput\r\n\r\n<Error/>\r\n--b--";
    for is_whole in [false, true] {
        let server = Server::start(move |_, request| match (is_batch(request), is_whole) {
            (true, true) => Reply::new("202 Accepted\r\ncontent-type: multipart/mixed; boundary=b", whole),
            (true, false) => answered(request, |_| "404 No\r\nx-ms-error-code: ResourceNotFound".to_owned()),
            (false, _) => Reply::new(GONE, ""),
        })
        .await;
        let store = store(&server);
        assert_eq!(store.delete_many(&keys(4)).await, Ok(()));
        assert_eq!(counts(&server), (1, 4));
        assert!(!takes_batches(&store));
    }
}

#[tokio::test]
async fn what_a_store_refuses_alone_too_is_told_in_the_words_of_a_single_delete_and_says_nothing_of_batches()
{
    let mismatch = "403 No\r\nx-ms-error-code: AuthorizationPermissionMismatch";
    let table = [
        (mismatch, "the shared access signature grants 'rwl', which is not enough"),
        ("404 No\r\nx-ms-error-code: ContainerNotFound", "account acct has no container 'box'"),
        ("403 No\r\nx-ms-error-code: AuthenticationFailed", "is none of account acct"),
        ("409 No\r\nx-ms-error-code: SnapshotsPresent", "it has snapshots"),
    ];
    for (refusal, words) in table {
        let of_parts = server(move |_| refusal.to_owned()).await;
        let of_all = old_server(refusal, move |_| refusal.to_owned()).await;
        for server in [of_parts, of_all] {
            let key = Some(Secret::new("sp=rwl&sig=c2VjcmV0"));
            let config = AzureConfig { key_type: AzureKeyType::Sas, key, ..at(&server) };
            let store = store_of(config, Surroundings::default(), None);
            let error = store.delete_many(&keys(200)).await.unwrap_err();
            assert!(error.to_string().contains(words), "{refusal}: {error}");
            assert_eq!(error, store.delete(&keys(1)[0]).await.unwrap_err());
            assert_eq!(error.hints().len(), 1);
            assert_eq!(counts(&server), (1, 2), "one of the two is the test's own");
            assert!(takes_batches(&store), "{refusal}");
        }
    }
}

#[tokio::test]
async fn a_token_that_a_part_was_refused_with_is_renewed() {
    let is_first = std::sync::atomic::AtomicBool::new(true);
    let refused = "401 No\r\nx-ms-error-code: InvalidAuthenticationInfo";
    let (server, store, identity) = with_tokens("token", move |_| {
        // The batch's two parts, and the first of them alone.
        if is_first.load(Ordering::SeqCst) { refused.to_owned() } else { GONE.to_owned() }
    })
    .await;
    let error = store.delete_many(&keys(2)).await.unwrap_err();
    assert_eq!((error.retry(), counts(&server)), (Retry::MayHelp, (1, 1)), "{error}");
    assert_eq!(identity.seen().len(), 1);
    assert!(store.delete_many(&keys(2)).await.is_err());
    assert_eq!(identity.seen().len(), 2, "another token was asked for");
}

#[tokio::test]
async fn an_answer_that_is_none_deletes_nothing_and_is_not_asked_about_alone() {
    let html = Reply::new("200 OK\r\ncontent-type: text/html", "<html>Welcome</html>");
    let empty = Reply::new("202 Accepted", "");
    let long = Reply::new("202 Accepted\r\ncontent-type: multipart/mixed; boundary=b", &"x".repeat(5 << 20));
    for (reply, words) in [(html, "text/html"), (empty, "multipart/mixed"), (long, "longer than")] {
        let server = Server::start(move |_, _| reply.clone()).await;
        let error = store(&server).delete_many(&keys(2)).await.unwrap_err();
        assert!(matches!(error, StorageError::NotSupported { .. }), "{error}");
        assert!(
            error.to_string().contains("none to a batch of deletes") && error.to_string().contains(words),
            "{error}"
        );
        assert_eq!(server.seen().len(), 1);
    }
    // Whole by its length, and cut before that.
    let server = Server::start(|number, request| {
        let mut reply = answered(request, |_| GONE.to_owned());
        reply.body.truncate(if number == 0 { reply.body.len() - 5 } else { reply.body.len() });
        reply
    })
    .await;
    let cut = store(&server);
    assert_eq!(cut.delete_many(&keys(2)).await.unwrap_err().retry(), Retry::MayHelp);
    assert_eq!(cut.delete_many(&keys(2)).await, Ok(()));
    // Of another batch: one part too few.
    let server = Server::start(|_, request| {
        let mut reply = answered(request, |_| GONE.to_owned());
        reply.body = reply.body.replacen("Content-ID: 1\r\n", "Content-ID: 0\r\n", 1);
        reply
    })
    .await;
    let error = store(&server).delete_many(&keys(2)).await.unwrap_err();
    assert!(error.to_string().contains("request 0 is answered twice"), "{error}");
}

#[tokio::test]
async fn a_batch_that_fails_in_passing_is_made_again_and_never_taken_for_one_that_is_unknown() {
    for head in ["500 Oh", "503 Busy\r\nx-ms-error-code: ServerBusy", "429 Busy", "408 Late"] {
        let server = Server::start(move |number, request| match number {
            0 => Reply::new(head, ""),
            _ => answered(request, |_| GONE.to_owned()),
        })
        .await;
        let store = store(&server);
        let error = store.delete_many(&keys(2)).await.unwrap_err();
        assert_eq!(error.retry(), Retry::MayHelp, "{head}: {error}");
        assert!(takes_batches(&store), "{head}");
        assert_eq!(store.delete_many(&keys(2)).await, Ok(()));
        assert_eq!(counts(&server), (2, 0), "{head}");
    }
}

/// What the retry decorator does with one that finds out by a batch that there are none, while each delete fails once.
#[tokio::test]
async fn where_there_are_no_batches_each_delete_is_tried_again_by_itself() {
    let failed = Mutex::new(HashSet::new());
    let server = old_server(NOT_TAKEN, move |name| {
        let is_late = name != "k0000" && failed.lock().unwrap().insert(name.to_owned());
        if is_late { "500 Oh\r\nx-ms-error-code: InternalError".to_owned() } else { GONE.to_owned() }
    })
    .await;
    let store = Arc::new(store(&server));
    let policy = RetryPolicy {
        attempts_max: 2,
        backoff_first: Duration::from_millis(1),
        deadline: Duration::from_secs(60),
        ..RetryPolicy::default()
    };
    let patient = RetryStorage::new(Arc::clone(&store) as Arc<dyn pgconvoy_storage::Storage>, policy);
    assert_eq!(patient.delete_many(&keys(40)).await, Ok(()));
    assert!(!takes_batches(&store));
    assert_eq!(counts(&server), (1, 80), "all once in vain but the first, then one by one");
}
