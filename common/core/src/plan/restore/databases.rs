//! Which databases come back with their data. The files of all others come back as holes of the right size: PostgreSQL
//! recovers over them, and they can only be dropped afterwards.

use super::RestorePlanError;
use crate::format::manifest::{Database, ManifestHead};
use crate::ids::Oid;
use crate::pg::RelativePath;
use std::collections::BTreeSet;

/// Databases with smaller numbers belong to PostgreSQL.
const FIRST_NORMAL_OID: Oid = Oid(16384);
/// What PostgreSQL reads of a database before it looks into it.
const KEPT: &str = "PG_VERSION";

/// As typed, by name or by number. Empty lists: all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DatabaseSelection {
    pub include: Vec<String>,
    pub exclude: Vec<String>,
}

impl DatabaseSelection {
    pub fn is_everything(&self) -> bool {
        self.include.is_empty() && self.exclude.is_empty()
    }

    /// The databases whose data are left out. Those of PostgreSQL's own stay unless they are excluded by name.
    pub fn left_out(&self, head: &ManifestHead) -> Result<BTreeSet<Oid>, RestorePlanError> {
        let find = |wanted: &String| {
            let is_it = |known: &&Database| known.name == *wanted || known.oid.to_string() == *wanted;
            head.databases
                .iter()
                .find(is_it)
                .map(|known| known.oid)
                .ok_or_else(|| RestorePlanError::UnknownDatabase(wanted.clone()))
        };
        let mut left_out = BTreeSet::new();
        if !self.include.is_empty() {
            let mut included = BTreeSet::new();
            for wanted in &self.include {
                let oid = find(wanted)?;
                if oid < FIRST_NORMAL_OID {
                    return Err(RestorePlanError::SystemDatabase(wanted.clone()));
                }
                included.insert(oid);
            }
            let normal = head.databases.iter().map(|known| known.oid).filter(|oid| *oid >= FIRST_NORMAL_OID);
            left_out.extend(normal.filter(|oid| !included.contains(oid)));
        }
        for unwanted in &self.exclude {
            let oid = find(unwanted)?;
            if self.include.iter().any(|wanted| find(wanted) == Ok(oid)) {
                return Err(RestorePlanError::DatabaseBothWays(unwanted.clone()));
            }
            left_out.insert(oid);
        }
        Ok(left_out)
    }
}

/// Whether the file is a database's data, and of which.
pub(super) fn data_of(path: &RelativePath) -> Option<Oid> {
    let parts: Vec<&str> = path.as_str().split('/').collect();
    let (database, name) = match parts[..] {
        ["base", database, name] => (database, name),
        ["pg_tblspc", _, _, database, name] => (database, name),
        _ => return None,
    };
    (name != KEPT).then(|| database.parse().ok().map(Oid)).flatten()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::super::tests::head;
    use super::*;

    fn with_databases() -> ManifestHead {
        let database = |(oid, name): (u32, &str)| Database { oid: Oid(oid), name: name.into() };
        let databases =
            [(1, "template1"), (5, "postgres"), (16390, "shop"), (16400, "logs"), (16410, "it's")];
        ManifestHead { databases: databases.map(database).to_vec(), ..head() }
    }

    fn left_out(include: &[&str], exclude: &[&str]) -> Result<Vec<u32>, RestorePlanError> {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let selection = DatabaseSelection { include: list(include), exclude: list(exclude) };
        Ok(selection.left_out(&with_databases())?.into_iter().map(|oid| oid.0).collect())
    }

    #[test]
    fn what_is_included_leaves_out_all_other_databases_of_users() {
        assert_eq!(left_out(&[], &[]), Ok(vec![]));
        assert_eq!(left_out(&["shop"], &[]), Ok(vec![16400, 16410]));
        assert_eq!(left_out(&["16400", "shop"], &[]), Ok(vec![16410]));
    }

    #[test]
    fn what_is_excluded_is_left_out_even_if_it_is_postgresqls_own() {
        assert_eq!(left_out(&[], &["logs", "postgres"]), Ok(vec![5, 16400]));
        assert_eq!(left_out(&["shop", "logs"], &["it's"]), Ok(vec![16410]));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let name = || "nope".to_owned();
        assert_eq!(left_out(&["nope"], &[]), Err(RestorePlanError::UnknownDatabase(name())));
        assert_eq!(left_out(&[], &["nope"]), Err(RestorePlanError::UnknownDatabase(name())));
        assert_eq!(left_out(&["postgres"], &[]), Err(RestorePlanError::SystemDatabase("postgres".into())));
        assert_eq!(left_out(&["shop"], &["16390"]), Err(RestorePlanError::DatabaseBothWays("16390".into())));
    }

    #[test]
    fn only_files_in_a_databases_directory_are_its_data() {
        let of = |path: &str| data_of(&path.parse().unwrap()).map(|oid| oid.0);
        assert_eq!(of("base/16390/1259"), Some(16390));
        assert_eq!(of("base/16390/pg_filenode.map"), Some(16390));
        assert_eq!(of("pg_tblspc/16384/PG_15_202209061/16390/2619_fsm"), Some(16390));
        for path in ["base/16390/PG_VERSION", "global/1262", "PG_VERSION", "base/pgsql_tmp/x", "pg_xact/0000"]
        {
            assert_eq!(of(path), None, "{path}");
        }
    }
}
