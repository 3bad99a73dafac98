//! Somebody on the command line and a coordinator, over HTTPS in one process.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use super::client::Client;
use super::follow;
use super::workshop::CommandWorkshop;
use crate::context::{Context, Current};
use crate::host::{now, random_identity};
use pgconvoy_coordinator::Ttls;
use pgconvoy_coordinator::api::{ApiDeps, serve};
use pgconvoy_coordinator::fleet::{Fleet, FleetDeps, LeaderAddress, Standing};
use pgconvoy_coordinator::tokens::{self, NewToken, RANDOM_BYTES, TokenRole, Tokens};
use pgconvoy_core::config::Config;
use pgconvoy_core::failure::ErrorCode;
use pgconvoy_lease::{EmbeddedStore, FleetKeys, LeaseStore};
use pgconvoy_transport::pki::authority::MEMBER_VALIDITY;
use pgconvoy_transport::pki::{Authority, Credentials, IssueRequest, Revoked};
use pgconvoy_transport::tls::{Shown, https_client_config, https_server_config};
use pgconvoy_transport::{Admission, Role};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

/// For conditions that are waited for; long enough for any machine.
const TIMEOUT: Duration = Duration::from_secs(20);

struct Site {
    dir: TempDir,
    leases: Arc<dyn LeaseStore>,
    keys: FleetKeys,
    credentials: Credentials,
}

impl Site {
    fn new() -> Site {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::create(&"blue".parse().unwrap(), now()).unwrap();
        let name = "c1".parse().unwrap();
        let request =
            IssueRequest { role: Role::Coordinator, name, sans: Vec::new(), validity: MEMBER_VALIDITY };
        let issued = authority.issue(&request, now()).unwrap();
        let credentials =
            Credentials::from_pem(authority.cert_pem(), &issued.cert_pem, &issued.key_pem, now()).unwrap();
        std::fs::write(dir.path().join("ca.crt"), authority.cert_pem()).unwrap();
        let keys = FleetKeys::new("blue").unwrap();
        Site { dir, leases: Arc::new(EmbeddedStore::start()), keys, credentials }
    }

    /// The configuration that serves every host, with these coordinators.
    fn config(&self, api: &[String]) -> Config {
        let dir = self.dir.path().display();
        let text = format!(
            "[repo.1]\npath = \"/nowhere\"\n[stanza.main]\n[[stanza.main.pg]]\npath = \"/data\"\n\
             [fleet]\nname = \"blue\"\napi = {api:?}\nca-file = \"{dir}/ca.crt\"\ntoken-file = \"{dir}/token\"\n"
        );
        Config::load(Some(("c", &text)), &BTreeMap::new(), |_| Err(String::new())).unwrap()
    }

    async fn token(&self, role: TokenRole) {
        let mut random = Zeroizing::new([0; RANDOM_BYTES]);
        getrandom::fill(random.as_mut_slice()).unwrap();
        let token = NewToken::make(&role.name().parse().unwrap(), role, now(), &random);
        let by_hand = super::store::by_hand("token create", role.name()).unwrap();
        tokens::store(self.leases.as_ref(), &self.keys, &token, by_hand).await.unwrap();
        std::fs::write(self.dir.path().join("token"), format!("{}\n", *token.text)).unwrap();
    }

    /// A coordinator, and what ends it.
    async fn coordinator(&self, name: &str) -> (String, Arc<Fleet>, CancellationToken) {
        let listen = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://{}", listen.local_addr().unwrap());
        let context = Context {
            config: self.config(&[]),
            config_file: None,
            overrides: Default::default(),
            stanza: None,
            embedded: false,
            command: "coordinator",
            environment: BTreeMap::new(),
            is_root: false,
            arguments: Vec::new(),
        };
        let fleet = Fleet::new(FleetDeps {
            address: LeaderAddress { name: name.to_owned(), quic: String::new(), api: url.clone() },
            fleet: self.keys.clone(),
            leases: self.leases.clone(),
            workshop: Arc::new(CommandWorkshop::new(Arc::new(Current::new(context)))),
            runtime: Handle::current(),
            ttls: Ttls::FLEET,
            writer: crate::host::writer(),
            identity: Arc::new(random_identity),
            revoked: Default::default(),
        });
        let stop = CancellationToken::new();
        let admission = Admission::of([Role::Coordinator]);
        let api = ApiDeps {
            fleet: fleet.clone(),
            tokens: Tokens::new(self.leases.clone(), self.keys.clone()),
            listen,
            tls: https_server_config(&Shown::new(&self.credentials)),
            forward: https_client_config(self.credentials.authority(), admission, &Revoked::default()),
            stop: stop.clone(),
        };
        actix::spawn(async move { serve(api).await.unwrap() });
        let (running, until) = (fleet.clone(), stop.clone());
        actix::spawn(async move { running.run(until).await });
        let mut standing = fleet.standing();
        let is_settled = |standing: &Standing| !matches!(standing, Standing::Following(None));
        tokio::time::timeout(TIMEOUT, standing.wait_for(is_settled)).await.unwrap().unwrap();
        (url, fleet, stop)
    }

