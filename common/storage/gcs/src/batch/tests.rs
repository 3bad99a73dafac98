#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use super::*;
use pgconvoy_core::config::{GcsConfig, GcsKeyType, StoreTls};
use pgconvoy_core::failure::{Classify as _, Retry};
use pgconvoy_storage::decorate::retry::{RetryPolicy, RetryStorage};
use pgconvoy_storage::parts::PartSlots;
use pgconvoy_storage::scripted::{Answer as Reply, Server};
use pgconvoy_storage::{Feature, Storage as _};
use std::collections::HashSet;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const GONE: &str = "204 No Content";

/// A status with a body as Google has it.
fn error(status: u16, reason: &str, message: &str) -> String {
    let error = serde_json::json!({ "message": message, "errors": [{ "reason": reason }] });
    format!(
        "{status} Error\r\ncontent-type: application/json\r\n\r\n{}",
        serde_json::json!({ "error": error })
    )
}

fn absent(name: &str) -> String {
    error(404, "notFound", &format!("No such object: box/p/{name}"))
}

fn key(name: &str) -> ObjectKey {
    name.parse().unwrap()
}

fn keys(count: usize) -> Vec<ObjectKey> {
    (0..count).map(|number| key(&format!("k{number:04}"))).collect()
}

/// A store that bears the token in that folder.
fn store(server: &Server, folder: &tempfile::TempDir) -> GcsStorage {
    let file = folder.path().join("token");
    if !file.exists() {
        std::fs::write(&file, "first").unwrap();
    }
    let config = GcsConfig {
        bucket: "box".to_owned(),
        key_type: GcsKeyType::Token,
        key_file: Some(file.to_string_lossy().into_owned()),
        endpoint: server.url(),
        user_project: Some("payer".to_owned()),
        tls: StoreTls { ca_file: None, verify: false },
        tags: [].into(),
    };
    GcsStorage::open(&config, "/p", PartSlots::for_slots(1), RetryPolicy::default(), None).unwrap()
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn takes_batches(store: &GcsStorage) -> bool {
    store.features().has(Feature::BatchedDeletes)
}

fn is_batch(request: &str) -> bool {
    request.starts_with("POST /batch/storage/v1 HTTP/1.1\r\n")
}

fn header<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let find = |line: &'a str| line.split_once(": ").filter(|(known, _)| known.eq_ignore_ascii_case(name));
    text.lines().find_map(find).map(|(_, value)| value)
}

/// What each part of a batch is called, and its whole request; what is documented of their form is looked at here.
fn parts(batch: &str) -> Vec<(String, String)> {
    let (head, body) = batch.split_once("\r\n\r\n").unwrap();
    let kind = header(head, "content-type").unwrap();
    let boundary = kind.strip_prefix("multipart/mixed; boundary=").unwrap();
    assert_eq!(body.replace("\r\n", "").matches(['\r', '\n']).count(), 0, "lines end in both");
    let parts = body.strip_suffix(&format!("--{boundary}--\r\n")).unwrap();
    let opens = format!("--{boundary}\r\n");
    let part = |part: &str| {
        let (envelope, request) = part.split_once("\r\n\r\n").unwrap();
        assert_eq!(header(envelope, "content-type"), Some("application/http"));
        assert!(request.starts_with("DELETE /storage/v1/b/box/o/p%2F"), "{request}");
        assert!(request.ends_with(" HTTP/1.1\r\nContent-Length: 0\r\n\r\n\r\n"), "{request}");
        (header(envelope, "content-id").unwrap().to_owned(), request.to_owned())
    };
    parts.split(&opens).skip(1).map(part).collect()
}

/// The name behind the store's path in a request for an object.
fn name(request: &str) -> String {
    let path = request.lines().next().unwrap().split(' ').nth(1).unwrap();
    path.strip_prefix("/storage/v1/b/box/o/p%2F").unwrap().to_owned()
}

/// Answers each part by its name, in the documented form.
fn answered(batch: &str, answer: impl Fn(&str) -> String) -> Reply {
    let mut body = String::new();
    for (id, request) in parts(batch) {
        let id = id.replacen('<', "<response-", 1);
        let status = answer(&name(&request));
        write!(
            body,
            "--b_=\r\nContent-Type: application/http\r\nContent-ID: {id}\r\n\r\nHTTP/1.1 {status}\r\n\r\n"
        )
        .unwrap();
    }
    Reply::new("200 OK\r\ncontent-type: multipart/mixed; boundary=b_=", &format!("{body}--b_=--"))
}

fn alone(answer: &str) -> Reply {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
    Reply::new(head, body)
}

/// A server on which objects are answered as told, in batches and alone.
async fn server(answer: impl Fn(&str) -> String + Send + Sync + 'static) -> Server {
    Server::start(move |_, request| match is_batch(request) {
        true => answered(request, &answer),
        false => alone(&answer(&name(request))),
    })
    .await
}

