//! A fleet of real processes on this machine: etcd, coordinators, workers, certificates and a client's configuration.
//!
//! All of it stands beside a [`Site`]: the same cluster, repositories and scratch folder.

use super::daemon::Daemon;
use super::guarded_etcd::{self, EtcdAccess};
use super::network::Network;
use super::ports::Port;
use super::{Config, Context, Finished, Json, Pgconvoy, Result, Site, ensure, files, limits, user};
use pgconvoy_lease::testing::etcd::{EtcdCluster, Plan};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Of a worker whose limit no test sets.
const UNLIMITED: &str = "";

#[derive(Debug, Clone)]
pub struct FleetOptions {
    pub coordinators: usize,
    pub workers: usize,
    pub etcd_nodes: usize,
    /// With TLS in both directions, and a user with a password.
    pub etcd_is_guarded: bool,
    pub slots: u32,
    /// As in the configuration; for all workers.
    pub bandwidth_max: Option<String>,
    /// Further lines of each worker's table `[worker]`; nothing for those beyond.
    pub worker_lines: Vec<String>,
    /// A network between workers and coordinators that can fail.
    pub with_network: bool,
}

impl Default for FleetOptions {
    fn default() -> Self {
        FleetOptions {
            coordinators: 2,
            workers: 2,
            etcd_nodes: 1,
            etcd_is_guarded: false,
            slots: 2,
            bandwidth_max: None,
            worker_lines: Vec::new(),
            with_network: false,
        }
    }
}

/// Where a coordinator listens.
#[derive(Debug)]
struct Ports {
    quic: Port,
    http: Port,
}

impl Ports {
    fn claim() -> Result<Ports> {
        Ok(Ports { quic: Port::claim()?, http: Port::claim()? })
    }
}

/// Fields drop in this order: who depends goes before whom it depends on.
pub struct Fleet {
    pub workers: Vec<Daemon>,
    pub coordinators: Vec<Daemon>,
    /// Whose configuration names the fleet and an operator's token.
    pub client: Pgconvoy,
    pub etcd: EtcdCluster,
    /// Where it lets not everybody in.
    etcd_access: Option<EtcdAccess>,
    ports: Vec<Ports>,
    network: Option<Network>,
    pki: PathBuf,
    options: FleetOptions,
}

impl Fleet {
    /// Everything started, and every worker known to the leader.
    pub fn start(site: &Site, options: &FleetOptions) -> Result<Fleet> {
        let mut fleet = Fleet::prepare(site, options)?;
        fleet.start_all()?;
        Ok(fleet)
    }

    pub fn prepare(site: &Site, options: &FleetOptions) -> Result<Fleet> {
        let etcd_access = options.etcd_is_guarded.then(|| EtcdAccess::create(&site.scratch)).transpose()?;
        let tls = etcd_access.as_ref().map(EtcdAccess::server).transpose()?;
        let etcd = EtcdCluster::start_as(Plan { nodes: options.etcd_nodes, tls })?;
        let pki = site.scratch.private_dir("pki")?;
        let ports: Vec<Ports> = (0..options.coordinators).map(|_| Ports::claim()).collect::<Result<_>>()?;
        let targets = ports.iter().map(|ports| ports.quic.address());
        let network = options.with_network.then(|| Network::before(targets)).transpose()?;
        let mut fleet = Fleet {
            workers: Vec::new(),
            coordinators: Vec::new(),
            client: site.pgconvoy.clone(),
            etcd,
            etcd_access,
            ports,
            network,
            pki,
            options: options.clone(),
        };
        if fleet.etcd_access.is_some() {
            guarded_etcd::demand_logins(|arguments| fleet.etcdctl(arguments))?;
        }
        fleet.make_certificates(site)?;
        for number in 0..options.coordinators {
            let name = format!("coordinator-{number}");
            let program = fleet.member(site, &name, &fleet.coordinator_section(number)?)?;
            fleet.coordinators.push(Daemon::new("coordinator", &name, program));
        }
        for number in 0..options.workers {
            fleet.add_worker(site, number)?;
        }
        fleet.client = fleet.client_of(site, "operator")?;
        Ok(fleet)
    }

    pub fn start_all(&mut self) -> Result<()> {
        for daemon in self.coordinators.iter_mut().chain(&mut self.workers) {
            daemon.start()?;
        }
        self.await_workers(self.workers.len())
    }

