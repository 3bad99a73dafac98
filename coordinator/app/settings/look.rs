//! Requests of the commands that only read repositories.

use super::backup_set;
use crate::args::{InfoArgs, ManifestArgs, Output, RepoGetArgs, RepoLsArgs, SortOrder, VerifyArgs};
use crate::context::Context;
use pgconvoy_core::config::{BackupOptions, RepoConfig};
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::format::{BackupKind, BackupLabel};
use pgconvoy_core::ids::StanzaName;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InfoRequest {
    /// `None`: all.
    pub stanza: Option<StanzaName>,
    pub repos: Vec<RepoConfig>,
    pub set: Option<BackupLabel>,
    pub kind: Option<BackupKind>,
    pub options: BackupOptions,
    pub output: Output,
}

impl InfoRequest {
    pub fn new(context: &Context, args: &InfoArgs) -> Result<Self, Failure> {
        let stanza = context.stanza_if_named()?;
        if args.set.is_some() && stanza.is_none() {
            context.stanza_named()?;
        }
        Ok(InfoRequest {
            repos: context.repositories_seen(stanza.as_ref(), args.repo, args.repo_target_time.as_deref())?,
            set: one_set(args.set.as_deref())?,
            kind: args.backup_type.map(Into::into),
            options: context.policy(stanza.as_ref())?,
            output: args.output,
            stanza,
        })
    }

    /// For whoever watches all that the configuration names.
    pub fn of_all(context: &Context) -> Result<Self, Failure> {
        Ok(InfoRequest {
            stanza: None,
            repos: context.repositories(None, &[])?,
            set: None,
            kind: None,
            options: context.policy(None)?,
            output: Output::Json,
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyRequest {
    pub stanza: StanzaName,
    pub repos: Vec<RepoConfig>,
    /// `None`: all.
    pub set: Option<BackupLabel>,
    pub options: BackupOptions,
    pub embedded: bool,
    pub output: Output,
}

impl VerifyRequest {
    pub fn new(context: &Context, args: &VerifyArgs) -> Result<Self, Failure> {
        let stanza = context.stanza_named()?;
        Ok(VerifyRequest {
            repos: context.repositories_seen(Some(&stanza), args.repo, args.repo_target_time.as_deref())?,
            set: one_set(args.set.as_deref())?,
            options: context.policy(Some(&stanza))?,
            embedded: context.embedded,
            output: args.output,
            stanza,
        })
    }
}

/// Here `latest` is no answer to "which one": all are meant where none is named.
pub(super) fn one_set(typed: Option<&str>) -> Result<Option<BackupLabel>, Failure> {
    match typed {
        Some("latest") => {
            let failure =
                Failure::new(ErrorCode::OptionInvalidValue, "'latest' is not allowed for '--set' option");
            Err(failure.hint("name a label; pgconvoy info lists them"))
        }
        typed => Ok(typed.map(backup_set).transpose()?.flatten()),
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestRequest {
    pub stanza: StanzaName,
    /// `None`: the latest.
    pub set: Option<BackupLabel>,
    pub repos: Vec<RepoConfig>,
    pub filter: Option<String>,
    pub options: BackupOptions,
    pub output: Output,
}

impl ManifestRequest {
    pub fn new(context: &Context, args: &ManifestArgs) -> Result<Self, Failure> {
        let stanza = context.stanza_named()?;
        Ok(ManifestRequest {
            set: backup_set(&args.set)?,
            repos: context.repositories_seen(Some(&stanza), args.repo, args.repo_target_time.as_deref())?,
            filter: args.filter.clone(),
            options: context.policy(Some(&stanza))?,
            output: args.output,
            stanza,
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepoLsRequest {
    pub repo: RepoConfig,
    /// Relative to the top of the repository.
    pub path: Option<String>,
    pub recurse: bool,
    pub filter: Option<String>,
    pub sort: SortOrder,
    pub options: BackupOptions,
    pub output: Output,
}

impl RepoLsRequest {
    pub fn new(context: &Context, args: &RepoLsArgs) -> Result<Self, Failure> {
        Ok(RepoLsRequest {
            repo: one_repository(context, args.repo, args.repo_target_time.as_deref())?,
            path: args.path.clone(),
            recurse: args.recurse,
            filter: args.filter.clone(),
            sort: args.sort,
            options: context.policy(None)?,
            output: args.output,
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepoGetRequest {
    pub repo: RepoConfig,
    /// Relative to the top of the repository.
    pub path: String,
    pub raw: bool,
    pub ignore_missing: bool,
    pub options: BackupOptions,
}

impl RepoGetRequest {
    pub fn new(context: &Context, args: &RepoGetArgs) -> Result<Self, Failure> {
        Ok(RepoGetRequest {
            repo: one_repository(context, args.repo, args.repo_target_time.as_deref())?,
            path: args.path.clone(),
            raw: args.raw,
            ignore_missing: args.ignore_missing,
            options: context.policy(None)?,
        })
    }
}

/// The one that was named, else the first.
fn one_repository(
    context: &Context,
    wanted: Option<u16>,
    target_time: Option<&str>,
) -> Result<RepoConfig, Failure> {
    let stanza = context.stanza_if_named()?;
    let mut repos = context.repositories_seen(stanza.as_ref(), wanted, target_time)?;
    Ok(repos.swap_remove(0))
}
