//! What all repositories that were checked can give together, and how it is shown.

use super::report::{BackupStatus, StanzaVerification, elements, text as of};
use pgconvoy_core::format::BackupLabel;
use pgconvoy_core::ids::RepoKey;
use pgconvoy_core::plan::restorable::{Restorable, Seen, Together, restorable};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Of one label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conclusion {
    pub label: BackupLabel,
    pub restorable: Restorable,
    /// Some repository has it, and cannot restore it alone.
    pub is_damaged: bool,
}

impl StanzaVerification {
    /// Of every backup that was checked, in order of label.
    pub fn conclusions(&self) -> Vec<Conclusion> {
        let all = self.repositories.iter().flat_map(|repository| &repository.backups);
        let published = all.filter(|backup| backup.status != BackupStatus::InProgress);
        let labels: BTreeSet<BackupLabel> = published.map(|backup| backup.label).collect();
        labels.into_iter().map(|label| self.conclusion(label)).collect()
    }

    fn conclusion(&self, label: BackupLabel) -> Conclusion {
        let without = self.without.iter().map(|key| (*key, &Seen::Without));
        let mut seen: Vec<(RepoKey, &Seen)> = without.collect();
        let mut has = 0;
        for repository in &self.repositories {
            let backup = repository.backups.iter().find(|backup| backup.label == label);
            has += usize::from(backup.is_some_and(|backup| backup.status != BackupStatus::InProgress));
            let unlisted = if repository.is_read { &Seen::Without } else { &Seen::Unread };
            seen.push((repository.key, backup.map_or(unlisted, |backup| &backup.seen)));
        }
        seen.sort_by_key(|(key, _)| *key);
        let restorable = restorable(&seen);
        Conclusion { label, is_damaged: restorable.alone.len() < has, restorable }
    }
}

impl Conclusion {
    /// `null`: what was read does not tell.
    pub(super) fn to_json(&self) -> Value {
        let together = match self.restorable.together {
            Together::Yes => Some(true),
            Together::No => Some(false),
            Together::Unknown => None,
        };
        json!({
            "label": self.label,
            "restorable": { "alone": self.restorable.alone, "together": together },
        })
    }
}

/// Lines about the backups that not every repository can restore alone; a single repository has told it all.
pub(super) fn text(stanza: &Value) -> Vec<String> {
    if elements(&stanza["repo"]).count() < 2 {
        return Vec::new();
    }
    let holders = |label: &Value| {
        let backups = elements(&stanza["repo"]).flat_map(|repository| elements(&repository["backup"]));
        let published = backups.filter(|backup| of(&backup["status"]) != BackupStatus::InProgress.name());
        published.filter(|backup| backup["label"] == *label).count()
    };
    let concluded = elements(&stanza["backup"]);
    let damaged =
        concluded.filter(|one| elements(&one["restorable"]["alone"]).count() < holders(&one["label"]));
    let tell = |one: &Value| format!("  backup: {}, {}", of(&one["label"]), words(&one["restorable"]));
    let mut lines: Vec<String> = damaged.map(tell).collect();
    if !lines.is_empty() {
        lines.insert(0, "all repositories together:".to_owned());
    }
    lines
}

fn words(restorable: &Value) -> String {
    let alone: Vec<String> = elements(&restorable["alone"]).map(|key| format!("repo{key}")).collect();
    match (alone.is_empty(), restorable["together"].as_bool()) {
        (false, Some(true)) => format!("restorable from {} alone, and without --repo", alone.join(", ")),
        (false, _) => format!("restorable from {} alone, with --repo", alone.join(", ")),
        (true, Some(true)) => "restorable without --repo: what one lacks is whole in another".to_owned(),
        (true, Some(false)) => "not restorable: something of it is whole in none".to_owned(),
        (true, None) => "not known to be restorable".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(restorable: Value) -> Vec<String> {
        let backup = |status: &str| json!({ "label": "20261127-101500F", "status": status });
        text(&json!({
            "repo": [{ "backup": [backup("invalid")] }, { "backup": [backup("valid")] }],
            "backup": [{ "label": "20261127-101500F", "restorable": restorable }],
        }))
    }

    #[test]
    fn what_is_shown_says_from_where_a_damaged_backup_can_be_restored() {
        let line = |restorable| shown(restorable).pop().unwrap_or_default();
        assert!(line(json!({ "alone": [2], "together": true })).contains("from repo2 alone, and without"));
        assert!(line(json!({ "alone": [2], "together": null })).contains("from repo2 alone, with --repo"));
        assert!(line(json!({ "alone": [], "together": true })).contains("restorable without --repo"));
        assert!(line(json!({ "alone": [], "together": false })).contains("not restorable"));
        assert!(line(json!({ "alone": [], "together": null })).contains("not known to be restorable"));
        assert_eq!(shown(json!({ "alone": [1, 2], "together": true })), Vec::<String>::new());
    }

    #[test]
    fn a_result_of_an_earlier_version_has_nothing_to_show() {
        let earlier =
            json!({ "name": "main", "status": "error", "repo": [{ "backup": [] }, { "backup": [] }] });
        assert_eq!(text(&earlier), Vec::<String>::new());
    }
}
