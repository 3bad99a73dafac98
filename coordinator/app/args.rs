//! What was typed: commands and options, and nothing of what they mean (`settings`).
//!
//! Options that are settings of the configuration come from its registry, options that belong to one command are
//! declared here. Both are accepted before and after the command, and every switch has a `--no-` form.
//!
//! Invariant: whatever is typed ends in a [`Typed`], in text to show, or in a failure with one of pgBackRest's codes.

mod definition;
mod fleet;
mod mistake;
mod order;
mod parse;
mod submitted;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

pub use definition::definition;
pub use fleet::{
    CertCommand, JobArgs, JobCommand, MemberRole, OutputArgs, PkiDir, TokenCommand, TokenRoleName,
    WorkerArgs, WorkersCommand,
};
pub use parse::{Parsed, Typed, parse};
pub use submitted::as_typed;

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "pgconvoy",
    about = "Backup and restore for PostgreSQL, from one laptop to fleets of multi-terabyte clusters",
    disable_help_subcommand = true,
    disable_version_flag = true,
    subcommand_value_name = "COMMAND",
    subcommand_help_heading = "Commands"
)]
pub struct Cli {
    #[command(flatten)]
    pub common: Common,
    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Debug, Clone, Args)]
pub struct Common {
    /// Configuration file
    #[arg(long, global = true, value_name = "FILE", help_heading = "General options")]
    pub config: Option<PathBuf>,
    /// Stanza to work on
    #[arg(long, global = true, value_name = "NAME", help_heading = "General options")]
    pub stanza: Option<String>,
    /// Do the work in this process even where the configuration names a fleet
    #[arg(long, global = true, help_heading = "General options")]
    pub embedded: bool,
    /// Print the version
    #[arg(long, global = true, help_heading = "General options")]
    pub version: bool,
}

#[derive(Debug, Clone, Subcommand)]
#[command(rename_all = "kebab-case")]
pub enum Command {
    /// Prepare all repositories for a stanza
    StanzaCreate(StanzaCreateArgs),
    /// Prove that configuration, cluster, WAL archiving and every repository work
    Check(CheckArgs),
    /// Back up a stanza to all repositories at once
    Backup(BackupArgs),
    /// Rebuild a data directory from a backup
    Restore(Box<RestoreArgs>),
    /// Store a WAL file in all repositories (archive_command)
    ArchivePush(ArchivePushArgs),
    /// Fetch a WAL file (restore_command)
    ArchiveGet(ArchiveGetArgs),
    /// Show stanzas, backups and WAL
    Info(InfoArgs),
    /// Read what is stored and conclude what can be restored, from each repository and from all together
    Verify(VerifyArgs),
    /// Show what a backup holds
    Manifest(ManifestArgs),
    /// List what a repository holds
    RepoLs(RepoLsArgs),
    /// Print an object of a repository, decrypted and decompressed
    RepoGet(RepoGetArgs),
    /// Copy backups and WAL that one repository lacks from another, without asking PostgreSQL
    RepoSync(RepoSyncArgs),
    /// Keys of repositories
    #[command(subcommand)]
    RepoKey(RepoKeyCommand),
    /// Jobs of the fleet
    #[command(subcommand)]
    Job(JobCommand),
    /// Serve a fleet as one of its coordinators, until told to stop
    Coordinator,
    /// Serve a fleet's coordinators on this host, until told to stop
    Worker,
    /// Workers of the fleet
    #[command(subcommand)]
    Workers(WorkersCommand),
    /// Tokens for the fleet's API
    #[command(subcommand)]
    Token(TokenCommand),
    /// Certificates of the fleet's members
    #[command(subcommand)]
    Cert(CertCommand),
    /// Check or show the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print the version
    Version(VersionArgs),
    /// Explain a command, or one option of it
    Help(HelpArgs),
    /// Print completions for a shell
    Completions(CompletionsArgs),
    /// Print a man page
    Man(ManArgs),
}

