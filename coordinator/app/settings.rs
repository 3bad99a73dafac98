//! What a command line means: arguments and configuration become one typed request for each command.
//!
//! Not here: doing it. A request names stanzas, repositories and options that exist and do not contradict each other.
//!
//! A stanza need not be configured to be restored, listed or read: after a disaster there is a repository, its key, and
//! whatever configuration somebody remembers.

mod archive;
mod backup;
mod look;
mod moment;
mod restore;
mod sync;

pub use archive::{ArchiveGetRequest, ArchivePushRequest};
pub use backup::{BackupRequest, CheckRequest, StanzaCreateRequest};
pub use look::{InfoRequest, ManifestRequest, RepoGetRequest, RepoLsRequest, VerifyRequest};
pub use restore::RestoreRequest;
pub use sync::RepoSyncRequest;

use crate::args::BackupType;
use crate::context::Context;
use pgconvoy_core::config::{BackupOptions, RepoConfig, RepoKind, StanzaConfig, nearest};
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::format::{BackupKind, BackupLabel};
use pgconvoy_core::ids::{RepoKey, StanzaName};

impl From<BackupType> for BackupKind {
    fn from(typed: BackupType) -> Self {
        match typed {
            BackupType::Full => BackupKind::Full,
            BackupType::Diff => BackupKind::Diff,
            BackupType::Incr => BackupKind::Incr,
        }
    }
}

impl Context {
    fn stanza_if_named(&self) -> Result<Option<StanzaName>, Failure> {
        let parse = |text: &String| {
            text.parse().map_err(|error| {
                Failure::new(ErrorCode::OptionInvalidValue, format!("option '--stanza': {error}"))
            })
        };
        self.stanza.as_ref().map(parse).transpose()
    }

    /// For commands that work on one stanza, whether the configuration has it or not.
    pub fn stanza_named(&self) -> Result<StanzaName, Failure> {
        self.stanza_if_named()?.ok_or_else(|| {
            let failure = Failure::new(
                ErrorCode::OptionRequired,
                format!("command '{}' requires option: --stanza", self.command),
            );
            match self.config.stanzas.keys().map(StanzaName::as_str).collect::<Vec<_>>()[..] {
                [] => failure.hint("the configuration has no stanza yet: add [stanza.NAME]"),
                [only] => failure.hint(format!("add --stanza={only}")),
                ref several => failure.hint(format!("configured are {}", several.join(", "))),
            }
        })
    }

    /// For commands that need the cluster behind the stanza.
    fn stanza_configured(&self) -> Result<&StanzaConfig, Failure> {
        let name = self.stanza_named()?;
        self.config.stanzas.get(&name).ok_or_else(|| {
            let failure =
                Failure::new(ErrorCode::OptionInvalidValue, format!("stanza '{name}' is not configured"));
            match nearest(name.as_str(), self.config.stanzas.keys().map(StanzaName::as_str)) {
                Some(near) => failure.hint(format!("did you mean '{near}'?")),
                None => failure.hint(format!("add [stanza.{name}] to the configuration")),
            }
        })
    }

    /// One mistake of the command line is enough to go back to the user with.
    fn policy(&self, stanza: Option<&StanzaName>) -> Result<BackupOptions, Failure> {
        self.config.effective(stanza, &self.overrides).map_err(|mut problems| problems.swap_remove(0).into())
    }

    /// The repositories of a stanza, or of the host; of these the wanted ones, or all.
    fn repositories(&self, stanza: Option<&StanzaName>, wanted: &[u16]) -> Result<Vec<RepoConfig>, Failure> {
        let all: Vec<RepoKey> = match stanza.and_then(|name| self.config.stanzas.get(name)) {
            Some(stanza) => stanza.repos.clone(),
            None => self.config.repos.keys().copied().collect(),
        };
        if all.is_empty() {
            let message = format!("command '{}' needs a repository, and none is configured", self.command);
            return Err(
                Failure::new(ErrorCode::OptionRequired, message).hint("add [repo.1] to the configuration")
            );
        }
        if let Some(missing) = wanted.iter().find(|number| !all.contains(&RepoKey(**number))) {
            let numbers: Vec<String> = all.iter().map(ToString::to_string).collect();
            let failure = Failure::new(
                ErrorCode::OptionInvalidValue,
                format!("repository {missing} is not configured here"),
            );
            return Err(failure.hint(format!("there are {}", numbers.join(", "))));
        }
        let chosen = all.iter().filter(|key| wanted.is_empty() || wanted.contains(&key.0));
        Ok(chosen.filter_map(|key| self.config.repos.get(key)).cloned().collect())
    }

    /// Those of a command that only reads: the named one as it was at a time, if one was typed.
    fn repositories_seen(
        &self,
        stanza: Option<&StanzaName>,
        wanted: Option<u16>,
        target_time: Option<&str>,
    ) -> Result<Vec<RepoConfig>, Failure> {
        let mut repos = self.repositories(stanza, wanted.as_slice())?;
        let Some(text) = target_time else { return Ok(repos) };
        if wanted.is_none() {
            let message = "option '--repo-target-time' not valid without option '--repo'";
            return Err(Failure::new(ErrorCode::OptionInvalid, message)
                .hint("say with --repo whose past is meant: others may hold other backups at that time"));
        }
        let moment = moment::read(text).ok_or_else(|| {
            let message = format!("'{text}' is not allowed for '--repo-target-time' option");
            Failure::new(ErrorCode::OptionInvalidValue, message)
                .hint("a time looks like 2026-11-26 12:00:00+00")
        })?;
        for repo in &mut repos {
            if matches!(repo.kind, RepoKind::Posix | RepoKind::Sftp(_)) {
                let (key, kind) = (repo.key, repo.kind.repo_type());
                let message = format!(
                    "option '--repo-target-time' not valid for repository {key}, which has type {kind}"
                );
                return Err(Failure::new(ErrorCode::OptionInvalid, message)
                    .hint("only s3, azure and gcs keep versions of what was replaced or deleted, where the bucket has versioning enabled"));
            }
            repo.as_of = Some(moment.moment);
        }
        Ok(repos)
    }
}

/// A label, or `None` for the latest backup.
fn backup_set(text: &str) -> Result<Option<BackupLabel>, Failure> {
    if text == "latest" {
        return Ok(None);
    }
    let failure = |_| {
        Failure::new(ErrorCode::BackupSetInvalid, format!("'{text}' is not a backup's label"))
            .hint("a label looks like 20261122-103000F or 20261122-103000F_20261123-103000I; pgconvoy info lists them")
    };
    text.parse().map(Some).map_err(failure)
}

#[cfg(test)]
mod tests;
