//! `[repo.N.s3]` and its siblings: how to reach the service that holds a repository.

use super::choices::{AzureKeyType, GcsKeyType, RepoType, S3KeyType, UriStyle};
use super::sheet::{Driver, Reader};
use super::value::Secret;
use std::collections::BTreeMap;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RepoKind {
    Posix,
    S3(S3Config),
    Azure(AzureConfig),
    Gcs(GcsConfig),
    Sftp(SftpConfig),
}

impl RepoKind {
    pub fn repo_type(&self) -> RepoType {
        match self {
            RepoKind::Posix => RepoType::Posix,
            RepoKind::S3(_) => RepoType::S3,
            RepoKind::Azure(_) => RepoType::Azure,
            RepoKind::Gcs(_) => RepoType::Gcs,
            RepoKind::Sftp(_) => RepoType::Sftp,
        }
    }

    /// What tells two repositories of one kind apart, besides the path.
    pub(super) fn address(&self) -> (&'static str, &str, &str) {
        let kind = self.repo_type().as_str();
        match self {
            RepoKind::Posix => (kind, "", ""),
            RepoKind::S3(s3) => (kind, &s3.endpoint, &s3.bucket),
            RepoKind::Azure(azure) => (kind, &azure.account, &azure.container),
            RepoKind::Gcs(gcs) => (kind, &gcs.endpoint, &gcs.bucket),
            RepoKind::Sftp(sftp) => (kind, &sftp.host, ""),
        }
    }
}

/// How the server's certificate is judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreTls {
    pub ca_file: Option<String>,
    pub verify: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Config {
    pub bucket: String,
    pub endpoint: String,
    pub region: String,
    pub uri_style: UriStyle,
    pub key_type: S3KeyType,
    pub key: Option<Secret>,
    pub key_secret: Option<Secret>,
    pub token: Option<Secret>,
    pub role: Option<String>,
    pub process_command: Vec<String>,
    pub kms_key_id: Option<String>,
    pub sse_customer_key: Option<Secret>,
    pub storage_class: Option<String>,
    pub requester_pays: bool,
    pub tls: StoreTls,
    pub tags: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AzureConfig {
    pub account: String,
    pub container: String,
    pub key_type: AzureKeyType,
    pub key: Option<Secret>,
    pub endpoint: String,
    pub uri_style: UriStyle,
    pub tls: StoreTls,
    pub tags: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GcsConfig {
    pub bucket: String,
    pub key_type: GcsKeyType,
    pub key_file: Option<String>,
    pub endpoint: String,
    pub user_project: Option<String>,
    pub tls: StoreTls,
    pub tags: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SftpConfig {
    pub host: String,
    pub port: u16,
    pub user: String,
    pub private_key_file: String,
    pub private_key_passphrase: Option<Secret>,
    pub known_hosts_file: Option<String>,
    pub host_fingerprint: Option<String>,
}

pub(super) fn read(driver: Driver, table: &mut Reader<'_>) -> RepoKind {
    match driver {
        Driver::S3 => RepoKind::S3(s3(table)),
        Driver::Azure => RepoKind::Azure(azure(table)),
        Driver::Gcs => RepoKind::Gcs(gcs(table)),
        Driver::Sftp => RepoKind::Sftp(sftp(table)),
    }
}

fn s3(table: &mut Reader<'_>) -> S3Config {
    let config = S3Config {
        bucket: table.get_required("bucket"),
        endpoint: table.get_required("endpoint"),
        region: table.get_required("region"),
        uri_style: table.get_default("uri-style"),
        key_type: table.get_default("key-type"),
        key: table.get("key"),
        key_secret: table.get("key-secret"),
        token: table.get("token"),
        role: table.get("role"),
        process_command: table.get("process-command").unwrap_or_default(),
        kms_key_id: table.get("kms-key-id"),
        sse_customer_key: table.get("sse-customer-key"),
        storage_class: table.get("storage-class"),
        requester_pays: table.get_default("requester-pays"),
        tls: tls(table),
        tags: table.get("tags").unwrap_or_default(),
    };
    match config.key_type {
        S3KeyType::Shared => need(table, "key-type", config.key_type.as_str(), &["key", "key-secret"]),
        S3KeyType::Process => need(table, "key-type", config.key_type.as_str(), &["process-command"]),
        S3KeyType::Auto | S3KeyType::WebId => {}
    }
    if config.kms_key_id.is_some() && config.sse_customer_key.is_some() {
        table.complain(
            "kms-key-id",
            "kms-key-id and sse-customer-key contradict each other".into(),
            "keep one of the two",
        );
    }
    config
}

fn azure(table: &mut Reader<'_>) -> AzureConfig {
    let config = AzureConfig {
        account: table.get_required("account"),
        container: table.get_required("container"),
        key_type: table.get_default("key-type"),
        key: table.get("key"),
        endpoint: table.get_default("endpoint"),
        uri_style: table.get_default("uri-style"),
        tls: tls(table),
        tags: table.get("tags").unwrap_or_default(),
    };
    if config.key_type != AzureKeyType::Auto {
        need(table, "key-type", config.key_type.as_str(), &["key"]);
    }
    config
}

fn gcs(table: &mut Reader<'_>) -> GcsConfig {
    let config = GcsConfig {
        bucket: table.get_required("bucket"),
        key_type: table.get_default("key-type"),
        key_file: table.get("key-file"),
        endpoint: table.get_default("endpoint"),
        user_project: table.get("user-project"),
        tls: tls(table),
        tags: table.get("tags").unwrap_or_default(),
    };
    if config.key_type != GcsKeyType::Auto {
        need(table, "key-type", config.key_type.as_str(), &["key-file"]);
    }
    config
}

fn sftp(table: &mut Reader<'_>) -> SftpConfig {
    let config = SftpConfig {
        host: table.get_required("host"),
        port: table.get_default("port"),
        user: table.get_required("user"),
        private_key_file: table.get_required("private-key-file"),
        private_key_passphrase: table.get("private-key-passphrase"),
        known_hosts_file: table.get("known-hosts-file"),
        host_fingerprint: table.get("host-fingerprint"),
    };
    if config.known_hosts_file.is_none() && config.host_fingerprint.is_none() {
        let hint = "add known-hosts-file or host-fingerprint (ssh-keyscan HOST | ssh-keygen -lf - prints it)";
        table.complain_here("nothing says which host key to trust".into(), hint);
    }
    config
}

fn tls(table: &Reader<'_>) -> StoreTls {
    StoreTls { ca_file: table.get("ca-file"), verify: table.get_default("verify-tls") }
}

/// What one setting makes necessary.
fn need(table: &mut Reader<'_>, because: &str, is: &str, names: &[&str]) {
    for name in names.iter().filter(|name| !table.is_set(name)).collect::<Vec<_>>() {
        table.complain(
            because,
            format!("{because} = \"{is}\" needs '{name}'"),
            format!("add {name}, or choose another {because}"),
        );
    }
}
