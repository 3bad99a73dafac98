//! A long line to a server: a TCP proxy that holds every byte back for a while, in both directions, and can break.
//!
//! Bytes are held in a queue, so the delay costs no throughput by itself; a bandwidth does.

use super::super::{Context, Result, limits};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes that are read at once.
const CHUNK_BYTES: usize = 64 << 10;
/// Chunks on the line at the most: 256 MiB.
const CHUNKS_MAX: usize = 4096;
/// How far a line with a bandwidth may run ahead of it.
const AHEAD_MAX: Duration = Duration::from_millis(200);

/// What the line is like, in each direction.
#[derive(Debug, Clone, Copy, Default)]
pub struct Line {
    pub delay: Duration,
    /// Bytes a second, of all connections together; `None`: no limit.
    pub bandwidth: Option<u64>,
}

pub struct SlowLink {
    address: SocketAddr,
    state: Arc<State>,
}

struct State {
    target: SocketAddr,
    line: Line,
    is_over: AtomicBool,
    streams: Mutex<Vec<TcpStream>>,
    /// When the line has carried all that was put on it, there and back.
    idle: [Mutex<Instant>; 2],
}

impl SlowLink {
    pub fn before(target: SocketAddr, line: Line) -> Result<SlowLink> {
        let listener = TcpListener::bind("127.0.0.1:0").context("a port for the line")?;
        let address = listener.local_addr()?;
        let (is_over, streams) = (AtomicBool::new(false), Mutex::default());
        let idle = [Mutex::new(Instant::now()), Mutex::new(Instant::now())];
        let state = Arc::new(State { target, line, is_over, streams, idle });
        let accepting = state.clone();
        thread::spawn(move || accept(&listener, &accepting));
        Ok(SlowLink { address, state })
    }

    /// A delay in each direction, so a question and its answer take twice that.
    pub fn delaying(target: SocketAddr, delay: Duration) -> Result<SlowLink> {
        SlowLink::before(target, Line { delay, bandwidth: None })
    }

    /// In place of the target.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Breaks all connections; new ones go through.
    pub fn cut(&self) {
        let mut streams = self.state.streams.lock().unwrap_or_else(PoisonError::into_inner);
        for stream in streams.drain(..) {
            // One that has ended already is as good.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for SlowLink {
    fn drop(&mut self) {
        self.state.is_over.store(true, Ordering::Relaxed);
        // Wakes whoever accepts.
        let _ = TcpStream::connect(self.address);
        self.cut();
    }
}

impl State {
    /// Puts bytes on the line, and says when it has carried them.
    fn carry(&self, way: usize, now: Instant, count: usize) -> Instant {
        let Some(bandwidth) = self.line.bandwidth else { return now };
        let mut idle = self.idle[way].lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = u64::try_from(count).unwrap_or(u64::MAX);
        let takes = Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / bandwidth.max(1));
        *idle = (*idle).max(now) + takes;
        *idle
    }
}

fn accept(listener: &TcpListener, state: &Arc<State>) {
    for client in listener.incoming() {
        if state.is_over.load(Ordering::Relaxed) {
            return;
        }
        let Ok(client) = client else { continue };
        // A server that is not there breaks the connection, as it would without a line before it.
        let Ok(server) = TcpStream::connect_timeout(&state.target, limits::SERVER) else { continue };
        if connect(&client, &server, state).is_err() {
            let _ = client.shutdown(Shutdown::Both);
        }
    }
}

fn connect(client: &TcpStream, server: &TcpStream, state: &Arc<State>) -> std::io::Result<()> {
    for stream in [client, server] {
        stream.set_nodelay(true)?;
        let kept = stream.try_clone()?;
        state.streams.lock().unwrap_or_else(PoisonError::into_inner).push(kept);
    }
    for (way, (from, to)) in [(client, server), (server, client)].into_iter().enumerate() {
        let (mut from, mut to) = (from.try_clone()?, to.try_clone()?);
        let (queue, held) = sync_channel(CHUNKS_MAX);
        let state = state.clone();
        thread::spawn(move || take(&mut from, &queue, &state, way));
        thread::spawn(move || give(&mut to, &held));
    }
    Ok(())
}

/// Ends with the connection, which ends the other side of the queue.
fn take(from: &mut TcpStream, queue: &SyncSender<(Instant, Vec<u8>)>, state: &State, way: usize) {
    let mut buffer = vec![0; CHUNK_BYTES];
    while let Ok(count) = from.read(&mut buffer) {
        let now = Instant::now();
        let idle = state.carry(way, now, count);
        let chunk = buffer.get(..count).unwrap_or_default().to_vec();
        if queue.send((idle + state.line.delay, chunk)).is_err() || count == 0 {
            return;
        }
        // The sender is to notice a narrow line. Bounded by the time that this chunk takes: no timeout is needed beside it.
        thread::sleep(idle.saturating_duration_since(now).saturating_sub(AHEAD_MAX));
    }
}

fn give(to: &mut TcpStream, held: &Receiver<(Instant, Vec<u8>)>) {
    while let Ok((due, chunk)) = held.recv() {
        // The delay is what this is for, and its own timeout: never longer than the line makes it.
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let ended = chunk.is_empty();
        if ended || to.write_all(&chunk).is_err() {
            let _ = to.shutdown(Shutdown::Write);
            return;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}
