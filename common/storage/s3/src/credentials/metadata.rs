//! Credentials of the instance or container that the program runs in (`key-type = "auto"`).
//!
//! A container says in its environment where to ask. Otherwise it is an instance, whose metadata are asked for with a session
//! token (IMDSv2), so that nobody can make a program fetch them by a mere address.

use super::fetch::{Told, answer};
use super::{CredentialsFailure, Environment, text_of_file};
use aws_credential_types::Credentials;

const INSTANCE: &str = "http://169.254.169.254";
const CONTAINER: &str = "http://169.254.170.2";
/// Hosts that are this host: whoever sets the variable must not send a token elsewhere.
const CONTAINER_HOSTS: [&str; 6] =
    ["169.254.170.2", "169.254.170.23", "[fd00:ec2::23]", "127.0.0.1", "[::1]", "localhost"];
const ROLES: &str = "/latest/meta-data/iam/security-credentials/";
/// Seconds that a session lasts: it serves one fetch.
const SESSION_SECONDS: &str = "60";
const HINT: &str = "give the instance a role, or the container credentials, or set another key-type";

pub(crate) struct Metadata {
    pub client: reqwest::Client,
    pub environment: Environment,
    pub role: Option<String>,
}

impl Metadata {
    pub(crate) async fn fetch(&self) -> Result<Credentials, CredentialsFailure> {
        match self.container()? {
            Some(address) => self.of_container(&address).await,
            None => self.of_instance().await,
        }
    }

    fn container(&self) -> Result<Option<String>, CredentialsFailure> {
        if let Some(path) = self.environment.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") {
            return Ok(Some(format!("{CONTAINER}{path}")));
        }
        let Some(address) = self.environment.get("AWS_CONTAINER_CREDENTIALS_FULL_URI") else {
            return Ok(None);
        };
        let url = reqwest::Url::parse(address).ok();
        let host = url.as_ref().and_then(|url| url.host_str());
        if host.is_some_and(|host| CONTAINER_HOSTS.contains(&host)) {
            return Ok(Some(address.to_owned()));
        }
        let reason = format!("AWS_CONTAINER_CREDENTIALS_FULL_URI leads to {}", host.unwrap_or("no host"));
        Err(CredentialsFailure::lasting(
            reason,
            "it must lead to an address of this host or of its container agent",
        ))
    }

    async fn of_container(&self, address: &str) -> Result<Credentials, CredentialsFailure> {
        const WHOSE: &str = "the container's credentials service";
        let mut request = self.client.get(address);
        if let Some(path) = self.environment.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE") {
            request = request.header("authorization", text_of_file(path, HINT).await?);
        } else if let Some(token) = self.environment.get("AWS_CONTAINER_AUTHORIZATION_TOKEN") {
            request = request.header("authorization", token);
        }
        match answer(request, WHOSE).await? {
            (200, body) => Told::parse(&body, WHOSE),
            (status, _) => Err(refused(WHOSE, status)),
        }
    }

    async fn of_instance(&self) -> Result<Credentials, CredentialsFailure> {
        const WHOSE: &str = "the instance's metadata service";
        if self
            .environment
            .get("AWS_EC2_METADATA_DISABLED")
            .is_some_and(|set| set.eq_ignore_ascii_case("true"))
        {
            return Err(CredentialsFailure::lasting("AWS_EC2_METADATA_DISABLED is set", HINT));
        }
        let base = self.environment.get("AWS_EC2_METADATA_SERVICE_ENDPOINT").unwrap_or(INSTANCE);
        let base = base.trim_end_matches('/');
        let session = self
            .client
            .put(format!("{base}/latest/api/token"))
            .header("x-aws-ec2-metadata-token-ttl-seconds", SESSION_SECONDS);
        let session = match answer(session, WHOSE).await? {
            (200, token) => text(token, WHOSE)?,
            (status, _) => return Err(refused(WHOSE, status)),
        };
        let ask = |path: String| {
            let request = self.client.get(format!("{base}{path}"));
            answer(request.header("x-aws-ec2-metadata-token", session.as_str()), WHOSE)
        };
        let role = match &self.role {
            Some(role) => role.clone(),
            None => match ask(ROLES.to_owned()).await? {
                (200, names) => text(names, WHOSE)?.lines().next().unwrap_or_default().to_owned(),
                (404, _) => return Err(CredentialsFailure::lasting("the instance has no role", HINT)),
                (status, _) => return Err(refused(WHOSE, status)),
            },
        };
        match ask(format!("{ROLES}{role}")).await? {
            (200, body) => Told::parse(&body, WHOSE),
            (404, _) => Err(CredentialsFailure::lasting(
                format!("the instance has no role '{role}'"),
                "correct 'role'",
            )),
            (status, _) => Err(refused(WHOSE, status)),
        }
    }
}

fn text(body: Vec<u8>, whose: &str) -> Result<String, CredentialsFailure> {
    let text = String::from_utf8(body)
        .map_err(|_| CredentialsFailure::passing(format!("{whose} gave something else than text")))?;
    Ok(text.trim().to_owned())
}

fn refused(whose: &str, status: u16) -> CredentialsFailure {
    let reason = format!("{whose} answered {status}");
    match status {
        400..=499 if status != 429 => CredentialsFailure::lasting(reason, HINT),
        _ => CredentialsFailure::passing(reason),
    }
}
