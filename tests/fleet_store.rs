//! The etcd of a fleet: one that is restarted, one that lets not everybody in.

mod support;

use std::time::Instant;
use support::fleet::FleetOptions;
use support::middle::{goes_on, is_done, kept_one_session, log_statements, site, slow, under_way};
use support::units::were_not_done_again;
use support::{Context, Result, ensure};

#[test]
fn a_fleet_whose_etcd_wants_tls_and_a_password_makes_its_backup_also_across_a_restart_of_etcd() -> Result<()>
{
    let site = site()?;
    log_statements(&site.cluster)?;
    let (mut fleet, id) = under_way(&site, &FleetOptions { etcd_is_guarded: true, ..slow() })?;
    let stranger = site.config.clone().extra(&format!(
        "\n[fleet]\nname = \"test\"\netcd = [\"{}\"]\n",
        fleet.etcd.endpoints().join("\", \"")
    ));
    let stranger = site.pgconvoy.with_config(&site.scratch, "stranger.toml", &stranger)?;
    ensure!(stranger.run(["token", "list"])?.code != Some(0), "etcd lets everybody in");
    let before = fleet.job(&id)?;
    let accepted = fleet.accepted(&site, &id)?;
    fleet.etcd.kill(0)?;
    fleet.etcd.restart(0)?;
    goes_on(&fleet, &site, &before, Instant::now())?;
    let end = fleet.await_end(&id)?;
    is_done(&end)?;
    assert_eq!(end["label"], before["label"], "the same backup goes on");
    were_not_done_again(&site, before["label"].as_str().context("a label")?, &accepted)?;
    kept_one_session(&site.cluster)?;
    site.pgconvoy.run(["verify"])?.ok()?;
    Ok(())
}
