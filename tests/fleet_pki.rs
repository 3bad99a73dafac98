//! The fleet's certificates as files, and what is said where no fleet answers.

mod support;

use pgconvoy_lease::testing::etcd::EtcdCluster;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use support::{Finished, Json, Program, Result, Scratch, ensure, limits};

struct Site {
    scratch: Scratch,
    pki: PathBuf,
}

impl Site {
    fn new() -> Result<Site> {
        let scratch = Scratch::new()?;
        let pki = scratch.private_dir("pki")?;
        Ok(Site { scratch, pki })
    }

    /// `cert` in the site's directory; a configuration is not needed.
    fn cert(&self, line: &str) -> Result<Finished> {
        let words = line.split_whitespace();
        let dir = format!("--dir={}", self.pki.display());
        Program::new(self.scratch.binary())?.arg("cert").args(words).arg(dir).run(limits::TOOL)
    }

    fn with_config(&self, text: &str, line: &str) -> Result<Finished> {
        let file = self.scratch.config_file();
        std::fs::write(&file, text)?;
        let program = Program::new(self.scratch.binary())?.args(line.split_whitespace());
        program.env("PGCONVOY_CONFIG", &file).run(limits::TOOL)
    }

    fn mode(&self, name: &str) -> Result<u32> {
        Ok(std::fs::metadata(self.pki.join(name))?.permissions().mode() & 0o777)
    }

    fn text(&self, name: &str) -> Result<String> {
        Ok(std::fs::read_to_string(self.pki.join(name))?)
    }
}

#[test]
fn an_authority_issues_certificates_with_keys_that_only_their_owner_reads() -> Result<()> {
    let site = Site::new()?;
    site.cert("init --fleet=prod")?.ok()?;
    site.cert("issue --role=coordinator --name=c1 --san=coord1 --san=10.0.0.1")?.ok()?;
    site.cert("issue --role=worker --name=db1")?.ok()?;
    for name in ["ca", "c1", "db1"] {
        assert_eq!(site.mode(&format!("{name}.key"))?, 0o600, "{name}");
        ensure!(site.text(&format!("{name}.crt"))?.starts_with("-----BEGIN CERTIFICATE-----"), "{name}");
    }
    let listed: Json = site.cert("list --output=json")?.ok()?.json()?;
    let rows: Vec<(&str, &str, &str)> = listed
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|row| Some((row["name"].as_str()?, row["role"].as_str()?, row["state"].as_str()?)))
        .collect();
    assert_eq!(rows, [("c1", "coordinator", "valid"), ("db1", "worker", "valid")]);
    let hosts = listed[0]["hosts"].to_string();
    ensure!(hosts.contains("coord1") && hosts.contains("10.0.0.1") && hosts.contains("localhost"), "{hosts}");
    ensure!(listed[0]["serial"].as_str().is_some_and(|serial| serial.len() >= 16), "{listed}");
    let table = site.cert("list")?.ok()?.stdout;
    ensure!(table.starts_with("NAME  ROLE         SERIAL"), "{table}");
    Ok(())
}

#[test]
fn nothing_is_ever_overwritten() -> Result<()> {
    let site = Site::new()?;
    site.cert("init --fleet=prod")?.ok()?;
    site.cert("issue --role=worker --name=db1")?.ok()?;
    let before = (site.text("ca.key")?, site.text("ca.crt")?, site.text("db1.key")?, site.text("db1.crt")?);
    for line in ["init --fleet=prod", "issue --role=worker --name=db1", "issue --role=client --name=ca"] {
        let refused = site.cert(line)?.with_code(93)?;
        ensure!(
            refused.has_hint() && refused.stderr.contains("exists already"),
            "{line}: {}",
            refused.stderr
        );
    }
    std::fs::remove_file(site.pki.join("db1.crt"))?;
    site.cert("issue --role=worker --name=db1")?.with_code(93)?;
    ensure!(!site.pki.join("db1.crt").exists(), "a certificate of another key would fit nothing");
    let after = (site.text("ca.key")?, site.text("ca.crt")?, site.text("db1.key")?);
    assert_eq!(after, (before.0, before.1, before.2));
    Ok(())
}

#[test]
fn what_is_missing_or_wrong_is_said_with_its_code() -> Result<()> {
    let site = Site::new()?;
    site.cert("issue --role=worker --name=db1")?.with_code(55)?;
    let nameless = site.cert("init")?.with_code(37)?;
    ensure!(nameless.stderr.contains("--fleet"), "{}", nameless.stderr);
    site.cert("init --fleet=a/b")?.with_code(32)?;
    site.cert("issue --role=king --name=db1")?.with_code(32)?;
    site.cert("init --fleet=prod")?.ok()?;
    site.cert("issue --role=worker --name=a/b")?.with_code(32)?;
    assert_eq!(site.cert("list --output=json")?.ok()?.json()?, Json::Array(Vec::new()));
    let revoked = site.cert("revoke 0a0b")?.with_code(37)?;
    ensure!(revoked.stderr.contains("[fleet] etcd"), "{}", revoked.stderr);
    site.cert("revoke nobody")?.with_code(96)?;
    Ok(())
}

