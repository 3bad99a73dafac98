//! Whole backups to a directory and to Azure at once, through the binary: restored from Azure alone, killed in mid-upload,
//! and what an operator is told.

mod support;

use support::stores::azurite::{self, Azurite, sas};
use support::stores::http_proxy::{HttpProxy, Weather};
use support::stores::tour::{TwoPaths, goes_there_and_comes_back};
use support::{
    Pgconvoy, Random, Result, Site, SiteOptions, assert_refused, assert_refused_with_one_of, data, ensure,
    labels, limits, note,
};

const CONTAINER: &str = "kit";

/// Repository 1 is a directory, repository 2 a path in a container; both are encrypted.
struct AzureSite {
    site: Site,
    server: Azurite,
}

impl AzureSite {
    /// Nothing but the server is started.
    fn prepare() -> Result<AzureSite> {
        let server = Azurite::start()?;
        block_on(server.create_container(CONTAINER))?;
        let table = server.table(CONTAINER, "");
        let site = Site::prepare(&SiteOptions::default())?.with_second_repo_in("azure", "/pg", &table)?;
        Ok(AzureSite { site, server })
    }

    fn start() -> Result<AzureSite> {
        let azure = AzureSite::prepare()?;
        azure.site.cluster.start()?;
        azure.site.pgconvoy.run(["stanza-create"])?.ok()?;
        data::seed_small(&azure.site.cluster)?;
        Ok(azure)
    }

    /// A configuration that knows only the container, reached in some way.
    fn alone(&self, name: &str, table: &str) -> Result<Pgconvoy> {
        let Site { scratch, config, repos, pgconvoy, .. } = &self.site;
        let repo = repos[1].clone().in_store("azure", "/pg", table);
        let config = config.clone().repos(&[repo]).backup("archive-timeout", "\"5s\"");
        pgconvoy.with_config(scratch, name, &config)
    }
}

fn sas_lines(permissions: &str) -> Result<String> {
    Ok(format!("key-type = \"sas\"\nkey = \"{}\"\n", sas(CONTAINER, permissions, 1)?))
}

fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

#[test]
fn without_encryption_it_comes_back_from_azure_as_well() -> Result<()> {
    let AzureSite { site, server: _server } = AzureSite::prepare()?;
    let site = site.without_keys()?;
    goes_there_and_comes_back(&site, &site.only_repos(&[2])?)
}

#[test]
fn a_backup_goes_to_a_directory_and_to_azure_at_once_and_restores_from_azure_alone() -> Result<()> {
    let azure = AzureSite::prepare()?;
    let alone = azure.alone("azure-alone.toml", &azure.server.table(CONTAINER, &sas_lines("rl")?))?;
    goes_there_and_comes_back(&azure.site, &alone)
}

#[test]
fn between_two_paths_of_one_container_the_service_copies_and_the_copy_stands_alone() -> Result<()> {
    let server = Azurite::start()?;
    block_on(server.create_container(CONTAINER))?;
    let proxy = HttpProxy::before(server.socket_address()?, Random::from_environment()?)?;
    let table = server.table_at(&proxy.endpoint(), CONTAINER, "");
    let paths = TwoPaths::filled("azure", ["/pg/main", "/pg/copy"], &table)?;
    let names = || block_on(server.names(CONTAINER, "pg/copy/main/backup/", ""));
    paths.is_killed_amid_packs(|| Ok(names()?.join("\n")))?;
    paths.store_copies(&proxy)?;
    let gone = format!("/{CONTAINER}/pg%2Fmain%2Fpgconvoy.repo");
    let answer = block_on(server.request("DELETE", &gone, "", &[], Vec::new()))?;
    ensure!(answer.status() == 202, "{}", answer.status());
    paths.second_stands_alone()
}

#[test]
fn a_network_that_fails_every_fifth_request_only_costs_time() -> Result<()> {
    let azure = AzureSite::prepare()?;
    let proxy = HttpProxy::before(azure.server.socket_address()?, Random::from_environment()?)?;
    proxy.set(Weather::bad(20));
    let through = azure.server.table_at(&proxy.endpoint(), CONTAINER, "");
    let site = azure.site.with_second_repo_in("azure", "/pg", &through)?;
    goes_there_and_comes_back(&site, &site.only_repos(&[2])?)?;
    note(format!("{:?}", proxy.seen()));
    ensure!(proxy.seen().faults.len() > 5, "{:?}", proxy.seen());
    let names = |include| block_on(azure.server.names(CONTAINER, "pg/", include));
    assert_eq!(names("uncommittedblobs")?, names("")?);
    Ok(())
}

