//! What daemons take up while they run: their configuration on SIGHUP, revoked certificates; and what they tell systemd.

mod support;

use rustix::process::Signal;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;
use support::daemon::Daemon;
use support::fleet::{Fleet, FleetOptions};
use support::{Context, Result, Site, ensure, limits};

/// Units small enough for a limit to be felt.
const SMALL_UNITS: [&str; 2] = ["--unit-size=1MiB", "--compress-type=zst"];

fn one_of_each() -> FleetOptions {
    FleetOptions { coordinators: 1, workers: 1, ..FleetOptions::default() }
}

fn reload(daemon: &mut Daemon, told: &str) -> Result<()> {
    daemon.signal(Signal::HUP)?;
    daemon.await_log(told)
}

#[test]
fn a_worker_takes_up_another_limit_in_the_middle_of_a_backup() -> Result<()> {
    let site = Site::start()?;
    let options = FleetOptions { bandwidth_max: Some("64KiB".to_owned()), ..one_of_each() };
    let mut fleet = Fleet::start(&site, &options)?;
    let id = fleet.submit_backup(&SMALL_UNITS)?;
    fleet.await_job(&id, "the limit", |job| job["limiting-stage"] == "bandwidth")?;
    // By the old limit it would take longer than any test may.
    let left = &fleet.job(&id)?["bytes"];
    let left = left["total"].as_u64().context("bytes")? - left["done"].as_u64().context("bytes")?;
    ensure!(left / (64 << 10) > limits::COMMAND.as_secs(), "{left} bytes are left: the cluster is too small");
    fleet.workers[0].reconfigure(|text| text.replace("64KiB", "1GiB"))?;
    reload(&mut fleet.workers[0], "the configuration was reloaded")?;
    let end = fleet.await_end(&id)?;
    ensure!(end["state"] == "done", "{end}");
    Ok(())
}

#[test]
fn a_file_that_is_wrong_leaves_the_old_configuration_in_place() -> Result<()> {
    let site = Site::start()?;
    let mut fleet = Fleet::start(&site, &one_of_each())?;
    for daemon in [0, 1] {
        let daemon = if daemon == 0 { &mut fleet.workers[0] } else { &mut fleet.coordinators[0] };
        daemon.reconfigure(|text| text.replace("[fleet]", "[fleet]\nnmae = \"x\""))?;
        reload(daemon, "the configuration was not reloaded")?;
        daemon.await_log("nmae")?;
        daemon.reconfigure(|text| text.replace("\nnmae = \"x\"", ""))?;
        reload(daemon, "the configuration was reloaded")?;
    }
    fleet.client.run(["backup", "--type=full"])?.ok()?;
    Ok(())
}

#[test]
fn what_needs_a_restart_is_named_and_a_log_level_does_not() -> Result<()> {
    let site = Site::start()?;
    let mut fleet = Fleet::start(&site, &one_of_each())?;
    let debug = |text: &str| text.replace("level-console = \"info\"", "level-console = \"debug\"");
    fleet.workers[0].reconfigure(|text| debug(text).replace("slots = 2", "slots = 3"))?;
    reload(&mut fleet.workers[0], "[worker] slots has changed, and takes effect after a restart")?;
    fleet.workers[0].await_log("lines are shown from level Debug on")
}

#[test]
fn a_stanza_that_is_added_is_served_without_a_restart() -> Result<()> {
    let site = Site::start()?;
    let mut fleet = Fleet::prepare(&site, &one_of_each())?;
    let stanza = format!("stanza.{}", support::config::STANZA);
    let other = |text: &str| text.replace(&stanza, "stanza.other");
    fleet.workers[0].reconfigure(other)?;
    fleet.coordinators[0].reconfigure(other)?;
    fleet.start_all()?;
    let refused = fleet.client.run(["backup", "--type=full"])?;
    ensure!(refused.code != Some(0), "the stanza is known: {refused}");
    let back = |text: &str| text.replace("stanza.other", &stanza);
    fleet.coordinators[0].reconfigure(back)?;
    reload(&mut fleet.coordinators[0], "the configuration was reloaded")?;
    fleet.workers[0].reconfigure(back)?;
    reload(&mut fleet.workers[0], "the configuration was reloaded")?;
    fleet.client.run(["backup", "--type=full"])?.ok()?;
    Ok(())
}

