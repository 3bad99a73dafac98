//! Ports of 127.0.0.1 for servers that cannot be told to choose one by themselves, or that are down for a while and come back.
//!
//! Invariant: from the claim to its end no other test listens on the port, and the kernel gives it to no outgoing connection.

use super::{Result, anyhow};
use std::fs::{File, TryLockError};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::ops::Range;

/// Below those that Linux gives away by itself, and beside those of the tests' etcd.
const PORTS: Range<u16> = 12_000..20_000;
/// Tests that run at the same time have ids close to each other: each begins to look elsewhere.
const STEP: u32 = 61;

/// Claimed until it is dropped.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _claim: File,
}

impl Port {
    pub fn claim() -> Result<Port> {
        // Each user's own: nobody can lock another's files.
        let user = rustix::process::getuid().as_raw();
        let folder = std::env::temp_dir().join(format!("pgconvoy-ports-{user}"));
        std::fs::create_dir_all(&folder)?;
        let span = u32::from(PORTS.end - PORTS.start);
        let begin = PORTS.start + u16::try_from(std::process::id().wrapping_mul(STEP) % span)?;
        for number in (begin..PORTS.end).chain(PORTS.start..begin) {
            let claim = File::options().create(true).append(true).open(folder.join(number.to_string()))?;
            match claim.try_lock() {
                Ok(()) if is_free(number) => return Ok(Port { number, _claim: claim }),
                Ok(()) | Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(error.into()),
            }
        }
        Err(anyhow!("no free port from {} to {}", PORTS.start, PORTS.end - 1))
    }

    pub fn claim_some<const COUNT: usize>() -> Result<[Port; COUNT]> {
        let claimed = (0..COUNT).map(|_| Port::claim()).collect::<Result<Vec<Port>>>()?;
        claimed.try_into().map_err(|_| anyhow!("{COUNT} ports"))
    }

    pub fn number(&self) -> u16 {
        self.number
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.number))
    }
}

fn is_free(number: u16) -> bool {
    let address = (Ipv4Addr::LOCALHOST, number);
    TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok()
}