impl Command {
    /// As it is typed, and as the configuration's registry knows it.
    pub const fn name(&self) -> &'static str {
        match self {
            Command::StanzaCreate(_) => "stanza-create",
            Command::Check(_) => "check",
            Command::Backup(_) => "backup",
            Command::Restore(_) => "restore",
            Command::ArchivePush(_) => "archive-push",
            Command::ArchiveGet(_) => "archive-get",
            Command::Info(_) => "info",
            Command::Verify(_) => "verify",
            Command::Manifest(_) => "manifest",
            Command::RepoLs(_) => "repo-ls",
            Command::RepoGet(_) => "repo-get",
            Command::RepoSync(_) => "repo-sync",
            Command::RepoKey(_) => "repo-key",
            Command::Job(_) => "job",
            Command::Coordinator => "coordinator",
            Command::Worker => "worker",
            Command::Workers(_) => "workers",
            Command::Token(_) => "token",
            Command::Cert(_) => "cert",
            Command::Config(_) => "config",
            Command::Version(_) => "version",
            Command::Help(_) => "help",
            Command::Completions(_) => "completions",
            Command::Man(_) => "man",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BackupType {
    Full,
    Diff,
    Incr,
}

#[derive(Debug, Clone, Args)]
pub struct StanzaCreateArgs {
    /// Do not ask PostgreSQL: read the data directory of a stopped cluster
    #[arg(long = "no-online", action = ArgAction::SetFalse)]
    pub online: bool,
    /// Accept with --no-online that a postmaster seems to be running
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Clone, Args)]
pub struct BackupArgs {
    /// What to compare with: nothing, the last full backup, or the last backup
    #[arg(long = "type", value_enum, value_name = "TYPE", default_value = "incr")]
    pub backup_type: BackupType,
    /// Repository to back up to (repeatable; default: all of the stanza)
    #[arg(long, value_name = "N", value_parser = definition::repo_number())]
    pub repo: Vec<u16>,
    /// Back up a stopped cluster
    #[arg(long = "no-online", action = ArgAction::SetFalse)]
    pub online: bool,
    /// Accept with --no-online that a postmaster seems to be running
    #[arg(long)]
    pub force: bool,
    /// Show units, bytes and estimated time, and do nothing
    #[arg(long)]
    pub plan: bool,
    /// Print the job's id and do not wait for it
    #[arg(long)]
    pub detach: bool,
    /// Form of the result
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "text")]
    pub output: Output,
}

#[derive(Debug, Clone, Args)]
pub struct CheckArgs {
    /// Form of the result
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "text")]
    pub output: Output,
}

#[derive(Debug, Clone, Args)]
pub struct RestoreArgs {
    /// Backup to restore: a label, or latest
    #[arg(long, value_name = "LABEL", default_value = "latest")]
    pub set: String,
    /// Repository to restore from (default: any of the stanza that has what is needed)
    #[arg(long, value_name = "N", value_parser = definition::repo_number())]
    pub repo: Option<u16>,
    /// Repository as it was at this time (YYYY-MM-DD HH:MM:SS+OFFSET), in a store that keeps versions; needs --repo
    #[arg(long, value_name = "TIME")]
    pub repo_target_time: Option<String>,
    /// Keep what is in the target already and equals the backup
    #[arg(long)]
    pub delta: bool,
    /// Go on where a precaution would stop
    #[arg(long)]
    pub force: bool,
    /// How far PostgreSQL recovers: default, immediate, lsn, name, time, xid, standby, preserve or none
    #[arg(long = "type", value_name = "TYPE", default_value = "default")]
    pub recovery_type: String,
    /// The recovery target: an LSN, the name of a restore point, a time (YYYY-MM-DD HH:MM:SS+OFFSET) or a transaction
    #[arg(long, value_name = "TARGET", allow_hyphen_values = true)]
    pub target: Option<String>,
    /// What PostgreSQL does at the recovery target: pause, promote or shutdown
    #[arg(long, value_name = "ACTION")]
    pub target_action: Option<String>,
    /// End just before the recovery target, not just after it
    #[arg(long)]
    pub target_exclusive: bool,
    /// Timeline at which to arrive: latest, current or a number (default: PostgreSQL's)
    #[arg(long, value_name = "TIMELINE")]
    pub target_timeline: Option<String>,
    /// A recovery setting of PostgreSQL's, such as primary_conninfo (repeatable)
    #[arg(long, value_name = "NAME=VALUE")]
    pub recovery_option: Vec<String>,
    /// Whether the restored cluster archives: preserve (as in the backup) or off
    #[arg(long, value_name = "MODE", default_value = "preserve")]
    pub archive_mode: String,
    /// Restore the data of this database, by name or number, and of no other user's (repeatable)
    #[arg(long, value_name = "DATABASE")]
    pub db_include: Vec<String>,
    /// Leave out the data of this database, by name or number: it can only be dropped afterwards (repeatable)
    #[arg(long, value_name = "DATABASE")]
    pub db_exclude: Vec<String>,
    /// Put a tablespace, by name or number, into a directory (repeatable)
    #[arg(long, value_name = "TABLESPACE=DIR")]
    pub tablespace_map: Vec<String>,
    /// Put all tablespaces that are not mapped below a directory
    #[arg(long, value_name = "DIR")]
    pub tablespace_map_all: Option<String>,
    /// Let a link of the data directory point to a file or directory (repeatable)
    #[arg(long, value_name = "LINK=PATH")]
    pub link_map: Vec<String>,
    /// Restore all links as links
    #[arg(long)]
    pub link_all: bool,
    /// Target directory (default: the stanza's data directory on this machine)
    #[arg(long, alias = "pg1-path", value_name = "DIR")]
    pub pg_path: Option<PathBuf>,
    /// Write PostgreSQL's own backup_manifest too, for pg_verifybackup
    #[arg(long)]
    pub backup_manifest: bool,
    /// Worker of the fleet that restores, on its own host (repeatable: those that see the target share it)
    #[arg(long, value_name = "NAME")]
    pub worker: Vec<String>,
    /// Form of the result
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "text")]
    pub output: Output,
}

