//! Where the server is, who logs in there, and whom to believe.

use pgconvoy_core::config::{Secret, SftpConfig};
use std::path::PathBuf;

/// What the configuration says of one server.
#[derive(Debug, Clone)]
pub struct SftpOptions {
    pub host: String,
    pub port: u16,
    pub user: String,
    pub private_key_file: PathBuf,
    pub private_key_passphrase: Option<Secret>,
    pub known_hosts_file: Option<PathBuf>,
    pub host_fingerprint: Option<String>,
    /// The directory on the server, an absolute path.
    pub path: String,
    /// Whether the directory may be made.
    pub creates_path: bool,
}

impl SftpOptions {
    pub fn new(config: &SftpConfig, path: &str, creates_path: bool) -> Self {
        SftpOptions {
            host: config.host.clone(),
            port: config.port,
            user: config.user.clone(),
            private_key_file: (&config.private_key_file).into(),
            private_key_passphrase: config.private_key_passphrase.clone(),
            known_hosts_file: config.known_hosts_file.as_ref().map(PathBuf::from),
            host_fingerprint: config.host_fingerprint.clone(),
            path: format!("/{}", path.trim_matches('/')),
            creates_path,
        }
    }

    /// For people: `sftp:user@host:port/path`.
    pub fn describe(&self) -> String {
        format!("sftp:{}@{}:{}{}", self.user, self.host, self.port, self.path)
    }
}
