//! The rows. Names, meanings, ranges and defaults are pgBackRest's wherever pgBackRest has the setting.

use super::super::choices::{
    AzureKeyType, BackupStandby, CipherType, CompressType, CreateOnlyBy, GcsKeyType, Layout, LockMode,
    LogFormat, LogLevel, Offload, PageErrors, RepoType, RetentionArchiveType, RetentionFullType, S3KeyType,
    TlsMode, UriStyle,
};
use super::super::value::{Element, ValueType};
use super::{OptionSpec, Section};
use crate::units::{GIB, KIB, MIB};
use ValueType::Secret as Hidden;
use ValueType::{Boolean, Choice, Duration, Integer, List, Listen, Map, Name, Path, Schedule, Size, Text};

const PIB: u64 = GIB << 20;
const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// pgBackRest's largest retention.
const RETENTION_MAX: i64 = 9_999_999;
/// A hundred years, the longest retention that all services take.
const LOCK_MAX: u64 = 36_500 * DAY;
/// pgBackRest's largest number of processes.
const PROCESS_MAX: i64 = 999;
const PORT: ValueType = Integer(1, 65_535);

const ARCHIVE: &[&str] = &["archive-push", "archive-get"];
const BACKUP: &[&str] = &["backup"];
const BACKUP_CHECK: &[&str] = &["backup", "check"];
const BACKUP_PUSH: &[&str] = &["backup", "archive-push"];
const BACKUP_CHECK_PUSH: &[&str] = &["backup", "check", "archive-push"];
const BACKUP_CHECK_ARCHIVE: &[&str] = &["backup", "check", "archive-push", "archive-get"];
const DATABASE: &[&str] = &["backup", "check", "stanza-create"];
const PARALLEL: &[&str] = &["backup", "restore", "verify", "repo-sync", "archive-push", "archive-get"];
const REPOSITORY: &[&str] = &[
    "stanza-create",
    "check",
    "backup",
    "restore",
    "archive-push",
    "archive-get",
    "info",
    "verify",
    "manifest",
    "repo-ls",
    "repo-get",
    "repo-sync",
];

const fn repo(name: &'static str, value_type: ValueType, help: &'static str) -> OptionSpec {
    OptionSpec::new(Section::Repo, name, value_type, help)
}
const fn s3(name: &'static str, value_type: ValueType, help: &'static str) -> OptionSpec {
    OptionSpec::new(Section::S3, name, value_type, help)
}
const fn azure(name: &'static str, value_type: ValueType, help: &'static str) -> OptionSpec {
    OptionSpec::new(Section::Azure, name, value_type, help)
}
const fn gcs(name: &'static str, value_type: ValueType, help: &'static str) -> OptionSpec {
    OptionSpec::new(Section::Gcs, name, value_type, help)
}
const fn sftp(name: &'static str, value_type: ValueType, help: &'static str) -> OptionSpec {
    OptionSpec::new(Section::Sftp, name, value_type, help)
}
const fn backup(name: &'static str, value_type: ValueType, help: &'static str) -> OptionSpec {
    OptionSpec::new(Section::Backup, name, value_type, help)
}
const fn stanza(name: &'static str, value_type: ValueType, help: &'static str) -> OptionSpec {
    OptionSpec::new(Section::Stanza, name, value_type, help)
}
const fn pg(name: &'static str, value_type: ValueType, help: &'static str) -> OptionSpec {
    OptionSpec::new(Section::Pg, name, value_type, help)
}
const fn paths(name: &'static str, help: &'static str) -> OptionSpec {
    OptionSpec::new(Section::Paths, name, Path, help)
}
const fn log(name: &'static str, value_type: ValueType, help: &'static str) -> OptionSpec {
    OptionSpec::new(Section::Log, name, value_type, help)
}
const fn fleet(name: &'static str, value_type: ValueType, help: &'static str) -> OptionSpec {
    OptionSpec::new(Section::Fleet, name, value_type, help)
}
const fn coordinator(name: &'static str, value_type: ValueType, help: &'static str) -> OptionSpec {
    OptionSpec::new(Section::Coordinator, name, value_type, help)
}
const fn worker(name: &'static str, value_type: ValueType, help: &'static str) -> OptionSpec {
    OptionSpec::new(Section::Worker, name, value_type, help)
}

