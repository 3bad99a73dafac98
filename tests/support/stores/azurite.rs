//! Azurite, which stands for Azure Blob Storage, and what an operator of it would do: containers, signatures, leases.
//!
//! Requests here are signed by code of its own, so that the store's signatures are not only compared with themselves.
//!
//! Batches of deletes it takes as Azure documents them, for a container and with all kinds of credentials, with less care: it does not
//! look whether the container exists (each part says so), lets any signature of the container begin one (each part is judged), and
//! answers what it cannot read with 202 and one part without a number, where Azure documents 400.

use crate::support::ports::Port;
use crate::support::process::{Program, Running};
use crate::support::{Context, Result, Scratch, anyhow, ensure, limits};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit as _, Mac as _};
use pgconvoy_core::config::{AzureConfig, AzureKeyType, Secret, StoreTls, UriStyle};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub const ACCOUNT: &str = "devstoreaccount1";
/// Azurite's own, which its documentation publishes.
pub const KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
const HOME: &str = "/opt/pgconvoy-tests/azurite";
const NEW_KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
const API_VERSION: &str = "2024-11-04";

/// Blocks that were staged, and how many of them at a time.
#[derive(Debug, Default)]
pub struct BlocksAtOnce {
    pub total: usize,
    pub most: usize,
}

pub struct Azurite {
    _process: Running,
    _port: Port,
    address: String,
    http: reqwest::Client,
    /// Its authority's.
    ca_file: Option<String>,
    log: PathBuf,
    /// Goes after the process.
    _scratch: Scratch,
}

impl Azurite {
    pub fn start() -> Result<Azurite> {
        Azurite::start_with(Scratch::new()?, &[], None)
    }

    /// Behind TLS, with a certificate of its own, and with bearer tokens.
    pub fn start_with_tokens() -> Result<Azurite> {
        let scratch = Scratch::new()?;
        let folder = scratch.private_dir("azurite-pki")?;
        std::fs::write(folder.join("names"), "subjectAltName = IP:127.0.0.1\n")?;
        openssl(&folder, &format!("req -x509 {NEW_KEY} -keyout ca.key -out ca -subj /CN=authority -days 2"))?;
        openssl(&folder, &format!("req {NEW_KEY} -keyout key -out request -subj /CN=azurite"))?;
        let sign = "x509 -req -in request -CA ca -CAkey ca.key -CAcreateserial";
        openssl(&folder, &format!("{sign} -out cert -days 2 -extfile names"))?;
        let ca_file = Some(path(&folder.join("ca"))?.to_owned());
        Azurite::with_certificate(scratch, &folder, StoreTls { ca_file, verify: true })
    }

    /// The same, but nobody vouches for its certificate: it copies from itself only where it has signed that by itself.
    ///
    /// Nor does it believe a certificate whose base64 fills whole lines of 64: it ends those with an empty line, which OpenSSL does not
    /// read. The subject is long enough for one never to: lengths differ by some bytes, with its number and its signature.
    pub fn start_with_tokens_and_copies() -> Result<Azurite> {
        const SUBJECT: &str = "/CN=azurite-and-itself";
        let scratch = Scratch::new()?;
        let folder = scratch.private_dir("azurite-pki")?;
        openssl(&folder, &format!("req -x509 {NEW_KEY} -keyout key -out cert -subj {SUBJECT} -days 2"))?;
        Azurite::with_certificate(scratch, &folder, StoreTls { ca_file: None, verify: false })
    }

    fn with_certificate(scratch: Scratch, folder: &Path, tls: StoreTls) -> Result<Azurite> {
        let (cert, key) = (folder.join("cert"), folder.join("key"));
        let options = ["--oauth", "basic", "--cert", path(&cert)?, "--key", path(&key)?];
        Azurite::start_with(scratch, &options, Some(tls))
    }