/// One that takes no batches, for which it answers as told.
async fn old_server(refusal: String, answer: impl Fn(&str) -> String + Send + Sync + 'static) -> Server {
    Server::start(move |_, request| match is_batch(request) {
        true => alone(&refusal),
        false => alone(&answer(&name(request))),
    })
    .await
}

/// Numbers of batches and of single requests.
fn counts(server: &Server) -> (usize, usize) {
    let seen = server.seen();
    let batches = seen.iter().filter(|request| is_batch(request)).count();
    (batches, seen.len() - batches)
}

#[tokio::test]
async fn a_part_is_addressed_as_an_ordinary_delete_of_the_same_name_and_who_asks_stands_in_the_head() {
    let names = ["many/c&d<e>", "many/f g+h%20'\"", "many/größe", "a?b#c;d=e", "x:y@z,~!$()*[]|^`{}"];
    let (server, folder) = (server(|_| GONE.to_owned()).await, folder());
    let store = store(&server, &folder);
    let keys = names.map(key);
    store.delete_many(&keys).await.unwrap();
    for key in &keys {
        store.delete(key).await.unwrap();
    }
    let seen = server.seen();
    assert_eq!(seen.len(), 1 + keys.len());
    let head = seen[0].split_once("\r\n\r\n").unwrap().0;
    assert_eq!(header(head, "authorization"), Some("Bearer first"));
    assert_eq!(header(head, "x-goog-user-project"), Some("payer"));
    let parts = parts(&seen[0]);
    assert_eq!(parts.len(), keys.len());
    for ((_, part), alone) in parts.iter().zip(&seen[1..]) {
        assert_eq!(part.lines().next(), alone.lines().next());
        assert_eq!(header(part, "authorization"), None);
    }
    let ids: HashSet<&String> = parts.iter().map(|(id, _)| id).collect();
    assert_eq!(ids.len(), keys.len());
}

#[tokio::test]
async fn any_number_of_keys_goes_in_batches_of_100_and_each_key_once() {
    for (count, expected) in [
        (0, (0, 0)),
        (1, (0, 1)),
        (2, (1, 0)),
        (100, (1, 0)),
        (101, (1, 1)),
        (102, (2, 0)),
        (300, (3, 0)),
        (1000, (10, 0)),
    ] {
        let deleted = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&deleted);
        let server = server(move |name| {
            noted.lock().unwrap().push(name.to_owned());
            match name.as_bytes().last() {
                Some(b'7') => absent(name),
                Some(b'8') => "200 OK".to_owned(),
                _ => GONE.to_owned(),
            }
        })
        .await;
        let folder = folder();
        let store = store(&server, &folder);
        assert_eq!(store.delete_many(&keys(count)).await, Ok(()));
        assert_eq!(counts(&server), expected, "{count} keys");
        let deleted = deleted.lock().unwrap();
        assert_eq!((deleted.len(), deleted.iter().collect::<HashSet<_>>().len()), (count, count));
        assert!(takes_batches(&store));
    }
}

#[tokio::test]
async fn what_is_kept_holds_up_nothing_else_and_is_the_error_in_the_end() {
    for reason in ["retentionPolicyNotMet", "objectUnderActiveHold"] {
        let deleted = Arc::new(Mutex::new(HashSet::new()));
        let noted = Arc::clone(&deleted);
        let server = server(move |name| {
            if ["k0003", "k0250"].contains(&name) {
                return error(403, reason, "Object is kept.");
            }
            noted.lock().unwrap().insert(name.to_owned());
            GONE.to_owned()
        })
        .await;
        let folder = folder();
        let store = store(&server, &folder);
        let error = store.delete_many(&keys(300)).await.unwrap_err();
        assert!(error.is_kept() && error.to_string().contains(reason), "{error}");
        assert_eq!(error, store.delete(&key("k0003")).await.unwrap_err(), "as if asked for alone");
        assert_eq!(deleted.lock().unwrap().len(), 298);
        assert_eq!(counts(&server), (3, 1));
        assert!(takes_batches(&store));
    }
}

