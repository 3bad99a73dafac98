//! A network between two processes that fails on order: a UDP proxy for tests of anything that speaks QUIC.
//!
//! Peers connect to [`UdpProxy::address`] instead of the target. Dropping the proxy cuts for good.

use crate::memory::Direction;
use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Bytes of the largest datagram.
const DATAGRAM_BYTES_MAX: usize = 64 << 10;

/// Peers that one proxy keeps apart; packets of more are lost.
const PEERS_MAX: usize = 4096;

/// Packets that are under way to one peer: some megabytes, as in a router.
const PACKETS_WAITING_MAX: usize = 4096;

/// What waits for a narrow line at most: a short queue, so that what matters is who sends and not who queued.
const QUEUE_MAX: Duration = Duration::from_millis(30);

#[derive(Debug, Clone, Copy, Default)]
struct Line {
    is_cut: bool,
    delay: Duration,
    /// Of a thousand packets.
    lost_per_mille: u64,
    bytes_per_second: Option<u32>,
    /// When what was taken so far has left, at that rate.
    busy_until: Option<Instant>,
}

impl Line {
    /// How long a packet waits for those before it; `None` if the queue has no room for it.
    fn queue(&mut self, bytes: usize) -> Option<Duration> {
        let Some(rate) = self.bytes_per_second else { return Some(Duration::ZERO) };
        let now = Instant::now();
        let start = self.busy_until.map_or(now, |busy| busy.max(now));
        if start - now > QUEUE_MAX {
            return None;
        }
        let bytes = u32::try_from(bytes).expect("a datagram is short");
        let end = start + Duration::from_secs(1) * bytes / rate;
        self.busy_until = Some(end);
        Some(end - now)
    }
}

#[derive(Debug, Default)]
struct Lines {
    outbound: Mutex<Line>,
    inbound: Mutex<Line>,
    /// Ports of peers that are cut off alone.
    isolated: Mutex<HashSet<u16>>,
    /// State of the generator that chooses which packets are lost: the same ones in every run.
    random: AtomicU64,
    passed: AtomicU64,
    dropped: AtomicU64,
}

