//! Receives WAL as PostgreSQL writes it, and stores it before its segment is whole.
//!
//! ```text
//! PostgreSQL --(slot)--> bytes at hand --every second--> parts ------> every repository
//!                                      \--at its end---> the segment, from pg_wal, as archive-push would
//! ```
//!
//! Core's [`StreamMachine`] says what goes where; `begin` finds the place to begin, `store` does what is said. PostgreSQL
//! may archive the same segments meanwhile: whoever comes second finds an identical one.
//!
//! Invariants
//! 1. The server is told that it need not keep what is durable wherever it must be, and nothing else.
//! 2. A part leads on from the beginning of its segment, in each repository.
//! 3. Only a primary is streamed from: its timeline does not change while it is one.
//! 4. A server that shuts down is not kept from it by a repository that takes nothing.
//!
//! Failure story: it may be killed at any point. The next one begins where the segment begins that the slot keeps; what is
//! stored again is identical, or has its own name and covers what is there.

mod begin;
mod store;
mod window;

use super::{ClusterIdentity, Doors, PushRepository};
use begin::Begun;
use futures::future::Either;
use futures::stream::{FuturesUnordered, StreamExt};
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::ids::RepoKey;
use pgconvoy_core::machine::stream::{StreamMachine, StreamOutcome, StreamWork};
use pgconvoy_core::pg::Lsn;
use pgconvoy_core::units::ByteCount;
use pgconvoy_postgres::connect::{Client, ConnectOptions};
use pgconvoy_postgres::replication::{Replication, StreamEvent};
use pgconvoy_repository::wal::PushManner;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;
use store::Store;
use tokio::sync::mpsc::unbounded_channel;
use tokio::time::{Instant, sleep};
use window::Window;

/// Between two looks at what is due, where nothing happens.
const LOOK_PAUSE: Duration = Duration::from_millis(100);
/// The server hears of us so often, whether or not there is news.
const STATUS_PAUSE: Duration = Duration::from_secs(5);
/// It answers each time: one that is silent for longer is gone.
const SILENCE_MAX: Duration = Duration::from_secs(60);

pub struct Stream {
    pub doors: Doors,
    pub repositories: Vec<PushRepository>,
    pub connect: ConnectOptions,
    pub pg_wal: PathBuf,
    /// Whose data directory `pg_wal` lies in.
    pub cluster: ClusterIdentity,
    pub is_header_checked: bool,
    pub manner: PushManner,
    /// What the server may keep for us.
    pub retain_max: ByteCount,
}

/// What became of one work in one repository.
struct News {
    key: RepoKey,
    work: StreamWork,
    outcome: StreamOutcome,
    trouble: Option<Failure>,
}

/// One stream from its beginning on.
struct Session<'a> {
    stream: &'a Stream,
    /// A segment more than is allowed, since a stream begins where a segment does: what ends one is too much for the next.
    retain_max: u64,
    machine: StreamMachine,
    window: Window,
    replication: Replication,
    begun: Instant,
    heard: Instant,
    told: Option<(Instant, Lsn)>,
    /// The last trouble of each repository since its last success.
    troubles: BTreeMap<RepoKey, String>,
}

impl Stream {
    /// Streams until something ends it. Success: the server is no primary, or has no more.
    pub async fn run(&self) -> Result<(), Failure> {
        let Some(Begun { replication, timeline, begin, segment_size }) = self.begin().await? else {
            return Ok(());
        };
        tracing::info!("streaming WAL of {} from {begin} of timeline {timeline} on", self.doors.stanza());
        let lanes = self.repositories.iter().map(|repository| (repository.key, repository.is_required));
        let session = Session {
            stream: self,
            retain_max: self.retain_max.0.saturating_add(segment_size.bytes()),
            machine: StreamMachine::new(timeline, begin, segment_size, lanes),
            window: Window::new(begin),
            replication,
            begun: Instant::now(),
            heard: Instant::now(),
            told: None,
            troubles: BTreeMap::new(),
        };
        session.run().await
    }

    /// Sees to it that the server keeps nothing for a stream that there is not any more.
    pub async fn release(&self) -> Result<(), Failure> {
        let client = Client::connect(&self.connect).await?;
        self.release_slot(&client).await
    }

    async fn release_slot(&self, client: &Client) -> Result<(), Failure> {
        let name = self.slot();
        if client.slot(&name).await?.is_some() {
            client.drop_slot(&name).await?;
            tracing::info!("dropped replication slot {name}, which nothing is streamed over now");
        }
        Ok(())
    }

