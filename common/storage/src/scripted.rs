//! A small HTTP server that answers as a test wants, for the tests of back ends.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// A status line with headers, and a body.
#[derive(Debug, Clone)]
pub struct Answer {
    pub head: String,
    pub body: String,
}

impl Answer {
    /// `head` is `200 OK`, or that with further lines.
    pub fn new(head: &str, body: &str) -> Answer {
        Answer { head: head.to_owned(), body: body.to_owned() }
    }
}

/// Speaks HTTP, one request a connection, and remembers what it was asked.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// `answer` gets the number of the request, from 0, and all of it. The server lives as long as the runtime.
    pub async fn start(answer: impl Fn(usize, &str) -> Answer + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (kept, answer) = (Arc::clone(&seen), Arc::new(answer));
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (kept, answer) = (Arc::clone(&kept), Arc::clone(&answer));
                tokio::spawn(async move { converse(socket, &kept, &*answer).await });
            }
        });
        Server { address, seen }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn converse(
    mut socket: TcpStream,
    seen: &Mutex<Vec<String>>,
    answer: &(dyn Fn(usize, &str) -> Answer + Send + Sync),
) {
    let Ok(request) = receive(&mut socket).await else { return };
    let number = {
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.push(request.clone());
        seen.len() - 1
    };
    let Answer { head, body } = answer(number, &request);
    let length = body.len();
    let text = format!("HTTP/1.1 {head}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
    // A client that has gone wants no answer.
    let _ = socket.write_all(text.as_bytes()).await;
    let _ = socket.shutdown().await;
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
