//! One SFTP session: many requests on their way at once, each with an answer of its own.
//!
//! A request is on its way when `send` returns; waiting for its answer is another thing. So whoever sends several before
//! waiting pays for one journey.
//!
//! Invariants
//! 1. Every request gets an answer, or [`Fault::Lost`] when the session ends.
//! 2. A file that was opened for somebody who no longer waits is closed again.
//! 3. Nothing rests on the order in which a server works: what must come after something is sent after its answer.

use crate::connect::Connection;
use crate::wire::{
    self, Assembler, Attributes, Entry, FileSystem, Reply, Request, Status, WireError, code, extension,
};
use bytes::Bytes;
use russh::client::Msg;
use russh::{Channel, ChannelMsg, ChannelReadHalf, ChannelWriteHalf};
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, WeakUnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// What every server takes in one read or write (the draft's 34000, less the rest of the packet).
const SAFE_DATA_BYTES: usize = 32 * 1024;
/// Four packets of SSH, so that none goes half empty.
const DATA_BYTES_MAX: usize = 4 * 32 * 1024 - wire::WRITE_OVERHEAD_BYTES - 4;

/// Why a request has no good answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    Refused(Status),
    /// The session ended; nobody knows what became of the request.
    Lost(Arc<str>),
}

impl From<WireError> for Fault {
    fn from(error: WireError) -> Self {
        Fault::Lost(error.to_string().into())
    }
}

#[derive(Debug, Default)]
struct Waiting {
    replies: HashMap<u32, oneshot::Sender<Reply>>,
    lost: Option<Arc<str>>,
}

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    ended: CancellationToken,
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, reason: &str) {
        let mut waiting = self.lock();
        waiting.lost.get_or_insert_with(|| reason.into());
        // Whoever waits learns of it by the sender's end.
        waiting.replies.clear();
        drop(waiting);
        self.ended.cancel();
    }

    fn lost(&self) -> Option<Arc<str>> {
        self.lock().lost.clone()
    }
}

/// What the server can do beyond the protocol.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Abilities {
    pub(crate) links: bool,
    pub(crate) renames: bool,
    pub(crate) syncs: bool,
    pub(crate) tells_space: bool,
    pub(crate) read_bytes_max: usize,
    pub(crate) write_bytes_max: usize,
}

#[derive(Debug)]
pub(crate) struct Session {
    shared: Arc<Shared>,
    outbox: UnboundedSender<Bytes>,
    next_id: AtomicU32,
    abilities: Abilities,
    /// Calls that use it now.
    busy: AtomicUsize,
    connection: Arc<Connection>,
}

impl Session {
    /// Speaks SFTP on a channel whose subsystem has started. It holds the connection until it ends.
    pub(crate) async fn start(channel: Channel<Msg>, connection: Arc<Connection>) -> Result<Session, Fault> {
        let (mut inbound, outbound) = channel.split();
        let sent = outbound.data_bytes(wire::init()).await;
        sent.map_err(|error| Fault::Lost(error.to_string().into()))?;
        let mut assembler = Assembler::default();
        let greeting = first_packet(&mut inbound, &mut assembler).await?;
        let (version, extensions) = wire::decode_version(greeting)?;
        if version != wire::VERSION {
            return Err(Fault::Lost(format!("it speaks version {version} of SFTP, not 3").into()));
        }
        let has = |name: &str| extensions.iter().any(|(offered, _)| offered == name);
        let (outbox, requests) = unbounded_channel();
        let shared = Arc::new(Shared::default());
        tokio::spawn(write_all(outbound, requests, shared.clone()));
        tokio::spawn(read_all(inbound, assembler, outbox.downgrade(), shared.clone()));
        let abilities = Abilities {
            links: has(extension::HARDLINK),
            renames: has(extension::POSIX_RENAME),
            syncs: has(extension::FSYNC),
            tells_space: has(extension::STATVFS),
            read_bytes_max: SAFE_DATA_BYTES,
            write_bytes_max: SAFE_DATA_BYTES,
        };
        let (next_id, busy) = (AtomicU32::new(0), AtomicUsize::new(0));
        connection.enter();
        let mut session = Session { shared, outbox, next_id, abilities, busy, connection };
        if has(extension::LIMITS) {
            session.learn_limits().await?;
        }
        Ok(session)
    }

