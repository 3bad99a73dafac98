//! What a restore writes for PostgreSQL's recovery, and where, in which version.

use super::{RecoveryError, RecoveryOptions, RecoveryTarget, TargetTimeline};
use crate::ids::{RepoKey, StanzaName};
use crate::pg::PgVersion;
use crate::units::Timestamp;

/// How PostgreSQL calls us back for WAL. PostgreSQL itself replaces `%f` and `%p`, and reads `%%` as one percent sign;
/// a shell reads what comes of it.
pub fn restore_command(
    program: &str,
    config: Option<&str>,
    stanza: &StanzaName,
    repository: Option<RepoKey>,
    as_of: Option<Timestamp>,
) -> String {
    let mut command = word(program);
    if let Some(config) = config {
        command += &format!(" {}", word(&format!("--config={config}")));
    }
    command += &format!(" --stanza={stanza} archive-get");
    if let Some(repository) = repository {
        command += &format!(" --repo={repository}");
    }
    if let Some(moment) = as_of {
        command += &format!(" --repo-target-time={moment}");
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
    /// Nothing is written.
    Nothing,
    /// From 12: lines for `postgresql.auto.conf`, and an empty file of that name if PostgreSQL is to recover.
    AutoConf { settings: Vec<(String, String)>, signal: Option<&'static str> },
    /// Before 12: the whole of `recovery.conf`.
    RecoveryConf { content: String },
}

pub const RECOVERY_SIGNAL: &str = "recovery.signal";
pub const STANDBY_SIGNAL: &str = "standby.signal";

pub fn recovery_files(version: PgVersion, options: &RecoveryOptions) -> Result<RecoveryFiles, RecoveryError> {
    options.check()?;
    let is_old = version.uses_recovery_conf();
    if options.archive_off && is_old {
        return Err(RecoveryError::ArchiveModeTooOld(version));
    }
    if options.target == RecoveryTarget::Preserve {
        return Ok(RecoveryFiles::Nothing);
    }
    let mut settings = Vec::new();
    if options.archive_off {
        settings.push(("archive_mode".to_owned(), "off".to_owned()));
    }
    if !options.target.uses_archive() {
        return Ok(match settings.is_empty() {
            true => RecoveryFiles::Nothing,
            false => RecoveryFiles::AutoConf { settings, signal: None },
        });
    }
    settings.extend(recovery_settings(is_old, options));
    for (name, value) in &options.more {
        if name == "standby_mode" && !is_old {
            return Err(RecoveryError::StandbyModeTooNew(version));
        }
        settings.retain(|(known, _)| known != name);
        settings.push((name.clone(), value.clone()));
    }
    if is_old {
        let content = settings.iter().map(|(name, value)| setting_line(name, value)).collect();
        return Ok(RecoveryFiles::RecoveryConf { content });
    }
    let is_standby = options.target == RecoveryTarget::Standby;
    let signal = Some(if is_standby { STANDBY_SIGNAL } else { RECOVERY_SIGNAL });
    Ok(RecoveryFiles::AutoConf { settings, signal })
}

fn recovery_settings(is_old: bool, options: &RecoveryOptions) -> Vec<(String, String)> {
    let mut settings = vec![("restore_command", options.restore_command.clone())];
    match &options.target {
        RecoveryTarget::Immediate => settings.push(("recovery_target", "immediate".into())),
        RecoveryTarget::Lsn(lsn) => settings.push(("recovery_target_lsn", lsn.to_string())),
        RecoveryTarget::Name(name) => settings.push(("recovery_target_name", name.clone())),
        RecoveryTarget::Time(time) => settings.push(("recovery_target_time", time.text.clone())),
        RecoveryTarget::Xid(xid) => settings.push(("recovery_target_xid", xid.to_string())),
        RecoveryTarget::Standby if is_old => settings.push(("standby_mode", "on".into())),
        _ => {}
    }
    if options.exclusive {
        settings.push(("recovery_target_inclusive", "false".into()));
    }
    let timeline = match (options.timeline, &options.target) {
        (Some(TargetTimeline::Number(timeline)), _) => Some(timeline.to_string()),
        (Some(TargetTimeline::Latest), _) => Some("latest".to_owned()),
        // Before 12 there is no such word, and it is the default.
        (Some(TargetTimeline::Current), _) if is_old => None,
        (Some(TargetTimeline::Current), _) => Some("current".to_owned()),
        // From 12 the default is the latest timeline, which may have left ours before the backup was consistent.
        (None, RecoveryTarget::Immediate) if !is_old => Some("current".to_owned()),
        // Before 12 the default is the current one, and a standby has to follow a promotion.
        (None, RecoveryTarget::Standby) if is_old => Some("latest".to_owned()),
        (None, _) => None,
    };
    settings.extend(timeline.map(|timeline| ("recovery_target_timeline", timeline)));
    if let Some(action) = options.action {
        settings.push(("recovery_target_action", action.name().into()));
    }
    settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
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
    use crate::plan::recovery::{TargetAction, TargetTime};

    fn options(target: RecoveryTarget, action: Option<TargetAction>) -> RecoveryOptions {
        let restore_command = r#"pgconvoy archive-get %f "%p" --it='s'"#.into();
        RecoveryOptions { action, ..RecoveryOptions::new(target, restore_command) }
    }

    /// The settings apart from the restore command, and the signal file, in version 15.
    fn in_15(options: &RecoveryOptions) -> (Vec<String>, Option<&'static str>) {
        let files = recovery_files("15".parse().unwrap(), options).unwrap();
        let RecoveryFiles::AutoConf { settings, signal } = files else { panic!("{files:?}") };
        let line = |(name, value): (String, String)| format!("{name}={value}");
        let settings = settings.into_iter().filter(|(name, _)| name != "restore_command").map(line);
        (settings.collect(), signal)
    }

    #[test]
    fn old_versions_get_a_recovery_conf_and_new_ones_settings() {
        let old: PgVersion = "11".parse().unwrap();
        let new: PgVersion = "15".parse().unwrap();
        let immediate = options(RecoveryTarget::Immediate, Some(TargetAction::Promote));
        assert_eq!(
            recovery_files(old, &immediate).unwrap(),
            RecoveryFiles::RecoveryConf {
                content: "restore_command = 'pgconvoy archive-get %f \"%p\" --it=''s'''\n\
                          recovery_target = 'immediate'\nrecovery_target_action = 'promote'\n"
                    .into()
            }
        );
        let (settings, signal) = in_15(&immediate);
        assert!(settings.contains(&"recovery_target_timeline=current".to_owned()));
        assert_eq!(signal, Some(RECOVERY_SIGNAL));
        assert_eq!(
            recovery_files(new, &options(RecoveryTarget::None, None)).unwrap(),
            RecoveryFiles::Nothing
        );
    }

    #[test]
    fn the_restore_command_survives_postgresql_and_the_shell() {
        let stanza: StanzaName = "main".parse().unwrap();
        assert_eq!(
            restore_command("/usr/bin/pgconvoy", Some("/etc/pgconvoy/pgconvoy.toml"), &stanza, None, None),
            r#"/usr/bin/pgconvoy --config=/etc/pgconvoy/pgconvoy.toml --stanza=main archive-get %f "%p""#
        );
        assert_eq!(
            restore_command("/opt/it's 100%/pgconvoy", None, &stanza, Some(RepoKey(2)), None),
            r#"'/opt/it'\''s 100%%/pgconvoy' --stanza=main archive-get --repo=2 %f "%p""#
        );
        let then = Some(Timestamp(1_795_687_207_089));
        assert_eq!(
            restore_command("/usr/bin/pgconvoy", None, &stanza, Some(RepoKey(2)), then),
            r#"/usr/bin/pgconvoy --stanza=main archive-get --repo=2 --repo-target-time=2026-11-26T10:00:07.089Z %f "%p""#
        );
    }

    #[test]
    fn each_target_has_its_setting() {
        let time = TargetTime { moment: Timestamp(0), text: "1970-01-01 00:00:00.000000+00".into() };
        for (target, setting) in [
            (RecoveryTarget::Lsn("16/B374D848".parse().unwrap()), "recovery_target_lsn=16/B374D848"),
            (RecoveryTarget::Name("it".into()), "recovery_target_name=it"),
            (RecoveryTarget::Time(time), "recovery_target_time=1970-01-01 00:00:00.000000+00"),
            (RecoveryTarget::Xid(739), "recovery_target_xid=739"),
        ] {
            assert_eq!(in_15(&options(target, None)), (vec![setting.to_owned()], Some(RECOVERY_SIGNAL)));
        }
        assert_eq!(in_15(&options(RecoveryTarget::Default, None)), (vec![], Some(RECOVERY_SIGNAL)));
    }

    #[test]
    fn a_target_can_be_exclusive_and_on_a_timeline_of_its_own() {
        let mut options = options(RecoveryTarget::Xid(739), Some(TargetAction::Promote));
        options.exclusive = true;
        options.timeline = Some("0xa".parse().unwrap());
        let expected = [
            "recovery_target_xid=739",
            "recovery_target_inclusive=false",
            "recovery_target_timeline=10",
            "recovery_target_action=promote",
        ];
        assert_eq!(in_15(&options).0, expected);
    }

    #[test]
    fn a_standby_is_told_so_by_a_file_or_before_12_by_a_setting() {
        let mut standby = options(RecoveryTarget::Standby, None);
        standby.more.insert("primary_conninfo".into(), "host=db1".into());
        assert_eq!(in_15(&standby), (vec!["primary_conninfo=host=db1".into()], Some(STANDBY_SIGNAL)));
        let old = recovery_files("9.6".parse().unwrap(), &standby).unwrap();
        let RecoveryFiles::RecoveryConf { content } = old else { panic!("{old:?}") };
        assert!(content.contains("standby_mode = 'on'\nrecovery_target_timeline = 'latest'\n"), "{content}");
        standby.more.insert("standby_mode".into(), "on".into());
        assert!(recovery_files("15".parse().unwrap(), &standby).is_err());
    }

    #[test]
    fn what_the_user_sets_replaces_what_we_would_set() {
        let mut options = options(RecoveryTarget::Default, None);
        options.more.insert("restore_command".into(), "false".into());
        let files = recovery_files("15".parse().unwrap(), &options).unwrap();
        let RecoveryFiles::AutoConf { settings, .. } = files else { panic!("{files:?}") };
        assert_eq!(settings, [("restore_command".to_owned(), "false".to_owned())]);
    }

    #[test]
    fn archiving_can_be_switched_off_from_12_on_whatever_is_recovered() {
        let off = RecoveryOptions { archive_off: true, ..options(RecoveryTarget::None, None) };
        assert_eq!(in_15(&off), (vec!["archive_mode=off".into()], None));
        assert!(recovery_files("11".parse().unwrap(), &off).is_err());
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
