//! The repository that is copied from. Nobody makes one: where there is none, or not the stanza in it, another one was meant.

use crate::repositories::repository_set;
use crate::settings::RepoSyncRequest;
use futures::future::join_all;
use pgconvoy_core::failure::Failure;
use pgconvoy_core::ids::{RepoKey, StanzaName};
use pgconvoy_repository::object::ObjectReader;
use pgconvoy_repository::{Repository, RepositoryError, RepositorySet};
use std::sync::Arc;

/// Opens it. Where it is not what was meant, the others are looked at for the stanza.
pub(super) async fn open(request: &RepoSyncRequest, set: &RepositorySet) -> Result<Arc<Repository>, Failure> {
    let RepoSyncRequest { from, stanza, .. } = request;
    let error = match with_stanza(set, from.key, stanza).await {
        Ok(repository) => return Ok(repository),
        Err(error) => error,
    };
    let lacks_all = is_no_repository(&error);
    let is_another = lacks_all || matches!(error, RepositoryError::NoStanza { .. });
    let mut failure = Failure::from(error).context(format!("repo {}", from.key));
    if !is_another {
        return Err(failure);
    }
    failure.hints.clear();
    if lacks_all {
        failure = failure.hint("is its path right, and its file system mounted?");
    }
    Err(others_with_stanza(request).await.into_iter().fold(failure, Failure::hint))
}

/// What is there is not a repository, or nothing is there at all.
pub(super) fn is_no_repository(error: &RepositoryError) -> bool {
    matches!(error, RepositoryError::NotARepository { .. }) || ObjectReader::is_absence(error)
}

async fn with_stanza(
    set: &RepositorySet,
    key: RepoKey,
    stanza: &StanzaName,
) -> Result<Arc<Repository>, RepositoryError> {
    let repository = set.open(key).await?;
    repository.cluster(stanza).await?;
    Ok(repository)
}

/// A sentence for each repository that could be the source. One that cannot be looked at now is none.
async fn others_with_stanza(request: &RepoSyncRequest) -> Vec<String> {
    let stanza = &request.stanza;
    let others: Vec<_> = request.repos.iter().filter(|repo| repo.key != request.from.key).cloned().collect();
    let Ok(set) = repository_set(&others, &request.options) else { return Vec::new() };
    let looked = join_all(others.iter().map(|repo| with_stanza(&set, repo.key, stanza))).await;
    let found = others.iter().zip(&looked).filter(|(_, looked)| looked.is_ok());
    let mut hints: Vec<String> = found
        .map(|(repo, _)| format!("repo {0} has stanza {stanza}: --from={0} copies from there", repo.key))
        .collect();
    if hints.is_empty() {
        hints.push(format!(
            "no other repository that is configured here has stanza {stanza}: configure the one that has its backups, and name it with --from"
        ));
    }
    hints
}
