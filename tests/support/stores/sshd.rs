//! An SFTP server of the test's own: Debian's sshd on a port of 127.0.0.1, with keys of its own, for the test user.

use super::super::ports::Port;
use super::super::process::{Program, Running};
use super::super::{Context, Result, Scratch, ensure, limits, user};
use rustix::process::{Pid, Signal};
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Debian's place; it starts itself anew for each connection, so it must be a whole path.
const SSHD: &str = "/usr/sbin/sshd";
/// The key that is let in.
const CLIENT_KEY: &str = "client_key";
const HOST_KEYS: [&str; 3] = ["ed25519", "ecdsa", "rsa"];

/// The same as a program of its own, which `internal-sftp` is not.
const SFTP_SERVER: &str = "/usr/lib/openssh/sftp-server";
const SLOW_FLUSH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/stores/slow_flush.c");

/// Settings of a server whose syncs take so long for every MiB that a session has written since its last one.
pub fn slow_flushes(scratch: &Scratch, time: Duration) -> Result<String> {
    let library = scratch.join("slow_flush.so");
    let cc =
        Program::as_ourselves("cc").args(["-O1", "-shared", "-fPIC", "-o"]).arg(&library).arg(SLOW_FLUSH);
    cc.run(limits::TOOL)?.ok().context("a C compiler is needed, as Rust itself needs one to link")?;
    let (library, ms) = (library.display(), time.as_millis());
    Ok(format!("Subsystem sftp /usr/bin/env LD_PRELOAD={library} FLUSH_MS={ms} {SFTP_SERVER}\n"))
}

pub struct Sshd {
    /// Its configuration, keys and log.
    directory: PathBuf,
    user: String,
    /// Lines at the beginning of the configuration, which count before the rest.
    settings: String,
    running: Option<Running>,
    /// Longer than whoever listens on it.
    port: Port,
}

impl Sshd {
    pub fn start(scratch: &Scratch) -> Result<Sshd> {
        Sshd::start_with(scratch, "")
    }

    pub fn start_with(scratch: &Scratch, settings: &str) -> Result<Sshd> {
        ensure!(Path::new(SSHD).exists(), "openssh-server is not installed: ./tests/run.sh installs it");
        let directory = scratch.private_dir("sshd")?;
        let port = Port::claim()?;
        let mut sshd =
            Sshd { directory, port, user: name_of_user()?, settings: settings.to_owned(), running: None };
        for kind in HOST_KEYS {
            sshd.make_key(&format!("host_{kind}"), &["-t", kind])?;
        }
        sshd.make_key(CLIENT_KEY, &["-t", "ed25519"])?;
        sshd.let_in(CLIENT_KEY)?;
        sshd.restart()?;
        Ok(sshd)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    pub fn user(&self) -> &str {
        &self.user
    }

    pub fn client_key(&self) -> PathBuf {
        self.path(CLIENT_KEY)
    }

    /// A new key pair without a passphrase, made by OpenSSH's own tool.
    pub fn make_key(&self, name: &str, options: &[&str]) -> Result<PathBuf> {
        let path = self.path(name);
        let call = Program::new("ssh-keygen")?.args(["-q", "-N", "", "-C", name, "-f"]).arg(&path);
        call.args(options).run(limits::TOOL)?.ok()?;
        Ok(path)
    }

    pub fn public_key(&self, name: &str) -> Result<String> {
        let path = self.path(name).with_extension("pub");
        std::fs::read_to_string(&path).with_context(|| path.display().to_string())
    }

    /// As `ssh-keygen -l` prints it.
    pub fn fingerprint(&self, name: &str) -> Result<String> {
        let call = Program::new("ssh-keygen")?.args(["-l", "-f"]).arg(self.path(name).with_extension("pub"));
        let printed = call.run(limits::TOOL)?.ok()?.stdout;
        Ok(printed.split(' ').nth(1).context("ssh-keygen prints a fingerprint")?.to_owned())
    }

    /// Whoever has this key may log in.
    pub fn let_in(&self, name: &str) -> Result<()> {
        let path = self.path("authorized_keys");
        let before = std::fs::read_to_string(&path).unwrap_or_default();
        self.write("authorized_keys", &(before + &self.public_key(name)?)).map(drop)
    }

    /// A file beside the others, for the test user only.
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.path(name);
        std::fs::write(&path, text).with_context(|| path.display().to_string())?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        user::give(&path)?;
        Ok(path)
    }

