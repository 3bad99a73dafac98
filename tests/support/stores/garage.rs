//! garage, a server that speaks S3 and ignores every condition of a put: one process with its data in a folder of its own.
//!
//! It is built from its source, which takes a quarter of an hour: only `./tests/run.sh --long` installs it.

use super::super::limits::{SOON, TOOL, wait_for};
use super::super::ports::Port;
use super::super::{Context, Program, Result, Running, ensure, user};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const PROGRAM: &str = "/opt/pgconvoy-tests/garage/bin/garage";
/// In the forms that garage asks for.
const ACCESS_KEY: &str = "GK0123456789abcdef01234567";
const SECRET_KEY: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const RPC_SECRET: &str = "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210";
const BUCKET: &str = "backups";

pub struct Garage {
    _server: Running,
    s3: Port,
    _rpc: Port,
    _folder: TempDir,
}

impl Garage {
    /// Ready, with an empty bucket.
    pub fn start() -> Result<Garage> {
        ensure!(Path::new(PROGRAM).exists(), "{PROGRAM} is missing: ./tests/run.sh --long installs it");
        let folder = tempfile::Builder::new().prefix("pgconvoy-garage-").tempdir()?;
        user::give(folder.path())?;
        let [rpc, s3] = Port::claim_some()?;
        let config = configure(folder.path(), rpc.address(), s3.address())?;
        let server = garage(&config)?.arg("server").start()?;
        let node = wait_for("garage", SOON, || {
            ensure!(!server.has_ended()?, "it ended");
            let told = garage(&config)?.args(["node", "id", "--quiet"]).run(TOOL)?;
            let is_up = garage(&config)?.arg("status").run(TOOL)?.code == Some(0);
            Ok(told.stdout.split_once('@').map(|(node, _)| node.trim().to_owned()).filter(|_| is_up))
        });
        let node = node.with_context(|| server.stderr_so_far().unwrap_or_default())?;
        for line in [
            format!("layout assign --zone dc1 --capacity 10G {node}"),
            "layout apply --version 1".to_owned(),
            format!("key import --yes {ACCESS_KEY} {SECRET_KEY}"),
            format!("bucket create {BUCKET}"),
            format!("bucket allow --read --write --owner {BUCKET} --key {ACCESS_KEY}"),
        ] {
            garage(&config)?.args(line.split(' ')).run(TOOL)?.ok()?;
        }
        Ok(Garage { _server: server, s3, _rpc: rpc, _folder: folder })
    }

    /// Lines of `[repo.N.s3]`.
    pub fn table(&self) -> String {
        format!(
            "bucket = \"{BUCKET}\"\nendpoint = \"http://{}\"\nregion = \"garage\"\nuri-style = \"path\"\n\
             key = \"{ACCESS_KEY}\"\nkey-secret = \"{SECRET_KEY}\"",
            self.s3.address()
        )
    }
}

fn garage(config: &Path) -> Result<Program> {
    Ok(Program::new(PROGRAM)?.arg("-c").arg(config))
}

fn configure(folder: &Path, rpc: SocketAddr, s3: SocketAddr) -> Result<PathBuf> {
    let text = format!(
        "metadata_dir = \"{folder}/meta\"\ndata_dir = \"{folder}/data\"\ndb_engine = \"sqlite\"\nreplication_factor = 1\n\
         rpc_bind_addr = \"{rpc}\"\nrpc_public_addr = \"{rpc}\"\nrpc_secret = \"{RPC_SECRET}\"\n\
         [s3_api]\ns3_region = \"garage\"\napi_bind_addr = \"{s3}\"\nroot_domain = \".s3.garage.localhost\"\n",
        folder = folder.display()
    );
    let config = folder.join("garage.toml");
    std::fs::write(&config, text)?;
    user::give(&config)?;
    Ok(config)
}