    /// Not started.
    pub fn add_worker(&mut self, site: &Site, number: usize) -> Result<()> {
        let worker = self.worker(site, number, &site.config)?;
        self.workers.push(worker);
        Ok(())
    }

    /// A worker whose host has a configuration of its own. Not started yet.
    pub fn configure_worker(&mut self, site: &Site, number: usize, config: &Config) -> Result<()> {
        self.workers[number] = self.worker(site, number, config)?;
        Ok(())
    }

    /// Not started, and not one of the fleet's yet.
    pub fn worker(&self, site: &Site, number: usize, config: &Config) -> Result<Daemon> {
        let name = format!("worker-{number}");
        let limit = match &self.options.bandwidth_max {
            Some(limit) => format!("bandwidth-max = \"{limit}\"\n"),
            None => UNLIMITED.to_owned(),
        };
        let lines = self.options.worker_lines.get(number).map(String::as_str).unwrap_or_default();
        let section = format!("[worker]\nslots = {}\n{limit}{lines}\n", self.options.slots);
        let config = self.member_config(config, &name, &section, &self.pki);
        let program = site.pgconvoy.with_config(&site.scratch, &format!("{name}.toml"), &config)?;
        Ok(Daemon::new("worker", &name, program))
    }

    /// A worker with a good name and a certificate of somebody else's authority. Not started.
    pub fn stranger(&self, site: &Site, name: &str) -> Result<Daemon> {
        let pki = site.scratch.private_dir("other-pki")?;
        let dir = format!("--dir={}", pki.display());
        let program = self.member(site, "other-ca", "")?;
        program.run(["cert", "init", &dir])?.ok()?;
        program.run(["cert", "issue", &dir, "--role=worker", &format!("--name={name}")])?.ok()?;
        let config = self.member_config(&site.config, name, "", &pki);
        let program = site.pgconvoy.with_config(&site.scratch, "stranger.toml", &config)?;
        Ok(Daemon::new("worker", "stranger", program))
    }

    /// Waits until the leader knows so many workers that are up.
    pub fn await_workers(&self, count: usize) -> Result<()> {
        limits::wait_for(&format!("{count} workers"), limits::SOON, || {
            let up = self.workers_in_state("up").unwrap_or_default();
            Ok((up.len() >= count).then_some(()))
        })
    }

    pub fn workers_in_state(&self, state: &str) -> Result<Vec<String>> {
        let listed = self.client.run(["workers", "list", "--output=json"])?.ok()?.json()?;
        let workers = listed.as_array().context("an array of workers")?;
        let names = workers.iter().filter(|worker| worker["state"] == state);
        Ok(names.filter_map(|worker| Some(worker["name"].as_str()?.to_owned())).collect())
    }

    /// The coordinator that leads, by its place; the others follow.
    pub fn leader(&self) -> Result<usize> {
        limits::wait_for("a leader", limits::SOON, || {
            for (number, daemon) in self.coordinators.iter().enumerate() {
                if daemon.is_running()? && self.leads(number)? {
                    return Ok(Some(number));
                }
            }
            Ok(None)
        })
    }

    /// Asks etcd itself who leads: a frozen coordinator answers nobody.
    pub fn leads(&self, number: usize) -> Result<bool> {
        let answer = self.etcdctl(&["get", "/pgconvoy/test/leader/0", "--print-value-only"])?;
        Ok(answer.stdout.contains(&format!("coordinator-{number}")))
    }

    /// Keys of the fleet in etcd, below this one.
    pub fn etcd_keys(&self, below: &str) -> Result<Vec<String>> {
        let prefix = format!("/pgconvoy/test/{below}/");
        let answer = self.etcdctl(&["get", &prefix, "--prefix", "--keys-only"])?.ok()?;
        let keys = answer.stdout.lines().filter_map(|line| line.strip_prefix(&prefix));
        Ok(keys.map(str::to_owned).collect())
    }

