//! What the clusters hold, and how two of them are compared.

use super::{Cluster, Result, limits};

/// About 30 MB beside an empty cluster's 25: every kind of storage, in small.
pub fn seed_small(cluster: &Cluster) -> Result<()> {
    cluster.client("pgbench")?.args(["-i", "-q", "-s", "2", "postgres"]).run(limits::LARGE_COMMAND)?.ok()?;
    seed_kinds(cluster, 2_000)
}

/// At least a gigabyte: pgbench's tables and every kind of storage.
pub fn seed_large(cluster: &Cluster) -> Result<()> {
    // 66 x 15 MB of tables and primary keys; made by the server, which is quicker than sending the rows.
    cluster
        .client("pgbench")?
        .args(["-i", "-I", "dtGvp", "-s", "66", "postgres"])
        .run(limits::LARGE_COMMAND)?
        .ok()?;
    seed_kinds(cluster, 30_000)
}

/// jsonb, text, TOAST, several indexes, large objects, an unlogged table; `rows` of each.
fn seed_kinds(cluster: &Cluster, rows: u32) -> Result<()> {
    let objects = rows / 200;
    cluster.psql(&format!(
        "create table document (id bigint primary key, body jsonb not null, title text not null, long text);
         insert into document
           select n, jsonb_build_object('n', n, 'tags', array[md5(n::text), md5((n + 1)::text)]), 'title ' || md5(n::text),
                  case when n % 10 = 0
                       then (select string_agg(md5((n * 1000 + i)::text), '') from generate_series(1, 200) i) end
           from generate_series(1, {rows}) n;
         alter table document alter column long set storage external;
         create index document_body on document using gin (body);
         create index document_title on document (title);
         create index document_hash on document using hash (title);
         create index document_brin on document using brin (id);
         create unlogged table scribble as select n, md5(n::text) as text from generate_series(1, {rows}) n;
         create index scribble_n on scribble (n);
         select count(lo_from_bytea(0, decode(repeat(md5(n::text), 512), 'hex'))) from generate_series(1, {objects}) n;
         create sequence counter; select nextval('counter');
         create table empty_table (id int primary key);
         vacuum (freeze, analyze) document;
         checkpoint"
    ))?;
    Ok(())
}

/// Every row of every permanent table, in one line per table: equal lines, equal rows.
pub const FINGERPRINT: &str = "
    select format('select %L, count(*), coalesce(sum(hashtextextended(t::text, 0)::numeric), 0) from %s t',
                  c.oid::regclass, c.oid::regclass)
      from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where c.relkind = 'r' and c.relpersistence = 'p' and n.nspname = 'public' order by c.relname
    \\gexec
    select 'large objects', count(*),
           coalesce(sum(hashtextextended(loid || ':' || pageno || ':' || encode(data, 'hex'), 0)::numeric), 0)
      from pg_largeobject;";

pub fn fingerprint(cluster: &Cluster) -> Result<String> {
    fingerprint_of(cluster, "postgres")
}

pub fn fingerprint_of(cluster: &Cluster, database: &str) -> Result<String> {
    cluster.psql_in(database, FINGERPRINT)
}