    fn start_with(scratch: Scratch, options: &[&str], tls: Option<StoreTls>) -> Result<Azurite> {
        let node = PathBuf::from(HOME).join("node/bin/node");
        ensure!(node.exists(), "{}: ./tests/run.sh installs it", node.display());
        let port = Port::claim()?;
        let location = scratch.private_dir("azurite")?;
        let log = location.join("debug.log");
        let process = Program::new(node)?
            .arg(format!("{HOME}/node_modules/azurite/dist/src/blob/main.js"))
            .args(["--blobHost", "127.0.0.1", "--blobPort", &port.number().to_string()])
            .args(["--silent", "--skipApiVersionCheck", "--disableTelemetry"])
            .arg("--location")
            .arg(&location)
            .arg("--debug")
            .arg(&log)
            .args(options)
            .start()?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let tls = tls.unwrap_or(StoreTls { ca_file: None, verify: false });
        let http = pgconvoy_storage::http::client(&tls, "azurite").map_err(|error| anyhow!("{error}"))?;
        limits::wait_for("Azurite", limits::SERVER, || {
            ensure!(!process.has_ended()?, "Azurite has ended: {}", process.stderr_so_far()?);
            Ok(std::net::TcpStream::connect(port.address()).is_ok().then_some(()))
        })?;
        let address = format!("{scheme}://{}", port.address());
        Ok(Azurite {
            _process: process,
            _port: port,
            address,
            http,
            ca_file: tls.ca_file,
            log,
            _scratch: scratch,
        })
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    /// One that trusts its certificate.
    pub fn client(&self) -> reqwest::Client {
        self.http.clone()
    }

    pub fn socket_address(&self) -> Result<SocketAddr> {
        let (_, address) = self.address.split_once("://").context("a scheme")?;
        Ok(address.parse()?)
    }

    pub fn config(&self, container: &str) -> AzureConfig {
        AzureConfig {
            account: ACCOUNT.to_owned(),
            container: container.to_owned(),
            key_type: AzureKeyType::Shared,
            key: Some(Secret::new(KEY)),
            endpoint: self.address.clone(),
            uri_style: UriStyle::Path,
            tls: StoreTls { ca_file: self.ca_file.clone(), verify: true },
            tags: BTreeMap::new(),
        }
    }

    /// Lines of `[repo.N.azure]`; `more` for what differs from a shared key.
    pub fn table(&self, container: &str, more: &str) -> String {
        self.table_at(&self.address, container, more)
    }

    /// The same, where something stands before the server.
    pub fn table_at(&self, endpoint: &str, container: &str, more: &str) -> String {
        let key = if more.contains("key-type") { String::new() } else { format!("key = \"{KEY}\"\n") };
        let ca_file = self.ca_file.as_ref().map_or(String::new(), |path| format!("ca-file = \"{path}\"\n"));
        format!(
            "account = \"{ACCOUNT}\"\ncontainer = \"{container}\"\nendpoint = \"{endpoint}\"\n\
             uri-style = \"path\"\n{key}{ca_file}{more}"
        )
    }

    pub async fn create_container(&self, name: &str) -> Result<()> {
        let answer = self.request("PUT", &format!("/{name}"), "restype=container", &[], Vec::new()).await?;
        ensure!(answer.status() == 201, "container {name}: {}", answer.status());
        Ok(())
    }

    /// A request of somebody else, signed with the account's key. `path` is within the account.
    pub async fn request(
        &self,
        method: &str,
        path: &str,
        query: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Result<reqwest::Response> {
        let date = http_date()?;
        let mut all: BTreeMap<&str, &str> = headers.iter().copied().collect();
        all.insert("x-ms-date", &date);
        all.insert("x-ms-version", API_VERSION);
        let length = if body.is_empty() { String::new() } else { body.len().to_string() };
        let standard = |name: &str| all.get(name).copied().unwrap_or_default();
        let mut text = format!(
            "{method}\n\n\n{length}\n{}\n{}\n\n\n{}\n{}\n\n{}\n",
            standard("content-md5"),
            standard("content-type"),
            standard("if-match"),
            standard("if-none-match"),
            standard("range"),
        );
        for (name, value) in all.iter().filter(|(name, _)| name.starts_with("x-ms-")) {
            text.push_str(&format!("{name}:{value}\n"));
        }
        text.push_str(&format!("/{ACCOUNT}/{ACCOUNT}{path}"));
        let mut pairs: Vec<&str> = query.split('&').filter(|pair| !pair.is_empty()).collect();
        pairs.sort_unstable();
        for (name, value) in pairs.iter().filter_map(|pair| pair.split_once('=')) {
            text.push_str(&format!("\n{name}:{}", value.replace("%3D", "=")));
        }
        let signature = sign(&text)?;
        let url = format!("{}/{ACCOUNT}{path}?{query}", self.address);
        let mut request = self.http.request(method.parse()?, url).body(body);
        for (name, value) in &all {
            request = request.header(*name, *value);
        }
        let request = request.header("authorization", format!("SharedKey {ACCOUNT}:{signature}"));
        Ok(limits::within(request.send()).await??)
    }

    /// Waits until the names in a container that have blocks but no object are these.
    pub async fn await_uncommitted(&self, container: &str, prefix: &str, expected: &[&str]) -> Result<()> {
        limits::within(async {
            while self.names(container, prefix, "uncommittedblobs").await? != expected {
                // Bounded by the timeout of `within`, around it.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Ok(())
        })
        .await?
    }

    /// What the server's log says of blocks: each request begins with a line that names it, and ends with another.
    pub fn blocks_at_once(&self) -> Result<BlocksAtOnce> {
        let log = std::fs::read_to_string(&self.log).context("the log of Azurite")?;
        let (mut running, mut seen) = (BTreeSet::new(), BlocksAtOnce::default());
        for line in log.lines() {
            let Some(request) = line.split(' ').nth(1) else { continue };
            if line.contains("Operation=BlockBlob_StageBlock") && running.insert(request) {
                seen.total += 1;
                seen.most = seen.most.max(running.len());
            } else if line.contains("EndMiddleware: End response") {
                running.remove(request);
            }
        }
        Ok(seen)
    }

    /// Names in a container that begin so; with `include=uncommittedblobs` also those without an object.
    pub async fn names(&self, container: &str, prefix: &str, include: &str) -> Result<Vec<String>> {
        let mut query = format!("comp=list&prefix={prefix}&restype=container");
        if !include.is_empty() {
            query.push_str(&format!("&include={include}"));
        }
        let answer = self.request("GET", &format!("/{container}"), &query, &[], Vec::new()).await?;
        ensure!(answer.status() == 200, "{}", answer.status());
        let text = answer.text().await?;
        ensure!(
            text.contains("<NextMarker/>") || text.contains("<NextMarker></NextMarker>"),
            "more than a page"
        );
        let names = text.split("<Name>").skip(1).filter_map(|rest| rest.split_once("</Name>"));
        Ok(names.map(|(name, _)| name.to_owned()).collect())
    }
}

/// A signature for one container, valid so many hours from now; negative: until so long ago.
pub fn sas(container: &str, permissions: &str, hours: i64) -> Result<String> {
    let expires = date(&["-u", "-d", &format!("{hours} hours"), "+%Y-%m-%dT%H:%M:%SZ"])?;
    let begins = date(&["-u", "-d", "-2 days", "+%Y-%m-%dT%H:%M:%SZ"])?;
    let resource = format!("/blob/{ACCOUNT}/{container}");
    // By the documentation of service signatures from version 2020-12-06 on: what is not used stays empty.
    let text =
        format!("{permissions}\n{begins}\n{expires}\n{resource}\n\n\n\n{API_VERSION}\nc\n\n\n\n\n\n\n");
    let signature = sign(&text)?.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
    let (begins, expires) = (begins.replace(':', "%3A"), expires.replace(':', "%3A"));
    Ok(format!("sv={API_VERSION}&sr=c&sp={permissions}&st={begins}&se={expires}&sig={signature}"))
}

fn sign(text: &str) -> Result<String> {
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(&BASE64.decode(KEY)?)?;
    mac.update(text.as_bytes());
    Ok(BASE64.encode(mac.finalize().into_bytes()))
}

fn http_date() -> Result<String> {
    date(&["-u", "+%a, %d %b %Y %H:%M:%S GMT"])
}

fn date(arguments: &[&str]) -> Result<String> {
    let output = std::process::Command::new("date").env("LC_ALL", "C").args(arguments).output()?;
    ensure!(output.status.success(), "date {arguments:?}");
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| path.display().to_string())
}

fn openssl(folder: &Path, arguments: &str) -> Result<()> {
    let program = Program::new("openssl")?.current_dir(folder).args(arguments.split(' '));
    program.run(limits::TOOL)?.ok().map(drop)
}
