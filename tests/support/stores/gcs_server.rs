//! A small Google Cloud Storage in the test's own process, written from the documentation of the JSON API.
//!
//! Emulators that can be had check neither tokens nor checksums, and each of them gets some request wrong. This one is strict
//! where Google is: what it does not know is refused. It keeps one bucket in memory. What goes wrong is ordered by [`Rules`].
//!
//! It is not all of the API: uploads of all three kinds, media reads with ranges, descriptions, compose, rewrite, listings and deletes of objects, batches;
//! the token service for service accounts; the token page of the metadata server.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "every test binary that names this compiles all of it and uses a part"
)]

#[path = "gcs_server/batch.rs"]
mod batch;
#[path = "gcs_server/body.rs"]
mod body;
#[path = "gcs_server/bucket.rs"]
mod bucket;
#[path = "gcs_server/requests.rs"]
mod requests;
#[path = "gcs_server/tokens.rs"]
mod tokens;
#[path = "gcs_server/uploads.rs"]
mod uploads;

use crate::support::{Context, Result};
use bucket::Bucket;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
pub use tokens::ServiceKey;
use tokens::Tokens;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio_rustls::TlsAcceptor;
use uploads::Sessions;

pub const BUCKET: &str = "backups";
/// Who pays, where the bucket's owner does not.
pub const PROJECT: &str = "payer";

/// Lines of `[repo.N.gcs]`, for a server at this endpoint; `key_type` says how to log in.
pub fn table(endpoint: &str, key_type: &str) -> String {
    format!("bucket = \"{BUCKET}\"\nendpoint = \"{endpoint}\"\n{key_type}")
}

/// What goes wrong, beside what is always wrong.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// Requests need a project that pays.
    pub requester_pays: bool,
    /// Nothing may be deleted.
    pub retention: bool,
    /// Nobody has heard of the batch endpoint.
    pub knows_no_batches: bool,
    /// The account may do nothing.
    pub forbidden: bool,
    /// So many uploads arrive with another byte in the middle.
    pub damaged_uploads: u32,
    /// So many media reads leave with another byte in the middle.
    pub damaged_reads: u32,
    /// So many requests are told to come again after a second.
    pub throttled: u32,
    /// So many composes are done, and nobody hears of it.
    pub lost_composes: u32,
    /// So many rewrites are done, and nobody hears of it.
    pub lost_rewrites: u32,
    /// How long an upload takes at least.
    pub upload_time: Duration,
    /// How long a delete takes at least.
    pub delete_time: Duration,
    /// What the token service says to an assertion, whatever it is.
    pub token_refusal: Option<(u16, String)>,
    /// Seconds that tokens are good for.
    pub token_life: u64,
}

/// What a test may look at.
#[derive(Debug, Default)]
struct Gauges {
    uploads_now: AtomicUsize,
    uploads_most: AtomicUsize,
    requests: AtomicUsize,
}

#[derive(Debug)]
struct Shared {
    bucket: Mutex<Bucket>,
    tokens: Mutex<Tokens>,
    sessions: Mutex<Sessions>,
    rules: Mutex<Rules>,
    gauges: Gauges,
    address: SocketAddr,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Serves until it is dropped.
pub struct GcsServer {
    shared: Arc<Shared>,
    scheme: &'static str,
    /// Until it is dropped.
    runtime: Option<Runtime>,
}

impl Drop for GcsServer {
    fn drop(&mut self) {
        // Tests that are asynchronous themselves cannot wait here.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl GcsServer {
    pub fn start() -> Result<GcsServer> {
        GcsServer::start_with(None)
    }

    /// Behind TLS, with this certificate.
    pub fn start_tls(certified: &rcgen::CertifiedKey<rcgen::KeyPair>) -> Result<GcsServer> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = rustls::pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(
                vec![certified.cert.der().clone()],
                key.map_err(|text| crate::support::anyhow!(text))?,
            )?;
        GcsServer::start_with(Some(TlsAcceptor::from(Arc::new(config))))
    }

    fn start_with(tls: Option<TlsAcceptor>) -> Result<GcsServer> {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let listener = {
            let _entered = runtime.enter();
            TcpListener::from_std(listener)?
        };
        let rules = Rules { token_life: 3600, ..Rules::default() };
        let shared = Arc::new(Shared {
            bucket: Mutex::default(),
            tokens: Mutex::default(),
            sessions: Mutex::default(),
            rules: Mutex::new(rules),
            gauges: Gauges::default(),
            address: listener.local_addr()?,
        });
        runtime.spawn(accept(listener, tls, Arc::clone(&shared)));
        Ok(GcsServer { shared, scheme, runtime: Some(runtime) })
    }

    pub fn endpoint(&self) -> String {
        format!("{}://localhost:{}", self.scheme, self.shared.address.port())
    }

    pub fn address(&self) -> SocketAddr {
        self.shared.address
    }

