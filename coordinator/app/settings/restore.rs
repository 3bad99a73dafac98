//! The request of restore.

use super::backup_set;
use crate::args::{Output, RestoreArgs};
use crate::context::Context;
use pgconvoy_core::config::{BackupOptions, RepoConfig, StanzaConfig};
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::format::BackupLabel;
use pgconvoy_core::ids::{RepoKey, StanzaName};
use pgconvoy_core::plan::recovery::{RecoveryError, RecoveryKind, TargetAction};
use pgconvoy_core::plan::restore::RestoreTarget;
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
    pub recovery: RecoveryKind,
    pub action: Option<TargetAction>,
    pub delta: bool,
    pub force: bool,
    pub backup_manifest: bool,
    pub options: BackupOptions,
    pub output: Output,
}

impl RestoreRequest {
    pub fn new(context: &Context, args: &RestoreArgs) -> Result<Self, Failure> {
        let stanza = context.stanza_named()?;
        let recovery: RecoveryKind = args.recovery_type.parse()?;
        let action: Option<TargetAction> = args.target_action.as_deref().map(str::parse).transpose()?;
        if action.is_some() && recovery != RecoveryKind::Immediate {
            return Err(RecoveryError::ActionWithoutTarget(recovery.name()).into());
        }
        let map_all = args.tablespace_map_all.as_deref();
        Ok(RestoreRequest {
            set: backup_set(&args.set)?,
            repos: context.repositories(Some(&stanza), args.repo.as_slice())?,
            only_repo: args.repo.map(RepoKey),
            target: RestoreTarget {
                directory: directory(context.config.stanzas.get(&stanza), args.pg_path.as_deref())?,
                tablespace_map: map("tablespace-map", &args.tablespace_map)?,
                tablespace_map_all: map_all.map(|path| absolute("tablespace-map-all", path)).transpose()?,
                link_map: map("link-map", &args.link_map)?,
                link_all: args.link_all,
            },
            recovery,
            action,
            delta: args.delta,
            force: args.force,
            backup_manifest: args.backup_manifest,
            options: context.policy(Some(&stanza))?,
            output: args.output,
            stanza,
        })
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
