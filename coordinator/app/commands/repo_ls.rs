//! `repo-ls`: names in a repository.

use crate::args::{Output, SortOrder as TypedOrder};
use crate::output;
use crate::repositories::repository_set;
use crate::runtime::block_on;
use crate::settings::RepoLsRequest;
use pgconvoy_core::failure::Failure;
use pgconvoy_repository::browse::{ListRequest, SortOrder, list, to_json, to_text};
use std::process::ExitCode;

pub fn run(request: &RepoLsRequest) -> Result<ExitCode, Failure> {
    let wanted = ListRequest {
        path: request.path.clone().unwrap_or_default(),
        recurse: request.recurse,
        filter: request.filter.as_deref().map(str::parse).transpose()?,
        sort: match request.sort {
            TypedOrder::Asc => SortOrder::Ascending,
            TypedOrder::Desc => SortOrder::Descending,
            TypedOrder::None => SortOrder::None,
        },
    };
    let listed = block_on(async {
        let set = repository_set(std::slice::from_ref(&request.repo), &request.options)?;
        let repository = set.open(request.repo.key).await?;
        Ok::<_, Failure>(list(&repository, &wanted).await?)
    })??;
    match request.output {
        Output::Json => output::json(&to_json(&listed)),
        Output::Text => output::text(&to_text(&listed)),
    }
}