    pub fn port(&self) -> u16 {
        self.shared.address.port()
    }

    /// Changes what goes wrong from now on.
    pub fn rules(&self, change: impl FnOnce(&mut Rules)) {
        change(&mut lock(&self.shared.rules));
    }

    /// Changes what kind of bucket it is.
    pub fn bucket(&self, change: impl FnOnce(&mut Bucket)) {
        change(&mut lock(&self.shared.bucket));
    }

    /// What an object is retained by.
    pub fn retention(&self, name: &str) -> Option<serde_json::Value> {
        lock(&self.shared.bucket).retention(name)
    }

    /// A token that is good until the test ends.
    pub fn allow(&self, token: &str) {
        lock(&self.shared.tokens).allow(token, Duration::from_secs(3600));
    }

    pub fn revoke_all(&self) {
        lock(&self.shared.tokens).revoke_all();
    }

    /// A new key of the service account, known to the token service.
    pub fn service_key(&self, folder: &std::path::Path) -> Result<ServiceKey> {
        let key = ServiceKey::generate(folder, &format!("{}/token", self.endpoint()))?;
        lock(&self.shared.tokens).trust(key.public.clone());
        Ok(key)
    }

    /// How many tokens were given for assertions, and by the metadata server.
    pub fn tokens_given(&self) -> usize {
        lock(&self.shared.tokens).given
    }

    /// All names in the bucket, temporary ones too.
    pub fn names(&self) -> Vec<String> {
        lock(&self.shared.bucket).names()
    }

    pub fn body(&self, name: &str) -> Result<Bytes> {
        lock(&self.shared.bucket).body(name).with_context(|| format!("no object {name}"))
    }

    pub fn metadata(&self, name: &str) -> Result<Vec<(String, String)>> {
        lock(&self.shared.bucket).metadata(name).with_context(|| format!("no object {name}"))
    }

    /// Uploads that were under way at the same time, at most.
    pub fn uploads_most(&self) -> usize {
        self.shared.gauges.uploads_most.load(Ordering::SeqCst)
    }

    pub fn uploads_now(&self) -> usize {
        self.shared.gauges.uploads_now.load(Ordering::SeqCst)
    }

    pub fn requests(&self) -> usize {
        self.shared.gauges.requests.load(Ordering::SeqCst)
    }
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    while let Ok((socket, _)) = listener.accept().await {
        let (tls, shared) = (tls.clone(), Arc::clone(&shared));
        tokio::spawn(async move {
            match tls {
                None => serve(socket, shared).await,
                Some(tls) => {
                    if let Ok(socket) = tls.accept(socket).await {
                        serve(socket, shared).await;
                    }
                }
            }
        });
    }
}

async fn serve(socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, shared: Arc<Shared>) {
    let service = service_fn(move |request| answer(request, Arc::clone(&shared)));
    // A connection that breaks is the client's business.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service).await;
}

/// Somebody hung up: hyper closes the connection without an answer.
#[derive(Debug)]
struct HungUp;

impl std::fmt::Display for HungUp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("no answer is given")
    }
}

impl std::error::Error for HungUp {}

async fn answer(request: Request<Incoming>, shared: Arc<Shared>) -> Result<Response<Full<Bytes>>, HungUp> {
    shared.gauges.requests.fetch_add(1, Ordering::SeqCst);
    let (head, body) = request.into_parts();
    let is_upload = head.uri.path().starts_with("/upload/");
    let _counted = is_upload.then(|| Counted::new(Arc::clone(&shared)));
    let time = match head.method {
        hyper::Method::DELETE => lock(&shared.rules).delete_time,
        _ if is_upload => lock(&shared.rules).upload_time,
        _ => Duration::ZERO,
    };
    // A slow line or a busy server, bounded by the client's own time-out.
    tokio::time::sleep(time).await;
    let body = body.collect().await.map_err(|_| HungUp)?.to_bytes();
    let answer = requests::answer(&head, &body, &shared);
    if head.uri.path().ends_with("/compose") && take(&mut lock(&shared.rules).lost_composes) {
        return Err(HungUp);
    }
    let is_rewrite = head.uri.path().contains("/rewriteTo/") && answer.status().is_success();
    if is_rewrite && take(&mut lock(&shared.rules).lost_rewrites) {
        return Err(HungUp);
    }
    Ok(answer)
}

/// One of so many.
fn take(left: &mut u32) -> bool {
    let is_one = *left > 0;
    *left = left.saturating_sub(1);
    is_one
}

/// An upload that is under way.
struct Counted(Arc<Shared>);

impl Counted {
    fn new(shared: Arc<Shared>) -> Counted {
        let now = shared.gauges.uploads_now.fetch_add(1, Ordering::SeqCst) + 1;
        shared.gauges.uploads_most.fetch_max(now, Ordering::SeqCst);
        Counted(shared)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.gauges.uploads_now.fetch_sub(1, Ordering::SeqCst);
    }
}
