//! An HTTP/1.1 proxy that does what networks and busy servers do: refuses, loses, cuts, damages, delays.
//!
//! It passes the bytes of a request through as they are, so that a signature holds; clients are given its address for the
//! server's. What goes wrong is ordered in advance: for a share of all requests, or for the next one that fits.

use super::super::{Random, Result};
use std::collections::{BTreeMap, VecDeque};
use std::io::{Error, ErrorKind};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;

/// Bytes of the head of a message: more ends the connection.
const HEAD_MAX: usize = 64 << 10;
const PIECE: usize = 16 << 10;
/// How far behind the link's schedule the proxy may be.
const SLACK: Duration = Duration::from_millis(20);

/// What becomes of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The server never hears of it.
    Answer {
        status: u16,
        headers: Vec<(String, String)>,
        body: String,
    },
    /// The connection is reset in the middle of the request's body.
    ResetInRequest,
    /// The server does it; the connection is reset in the middle of the answer's body.
    ResetInAnswer,
    /// The server does it; the answer's body ends early, as if that were its end.
    CutAnswer,
    /// Only of a put with an MD5: of others nobody can know.
    DamageRequest,
    DamageAnswer,
    /// The server does it; nobody hears of it.
    LoseAnswer,
    /// The server does it at once; the answer comes so much later.
    Late(Duration),
    /// It reaches the server so much later.
    Stall(Duration),
}

impl Fault {
    pub fn status(status: u16) -> Fault {
        Fault::Answer { status, headers: Vec::new(), body: String::new() }
    }

    /// 503 with `Retry-After`.
    pub fn busy(seconds: u64) -> Fault {
        let headers = vec![("retry-after".to_owned(), seconds.to_string())];
        Fault::Answer { status: 503, headers, body: String::new() }
    }

    /// As S3 words an error.
    pub fn xml(status: u16, code: &str, more: &str) -> Fault {
        let body = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>words</Message>{more}</Error>"
        );
        Fault::Answer {
            status,
            headers: vec![("content-type".to_owned(), "application/xml".to_owned())],
            body,
        }
    }

    const fn name(&self) -> &'static str {
        match self {
            Fault::Answer { .. } => "answer",
            Fault::ResetInRequest => "reset in request",
            Fault::ResetInAnswer => "reset in answer",
            Fault::CutAnswer => "cut answer",
            Fault::DamageRequest => "damage request",
            Fault::DamageAnswer => "damage answer",
            Fault::LoseAnswer => "lose answer",
            Fault::Late(_) => "late",
            Fault::Stall(_) => "stall",
        }
    }
}

/// What every request meets.
#[derive(Debug, Clone, Default)]
pub struct Weather {
    /// One of these meets so many requests of a hundred.
    pub faults: Vec<Fault>,
    pub percent: u64,
    /// On the way of each request.
    pub latency: Duration,
    /// Bytes a second of the link, all connections together, each way.
    pub rate: Option<u64>,
    /// Headers of requests that do not arrive, in lower case.
    pub stripped: Vec<&'static str>,
    /// Headers, in lower case, that are answered as by a server which has nothing of what they ask for.
    pub unknown: Vec<&'static str>,
}

impl Weather {
    /// All that happens now and then, to so many requests of a hundred.
    pub fn bad(percent: u64) -> Weather {
        let faults = vec![
            Fault::status(500),
            Fault::status(503),
            Fault::busy(0),
            Fault::ResetInRequest,
            Fault::ResetInAnswer,
            Fault::CutAnswer,
            Fault::LoseAnswer,
            Fault::DamageRequest,
            Fault::Stall(Duration::from_millis(500)),
        ];
        Weather { faults, percent, ..Weather::default() }
    }
}

/// What passed so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    pub requests: u64,
    /// Of bodies of requests, as their heads tell.
    pub body_bytes: u64,
    /// Requests that were under way at a time, at most.
    pub most_at_once: u64,
    /// By name.
    pub faults: BTreeMap<&'static str, u64>,
}

/// Picks requests by their first line and headers.
type Filter = Box<dyn Fn(&str) -> bool + Send>;

