//! Coordinators with real listeners and certificates in one process, and somebody who asks them.

use super::TIMEOUT;
use crate::api::forward::GUARD_HEADER;
use crate::api::{ApiDeps, serve};
use crate::audit::{Caller, Entry};
use crate::fleet::{Fleet, FleetDeps, LeaderAddress, Standing};
use crate::leader::Ttls;
use crate::tokens::{self, NewToken, RANDOM_BYTES, TokenRole, Tokens};
use crate::workshop::{Places, Tools, Workshop};
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::format::plan::Writer;
use pgconvoy_core::ids::{Epoch, Identity, RepoKey, StanzaName, WorkerName};
use pgconvoy_core::job::{JobKind, JobOptions};
use pgconvoy_core::machine::backup::{BackupSpec, Outcome};
use pgconvoy_core::record::JobRecord;
use pgconvoy_core::units::Timestamp;
use pgconvoy_lease::{EmbeddedStore, FleetKeys, LeaseStore};
use pgconvoy_repository::RepositorySet;
use pgconvoy_transport::pki::authority::MEMBER_VALIDITY;
use pgconvoy_transport::pki::{Authority, Credentials, IssueRequest, Revoked};
use pgconvoy_transport::tls::{Shown, https_client_config, https_server_config};
use pgconvoy_transport::{Admission, Role};
use serde_json::Value;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, SystemTime};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

/// Knows one option, and begins nothing: there is no worker.
struct Shop;

impl Workshop for Shop {
    fn places(&self) -> Result<Arc<Places>, Failure> {
        Ok(Arc::new(Places {
            repositories: Vec::new(),
            stanzas: [("main".parse().unwrap(), Vec::new())].into(),
            set: Arc::default(),
        }))
    }

    fn may_serve(&self, _: &WorkerName, _: &StanzaName) -> Result<(), Failure> {
        Ok(())
    }

    fn check(&self, _: JobKind, _: &StanzaName, options: &JobOptions) -> Result<Vec<RepoKey>, Failure> {
        match options.0.keys().find(|name| !matches!(name.as_str(), "type" | "exclude")) {
            Some(name) => Err(Failure::new(ErrorCode::OptionInvalid, format!("invalid option '--{name}'"))
                .hint("did you mean '--type'?")),
            None => Ok(vec![RepoKey(1)]),
        }
    }

    fn looked_at(&self, _: JobKind, _: &StanzaName, _: &JobOptions) -> Result<Arc<RepositorySet>, Failure> {
        Err(Failure::new(ErrorCode::Assert, "nothing begins here"))
    }

    fn spec(&self, _: &JobRecord, _: Epoch) -> Result<BackupSpec, Failure> {
        Err(Failure::new(ErrorCode::Assert, "nothing begins here"))
    }

    fn tools(&self, _: &StanzaName, _: &JobOptions) -> Result<Tools, Failure> {
        Err(Failure::new(ErrorCode::Assert, "nothing begins here"))
    }

    fn result(&self, _: &JobRecord, _: &Outcome, _: Duration) -> Option<String> {
        None
    }
}

pub(super) struct Site {
    pub(super) leases: Arc<dyn LeaseStore>,
    pub(super) keys: FleetKeys,
    authority: Authority,
    credentials: Credentials,
    tokens: Vec<(TokenRole, Zeroizing<String>)>,
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    Timestamp(i64::try_from(since.as_millis()).unwrap())
}

pub(super) fn by_hand(what: &str, object: &str) -> Entry {
    let caller = Caller { name: "root@here".to_owned(), role: "host".to_owned() };
    Entry::asked(&caller, what, object, now(), identity().unwrap())
}

fn identity() -> Result<Identity, Failure> {
    static COUNT: AtomicU8 = AtomicU8::new(1);
    Ok(Identity::from_random_bytes([COUNT.fetch_add(1, Ordering::Relaxed); 16]))
}