#[tokio::test]
async fn a_server_that_is_busy_with_one_part_is_an_error_that_a_retry_may_mend() {
    let with_wait = |status: u16, reason: &str| {
        error(status, reason, "slow").replacen("\r\n", "\r\nretry-after: 7\r\n", 1)
    };
    for (answer, is_patience) in [
        (with_wait(503, "backendError"), true),
        (with_wait(429, "rateLimitExceeded"), true),
        (with_wait(403, "userRateLimitExceeded"), true),
        (with_wait(500, "backendError"), false),
        (with_wait(408, "uploadBrokenConnection"), false),
    ] {
        let said = answer.clone();
        let server = server(move |name| match name {
            "k0000" => error(403, "retentionPolicyNotMet", "kept"),
            "k0001" => said.clone(),
            _ => GONE.to_owned(),
        })
        .await;
        let folder = folder();
        let store = store(&server, &folder);
        let limit = store.inner.api.pace.limit();
        let error = store.delete_many(&keys(5)).await.unwrap_err();
        assert_eq!(error.retry(), Retry::MayHelp, "{answer}: {error}");
        assert!(error.to_string().contains("'k0001'"), "{error}");
        assert_eq!(error.retry_after(), is_patience.then_some(Duration::from_secs(7)), "{answer}");
        assert_eq!(store.inner.api.pace.limit() < limit, is_patience, "the pace hears of it: {answer}");
        assert_eq!(counts(&server), (1, 0));
        assert!(takes_batches(&store));
    }
}

#[tokio::test]
async fn a_batch_that_fails_in_passing_holds_up_no_later_one_and_is_made_again() {
    let is_first = AtomicBool::new(true);
    let server = server(move |name| match name {
        "k0150" if is_first.swap(false, Ordering::SeqCst) => error(503, "backendError", "try again"),
        _ => GONE.to_owned(),
    })
    .await;
    let folder = folder();
    let store = store(&server, &folder);
    let error = store.delete_many(&keys(400)).await.unwrap_err();
    assert_eq!((error.retry(), counts(&server)), (Retry::MayHelp, (4, 0)), "{error}");
    assert_eq!(store.delete_many(&keys(400)).await, Ok(()));
    for status in ["500 Oh", "503 Busy", "429 Busy", "408 Late"] {
        let server = Server::start(move |number, request| match number {
            0 => Reply::new(status, ""),
            _ => answered(request, |_| GONE.to_owned()),
        })
        .await;
        let store = self::store(&server, &folder);
        let error = store.delete_many(&keys(300)).await.unwrap_err();
        assert_eq!((error.retry(), counts(&server)), (Retry::MayHelp, (1, 0)), "{status}: {error}");
        assert!(takes_batches(&store), "{status}");
        assert_eq!(store.delete_many(&keys(2)).await, Ok(()));
    }
}

#[tokio::test]
async fn a_store_that_takes_no_batches_is_not_asked_for_one_again() {
    for refusal in ["404 Not Found", "405 No", "501 No", "400 Bad", "403 No", "302 Found\r\nlocation: /"] {
        let server = old_server(refusal.to_owned(), |name| match name.ends_with('5') {
            true => absent(name),
            false => GONE.to_owned(),
        })
        .await;
        let folder = folder();
        let store = store(&server, &folder);
        assert!(takes_batches(&store));
        assert_eq!(store.delete_many(&keys(300)).await, Ok(()), "{refusal}");
        assert_eq!(counts(&server), (1, 300), "{refusal}");
        assert!(!takes_batches(&store), "{refusal}");
        assert_eq!(store.delete_many(&keys(3)).await, Ok(()));
        assert_eq!(counts(&server), (1, 303), "{refusal}");
    }
}

#[tokio::test]
async fn answers_that_name_no_request_count_for_nothing_and_objects_are_deleted_alone() {
    let server = Server::start(|_, request| {
        if !is_batch(request) {
            return Reply::new(GONE, "");
        }
        let Reply { head, body } = answered(request, |_| GONE.to_owned());
        let lines = body.split_inclusive("\r\n").filter(|line| !line.starts_with("Content-ID"));
        Reply::new(&head, &lines.collect::<String>())
    })
    .await;
    let folder = folder();
    let store = store(&server, &folder);
    assert_eq!(store.delete_many(&keys(5)).await, Ok(()));
    assert_eq!(counts(&server), (1, 5));
    assert!(!takes_batches(&store));
}

#[tokio::test]
async fn what_a_store_refuses_alone_too_is_told_in_the_words_of_a_single_delete_and_says_nothing_of_batches()
{
    for (refusal, words) in [
        (error(403, "forbidden", "svc does not have access"), "svc does not have access"),
        (error(404, "notFound", "The specified bucket does not exist."), "there is no bucket 'box'"),
        (error(401, "authError", "Invalid Credentials"), "Invalid Credentials"),
        (error(400, "required", "Bucket is a requester pays bucket"), "requester pays"),
    ] {
        let said = refusal.clone();
        let of_parts = server(move |_| said.clone()).await;
        let said = refusal.clone();
        let of_all = old_server(refusal.clone(), move |_| said.clone()).await;
        for server in [of_parts, of_all] {
            let folder = folder();
            let store = store(&server, &folder);
            let error = store.delete_many(&keys(300)).await.unwrap_err();
            assert!(error.to_string().contains(words), "{refusal}: {error}");
            assert_eq!(error, store.delete(&keys(1)[0]).await.unwrap_err());
            assert_eq!(error.hints().len(), 1);
            assert_eq!(counts(&server), (1, 2), "one of the two is the test's own");
            assert!(takes_batches(&store), "{refusal}");
        }
    }
}

