//! What a restore tells PostgreSQL: recovery settings, and where they are written in which version.

use crate::failure::{Classify, ErrorCode};
use crate::ids::{RepoKey, StanzaName};
use crate::pg::PgVersion;
use std::str::FromStr;

/// How far PostgreSQL recovers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecoveryKind {
    /// To the end of the archive.
    Default,
    /// Until the backup is consistent.
    Immediate,
    /// No recovery settings at all: only what lies in pg_wal is replayed.
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetAction {
    Pause,
    Promote,
    Shutdown,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecoveryError {
    #[error("'{0}' is not a recovery type")]
    UnknownKind(String),
    #[error("'{0}' is not a target action")]
    UnknownAction(String),
    #[error("--target-action needs a recovery target, and --type={0} has none")]
    ActionWithoutTarget(&'static str),
}

impl Classify for RecoveryError {
    fn code(&self) -> ErrorCode {
        match self {
            RecoveryError::ActionWithoutTarget(_) => ErrorCode::OptionInvalid,
            _ => ErrorCode::OptionInvalidValue,
        }
    }

    fn hints(&self) -> Vec<String> {
        match self {
            RecoveryError::UnknownKind(_) => vec!["use default, immediate or none".into()],
            RecoveryError::UnknownAction(_) => vec!["use pause, promote or shutdown".into()],
            RecoveryError::ActionWithoutTarget(_) => {
                vec!["add --type=immediate, or leave --target-action out".into()]
            }
        }
    }
}

impl RecoveryKind {
    pub const fn name(self) -> &'static str {
        match self {
            RecoveryKind::Default => "default",
            RecoveryKind::Immediate => "immediate",
            RecoveryKind::None => "none",
        }
    }
}

impl FromStr for RecoveryKind {
    type Err = RecoveryError;
    fn from_str(text: &str) -> Result<Self, RecoveryError> {
        [RecoveryKind::Default, RecoveryKind::Immediate, RecoveryKind::None]
            .into_iter()
            .find(|kind| kind.name() == text)
            .ok_or_else(|| RecoveryError::UnknownKind(text.to_owned()))
    }
}

impl TargetAction {
    pub const fn name(self) -> &'static str {
        match self {
            TargetAction::Pause => "pause",
            TargetAction::Promote => "promote",
            TargetAction::Shutdown => "shutdown",
        }
    }
}

impl FromStr for TargetAction {
    type Err = RecoveryError;
    fn from_str(text: &str) -> Result<Self, RecoveryError> {
        [TargetAction::Pause, TargetAction::Promote, TargetAction::Shutdown]
            .into_iter()
            .find(|action| action.name() == text)
            .ok_or_else(|| RecoveryError::UnknownAction(text.to_owned()))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveryOptions {
    pub kind: RecoveryKind,
    pub action: Option<TargetAction>,
    pub restore_command: String,
}

/// How PostgreSQL calls us back for WAL. PostgreSQL itself replaces `%f` and `%p`, and reads `%%` as one percent sign;
/// a shell reads what comes of it.
pub fn restore_command(
    program: &str,
    config: Option<&str>,
    stanza: &StanzaName,
    repository: Option<RepoKey>,
) -> String {
    let mut command = word(program);
    if let Some(config) = config {
        command += &format!(" {}", word(&format!("--config={config}")));
    }
    command += &format!(" --stanza={stanza} archive-get");
    if let Some(repository) = repository {
        command += &format!(" --repo={repository}");
    }
    command + " %f \"%p\""
}

/// One word for the shell, with the percent signs that PostgreSQL takes away.
fn word(text: &str) -> String {
    let plain = |c: char| {
        c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '-' | '_' | '=' | '+' | ':' | ',' | '@')
    };
    let text = match text.chars().all(plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', "'\\''")),
    };
    text.replace('%', "%%")
}

/// Where the settings go, by version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecoveryFiles {
    /// `--type=none`: nothing is written.
    Nothing,
    /// From 12: lines for `postgresql.auto.conf`, and an empty `recovery.signal`.
    AutoConf { settings: Vec<(String, String)> },
    /// Before 12: the whole of `recovery.conf`.
    RecoveryConf { content: String },
}

pub fn recovery_files(version: PgVersion, options: &RecoveryOptions) -> Result<RecoveryFiles, RecoveryError> {
    if options.kind != RecoveryKind::Immediate && options.action.is_some() {
        return Err(RecoveryError::ActionWithoutTarget(options.kind.name()));
    }
    if options.kind == RecoveryKind::None {
        return Ok(RecoveryFiles::Nothing);
    }
    let mut settings = vec![("restore_command".to_owned(), options.restore_command.clone())];
    if options.kind == RecoveryKind::Immediate {
        settings.push(("recovery_target".into(), "immediate".into()));
        // From 12 the default is the latest timeline, which may have left ours before the backup was consistent.
        if !version.uses_recovery_conf() {
            settings.push(("recovery_target_timeline".into(), "current".into()));
        }
    }
    if let Some(action) = options.action {
        settings.push(("recovery_target_action".into(), action.name().into()));
    }
    if version.uses_recovery_conf() {
        let content = settings.iter().map(|(name, value)| setting_line(name, value)).collect();
        return Ok(RecoveryFiles::RecoveryConf { content });
    }
    Ok(RecoveryFiles::AutoConf { settings })
}

