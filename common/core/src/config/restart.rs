//! What a daemon that reads its configuration anew cannot take up: it is the same only after a restart.

use super::Config;

/// Settings of a coordinator that differ and do not take effect.
pub fn of_coordinator(old: &Config, new: &Config) -> Vec<&'static str> {
    let differs = [
        ("[fleet] name", fleet(old, |fleet| &fleet.name) != fleet(new, |fleet| &fleet.name)),
        ("[fleet] etcd", fleet(old, |fleet| &fleet.etcd) != fleet(new, |fleet| &fleet.etcd)),
        ("[coordinator]", old.coordinator != new.coordinator),
        ("[log] format", old.log.format != new.log.format),
        ("[paths]", old.paths != new.paths),
    ];
    named(&differs)
}

/// Settings of a worker that differ and do not take effect.
pub fn of_worker(old: &Config, new: &Config) -> Vec<&'static str> {
    let (was, is) = (&old.worker, &new.worker);
    let differs = [
        ("[fleet] name", fleet(old, |fleet| &fleet.name) != fleet(new, |fleet| &fleet.name)),
        (
            "[fleet] coordinators",
            fleet(old, |fleet| &fleet.coordinators) != fleet(new, |fleet| &fleet.coordinators),
        ),
        ("[worker] name", was.name != is.name),
        ("[worker] slots", was.slots != is.slots),
        ("[worker] compute", was.compute != is.compute),
        ("[worker] listen", was.listen != is.listen),
        ("[worker] address", was.address != is.address),
        ("[worker] labels", was.labels != is.labels),
        ("[repo]", old.repos != new.repos),
        ("[log] format", old.log.format != new.log.format),
        ("[paths]", old.paths != new.paths),
    ];
    named(&differs)
}

fn fleet<'a, T>(config: &'a Config, part: impl Fn(&'a super::FleetConfig) -> &'a T) -> Option<&'a T> {
    config.fleet.as_ref().map(part)
}

fn named(differs: &[(&'static str, bool)]) -> Vec<&'static str> {
    differs.iter().filter(|(_, differs)| *differs).map(|(name, _)| *name).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]
    use super::*;
    use std::collections::BTreeMap;

    fn config(text: &str) -> Config {
        let text = format!("[repo.1]\npath = \"/a\"\n[fleet]\nname = \"prod\"\n{text}");
        Config::load(Some(("c", &text)), &BTreeMap::new(), |_| Err(String::new())).unwrap()
    }

    #[test]
    fn what_can_be_taken_up_needs_no_restart() {
        let old = config("[log]\nlevel-console = \"info\"\n[worker]\nbandwidth-max = \"1MiB\"\n");
        let new =
            config("[log]\nlevel-console = \"debug\"\n[stanza.main]\n[[stanza.main.pg]]\npath = \"/d\"\n");
        assert_eq!((of_coordinator(&old, &new), of_worker(&old, &new)), (vec![], vec![]));
    }

    #[test]
    fn what_was_bound_at_the_start_is_named() {
        let old = config("etcd = [\"http://one:2379\"]\n");
        let new = config(
            "etcd = [\"http://two:2379\"]\n[coordinator]\nhttp-listen = \"127.0.0.1:1\"\n[worker]\nslots = 9\n",
        );
        assert_eq!(of_coordinator(&old, &new), ["[fleet] etcd", "[coordinator]"]);
        assert_eq!(of_worker(&old, &new), ["[worker] slots"]);
    }
}
