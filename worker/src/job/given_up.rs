//! The repositories that a job has given up because they stalled.
//!
//! A stall costs a slot its whole timeout. Every unit and every slot paying for the same dead repository anew would cost
//! the job hours, so the first one that pays tells the others, those that wait already too.
//!
//! Invariant: a unit whose repositories are all given up tries them nevertheless. One that is alone in its order gets
//! every chance, because without it there is no backup.

use pgconvoy_core::failure::Failure;
use pgconvoy_core::ids::RepoKey;
use std::collections::BTreeMap;
use tokio::sync::watch;

#[derive(Debug, Default)]
pub struct GivenUp {
    failures: watch::Sender<BTreeMap<RepoKey, Failure>>,
}

impl GivenUp {
    pub fn add(&self, repository: RepoKey, failure: Failure) {
        self.failures.send_modify(|failures| {
            failures.entry(repository).or_insert(failure);
        });
    }

    /// Why a unit that goes to `ordered` need not try this one of them.
    pub fn skips(&self, repository: RepoKey, ordered: &[RepoKey]) -> Option<Failure> {
        judge(&self.failures.borrow(), repository, ordered)
    }

    /// Waits until there is such a reason, perhaps for ever.
    pub async fn skipped(&self, repository: RepoKey, ordered: &[RepoKey]) -> Failure {
        let mut changes = self.failures.subscribe();
        loop {
            if let Some(failure) = judge(&changes.borrow_and_update(), repository, ordered) {
                return failure;
            }
            changes.changed().await.expect("the sender is borrowed for as long as this waits");
        }
    }
}

fn judge(failures: &BTreeMap<RepoKey, Failure>, repository: RepoKey, ordered: &[RepoKey]) -> Option<Failure> {
    let failure = failures.get(&repository)?;
    ordered.iter().any(|other| !failures.contains_key(other)).then(|| failure.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgconvoy_core::failure::ErrorCode;

    const ONE: RepoKey = RepoKey(1);
    const TWO: RepoKey = RepoKey(2);

    fn stalled() -> Failure {
        Failure::new(ErrorCode::FileWrite, "stalled")
    }

    #[test]
    fn a_repository_is_skipped_only_while_another_one_of_the_order_is_left() {
        let given_up = GivenUp::default();
        assert_eq!(given_up.skips(ONE, &[ONE, TWO]), None);
        given_up.add(ONE, stalled());
        assert_eq!(given_up.skips(ONE, &[ONE, TWO]), Some(stalled()));
        assert_eq!(given_up.skips(TWO, &[ONE, TWO]), None);
        assert_eq!(given_up.skips(ONE, &[ONE]), None);
        given_up.add(TWO, stalled());
        assert_eq!(given_up.skips(ONE, &[ONE, TWO]), None);
    }

    #[tokio::test]
    async fn whoever_waits_for_a_repository_hears_that_another_unit_gave_it_up() {
        let given_up = GivenUp::default();
        let (failure, ()) =
            tokio::join!(given_up.skipped(ONE, &[ONE, TWO]), async { given_up.add(ONE, stalled()) });
        assert_eq!(failure, stalled());
    }
}
