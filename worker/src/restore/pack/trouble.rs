//! What a repository could not give of a pack, and how that is told.

use super::super::error::as_failure;
use super::super::origin::Origin;
use pgconvoy_core::failure::{ErrorCode, Failure, Retry};
use pgconvoy_repository::RepositoryError;
use pgconvoy_repository::object::ObjectReader;

/// Collects the errors of one repository and one pack: the first one is told, the others are counted.
#[derive(Default)]
pub(super) struct Trouble {
    first: Option<Failure>,
    count: usize,
    found_damage: bool,
    is_present: bool,
    is_away: bool,
}

pub(super) struct Complaint {
    repository: String,
    first: Failure,
    count: usize,
    is_damage: bool,
    is_absence: bool,
}

impl Trouble {
    pub(super) fn add(&mut self, error: RepositoryError) {
        self.is_present |= !ObjectReader::is_absence(&error);
        let failure = as_failure(error);
        self.found_damage |= failure.code == ErrorCode::Checksum;
        self.is_away |= failure.retry == Retry::MayHelp;
        self.count += 1;
        self.first.get_or_insert(failure);
    }

    /// It did not answer: asking on would only cost time.
    pub(super) fn is_away(&self) -> bool {
        self.is_away
    }

    pub(super) fn into_complaint(self, origin: &Origin) -> Option<Complaint> {
        if self.is_away {
            origin.is_away_now();
        }
        Some(Complaint {
            repository: format!("repo {}", origin.key()),
            first: self.first?,
            count: self.count,
            is_damage: self.found_damage,
            is_absence: !self.is_present,
        })
    }
}

/// Somebody else's copy was good: the restore goes on, and the operator hears of what is damaged.
pub(super) fn tell(object: &str, complaints: &[Complaint], taken_from: &Origin) {
    for Complaint { repository, first, count, .. } in complaints {
        let key = taken_from.key();
        tracing::warn!("{repository}: {object}: {first} (failures: {count}); taken from repo {key}");
    }
}

/// Nobody has it.
pub(super) fn given_up(object: &str, complaints: Vec<Complaint>) -> Failure {
    let code = match complaints.first() {
        _ if complaints.iter().any(|one| one.is_damage) => ErrorCode::Checksum,
        _ if complaints.iter().all(|one| one.is_absence) => ErrorCode::FileMissing,
        Some(one) => one.first.code,
        None => ErrorCode::FileMissing,
    };
    let told: Vec<String> =
        complaints.iter().map(|one| format!("{}: {}", one.repository, one.first)).collect();
    let failure = Failure::new(code, format!("{object} cannot be restored: {}", told.join("; ")));
    let hints = complaints.into_iter().flat_map(|one| one.first.hints);
    let mut failure = hints.fold(failure, Failure::hint);
    failure.hints.dedup();
    failure.hint("another backup may be whole: pgconvoy verify tells which, and --set restores it")
}