#[test]
fn a_renewed_certificate_is_shown_to_whoever_comes_next() -> Result<()> {
    let site = Site::start()?;
    let mut fleet = Fleet::start(&site, &one_of_each())?;
    let before = fleet.shown_certificate(0)?;
    fleet.renew_certificate("coordinator", "coordinator-0")?;
    assert_eq!(fleet.shown_certificate(0)?, before);
    reload(&mut fleet.coordinators[0], "the configuration was reloaded")?;
    ensure!(fleet.shown_certificate(0)? != before, "it shows the old one");
    fleet.renew_certificate("worker", "worker-0")?;
    reload(&mut fleet.workers[0], "the configuration was reloaded")?;
    fleet.client.run(["backup", "--type=full"])?.ok()?;
    Ok(())
}

/// What a daemon says to systemd, word by word.
fn next_word(socket: &UnixDatagram) -> Result<String> {
    let mut buffer = [0; 256];
    let length = socket.recv(&mut buffer).context("nothing is said to systemd")?;
    Ok(String::from_utf8_lossy(&buffer[..length]).trim_end().to_owned())
}

#[test]
fn systemd_hears_of_start_reload_and_end() -> Result<()> {
    let site = Site::start()?;
    let mut fleet = Fleet::prepare(&site, &one_of_each())?;
    let path = site.scratch.join("notify");
    let socket = UnixDatagram::bind(&path)?;
    socket.set_read_timeout(Some(limits::SOON))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777))?;
    for daemon in [0, 1] {
        let daemon = if daemon == 0 { &mut fleet.coordinators[0] } else { &mut fleet.workers[0] };
        daemon.notifies(&path);
        daemon.start()?;
        assert_eq!(next_word(&socket)?, "READY=1", "{}", daemon.name);
        daemon.signal(Signal::HUP)?;
        let reloading = next_word(&socket)?;
        let (first, second) = reloading.split_once('\n').context("two lines")?;
        ensure!(first == "RELOADING=1" && second.starts_with("MONOTONIC_USEC="), "{reloading}");
        assert_eq!(next_word(&socket)?, "READY=1", "{}", daemon.name);
    }
    for daemon in fleet.workers.iter_mut().chain(&mut fleet.coordinators) {
        daemon.stop()?.ok()?;
        assert_eq!(next_word(&socket)?, "STOPPING=1", "{}", daemon.name);
    }
    Ok(())
}

/// Workers are told with their keep-alives, every three seconds.
const TOLD_WITHIN: Duration = Duration::from_secs(10);

#[test]
fn workers_refuse_a_coordinator_whose_certificate_was_revoked() -> Result<()> {
    let site = Site::start()?;
    let options = FleetOptions { workers: 1, ..FleetOptions::default() };
    let mut fleet = Fleet::start(&site, &options)?;
    let leader = fleet.leader()?;
    let other = 1 - leader;
    let name = fleet.coordinators[other].name.clone();
    let dir = format!("--dir={}", fleet.pki().display());
    fleet.on_host(leader, &["cert", "revoke", &name, &dir])?.ok()?;
    // Within this time-out the worker has heard of it; it says nothing then, so that there is no sign to wait for.
    std::thread::sleep(TOLD_WITHIN);
    fleet.coordinators[leader].kill()?;
    ensure!(fleet.leader()? == other, "the revoked one does not lead");
    fleet.workers[0].await_log("revoked")?;
    fleet.coordinators[leader].start()?;
    fleet.coordinators[other].kill()?;
    fleet.await_workers(1)?;
    fleet.client.run(["backup", "--type=full"])?.ok()?;
    Ok(())
}
