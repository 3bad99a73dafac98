//! The HTTP API of a coordinator: what people and programs may ask of a fleet, over HTTPS, by token.
//!
//! Code map: `routes` is the table of paths and what each does, `stock` those of what repositories hold, `asking` settles who asks and passes on to the leader what a
//! follower is asked, `forward` does the passing on, `events` is the stream that followers of a job read, `json` the forms
//! of what is told, `refusal` those of what is not. The dashboard, beside it, asks through the same doors.
//!
//! Invariants
//! 1. Nobody without a valid token learns or changes anything but whether this coordinator is up.
//! 2. Only a leader answers; a follower passes the question on, once, with the asker's own token.
//! 3. `Retry-After` in an answer means that nothing was done.
//!
//! Failure story: a coordinator that dies breaks the streams of those who follow a job; they ask any other, with the last
//! event that they saw, and are told how the job stands. What was submitted is in the lease store before it is answered.

pub(crate) mod asking;
pub(crate) mod events;
pub(crate) mod forward;
pub(crate) mod json;
pub(crate) mod refusal;
pub(crate) mod routes;
pub(crate) mod stock;

pub use json::job as job_json;

use crate::dashboard;
use crate::dashboard::watching::Watching;
use crate::fleet::Fleet;
use crate::survey::Survey;
use crate::tokens::Tokens;
use actix_web::middleware::from_fn;
use actix_web::{App, HttpServer, web};
use forward::Forward;
use pgconvoy_core::failure::{ErrorCode, Failure};
use refusal::Refusal;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// Threads that answer. Questions are small, and the coordinator's other cores have work of their own.
const WORKERS: usize = 2;
/// Connections that one thread keeps at a time: streams of followers, and as many quick questions again.
const CONNECTIONS_PER_WORKER: usize = 512;
/// Bytes of a request's body. A restore that maps a thousand tablespaces fits.
const BODY_BYTES_MAX: usize = 256 << 10;
/// A client that takes longer to say what it wants only holds a connection.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// As long as browsers and `reqwest` like to reuse a connection, and not much longer.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// Streams of events at a time: each costs a connection, a buffer and a look at the job whenever any job changes.
const FOLLOWERS_MAX: usize = 256;
/// Refused tokens that wait for their answer at a time. Beyond it they are turned away unanswered, so that guessing from many
/// connections is no faster.
const REFUSALS_MAX: usize = 64;
/// Streams are told to end when the coordinator stops; others have this long to finish.
const STOP_TIMEOUT_SECONDS: u64 = 5;

pub struct ApiDeps {
    pub fleet: Arc<Fleet>,
    pub tokens: Arc<Tokens>,
    /// Bound already, so that its address can be told to others before anything is served.
    pub listen: TcpListener,
    pub tls: rustls::ServerConfig,
    /// How this coordinator reaches another one: trusts the fleet's coordinators.
    pub forward: rustls::ClientConfig,
    pub stop: CancellationToken,
}

/// What every thread that answers shares.
pub(crate) struct Shared {
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) tokens: Arc<Tokens>,
    pub(crate) survey: Arc<Survey>,
    pub(crate) watching: Arc<Watching>,
    forward: Forward,
    followers: Arc<Semaphore>,
    refusals: Semaphore,
    pub(crate) stop: CancellationToken,
}

impl Shared {
    /// A place among those who follow something; it is given back when it is dropped.
    pub(crate) fn follower(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        self.followers.clone().try_acquire_owned().map_err(|_| events::too_many())
    }

    /// Streams that are open, and how many may be.
    pub(crate) fn followers(&self) -> (usize, usize) {
        (FOLLOWERS_MAX - self.followers.available_permits().min(FOLLOWERS_MAX), FOLLOWERS_MAX)
    }
}

/// Serves until it is told to stop.
pub async fn serve(deps: ApiDeps) -> Result<(), Failure> {
    let shared = web::Data::new(Shared {
        survey: deps.fleet.survey(),
        watching: Arc::default(),
        fleet: deps.fleet,
        tokens: deps.tokens,
        forward: Forward::new(deps.forward)?,
        followers: Arc::new(Semaphore::new(FOLLOWERS_MAX)),
        refusals: Semaphore::new(REFUSALS_MAX),
        stop: deps.stop.clone(),
    });
    let app = move || {
        App::new()
            .wrap(dashboard::policy())
            .app_data(shared.clone())
            .app_data(web::PayloadConfig::new(BODY_BYTES_MAX))
            .configure(routes::open)
            .service(
                web::scope("/api/v1")
                    .wrap(from_fn(asking::settle))
                    .configure(routes::of_jobs)
                    .configure(stock::of_repositories)
                    .configure(routes::of_workers),
            )
            .configure(dashboard::pages)
    };
    let failed = |error: std::io::Error| {
        Failure::new(ErrorCode::HostConnect, format!("the API cannot be served: {error}"))
    };
    let server = HttpServer::new(app)
        .workers(WORKERS)
        .max_connections(CONNECTIONS_PER_WORKER)
        .client_request_timeout(HEADER_TIMEOUT)
        .keep_alive(KEEP_ALIVE)
        .shutdown_timeout(STOP_TIMEOUT_SECONDS)
        // Signals are for whoever started the coordinator.
        .disable_signals()
        .listen_rustls_0_23(deps.listen, deps.tls)
        .map_err(failed)?
        .run();
    let handle = server.handle();
    let mut server = std::pin::pin!(server);
    tokio::select! {
        ended = &mut server => return ended.map_err(failed),
        () = deps.stop.cancelled() => {}
    }
    let (_, ended) = tokio::join!(handle.stop(true), server);
    ended.map_err(failed)
}

#[cfg(test)]
mod tests;