impl Lines {
    fn change(&self, direction: Direction, change: impl FnOnce(&mut Line)) {
        let line = match direction {
            Direction::Outbound => &self.outbound,
            Direction::Inbound => &self.inbound,
        };
        change(&mut line.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn isolated(&self) -> MutexGuard<'_, HashSet<u16>> {
        self.isolated.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a packet to or from a peer on its way, or loses it.
    fn send(&self, direction: Direction, peer: SocketAddr, post: &Post, packet: &[u8]) {
        if let Some(delay) = self.fate(direction, peer, packet.len()) {
            // A queue that is full loses packets, as a router's does.
            let _ = post.try_send((Instant::now() + delay, packet.to_vec()));
        }
    }

    /// How much later a packet arrives; `None` if it never does.
    fn fate(&self, direction: Direction, peer: SocketAddr, bytes: usize) -> Option<Duration> {
        let is_isolated = self.isolated().contains(&peer.port());
        let step = |state: u64| Some(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
        let random = self.random.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step).unwrap_or_default();
        let mut fate = None;
        self.change(direction, |line| {
            let is_lost = line.is_cut || is_isolated || (random >> 33) % 1000 < line.lost_per_mille;
            let waits = if is_lost { None } else { line.queue(bytes) };
            fate = waits.map(|waits| waits + line.delay);
        });
        let counter = if fate.is_none() { &self.dropped } else { &self.passed };
        counter.fetch_add(1, Ordering::Relaxed);
        fate
    }
}

/// See the module.
pub struct UdpProxy {
    address: SocketAddr,
    lines: Arc<Lines>,
    /// Ends with the proxy.
    _tasks: JoinSet<()>,
}

impl UdpProxy {
    /// Starts a proxy on this machine. Needs a tokio runtime.
    pub async fn start(target: SocketAddr) -> io::Result<UdpProxy> {
        let front = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?);
        let address = front.local_addr()?;
        let lines = Arc::new(Lines::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(outbound(front, target, Arc::clone(&lines)));
        Ok(UdpProxy { address, lines, _tasks: tasks })
    }

    /// Where peers connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Nothing passes any more; what is sent meanwhile is lost.
    pub fn cut(&self) {
        self.cut_one_way(Direction::Outbound);
        self.cut_one_way(Direction::Inbound);
    }

    pub fn cut_one_way(&self, direction: Direction) {
        self.lines.change(direction, |line| line.is_cut = true);
    }

    pub fn heal(&self) {
        self.both(|line| line.is_cut = false);
    }

    /// Cuts off the peers that send from these ports; all others go on.
    pub fn isolate(&self, ports: impl IntoIterator<Item = u16>) {
        self.lines.isolated().extend(ports);
    }

    /// Lets them through again.
    pub fn readmit(&self, ports: impl IntoIterator<Item = u16>) {
        let mut isolated = self.lines.isolated();
        for port in ports {
            isolated.remove(&port);
        }
    }

    /// Everything sent from now on arrives this much later.
    pub fn delay(&self, delay: Duration) {
        self.both(|line| line.delay = delay);
    }

    /// Of a thousand packets, this many are lost.
    pub fn lose(&self, per_mille: u64) {
        self.both(|line| line.lost_per_mille = per_mille);
    }

    /// Each direction carries so many bytes a second from now on; a queue that is full loses packets.
    pub fn narrow(&self, bytes_per_second: u32) {
        self.both(|line| line.bytes_per_second = Some(bytes_per_second));
    }

    /// Packets that arrived, and those that did not.
    pub fn packets(&self) -> (u64, u64) {
        (self.lines.passed.load(Ordering::Relaxed), self.lines.dropped.load(Ordering::Relaxed))
    }

    fn both(&self, change: impl Fn(&mut Line)) {
        self.lines.change(Direction::Outbound, &change);
        self.lines.change(Direction::Inbound, &change);
    }
}

/// Carries what peers send, each through a socket of its own, so that the target tells them apart.
async fn outbound(front: Arc<UdpSocket>, target: SocketAddr, lines: Arc<Lines>) {
    let mut peers: HashMap<SocketAddr, Post> = HashMap::new();
    let mut tasks = JoinSet::new();
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        // An error is that of an earlier packet that nobody took.
        let Ok((length, peer)) = front.recv_from(&mut buffer).await else { continue };
        if !peers.contains_key(&peer) {
            if peers.len() >= PEERS_MAX {
                continue;
            }
            let Ok(back) = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await else { continue };
            if back.connect(target).await.is_err() {
                continue;
            }
            let back = Arc::new(back);
            let (post, queue) = mpsc::channel(PACKETS_WAITING_MAX);
            tasks.spawn(deliver(Arc::clone(&back), None, queue));
            let (answers, queue) = mpsc::channel(PACKETS_WAITING_MAX);
            tasks.spawn(deliver(Arc::clone(&front), Some(peer), queue));
            tasks.spawn(inbound(back, peer, answers, Arc::clone(&lines)));
            peers.insert(peer, post);
        }
        lines.send(Direction::Outbound, peer, &peers[&peer], &buffer[..length]);
    }
}

async fn inbound(back: Arc<UdpSocket>, peer: SocketAddr, answers: Post, lines: Arc<Lines>) {
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        let Ok(length) = back.recv(&mut buffer).await else { continue };
        lines.send(Direction::Inbound, peer, &answers, &buffer[..length]);
    }
}

/// Packets on their way, and when they arrive.
type Post = mpsc::Sender<(Instant, Vec<u8>)>;

/// Keeps the order of packets while the delay stays the same.
async fn deliver(
    socket: Arc<UdpSocket>,
    to: Option<SocketAddr>,
    mut queue: mpsc::Receiver<(Instant, Vec<u8>)>,
) {
    while let Some((due, packet)) = queue.recv().await {
        tokio::time::sleep_until(due).await;
        // What cannot be sent is lost, as in any network.
        let _ = match to {
            Some(peer) => socket.send_to(&packet, peer).await,
            None => socket.send(&packet).await,
        };
    }
}
