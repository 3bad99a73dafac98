//! The request of restore.

use super::{backup_set, moment};
use crate::args::{Output, RestoreArgs};
use crate::context::Context;
use pgconvoy_core::config::{BackupOptions, RepoConfig, StanzaConfig};
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::format::BackupLabel;
use pgconvoy_core::ids::{RepoKey, StanzaName};
use pgconvoy_core::plan::recovery::{RecoveryOptions, RecoveryTarget};
use pgconvoy_core::plan::restore::{DatabaseSelection, RestoreTarget};
use std::collections::BTreeMap;
use std::path::Path;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreRequest {
    pub stanza: StanzaName,
    /// `None`: the latest.
    pub set: Option<BackupLabel>,
    pub repos: Vec<RepoConfig>,
    /// Named by hand: WAL comes from there only, too.
    pub only_repo: Option<RepoKey>,
    pub target: RestoreTarget,
    /// Its restore command is for whoever knows where this program is.
    pub recovery: RecoveryOptions,
    pub delta: bool,
    pub force: bool,
    pub backup_manifest: bool,
    pub options: BackupOptions,
    pub output: Output,
}

impl RestoreRequest {
    pub fn new(context: &Context, args: &RestoreArgs) -> Result<Self, Failure> {
        let stanza = context.stanza_named()?;
        let map_all = args.tablespace_map_all.as_deref();
        Ok(RestoreRequest {
            set: backup_set(&args.set)?,
            repos: context.repositories_seen(Some(&stanza), args.repo, args.repo_target_time.as_deref())?,
            only_repo: args.repo.map(RepoKey),
            target: RestoreTarget {
                directory: directory(context.config.stanzas.get(&stanza), args.pg_path.as_deref())?,
                tablespace_map: map("tablespace-map", &args.tablespace_map)?,
                tablespace_map_all: map_all.map(|path| absolute("tablespace-map-all", path)).transpose()?,
                link_map: map("link-map", &args.link_map)?,
                link_all: args.link_all,
                databases: databases(args)?,
            },
            recovery: recovery(args)?,
            delta: args.delta,
            force: args.force,
            backup_manifest: args.backup_manifest,
            options: context.policy(Some(&stanza))?,
            output: args.output,
            stanza,
        })
    }
}

fn recovery(args: &RestoreArgs) -> Result<RecoveryOptions, Failure> {
    let target = RecoveryTarget::parse(&args.recovery_type, args.target.as_deref(), moment::read)?;
    let options = RecoveryOptions {
        action: args.target_action.as_deref().map(str::parse).transpose()?,
        exclusive: args.target_exclusive,
        timeline: args.target_timeline.as_deref().map(str::parse).transpose()?,
        more: recovery_settings(&args.recovery_option)?,
        archive_off: is_archive_off(&args.archive_mode)?,
        ..RecoveryOptions::new(target, String::new())
    };
    options.check()?;
    Ok(options)
}

fn databases(args: &RestoreArgs) -> Result<DatabaseSelection, Failure> {
    let selection = DatabaseSelection { include: args.db_include.clone(), exclude: args.db_exclude.clone() };
    if args.backup_manifest && !selection.is_everything() {
        let message = "option '--backup-manifest' not valid with --db-include or --db-exclude";
        return Err(Failure::new(ErrorCode::OptionInvalid, message)
            .hint("what is left out is not what the backup holds: there is nothing to verify it against"));
    }
    Ok(selection)
}

/// Hyphens are taken for underscores, as pgBackRest does.
fn recovery_settings(pairs: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    let split = |pair: &String| {
        let (name, value) = pair.split_once('=').ok_or_else(|| {
            let message = format!("'{pair}' is not allowed for '--recovery-option' option");
            Failure::new(ErrorCode::OptionInvalidValue, message).hint("write NAME=VALUE")
        })?;
        Ok((name.trim().replace('-', "_"), value.trim().to_owned()))
    };
    pairs.iter().map(split).collect()
}

fn is_archive_off(mode: &str) -> Result<bool, Failure> {
    match mode {
        "preserve" => Ok(false),
        "off" => Ok(true),
        other => {
            let message = format!("'{other}' is not allowed for '--archive-mode' option");
            Err(Failure::new(ErrorCode::OptionInvalidValue, message).hint("use preserve or off"))
        }
    }
}

/// What was typed, else the only data directory that the stanza has on this machine.
fn directory(stanza: Option<&StanzaConfig>, typed: Option<&Path>) -> Result<String, Failure> {
    if let Some(path) = typed {
        let text = path.to_str().ok_or_else(|| {
            Failure::new(ErrorCode::OptionInvalidValue, "option '--pg-path' is not valid UTF-8")
        })?;
        return absolute("pg-path", text);
    }
    let here = stanza.into_iter().flat_map(|stanza| &stanza.pg).filter(|pg| pg.host.is_none());
    match here.collect::<Vec<_>>()[..] {
        [only] => Ok(only.path.clone()),
        [] => {
            let failure =
                Failure::new(ErrorCode::OptionRequired, "command 'restore' requires option: --pg-path");
            Err(failure.hint("the configuration names no data directory of this stanza on this machine"))
        }
        [..] => {
            let failure =
                Failure::new(ErrorCode::OptionRequired, "command 'restore' requires option: --pg-path");
            Err(failure
                .hint("the stanza has several data directories on this machine: say which one is meant"))
        }
    }
}

fn absolute(option: &str, path: &str) -> Result<String, Failure> {
    if !path.starts_with('/') || path.split('/').any(|part| part == "..") {
        let message = format!("'{path}' is not allowed for '--{option}' option");
        return Err(
            Failure::new(ErrorCode::OptionInvalidValue, message).hint("name an absolute path without '..'")
        );
    }
    let trimmed = path.trim_end_matches('/');
    Ok(if trimmed.is_empty() { "/".to_owned() } else { trimmed.to_owned() })
}

fn map(option: &str, pairs: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    let mut map = BTreeMap::new();
    for pair in pairs {
        let Some((key, path)) = pair.split_once('=').filter(|(key, _)| !key.is_empty()) else {
            let message = format!("'{pair}' is not allowed for '--{option}' option");
            return Err(Failure::new(ErrorCode::OptionInvalidValue, message).hint("write NAME=PATH"));
        };
        if map.insert(key.to_owned(), absolute(option, path)?).is_some() {
            let message = format!("option '--{option}' names '{key}' twice");
            return Err(Failure::new(ErrorCode::OptionInvalidValue, message));
        }
    }
    Ok(map)
}
