//! A line to a server that can be cut, mended, and made to lose answers.

use std::net::{Ipv4Addr, SocketAddr};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Line {
    Whole,
    /// Connections are closed, and new ones at once.
    Cut,
    /// Requests arrive, answers do not.
    LosesAnswers,
}

pub(crate) struct Proxy {
    address: SocketAddr,
    line: watch::Sender<Line>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// To a server given as `http://host:port`.
    pub(crate) async fn to(url: &str) -> Proxy {
        Proxy::at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), url).await
    }

    pub(crate) async fn at(address: SocketAddr, url: &str) -> Proxy {
        let target = url.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (line, state) = watch::channel(Line::Whole);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(connection(client, target.clone(), state.clone()));
            }
        });
        Proxy { address, line, accepting }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn set(&self, line: Line) {
        self.line.send_replace(line);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.set(Line::Cut);
    }
}

async fn connection(client: TcpStream, target: String, mut line: watch::Receiver<Line>) {
    if *line.borrow() == Line::Cut {
        return;
    }
    let Ok(server) = TcpStream::connect(target).await else { return };
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let lossy = line.clone();
    tokio::select! {
        () = pass(from_client, to_server, || true) => {}
        () = pass(from_server, to_client, || *lossy.borrow() != Line::LosesAnswers) => {}
        _ = line.wait_for(|line| *line == Line::Cut) => {}
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, arrives: impl Fn() -> bool) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if arrives() && to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
