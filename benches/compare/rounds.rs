//! Several rounds in which everybody has a turn, and what comes of them.
//!
//! A ratio is the median of the rounds' ratios: the two that it compares ran one right after the other.

use crate::contender::Contender;
use crate::measure::{Budget, Cost, Median, Table, Unit, note};
use crate::support::Result;
use std::collections::BTreeMap;

/// What one turn took; bytes of memory if it was watched.
pub(crate) struct Turn {
    pub(crate) cost: Cost,
    pub(crate) memory: u64,
}

pub(crate) struct Rounds {
    costs: Vec<BTreeMap<Contender, Cost>>,
    memory: BTreeMap<Contender, u64>,
}

impl Rounds {
    /// The first round warms the caches and watches memory; its times do not count.
    pub(crate) fn run(
        what: &str,
        contenders: &[Contender],
        count: u32,
        mut turn: impl FnMut(Contender, bool) -> Result<Turn>,
    ) -> Result<Rounds> {
        let mut rounds = Rounds { costs: Vec::new(), memory: BTreeMap::new() };
        for round in 0..=count {
            let mut costs = BTreeMap::new();
            for contender in contenders {
                let Turn { cost, memory } = turn(*contender, round == 0)?;
                let name = contender.name();
                note(format!("{what}, round {round}: {name}: {:.2} s, {:.2} s of CPU", cost.wall, cost.cpu));
                costs.insert(*contender, cost);
                if round == 0 {
                    rounds.memory.insert(*contender, memory);
                }
            }
            if round > 0 {
                rounds.costs.push(costs);
            }
        }
        Ok(rounds)
    }

    fn median(&self, value: impl Fn(&BTreeMap<Contender, Cost>) -> f64) -> Median {
        self.costs.iter().map(value).collect()
    }

    /// Median wall time.
    pub(crate) fn wall(&self, of: Contender) -> f64 {
        self.median(|round| round[&of].wall).value()
    }

    fn cpu(&self, of: Contender) -> f64 {
        self.median(|round| round[&of].cpu).value()
    }

    /// Bytes at the peak.
    pub(crate) fn memory(&self, of: Contender) -> u64 {
        self.memory[&of]
    }

    pub(crate) fn judge_wall(
        &self,
        table: &mut Table,
        what: &str,
        of: Contender,
        to: Contender,
        budget: Budget,
    ) {
        let ratios = self.median(|round| round[&of].wall / round[&to].wall);
        let how = seconds(self.wall(of), self.wall(to), &ratios);
        table.judge(what, ratios.value(), Unit::Times, budget, how);
    }

    pub(crate) fn judge_cpu(
        &self,
        table: &mut Table,
        what: &str,
        of: Contender,
        to: Contender,
        budget: Budget,
    ) {
        let ratios = self.median(|round| round[&of].cpu / round[&to].cpu);
        let how = seconds(self.cpu(of), self.cpu(to), &ratios);
        table.judge(what, ratios.value(), Unit::Times, budget, how);
    }

    pub(crate) fn tell_wall(&self, table: &mut Table, what: &str, of: Contender, to: Contender) {
        let ratios = self.median(|round| round[&of].wall / round[&to].wall);
        table.tell(what, ratios.value(), Unit::Times, seconds(self.wall(of), self.wall(to), &ratios));
    }

    pub(crate) fn tell_cpu(&self, table: &mut Table, what: &str, of: Contender, to: Contender) {
        let ratios = self.median(|round| round[&of].cpu / round[&to].cpu);
        table.tell(what, ratios.value(), Unit::Times, seconds(self.cpu(of), self.cpu(to), &ratios));
    }

    /// Of things done per second, `each` of them in a turn.
    pub(crate) fn judge_rate(
        &self,
        table: &mut Table,
        what: &str,
        of: Contender,
        to: Contender,
        each: f64,
        budget: Budget,
    ) {
        let (ratio, how) = self.rate(of, to, each);
        table.judge(what, ratio, Unit::Times, budget, how);
    }

    pub(crate) fn tell_rate(&self, table: &mut Table, what: &str, of: Contender, to: Contender, each: f64) {
        let (ratio, how) = self.rate(of, to, each);
        table.tell(what, ratio, Unit::Times, how);
    }

    fn rate(&self, of: Contender, to: Contender, each: f64) -> (f64, String) {
        let ratios = self.median(|round| round[&to].wall / round[&of].wall);
        let (least, most) = ratios.spread();
        let how = format!(
            "{:.1} against {:.1} a second; {} pairs, {least:.2} to {most:.2} x",
            each / self.wall(of),
            each / self.wall(to),
            ratios.count()
        );
        (ratios.value(), how)
    }
}

fn seconds(of: f64, to: f64, ratios: &Median) -> String {
    let (least, most) = ratios.spread();
    format!("{of:.2} s against {to:.2} s; {} pairs, {least:.2} to {most:.2} x", ratios.count())
}
