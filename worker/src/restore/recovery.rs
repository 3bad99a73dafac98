//! What PostgreSQL is told: where recovery begins, how far it goes and where WAL comes from.

use super::error::{Action, RestoreError};
use super::files;
use super::owners::Owners;
use super::places::Places;
use super::verifiable::OwnFile;
use pgconvoy_core::failure::Failure;
use pgconvoy_core::format::manifest::{ManifestHead, Ownership};
use pgconvoy_core::plan::recovery::{
    RECOVERY_SIGNAL, RecoveryFiles, RecoveryOptions, RecoveryTarget, STANDBY_SIGNAL, recovery_files,
    rewrite_auto_conf,
};
use pgconvoy_core::plan::restore::RestorePlan;

pub(super) const AUTO_CONF: &str = "postgresql.auto.conf";
/// What PostgreSQL is told of recovery, in whatever version.
pub(super) const SETTINGS: [&str; 4] = [AUTO_CONF, RECOVERY_SIGNAL, STANDBY_SIGNAL, RECOVERY_CONF];
const BACKUP_LABEL: &str = "backup_label";
const RECOVERY_CONF: &str = "recovery.conf";

/// Before anything is written: options that contradict each other are an error by now.
pub(super) fn decide(head: &ManifestHead, options: &RecoveryOptions) -> Result<RecoveryFiles, Failure> {
    let mut options = options.clone();
    if !head.online && options.target == RecoveryTarget::Default {
        tracing::info!(
            "backup {} was made of a stopped cluster: no recovery settings are written",
            head.label
        );
        options.target = RecoveryTarget::None;
    }
    Ok(recovery_files(head.version, &options)?)
}

/// As the server returned it, byte for byte. An offline backup has none.
pub(super) fn write_backup_label(
    head: &ManifestHead,
    places: &Places,
    owners: &Owners,
) -> Result<Option<OwnFile>, RestoreError> {
    let Some(text) = &head.backup_label else { return Ok(None) };
    write_own(BACKUP_LABEL, text.as_bytes(), owners.own(), places, owners).map(Some)
}

/// Gives back the postgresql.auto.conf that came of it, if one was written.
pub(super) fn write(
    recovery: &RecoveryFiles,
    plan: &RestorePlan,
    places: &Places,
    owners: &Owners,
) -> Result<Option<OwnFile>, RestoreError> {
    match recovery {
        RecoveryFiles::Nothing => Ok(None),
        RecoveryFiles::RecoveryConf { content } => {
            write_own(RECOVERY_CONF, content.as_bytes(), owners.own(), places, owners).map(|_| None)
        }
        RecoveryFiles::AutoConf { settings, signal } => {
            let file = rewrite(settings, plan, places, owners)?;
            if let Some(signal) = signal {
                write_own(signal, b"", owners.own(), places, owners)?;
            }
            Ok(Some(file))
        }
    }
}

fn rewrite(
    settings: &[(String, String)],
    plan: &RestorePlan,
    places: &Places,
    owners: &Owners,
) -> Result<OwnFile, RestoreError> {
    let restored = plan.files.iter().find(|file| file.path.as_str() == AUTO_CONF);
    let existing = match restored {
        Some(file) => {
            let path = places.of(&file.path);
            std::fs::read(&path).map_err(RestoreError::file(Action::Read, &path))?
        }
        None => Vec::new(),
    };
    let ownership = restored.map_or(owners.own(), |file| file.ownership);
    write_own(AUTO_CONF, &rewrite_auto_conf(&existing, settings), ownership, places, owners)
}

fn write_own(
    name: &'static str,
    bytes: &[u8],
    ownership: Ownership,
    places: &Places,
    owners: &Owners,
) -> Result<OwnFile, RestoreError> {
    let path = places.target().join(name);
    let file = files::replace(&path, bytes)?;
    owners.give(&file, &path, ownership, None)?;
    file.sync_all().map_err(RestoreError::file(Action::Sync, &path))?;
    Ok(OwnFile::new(name, bytes))
}