    fn etcdctl(&self, arguments: &[&str]) -> Result<Finished> {
        let mut program = super::Program::as_ourselves("etcdctl")
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &self.etcd.endpoints().join(",")]);
        if let Some(access) = &self.etcd_access {
            program = program.args(access.of_root());
        }
        program.args(arguments).run(limits::TOOL)
    }

    /// Submits a full backup; its job.
    pub fn submit_backup(&self, more: &[&str]) -> Result<String> {
        self.submit("--type=full", more)
    }

    pub fn submit(&self, kind: &str, more: &[&str]) -> Result<String> {
        let arguments = ["backup", kind, "--detach"];
        let finished = self.client.run(arguments.iter().chain(more))?.ok()?;
        Ok(finished.stdout.trim().to_owned())
    }

    pub fn job(&self, id: &str) -> Result<Json> {
        self.client.run(["job", "show", id, "--output=json"])?.ok()?.json()
    }

    /// Waits until the job says what is asked of it.
    pub fn await_job(&self, id: &str, what: &str, is_so: impl Fn(&Json) -> bool) -> Result<Json> {
        let mut last = Json::Null;
        let waited = limits::wait_for(&format!("job {id}: {what}"), limits::COMMAND, || {
            // While nobody leads there is no answer.
            if let Ok(job) = self.job(id) {
                last = job;
            }
            Ok(is_so(&last).then(|| last.clone()))
        });
        waited.with_context(|| format!("the last that was seen: {last}"))
    }

    pub fn await_end(&self, id: &str) -> Result<Json> {
        self.await_job(id, "its end", |job| {
            ["done", "partial", "failed", "cancelled"].iter().any(|state| job["state"] == *state)
        })
    }

    /// Waits until so many units are done.
    pub fn await_units(&self, id: &str, count: u64) -> Result<Json> {
        self.await_job(id, &format!("{count} units done"), |job| {
            job["units"]["done"].as_u64().is_some_and(|done| done >= count)
        })
    }

    /// What the API of that coordinator answers to the bearer of that role's token, which `client_of` has made.
    pub fn get(&self, site: &Site, coordinator: usize, role: &str, path: &str) -> Result<Json> {
        super::api::get(&self.address(coordinator)?, &self.pki.join("ca.crt"), &token_file(site, role), path)
    }

    /// The same of what `POST` answers.
    pub fn post(&self, site: &Site, coordinator: usize, role: &str, path: &str) -> Result<Json> {
        super::api::post(&self.address(coordinator)?, &self.pki.join("ca.crt"), &token_file(site, role), path)
    }

    /// Where a coordinator's API and its dashboard are.
    pub fn address(&self, coordinator: usize) -> Result<String> {
        let ports = self.ports.get(coordinator).context("no such coordinator")?;
        Ok(format!("https://{}", ports.http.address()))
    }

    /// The token of that role, which `client_of` has made.
    pub fn token(&self, site: &Site, role: &str) -> Result<String> {
        Ok(std::fs::read_to_string(token_file(site, role))?.trim().to_owned())
    }

    /// By which the coordinators' certificates are known to a browser.
    pub fn key_hashes(&self) -> Result<Vec<String>> {
        let certificate = |daemon: &Daemon| self.pki.join(format!("{}.crt", daemon.name));
        self.coordinators.iter().map(|daemon| super::browser::key_hash(&certificate(daemon))).collect()
    }

    /// The certificate that a coordinator shows to whoever asks its API now.
    pub fn shown_certificate(&self, coordinator: usize) -> Result<String> {
        Ok(super::api::shown_certificate(&self.address(coordinator)?, &self.pki.join("ca.crt"))?.to_string())
    }

    /// Another certificate for a member, in the place of the one that it has.
    pub fn renew_certificate(&self, role: &str, name: &str) -> Result<()> {
        for suffix in ["crt", "key"] {
            std::fs::remove_file(self.pki.join(format!("{name}.{suffix}")))?;
        }
        let (dir, role, name) =
            (format!("--dir={}", self.pki.display()), format!("--role={role}"), format!("--name={name}"));
        self.on_host(0, &["cert", "issue", &dir, &role, &name, "--san=127.0.0.1"])?.ok()?;
        Ok(())
    }

    /// A command on a coordinator's host, beside the daemon.
    pub fn on_host(&self, coordinator: usize, arguments: &[&str]) -> Result<Finished> {
        let daemon = self.coordinators.get(coordinator).context("no such coordinator")?;
        daemon.program.run(arguments)
    }

    pub fn pki(&self) -> &Path {
        &self.pki
    }

    /// A client of its own with a token of that role.
    pub fn client_of(&self, site: &Site, role: &str) -> Result<Pgconvoy> {
        let host = self.coordinators.first().context("no coordinator")?.program.clone();
        let arguments = ["token", "create", "--name", role, "--role", role];
        let token = host.run(arguments)?.ok()?.stdout;
        let token_file = token_file(site, role);
        std::fs::write(&token_file, token.lines().next().context("a token")?)?;
        user::give(&token_file)?;
        let apis: Vec<String> =
            self.ports.iter().map(|ports| format!("\"https://{}\"", ports.http.address())).collect();
        let section = format!(
            "\n[fleet]\nname = \"test\"\napi = [{}]\nca-file = \"{}\"\ntoken-file = \"{}\"\n",
            apis.join(", "),
            self.pki.join("ca.crt").display(),
            token_file.display(),
        );
        let config = site.config.clone().extra(&section);
        site.pgconvoy.with_config(&site.scratch, &format!("client-{role}.toml"), &config)
    }

    fn make_certificates(&self, site: &Site) -> Result<()> {
        let dir = format!("--dir={}", self.pki.display());
        let program = self.member(site, "ca", "")?;
        program.run(["cert", "init", &dir])?.ok()?;
        let coordinators = (0..self.options.coordinators).map(|number| ("coordinator", number));
        let workers = (0..self.options.workers.max(8)).map(|number| ("worker", number));
        for (role, number) in coordinators.chain(workers) {
            let (role, name) = (format!("--role={role}"), format!("--name={role}-{number}"));
            let arguments = ["cert", "issue", &dir, &role, &name, "--san=127.0.0.1"];
            program.run(arguments)?.ok()?;
        }
        ensure!(files::walk(&self.pki)?.len() > 2, "no certificate was made");
        Ok(())
    }

    fn coordinator_section(&self, number: usize) -> Result<String> {
        let ports = self.ports.get(number).context("no such coordinator")?;
        let mut section = String::from("[coordinator]\n");
        writeln!(section, "quic-listen = \"{}\"", ports.quic.address())?;
        writeln!(section, "quic-address = \"{}\"", self.quic_address(number)?)?;
        writeln!(section, "http-listen = \"{}\"", ports.http.address())?;
        Ok(section)
    }

    /// Where workers reach a coordinator.
    pub fn quic_address(&self, number: usize) -> Result<SocketAddr> {
        match &self.network {
            Some(network) => network.address(number),
            None => Ok(self.ports.get(number).context("no such coordinator")?.quic.address()),
        }
    }

    /// Nothing passes between a worker and any coordinator, until it is healed.
    pub fn cut(&self, worker: usize) -> Result<()> {
        self.network()?.cut(self.workers[worker].id()?)
    }

    pub fn heal(&self, worker: usize) -> Result<()> {
        self.network()?.heal(self.workers[worker].id()?)
    }

    fn network(&self) -> Result<&Network> {
        self.network.as_ref().context("a fleet without a network of its own")
    }

    /// The program with the configuration of one member.
    fn member(&self, site: &Site, name: &str, section: &str) -> Result<Pgconvoy> {
        let config = self.member_config(&site.config, name, section, &self.pki);
        site.pgconvoy.with_config(&site.scratch, &format!("{name}.toml"), &config)
    }

    fn member_config(&self, config: &Config, name: &str, section: &str, pki: &Path) -> Config {
        let quoted = |texts: Vec<String>| {
            texts.iter().map(|text| format!("\"{text}\"")).collect::<Vec<_>>().join(", ")
        };
        let quic = (0..self.ports.len()).filter_map(|number| self.quic_address(number).ok());
        let quic = quic.map(|address| address.to_string()).collect();
        let pki = pki.display();
        // Only coordinators speak to etcd.
        let access = self.etcd_access.as_ref().filter(|_| !name.starts_with("worker"));
        let access = access.map(EtcdAccess::settings).unwrap_or_default();
        let fleet = format!(
            "\n[fleet]\nname = \"test\"\netcd = [{}]\n{access}coordinators = [{}]\nca-file = \"{pki}/ca.crt\"\n\
             cert-file = \"{pki}/{name}.crt\"\nkey-file = \"{pki}/{name}.key\"\n\n{section}\n\
             [log]\nlevel-console = \"info\"\n",
            quoted(self.etcd.endpoints()),
            quoted(quic),
        );
        config.clone().extra(&fleet)
    }
}

fn token_file(site: &Site, role: &str) -> PathBuf {
    site.scratch.join(&format!("{role}.token"))
}
