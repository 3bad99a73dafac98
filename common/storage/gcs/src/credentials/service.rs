//! `key-type = "service"`: a service account's JSON key signs a request for a token, and Google's token service answers it.
//!
//! The SDK could send what it signed itself as a token, for Google's own endpoints. The exchange is used instead since it honours
//! the key's `token_uri` and asks with the store's client, so that `ca-file` holds here too. The SDK signs.
//!
//! The key file is read again for each token, so that a replaced key is taken up.

use super::{SCOPE, TokenError, authorization};
use crate::names::encode_pairs;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use google_cloud_auth::credentials::service_account;
use google_cloud_auth::signer::Signer;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use pgconvoy_storage::http::unanswered;
use pgconvoy_storage::renewed::{Given, Renewed};
use pgconvoy_storage::{IoAction, Place};
use serde::Deserialize;
use std::time::{Duration, SystemTime};

/// What Google allows at most, and what it gives.
const ASSERTION_LIFETIME: Duration = Duration::from_secs(3600);
/// Of one exchange, which takes a tenth of a second: a service that hangs must not hold up whoever waits for a token.
const EXCHANGE_MAX: Duration = Duration::from_secs(10);
const DEFAULT_TOKEN_URI: &str = "https://oauth2.googleapis.com/token";
const GRANT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
const ANSWER_LENGTH_MAX: usize = 64 << 10;
const HINT: &str =
    "key-file must be a service account's JSON key (gcloud iam service-accounts keys create makes one)";
const HINT_REFUSED: &str =
    "look at this host's clock (timedatectl), and whether the key or its account was disabled or deleted";

#[derive(Debug)]
pub(super) struct Service {
    path: String,
    http: reqwest::Client,
    token: Renewed<HeaderMap, TokenError>,
}

/// What of a key file is needed; the private key stays with the signer.
struct Key {
    email: String,
    id: String,
    token_uri: String,
    signer: Signer,
}

#[derive(Deserialize)]
struct Grant {
    access_token: String,
    expires_in: u64,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Refused {
    error: String,
    error_description: String,
}

impl Service {
    pub(super) fn new(path: String, http: reqwest::Client) -> Result<Service, TokenError> {
        let service = Service { path, http, token: Renewed::default() };
        // A key that cannot be used should be found when the repository is opened, not in the middle of a backup.
        service.key()?;
        Ok(service)
    }

    pub(super) fn forget(&self, refused: &HeaderMap) {
        self.token.forget(|kept| kept == refused);
    }

    pub(super) async fn headers(&self) -> Result<HeaderMap, TokenError> {
        let late = |_| {
            let seconds = EXCHANGE_MAX.as_secs();
            Err(TokenError::passing(format!("the token service gave none within {seconds} s")))
        };
        let renew = async { tokio::time::timeout(EXCHANGE_MAX, self.exchange()).await.unwrap_or_else(late) };
        self.token.current(renew).await
    }

    fn unusable(&self, reason: impl std::fmt::Display) -> TokenError {
        TokenError::lasting(format!("key-file {}: {reason}", self.path), HINT)
    }

    /// Errors of the parser are not told: they may quote what they found.
    fn key(&self) -> Result<Key, TokenError> {
        let text = std::fs::read(&self.path).map_err(|error| self.unusable(error))?;
        let json: serde_json::Value =
            serde_json::from_slice(&text).map_err(|_| self.unusable("it is no JSON"))?;
        let field = |name: &str| json.get(name).and_then(serde_json::Value::as_str).map(str::to_owned);
        let needed = |name: &str| field(name).ok_or_else(|| self.unusable(format!("it has no '{name}'")));
        needed("private_key")?;
        let (email, id) = (needed("client_email")?, needed("private_key_id")?);
        let token_uri = field("token_uri").unwrap_or_else(|| DEFAULT_TOKEN_URI.to_owned());
        let signer = service_account::Builder::new(json).build_signer();
        let signer = signer.map_err(|_| self.unusable("it is no key of a service account"))?;
        Ok(Key { email, id, token_uri, signer })
    }