#[tokio::test]
async fn a_token_that_the_batch_or_a_part_is_refused_with_is_renewed_and_says_nothing_of_batches() {
    for is_of_parts in [true, false] {
        let folder = Arc::new(folder());
        let renewing = Arc::clone(&folder);
        let server = Server::start(move |_, request| {
            if header(request, "authorization") == Some("Bearer second") {
                return answered(request, |_| GONE.to_owned());
            }
            std::fs::write(renewing.path().join("token"), "second").unwrap();
            let refusal = error(401, "authError", "Invalid Credentials");
            if is_of_parts { answered(request, |_| refusal.clone()) } else { alone(&refusal) }
        })
        .await;
        let store = store(&server, &folder);
        assert_eq!(store.delete_many(&keys(3)).await, Ok(()));
        assert_eq!(counts(&server), (2, 0), "of parts: {is_of_parts}");
        assert!(takes_batches(&store));
    }
}

#[tokio::test]
async fn an_answer_that_is_none_deletes_nothing_and_is_not_asked_about_alone() {
    let change = |from: &'static str, to: &'static str| {
        move |request: &str| {
            let mut reply = answered(request, |_| GONE.to_owned());
            assert!(reply.body.contains(from) || reply.head.contains(from), "{from}");
            reply.body = reply.body.replacen(from, to, 1);
            reply.head = reply.head.replacen(from, to, 1);
            reply
        }
    };
    let of_another = |request: &str| {
        let mut reply = answered(request, |_| GONE.to_owned());
        reply.body = reply.body.replace("<response-", "<response-0");
        reply
    };
    let missing = |request: &str| {
        let mut reply = answered(request, |_| GONE.to_owned());
        let last = reply.body.rfind("--b_=\r\n").unwrap();
        reply.body = format!("{}--b_=--", &reply.body[..last]);
        reply
    };
    type Script = Box<dyn Fn(&str) -> Reply + Send + Sync>;
    let table: [(Script, &str); 8] = [
        (Box::new(|_: &str| Reply::new("200 OK\r\ncontent-type: text/html", "<html>")), "text/html"),
        (Box::new(|_: &str| Reply::new("200 OK", "")), "multipart/mixed"),
        (Box::new(change("boundary=b_=", "boundary=c")), "does not begin with its boundary"),
        (Box::new(change("+1>", "+0>")), "request 0 is answered twice"),
        (Box::new(change("+1>", "+2>")), "2 is no request of it"),
        (Box::new(change("HTTP/1.1 204", "204")), "is no status"),
        (Box::new(of_another), "is no request of it"),
        (Box::new(missing), "1 of 2 requests are answered"),
    ];
    for (reply, words) in table {
        let server = Server::start(move |_, request| reply(request)).await;
        let folder = folder();
        let error = store(&server, &folder).delete_many(&keys(2)).await.unwrap_err();
        assert!(matches!(error, StorageError::NotSupported { .. }), "{words}: {error}");
        assert!(error.to_string().contains(words), "{words}: {error}");
        assert_eq!(server.seen().len(), 1);
    }
    let long = |_: usize, _: &str| {
        Reply::new("200 OK\r\ncontent-type: multipart/mixed; boundary=b", &"x".repeat(3 << 20))
    };
    let cut = |number: usize, request: &str| {
        let mut reply = answered(request, |_| GONE.to_owned());
        reply.body.truncate(if number == 0 { reply.body.len() - 5 } else { reply.body.len() });
        reply
    };
    let folder = folder();
    let server = Server::start(long).await;
    let error = store(&server, &folder).delete_many(&keys(2)).await.unwrap_err();
    assert!(error.to_string().contains("longer than"), "{error}");
    let server = Server::start(cut).await;
    let store = store(&server, &folder);
    assert_eq!(store.delete_many(&keys(2)).await.unwrap_err().retry(), Retry::MayHelp);
    assert_eq!(store.delete_many(&keys(2)).await, Ok(()));
}

/// What the retry decorator does with a store that finds out by a batch that there are none, while each delete fails once.
#[tokio::test]
async fn where_there_are_no_batches_each_delete_is_tried_again_by_itself() {
    let failed = Mutex::new(HashSet::new());
    let server = old_server("404 Not Found".to_owned(), move |name| {
        let is_late = name != "k0000" && failed.lock().unwrap().insert(name.to_owned());
        if is_late { "500 Oh".to_owned() } else { GONE.to_owned() }
    })
    .await;
    let folder = folder();
    let store = Arc::new(store(&server, &folder));
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