#[test]
fn a_backup_that_is_killed_in_mid_upload_leaves_nothing_visible_and_the_next_one_is_whole() -> Result<()> {
    let azure = AzureSite::start()?;
    let site = &azure.site;
    // Packs of more than a block, so that there is something uncommitted to see.
    let backup = ["backup", "--type=full", "--compress-type=none", "--output=json"];
    let running = site.pgconvoy.start(backup)?;
    let names = |include| block_on(azure.server.names(CONTAINER, "pg/main/backup/", include));
    let uncommitted = limits::wait_for("an upload in blocks", limits::COMMAND, || {
        ensure!(!running.has_ended()?, "the backup has ended: {}", running.stderr_so_far()?);
        let (all, visible) = (names("uncommittedblobs")?, names("")?);
        let begun: Vec<String> = all.into_iter().filter(|name| !visible.contains(name)).collect();
        Ok(Some(begun).filter(|begun| !begun.is_empty()))
    })?;
    let killed = running.kill_and_wait()?;
    ensure!(killed.signal == Some(9), "{killed}");
    note(format!("killed with {uncommitted:?} under way"));
    assert_eq!(labels(&site.pgconvoy, 2)?, Vec::<String>::new());
    // Those that the process did not live to commit are no objects, and every object that is there is whole.
    let left: Vec<String> =
        names("uncommittedblobs")?.into_iter().filter(|name| uncommitted.contains(name)).collect();
    ensure!(!left.is_empty(), "the blocks are still there");
    let report = site.pgconvoy.run(backup)?.ok()?.json()?;
    assert_eq!(report["status"], "ok", "{report}");
    site.pgconvoy.run(["verify"])?.ok()?;
    Ok(())
}

#[test]
fn what_an_operator_does_wrong_is_told_with_a_code_and_a_hint_and_without_the_secret() -> Result<()> {
    let azure = AzureSite::start()?;
    let server = &azure.server;
    let (data, target) = (azure.site.cluster.data(), azure.site.scratch.join("fetched"));
    let absent = "0000000100000000000000FF";
    let known = azure.alone("good.toml", &server.table(CONTAINER, ""))?;
    known.archive_get(data, absent, &target, &[])?.with_code(1)?;
    let expired = format!("key-type = \"sas\"\nkey = \"{}\"\n", sas(CONTAINER, "rwdl", -1)?);
    let foreign = "key-type = \"sas\"\nkey = \"sv=2024-11-04&sp=rwdl&sr=c&sig=c2VjcmV0\"\n";
    // Of a HEAD Azurite says no more than that it does not allow it; the service has a code for credentials, as the tests
    // of the store have it.
    let unspecific = "does not allow this request";
    let cases = [
        ("container", server.table("nowhere", ""), "has no container 'nowhere'"),
        ("key", server.table(CONTAINER, "").replace(azurite::KEY, "bm90IHRoZSBrZXk="), unspecific),
        ("base64", server.table(CONTAINER, "").replace(azurite::KEY, "not#base64"), "key is not base64"),
        ("expired", server.table(CONTAINER, &expired), "the shared access signature expired at"),
        ("forged", server.table(CONTAINER, foreign), unspecific),
    ];
    for (name, lines, words) in cases {
        let wrong = azure.alone(&format!("{name}.toml"), &lines)?;
        let told = wrong.run(["stanza-create"])?;
        assert_refused(&told, 105)?;
        ensure!(told.stderr.contains(words), "'{words}' is missing\n{told}");
        for secret in ["sig=", azurite::KEY, "c2VjcmV0", "not#base64"] {
            ensure!(!told.stderr.contains(secret), "a secret was shown\n{told}");
        }
        // PostgreSQL must never take any of these for the end of its archive.
        let fetched = wrong.archive_get(data, absent, &target, &[])?;
        ensure!(!matches!(fetched.code, Some(0 | 1)), "{name}: {fetched}");
    }
    let reader = azure.alone("reader.toml", &server.table(CONTAINER, &sas_lines("rl")?))?;
    let told = reader.run(["backup", "--type=full"])?;
    assert_refused_with_one_of(&told, &[104, 105])?;
    ensure!(told.stderr.contains("grants 'rl', which is not enough"), "{told}");
    Ok(())
}