    fn client(&self, api: &[String]) -> Client {
        Client::new(self.config(api).fleet.as_ref()).unwrap()
    }
}

/// Nobody listens there.
fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("https://{}", listener.local_addr().unwrap())
}

fn backup() -> Value {
    json!({"kind": "backup", "stanza": "main", "options": {"type": ["full"]}})
}

#[actix::test]
async fn any_coordinator_will_do() {
    let site = Site::new();
    site.token(TokenRole::Operator).await;
    let (one, ..) = site.coordinator("one").await;
    let client = site.client(&[nobody(), one]);
    let id = client.post("jobs", &backup()).await.unwrap()["id"].as_str().unwrap().to_owned();
    assert_eq!(client.get(&format!("jobs/{id}")).await.unwrap()["state"], "queued");
    let failure = site.client(&[nobody(), nobody()]).get("jobs").await.unwrap_err();
    assert_eq!(failure.code, ErrorCode::HostConnect);
    assert!(failure.message.contains("Connection refused"), "{failure}");
}

#[actix::test]
async fn a_refusal_arrives_with_its_code_and_its_hints() {
    let site = Site::new();
    site.token(TokenRole::Viewer).await;
    let (one, ..) = site.coordinator("one").await;
    let client = site.client(std::slice::from_ref(&one));
    assert_eq!(client.post("jobs", &backup()).await.unwrap_err().code, ErrorCode::Access);
    site.token(TokenRole::Operator).await;
    let client = site.client(std::slice::from_ref(&one));
    let misspelt = json!({"kind": "backup", "stanza": "main", "options": {"start-fst": ["y"]}});
    let failure = client.post("jobs", &misspelt).await.unwrap_err();
    assert_eq!(
        (failure.code, failure.hints),
        (ErrorCode::OptionInvalid, vec!["did you mean '--start-fast'?".to_owned()])
    );
    let failure = client.get("jobs/nonsense").await.unwrap_err();
    assert_eq!(
        (failure.code, failure.message.as_str()),
        (ErrorCode::ParamInvalid, "there is no job nonsense")
    );
}

#[actix::test]
async fn a_job_is_watched_to_its_end_whoever_leads_meanwhile() {
    let site = Site::new();
    site.token(TokenRole::Operator).await;
    let (one, _, stop_one) = site.coordinator("one").await;
    let (two, fleet, _) = site.coordinator("two").await;
    let client = Arc::new(site.client(&[one, two.clone()]));
    let id = client.post("jobs", &backup()).await.unwrap()["id"].as_str().unwrap().to_owned();
    let watching = actix::spawn({
        let (client, id) = (client.clone(), id.clone());
        async move { follow::to_the_end(&client, &id).await }
    });
    stop_one.cancel();
    let mut standing = fleet.standing();
    let leads = standing.wait_for(|standing| matches!(standing, Standing::Leading(_)));
    tokio::time::timeout(TIMEOUT, leads).await.unwrap().unwrap();
    let other = site.client(&[two]);
    other.post(&format!("jobs/{id}/cancel"), &Value::Null).await.unwrap();
    let end = tokio::time::timeout(TIMEOUT, watching).await.unwrap().unwrap().unwrap();
    assert_eq!((&end["state"], &end["error"]["code"]), (&json!("cancelled"), &json!(63)));
}

#[actix::test]
async fn what_is_missing_to_ask_a_fleet_is_named() {
    let site = Site::new();
    let api = [nobody()];
    let refused = |config: &Config| Client::new(config.fleet.as_ref()).err().unwrap();
    let mut config = site.config(&[]);
    assert_eq!(refused(&config).code, ErrorCode::OptionRequired);
    config = site.config(&api);
    let failure = refused(&config);
    assert!(failure.message.contains("token-file") && failure.code == ErrorCode::FileOpen, "{failure}");
    config = site.config(&["http://127.0.0.1:1".to_owned()]);
    assert_eq!(refused(&config).code, ErrorCode::OptionInvalidValue);
}