struct State {
    weather: Weather,
    random: Random,
    ordered: VecDeque<(Filter, Fault)>,
    seen: Seen,
    under_way: u64,
    /// When the link is free again: there, and back.
    free_at: [Instant; 2],
}

/// Runs until it is dropped, on a thread of its own: tests have a runtime, or none.
pub struct HttpProxy {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    /// Dropped, it ends the thread.
    _life: tokio::sync::oneshot::Sender<()>,
}

impl HttpProxy {
    pub fn before(target: SocketAddr, random: Random) -> Result<HttpProxy> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let state = Arc::new(Mutex::new(State {
            weather: Weather::default(),
            random,
            ordered: VecDeque::new(),
            seen: Seen::default(),
            under_way: 0,
            free_at: [Instant::now(); 2],
        }));
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let shared = Arc::clone(&state);
        let (life, end) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            runtime.block_on(async move {
                let Ok(listener) = TcpListener::from_std(listener) else { return };
                let accept = async {
                    while let Ok((client, _)) = listener.accept().await {
                        tokio::spawn(serve(client, target, Arc::clone(&shared)));
                    }
                };
                tokio::select! {
                    () = accept => {}
                    _ = end => {}
                }
            });
        });
        Ok(HttpProxy { address, state, _life: life })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn set(&self, weather: Weather) {
        lock(&self.state).weather = weather;
    }

    /// The next request that fits meets this; what was ordered first goes first.
    pub fn order(&self, fits: impl Fn(&str) -> bool + Send + 'static, fault: Fault) {
        lock(&self.state).ordered.push_back((Box::new(fits), fault));
    }

    pub fn seen(&self) -> Seen {
        lock(&self.state).seen.clone()
    }

    /// Counts from now on.
    pub fn forget(&self) {
        lock(&self.state).seen = Seen::default();
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One connection, as long as both sides want it.
async fn serve(client: TcpStream, target: SocketAddr, state: Arc<Mutex<State>>) {
    let _ = client.set_nodelay(true);
    let mut client = BufReader::new(client);
    // Whatever goes wrong ends the connection, which is all that a client ever sees of it.
    while let Ok(true) = exchange(&mut client, target, &state).await {}
}

/// A request that is under way.
struct UnderWay<'a>(&'a Mutex<State>);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        lock(self.0).under_way -= 1;
    }
}

/// One request and its answer; whether the connection goes on.
async fn exchange(
    client: &mut BufReader<TcpStream>,
    target: SocketAddr,
    state: &Mutex<State>,
) -> std::io::Result<bool> {
    let Some(head) = read_head(client).await? else { return Ok(false) };
    let (fault, latency, stripped) = {
        let mut state = lock(state);
        state.under_way += 1;
        state.seen.requests += 1;
        if let Body::Length(length) = Body::of_request(&head) {
            state.seen.body_bytes += length;
        }
        state.seen.most_at_once = state.seen.most_at_once.max(state.under_way);
        let fault = state.fault_for(&head);
        if let Some(fault) = &fault {
            *state.seen.faults.entry(fault.name()).or_default() += 1;
        }
        (fault, state.weather.latency, state.weather.stripped.clone())
    };
    let _under_way = UnderWay(state);
    if let Some(Fault::Answer { status, headers, body }) = fault {
        copy_body(client, &mut tokio::io::sink(), Body::of_request(&head), state, There, Damage::None)
            .await?;
        let is_head = head.starts_with("HEAD ");
        client.write_all(answer(status, &headers, if is_head { "" } else { &body }).as_bytes()).await?;
        return Ok(true);
    }
    // The network's delay, which is what a test asked for: no time-out is waited for.
    tokio::time::sleep(latency + if let Some(Fault::Stall(time)) = fault { time } else { Duration::ZERO })
        .await;
    let mut server = BufReader::new(TcpStream::connect(target).await?);
    server.get_ref().set_nodelay(true)?;
    server.write_all(without(&head, &stripped).as_bytes()).await?;
    let damage = match fault {
        Some(Fault::ResetInRequest) => Damage::Cut,
        Some(Fault::DamageRequest) if is_guarded(&head) => Damage::Flip,
        _ => Damage::None,
    };
    if !copy_body(client, &mut server, Body::of_request(&head), state, There, damage).await? {
        return reset(client);
    }
    server.flush().await?;
    pass_answer(client, &mut server, &head, state, fault).await
}

