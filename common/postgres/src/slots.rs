//! Physical replication slots: what keeps WAL on a server until somebody has it.

use crate::PostgresError;
use crate::connect::Client;
use pgconvoy_core::pg::Lsn;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// The server keeps its WAL from here on. `None`: it keeps nothing, as after `max_slot_wal_keep_size` was passed.
    pub restart: Option<Lsn>,
}

impl Client {
    /// `None`: there is no physical slot of that name.
    pub async fn slot(&self, name: &str) -> Result<Option<Slot>, PostgresError> {
        let sql = "select restart_lsn::text as restart from pg_replication_slots \
                   where slot_name = $1 and slot_type = 'physical'";
        let rows = self.session().rows("show a replication slot", sql, &[&name]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let restart = match row.get::<Option<&str>>("restart")? {
            Some(_) => Some(row.parse("restart")?),
            None => None,
        };
        Ok(Some(Slot { restart }))
    }

    /// It keeps WAL at once: from the last checkpoint's beginning on.
    pub async fn create_slot(&self, name: &str) -> Result<(), PostgresError> {
        let sql = "select slot_name::text from pg_create_physical_replication_slot($1, true)";
        self.session().rows("create a replication slot", sql, &[&name]).await.map(|_| ())
    }

    pub async fn drop_slot(&self, name: &str) -> Result<(), PostgresError> {
        let sql = "select pg_drop_replication_slot($1)::text";
        self.session().rows("drop a replication slot", sql, &[&name]).await.map(|_| ())
    }
}
