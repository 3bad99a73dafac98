//! Who may ask: tokens, the token service that gives them for signed assertions, and service account keys.

use crate::support::{Program, Result, ensure, limits};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use rustls::SignatureScheme;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const SERVICE_EMAIL: &str = "backup@project.iam.gserviceaccount.com";
const GRANT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
const SCOPE: &str = "https://www.googleapis.com/auth/devstorage.read_write";

/// A service account's key file, and what proves its signatures.
pub struct ServiceKey {
    pub file: PathBuf,
    /// The private key, which must never be seen anywhere.
    pub secret: String,
    pub(super) public: Vec<u8>,
}

impl ServiceKey {
    /// Lines of `[repo.N.gcs]`.
    pub fn key_type(&self) -> String {
        format!("key-type = \"service\"\nkey-file = \"{}\"", self.file.display())
    }

    pub(super) fn generate(folder: &Path, token_uri: &str) -> Result<ServiceKey> {
        let (pem, der) = (folder.join("service.pem"), folder.join("service.der"));
        let openssl = |args: &[&str]| Program::as_ourselves("openssl").args(args).run(limits::COMMAND)?.ok();
        let text = |path: &Path| path.to_string_lossy().into_owned();
        openssl(&[
            "genpkey",
            "-quiet",
            "-algorithm",
            "RSA",
            "-pkeyopt",
            "rsa_keygen_bits:2048",
            "-out",
            &text(&pem),
        ])?;
        openssl(&["rsa", "-in", &text(&pem), "-RSAPublicKey_out", "-outform", "DER", "-out", &text(&der)])?;
        let secret = std::fs::read_to_string(&pem)?;
        let file = folder.join("service.json");
        let key = json!({
            "type": "service_account",
            "project_id": "project",
            "private_key_id": "0123456789abcdef",
            "private_key": secret,
            "client_email": SERVICE_EMAIL,
            "client_id": "1",
            "token_uri": token_uri,
        });
        std::fs::write(&file, key.to_string())?;
        Ok(ServiceKey { file, secret, public: std::fs::read(der)? })
    }
}

#[derive(Debug, Default)]
pub struct Tokens {
    good_until: BTreeMap<String, Instant>,
    /// RSA public key of the service account.
    trusted: Option<Vec<u8>>,
    pub given: usize,
}

/// What the token service answers: status and body.
pub type Granted = (u16, Value);

impl Tokens {
    pub fn allow(&mut self, token: &str, life: Duration) {
        self.good_until.insert(token.to_owned(), Instant::now() + life);
    }

    pub fn revoke_all(&mut self) {
        self.good_until.clear();
    }

    pub fn trust(&mut self, public: Vec<u8>) {
        self.trusted = Some(public);
    }

    pub fn is_good(&self, authorization: &str) -> bool {
        let token = authorization.strip_prefix("Bearer ");
        token.and_then(|token| self.good_until.get(token)).is_some_and(|until| Instant::now() < *until)
    }

    pub fn give(&mut self, life: u64) -> Granted {
        self.given += 1;
        let token = format!("ya29.secret-{}", self.given);
        self.allow(&token, Duration::from_secs(life));
        (200, json!({ "access_token": token, "expires_in": life, "token_type": "Bearer" }))
    }

    /// RFC 7523 as Google has it.
    pub fn exchange(&mut self, form: &BTreeMap<String, String>, audience: &str, life: u64) -> Granted {
        let refusal = |error: &str, text: String| (400, json!({ "error": error, "error_description": text }));
        if form.get("grant_type").map(String::as_str) != Some(GRANT) {
            return refusal("unsupported_grant_type", "Invalid grant_type".to_owned());
        }
        match self.judge(form.get("assertion").map_or("", String::as_str), audience) {
            Ok(()) => self.give(life),
            Err(error) => refusal("invalid_grant", error.to_string()),
        }
    }

    fn judge(&self, assertion: &str, audience: &str) -> Result<()> {
        let parts: Vec<&str> = assertion.split('.').collect();
        ensure!(parts.len() == 3, "Bad Request");
        let decode = |text: &str| BASE64_URL_SAFE_NO_PAD.decode(text);
        let header: Value = serde_json::from_slice(&decode(parts[0])?)?;
        let claims: Value = serde_json::from_slice(&decode(parts[1])?)?;
        ensure!(header["alg"] == "RS256" && header["kid"] == "0123456789abcdef", "Invalid JWT header");
        let signed = format!("{}.{}", parts[0], parts[1]);
        ensure!(self.is_signed(signed.as_bytes(), &decode(parts[2])?), "Invalid JWT Signature.");
        ensure!(claims["iss"] == SERVICE_EMAIL, "Not a valid email or user ID.");
        ensure!(claims["aud"] == audience && claims["scope"] == SCOPE, "Invalid audience or scope");
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let (issued, ends) = (claims["iat"].as_u64().unwrap_or(0), claims["exp"].as_u64().unwrap_or(0));
        ensure!(
            issued.abs_diff(now) < 300 && ends > now && ends - issued <= 3600,
            "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. Check your iat and exp values in the JWT claim."
        );
        Ok(())
    }

    fn is_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        let Some(public) = &self.trusted else { return false };
        let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms;
        let fitting =
            algorithms.mapping.iter().find(|(scheme, _)| *scheme == SignatureScheme::RSA_PKCS1_SHA256);
        fitting.is_some_and(|(_, algorithms)| {
            algorithms.iter().any(|one| one.verify_signature(public, message, signature).is_ok())
        })
    }
}