async fn pass_answer(
    client: &mut BufReader<TcpStream>,
    server: &mut BufReader<TcpStream>,
    request: &str,
    state: &Mutex<State>,
    fault: Option<Fault>,
) -> std::io::Result<bool> {
    let head = loop {
        let Some(head) = read_head(server).await? else { return Ok(false) };
        if !head.starts_with("HTTP/1.1 1") {
            break head;
        }
        client.write_all(head.as_bytes()).await?;
    };
    let body = Body::of_answer(request, &head);
    let damage = match fault {
        Some(Fault::LoseAnswer) => return reset(client),
        Some(Fault::ResetInAnswer | Fault::CutAnswer) if body == Body::Length(0) => return reset(client),
        Some(Fault::ResetInAnswer | Fault::CutAnswer) => Damage::Cut,
        Some(Fault::DamageAnswer) => Damage::Flip,
        Some(Fault::Late(time)) => {
            // No time-out either: the client's is what this is for.
            tokio::time::sleep(time).await;
            Damage::None
        }
        _ => Damage::None,
    };
    client.write_all(head.as_bytes()).await?;
    if !copy_body(server, client, body, state, Back, damage).await? {
        client.flush().await?;
        return if fault == Some(Fault::ResetInAnswer) { reset(client) } else { Ok(false) };
    }
    client.flush().await?;
    Ok(body != Body::ToEnd)
}

/// Not the ordinary end of a connection: whatever was on its way is void.
fn reset(client: &BufReader<TcpStream>) -> std::io::Result<bool> {
    client.get_ref().set_zero_linger()?;
    Ok(false)
}

impl State {
    fn fault_for(&mut self, head: &str) -> Option<Fault> {
        if let Some(found) = self.ordered.iter().position(|(fits, _)| fits(head)) {
            return self.ordered.remove(found).map(|(_, fault)| fault);
        }
        let Weather { faults, percent, unknown, .. } = &self.weather;
        if unknown.iter().any(|name| header(head, name).is_some()) {
            return Some(Fault::xml(501, "NotImplemented", ""));
        }
        if faults.is_empty() || self.random.below(100) >= *percent {
            return None;
        }
        let choices = u64::try_from(faults.len()).ok()?;
        let chosen = usize::try_from(self.random.below(choices)).ok()?;
        faults.get(chosen).cloned()
    }
}

