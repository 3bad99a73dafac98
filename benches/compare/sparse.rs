//! A large table of which one block in a hundred changes between two backups.

use crate::support::{Cluster, Result};

const PAGE_BYTES: u64 = 8192;
/// Rows that change together, a row a page: what a tool sees as one block of 64 KiB.
const RUN: u64 = 8;
const SPACING: u64 = 200;

pub(crate) struct Sparse {
    changes: u64,
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
        Ok(Sparse { changes: 0 })
    }

    /// One row in two hundred, eight neighbours at a time: a page of the old version and one of the new, which takes the place
    /// of what the change before left, so the table stays as large as it is.
    pub(crate) fn change(&mut self, cluster: &Cluster) -> Result<()> {
        self.changes += 1;
        let turn = self.changes % SPACING;
        cluster.psql(&format!(
            "update sparse set version = version + 1 where (id - 1) / {RUN} % {SPACING} = {turn}"
        ))?;
        cluster.psql("vacuum (truncate off) sparse")?;
        cluster.psql("checkpoint").map(drop)
    }
}
