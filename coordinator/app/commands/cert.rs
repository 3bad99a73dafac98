//! `cert`: the fleet's certificates as files of one directory: `ca.crt`, `ca.key`, and a pair for each member.
//!
//! Invariants
//! 1. No file is ever overwritten, and a key is never readable by others, not for a moment.
//! 2. Nothing but the directory is needed, save for `revoke`, which tells the coordinators.

use crate::Invocation;
use crate::args::{CertCommand, Common, MemberRole, Output};
use crate::context::Source;
use crate::fleet::store;
use crate::host::now;
use crate::output::{self, Failures};
use crate::runtime::block_on;
use pgconvoy_coordinator::revocations::{self, RevokedRecord};
use pgconvoy_core::config::Config;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::ids::FleetName;
use pgconvoy_transport::pki::authority::MEMBER_VALIDITY;
use pgconvoy_transport::pki::{Authority, CertificateFacts, IssueRequest, PkiError, Serial};
use pgconvoy_transport::{PeerName, Role};
use serde_json::{Value, json};
use std::fs::{DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const AUTHORITY: &str = "ca";
const KEY_MODE: u32 = 0o600;
const CERTIFICATE_MODE: u32 = 0o644;
/// Others read certificates there; keys have a mode of their own.
const DIR_MODE: u32 = 0o755;

impl From<MemberRole> for Role {
    fn from(typed: MemberRole) -> Self {
        match typed {
            MemberRole::Coordinator => Role::Coordinator,
            MemberRole::Worker => Role::Worker,
            MemberRole::Client => Role::Client,
        }
    }
}

pub fn run(invocation: &Invocation, common: &Common, command: &CertCommand) -> Result<ExitCode, Failures> {
    match command {
        CertCommand::Init { fleet, place } => {
            let fleet = match fleet {
                Some(fleet) => fleet.clone(),
                None => fleet_name(&config(invocation, common)?)?,
            };
            Ok(init(&place.dir, &fleet)?)
        }
        CertCommand::Issue { role, name, san, place } => Ok(issue(&place.dir, (*role).into(), name, san)?),
        CertCommand::List { place, form } => Ok(list(&place.dir, form.output)?),
        CertCommand::Revoke { which, place } => Ok(revoke(&config(invocation, common)?, &place.dir, which)?),
    }
}

fn config(invocation: &Invocation, common: &Common) -> Result<Config, Failures> {
    Ok(Source::read(invocation, common)?.load(invocation)?)
}

fn fleet_name(config: &Config) -> Result<String, Failure> {
    config.fleet.as_ref().map(|fleet| fleet.name.clone()).ok_or_else(|| {
        let failure = Failure::new(ErrorCode::OptionRequired, "command 'cert init' requires option: --fleet");
        failure.hint("or set [fleet] name in the configuration")
    })
}

fn init(dir: &Path, fleet: &str) -> Result<ExitCode, Failure> {
    let fleet: FleetName = fleet
        .parse()
        .map_err(|error| Failure::new(ErrorCode::OptionInvalidValue, format!("option '--fleet': {error}")))?;
    let authority = Authority::create(&fleet, now())?;
    DirBuilder::new().recursive(true).mode(DIR_MODE).create(dir).map_err(|error| {
        Failure::new(ErrorCode::PathCreate, format!("cannot create {}: {error}", dir.display()))
    })?;
    write_pair(dir, AUTHORITY, authority.cert_pem(), &authority.key_pem())?;
    output::text(&format!("the authority of fleet {fleet} is in {}\n", dir.display()))
}

fn issue(dir: &Path, role: Role, name: &str, sans: &[String]) -> Result<ExitCode, Failure> {
    let name: PeerName = name
        .parse()
        .map_err(|error| Failure::new(ErrorCode::OptionInvalidValue, format!("option '--name': {error}")))?;
    let read = |suffix: &str| {
        let path = file(dir, AUTHORITY, suffix);
        std::fs::read_to_string(&path).map_err(|error| unreadable(&path, &error)).map(zeroize::Zeroizing::new)
    };
    let authority = Authority::load(&read("crt")?, &read("key")?)?;
    let request = IssueRequest { role, name, sans: sans.to_vec(), validity: MEMBER_VALIDITY };
    let issued = authority.issue(&request, now())?;
    write_pair(dir, request.name.as_str(), &issued.cert_pem, &issued.key_pem)?;
    let text = format!("{role} {}: serial {}, valid to {}\n", request.name, issued.serial, issued.not_after);
    output::text(&text)
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    match error.kind() {
        ErrorKind::NotFound => {
            Failure::new(ErrorCode::FileMissing, format!("there is no {}", path.display()))
                .hint("pgconvoy cert init makes the authority; --dir says where it is")
        }
        _ => Failure::new(ErrorCode::FileOpen, format!("cannot read {}: {error}", path.display())),
    }
}

fn file(dir: &Path, name: &str, suffix: &str) -> PathBuf {
    dir.join(format!("{name}.{suffix}"))
}

/// Both, or neither: the key first, since a certificate without one is of no use.
fn write_pair(dir: &Path, name: &str, certificate: &str, key: &str) -> Result<(), Failure> {
    let (certificate_file, key_file) = (file(dir, name, "crt"), file(dir, name, "key"));
    if certificate_file.exists() {
        return Err(exists(&certificate_file));
    }
    write_new(&key_file, key, KEY_MODE)?;
    write_new(&certificate_file, certificate, CERTIFICATE_MODE).inspect_err(|_| {
        // A second failure here leaves a key that fits nothing, and the first one is told.
        let _ = std::fs::remove_file(&key_file);
    })
}

fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), Failure> {
    let written =
        OpenOptions::new().write(true).create_new(true).mode(mode).open(path).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        });
    written.map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => exists(path),
        _ => Failure::new(ErrorCode::FileWrite, format!("cannot write {}: {error}", path.display())),
    })
}

