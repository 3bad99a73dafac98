//! The names of the files that hold relations: `16384`, `16384_vm`, `16384.2`.
//!
//! Not here: what is in them (`page`), and which of them are backed up (`datadir`).
//!
//! Invariant: a name is read only if PostgreSQL would write it so; `016384` and `16384.0` are strangers' files.
//!
//! Source: `common/relpath.c`, `storage/reinit.c`.

use crate::ids::Oid;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The forks of a relation, each in files of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Fork {
    Main,
    /// The free space map.
    Fsm,
    /// The visibility map.
    Vm,
    /// What an unlogged relation is reset to after a crash or a restore.
    Init,
}

impl Fork {
    fn suffix(self) -> &'static str {
        match self {
            Fork::Main => "",
            Fork::Fsm => "_fsm",
            Fork::Vm => "_vm",
            Fork::Init => "_init",
        }
    }
}

/// The name of one segment of one fork.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelationFileName {
    /// The relation's file number, which is not always its OID.
    pub relation: u32,
    pub fork: Fork,
    /// From 0; each but the last holds RELSEG_SIZE blocks.
    pub segment: u32,
}

impl RelationFileName {
    /// None for any other name, those of temporary relations included.
    pub fn parse(name: &str) -> Option<Self> {
        let (stem, segment) = match name.split_once('.') {
            None => (name, 0),
            Some((stem, number)) => (stem, canonical_number(number)?),
        };
        let (relation, fork) = match stem.split_once('_') {
            None => (stem, Fork::Main),
            Some((relation, "fsm")) => (relation, Fork::Fsm),
            Some((relation, "vm")) => (relation, Fork::Vm),
            Some((relation, "init")) => (relation, Fork::Init),
            Some(_) => return None,
        };
        Some(RelationFileName { relation: canonical_number(relation)?, fork, segment })
    }

    /// The number within the relation of this file's first block; none for a segment that no relation can have.
    pub fn first_block(&self, relation_segment_blocks: u32) -> Option<u32> {
        self.segment.checked_mul(relation_segment_blocks)
    }
}

impl fmt::Display for RelationFileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.relation, self.fork.suffix())?;
        match self.segment {
            0 => Ok(()),
            segment => write!(f, ".{segment}"),
        }
    }
}

/// `t3_16384`, `t3_16384_fsm.1`: a temporary relation of one session.
pub(super) fn is_temporary_relation(name: &str) -> bool {
    let parts = name.strip_prefix('t').and_then(|rest| rest.split_once('_'));
    parts.is_some_and(|(backend, relation)| {
        (backend == "0" || canonical_number(backend).is_some()) && RelationFileName::parse(relation).is_some()
    })
}

/// A number above 0 as C's `%u` writes it.
pub(super) fn canonical_number(text: &str) -> Option<u32> {
    let canonical = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    canonical.then(|| text.parse().ok()).flatten()
}

/// The tablespace of `base`.
pub const DEFAULT_TABLESPACE: Oid = Oid(1663);
/// The tablespace of `global`.
pub const GLOBAL_TABLESPACE: Oid = Oid(1664);

/// A relation's file by its place in a data directory, in the terms that WAL and WAL summaries use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelationFile {
    pub tablespace: Oid,
    /// 0 in `global`, whose relations belong to all databases.
    pub database: Oid,
    pub name: RelationFileName,
}

impl RelationFile {
    /// From a path in the data directory; none for anything that is no relation's file.
    pub fn from_path(path: &str) -> Option<Self> {
        let (directory, name) = path.rsplit_once('/')?;
        let (tablespace, database) = database_of_directory(directory)?;
        Some(RelationFile { tablespace, database, name: RelationFileName::parse(name)? })
    }
}

/// The tablespace and database whose relations lie directly in this directory.
pub fn database_of_directory(directory: &str) -> Option<(Oid, Oid)> {
    let mut parts = directory.split('/');
    let number = |parts: &mut std::str::Split<'_, char>| parts.next().and_then(canonical_number).map(Oid);
    let found = match parts.next()? {
        "global" => (GLOBAL_TABLESPACE, Oid(0)),
        "base" => (DEFAULT_TABLESPACE, number(&mut parts)?),
        "pg_tblspc" => {
            let tablespace = number(&mut parts)?;
            parts.next().filter(|version| version.starts_with("PG_"))?;
            (tablespace, number(&mut parts)?)
        }
        _ => return None,
    };
    parts.next().is_none().then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn relation_names_are_read_and_strangers_are_not() {
        let name = |relation, fork, segment| Some(RelationFileName { relation, fork, segment });
        for (text, expected) in [
            ("1259", name(1259, Fork::Main, 0)),
            ("16384.2", name(16384, Fork::Main, 2)),
            ("16384_fsm", name(16384, Fork::Fsm, 0)),
            ("16384_vm.1", name(16384, Fork::Vm, 1)),
            ("4294967295_init", name(u32::MAX, Fork::Init, 0)),
        ] {
            assert_eq!(RelationFileName::parse(text), expected, "{text}");
        }
        for bad in [
            "",
            "0",
            "01",
            "16384.0",
            "16384.01",
            "16384.",
            "_fsm",
            "16384_x",
            "16384_fsm_vm",
            "16384.1_fsm",
            "+1",
            "4294967296",
            "t3_16384",
        ] {
            assert_eq!(RelationFileName::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn temporary_relations_are_told_by_their_backend() {
        for yes in ["t3_16384", "t0_16384", "t12_16384_fsm", "t3_16384.1"] {
            assert!(is_temporary_relation(yes), "{yes}");
        }
        for no in ["16384", "t_16384", "t3", "t3_", "t3_x", "x3_16384"] {
            assert!(!is_temporary_relation(no), "{no}");
        }
    }

    #[test]
    fn a_path_gives_tablespace_and_database() {
        let place = |path| RelationFile::from_path(path).map(|file| (file.tablespace.0, file.database.0));
        assert_eq!(place("base/5/1259"), Some((1663, 5)));
        assert_eq!(place("global/1262_vm"), Some((1664, 0)));
        assert_eq!(place("pg_tblspc/16384/PG_15_202209061/5/16390.3"), Some((16384, 5)));
        for other in
            ["1259", "base/1259", "base/5/x/1259", "global/1/1259", "pg_tblspc/16384/x/5/1", "pg_xact/0000"]
        {
            assert_eq!(place(other), None, "{other}");
        }
    }

    #[test]
    fn the_first_block_of_a_segment_counts_all_before_it() {
        let name = RelationFileName { relation: 1, fork: Fork::Main, segment: 3 };
        assert_eq!(name.first_block(131_072), Some(393_216));
        assert_eq!(RelationFileName { segment: u32::MAX, ..name }.first_block(131_072), None);
    }

    proptest! {
        #[test]
        fn names_come_back_as_they_went(relation in 1u32.., fork in 0usize..4, segment: u32) {
            let fork = [Fork::Main, Fork::Fsm, Fork::Vm, Fork::Init][fork];
            let name = RelationFileName { relation, fork, segment };
            prop_assert_eq!(RelationFileName::parse(&name.to_string()), Some(name));
        }

        #[test]
        fn no_name_makes_the_parsers_panic(text in "[t0-9_.fsmvinit/é]{0,20}|\\PC{0,20}") {
            let _ = RelationFileName::parse(&text);
            let _ = is_temporary_relation(&text);
            let _ = RelationFile::from_path(&text);
        }
    }
}
