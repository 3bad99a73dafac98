//! The network between a fleet's workers and its coordinators, where one worker can be cut off.
//!
//! Before each coordinator stands a proxy. A worker sends from one port as long as it lives, so its packets are known by the
//! port, and the port by the process.

use super::{Context, Result, bail, ensure};
use pgconvoy_transport::conformance::proxy::UdpProxy;
use std::net::SocketAddr;
use tokio::runtime::{Builder, Runtime};

pub struct Network {
    proxies: Vec<UdpProxy>,
    /// What the proxies run on.
    _runtime: Runtime,
}

impl Network {
    pub fn before(targets: impl IntoIterator<Item = SocketAddr>) -> Result<Network> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let start = |target| runtime.block_on(UdpProxy::start(target));
        let proxies = targets.into_iter().map(start).collect::<Result<_, _>>()?;
        Ok(Network { proxies, _runtime: runtime })
    }

    /// In place of the target of that number.
    pub fn address(&self, number: usize) -> Result<SocketAddr> {
        Ok(self.proxies.get(number).context("no such target")?.address())
    }

    /// Loses all packets from and to a process.
    pub fn cut(&self, process: u32) -> Result<()> {
        let ports = udp_ports(process)?;
        ensure!(!ports.is_empty(), "process {process} has no UDP socket");
        self.proxies.iter().for_each(|proxy| proxy.isolate(ports.clone()));
        Ok(())
    }

    pub fn heal(&self, process: u32) -> Result<()> {
        let ports = udp_ports(process)?;
        self.proxies.iter().for_each(|proxy| proxy.readmit(ports.clone()));
        Ok(())
    }
}

/// The local ports of a process's UDP sockets, as the kernel lists them.
fn udp_ports(process: u32) -> Result<Vec<u16>> {
    let mut inodes = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{process}/fd"))? {
        // A descriptor may be closed while they are listed.
        let Ok(target) = std::fs::read_link(entry?.path()) else { continue };
        let target = target.to_string_lossy().into_owned();
        inodes.extend(
            target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')).map(str::to_owned),
        );
    }
    let mut ports = Vec::new();
    for table in ["udp", "udp6"] {
        let text = std::fs::read_to_string(format!("/proc/{process}/net/{table}"))?;
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            // Local address and inode, by the kernel's description of the file.
            let (Some(local), Some(inode)) = (fields.get(1), fields.get(9)) else {
                bail!("a line of {table} that nobody understands: {line}")
            };
            if inodes.iter().any(|own| own == inode) {
                let (_, port) = local.rsplit_once(':').context("an address without a port")?;
                ports.push(u16::from_str_radix(port, 16)?);
            }
        }
    }
    Ok(ports)
}
