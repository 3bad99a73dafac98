//! A fleet whose worker 0 is the only one that sees the data; others compute what it serves.

use super::fleet::{Fleet, FleetOptions};
use super::network::Network;
use super::ports::Port;
use super::{Context, Result, Site};
use std::net::SocketAddr;

pub const SOURCE: &str = "worker-0";
/// For `backup`.
pub const ALWAYS: &str = "--offload=always";
/// The unit of /proc's CPU times: USER_HZ, which Linux fixes at 100 for all that it shows to programs.
const TICKS_PER_SECOND: f64 = 100.0;

#[derive(Debug, Clone)]
pub struct Offload {
    /// Workers that compute; they are those from number 1 on.
    pub computers: usize,
    /// And one behind them, whose configuration names another stanza.
    pub with_outsider: bool,
    /// Bytes a second that each compute worker takes in.
    pub computer_limit: Option<u64>,
    pub slots: u32,
    /// Whether the source is reached through a proxy of the tests' own, which costs whoever sends through it more than the kernel does.
    pub can_be_cut: bool,
}

/// Fields drop in this order: who depends goes before whom it depends on.
pub struct OffloadFleet {
    pub fleet: Fleet,
    source: Port,
    network: Option<Network>,
    computers: usize,
}

impl OffloadFleet {
    /// `site` must exist as a stanza; its configuration is changed for the members of the fleet only.
    pub fn start(site: &mut Site, offload: &Offload) -> Result<OffloadFleet> {
        let source = Port::claim()?;
        let listens = source.address();
        let network = offload.can_be_cut.then(|| Network::before([listens])).transpose()?;
        let address = network.as_ref().map_or(Ok(listens), |network| network.address(0))?;
        let limit = offload.computer_limit.map(|limit| format!("bandwidth-max = \"{limit}B\"\n"));
        let limit = limit.unwrap_or_default();
        let mut worker_lines = vec![format!("listen = \"{listens}\"\naddress = \"{address}\"\n")];
        worker_lines.extend((0..offload.computers).map(|_| format!("compute = [\"main\"]\n{limit}")));
        if offload.with_outsider {
            worker_lines.push("compute = [\"other\"]\n".to_owned());
        }
        let before = site.config.clone();
        site.config = site.config.clone().pg_host(SOURCE);
        let options = FleetOptions {
            coordinators: 1,
            workers: worker_lines.len(),
            slots: offload.slots,
            worker_lines,
            ..FleetOptions::default()
        };
        let fleet = Fleet::start(site, &options);
        site.config = before;
        Ok(OffloadFleet { fleet: fleet?, source, network, computers: offload.computers })
    }

    /// Where the source itself listens.
    pub fn listens(&self) -> SocketAddr {
        self.source.address()
    }

    /// Nothing passes between any compute worker and the source.
    pub fn cut(&self) -> Result<()> {
        self.computers().try_for_each(|number| self.network()?.cut(self.fleet.workers[number].id()?))
    }

    pub fn heal(&self) -> Result<()> {
        self.computers().try_for_each(|number| self.network()?.heal(self.fleet.workers[number].id()?))
    }

    fn network(&self) -> Result<&Network> {
        self.network.as_ref().context("this fleet cannot be cut")
    }

    /// Of those that run.
    fn computers(&self) -> impl Iterator<Item = usize> + '_ {
        (1..=self.computers).filter(|number| self.fleet.workers[*number].id().is_ok())
    }

    /// CPU seconds that the source's process has taken so far.
    pub fn source_cpu(&self) -> Result<f64> {
        cpu_of(self.fleet.workers[0].id()?)
    }
}

/// CPU seconds of a process so far, user's and system's.
pub fn cpu_of(process: u32) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The second field is the program's name in brackets and may hold spaces; utime and stime are the 14th and 15th.
    let (_, fields) = text.rsplit_once(')').context("a stat file without a name")?;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u32>);
    let ticks = ticks.collect::<Result<Vec<u32>, _>>().context("CPU times")?;
    Ok(ticks.into_iter().map(f64::from).sum::<f64>() / TICKS_PER_SECOND)
}
