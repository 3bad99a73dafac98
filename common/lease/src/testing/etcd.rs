//! Real etcd on free ports of 127.0.0.1: one node or a cluster, with its data in a folder of its own.
//!
//! Blocking, so that tests with and without a runtime can use it.
//!
//! Invariants
//! 1. Every wait has a time-out, and what is waited for is asked, not slept for.
//! 2. Only processes that were started here are signalled, by their id, and never after they were reaped.
//! 3. Dropping a cluster kills its nodes and removes their data.

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use std::fs::{File, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// From the start of a node to a cluster that answers: seconds, on a machine that builds something else meanwhile.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// How long one question about a node's health may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Ports that are given to no outgoing connection, so a node that is down finds its own free when it is back.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// Three nodes with three ports each.
const PORTS_OF_A_CLUSTER: u16 = 9;

/// Somebody may take a port between the look and the use.
const START_ATTEMPTS: u32 = 4;

/// What clients have to show, and what servers show them.
#[derive(Debug, Clone)]
pub struct ServerTls {
    pub ca_pem: String,
    pub certificate_pem: String,
    pub key_pem: String,
}

/// What a cluster is made of.
#[derive(Debug, Clone)]
pub struct Plan {
    pub nodes: usize,
    /// Clients are spoken to with TLS, and must show a certificate of the same CA.
    pub tls: Option<ServerTls>,
}

struct Node {
    name: String,
    client_port: u16,
    peer_port: u16,
    /// Where health and metrics are told without TLS and login.
    metrics_port: u16,
    process: Option<Child>,
}

pub struct EtcdCluster {
    plan: Plan,
    nodes: Vec<Node>,
    folder: TempDir,
    /// Held as long as the ports are this cluster's, whether a node listens on them or is down.
    _claim: File,
}

impl EtcdCluster {
    /// Starts a cluster without TLS and waits until it answers.
    pub fn start(nodes: usize) -> io::Result<EtcdCluster> {
        EtcdCluster::start_as(Plan { nodes, tls: None })
    }

    pub fn start_as(plan: Plan) -> io::Result<EtcdCluster> {
        let mut last = io::Error::other("no attempt");
        for _ in 0..START_ATTEMPTS {
            match EtcdCluster::try_start(plan.clone()) {
                Ok(cluster) => return Ok(cluster),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    fn try_start(plan: Plan) -> io::Result<EtcdCluster> {
        let folder = tempfile::Builder::new().prefix("pgconvoy-etcd-").tempdir()?;
        let (claim, mut ports) = claim_ports()?;
        let mut cluster = EtcdCluster { nodes: Vec::new(), folder, plan, _claim: claim };
        if let Some(tls) = &cluster.plan.tls {
            for (name, pem) in [("ca", &tls.ca_pem), ("cert", &tls.certificate_pem), ("key", &tls.key_pem)] {
                std::fs::write(cluster.path(name), pem)?;
            }
        }
        let mut port = || ports.next().ok_or_else(|| io::Error::other("too few ports"));
        for number in 0..cluster.plan.nodes {
            let (client_port, peer_port, metrics_port) = (port()?, port()?, port()?);
            let name = format!("n{number}");
            cluster.nodes.push(Node { name, client_port, peer_port, metrics_port, process: None });
        }
        for node in 0..cluster.nodes.len() {
            cluster.launch(node)?;
        }
        cluster.await_healthy(0..cluster.nodes.len())?;
        Ok(cluster)
    }

    /// Of all nodes, as URLs.
    pub fn endpoints(&self) -> Vec<String> {
        let scheme = self.scheme();
        self.nodes.iter().map(|node| format!("{scheme}://127.0.0.1:{}", node.client_port)).collect()
    }

    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self, node: usize) -> io::Result<()> {
        if let Some(mut process) = self.nodes[node].process.take() {
            process.kill()?;
            process.wait()?;
        }
        Ok(())
    }

    /// Starts a killed node on its old data; does not wait until it answers, since it may need others for that.
    pub fn launch(&mut self, node: usize) -> io::Result<()> {
        let log = File::options().create(true).append(true).open(self.path(&format!("log{node}")))?;
        let mut command = self.command(node);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => io::Error::other(
                "etcd is not installed: apt-get install --no-install-recommends etcd-server etcd-client",
            ),
            _ => error,
        })?;
        self.nodes[node].process = Some(child);
        Ok(())
    }

    /// Starts a killed node on its old data and waits until it answers.
    pub fn restart(&mut self, node: usize) -> io::Result<()> {
        self.launch(node)?;
        self.await_healthy([node])
    }

    /// SIGSTOP: connections stay, nothing is answered. A busy machine takes its time until every thread stands still.
    pub fn freeze(&self, node: usize) -> io::Result<()> {
        self.signal(node, Signal::STOP)?;
        let until = Instant::now() + READY_TIMEOUT;
        let stopped = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG;
        while waitid(WaitId::Pid(self.pid(node)?), stopped)?.is_none() {
            if Instant::now() >= until {
                return Err(self.failure(&format!("node {node} did not stop in time")));
            }
            // Within the timeout above.
            std::thread::sleep(POLL_INTERVAL);
        }
        Ok(())
    }

    /// SIGCONT.
    pub fn thaw(&self, node: usize) -> io::Result<()> {
        self.signal(node, Signal::CONT)
    }

    /// The node that leads, as the nodes themselves say.
    pub fn leader(&self) -> io::Result<usize> {
        let until = Instant::now() + READY_TIMEOUT;
        loop {
            let leads = |node: &Node| {
                let metrics = node.ask("/metrics").unwrap_or_default();
                node.process.is_some() && metrics.lines().any(|line| line == "etcd_server_is_leader 1")
            };
            match self.nodes.iter().position(leads) {
                Some(leader) => return Ok(leader),
                None if Instant::now() >= until => return Err(self.failure("no leader in time")),
                // Within the timeout above.
                None => std::thread::sleep(POLL_INTERVAL),
            }
        }
    }

    /// Waits until each of these nodes has a leader and answers reads.
    pub fn await_healthy(&mut self, nodes: impl IntoIterator<Item = usize>) -> io::Result<()> {
        let until = Instant::now() + READY_TIMEOUT;
        for number in nodes {
            loop {
                let node = &mut self.nodes[number];
                let healthy = node.ask("/health").is_ok_and(|answer| answer.contains(r#""health":"true""#));
                // Looked at after the answer, which then was not that of a stranger on the same port.
                let exited = match &mut node.process {
                    Some(process) => process.try_wait()?.is_some(),
                    None => true,
                };
                if exited {
                    let failure = self.failure(&format!("node {number} has ended"));
                    let in_use = failure.to_string().contains("address already in use");
                    return Err(if in_use {
                        io::Error::new(io::ErrorKind::AddrInUse, failure)
                    } else {
                        failure
                    });
                }
                if healthy {
                    break;
                }
                if Instant::now() >= until {
                    return Err(self.failure(&format!("node {number} was not healthy in time")));
                }
                // Within the timeout above.
                std::thread::sleep(POLL_INTERVAL);
            }
        }
        Ok(())
    }

    fn command(&self, number: usize) -> Command {
        let node = &self.nodes[number];
        let (client, peer) = (format!("{}://127.0.0.1:{}", self.scheme(), node.client_port), node.peer_url());
        let members: Vec<String> =
            self.nodes.iter().map(|node| format!("{}={}", node.name, node.peer_url())).collect();
        let mut command = Command::new("etcd");
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        if cfg!(target_arch = "aarch64") {
            // Etcd 3.4 asks for this there.
            command.env("ETCD_UNSUPPORTED_ARCH", "arm64");
        }
        command.current_dir(self.folder.path());
        command.args(["--name", &node.name]).arg("--data-dir").arg(self.path(&node.name));
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &members.join(","), "--initial-cluster-state", "new"]);
        command.args(["--initial-cluster-token", &self.folder.path().to_string_lossy()]);
        command.args(["--listen-metrics-urls", &format!("http://127.0.0.1:{}", node.metrics_port)]);
        command.args(["--logger", "zap"]);
        if self.plan.tls.is_some() {
            command.arg("--client-cert-auth");
            for (option, name) in
                [("--trusted-ca-file", "ca"), ("--cert-file", "cert"), ("--key-file", "key")]
            {
                command.arg(option).arg(self.path(name));
            }
        }
        command
    }

    fn scheme(&self) -> &'static str {
        if self.plan.tls.is_some() { "https" } else { "http" }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn signal(&self, node: usize, signal: Signal) -> io::Result<()> {
        Ok(kill_process(self.pid(node)?, signal)?)
    }

    fn pid(&self, node: usize) -> io::Result<Pid> {
        let process = self.nodes[node].process.as_ref();
        let pid = process.and_then(|process| Pid::from_raw(i32::try_from(process.id()).ok()?));
        pid.ok_or_else(|| io::Error::other(format!("node {node} does not run")))
    }

    /// What went wrong, with the last lines that the nodes wrote.
    fn failure(&self, what: &str) -> io::Error {
        let mut text = what.to_owned();
        for number in 0..self.nodes.len() {
            let log = std::fs::read_to_string(self.path(&format!("log{number}"))).unwrap_or_default();
            let lines: Vec<&str> = log.lines().rev().take(10).collect();
            for line in lines.into_iter().rev() {
                text = format!("{text}\n  n{number}: {line}");
            }
        }
        io::Error::other(text)
    }
}

impl Drop for EtcdCluster {
    fn drop(&mut self) {
        for node in 0..self.nodes.len() {
            // The folder goes next; a node that could not be killed is reported by what it does to it.
            let _ = self.kill(node);
        }
    }
}

impl Node {
    fn peer_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.peer_port)
    }

    fn ask(&self, path: &str) -> io::Result<String> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.metrics_port));
        let mut stream = TcpStream::connect_timeout(&address, ANSWER_TIMEOUT)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }
}