#[rustfmt::skip]
pub(super) const OPTIONS: &[OptionSpec] = &[
    repo("type", Choice(RepoType::NAMES), "what kind of place the repository is").default("posix"),
    repo("path", Path, "directory, or prefix of all object names, that holds the repository (required for posix and sftp; else /)"),
    repo("layout", Choice(Layout::NAMES), "packs of frames, or data directories that PostgreSQL can be started on (posix only)").default("packed"),
    repo("cipher", Choice(CipherType::NAMES), "encryption of all that is stored; default: aes-256-gcm where a key is named, else none"),
    repo("key-file", Path, "file with 32 random bytes in base64 that opens the repository"),
    repo("passphrase-file", Path, "file with a passphrase that opens the repository"),
    repo("key-command", List(Element::Text), "program and arguments that print the key which opens the repository"),
    repo("retention-full-type", Choice(RetentionFullType::NAMES), "whether retention-full counts backups or days").default("count"),
    repo("retention-full", Integer(1, RETENTION_MAX), "full backups, or days, to keep; all when absent"),
    repo("retention-diff", Integer(1, RETENTION_MAX), "differential backups to keep; those of the kept full backups when absent"),
    repo("retention-archive-type", Choice(RetentionArchiveType::NAMES), "which backups retention-archive counts").default("full"),
    repo("retention-archive", Integer(1, RETENTION_MAX), "backups whose WAL is kept without a gap; those that are kept when absent"),
    repo("retention-history", Integer(0, RETENTION_MAX), "days to keep the manifests of expired backups; for ever when absent"),
    repo("compress-type", Choice(CompressType::NAMES), "compression of what goes into this repository; that of the backup when absent"),
    repo("compress-level", Integer(-7, 22), "level of this repository's compress-type; that codec's default when absent"),
    repo("bandwidth-max", Size(64 * KIB, PIB), "bytes per second that each worker and each command moves to and from the repository; unlimited when absent"),
    repo("lock-mode", Choice(LockMode::NAMES), "who may remove what was stored before lock-period is over: whoever has that right, or nobody (Object Lock of s3, azure and gcs); no lock when absent"),
    repo("lock-period", Duration(HOUR, LOCK_MAX), "how long each object that lasts is locked from the moment when it is written"),
    repo("create-only", Choice(CreateOnlyBy::NAMES), "what keeps an object from being replaced by another one of its name: the store, or, for a store that cannot, a lock among the processes of each host ('lock': two hosts are then kept apart only by the locks that a fleet's jobs hold, and WAL of a stanza must come from one host)").default("store"),
    repo("required", Boolean, "whether a backup that misses this repository is a failure").default("y"),

    s3("bucket", Text, "bucket").required(),
    s3("endpoint", Text, "address of the service, with http:// for an unencrypted one").required(),
    s3("region", Text, "region of the bucket").required(),
    s3("uri-style", Choice(UriStyle::NAMES), "whether the bucket is part of the host name or of the path").default("host"),
    s3("key-type", Choice(S3KeyType::NAMES), "where credentials come from").default("shared"),
    s3("key", Hidden, "access key of key-type shared"),
    s3("key-secret", Hidden, "secret key of key-type shared"),
    s3("token", Hidden, "session token of key-type shared"),
    s3("role", Text, "role to assume with key-type auto or web-id; the instance's own when absent"),
    s3("process-command", List(Element::Text), "program and arguments that print credentials, for key-type process"),
    s3("kms-key-id", Text, "key of the service's own encryption (SSE-KMS)"),
    s3("sse-customer-key", Hidden, "key of the service's encryption with a customer's key (SSE-C)"),
    s3("storage-class", Text, "storage class of what is written; the bucket's default when absent"),
    s3("requester-pays", Boolean, "accept the costs of requests to another account's bucket").default("n"),
    s3("ca-file", Path, "certificates to trust instead of the system's"),
    s3("verify-tls", Boolean, "whether the service's certificate is checked").default("y"),
    s3("tags", Map, "tags of each object that is written"),

    azure("account", Text, "storage account").required(),
    azure("container", Text, "container").required(),
    azure("key-type", Choice(AzureKeyType::NAMES), "shared key, shared access signature, or the machine's managed identity").default("shared"),
    azure("key", Hidden, "key or signature of key-type shared or sas"),
    azure("endpoint", Text, "address of the service").default("blob.core.windows.net"),
    azure("uri-style", Choice(UriStyle::NAMES), "whether the account is part of the host name or of the path").default("host"),
    azure("ca-file", Path, "certificates to trust instead of the system's"),
    azure("verify-tls", Boolean, "whether the service's certificate is checked").default("y"),
    azure("tags", Map, "tags of each object that is written"),

    gcs("bucket", Text, "bucket").required(),
    gcs("key-type", Choice(GcsKeyType::NAMES), "service account, access token, or the machine's own identity").default("service"),
    gcs("key-file", Path, "file with the service account's JSON key, or the token"),
    gcs("endpoint", Text, "address of the service").default("storage.googleapis.com"),
    gcs("user-project", Text, "project that pays for the requests"),
    gcs("ca-file", Path, "certificates to trust instead of the system's"),
    gcs("verify-tls", Boolean, "whether the service's certificate is checked").default("y"),
    gcs("tags", Map, "metadata of each object that is written"),

    sftp("host", Text, "host name or address").required(),
    sftp("port", PORT, "port of the SSH server").default("22"),
    sftp("user", Text, "user to log in as").required(),
    sftp("private-key-file", Path, "private key to log in with").required(),
    sftp("private-key-passphrase", Hidden, "passphrase of the private key"),
    sftp("known-hosts-file", Path, "host keys to trust, in the format of known_hosts"),
    sftp("host-fingerprint", Text, "SHA-256 fingerprint of the one host key to trust"),

    backup("compress-type", Choice(CompressType::NAMES), "compression").default("zst").on(BACKUP_PUSH),
    backup("compress-level", Integer(-7, 22), "level: lz4 -5..12 (1), zst -7..22 (3), gz -1..9 (6), bz2 1..9 (9)").on(BACKUP_PUSH),
    backup("process-max", Integer(1, PROCESS_MAX), "units, files or segments to work on at once; a quarter of the cores when absent").on(PARALLEL),
    backup("start-fast", Boolean, "start with an immediate checkpoint instead of waiting for the next").default("n").on(BACKUP),
    backup("delta", Boolean, "compare with the prior backup by checksum, not by time and size").default("n").on(BACKUP),
    backup("resume", Boolean, "go on from a backup that was interrupted").default("y").on(BACKUP),
    backup("backup-standby", Choice(BackupStandby::NAMES), "read from standbys: never, where one is fit, or only").default("n").on(BACKUP_CHECK),
    backup("archive-check", Boolean, "wait until the WAL that the backup needs is in each repository").default("y").on(BACKUP_CHECK_PUSH),
    backup("archive-mode-check", Boolean, "refuse a server whose archive_mode is not fit").default("y").on(BACKUP_CHECK_PUSH),
    backup("archive-header-check", Boolean, "refuse a WAL segment whose header names another cluster").default("y").on(&["archive-push"]),
    backup("archive-copy", Boolean, "store the WAL that makes the backup consistent with the backup too").default("n").on(BACKUP),
    backup("checksum-page", Boolean, "check the checksum of each page; as the cluster has them enabled when absent").on(BACKUP),
    backup("page-errors", Choice(PageErrors::NAMES), "pages that do not match their checksums: warn and publish the backup, or fail").default("warn").on(BACKUP),
    backup("exclude", List(Element::Text), "paths below the data directory to leave out (repeatable; a slash at the end: only what is in it)").on(BACKUP),
    backup("expire-auto", Boolean, "apply retention after a successful backup").default("y").on(BACKUP),
    backup("annotation", Map, "key=value notes on the backup (repeatable)").on(BACKUP),
    backup("unit-size", Size(MIB, GIB), "size of a unit of work; doubled until a backup has at most 20,000 of them").default("32MiB").on(BACKUP),
    backup("file-sha1", Boolean, "compute a SHA-1 of each file besides the fast hash of its blocks").default("n").on(BACKUP),
    backup("offload", Choice(Offload::NAMES), "whether compute workers take the work off the database's host").default("never").on(BACKUP),
    backup("session-orphan-timeout", Duration(MINUTE, DAY), "how long a backup session outlives all coordinators").default("1h"),
    backup("archive-timeout", Duration(100, DAY), "how long to wait for a WAL segment").default("1m").on(BACKUP_CHECK_ARCHIVE),
    backup("archive-async", Boolean, "push and fetch WAL ahead in the background").default("n").on(ARCHIVE),
    backup("archive-push-queue-max", Size(0, 4 * PIB), "WAL waiting to be pushed beyond which it is dropped, so that the server keeps running; unlimited when absent").on(&["archive-push"]),
    backup("archive-stream", Boolean, "let the worker on the database's host receive WAL as it is written too").default("n"),
    backup("archive-stream-retain-max", Size(16 * MIB, 4 * PIB), "WAL that the server may keep for that; beyond it the stream begins anew").default("8GiB"),
    backup("archive-get-queue-max", Size(0, 4 * PIB), "WAL to fetch ahead").default("128MiB").on(&["archive-get"]),
    backup("db-timeout", Duration(100, 7 * DAY), "how long to wait for an answer of PostgreSQL").default("30m").on(DATABASE),
    backup("io-timeout", Duration(100, HOUR), "how long to wait for an answer of a repository").default("1m").on(REPOSITORY),

    stanza("repos", List(Element::Repo), "repositories that the stanza uses; all when absent"),
    stanza("schedule", Schedule, "when a coordinator starts what, as cron lines"),

    pg("path", Path, "data directory").required(),
    pg("port", PORT, "port of the server").default("5432"),
    pg("socket-path", Path, "directory of the server's Unix socket; the system's usual ones when absent"),
    pg("user", Text, "user to connect as; the one who runs the program when absent"),
    pg("database", Text, "database to connect to").default("postgres"),
    pg("host", Name, "worker that sees the data directory; this machine when absent"),
    pg("address", Text, "host name or address to connect to over TCP instead of the socket"),
    pg("tls", Choice(TlsMode::NAMES), "encryption of a TCP connection, as sslmode of libpq").default("prefer"),
    pg("ca-file", Path, "certificates that may vouch for the server, for tls = verify-full"),
    pg("password-file", Path, "file in the format of .pgpass"),

    paths("lock", "lock and stop files").default("/var/lib/pgconvoy/lock").everywhere("lock-path"),
    paths("spool", "WAL on its way in the background").default("/var/spool/pgconvoy").everywhere("spool-path"),
    paths("log", "log files").default("/var/log/pgconvoy").everywhere("log-path"),

    log("level-console", Choice(LogLevel::NAMES), "what is logged to stderr").default("warn").everywhere("log-level-console"),
    log("level-file", Choice(LogLevel::NAMES), "what is logged to a file").default("info").everywhere("log-level-file"),
    log("format", Choice(LogFormat::NAMES), "lines of text or of JSON").default("text").everywhere("log-format"),

    fleet("name", Name, "name of the fleet, part of all its keys in etcd").required(),
    fleet("etcd", List(Element::Url), "etcd's endpoints (coordinators only)"),
    fleet("etcd-ca-file", Path, "certificates that may vouch for etcd"),
    fleet("etcd-cert-file", Path, "certificate to show to etcd"),
    fleet("etcd-key-file", Path, "key of that certificate"),
    fleet("etcd-user", Text, "user of etcd"),
    fleet("etcd-password", Hidden, "password of that user"),
    fleet("coordinators", List(Element::HostPort), "where workers connect (QUIC, UDP)"),
    fleet("api", List(Element::Url), "coordinators that take jobs; absent: this process does the work itself"),
    fleet("ca-file", Path, "certificates that may vouch for members of the fleet"),
    fleet("cert-file", Path, "certificate of this member"),
    fleet("key-file", Path, "key of that certificate"),
    fleet("token-file", Path, "file with the token for the API"),

    coordinator("quic-listen", Listen, "where workers are served (QUIC, UDP)").default("0.0.0.0:7432"),
    coordinator("http-listen", Listen, "where the API and the dashboard are served").default("0.0.0.0:7433"),
    coordinator("quic-address", Text, "host:port by which workers reach this coordinator; from quic-listen and the host's name when absent"),
    coordinator("http-address", Text, "host:port by which others reach its API; from http-listen and the host's name when absent"),

    worker("name", Name, "name of this worker; the host's when absent"),
    worker("slots", Integer(1, PROCESS_MAX), "units to work on at once; a quarter of the cores when absent"),
    worker("bandwidth-max", Size(64 * KIB, PIB), "bytes of data files per second that this worker takes in; unlimited when absent"),
    worker("compute", List(Element::Text), "stanzas whose units it computes for others, \"*\" for all; none when absent"),
    worker("listen", Listen, "where compute workers fetch ranges (QUIC, UDP); it serves none when absent"),
    worker("address", Text, "host:port by which compute workers reach this source; from listen and the host's name when absent"),
    worker("labels", Map, "notes on this worker for people and metrics"),
];
