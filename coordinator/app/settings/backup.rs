//! Requests that need the cluster: stanza-create, check and backup.

use crate::args::{BackupArgs, Output, StanzaCreateArgs};
use crate::context::Context;
use pgconvoy_core::config::{BackupOptions, RepoConfig, StanzaConfig};
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::format::BackupKind;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StanzaCreateRequest {
    pub stanza: StanzaConfig,
    pub repos: Vec<RepoConfig>,
    pub options: BackupOptions,
    pub online: bool,
    pub force: bool,
}

impl StanzaCreateRequest {
    pub fn new(context: &Context, args: &StanzaCreateArgs) -> Result<Self, Failure> {
        let stanza = context.stanza_configured()?.clone();
        force_is_for_offline(args.online, args.force)?;
        Ok(StanzaCreateRequest {
            repos: context.repositories(Some(&stanza.name), &[])?,
            options: context.policy(Some(&stanza.name))?,
            online: args.online,
            force: args.force,
            stanza,
        })
    }
}

/// What is checked of one stanza.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckRequest {
    pub stanza: StanzaConfig,
    pub repos: Vec<RepoConfig>,
    pub options: BackupOptions,
}

impl CheckRequest {
    /// Of the stanza that was named, or of all.
    pub fn all(context: &Context) -> Result<Vec<CheckRequest>, Failure> {
        let stanzas: Vec<&StanzaConfig> = match context.stanza_if_named()? {
            Some(_) => vec![context.stanza_configured()?],
            None => context.config.stanzas.values().collect(),
        };
        if stanzas.is_empty() {
            let failure = Failure::new(ErrorCode::OptionRequired, "there is no stanza to check");
            return Err(failure.hint("add [stanza.NAME] to the configuration"));
        }
        let request = |stanza: &StanzaConfig| {
            Ok(CheckRequest {
                stanza: stanza.clone(),
                repos: context.repositories(Some(&stanza.name), &[])?,
                options: context.policy(Some(&stanza.name))?,
            })
        };
        stanzas.into_iter().map(request).collect()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupRequest {
    pub stanza: StanzaConfig,
    pub kind: BackupKind,
    pub repos: Vec<RepoConfig>,
    /// The chosen ones and the stanza's others, whose labels count as well.
    pub all_repos: Vec<RepoConfig>,
    pub options: BackupOptions,
    pub online: bool,
    pub force: bool,
    /// Show the plan and do nothing.
    pub plan_only: bool,
    pub detach: bool,
    /// In this process, even where the configuration names a fleet.
    pub embedded: bool,
    pub output: Output,
}

impl BackupRequest {
    pub fn new(context: &Context, args: &BackupArgs) -> Result<Self, Failure> {
        let stanza = context.stanza_configured()?.clone();
        force_is_for_offline(args.online, args.force)?;
        Ok(BackupRequest {
            kind: args.backup_type.into(),
            repos: context.repositories(Some(&stanza.name), &args.repo)?,
            all_repos: context.repositories(Some(&stanza.name), &[])?,
            options: context.policy(Some(&stanza.name))?,
            online: args.online,
            force: args.force,
            plan_only: args.plan,
            detach: args.detach,
            embedded: context.embedded,
            output: args.output,
            stanza,
        })
    }
}

fn force_is_for_offline(online: bool, force: bool) -> Result<(), Failure> {
    if online && force {
        let failure = Failure::new(
            ErrorCode::OptionInvalid,
            "option '--force' is not valid without option '--no-online'",
        );
        return Err(failure.hint("an online backup has nothing to force"));
    }
    Ok(())
}
