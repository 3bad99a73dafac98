//! Stands before Azurite and does what it lacks of Azure: the source of a copy is read by a token that the request lends for it.
//!
//! Azure documents `x-ms-copy-source-authorization: Bearer ...` for Put Block From URL. Azurite takes no right to a source but one in its
//! address. So the token is judged here, by a look at the source with it and nothing else, and where Azurite believes it a signature
//! for reading takes its place. All else passes as it came.
//!
//! Clients speak HTTP with it, since nobody but Azurite has a certificate.

#![allow(unreachable_pub, reason = "support code is public, whichever test names it")]

use crate::support::stores::azurite::{Azurite, sas};
use crate::support::{Context, Result, ensure, limits};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONNECTION, HOST, HeaderMap, HeaderValue, TRANSFER_ENCODING};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};

const COPY_SOURCE: &str = "x-ms-copy-source";
const COPY_SOURCE_AUTHORIZATION: &str = "x-ms-copy-source-authorization";
const VERSION: &str = "x-ms-version";

struct Shared {
    azurite: String,
    http: reqwest::Client,
    lent: AtomicUsize,
    believes_nobody: AtomicBool,
}

/// Serves until it is dropped.
pub struct Lender {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// Until it is dropped.
    runtime: Option<Runtime>,
}

impl Drop for Lender {
    fn drop(&mut self) {
        // Tests that are asynchronous themselves cannot wait here.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Lender {
    pub fn before(azurite: &Azurite) -> Result<Lender> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            azurite: azurite.address().to_owned(),
            http: azurite.client(),
            lent: AtomicUsize::new(0),
            believes_nobody: AtomicBool::new(false),
        });
        let serving = Arc::clone(&shared);
        runtime.spawn(async move {
            let Ok(listener) = TcpListener::from_std(listener) else { return };
            while let Ok((socket, _)) = listener.accept().await {
                let shared = Arc::clone(&serving);
                let service = service_fn(move |request| pass(request, Arc::clone(&shared)));
                // A connection that breaks is the client's business.
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(socket), service),
                );
            }
        });
        Ok(Lender { address, shared, runtime: Some(runtime) })
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Requests whose token was believed for their source.
    pub fn lent(&self) -> usize {
        self.shared.lent.load(Ordering::SeqCst)
    }

    /// From now on no token is good for a source, whatever else it is good for.
    pub fn believe_nobody(&self) {
        self.shared.believes_nobody.store(true, Ordering::SeqCst);
    }
}

/// An error hangs up: hyper closes the connection without an answer.
async fn pass(request: Request<Incoming>, shared: Arc<Shared>) -> Result<Response<Full<Bytes>>, String> {
    let (mut head, body) = request.into_parts();
    let body = body.collect().await.map_err(|error| error.to_string())?.to_bytes();
    if let Some(bearer) = head.headers.remove(COPY_SOURCE_AUTHORIZATION) {
        let Ok(source) = shared.lend(&head.headers, bearer).await else { return Ok(unverified()) };
        head.headers.insert(COPY_SOURCE, source);
    }
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    let sent = shared.http.request(head.method, format!("{}{path}", shared.azurite)).headers(head.headers);
    let answer = limits::within(sent.body(body).send()).await.map_err(|error| error.to_string())?;
    let answer = answer.map_err(|error| error.to_string())?;
    let mut passed = Response::builder().status(answer.status());
    let passing = |name: &&hyper::header::HeaderName| ![TRANSFER_ENCODING, CONNECTION].contains(name);
    for name in answer.headers().keys().filter(passing) {
        for value in answer.headers().get_all(name) {
            passed = passed.header(name, value);
        }
    }
    let body = answer.bytes().await.map_err(|error| error.to_string())?;
    passed.body(Full::new(body)).map_err(|error| error.to_string())
}

impl Shared {
    /// The address of the source with a right to read it, if the token has that right.
    async fn lend(&self, headers: &HeaderMap, bearer: HeaderValue) -> Result<HeaderValue> {
        ensure!(!self.believes_nobody.load(Ordering::SeqCst), "nobody is believed");
        let header = |name| headers.get(name).with_context(|| format!("no header {name}"));
        let mut source: reqwest::Url = header(COPY_SOURCE)?.to_str()?.parse()?;
        ensure!(source.query().is_none(), "a right in the address as well");
        let host = header(HOST.as_str())?;
        let named =
            format!("{}:{}", source.host_str().unwrap_or_default(), source.port().unwrap_or_default());
        ensure!(host == named.as_str(), "a source elsewhere");
        let look = self.http.head(format!("{}{}", self.azurite, source.path()));
        let look = look.header(AUTHORIZATION, bearer).header(HOST, host).header(VERSION, header(VERSION)?);
        let found = limits::within(look.send()).await??;
        ensure!(found.status() == 200, "the token may not read it: {}", found.status());
        let container =
            source.path_segments().and_then(|mut path| path.nth(1)).context("a container")?.to_owned();
        source.set_query(Some(&sas(&container, "r", 1)?));
        self.lent.fetch_add(1, Ordering::SeqCst);
        Ok(source.as_str().parse()?)
    }
}

/// What Azure documents for a source that may not be read.
fn unverified() -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(Bytes::new()));
    *answer.status_mut() = hyper::StatusCode::FORBIDDEN;
    answer.headers_mut().insert("x-ms-error-code", HeaderValue::from_static("CannotVerifyCopySource"));
    answer
}