fn setting_line(name: &str, value: &str) -> String {
    format!("{name} = '{}'\n", value.replace('\\', "\\\\").replace('\'', "''"))
}

/// The restored `postgresql.auto.conf` with our settings at its end. Recovery targets that it brought along are
/// commented out: PostgreSQL refuses two of them, and would obey the wrong one. The text may be in any encoding.
pub fn rewrite_auto_conf(existing: &[u8], settings: &[(String, String)]) -> Vec<u8> {
    let mut text = Vec::with_capacity(existing.len() + 512);
    for line in existing.split_inclusive(|byte| *byte == b'\n') {
        if is_recovery_setting(line) {
            text.extend_from_slice(b"# Removed by pgconvoy restore: ");
        }
        text.extend_from_slice(line);
    }
    if !matches!(text.last(), None | Some(b'\n')) {
        text.push(b'\n');
    }
    text.extend_from_slice(b"\n# Recovery settings written by pgconvoy restore\n");
    for (name, value) in settings {
        text.extend_from_slice(setting_line(name, value).as_bytes());
    }
    text
}

fn is_recovery_setting(line: &[u8]) -> bool {
    let line = line.trim_ascii_start();
    let end =
        line.iter().position(|byte| !byte.is_ascii_alphanumeric() && *byte != b'_').unwrap_or(line.len());
    let name = line[..end].to_ascii_lowercase();
    name.starts_with(b"recovery_target") || name == b"restore_command"
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    fn options(kind: RecoveryKind, action: Option<TargetAction>) -> RecoveryOptions {
        RecoveryOptions { kind, action, restore_command: r#"pgconvoy archive-get %f "%p" --it='s'"#.into() }
    }

    #[test]
    fn old_versions_get_a_recovery_conf_and_new_ones_settings() {
        let old: PgVersion = "11".parse().unwrap();
        let new: PgVersion = "15".parse().unwrap();
        let immediate = options(RecoveryKind::Immediate, Some(TargetAction::Promote));
        assert_eq!(
            recovery_files(old, &immediate).unwrap(),
            RecoveryFiles::RecoveryConf {
                content: "restore_command = 'pgconvoy archive-get %f \"%p\" --it=''s'''\n\
                          recovery_target = 'immediate'\nrecovery_target_action = 'promote'\n"
                    .into()
            }
        );
        let RecoveryFiles::AutoConf { settings } = recovery_files(new, &immediate).unwrap() else { panic!() };
        assert!(settings.contains(&("recovery_target_timeline".into(), "current".into())));
        assert_eq!(recovery_files(new, &options(RecoveryKind::None, None)).unwrap(), RecoveryFiles::Nothing);
    }

    #[test]
    fn the_restore_command_survives_postgresql_and_the_shell() {
        let stanza: StanzaName = "main".parse().unwrap();
        assert_eq!(
            restore_command("/usr/bin/pgconvoy", Some("/etc/pgconvoy/pgconvoy.toml"), &stanza, None),
            r#"/usr/bin/pgconvoy --config=/etc/pgconvoy/pgconvoy.toml --stanza=main archive-get %f "%p""#
        );
        assert_eq!(
            restore_command("/opt/it's 100%/pgconvoy", None, &stanza, Some(RepoKey(2))),
            r#"'/opt/it'\''s 100%%/pgconvoy' --stanza=main archive-get --repo=2 %f "%p""#
        );
    }

    #[test]
    fn a_target_action_without_a_target_is_refused() {
        let error =
            recovery_files("15".parse().unwrap(), &options(RecoveryKind::Default, Some(TargetAction::Pause)));
        assert_eq!(error, Err(RecoveryError::ActionWithoutTarget("default")));
    }

    #[test]
    fn recovery_targets_of_an_earlier_restore_are_commented_out() {
        let text = rewrite_auto_conf(
            b"work_mem = '4MB'\n recovery_target_time='x'\nRestore_Command = 'old'",
            &[("restore_command".into(), "new".into())],
        );
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "work_mem = '4MB'\n# Removed by pgconvoy restore:  recovery_target_time='x'\n\
             # Removed by pgconvoy restore: Restore_Command = 'old'\n\n\
             # Recovery settings written by pgconvoy restore\nrestore_command = 'new'\n"
        );
    }
}