#[derive(Debug, Clone, Args)]
pub struct ArchivePushArgs {
    /// WAL file, as %p of archive_command
    #[arg(value_name = "PATH")]
    pub path: PathBuf,
    /// Data directory that a relative path starts from (default: the current directory)
    #[arg(long, alias = "pg1-path", value_name = "DIR")]
    pub pg_path: Option<PathBuf>,
    /// Be the process that pushes ahead of the commands, which start it
    #[arg(long, hide = true)]
    pub background: bool,
}

#[derive(Debug, Clone, Args)]
pub struct ArchiveGetArgs {
    /// Name of the WAL file, as %f of restore_command
    #[arg(value_name = "FILE")]
    pub file: String,
    /// Where to put it, as %p of restore_command
    #[arg(value_name = "DEST")]
    pub destination: PathBuf,
    /// Repository to ask (default: all of the stanza)
    #[arg(long, value_name = "N", value_parser = definition::repo_number())]
    pub repo: Option<u16>,
    /// Repository as it was at this time (YYYY-MM-DD HH:MM:SS+OFFSET), in a store that keeps versions; needs --repo
    #[arg(long, value_name = "TIME")]
    pub repo_target_time: Option<String>,
    /// Data directory of the server that recovers (default: the current directory)
    #[arg(long, alias = "pg1-path", value_name = "DIR")]
    pub pg_path: Option<PathBuf>,
    /// Be the process that fetches ahead of the commands, which start it
    #[arg(long, hide = true)]
    pub background: bool,
}

#[derive(Debug, Clone, Args)]
pub struct InfoArgs {
    /// One backup in detail
    #[arg(long, value_name = "LABEL")]
    pub set: Option<String>,
    /// Only backups of this type
    #[arg(long = "type", value_enum, value_name = "TYPE")]
    pub backup_type: Option<BackupType>,
    /// Only this repository
    #[arg(long, value_name = "N", value_parser = definition::repo_number())]
    pub repo: Option<u16>,
    /// Repository as it was at this time (YYYY-MM-DD HH:MM:SS+OFFSET), in a store that keeps versions; needs --repo
    #[arg(long, value_name = "TIME")]
    pub repo_target_time: Option<String>,
    /// Form of the result
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "text")]
    pub output: Output,
}

#[derive(Debug, Clone, Args)]
pub struct VerifyArgs {
    /// Only this backup and what it needs
    #[arg(long, value_name = "LABEL")]
    pub set: Option<String>,
    /// Only this repository
    #[arg(long, value_name = "N", value_parser = definition::repo_number())]
    pub repo: Option<u16>,
    /// Repository as it was at this time (YYYY-MM-DD HH:MM:SS+OFFSET), in a store that keeps versions; needs --repo
    #[arg(long, value_name = "TIME")]
    pub repo_target_time: Option<String>,
    /// Form of the result
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "text")]
    pub output: Output,
}

