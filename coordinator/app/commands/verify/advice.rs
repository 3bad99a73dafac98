//! What an operator can do about damage: from where each damaged backup can still be restored.

use pgconvoy_core::format::BackupLabel;
use pgconvoy_core::plan::restorable::{Restorable, Together};
use pgconvoy_repository::verify::Conclusion;

/// Enough to know which they are: the report has all of them.
const LABELS_TOLD: usize = 5;

/// A sentence for each way that is open, with the backups that it is open to. `repositories` is how many were to be read.
pub(super) fn advice(conclusions: &[Conclusion], repositories: usize) -> Vec<String> {
    let mut damaged: Vec<(&Restorable, BackupLabel)> =
        conclusions.iter().filter(|one| one.is_damaged).map(|one| (&one.restorable, one.label)).collect();
    damaged.sort_by(|(one, _), (other, _)| one.alone.cmp(&other.alone));
    let mut ways: Vec<(&Restorable, Vec<BackupLabel>)> = Vec::new();
    for (restorable, label) in damaged {
        match ways.iter_mut().find(|(way, _)| *way == restorable) {
            Some((_, labels)) => labels.push(label),
            None => ways.push((restorable, vec![label])),
        }
    }
    let mut hints: Vec<String> = ways.iter().map(|(way, labels)| hint(way, &named(labels))).collect();
    if repositories > 1 {
        hints
            .push("repo-sync does not repair it: what lies in its target already, it leaves as it is".into());
    }
    hints
}

fn hint(way: &Restorable, backups: &str) -> String {
    let alone: Vec<String> = way.alone.iter().map(|key| format!("--repo={key}")).collect();
    match (alone.is_empty(), way.together) {
        (false, Together::Yes) => format!(
            "{backups} can be restored from what is whole with {}, and without --repo, which takes each frame from where it is whole",
            alone.join(" or ")
        ),
        (false, _) => format!("{backups} can be restored from what is whole with {}", alone.join(" or ")),
        (true, Together::Yes) => format!(
            "{backups} can be restored without --repo, from several repositories together: each frame is taken from where it is whole"
        ),
        (true, Together::No) => format!(
            "{backups} cannot be restored any more from what was checked: something is whole in no repository"
        ),
        (true, Together::Unknown) => format!(
            "whether {backups} can be restored is not known: something could not be read, or contradicts itself"
        ),
    }
}

fn named(labels: &[BackupLabel]) -> String {
    let told: Vec<String> = labels.iter().take(LABELS_TOLD).map(BackupLabel::to_string).collect();
    let word = if labels.len() == 1 { "backup" } else { "backups" };
    match labels.len().saturating_sub(LABELS_TOLD) {
        0 => format!("{word} {}", told.join(", ")),
        more => format!("{word} {} and {more} more", told.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgconvoy_core::ids::RepoKey;

    fn damaged(second: u32, alone: &[u16], together: Together) -> Conclusion {
        let label = format!("20261127-1015{second:02}F").parse().expect("a label");
        let alone = alone.iter().copied().map(RepoKey).collect();
        Conclusion { label, restorable: Restorable { alone, together }, is_damaged: true }
    }

    #[test]
    fn each_way_is_told_once_with_the_backups_that_it_is_open_to() {
        let sound = Conclusion { is_damaged: false, ..damaged(9, &[1, 2], Together::Yes) };
        let told = advice(
            &[
                damaged(1, &[2], Together::Yes),
                damaged(2, &[], Together::No),
                damaged(3, &[2], Together::Yes),
                damaged(4, &[], Together::Yes),
                damaged(5, &[], Together::Unknown),
                damaged(6, &[2], Together::Unknown),
                sound,
            ],
            2,
        );
        let count =
            |words: &[&str]| told.iter().filter(|hint| words.iter().all(|word| hint.contains(word))).count();
        assert_eq!(told.len(), 6, "{told:?}");
        assert_eq!(count(&["101501F, 20261127-101503F", "--repo=2", "without --repo"]), 1, "{told:?}");
        assert_eq!(count(&["101502F cannot be restored any more"]), 1, "{told:?}");
        assert_eq!(count(&["101504F can be restored without --repo"]), 1, "{told:?}");
        assert_eq!(count(&["whether backup 20261127-101505F"]), 1, "{told:?}");
        assert_eq!(count(&["101506F", "with --repo=2"]), 1, "{told:?}");
        assert_eq!(count(&["101509F"]), 0, "what is whole everywhere needs no advice: {told:?}");
        assert_eq!(count(&["repo-sync does not repair"]), 1, "{told:?}");
    }

    #[test]
    fn an_archive_full_of_damage_is_not_told_label_by_label() {
        let many: Vec<Conclusion> = (0..40).map(|second| damaged(second, &[], Together::No)).collect();
        let told = advice(&many, 1);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains("and 35 more"), "{told:?}");
    }
}
