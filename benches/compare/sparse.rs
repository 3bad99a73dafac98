//! A large table of which one page in a hundred changes between two backups: an update touches two.

use crate::support::{Cluster, Result};

const PAGE_BYTES: u64 = 8192;

pub(crate) struct Sparse {
    rows: u64,
}

impl Sparse {
    /// A row a page; half of a row compresses well, half does not.
    pub(crate) fn create(cluster: &Cluster, bytes: u64) -> Result<Sparse> {
        let rows = bytes / PAGE_BYTES;
        cluster.psql(&format!(
            "create table sparse (id int, version int, filler text);
             alter table sparse alter filler set storage plain;
             insert into sparse
               select n, 0, repeat(md5(n::text), 110) || (select string_agg(md5(n::text || i), '') from generate_series(1, 110) i)
               from generate_series(1, {rows}) n"
        ))?;
        cluster.psql("vacuum freeze sparse")?;
        cluster.psql("checkpoint")?;
        Ok(Sparse { rows })
    }

    /// The new versions take the place of those that the change before last left, so the table stays as large as it is.
    pub(crate) fn change(&self, cluster: &Cluster) -> Result<()> {
        cluster.psql(&format!(
            "update sparse set version = version + 1 where id in (select 1 + (random() * {})::int from generate_series(1, {}))",
            self.rows - 1,
            self.rows / 200
        ))?;
        cluster.psql("vacuum (truncate off) sparse")?;
        cluster.psql("checkpoint").map(drop)
    }
}
