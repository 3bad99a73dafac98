//! A machine's identity service that gives out short-lived tokens, as Azurite takes them: it looks at what they say, and
//! at no signature.

use crate::support::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// What its clients prove themselves with: `IDENTITY_HEADER`.
pub const HEADER: &str = "from this machine";

pub struct IdentityService {
    address: SocketAddr,
    given: Arc<AtomicU32>,
}

impl IdentityService {
    /// Tokens are valid for so many seconds. It serves as long as the test's process lives.
    pub fn start(seconds: u64) -> Result<IdentityService> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let service = IdentityService { address: listener.local_addr()?, given: Arc::default() };
        let given = Arc::clone(&service.given);
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let Ok(mut socket) = socket else { continue };
                let mut head = [0; 4096];
                // One piece: it is short, and nothing follows it.
                let Ok(length) = socket.read(&mut head) else { continue };
                let is_known = String::from_utf8_lossy(&head[..length])
                    .contains(&format!("x-identity-header: {HEADER}"));
                let answer = match token(seconds) {
                    Ok(token) if is_known => {
                        given.fetch_add(1, Ordering::SeqCst);
                        let body = format!(r#"{{"access_token":"{token}","expires_in":"{seconds}"}}"#);
                        format!(
                            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                            body.len()
                        )
                    }
                    _ => "HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                        .to_owned(),
                };
                // A client that has gone wants no answer.
                let _ = socket.write_all(answer.as_bytes());
            }
        });
        Ok(service)
    }

    /// For `IDENTITY_ENDPOINT`.
    pub fn endpoint(&self) -> String {
        format!("http://{}/msi/token", self.address)
    }

    pub fn given(&self) -> u32 {
        self.given.load(Ordering::SeqCst)
    }
}

fn token(seconds: u64) -> Result<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("a clock after 1970")?.as_secs();
    let claims = format!(
        r#"{{"aud":"https://storage.azure.com","iss":"https://sts.windows.net/ab1f708d-50f6-404c-a006-d71b2ac7a606/","iat":{now},"nbf":{},"exp":{}}}"#,
        now - 10,
        // The clock's second has begun already.
        now + seconds + 1
    );
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    Ok(format!("{}.{}.{}", part(r#"{"alg":"RS256","typ":"JWT"}"#), part(&claims), part("none")))
}
