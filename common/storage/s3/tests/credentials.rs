//! Credentials of each kind, from servers and a program of the tests' own: got, kept, renewed before their end.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod support;

use pgconvoy_core::config::{S3Config, S3KeyType, Secret};
use pgconvoy_core::failure::{Classify, Retry};
use pgconvoy_storage::{Storage, StorageError};
use pgconvoy_storage_s3::S3Storage;
use pgconvoy_storage_s3::credentials::Environment;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};
use support::bucket::Bucket;
use support::{Reply, SECRET, config, connect, connect_in, serve};

/// Keys that a store was asked with.
type Keys = Arc<Mutex<Vec<String>>>;

/// A bucket that notes who asks, and its address.
async fn noting_bucket() -> (String, Keys) {
    let (bucket, keys) = (Bucket::default(), Keys::default());
    let noted = Arc::clone(&keys);
    let endpoint = serve(move |request| {
        let token = request.header("x-amz-security-token").unwrap_or("none");
        noted.lock().unwrap().push(format!("{} {token}", request.access_key().unwrap_or("nobody")));
        bucket.answer(&request)
    })
    .await;
    (endpoint, keys)
}

async fn ask(store: &S3Storage) -> Result<(), StorageError> {
    store.list(None, pgconvoy_storage::ListDepth::Children, None, 1).await.map(drop)
}

fn of_kind(endpoint: &str, kind: S3KeyType) -> S3Config {
    S3Config { key_type: kind, key: None, key_secret: None, ..config(endpoint) }
}

fn in_seconds(seconds: u64) -> String {
    let moment = SystemTime::now() + Duration::from_secs(seconds);
    jiff::Timestamp::try_from(moment).unwrap().to_string()
}

/// What an instance or a container tells: numbered keys, each for so long.
fn told(number: u32, seconds: u64) -> String {
    let end = in_seconds(seconds);
    format!(
        r#"{{"Code":"Success","AccessKeyId":"KEY{number}","SecretAccessKey":"{SECRET}","Token":"TOKEN{number}","Expiration":"{end}"}}"#
    )
}

/// Asks until others are used, a few seconds at most.
async fn renews(store: &S3Storage, keys: &Keys) {
    ask(store).await.unwrap();
    ask(store).await.unwrap();
    assert_eq!(*keys.lock().unwrap(), ["KEY1 TOKEN1", "KEY1 TOKEN1"], "they are kept");
    let begun = Instant::now();
    while keys.lock().unwrap().last().unwrap() == "KEY1 TOKEN1" {
        assert!(begun.elapsed() < Duration::from_secs(10), "they are not renewed");
        // The assertion above is the time-out.
        tokio::time::sleep(Duration::from_millis(50)).await;
        ask(store).await.unwrap();
    }
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "renewed before their end, not after: {:?}",
        begun.elapsed()
    );
    assert_eq!(keys.lock().unwrap().last().unwrap(), "KEY2 TOKEN2");
}

#[tokio::test]
async fn a_configured_token_goes_with_every_request() {
    let (endpoint, keys) = noting_bucket().await;
    let with_token = S3Config { token: Some(Secret::new("SESSION")), ..config(&endpoint) };
    ask(&connect(&with_token, "/")).await.unwrap();
    ask(&connect(&config(&endpoint), "/")).await.unwrap();
    assert_eq!(*keys.lock().unwrap(), ["KEY SESSION", "KEY none"]);
}

#[tokio::test]
async fn an_instance_gives_its_roles_credentials_for_a_session_token() {
    let (endpoint, keys) = noting_bucket().await;
    let fetched = AtomicU32::new(0);
    let metadata = serve(move |request| match (request.method.as_str(), request.path.as_str()) {
        ("PUT", "/latest/api/token") => Reply::of(200, "session"),
        _ if request.header("x-aws-ec2-metadata-token") != Some("session") => Reply::of(401, ""),
        (_, "/latest/meta-data/iam/security-credentials/") => Reply::of(200, "backup-role\n"),
        (_, "/latest/meta-data/iam/security-credentials/backup-role") => {
            Reply::of(200, told(fetched.fetch_add(1, Ordering::SeqCst) + 1, 2))
        }
        _ => Reply::of(404, ""),
    })
    .await;
    let environment = Environment::of([("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata.clone())]);
    let store = connect_in(&of_kind(&endpoint, S3KeyType::Auto), "/", environment.clone());
    renews(&store, &keys).await;
    let other = S3Config { role: Some("other-role".to_owned()), ..of_kind(&endpoint, S3KeyType::Auto) };
    let error = ask(&connect_in(&other, "/", environment)).await.unwrap_err();
    assert!(error.to_string().contains("no role 'other-role'"), "{error}");
    assert_eq!(error.retry(), Retry::IsFutile);
}

#[tokio::test]
async fn a_container_says_where_to_ask_and_with_which_token() {
    let (endpoint, keys) = noting_bucket().await;
    let fetched = AtomicU32::new(0);
    let agent = serve(move |request| match request.header("authorization") {
        Some("pod token") => Reply::of(200, told(fetched.fetch_add(1, Ordering::SeqCst) + 1, 2)),
        _ => Reply::of(401, ""),
    })
    .await;
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), "pod token\n").unwrap();
    let environment = Environment::of([
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("{agent}/v1/credentials")),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token.path().display().to_string()),
    ]);
    let store = connect_in(&of_kind(&endpoint, S3KeyType::Auto), "/", environment);
    renews(&store, &keys).await;
    let elsewhere =
        Environment::of([("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://192.0.2.1/x".to_owned())]);
    let error = ask(&connect_in(&of_kind(&endpoint, S3KeyType::Auto), "/", elsewhere)).await.unwrap_err();
    assert!(error.to_string().contains("leads to 192.0.2.1"), "{error}");
}