    async fn learn_limits(&mut self) -> Result<(), Fault> {
        let Ok(reply) = self.send(wire::limits()).extended().await else { return Ok(()) };
        let [_, read, write] = wire::decode_limits(reply)?;
        let bounded = |limit: u64| match usize::try_from(limit) {
            Ok(0) => SAFE_DATA_BYTES,
            Ok(limit) => limit.min(DATA_BYTES_MAX),
            Err(_) => DATA_BYTES_MAX,
        };
        (self.abilities.read_bytes_max, self.abilities.write_bytes_max) = (bounded(read), bounded(write));
        Ok(())
    }

    pub(crate) fn abilities(&self) -> Abilities {
        self.abilities
    }

    pub(crate) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.shared.lost().is_some()
    }

    pub(crate) fn busy(&self) -> usize {
        self.busy.load(Ordering::Relaxed)
    }

    pub(crate) fn send(&self, request: Request) -> Answer {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (sender, reply) = oneshot::channel();
        {
            let mut waiting = self.shared.lock();
            // After the end nobody would answer.
            if waiting.lost.is_none() {
                waiting.replies.insert(id, sender);
            }
        }
        // A closed outbox is an ended session, which the answer tells.
        let _ = self.outbox.send(request.seal(id));
        Answer { reply, shared: self.shared.clone() }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.connection.leave();
    }
}

/// The use of a session by one call.
#[derive(Debug)]
pub(crate) struct Lane(Arc<Session>);

impl Lane {
    pub(crate) fn new(session: Arc<Session>) -> Self {
        session.busy.fetch_add(1, Ordering::Relaxed);
        Lane(session)
    }

    pub(crate) fn is_on(&self, session: &Arc<Session>) -> bool {
        Arc::ptr_eq(&self.0, session)
    }

    pub(crate) async fn open(&self, path: &str, flags: u32, mode: Option<u32>) -> Result<OpenFile, Fault> {
        self.opened(self.send(wire::open(path, flags, mode))).await
    }

    /// The file that an answer brings.
    pub(crate) async fn opened(&self, answer: Answer) -> Result<OpenFile, Fault> {
        match answer.await? {
            Reply::Handle(handle) => Ok(OpenFile { session: self.0.clone(), handle }),
            other => Err(unexpected(&self.0.shared, other)),
        }
    }
}

impl std::ops::Deref for Lane {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.0
    }
}

impl Clone for Lane {
    fn clone(&self) -> Self {
        Lane::new(self.0.clone())
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A file or directory that is open on the server. It is closed when dropped, and nobody waits for that.
#[derive(Debug)]
pub(crate) struct OpenFile {
    session: Arc<Session>,
    pub(crate) handle: Bytes,
}

impl OpenFile {
    pub(crate) fn is_lost(&self) -> bool {
        self.session.is_lost()
    }

    /// To ask more of it, where it was opened.
    pub(crate) fn lane(&self) -> Lane {
        Lane::new(self.session.clone())
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        drop(self.session.send(wire::close(&self.handle)));
    }
}

/// The answer to come of one request.
#[must_use = "an answer that nobody waits for tells nobody of an error"]
pub(crate) struct Answer {
    reply: oneshot::Receiver<Reply>,
    shared: Arc<Shared>,
}

impl Future for Answer {
    type Output = Result<Reply, Fault>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.reply).poll(context).map(|reply| {
            reply.map_err(|_| Fault::Lost(self.shared.lost().unwrap_or_else(|| "the session ended".into())))
        })
    }
}

fn unexpected(shared: &Shared, reply: Reply) -> Fault {
    if let Reply::Status(status) = reply
        && status.code != code::OK
    {
        return Fault::Refused(status);
    }
    let reason = "the server answered another question than was asked";
    shared.end(reason);
    Fault::Lost(reason.into())
}

impl Answer {
    async fn expect<T>(self, take: impl FnOnce(Reply) -> Result<T, Reply>) -> Result<T, Fault> {
        let shared = self.shared.clone();
        take(self.await?).map_err(|other| unexpected(&shared, other))
    }

    pub(crate) async fn done(self) -> Result<(), Fault> {
        self.expect(|reply| match reply {
            Reply::Status(Status { code: code::OK, .. }) => Ok(()),
            other => Err(other),
        })
        .await
    }

