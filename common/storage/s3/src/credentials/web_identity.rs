//! Credentials for a token that somebody else vouches for (`key-type = "web-id"`): a pod's service account, above all.
//!
//! The token's file is read for each exchange, since whoever writes it replaces it.

use super::fetch::{answer, credentials};
use super::{CredentialsFailure, Environment, text_of_file};
use crate::errors::xml_text;
use aws_credential_types::Credentials;
use pgconvoy_core::config::{S3Config, StoreTls};
use pgconvoy_storage::{StorageError, http};

const WHOSE: &str = "the token service (STS)";
const HINT: &str =
    "AWS_WEB_IDENTITY_TOKEN_FILE and AWS_ROLE_ARN must be set, and the role must trust the token's issuer";

pub(crate) struct WebIdentity {
    client: reqwest::Client,
    address: String,
    environment: Environment,
    role: Option<String>,
}

impl WebIdentity {
    pub(crate) fn new(
        config: &S3Config,
        environment: Environment,
        store_client: reqwest::Client,
        store: &str,
    ) -> Result<WebIdentity, StorageError> {
        // A service that was set by hand stands beside the store, under the same authority.
        let (client, address) = match environment.get("AWS_ENDPOINT_URL_STS") {
            Some(address) => (store_client, address.to_owned()),
            None => {
                let tls = StoreTls { ca_file: None, verify: true };
                (http::client(&tls, store)?, format!("https://sts.{}.amazonaws.com", config.region))
            }
        };
        Ok(WebIdentity { client, address, environment, role: config.role.clone() })
    }

    pub(crate) async fn fetch(&self) -> Result<Credentials, CredentialsFailure> {
        let missing = |name: &str| CredentialsFailure::lasting(format!("{name} is not set"), HINT);
        let file = self.environment.get("AWS_WEB_IDENTITY_TOKEN_FILE");
        let token = text_of_file(file.ok_or_else(|| missing("AWS_WEB_IDENTITY_TOKEN_FILE"))?, HINT).await?;
        let role = self.role.as_deref().or_else(|| self.environment.get("AWS_ROLE_ARN"));
        let role = role.ok_or_else(|| missing("AWS_ROLE_ARN"))?;
        let session = self.environment.get("AWS_ROLE_SESSION_NAME").unwrap_or("pgconvoy");
        let mut address = reqwest::Url::parse(&self.address).map_err(|_| {
            CredentialsFailure::lasting("AWS_ENDPOINT_URL_STS is no address", "write it as https://host")
        })?;
        if address.path().is_empty() {
            address.set_path("/");
        }
        let form = reqwest::Url::parse_with_params(
            "http://form/",
            [
                ("Action", "AssumeRoleWithWebIdentity"),
                ("Version", "2011-06-15"),
                ("RoleArn", role),
                ("RoleSessionName", session),
                ("WebIdentityToken", &token),
            ],
        );
        // In the body: an address would be in somebody's log.
        let form = form.expect("a form is a query").query().unwrap_or_default().to_owned();
        let request = self.client.post(address).header("content-type", "application/x-www-form-urlencoded");
        let (status, body) = answer(request.body(form), WHOSE).await?;
        let body = String::from_utf8_lossy(&body);
        if status != 200 {
            return Err(refused(status, xml_text(&body, "Code").unwrap_or_default()));
        }
        let field = |name| {
            xml_text(&body, name)
                .ok_or_else(|| CredentialsFailure::passing(format!("{WHOSE} gave no {name}")))
        };
        let session_token = Some(field("SessionToken")?.trim().to_owned());
        let (key, secret) = (field("AccessKeyId")?.trim(), field("SecretAccessKey")?.trim());
        credentials(key, secret, session_token, Some(field("Expiration")?.trim()), WHOSE)
    }
}

fn refused(status: u16, code: &str) -> CredentialsFailure {
    let reason = format!("{WHOSE} answered {status} ({code})");
    match (status, code) {
        // A token that has just ended is replaced by whoever writes the file.
        (_, "ExpiredTokenException" | "IDPCommunicationError" | "Throttling") => {
            CredentialsFailure::passing(reason)
        }
        (400..=499, _) if status != 429 => CredentialsFailure::lasting(reason, HINT),
        _ => CredentialsFailure::passing(reason),
    }
}
