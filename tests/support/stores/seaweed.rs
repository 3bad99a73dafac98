//! SeaweedFS, a server that speaks S3 and checks signatures: one process with its data in a folder of its own.
//!
//! Who signs nothing may do everything: that is how a test looks behind the scenes. Who signs must sign right.

use super::super::limits::{SOON, wait_for};
use super::super::ports::Port;
use super::super::{Context, Program, Result, Running, ensure, user};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

const PROGRAM: &str = "/opt/pgconvoy-tests/seaweedfs/bin/weed";
/// Master, volume, filer, S3, each with one for gRPC; S3 behind TLS.
const PORTS_NEEDED: usize = 9;
const S3: usize = 6;
const S3_TLS: usize = 8;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

const CERTIFICATE: &str = "certificate.pem";
const CERTIFICATE_KEY: &str = "certificate.key";

pub const ACCESS_KEY: &str = "TESTSACCESSKEY";
pub const SECRET_KEY: &str = "secret/of+the/tests";
pub const REGION: &str = "us-east-1";
pub const BUCKET: &str = "backups";

/// Lines of `[repo.N.s3]`, for a server at this endpoint.
pub fn table(endpoint: &str, secret: &str) -> String {
    format!(
        "bucket = \"{BUCKET}\"\nendpoint = \"{endpoint}\"\nregion = \"{REGION}\"\nuri-style = \"path\"\n\
         key = \"{ACCESS_KEY}\"\nkey-secret = \"{secret}\""
    )
}

pub struct Seaweed {
    server: Running,
    ports: [Port; PORTS_NEEDED],
    folder: TempDir,
}

impl Seaweed {
    /// Ready, with an empty bucket.
    pub fn start() -> Result<Seaweed> {
        ensure!(Path::new(PROGRAM).exists(), "{PROGRAM} is missing: ./tests/run.sh installs it");
        let folder = tempfile::Builder::new().prefix("pgconvoy-seaweed-").tempdir()?;
        user::give(folder.path())?;
        certify(folder.path())?;
        let ports = Port::claim_some()?;
        let server = server(folder.path(), &ports)?.start()?;
        let seaweed = Seaweed { server, ports, folder };
        let ready = wait_for("SeaweedFS", SOON, || {
            ensure!(!seaweed.server.has_ended()?, "it ended");
            Ok(seaweed.anonymous("PUT", &format!("/{BUCKET}"), "").ok().filter(|answer| answer.status == 200))
        });
        ready.with_context(|| seaweed.server.stderr_so_far().unwrap_or_default())?;
        Ok(seaweed)
    }

    pub fn address(&self) -> SocketAddr {
        self.ports[S3].address()
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address())
    }

    /// The same server behind TLS, for [`Seaweed::ca_file`].
    pub fn tls_address(&self) -> SocketAddr {
        self.ports[S3_TLS].address()
    }

    pub fn ca_file(&self) -> PathBuf {
        self.folder.path().join(CERTIFICATE)
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        self.server.stderr_so_far().unwrap_or_default()
    }

    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Another bucket, which keeps all versions, and locks.
    pub fn create_locking_bucket(&self, name: &str) -> Result<()> {
        let headers = [("x-amz-bucket-object-lock-enabled", "true")];
        let made = request_with(self.address(), "PUT", &format!("/{name}"), &headers, "")?;
        ensure!(made.status == 200, "{made:?}");
        Ok(())
    }

    /// All versions of what is in a bucket, the newest of a name first.
    pub fn versions(&self, bucket: &str) -> Result<Vec<Stored>> {
        let mut found = Vec::new();
        let mut marker = String::new();
        loop {
            let listed = self.anonymous("GET", &format!("/{bucket}?versions{marker}"), "")?;
            ensure!(listed.status == 200, "{listed:?}");
            // Both kinds of entries have these elements, and nothing else has a name.
            for entry in listed.body.split("<Key>").skip(1) {
                let (key, rest) = entry.split_once('<').context("a key")?;
                let id = element(rest, "VersionId").context("a version")?.to_owned();
                let is_mark = element(rest, "Size").is_none();
                found.push(Stored { key: key.to_owned(), id, is_mark });
            }
            if element(&listed.body, "IsTruncated") != Some("true") {
                return Ok(found);
            }
            let [key, id] = ["NextKeyMarker", "NextVersionIdMarker"]
                .map(|name| element(&listed.body, name).unwrap_or_default());
            marker = format!("&key-marker={}&version-id-marker={id}", key.replace('+', "%2B"));
        }
    }

    /// The head of a version.
    pub fn head(&self, bucket: &str, stored: &Stored) -> Result<Plain> {
        self.anonymous("HEAD", &format!("/{bucket}/{}?versionId={}", stored.key, stored.id), "")
    }

    /// What an attacker does who has the right to delete: everything disappears, as far as a bucket with versions lets it.
    pub fn delete_all(&self, bucket: &str) -> Result<()> {
        let mut names: Vec<String> = self.versions(bucket)?.into_iter().map(|stored| stored.key).collect();
        names.dedup();
        for name in names {
            let deleted = self.anonymous("DELETE", &format!("/{bucket}/{name}"), "")?;
            ensure!(deleted.status == 204, "{name}: {deleted:?}");
        }
        Ok(())
    }

    /// A request that nobody signs.
    pub fn anonymous(&self, method: &str, path: &str, body: &str) -> Result<Plain> {
        request(self.address(), method, path, body)
    }

    /// Names of uploads that are not finished.
    pub fn unfinished_uploads(&self) -> Result<Vec<String>> {
        let answer = self.anonymous("GET", &format!("/{BUCKET}?uploads"), "")?;
        ensure!(answer.status == 200, "{answer:?}");
        let uploads = answer.body.split("<Upload>").skip(1);
        Ok(uploads.filter_map(|upload| element(upload, "Key")).map(str::to_owned).collect())
    }
}