impl Site {
    pub(super) async fn new() -> Site {
        let leases: Arc<dyn LeaseStore> = Arc::new(EmbeddedStore::start());
        let keys = FleetKeys::new("blue").unwrap();
        let mut texts = Vec::new();
        for (seed, role) in (1..).zip(TokenRole::ALL) {
            let random = Zeroizing::new([seed; RANDOM_BYTES]);
            let token = NewToken::make(&role.name().parse().unwrap(), role, now(), &random);
            tokens::store(leases.as_ref(), &keys, &token, by_hand("token create", role.name()))
                .await
                .unwrap();
            texts.push((role, token.text));
        }
        let authority = Authority::create(&"blue".parse().unwrap(), now()).unwrap();
        let request = IssueRequest {
            role: Role::Coordinator,
            name: "c1".parse().unwrap(),
            sans: Vec::new(),
            validity: MEMBER_VALIDITY,
        };
        let issued = authority.issue(&request, now()).unwrap();
        let credentials =
            Credentials::from_pem(authority.cert_pem(), &issued.cert_pem, &issued.key_pem, now()).unwrap();
        Site { leases, keys, authority, credentials, tokens: texts }
    }

    fn client_config(&self) -> rustls::ClientConfig {
        let trusted = pgconvoy_transport::pki::TrustedAuthority::from_pem(self.authority.cert_pem()).unwrap();
        https_client_config(&trusted, Admission::of([Role::Coordinator]), &Revoked::default())
    }

    /// Serves the API, and takes no part in any election.
    pub(super) async fn idle(&self, name: &str) -> Peer {
        let listen = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://{}", listen.local_addr().unwrap());
        let fleet = Fleet::new(FleetDeps {
            address: LeaderAddress { name: name.to_owned(), quic: String::new(), api: url.clone() },
            fleet: self.keys.clone(),
            leases: self.leases.clone(),
            workshop: Arc::new(Shop),
            runtime: Handle::current(),
            ttls: Ttls::FLEET,
            writer: Writer { host: "here".into(), boot: "1".into(), process: 1 },
            identity: Arc::new(identity),
            revoked: Default::default(),
        });
        let stop = CancellationToken::new();
        let api = ApiDeps {
            fleet: fleet.clone(),
            tokens: Tokens::new(self.leases.clone(), self.keys.clone()),
            listen,
            tls: https_server_config(&Shown::new(&self.credentials)),
            forward: self.client_config(),
            stop: stop.clone(),
        };
        actix::spawn(async move { serve(api).await.unwrap() });
        let client = reqwest::Client::builder().tls_backend_preconfigured(self.client_config()).no_proxy();
        let client = client.redirect(reqwest::redirect::Policy::none()).timeout(TIMEOUT).build().unwrap();
        Peer { url, fleet, client, tokens: self.tokens.clone(), stop, resign: CancellationToken::new() }
    }

    async fn running(&self, name: &str) -> Peer {
        let peer = self.idle(name).await;
        let (fleet, resign) = (peer.fleet.clone(), peer.resign.clone());
        actix::spawn(async move { fleet.run(resign).await });
        peer
    }

    pub(super) async fn leader(&self, name: &str) -> Peer {
        let peer = self.running(name).await;
        peer.comes_to_lead().await;
        peer
    }

    pub(super) async fn follower(&self, name: &str) -> Peer {
        let peer = self.running(name).await;
        peer.stands(|standing| matches!(standing, Standing::Following(Some(_)))).await;
        peer
    }
}

/// A coordinator, and somebody who asks it.
pub(super) struct Peer {
    url: String,
    fleet: Arc<Fleet>,
    client: reqwest::Client,
    tokens: Vec<(TokenRole, Zeroizing<String>)>,
    stop: CancellationToken,
    resign: CancellationToken,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.resign.cancel();
        self.stop.cancel();
    }
}

pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) location: String,
    pub(super) may_be_repeated: bool,
    pub(super) body: Value,
}

impl Peer {
    async fn stands(&self, wanted: impl FnMut(&Standing) -> bool) {
        let mut standing = self.fleet.standing();
        tokio::time::timeout(TIMEOUT, standing.wait_for(wanted)).await.unwrap().unwrap();
    }

    pub(super) async fn comes_to_lead(&self) {
        self.stands(|standing| matches!(standing, Standing::Leading(_))).await;
    }

    /// Takes part in no election any more, and serves on.
    pub(super) async fn resign(&self) {
        self.resign.cancel();
        self.stands(|standing| !matches!(standing, Standing::Leading(_))).await;
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// From the top, without a token.
    pub(super) fn request(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url))
    }

    pub(super) fn token(&self, role: TokenRole) -> &str {
        self.tokens.iter().find(|(known, _)| *known == role).unwrap().1.as_str()
    }

    async fn send(request: reqwest::RequestBuilder) -> Answer {
        let response = request.send().await.unwrap();
        let header = |name: &str| {
            response.headers().get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
        };
        let (location, may_be_repeated) = (header("location"), !header("retry-after").is_empty());
        let status = response.status().as_u16();
        let body = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap_or_default();
        Answer { status, location, may_be_repeated, body }
    }

    pub(super) async fn ask(
        &self,
        method: &str,
        path: &str,
        token: Option<&str>,
        body: Option<&Value>,
    ) -> Answer {
        let url = format!("{}/api/v1/{path}", self.url);
        let mut request = self.client.request(method.parse().unwrap(), url);
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if let Some(body) = body {
            request = request.body(body.to_string());
        }
        Peer::send(request).await
    }

    pub(super) async fn get(&self, path: &str, role: TokenRole) -> Answer {
        self.ask("GET", path, Some(self.token(role)), None).await
    }

    pub(super) async fn post(&self, path: &str, role: TokenRole, body: &Value) -> Answer {
        self.ask("POST", path, Some(self.token(role)), Some(body)).await
    }

    pub(super) async fn asked_by_a_follower(&self, path: &str) -> Answer {
        let request = self.client.get(format!("{}/api/v1/{path}", self.url));
        let request = request.header("authorization", format!("Bearer {}", self.token(TokenRole::Viewer)));
        Peer::send(request.header(GUARD_HEADER, "1")).await
    }

    pub(super) async fn status_of(&self, path: &str) -> u16 {
        Peer::send(self.client.get(format!("{}{path}", self.url))).await.status
    }

    pub(super) async fn submit(&self, body: &Value) -> String {
        let answer = self.post("jobs", TokenRole::Operator, body).await;
        answer.body["id"].as_str().unwrap().to_owned()
    }

    pub(super) async fn follow(&self, id: &str, last_event: Option<&str>) -> Stream {
        let request = self.client.get(format!("{}/api/v1/jobs/{id}/events", self.url));
        let mut request =
            request.header("authorization", format!("Bearer {}", self.token(TokenRole::Viewer)));
        if let Some(last_event) = last_event {
            request = request.header("last-event-id", last_event);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Stream { response, text: String::new() }
    }
}

/// A stream of events as it is read.
pub(super) struct Stream {
    response: reqwest::Response,
    text: String,
}

pub(super) struct Event {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) data: Value,
}

impl Stream {
    /// The next event; comments are passed over. `None`: the stream is over.
    pub(super) async fn event(&mut self) -> Option<Event> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.text = rest;
                let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name));
                if let Some(data) = field("data: ") {
                    return Some(Event {
                        id: field("id: ").unwrap().to_owned(),
                        name: field("event: ").unwrap().to_owned(),
                        data: serde_json::from_str(data).unwrap(),
                    });
                }
                continue;
            }
            let piece = self.response.chunk().await.unwrap()?;
            self.text += std::str::from_utf8(&piece).unwrap();
        }
    }
}