#[tokio::test]
async fn a_web_identity_is_exchanged_for_credentials() {
    let (endpoint, keys) = noting_bucket().await;
    let fetched = AtomicU32::new(0);
    let service = serve(move |request| {
        let form = request.text();
        let is_asked_well = form.contains("Action=AssumeRoleWithWebIdentity")
            && form.contains("RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fbackup")
            && form.contains("WebIdentityToken=web.identity");
        if !is_asked_well {
            return Reply::of(400, "<Error><Code>ValidationError</Code></Error>");
        }
        let (number, end) = (fetched.fetch_add(1, Ordering::SeqCst) + 1, in_seconds(2));
        Reply::of(
            200,
            format!(
                "<AssumeRoleWithWebIdentityResponse><Credentials><AccessKeyId>KEY{number}</AccessKeyId>\
                 <SecretAccessKey>{SECRET}</SecretAccessKey><SessionToken>TOKEN{number}</SessionToken>\
                 <Expiration>{end}</Expiration></Credentials></AssumeRoleWithWebIdentityResponse>"
            ),
        )
    })
    .await;
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), "web.identity\n").unwrap();
    let environment = |role: &str| {
        Environment::of([
            ("AWS_ENDPOINT_URL_STS", service.clone()),
            ("AWS_WEB_IDENTITY_TOKEN_FILE", token.path().display().to_string()),
            ("AWS_ROLE_ARN", role.to_owned()),
        ])
    };
    let config = of_kind(&endpoint, S3KeyType::WebId);
    renews(&connect_in(&config, "/", environment("arn:aws:iam::1:role/backup")), &keys).await;
    let error = ask(&connect_in(&config, "/", environment("arn:aws:iam::1:role/other"))).await.unwrap_err();
    assert!(error.to_string().contains("answered 400 (ValidationError)"), "{error}");
    let error = ask(&connect_in(&config, "/", environment(""))).await.unwrap_err();
    assert!(error.to_string().contains("AWS_ROLE_ARN is not set"), "{error}");
}

#[tokio::test]
async fn a_program_prints_credentials() {
    let (endpoint, keys) = noting_bucket().await;
    let folder = tempfile::tempdir().unwrap();
    let count = folder.path().join("count").display().to_string();
    let script = format!(
        r#"n=$(( $(cat {count} 2>/dev/null || echo 0) + 1 )); echo $n >{count}
        end=$(date --utc --date='2 seconds' +%Y-%m-%dT%H:%M:%S.%NZ)
        echo '{{"Version":1,"AccessKeyId":"KEY'$n'","SecretAccessKey":"{SECRET}","SessionToken":"TOKEN'$n'","Expiration":"'$end'"}}'"#
    );
    let command = |script: &str| S3Config {
        process_command: vec!["/bin/sh".to_owned(), "-c".to_owned(), script.to_owned()],
        ..of_kind(&endpoint, S3KeyType::Process)
    };
    renews(&connect(&command(&script), "/"), &keys).await;
    let failing = format!("echo {SECRET}; exit 3");
    let error = ask(&connect(&command(&failing), "/")).await.unwrap_err();
    assert!(error.to_string().contains("/bin/sh ended with exit status: 3"), "{error}");
    assert!(!format!("{error:?} {error}").contains(SECRET), "{error:?}");
    let missing = S3Config { process_command: vec!["/no/such/program".to_owned()], ..command("") };
    let error = ask(&connect(&missing, "/")).await.unwrap_err();
    assert!(matches!(error, StorageError::Refused { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_that_fails_costs_nothing_while_the_old_ones_hold_and_many_calls_make_one() {
    let (endpoint, keys) = noting_bucket().await;
    let (fetched, is_broken) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
    let (counted, broken) = (Arc::clone(&fetched), Arc::clone(&is_broken));
    let agent = serve(move |_| {
        let number = counted.fetch_add(1, Ordering::SeqCst) + 1;
        if broken.load(Ordering::SeqCst) { Reply::of(500, SECRET) } else { Reply::of(200, told(number, 2)) }
    })
    .await;
    let environment = Environment::of([("AWS_CONTAINER_CREDENTIALS_FULL_URI", agent)]);
    let store = Arc::new(connect_in(&of_kind(&endpoint, S3KeyType::Auto), "/", environment));
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let store = Arc::clone(&store);
        calls.spawn(async move { ask(&store).await });
    }
    assert!(calls.join_all().await.into_iter().all(|call| call.is_ok()));
    assert_eq!(fetched.load(Ordering::SeqCst), 1, "one fetch for all");
    is_broken.store(true, Ordering::SeqCst);
    let begun = Instant::now();
    let error = loop {
        assert!(begun.elapsed() < Duration::from_secs(10), "they never end");
        // The assertion above is the time-out.
        tokio::time::sleep(Duration::from_millis(50)).await;
        if let Err(error) = ask(&store).await {
            break error;
        }
    };
    assert!(fetched.load(Ordering::SeqCst) > 2, "it was tried before their end");
    assert!(begun.elapsed() > Duration::from_secs(1), "the old ones held until then");
    assert_eq!(error.retry(), Retry::MayHelp);
    assert!(!format!("{error:?} {error}").contains(SECRET), "{error:?}");
    assert!(keys.lock().unwrap().iter().all(|key| key == "KEY1 TOKEN1"));
}
