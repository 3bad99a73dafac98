//! The units of a fleet's backup: where they stand and what became of them, as the API, etcd, the manifest and the
//! repositories tell it.

use super::fleet::Fleet;
use super::{Context, Json, Result, Site, ensure, files, limits};
use std::collections::{BTreeMap, BTreeSet};

/// One attempt at a unit. Its pack bears both numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attempt {
    pub unit: u64,
    pub number: u64,
}

impl Attempt {
    /// The two numbers with something between them: the last part of a pack's name, or of a lease's key.
    fn parse(name: &str, between: char) -> Option<Attempt> {
        let (unit, number) = name.split_once(between)?;
        Some(Attempt { unit: unit.parse().ok()?, number: number.parse().ok()? })
    }
}

/// A unit that somebody works on, or has done.
#[derive(Debug, Clone)]
pub struct UnitSeen {
    pub attempt: Attempt,
    pub is_done: bool,
    pub worker: String,
}

impl UnitSeen {
    fn of(told: &Json) -> Option<UnitSeen> {
        let attempt = Attempt { unit: told["id"].as_u64()?, number: told["attempt"].as_u64()? };
        Some(UnitSeen {
            attempt,
            is_done: told["state"] == "done",
            worker: told["worker"].as_str()?.to_owned(),
        })
    }
}

impl Fleet {
    pub fn units(&self, site: &Site, id: &str) -> Result<Vec<UnitSeen>> {
        let told = self.get(site, self.leader()?, "operator", &format!("jobs/{id}/units"))?;
        let begun =
            told.as_array().context("an array of units")?.iter().filter(|unit| unit["state"] != "pending");
        begun.map(|unit| UnitSeen::of(unit).with_context(|| unit.to_string())).collect()
    }

    /// Units that were accepted, as every later leader will know: their leases ended in the transaction that says so.
    pub fn accepted(&self, site: &Site, id: &str) -> Result<BTreeSet<Attempt>> {
        let done = self.units(site, id)?.into_iter().filter(|unit| unit.is_done);
        let done: BTreeSet<Attempt> = done.map(|unit| unit.attempt).collect();
        ensure!(!done.is_empty(), "no unit is done");
        limits::wait_for("the end of the leases of units that are done", limits::SOON, || {
            let keys = self.etcd_keys(&format!("leases/{id}"))?;
            let leased: Option<BTreeSet<Attempt>> = keys.iter().map(|key| Attempt::parse(key, '.')).collect();
            let leased = leased.with_context(|| format!("keys of leases: {keys:?}"))?;
            Ok(done.is_disjoint(&leased).then_some(()))
        })?;
        Ok(done)
    }
}

/// The packs of its own that a backup is made of, by its manifest in that repository, and who stored them.
pub fn in_manifest(site: &Site, repo: u16, label: &str) -> Result<BTreeMap<Attempt, String>> {
    let set = format!("--set={label}");
    let manifest = site.only_repos(&[repo])?.run(["manifest", "--output=json", &set])?.ok()?.json()?;
    let mut named = BTreeMap::new();
    for file in manifest["file"].as_array().context("files of the manifest")? {
        for range in file["range"].as_array().context("ranges of a file")? {
            // A file without content is in no pack.
            let Some(pack) = range["pack"].as_str() else { continue };
            // What an earlier backup has is that one's.
            let Some(pack) = pack.strip_prefix(&format!("{label}/")) else { continue };
            let attempt = pack.rsplit('/').next().and_then(|name| Attempt::parse(name, '-'));
            let worker = range["worker"].as_str().with_context(|| range.to_string())?;
            named.insert(attempt.with_context(|| range.to_string())?, worker.to_owned());
        }
    }
    Ok(named)
}

/// The packs of a backup that lie in that repository, whether anything refers to them or not.
pub fn stored(site: &Site, repo: u16, label: &str) -> Result<BTreeSet<Attempt>> {
    // Some may be written at this moment, so that their sizes order nothing.
    let packs = files::walk(&site.repository(repo)?.backup(label).join("pack"))?;
    let names = packs.iter().filter_map(|path| path.file_name()?.to_str());
    // What is still being written has another name.
    Ok(names.filter_map(|name| Attempt::parse(name, '-')).collect())
}

/// These attempts are in the published backup, and nobody has stored anything of their units again.
pub fn were_not_done_again(site: &Site, label: &str, accepted: &BTreeSet<Attempt>) -> Result<()> {
    for repo in [1, 2] {
        let (named, stored) = (in_manifest(site, repo, label)?, stored(site, repo, label)?);
        for attempt in accepted {
            let of_unit: Vec<&Attempt> = stored.iter().filter(|other| other.unit == attempt.unit).collect();
            ensure!(
                of_unit == [attempt],
                "repository {repo}: {attempt:?} was accepted, and {of_unit:?} were stored"
            );
            ensure!(named.contains_key(attempt), "repository {repo}: {attempt:?} is not in the manifest");
        }
    }
    Ok(())
}