fn exists(path: &Path) -> Failure {
    Failure::new(ErrorCode::Exists, format!("{} exists already", path.display()))
        .hint("move it away if it is not needed any more; certificates that it issued or that are in use depend on it")
}

/// A certificate of the directory, by its file's name without the suffix.
type Found = (String, Result<CertificateFacts, PkiError>);

/// Every certificate but the authority's own.
fn certificates(dir: &Path) -> Result<Vec<Found>, Failure> {
    let entries = std::fs::read_dir(dir).map_err(|error| unreadable(dir, &error))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| unreadable(dir, &error))?.path();
        let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        if path.extension().is_some_and(|suffix| suffix == "crt") && name != AUTHORITY {
            let text = std::fs::read_to_string(&path).map_err(|error| unreadable(&path, &error))?;
            found.push((name, CertificateFacts::from_pem(&text)));
        }
    }
    found.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(found)
}

fn list(dir: &Path, form: Output) -> Result<ExitCode, Failure> {
    let mut rows = Vec::new();
    for (name, facts) in certificates(dir)? {
        match facts {
            Ok(facts) => rows.push([
                facts.member.identity.name.to_string(),
                facts.member.identity.role.to_string(),
                facts.serial.to_string(),
                facts.not_after.to_string(),
                if facts.not_after < now() { "expired" } else { "valid" }.to_owned(),
                facts.hosts.join(", "),
            ]),
            Err(error) => {
                return Err(Failure::from(error).context(file(dir, &name, "crt").display()));
            }
        }
    }
    match form {
        Output::Json => output::json(&rows.iter().map(row_json).collect::<Value>()),
        Output::Text => {
            output::text(&output::table(&["NAME", "ROLE", "SERIAL", "EXPIRES", "STATE", "HOSTS"], &rows))
        }
    }
}

fn row_json([name, role, serial, expires, state, hosts]: &[String; 6]) -> Value {
    let hosts: Vec<&str> = hosts.split(", ").filter(|host| !host.is_empty()).collect();
    json!({"name": name, "role": role, "serial": serial, "expires": expires, "state": state, "hosts": hosts})
}

fn revoke(config: &Config, dir: &Path, which: &str) -> Result<ExitCode, Failure> {
    let known = dir.exists().then(|| certificates(dir)).transpose()?.unwrap_or_default();
    let by_name = known.iter().find(|(name, _)| name == which).map(|(_, facts)| facts.clone()).transpose()?;
    let serial: Serial = match &by_name {
        Some(facts) => facts.serial.clone(),
        None => which.parse().map_err(|_| {
            let message =
                format!("'{which}' is neither a certificate of {} nor a serial number", dir.display());
            Failure::new(ErrorCode::ParamInvalid, message).hint("pgconvoy cert list shows both")
        })?,
    };
    let of_serial =
        || known.iter().filter_map(|(_, facts)| facts.as_ref().ok()).find(|facts| facts.serial == serial);
    let bearer = by_name.as_ref().or_else(of_serial).map(|facts| facts.member.identity.to_string());
    let record = RevokedRecord { bearer: bearer.clone(), at: now() };
    block_on(async {
        let store = store::connect(config.fleet.as_ref()).await?;
        let object = format!("{} ({serial})", record.bearer.as_deref().unwrap_or("a certificate"));
        let audited = store::by_hand("cert revoke", &object)?;
        revocations::revoke(store.leases.as_ref(), &store.keys, &serial, &record, audited).await
    })??;
    output::text(&format!("revoked: {} (serial {serial})\n", bearer.as_deref().unwrap_or("a certificate")))
}