/// A version of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub key: String,
    pub id: String,
    /// No object: from here on it was deleted.
    pub is_mark: bool,
}

/// The text of an element.
pub fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    rest.split_once('<').map(|(text, _)| text)
}

/// Signed by itself.
fn certify(folder: &Path) -> Result<()> {
    let names = ["127.0.0.1".to_owned(), "localhost".to_owned()];
    let certified = rcgen::generate_simple_self_signed(names)?;
    for (name, text) in
        [(CERTIFICATE, certified.cert.pem()), (CERTIFICATE_KEY, certified.signing_key.serialize_pem())]
    {
        std::fs::write(folder.join(name), text)?;
        user::give(&folder.join(name))?;
    }
    Ok(())
}

fn server(folder: &Path, ports: &[Port; PORTS_NEEDED]) -> Result<Program> {
    let config = format!(
        r#"{{"identities":[
            {{"name":"tests","credentials":[{{"accessKey":"{ACCESS_KEY}","secretKey":"{SECRET_KEY}"}}],
              "actions":["Admin","Read","Write","List","Tagging"]}},
            {{"name":"anonymous","actions":["Admin","Read","Write","List","Tagging"]}}]}}"#
    );
    let config_file = folder.join("s3.json");
    std::fs::write(&config_file, config)?;
    user::give(&config_file)?;
    let data = folder.join("data");
    user::private_dir(&data)?;
    let [master, master_grpc, volume, volume_grpc, filer, filer_grpc, s3, s3_grpc, s3_tls] =
        ports.each_ref().map(Port::number);
    Ok(Program::new(PROGRAM)?
        // Without them an object with encryption by the server is an error.
        .env("WEED_S3_SSE_KEK_PASSPHRASE", "tests")
        .env("WEED_S3_SSE_KEY", "a key of the tests")
        .env("HOME", folder)
        .args(["-logtostderr=true", "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"])
        .arg(format!("-dir={}", data.display()))
        .args(["-master.telemetry=false", "-master.volumeSizeLimitMB=128", "-volume.max=100"])
        .args(["-s3", "-s3.port.iceberg=0", "-s3.port.lance=0", "-filer"])
        .arg(format!("-s3.config={}", config_file.display()))
        .arg(format!("-filer.localSocket={}", folder.join("filer.sock").display()))
        .arg(format!("-s3.localSocket={}", folder.join("s3.sock").display()))
        .arg(format!("-master.port={master}"))
        .arg(format!("-master.port.grpc={master_grpc}"))
        .arg(format!("-volume.port={volume}"))
        .arg(format!("-volume.port.grpc={volume_grpc}"))
        .arg(format!("-filer.port={filer}"))
        .arg(format!("-filer.port.grpc={filer_grpc}"))
        .arg(format!("-s3.port={s3}"))
        .arg(format!("-s3.port.grpc={s3_grpc}"))
        .arg(format!("-s3.port.https={s3_tls}"))
        .arg(format!("-s3.cert.file={}", folder.join(CERTIFICATE).display()))
        .arg(format!("-s3.key.file={}", folder.join(CERTIFICATE_KEY).display())))
}

/// An answer as text.
#[derive(Debug, Clone)]
pub struct Plain {
    pub status: u16,
    pub head: String,
    pub body: String,
}

/// One request over a connection of its own.
pub fn request(address: SocketAddr, method: &str, path: &str, body: &str) -> Result<Plain> {
    request_with(address, method, path, &[], body)
}

fn request_with(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Result<Plain> {
    let mut stream = TcpStream::connect_timeout(&address, ANSWER_TIMEOUT)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    let length = body.len();
    let more: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n{more}content-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").context("no head")?;
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    Ok(Plain { status, head: head.to_owned(), body: body.to_owned() })
}
