//! Arguments of the commands for a fleet: jobs, workers, tokens and certificates.

use super::Output;
use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Where certificates lie unless somebody says otherwise.
const PKI_DIR: &str = "/etc/pgconvoy/pki";

#[derive(Debug, Clone, Args)]
pub struct OutputArgs {
    /// Form of the result
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "text")]
    pub output: Output,
}

#[derive(Debug, Clone, Args)]
pub struct JobArgs {
    /// The job's id
    #[arg(value_name = "ID")]
    pub id: String,
    #[command(flatten)]
    pub form: OutputArgs,
}

#[derive(Debug, Clone, Subcommand)]
pub enum JobCommand {
    /// List jobs that wait, run, or are over
    List(OutputArgs),
    /// Show one job
    Show(JobArgs),
    /// Watch a job to its end, and end as it does
    Follow(JobArgs),
    /// End a job
    Cancel(JobArgs),
    /// Let a job begin nothing new
    Pause(JobArgs),
    /// Let a paused job go on
    Resume(JobArgs),
    /// Let a job begin before others, or after them
    Priority {
        #[command(flatten)]
        job: JobArgs,
        /// Higher ones first; 0 is usual
        #[arg(value_name = "N", allow_negative_numbers = true)]
        priority: i32,
    },
}

#[derive(Debug, Clone, Args)]
pub struct WorkerArgs {
    /// The worker's name
    #[arg(value_name = "NAME")]
    pub name: String,
    #[command(flatten)]
    pub form: OutputArgs,
}

#[derive(Debug, Clone, Subcommand)]
pub enum WorkersCommand {
    /// List workers and what they are busy with
    List(OutputArgs),
    /// Give a worker nothing new
    Drain(WorkerArgs),
    /// Let a drained worker work again
    Undrain(WorkerArgs),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TokenRoleName {
    Viewer,
    Operator,
    Admin,
}

#[derive(Debug, Clone, Subcommand)]
pub enum TokenCommand {
    /// Make a token and print it, once
    Create {
        /// Whose it is, for the audit
        #[arg(long, value_name = "NAME")]
        name: String,
        /// What its bearer may do
        #[arg(long, value_enum, value_name = "ROLE")]
        role: TokenRoleName,
        #[command(flatten)]
        form: OutputArgs,
    },
    /// List tokens, without their secrets
    List(OutputArgs),
    /// End a token
    Revoke {
        /// A token's id, or a name for all of that name
        #[arg(value_name = "ID|NAME")]
        token: String,
        #[command(flatten)]
        form: OutputArgs,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MemberRole {
    Coordinator,
    Worker,
    Client,
}

#[derive(Debug, Clone, Args)]
pub struct PkiDir {
    /// Directory of the fleet's certificates
    #[arg(long, value_name = "DIR", default_value = PKI_DIR)]
    pub dir: PathBuf,
}

#[derive(Debug, Clone, Subcommand)]
pub enum CertCommand {
    /// Make the fleet's authority: ca.crt and ca.key
    Init {
        /// Name of the fleet (default: that of the configuration)
        #[arg(long, value_name = "NAME")]
        fleet: Option<String>,
        #[command(flatten)]
        place: PkiDir,
    },
    /// Make a member's certificate and key: NAME.crt and NAME.key
    Issue {
        /// What the member is
        #[arg(long, value_enum, value_name = "ROLE")]
        role: MemberRole,
        /// The member's name; a worker's is the one of its configuration
        #[arg(long, value_name = "NAME")]
        name: String,
        /// Host name or address by which browsers reach a coordinator (repeatable)
        #[arg(long, value_name = "HOST")]
        san: Vec<String>,
        #[command(flatten)]
        place: PkiDir,
    },
    /// List the certificates of the directory
    List {
        #[command(flatten)]
        place: PkiDir,
        #[command(flatten)]
        form: OutputArgs,
    },
    /// Have a certificate refused by all coordinators
    Revoke {
        /// A certificate of the directory, or a serial number
        #[arg(value_name = "NAME|SERIAL")]
        which: String,
        #[command(flatten)]
        place: PkiDir,
    },
}