    /// A token for a signed assertion, as RFC 7523 has it.
    async fn exchange(&self) -> Result<Given<HeaderMap>, TokenError> {
        let key = self.key()?;
        let unsigned = assertion(&key, SystemTime::now());
        let signature = key.signer.sign(&unsigned).await;
        let signature = signature.map_err(|_| self.unusable("its private key cannot sign"))?;
        let assertion = format!("{unsigned}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature));
        let form = encode_pairs(&[("grant_type", GRANT), ("assertion", &assertion)]);
        let request = self.http.post(&key.token_uri);
        let request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(form);
        let place = || Place::new(key.token_uri.as_str(), None);
        let failed = |error: reqwest::Error| {
            TokenError::passing(unanswered(place(), IoAction::Open, &error).to_string())
        };
        let mut answer = request.send().await.map_err(failed)?;
        let status = answer.status();
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > ANSWER_LENGTH_MAX {
                return Err(TokenError::passing(format!("{}: its answer is too long", key.token_uri)));
            }
            body.extend_from_slice(&chunk);
        }
        if !status.is_success() {
            return Err(refused(&key.token_uri, status.as_u16(), &body));
        }
        let grant: Grant = serde_json::from_slice(&body)
            .map_err(|_| TokenError::passing(format!("{}: its answer is no token", key.token_uri)))?;
        let life = Some(Duration::from_secs(grant.expires_in));
        Ok(Given { value: authorization(&grant.access_token)?, life })
    }
}

/// Header and claims, ready to be signed.
fn assertion(key: &Key, now: SystemTime) -> String {
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let header = serde_json::json!({ "alg": "RS256", "typ": "JWT", "kid": key.id });
    let claims = serde_json::json!({
        "iss": key.email,
        "scope": SCOPE,
        "aud": key.token_uri,
        "iat": seconds,
        "exp": seconds + ASSERTION_LIFETIME.as_secs(),
    });
    let encode = |json: &serde_json::Value| BASE64_URL_SAFE_NO_PAD.encode(json.to_string());
    format!("{}.{}", encode(&header), encode(&claims))
}

fn refused(token_uri: &str, status: u16, body: &[u8]) -> TokenError {
    let Refused { error, error_description } = serde_json::from_slice(body).unwrap_or_default();
    let description: String = error_description.chars().take(400).collect();
    let reason = format!("{token_uri} answered {status} ({error}: {description})");
    match status {
        408 | 429 | 500.. => TokenError::passing(reason),
        _ => TokenError::lasting(reason, HINT_REFUSED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::GcsStorage;
    use pgconvoy_core::config::{GcsConfig, GcsKeyType, StoreTls};
    use pgconvoy_storage::Storage as _;
    use pgconvoy_storage::decorate::retry::RetryPolicy;
    use pgconvoy_storage::parts::PartSlots;
    use pgconvoy_storage::scripted::{Answer, Server};
    use std::collections::BTreeMap;
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn write_key(json: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), json).expect("write");
        file
    }

    fn open(file: &tempfile::NamedTempFile) -> Result<Service, TokenError> {
        Service::new(file.path().to_string_lossy().into_owned(), reqwest_client())
    }

    fn reqwest_client() -> reqwest::Client {
        let tls = pgconvoy_core::config::StoreTls { ca_file: None, verify: false };
        pgconvoy_storage::http::client(&tls, "gcs:test").expect("a client")
    }

    #[test]
    fn a_key_file_that_cannot_serve_is_refused_without_quoting_it() {
        let table = [
            ("-----BEGIN SECRET", "it is no JSON"),
            ("{}", "it has no 'private_key'"),
            (r#"{"private_key":"SECRET"}"#, "it has no 'client_email'"),
        ];
        for (text, reason) in table {
            let error = open(&write_key(text)).expect_err("it cannot serve");
            assert!(error.to_string().ends_with(reason) && !error.may_help, "{error}");
            assert!(!error.to_string().contains("SECRET"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_private_key_that_is_none_is_found_before_anybody_is_asked() {
        let text = r#"{"private_key":"SECRET","client_email":"a@b","private_key_id":"1","project_id":"p",
            "token_uri":"http://127.0.0.1:1/token"}"#;
        let _ = rustls::crypto::ring::default_provider().install_default();
        let file = write_key(text);
        let error = open(&file).expect("a key by its form").headers().await.expect_err("it cannot sign");
        assert!(error.to_string().ends_with("its private key cannot sign"), "{error}");
        assert!(!error.to_string().contains("SECRET"));
    }

    fn openssl(arguments: &[&str]) {
        let made = std::process::Command::new("openssl").args(arguments).output().expect("openssl runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }

    /// A key file that a token service of the test's own takes, whatever is signed with it.
    fn key_for(service: &Server) -> tempfile::NamedTempFile {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let pem = tempfile::NamedTempFile::new().expect("a file");
        let path = pem.path().to_str().expect("a path that is text");
        openssl(&["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", path]);
        let json = serde_json::json!({
            "private_key": std::fs::read_to_string(path).expect("a key"),
            "client_email": "a@b",
            "private_key_id": "1",
            "project_id": "p",
            "token_uri": format!("{}/token", service.url()),
        });
        write_key(&json.to_string())
    }

    /// Gives `token-0`, `token-1` ..
    fn giving(number: usize, seconds: u64) -> Answer {
        Answer::new("200 OK", &format!(r#"{{"access_token":"token-{number}","expires_in":{seconds}}}"#))
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 6)]
    async fn many_that_are_refused_with_one_token_all_go_on_with_the_next() {
        let tokens = Server::start(|number, _| giving(number, 3600)).await;
        let (refused, all) = (AtomicUsize::new(0), Barrier::new(4));
        let store = Server::start(move |_, request| {
            if !request.contains("Bearer token-0\r\n") {
                return Answer::new("200 OK", r#"{"size":"1"}"#);
            }
            // All four are under way with the first token before any learns of it.
            tokio::task::block_in_place(|| all.wait());
            let number = refused.fetch_add(1, Ordering::SeqCst);
            // The last ones learn of it when others have the next token, well within the timeout of a request.
            tokio::task::block_in_place(|| std::thread::sleep(Duration::from_millis(100 * number as u64)));
            Answer::new("401 Unauthorized", "")
        })
        .await;
        let file = key_for(&tokens);
        let config = GcsConfig {
            bucket: "b".to_owned(),
            key_type: GcsKeyType::Service,
            key_file: Some(file.path().to_string_lossy().into_owned()),
            endpoint: store.url(),
            user_project: None,
            tls: StoreTls { ca_file: None, verify: false },
            tags: BTreeMap::new(),
        };
        let store = GcsStorage::open(&config, "p", PartSlots::for_slots(1), RetryPolicy::default(), None);
        let (store, key) = (store.expect("a store"), "a".parse().expect("a key"));
        let (one, two, three, four) =
            tokio::join!(store.stat(&key), store.stat(&key), store.stat(&key), store.stat(&key));
        for answer in [one, two, three, four] {
            assert!(matches!(answer, Ok(Some(_))), "{answer:?}");
        }
        assert_eq!(tokens.seen().len(), 2, "one exchange for all of them");
    }

    #[test]
    fn a_busy_token_service_is_asked_again_and_one_that_refuses_is_not() {
        let body = br#"{"error":"invalid_grant","error_description":"Invalid JWT: Token must be a short-lived token"}"#;
        let error = refused("https://t", 400, body);
        assert!(!error.may_help && error.hint.contains("clock"), "{error:?}");
        assert!(error.to_string().contains("invalid_grant: Invalid JWT"), "{error}");
        assert!(refused("https://t", 503, b"busy").may_help);
    }
}
