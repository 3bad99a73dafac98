//! The request of `repo-sync`.

use super::look::one_set;
use crate::args::{Output, RepoSyncArgs};
use crate::context::Context;
use pgconvoy_core::config::{BackupOptions, RepoConfig};
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::format::BackupLabel;
use pgconvoy_core::ids::StanzaName;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepoSyncRequest {
    pub stanza: StanzaName,
    pub from: RepoConfig,
    pub to: RepoConfig,
    /// All of the stanza: one of them may be meant as `from`.
    pub repos: Vec<RepoConfig>,
    /// Whether `to` may be made.
    pub create: bool,
    /// `None`: all.
    pub set: Option<BackupLabel>,
    pub options: BackupOptions,
    pub lock_path: String,
    pub output: Output,
}

impl RepoSyncRequest {
    pub fn new(context: &Context, args: &RepoSyncArgs) -> Result<Self, Failure> {
        let stanza = context.stanza_named()?;
        let repos = context.repositories(Some(&stanza), &[])?;
        if args.from == args.to {
            let known: Vec<String> = repos.iter().map(|repo| repo.key.to_string()).collect();
            let message = "options '--from' and '--to' name the same repository";
            return Err(Failure::new(ErrorCode::OptionInvalidValue, message).hint(format!(
                "--from names one that has the backups, --to one that lacks them; the stanza has {}",
                known.join(", ")
            )));
        }
        let one = |number: u16| -> Result<RepoConfig, Failure> {
            Ok(context.repositories(Some(&stanza), &[number])?.swap_remove(0))
        };
        Ok(RepoSyncRequest {
            from: one(args.from)?,
            to: one(args.to)?,
            repos,
            create: args.create,
            set: one_set(args.set.as_deref())?,
            options: context.policy(Some(&stanza))?,
            lock_path: context.config.paths.lock.clone(),
            output: args.output,
            stanza,
        })
    }

    /// As a job: which worker does it is not known to whoever asks, and a path means another place on each host.
    pub fn for_job(context: &Context, args: &RepoSyncArgs) -> Result<Self, Failure> {
        if args.create {
            let message = "option '--create' is not valid for a job: no worker makes a repository by itself";
            return Err(Failure::new(ErrorCode::OptionInvalid, message)
                .hint("pgconvoy stanza-create makes it; with --embedded this command does, on this host"));
        }
        Self::new(context, args)
    }
}
