#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use super::*;
use crate::access::token::Tokens;
use crate::testing::{Answer, Server};
use crate::{AzureOptions, AzureStorage};
use pgconvoy_core::config::{AzureConfig, AzureKeyType, UriStyle};
use pgconvoy_core::failure::{Classify as _, Retry};
use pgconvoy_storage::Storage as _;
use pgconvoy_storage::decorate::retry::RetryPolicy;
use pgconvoy_storage::parts::PartSlots;
use std::io::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};

fn tokens(around: &Surroundings) -> Tokens {
    Tokens::new(around.identity().unwrap())
}

/// Gives out `token-0`, `token-1` .., each for so many seconds, as a machine's service words it.
async fn giver(seconds: u64) -> Server {
    Server::start(move |number, _| {
        let body =
            format!(r#"{{"access_token":"token-{number}","expires_in":"{seconds}","token_type":"Bearer"}}"#);
        Answer::new("200 OK", &body)
    })
    .await
}

fn machine(server: &Server) -> Surroundings {
    let metadata_service = Some(format!("{}/metadata/identity/oauth2/token", server.url()));
    Surroundings { metadata_service, ..Surroundings::default() }
}

#[tokio::test]
async fn a_token_of_the_metadata_service_is_asked_for_as_documented_and_kept() {
    let server = giver(3600).await;
    let client_id = Some("one of several".to_owned());
    let tokens = tokens(&Surroundings { client_id, ..machine(&server) });
    for _ in 0..3 {
        assert_eq!(tokens.bearer().await.unwrap().as_str(), "Bearer token-0");
    }
    let seen = server.seen();
    assert_eq!(seen.len(), 1);
    let line = "GET /metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fstorage.azure.com%2F\
                &client_id=one+of+several HTTP/1.1\r\n";
    assert!(seen[0].starts_with(line) && seen[0].contains("metadata: true\r\n"), "{}", seen[0]);
}

#[tokio::test]
async fn a_token_that_lives_for_seconds_is_renewed_before_its_end() {
    let server = giver(2).await;
    let tokens = tokens(&machine(&server));
    let begun = tokio::time::Instant::now();
    assert_eq!(tokens.bearer().await.unwrap().as_str(), "Bearer token-0");
    let renewed = tokio::time::timeout(Duration::from_secs(30), async {
        while tokens.bearer().await.unwrap().as_str() == "Bearer token-0" {
            // Bounded by the timeout around it.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        begun.elapsed()
    });
    // A quarter before its end, as far as a busy machine lets us look in time.
    let elapsed = renewed.await.unwrap();
    assert!(elapsed >= Duration::from_millis(1500), "{elapsed:?}");
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn a_token_that_cannot_be_renewed_is_used_to_its_end_and_not_beyond() {
    let server = Server::start(|number, _| match number {
        0 => Answer::new("200 OK", r#"{"access_token":"old","expires_in":4}"#),
        _ => Answer::new("500 Oh", ""),
    })
    .await;
    let tokens = tokens(&machine(&server));
    assert_eq!(tokens.bearer().await.unwrap().as_str(), "Bearer old");
    let ended = tokio::time::timeout(Duration::from_secs(30), async {
        let mut uses = 0;
        loop {
            match tokens.bearer().await {
                Ok(_) => uses += u32::from(server.seen().len() > 1),
                Err(trouble) => return (uses, trouble),
            }
            // Bounded by the timeout around it.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let (uses_after_failures, trouble) = ended.await.unwrap();
    assert!(uses_after_failures > 0, "a failed renewal costs nothing while the old token is valid");
    assert!(matches!(&trouble, TokenTrouble::Away(reason) if reason.contains("500")), "{trouble}");
}

#[tokio::test]
async fn many_that_want_a_token_at_once_ask_once() {
    let server = giver(3600).await;
    let tokens = std::sync::Arc::new(tokens(&machine(&server)));
    let mut askers = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let tokens = std::sync::Arc::clone(&tokens);
        askers.spawn(async move { tokens.bearer().await.unwrap() });
    }
    assert!(askers.join_all().await.iter().all(|bearer| bearer.as_str() == "Bearer token-0"));
    assert_eq!(server.seen().len(), 1);
    assert!(tokens.refused("Bearer token-0"), "another may do");
    assert_eq!(tokens.bearer().await.unwrap().as_str(), "Bearer token-1");
}

#[tokio::test]
async fn a_local_identity_service_gets_its_header() {
    let server = giver(3600).await;
    let around = Surroundings {
        identity_endpoint: Some(format!("{}/msi/token", server.url())),
        identity_header: Some(Secret::new("proof")),
        ..Surroundings::default()
    };
    assert!(!format!("{around:?}").contains("proof"), "{around:?}");
    assert_eq!(tokens(&around).bearer().await.unwrap().as_str(), "Bearer token-0");
    let seen = server.seen().remove(0);
    assert!(seen.starts_with("GET /msi/token?api-version=2019-08-01&resource="), "{seen}");
    assert!(seen.contains("x-identity-header: proof\r\n"), "{seen}");
}

#[tokio::test]
async fn a_federated_token_is_read_anew_and_exchanged() {
    let server =
        Server::start(|_, _| Answer::new("200 OK", r#"{"access_token":"t","expires_in":3599}"#)).await;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "first.jwt").unwrap();
    let around = Surroundings {
        federated_token_file: Some(file.path().to_owned()),
        client_id: Some("app".to_owned()),
        tenant_id: Some("tenant".to_owned()),
        authority_host: Some(format!("{}/", server.url())),
        ..Surroundings::default()
    };
    let tokens = tokens(&around);
    assert_eq!(tokens.bearer().await.unwrap().as_str(), "Bearer t");
    std::fs::write(file.path(), "second.jwt").unwrap();
    tokens.refused("Bearer t");
    assert_eq!(tokens.bearer().await.unwrap().as_str(), "Bearer t");
    let seen = server.seen();
    assert!(seen[0].starts_with("POST /tenant/oauth2/v2.0/token HTTP/1.1\r\n"), "{}", seen[0]);
    for part in
        ["client_id=app", "scope=https%3A%2F%2Fstorage.azure.com%2F.default", "client_assertion=first.jwt"]
    {
        assert!(seen[0].contains(part), "{part}: {}", seen[0]);
    }
    assert!(seen[1].ends_with("client_assertion=second.jwt"), "{}", seen[1]);
}

#[tokio::test]
async fn who_has_no_identity_is_told_so_in_the_services_words() {
    let refusal = r#"{"error":"invalid_request","error_description":"Identity not found\r\nTrace ID: 1"}"#;
    let server = Server::start(move |_, _| Answer::new("400 Bad Request", refusal)).await;
    let trouble = tokens(&machine(&server)).bearer().await.unwrap_err();
    let expected = "answered 400 (invalid_request: Identity not found)";
    assert!(matches!(&trouble, TokenTrouble::Refused(reason) if reason.ends_with(expected)), "{trouble}");
    let around =
        Surroundings { metadata_service: Some("http://127.0.0.1:1/".to_owned()), ..Surroundings::default() };
    let trouble = tokens(&around).bearer().await.unwrap_err();
    assert!(
        matches!(&trouble, TokenTrouble::Away(reason) if reason.contains("managed identity")),
        "{trouble}"
    );
}

/// A store with tokens of this server, which answers 401 to those that are named.
async fn store_refusing(refused: &'static [&'static str]) -> (Server, AzureStorage) {
    let given = AtomicUsize::new(0);
    let server = Server::start(move |_, request| {
        if request.contains("/oauth2/token") {
            let number = given.fetch_add(1, Ordering::SeqCst);
            return Answer::new(
                "200 OK",
                &format!(r#"{{"access_token":"token-{number}","expires_in":3600}}"#),
            );
        }
        match refused.iter().any(|token| request.contains(&format!("authorization: Bearer {token}\r\n"))) {
            true => Answer::new("401 No\r\nx-ms-error-code: InvalidAuthenticationInfo", ""),
            false => Answer::new("200 OK", ""),
        }
    })
    .await;
    let config = AzureConfig {
        endpoint: server.url(),
        uri_style: UriStyle::Path,
        key_type: AzureKeyType::Auto,
        key: None,
        ..crate::testing::config()
    };
    let options = AzureOptions {
        path: "/p".to_owned(),
        retry: RetryPolicy::default(),
        slots: PartSlots::for_slots(1),
        surroundings: machine(&server),
        lock: None,
    };
    let store = AzureStorage::new(&config, options).unwrap();
    (server, store)
}

#[tokio::test]
async fn a_token_that_was_taken_back_is_replaced_at_the_next_try() {
    let (_server, store) = store_refusing(&["token-0"]).await;
    let key = "a".parse().unwrap();
    let first = store.stat(&key).await.unwrap_err();
    assert!(first.retry() == Retry::MayHelp && !first.to_string().contains("token-0"), "{first}");
    assert!(store.stat(&key).await.unwrap().is_some());
}

#[tokio::test]
async fn who_is_refused_with_a_new_token_too_is_told_to_mend_something() {
    let (server, store) = store_refusing(&["token-0", "token-1", "token-2"]).await;
    let key = "a".parse().unwrap();
    assert_eq!(store.stat(&key).await.unwrap_err().retry(), Retry::MayHelp);
    let second = store.stat(&key).await.unwrap_err();
    assert_eq!(second.retry(), Retry::IsFutile, "{second}");
    assert!(second.to_string().contains("is not accepted"), "{second}");
    assert_eq!(server.seen().len(), 4, "two tokens, two questions");
}