    /// By stanza, since a server has one cluster and a cluster one stanza. Slots have names of their own kind.
    fn slot(&self) -> String {
        const NAME_BYTES_MAX: usize = 63;
        let stanza = self.doors.stanza().to_string().to_ascii_lowercase();
        let plain = |character: char| if character.is_ascii_alphanumeric() { character } else { '_' };
        let mut name: String = "pgconvoy_".chars().chain(stanza.chars().map(plain)).collect();
        name.truncate(NAME_BYTES_MAX);
        name
    }
}

impl Session<'_> {
    async fn run(mut self) -> Result<(), Failure> {
        let store = Store { stream: self.stream };
        let (sender, mut news) = unbounded_channel();
        let mut working = FuturesUnordered::new();
        loop {
            while let Some(order) = self.machine.next(self.begun.elapsed()) {
                let bytes = self.window.bytes_of(order.work);
                working.push(Either::Left(store.run(order, bytes, sender.clone())));
            }
            self.tell_if_due().await?;
            self.check()?;
            tokio::select! {
                biased;
                Some(News { key, work, outcome, trouble }) = news.recv() => {
                    self.note_trouble(key, trouble);
                    if self.machine.settle(self.begun.elapsed(), key, work, outcome) {
                        working.push(Either::Right(store.tidy(key, work)));
                    }
                }
                Some(()) = working.next() => {}
                event = self.replication.next() => match event? {
                    StreamEvent::Ended => return Ok(()),
                    event => self.take(event)?,
                },
                () = sleep(LOOK_PAUSE) => {}
            }
        }
    }

    fn take(&mut self, event: StreamEvent) -> Result<(), Failure> {
        self.heard = Instant::now();
        match event {
            StreamEvent::Wal { start, bytes, server_end } => {
                self.machine.receive(start, bytes.len() as u64).map_err(|gap| {
                    Failure::new(ErrorCode::Protocol, format!("PostgreSQL's stream has a gap: {gap}"))
                })?;
                self.machine.note_server_end(server_end);
                self.window.push(&bytes);
                self.window.trim(self.machine.window_start());
            }
            StreamEvent::KeepAlive { server_end, is_answer_asked } => {
                self.machine.note_server_end(server_end);
                if is_answer_asked {
                    self.machine.note_question(self.begun.elapsed());
                    self.told = None;
                }
            }
            StreamEvent::Ended => {}
        }
        Ok(())
    }

    async fn tell_if_due(&mut self) -> Result<(), Failure> {
        let confirmed = self.machine.confirmed();
        let is_due = self.told.is_none_or(|(at, what)| what != confirmed || at.elapsed() >= STATUS_PAUSE);
        if is_due {
            self.replication.tell(self.machine.received(), confirmed).await?;
            self.told = Some((Instant::now(), confirmed));
        }
        Ok(())
    }

    /// Whether there is a reason to begin anew.
    fn check(&self) -> Result<(), Failure> {
        let ended = |code, message: String| Err(Failure::new(code, message).retryable());
        let retained = self.machine.retained_bytes();
        if retained > self.retain_max {
            let kept = ByteCount(retained);
            return ended(
                ErrorCode::ArchiveTimeout,
                format!("PostgreSQL keeps {kept} of WAL for the stream"),
            );
        }
        if self.machine.is_in_the_way(self.begun.elapsed()) {
            let message =
                "PostgreSQL waits for WAL to be stored, perhaps to shut down, and a repository takes none";
            return ended(ErrorCode::ArchiveTimeout, message.to_owned());
        }
        if self.heard.elapsed() > SILENCE_MAX {
            let message = format!("PostgreSQL was silent for {} s", SILENCE_MAX.as_secs());
            return ended(ErrorCode::DbConnect, message);
        }
        Ok(())
    }

    /// Said when it is news.
    fn note_trouble(&mut self, key: RepoKey, trouble: Option<Failure>) {
        match trouble.map(|failure| failure.to_string()) {
            Some(trouble) if self.troubles.get(&key) != Some(&trouble) => {
                tracing::warn!("repo {key} does not take streamed WAL: {trouble}");
                self.troubles.insert(key, trouble);
            }
            Some(_) => {}
            None => {
                if self.troubles.remove(&key).is_some() {
                    tracing::info!("repo {key} takes streamed WAL again");
                }
            }
        }
    }
}