/// Ports that nobody listens on and no other test of this process or another has claimed. A test whose node is down for a while
/// has its ports still: another one that took them would share a store with it.
fn claim_ports() -> io::Result<(File, std::ops::Range<u16>)> {
    static CLUSTERS: AtomicU32 = AtomicU32::new(0);
    let cluster = CLUSTERS.fetch_add(1, Ordering::Relaxed);
    let slots = (PORTS.end - PORTS.start) / PORTS_OF_A_CLUSTER;
    // Tests that run at the same time have ids close to each other, and clusters of one process are far apart.
    let wanted = std::process::id().wrapping_add(cluster.wrapping_mul(97)) % u32::from(slots);
    let wanted = u16::try_from(wanted).unwrap_or_default();
    let folder = std::env::temp_dir().join("pgconvoy-etcd-ports");
    std::fs::create_dir_all(&folder)?;
    for slot in (wanted..slots).chain(0..wanted) {
        let claim = File::options().create(true).append(true).open(folder.join(slot.to_string()))?;
        match claim.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => continue,
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let begin = PORTS.start + slot * PORTS_OF_A_CLUSTER;
        let ports = begin..begin + PORTS_OF_A_CLUSTER;
        let is_free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        if ports.clone().all(is_free) {
            return Ok((claim, ports));
        }
    }
    Err(io::Error::other("no free ports"))
}
