//! The databases and tablespaces that a server knows of.

use crate::PostgresError;
use crate::connect::Client;
use pgconvoy_core::ids::Oid;
use std::path::PathBuf;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Database {
    pub oid: Oid,
    pub name: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tablespace {
    pub oid: Oid,
    pub name: String,
    pub location: PathBuf,
}

impl Client {
    pub async fn databases(&self) -> Result<Vec<Database>, PostgresError> {
        let sql = "select oid::int8 as oid, datname::text as name from pg_database order by oid";
        let rows = self.session().rows("list its databases", sql, &[]).await?;
        rows.iter().map(|row| Ok(Database { oid: Oid(row.number("oid")?), name: row.get("name")? })).collect()
    }

    /// Without `pg_default` and `pg_global`, which lie in the data directory.
    pub async fn tablespaces(&self) -> Result<Vec<Tablespace>, PostgresError> {
        let sql = "select oid::int8 as oid, spcname::text as name, pg_tablespace_location(oid) as location \
                   from pg_tablespace where spcname not in ('pg_default', 'pg_global') order by oid";
        let rows = self.session().rows("list its tablespaces", sql, &[]).await?;
        rows.iter()
            .map(|row| {
                let location = PathBuf::from(row.get::<&str>("location")?);
                Ok(Tablespace { oid: Oid(row.number("oid")?), name: row.get("name")?, location })
            })
            .collect()
    }
}
