//! What the tests here share: a configuration, and a small server that answers as a test wants.

use crate::{AzureOptions, AzureStorage, Surroundings};
use pgconvoy_core::config::{AzureConfig, AzureKeyType, Secret, StoreTls, UriStyle};
use pgconvoy_storage::decorate::retry::RetryPolicy;
use pgconvoy_storage::parts::PartSlots;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Of a store that nobody asks.
pub(crate) fn config() -> AzureConfig {
    AzureConfig {
        account: "acct".to_owned(),
        container: "box".to_owned(),
        key_type: AzureKeyType::Shared,
        key: Some(Secret::new("c2VjcmV0LWtleQ==")),
        endpoint: "blob.core.windows.net".to_owned(),
        uri_style: UriStyle::Host,
        tls: StoreTls { ca_file: None, verify: false },
        tags: BTreeMap::new(),
    }
}

/// In the path `p` of a container of that server.
pub(crate) fn store(server: &Server) -> AzureStorage {
    let config = AzureConfig { endpoint: server.url(), uri_style: UriStyle::Path, ..config() };
    let options = AzureOptions {
        path: "/p".to_owned(),
        retry: RetryPolicy::default(),
        slots: PartSlots::for_slots(1),
        surroundings: Surroundings::default(),
    };
    AzureStorage::new(&config, options).expect("a store")
}

/// A status line with headers, and a body.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    /// `head` is `200 OK`, or that with further lines.
    pub(crate) fn new(head: &str, body: &str) -> Answer {
        Answer { head: head.to_owned(), body: body.to_owned() }
    }
}

/// Speaks HTTP, one request a connection, and remembers what it was asked.
pub(crate) struct Server {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// `answer` gets the number of the request, from 0, and all of it.
    pub(crate) async fn start(answer: impl Fn(usize, &str) -> Answer + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let Ok(request) = receive(&mut socket).await else { continue };
                let answer = {
                    let mut seen = kept.lock().unwrap_or_else(PoisonError::into_inner);
                    seen.push(request.clone());
                    answer(seen.len() - 1, &request)
                };
                let Answer { head, body } = answer;
                let length = body.len();
                let text =
                    format!("HTTP/1.1 {head}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
                // A client that has gone wants no answer.
                let _ = socket.write_all(text.as_bytes()).await;
                let _ = socket.shutdown().await;
            }
        });
        Server { address, seen }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The head, and as much as it announces.
async fn receive(socket: &mut TcpStream) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    let mut piece = [0; 8 << 10];
    let mut whole = None;
    loop {
        if whole.is_none()
            && let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n")
        {
            let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
            let announced = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            whole = Some(end + 4 + announced.unwrap_or(0usize));
        }
        if whole.is_some_and(|whole| bytes.len() >= whole) {
            return Ok(String::from_utf8_lossy(&bytes).into_owned());
        }
        match socket.read(&mut piece).await? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            read => bytes.extend_from_slice(&piece[..read]),
        }
    }
}