#[derive(Debug, Clone, Args)]
pub struct RepoSyncArgs {
    /// Repository to copy from
    #[arg(long, value_name = "N", value_parser = definition::repo_number())]
    pub from: u16,
    /// Repository to copy to, as stanza-create made it
    #[arg(long, value_name = "M", value_parser = definition::repo_number())]
    pub to: u16,
    /// Make the repository to copy to if it is not there, where PostgreSQL is gone for good and stanza-create cannot; not for jobs of a fleet
    #[arg(long)]
    pub create: bool,
    /// Only this backup, what it refers to, and the WAL that these need
    #[arg(long, value_name = "LABEL")]
    pub set: Option<String>,
    /// Form of the result
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "text")]
    pub output: Output,
}

#[derive(Debug, Clone, Args)]
pub struct ManifestArgs {
    /// Backup to show: a label, or latest
    #[arg(long, value_name = "LABEL", default_value = "latest")]
    pub set: String,
    /// Only files whose path matches
    #[arg(long, value_name = "PATTERN")]
    pub filter: Option<String>,
    /// Repository to read (default: the first that has the backup)
    #[arg(long, value_name = "N", value_parser = definition::repo_number())]
    pub repo: Option<u16>,
    /// Repository as it was at this time (YYYY-MM-DD HH:MM:SS+OFFSET), in a store that keeps versions; needs --repo
    #[arg(long, value_name = "TIME")]
    pub repo_target_time: Option<String>,
    /// Form of the result
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "text")]
    pub output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SortOrder {
    None,
    Asc,
    Desc,
}

#[derive(Debug, Clone, Args)]
pub struct RepoLsArgs {
    /// Where to start (default: the top of the repository)
    #[arg(value_name = "PATH")]
    pub path: Option<String>,
    /// List what is below, too
    #[arg(long)]
    pub recurse: bool,
    /// Only names that match
    #[arg(long, value_name = "PATTERN")]
    pub filter: Option<String>,
    /// Order by name
    #[arg(long, value_enum, value_name = "ORDER", default_value = "asc")]
    pub sort: SortOrder,
    /// Repository to list (default: the first)
    #[arg(long, value_name = "N", value_parser = definition::repo_number())]
    pub repo: Option<u16>,
    /// Repository as it was at this time (YYYY-MM-DD HH:MM:SS+OFFSET), in a store that keeps versions; needs --repo
    #[arg(long, value_name = "TIME")]
    pub repo_target_time: Option<String>,
    /// Form of the result
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "text")]
    pub output: Output,
}

#[derive(Debug, Clone, Args)]
pub struct RepoGetArgs {
    /// Object to print
    #[arg(value_name = "PATH")]
    pub path: String,
    /// As it is stored, neither decrypted nor decompressed
    #[arg(long)]
    pub raw: bool,
    /// Exit with 1 and print nothing if there is no such object
    #[arg(long)]
    pub ignore_missing: bool,
    /// Repository to read (default: the first)
    #[arg(long, value_name = "N", value_parser = definition::repo_number())]
    pub repo: Option<u16>,
    /// Repository as it was at this time (YYYY-MM-DD HH:MM:SS+OFFSET), in a store that keeps versions; needs --repo
    #[arg(long, value_name = "TIME")]
    pub repo_target_time: Option<String>,
}

#[derive(Debug, Clone, Subcommand)]
pub enum RepoKeyCommand {
    /// Make a new key file, mode 0600
    Create {
        /// File that must not exist yet
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

#[derive(Debug, Clone, Subcommand)]
pub enum ConfigCommand {
    /// Report everything that is wrong with the configuration
    Check(ConfigArgs),
    /// Show every setting that holds and where it comes from; secrets are masked
    Show(ConfigArgs),
}

#[derive(Debug, Clone, Args)]
pub struct ConfigArgs {
    /// Form of the result
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "text")]
    pub output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum VersionOutput {
    Text,
    Num,
}

#[derive(Debug, Clone, Args)]
pub struct VersionArgs {
    /// Form of the result
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "text")]
    pub output: VersionOutput,
}

#[derive(Debug, Clone, Args)]
pub struct HelpArgs {
    /// A command, and perhaps an option of it
    #[arg(value_name = "COMMAND")]
    pub topic: Vec<String>,
}

#[derive(Debug, Clone, Args)]
pub struct CompletionsArgs {
    /// bash, zsh or fish
    #[arg(value_enum)]
    pub shell: Shell,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    Bash,
    Zsh,
    Fish,
}

#[derive(Debug, Clone, Args)]
pub struct ManArgs {
    /// Command whose page is printed (default: the program's own)
    #[arg(value_name = "COMMAND")]
    pub topic: Vec<String>,
}
