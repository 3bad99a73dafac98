//! Data as applications have them: numbers, identifiers, moments, text, documents, and indexes on some.
//!
//! pgbench's own tables compress sixteenfold and would flatter everybody. Built by PostgreSQL, from a fixed seed.

use crate::measure::note;
use crate::support::{Cluster, Result};

/// What a row takes with its share of three indexes, in bytes; good to a few per cent.
const BYTES_PER_ROW: u64 = 350;
/// Files of up to some 60 MB: who reads whole files only still has work for all its processes.
const ROWS_PER_TABLE_MAX: u64 = 250_000;

/// Fills the database `postgres` with about so many bytes.
pub(crate) fn load(cluster: &Cluster, bytes: u64) -> Result<()> {
    let rows = bytes / BYTES_PER_ROW;
    let tables = rows.div_ceil(ROWS_PER_TABLE_MAX).max(1);
    note(format!("loading {rows} rows into {tables} tables"));
    for number in 0..tables {
        cluster.psql(&table(number, rows / tables))?;
    }
    cluster.psql("vacuum (freeze, analyze); checkpoint")?;
    Ok(())
}

fn table(number: u64, rows: u64) -> String {
    const WORDS: &str = "array['order','invoice','customer','paid','open','sent','returned','urgent','Berlin','Paris','Lima',\
        'blue','red','large','small','with','without','delivery','address','changed','by','phone','letter','again','first',\
        'second','note','from','the','office','warehouse','please']";
    let word = "words[1 + (random() * 31)::int]";
    let sentence = [word; 9].join(" || ' ' || ");
    format!(
        "select setseed(0.{seed});
         create table mixed_{number} (id bigint primary key, reference uuid not null, placed timestamptz not null,
             amount numeric(12, 2), email text, document jsonb, note text);
         insert into mixed_{number}
           select n, md5(random()::text)::uuid, timestamptz '2020-01-01' + random() * interval '5 years',
                  (random() * 100000)::numeric(12, 2),
                  {word} || '.' || (random() * 1000000)::int || '@' || {word} || '.example',
                  jsonb_build_object('state', {word}, 'items', (random() * 50)::int,
                                     'tags', jsonb_build_array({word}, {word}), 'code', (random() * 1e9)::bigint),
                  {sentence}
             from generate_series(1, {rows}) n, (select {WORDS} as words) w;
         create index on mixed_{number} (reference);
         create index on mixed_{number} (email)",
        seed = number + 1,
    )
}