    /// known_hosts that names the server's keys of these kinds at an address.
    pub fn known_hosts(&self, at: SocketAddr, kinds: &[&str]) -> Result<PathBuf> {
        let mut text = String::from("# hosts\n");
        for kind in kinds {
            text += &format!("[{}]:{} {}", at.ip(), at.port(), self.public_key(&format!("host_{kind}"))?);
        }
        self.write(&format!("known_hosts_{}_{}", at.port(), kinds.join("_")), &text)
    }

    /// Lines of `[repo.N.sftp]`.
    pub fn table(&self) -> Result<String> {
        self.table_at(self.address())
    }

    /// The same, where something stands before the server.
    pub fn table_at(&self, at: SocketAddr) -> Result<String> {
        let known = self.known_hosts(at, &HOST_KEYS)?;
        Ok(format!(
            "host = \"127.0.0.1\"\nport = {}\nuser = \"{}\"\n\
             private-key-file = \"{}\"\nknown-hosts-file = \"{}\"\n",
            at.port(),
            self.user,
            self.client_key().display(),
            known.display()
        ))
    }

    fn configuration(&self) -> String {
        let at = |name: &str| self.path(name).display().to_string();
        let host_keys = HOST_KEYS.map(|kind| format!("HostKey {}\n", at(&format!("host_{kind}")))).concat();
        let subsystem =
            if self.settings.contains("Subsystem") { "" } else { "Subsystem sftp internal-sftp\n" };
        format!(
            "{}\nPort {}\nListenAddress 127.0.0.1\n{host_keys}PidFile {}\nAuthorizedKeysFile {}\nStrictModes no\n\
             UsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nUseDNS no\nMaxStartups 100\n{subsystem}",
            self.settings,
            self.port.number(),
            at("sshd.pid"),
            at("authorized_keys")
        )
    }

    /// Starts it, again at the same port.
    pub fn restart(&mut self) -> Result<()> {
        self.kill()?;
        let configuration = self.write("sshd_config", &self.configuration())?;
        let call = Program::new(SSHD)?.arg("-f").arg(configuration).args(["-D", "-E"]).arg(self.path("log"));
        let running = call.start()?;
        limits::wait_for("sshd accepts connections", limits::SERVER, || {
            ensure!(!running.has_ended()?, "sshd ended: {}", self.log());
            Ok(TcpStream::connect(self.address()).ok())
        })?;
        self.running = Some(running);
        Ok(())
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// The listener and all that serve its connections, which have groups of their own.
    pub fn kill(&mut self) -> Result<()> {
        let Some(mut running) = self.running.take() else { return Ok(()) };
        // Who does not run makes no more children.
        running.signal(Signal::STOP)?;
        let doomed = descendants(running.id())?;
        running.kill()?;
        for process in doomed {
            if let Some(process) = Pid::from_raw(process) {
                // It may have ended by itself.
                let _ = rustix::process::kill_process(process, Signal::KILL);
            }
        }
        running.kill_and_wait().map(drop)
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        // A test that ends by an error has said so already.
        let _ = self.kill();
    }
}

fn name_of_user() -> Result<String> {
    let uid = user::test_user()?.uid.to_string();
    let accounts = std::fs::read_to_string("/etc/passwd").context("/etc/passwd")?;
    let line =
        accounts.lines().find(|line| line.split(':').nth(2) == Some(&uid)).context("a name of the user")?;
    Ok(line.split(':').next().unwrap_or_default().to_owned())
}

/// Children of a process, and theirs.
fn descendants(of: u32) -> Result<Vec<i32>> {
    let mut parents = BTreeMap::new();
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(process) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        // One that ended while they were listed is no matter.
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{process}/stat")) else { continue };
        let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse::<i32>().ok());
        parents.insert(process, parent.context("a process without a parent")?);
    }
    let mut found = vec![i32::try_from(of)?];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        found.extend(parents.iter().filter(|(_, of)| **of == parent).map(|(process, _)| *process));
        next += 1;
    }
    found.remove(0);
    Ok(found)
}