    pub(crate) async fn attributes(self) -> Result<Attributes, Fault> {
        self.expect(|reply| match reply {
            Reply::Attributes(attributes) => Ok(attributes),
            other => Err(other),
        })
        .await
    }

    /// `None` at the end of the file.
    pub(crate) async fn data(self) -> Result<Option<Bytes>, Fault> {
        self.expect(|reply| match reply {
            Reply::Data(data) => Ok(Some(data)),
            Reply::Status(Status { code: code::EOF, .. }) => Ok(None),
            other => Err(other),
        })
        .await
    }

    /// `None` at the end of the directory.
    pub(crate) async fn names(self) -> Result<Option<Vec<Entry>>, Fault> {
        self.expect(|reply| match reply {
            Reply::Names(names) => Ok(Some(names)),
            Reply::Status(Status { code: code::EOF, .. }) => Ok(None),
            other => Err(other),
        })
        .await
    }

    async fn extended(self) -> Result<Bytes, Fault> {
        self.expect(|reply| match reply {
            Reply::Extended(reply) => Ok(reply),
            other => Err(other),
        })
        .await
    }

    pub(crate) async fn file_system(self) -> Result<FileSystem, Fault> {
        Ok(wire::decode_file_system(self.extended().await?)?)
    }
}

/// Before the session has tasks of its own.
async fn first_packet(inbound: &mut ChannelReadHalf, assembler: &mut Assembler) -> Result<Bytes, Fault> {
    loop {
        match inbound.wait().await {
            Some(ChannelMsg::Data { data }) => assembler.push(&data),
            Some(ChannelMsg::Eof | ChannelMsg::Close) | None => {
                return Err(Fault::Lost("it closed the session before it began".into()));
            }
            Some(_) => {}
        }
        if let Some(packet) = assembler.next()? {
            return Ok(packet);
        }
    }
}

/// Ends with the last user of the session, or with the session.
async fn write_all(
    outbound: ChannelWriteHalf<Msg>,
    mut requests: UnboundedReceiver<Bytes>,
    shared: Arc<Shared>,
) {
    loop {
        let request = tokio::select! {
            () = shared.ended.cancelled() => return,
            request = requests.recv() => request,
        };
        let Some(request) = request else { break };
        // Room in the channel's window may never come again when the connection is gone.
        let written = tokio::select! {
            () = shared.ended.cancelled() => return,
            written = outbound.data_bytes(request) => written,
        };
        if let Err(error) = written {
            return shared.end(&format!("the connection is lost: {error}"));
        }
    }
    let _ = outbound.eof().await;
    let _ = outbound.close().await;
}

async fn read_all(
    mut inbound: ChannelReadHalf,
    mut assembler: Assembler,
    outbox: WeakUnboundedSender<Bytes>,
    shared: Arc<Shared>,
) {
    loop {
        loop {
            match assembler.next().and_then(|packet| packet.map(wire::decode).transpose()) {
                Ok(Some((id, reply))) => deliver(&shared, &outbox, id, reply),
                Ok(None) => break,
                Err(error) => return shared.end(&error.to_string()),
            }
        }
        let message = tokio::select! {
            () = shared.ended.cancelled() => return,
            message = inbound.wait() => message,
        };
        match message {
            Some(ChannelMsg::Data { data }) => assembler.push(&data),
            Some(ChannelMsg::ExtendedData { data, .. }) => {
                tracing::debug!(said = %String::from_utf8_lossy(&data).trim_end(), "the SFTP server complains");
            }
            Some(ChannelMsg::Eof | ChannelMsg::Close) => return shared.end("the server closed the session"),
            None => return shared.end("the connection is lost"),
            Some(_) => {}
        }
    }
}

fn deliver(shared: &Shared, outbox: &WeakUnboundedSender<Bytes>, id: u32, reply: Reply) {
    let waiting = shared.lock().replies.remove(&id);
    let unwanted = match waiting {
        Some(waiting) => waiting.send(reply).err(),
        None => return,
    };
    if let (Some(Reply::Handle(handle)), Some(outbox)) = (unwanted, outbox.upgrade()) {
        // No request has this number by now: it was just answered.
        let _ = outbox.send(wire::close(&handle).seal(id));
    }
}
