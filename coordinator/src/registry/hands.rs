//! Whom a backup wants among the workers.

use pgconvoy_core::config::{BackupStandby, Compute, Offload};
use pgconvoy_core::ids::StanzaName;
use pgconvoy_core::machine::backup::BackupSpec;
use pgconvoy_core::wire::{ServerSeen, SourceSeen};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hands {
    stanza: StanzaName,
    /// Those on standbys too.
    standbys: bool,
    /// Those too that see no data.
    compute: bool,
}

impl Hands {
    pub(crate) fn of(spec: &BackupSpec) -> Hands {
        Hands {
            stanza: spec.stanza.clone(),
            standbys: spec.standby != BackupStandby::No,
            compute: spec.offload != Offload::Never,
        }
    }

    /// By what a worker said of itself. A server that could not be asked may be the primary.
    pub(crate) fn want(&self, sources: &[SourceSeen], computes: &Compute) -> bool {
        match sources.iter().find(|source| source.stanza == self.stanza) {
            Some(source) => self.standbys || !matches!(source.server, ServerSeen::Standby(_)),
            None => self.compute && computes.allows(&self.stanza),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]
    use super::*;
    use pgconvoy_core::ids::SystemId;

    #[test]
    fn standbys_and_compute_workers_come_only_where_they_are_wanted() {
        let main: StanzaName = "main".parse().unwrap();
        let source = |server| [SourceSeen { stanza: main.clone(), directory: String::new(), server }];
        let (primary, standby) = (ServerSeen::Primary(SystemId(1)), ServerSeen::Standby(SystemId(1)));
        let wanted = |standbys, compute| {
            let hands = Hands { stanza: main.clone(), standbys, compute };
            [
                hands.want(&source(primary.clone()), &Compute::Nobody),
                hands.want(&source(ServerSeen::Unknown), &Compute::Nobody),
                hands.want(&source(standby.clone()), &Compute::Everybody),
                hands.want(&[], &Compute::Everybody),
                hands.want(&[], &Compute::Nobody),
            ]
        };
        assert_eq!(wanted(false, false), [true, true, false, false, false]);
        assert_eq!(wanted(true, false), [true, true, true, false, false]);
        assert_eq!(wanted(false, true), [true, true, false, true, false]);
    }
}