#[test]
fn the_name_of_the_fleet_comes_from_the_configuration() -> Result<()> {
    let site = Site::new()?;
    let line = format!("cert init --dir={}", site.pki.display());
    let told = site.with_config("[fleet]\nname = \"prod\"\n", &line)?.ok()?.stdout;
    ensure!(told.contains("the authority of fleet prod"), "{told}");
    Ok(())
}

#[test]
fn a_fleet_that_does_not_answer_is_an_error_and_no_reason_to_work_here() -> Result<()> {
    let site = Site::new()?;
    site.cert("init --fleet=prod")?.ok()?;
    std::fs::write(site.pki.join("token"), "pgc_0000000000000000_x\n")?;
    let pki = site.pki.display();
    let text = format!(
        "[repo.1]\npath = \"/nowhere\"\n[stanza.main]\n[[stanza.main.pg]]\npath = \"/nowhere\"\n\
         [fleet]\nname = \"prod\"\napi = \"https://127.0.0.1:1\"\nca-file = \"{pki}/ca.crt\"\ntoken-file = \"{pki}/token\"\n"
    );
    for line in
        ["backup --stanza=main", "verify --stanza=main --output=json", "backup --stanza=main --detach"]
    {
        let failed = site.with_config(&text, line)?.with_code(49)?;
        ensure!(
            failed.stderr.contains("HINT: --embedded does the work in this process"),
            "{}",
            failed.stderr
        );
        assert_eq!(failed.stdout, "", "{line}");
    }
    for line in ["job list", "workers list", "job cancel x"] {
        site.with_config(&text, line)?.with_code(49)?;
    }
    let embedded = site.with_config(&text, "verify --stanza=main --embedded --output=json")?;
    ensure!(embedded.code != Some(49), "{}", embedded.stderr);
    let without = "[repo.1]\npath = \"/nowhere\"\n[stanza.main]\n[[stanza.main.pg]]\npath = \"/nowhere\"\n";
    let asked = site.with_config(without, "job list")?.with_code(37)?;
    ensure!(asked.stderr.contains("[fleet] api") && asked.has_hint(), "{}", asked.stderr);
    site.with_config(without, "restore --stanza=main --worker=db1 --pg-path=/x")?.with_code(37)?;
    site.with_config(without, "token list")?.with_code(37)?;
    site.with_config(&text, "restore --stanza=main --worker=db1 --embedded")?.with_code(31)?;
    let detached = site.with_config(without, "backup --stanza=main --detach")?.with_code(31)?;
    ensure!(detached.stderr.contains("[fleet] api"), "{}", detached.stderr);
    Ok(())
}

#[test]
fn tokens_and_revocations_need_the_lease_store_and_no_coordinator() -> Result<()> {
    let site = Site::new()?;
    let etcd = EtcdCluster::start(1)?;
    let config = format!("[fleet]\nname = \"prod\"\netcd = {:?}\n", etcd.endpoints());
    let call = |line: &str| site.with_config(&config, line);
    let token = call("token create --name=ci --role=operator")?.ok()?.stdout;
    let parts: Vec<&str> = token.trim_end().splitn(3, '_').collect();
    ensure!(parts.len() == 3 && parts[0] == "pgc" && parts[2].len() == 43, "a token has three parts");
    let made = call("token create --name=eyes --role=viewer --output=json")?.ok()?.json()?;
    ensure!(made["token"].as_str().is_some_and(|token| token.starts_with("pgc_")), "the token is told once");
    let listed = call("token list --output=json")?.ok()?;
    ensure!(!listed.stdout.contains(parts[2]), "a secret is never told again");
    let listed = listed.json()?;
    let mut roles: Vec<(&str, &str)> = listed
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|row| Some((row["name"].as_str()?, row["role"].as_str()?)))
        .collect();
    roles.sort_unstable();
    assert_eq!(roles, [("ci", "operator"), ("eyes", "viewer")]);
    assert_eq!(call("token revoke ci")?.ok()?.stdout, format!("{}\n", parts[1]));
    call("token revoke ci")?.with_code(96)?;
    assert_eq!(call("token list --output=json")?.ok()?.json()?.as_array().map(Vec::len), Some(1));
    call("token create --name=a/b --role=viewer")?.with_code(32)?;
    site.cert("init --fleet=prod")?.ok()?;
    site.cert("issue --role=worker --name=db1")?.ok()?;
    let dir = format!("--dir={}", site.pki.display());
    let revoked = call(&format!("cert revoke db1 {dir}"))?.ok()?.stdout;
    ensure!(revoked.starts_with("revoked: worker db1 (serial "), "{revoked}");
    call(&format!("cert revoke 0a:0b {dir}"))?.ok()?;
    Ok(())
}