/// Which way bytes go: the index of the link's side.
type Way = usize;
#[allow(non_upper_case_globals, reason = "they read as words")]
const There: Way = 0;
#[allow(non_upper_case_globals, reason = "they read as words")]
const Back: Way = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Damage {
    None,
    /// One bit of a byte in the middle.
    Flip,
    /// Half of it is missing.
    Cut,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Body {
    Length(u64),
    Chunked,
    ToEnd,
}

impl Body {
    fn of_request(head: &str) -> Body {
        Body::framed(head).unwrap_or(Body::Length(0))
    }

    fn of_answer(request: &str, head: &str) -> Body {
        let status = head.split(' ').nth(1).unwrap_or_default();
        if request.starts_with("HEAD ") || ["204", "304"].contains(&status) {
            return Body::Length(0);
        }
        Body::framed(head).unwrap_or(Body::ToEnd)
    }

    fn framed(head: &str) -> Option<Body> {
        if header(head, "transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
            return Some(Body::Chunked);
        }
        header(head, "content-length").and_then(|value| value.parse().ok()).map(Body::Length)
    }
}

/// The value of a header of a head.
pub fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

fn is_guarded(head: &str) -> bool {
    head.starts_with("PUT ") && header(head, "content-md5").is_some()
}

fn without(head: &str, stripped: &[&str]) -> String {
    let is_kept = |line: &&str| {
        let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
        !stripped.contains(&name.as_str())
    };
    head.split_inclusive("\r\n").filter(is_kept).collect()
}

fn answer(status: u16, headers: &[(String, String)], body: &str) -> String {
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("HTTP/1.1 {status} Ordered\r\n{headers}content-length: {}\r\n\r\n{body}", body.len())
}

/// First line and headers with the empty line; `None` where the connection ends instead.
async fn read_head(from: &mut (impl tokio::io::AsyncBufRead + Unpin)) -> std::io::Result<Option<String>> {
    let mut head = Vec::new();
    loop {
        let before = head.len();
        if from.read_until(b'\n', &mut head).await? == 0 {
            return Ok(None);
        }
        if head.len() > HEAD_MAX {
            return Err(Error::from(ErrorKind::InvalidData));
        }
        if head.len() - before <= 2 && before > 0 {
            return String::from_utf8(head).map(Some).map_err(Error::other);
        }
    }
}

/// Passes a body on; false: only a part of it, as ordered.
async fn copy_body(
    from: &mut (impl tokio::io::AsyncBufRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    body: Body,
    state: &Mutex<State>,
    way: Way,
    damage: Damage,
) -> std::io::Result<bool> {
    match body {
        Body::Length(length) => copy_data(from, to, length, state, way, damage).await,
        Body::ToEnd => {
            copy_data(from, to, u64::MAX, state, way, Damage::None).await?;
            Ok(damage != Damage::Cut)
        }
        Body::Chunked => {
            let mut damage = damage;
            loop {
                let mut line = String::new();
                from.read_line(&mut line).await?;
                to.write_all(line.as_bytes()).await?;
                let size = line.trim().split(';').next().unwrap_or_default();
                let size = u64::from_str_radix(size, 16).map_err(Error::other)?;
                if size == 0 {
                    let mut end = String::new();
                    from.read_line(&mut end).await?;
                    to.write_all(end.as_bytes()).await?;
                    return Ok(true);
                }
                if !copy_data(from, to, size, state, way, damage).await? {
                    return Ok(false);
                }
                // Only the first chunk is hit.
                damage = Damage::None;
                let mut end = [0; 2];
                from.read_exact(&mut end).await?;
                to.write_all(&end).await?;
            }
        }
    }
}

async fn copy_data(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    length: u64,
    state: &Mutex<State>,
    way: Way,
    damage: Damage,
) -> std::io::Result<bool> {
    let (middle, mut done) = (length / 2, 0);
    let mut piece = vec![0; PIECE];
    while done < length {
        let end = if damage == Damage::Cut { middle } else { length };
        let wanted = usize::try_from(end - done).unwrap_or(PIECE).min(PIECE);
        if wanted == 0 {
            return Ok(false);
        }
        let read = from.read(&mut piece[..wanted]).await?;
        if read == 0 {
            return if length == u64::MAX { Ok(true) } else { Err(Error::from(ErrorKind::UnexpectedEof)) };
        }
        let reached = done + u64::try_from(read).map_err(Error::other)?;
        if damage == Damage::Flip && (done..reached).contains(&middle) {
            piece[usize::try_from(middle - done).map_err(Error::other)?] ^= 1;
        }
        link(state, way, read).await;
        to.write_all(&piece[..read]).await?;
        done = reached;
    }
    Ok(true)
}

/// Waits until a link of that rate would have passed so many bytes.
async fn link(state: &Mutex<State>, way: Way, bytes: usize) {
    let until = {
        let mut state = lock(state);
        let Some(rate) = state.weather.rate else { return };
        let nanos = u128::try_from(bytes).unwrap_or(0) * 1_000_000_000 / u128::from(rate.max(1));
        let time = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        // Late wake-ups are made up for, so that the rate is kept.
        let earliest = Instant::now().checked_sub(SLACK).unwrap_or_else(Instant::now);
        let until = state.free_at[way].max(earliest) + time;
        state.free_at[way] = until;
        until
    };
    // The rate is what a test asked for.
    tokio::time::sleep_until(until.into()).await;
}
