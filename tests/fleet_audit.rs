//! Who did what to a real fleet, as its API tells it, whoever leads.

mod support;

use support::fleet::{Fleet, FleetOptions};
use support::{Context, Json, Result, Site, ensure};

/// Units small enough for something to happen before a backup is done.
const SLOW: [&str; 3] = ["--unit-size=1MiB", "--compress-type=zst", "--compress-level=12"];

/// `who what outcome` of each record about that object, the oldest first.
fn told(audit: &Json, object: &str) -> Result<Vec<String>> {
    let records = audit.as_array().context("an array of records")?;
    let of_object = records.iter().filter(|record| record["object"] == object);
    let text = |record: &Json, key: &str| record[key].as_str().unwrap_or_default().to_owned();
    Ok(of_object.map(|record| ["who", "what", "outcome"].map(|key| text(record, key)).join(" ")).collect())
}

#[test]
fn the_audit_of_a_fleet_tells_who_did_what_and_what_came_of_it_also_after_a_change_of_leader() -> Result<()> {
    let site = Site::start()?;
    let options = FleetOptions { bandwidth_max: Some("1MiB".to_owned()), ..FleetOptions::default() };
    let mut fleet = Fleet::start(&site, &options)?;
    let viewer = fleet.client_of(&site, "viewer")?;
    fleet.client_of(&site, "admin")?;
    let id = fleet.submit_backup(&SLOW)?;
    fleet.await_units(&id, 3)?;
    ensure!(viewer.run(["job", "cancel", &id])?.code != Some(0), "a viewer cancels");
    fleet.client.run(["job", "pause", &id])?.ok()?;
    ensure!(fleet.client.run(["job", "pause", &id])?.code != Some(0), "it was paused already");
    let before = [
        "operator submit backup done",
        "viewer cancel refused",
        "operator pause done",
        "operator pause refused",
    ];
    let leader = fleet.leader()?;
    assert_eq!(told(&fleet.get(&site, leader, "admin", "audit")?, &id)?, before);

    fleet.coordinators[leader].kill()?;
    let next = fleet.leader()?;
    ensure!(next != leader, "nobody else came to lead");
    fleet.await_job(&id, "under the next leader", |job| job["state"] == "paused")?;
    fleet.client.run(["job", "resume", &id])?.ok()?;
    ensure!(viewer.run(["job", "resume", &id])?.code != Some(0), "a viewer resumes");
    fleet.client.run(["job", "priority", &id, "3"])?.ok()?;
    fleet.client.run(["job", "cancel", &id])?.ok()?;
    fleet.await_end(&id)?;
    let later =
        ["operator resume done", "viewer resume refused", "operator priority 3 done", "operator cancel done"];
    let after: Vec<&str> = before.into_iter().chain(later).collect();
    assert_eq!(told(&fleet.get(&site, next, "admin", "audit")?, &id)?, after);

    fleet.await_workers(2)?;
    fleet.client.run(["workers", "drain", "worker-1"])?.ok()?;
    ensure!(viewer.run(["workers", "undrain", "worker-1"])?.code != Some(0), "a viewer undrains");
    fleet.client.run(["workers", "undrain", "worker-1"])?.ok()?;
    let of_worker = ["operator drain done", "viewer undrain refused", "operator undrain done"];
    assert_eq!(told(&fleet.get(&site, next, "admin", "audit")?, "worker-1")?, of_worker);

    let dir = format!("--dir={}", fleet.pki().display());
    fleet.on_host(next, &["cert", "revoke", "worker-7", &dir])?.ok()?;
    fleet.on_host(next, &["token", "revoke", "viewer"])?.ok()?;
    let audit = fleet.get(&site, next, "admin", "audit")?;
    let records = audit.as_array().context("an array of records")?;
    for (what, count) in [("token create", 3), ("token revoke", 1), ("cert revoke", 1)] {
        let of_kind: Vec<&Json> = records.iter().filter(|record| record["what"] == what).collect();
        ensure!(of_kind.len() == count, "{what}: {audit}");
        ensure!(
            of_kind.iter().all(|record| record["role"] == "host" && record["outcome"] == "done"),
            "{audit}"
        );
    }
    Ok(())
}
