//! An etcd that lets nobody in without a certificate of its own authority and a password, and what its clients need.

use super::{Context, Finished, Program, Result, Scratch, limits};
use pgconvoy_lease::testing::etcd::ServerTls;
use std::path::PathBuf;

const USER: &str = "pgconvoy";
const PASSWORD: &str = "correct horse";
/// All that the fleet's user may read and write.
const PREFIX: &str = "/pgconvoy/test/";

/// Certificates for servers and clients, which are not the fleet's own.
pub struct EtcdAccess {
    directory: PathBuf,
}

impl EtcdAccess {
    pub fn create(scratch: &Scratch) -> Result<EtcdAccess> {
        let access = EtcdAccess { directory: scratch.private_dir("etcd-pki")? };
        std::fs::write(access.path("names"), "subjectAltName = IP:127.0.0.1\n")?;
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
        access.openssl(&format!("req -x509 {key} -keyout ca.key -out ca.crt -subj /CN=etcd -days 2"))?;
        for name in ["server", "client", "root"] {
            access.openssl(&format!("req {key} -keyout {name}.key -out {name}.csr -subj /CN={name}"))?;
            access.openssl(&format!(
                "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out {name}.crt -days 2 -extfile names"
            ))?;
        }
        Ok(access)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn openssl(&self, arguments: &str) -> Result<()> {
        let program = Program::new("openssl")?.current_dir(&self.directory);
        program.args(arguments.split(' ')).run(limits::TOOL)?.ok()?;
        Ok(())
    }

    pub fn server(&self) -> Result<ServerTls> {
        let text = |name| std::fs::read_to_string(self.path(name)).with_context(|| name.to_owned());
        let (ca_pem, certificate_pem, key_pem) = (text("ca.crt")?, text("server.crt")?, text("server.key")?);
        Ok(ServerTls { ca_pem, certificate_pem, key_pem })
    }

    /// Lines of `[fleet]`, for who speaks to etcd.
    pub fn settings(&self) -> String {
        let directory = self.directory.display();
        format!(
            "etcd-ca-file = \"{directory}/ca.crt\"\netcd-cert-file = \"{directory}/client.crt\"\n\
             etcd-key-file = \"{directory}/client.key\"\netcd-user = \"{USER}\"\netcd-password = \"{PASSWORD}\"\n"
        )
    }

    /// Options of `etcdctl`, for who looks on from outside. To etcd the name in this certificate is a user's.
    pub fn of_root(&self) -> Vec<String> {
        let option = |option: &str, name| format!("--{option}={}", self.path(name).display());
        vec![option("cacert", "ca.crt"), option("cert", "root.crt"), option("key", "root.key")]
    }
}

/// Makes a user who may do everything in the fleet and nothing elsewhere; from now on nobody else gets in, but for root.
pub fn demand_logins(etcdctl: impl Fn(&[&str]) -> Result<Finished>) -> Result<()> {
    let user = format!("{USER}:{PASSWORD}");
    let commands: [&[&str]; 8] = [
        &["user", "add", "root:root's"],
        &["role", "add", "root"],
        &["user", "grant-role", "root", "root"],
        &["user", "add", &user],
        &["role", "add", "fleet"],
        &["role", "grant-permission", "fleet", "readwrite", PREFIX, "--prefix"],
        &["user", "grant-role", USER, "fleet"],
        &["auth", "enable"],
    ];
    commands.into_iter().try_for_each(|command| etcdctl(command)?.ok().map(drop))
}
