//! Restores of some databases only: the others come back as holes that take no space and can only be dropped.

mod support;

use std::os::unix::fs::MetadataExt as _;
use support::{Result, Site, SiteOptions, assert_refused, ensure, files};

const OPTION_INVALID: i32 = 31;
const DB_MISSING: i32 = 80;
const DB_INVALID: i32 = 81;
const BLOCK_BYTES: u64 = 512;

#[test]
fn only_the_data_of_the_databases_that_were_named_come_back() -> Result<()> {
    let site = Site::start_with(&SiteOptions { without_data: true, ..SiteOptions::default() })?;
    for name in ["shop", "logs"] {
        site.cluster.psql(&format!("create database {name}"))?;
        let rows = "create table entry as select n, repeat(md5(n::text), 8) as text from generate_series(1, 20000) n";
        site.cluster.psql_in(name, rows)?;
    }
    site.backup(&[])?;
    let oid = site.cluster.psql("select oid from pg_database where datname = 'logs'")?;
    let end = ["--type=immediate", "--target-action=promote"];
    for (name, choice) in [("included", "--db-include=shop"), ("excluded", "--db-exclude=logs")] {
        let copy = site.restore(name, &[&end[..], &[choice]].concat())?;
        let (mut size, mut stored) = (0, 0);
        for file in files::walk(&copy.data().join("base").join(&oid))? {
            let metadata = std::fs::metadata(&file)?;
            size += metadata.len();
            stored += metadata.blocks() * BLOCK_BYTES;
        }
        ensure!(size > 5_000_000 && stored < 100_000, "{choice}: {size} bytes take {stored}");
        copy.start_and_recover()?;
        ensure!(copy.psql_in("shop", "select count(*) from entry")? == "20000");
        copy.psql("drop database logs")?;
        copy.stop()?;
    }
    let refused = |name: &str, choices: &[&str], code| {
        let copy = site.copy(name)?;
        assert_refused(&site.try_restore(copy.data(), choices)?, code)?;
        ensure!(!copy.data().exists(), "something was written");
        Ok(())
    };
    refused("unknown", &["--db-include=nope"], DB_MISSING)?;
    refused("system", &["--db-include=postgres"], DB_INVALID)?;
    refused("manifest", &["--db-include=shop", "--backup-manifest"], OPTION_INVALID)
}
