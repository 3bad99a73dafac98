//! `manifest`: what one backup consists of.

use crate::args::Output;
use crate::output::stdout_writer;
use crate::repositories::open_all;
use crate::runtime::block_on;
use crate::settings::ManifestRequest;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::format::catalogue::BackupRecord;
use pgconvoy_repository::Repository;
use pgconvoy_repository::filter::NameFilter;
use pgconvoy_repository::manifest_view::{write_json, write_text};
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

pub fn run(request: &ManifestRequest) -> Result<ExitCode, Failure> {
    let filter: Option<NameFilter> = request.filter.as_deref().map(str::parse).transpose()?;
    block_on(async {
        let (repository, record) = find(request).await?;
        let mut out = stdout_writer();
        match request.output {
            Output::Json => {
                write_json(&repository, &request.stanza, &record, filter.as_ref(), &mut out).await?
            }
            Output::Text => {
                write_text(&repository, &request.stanza, &record, filter.as_ref(), &mut out).await?
            }
        }
        out.flush().map_err(|error| {
            Failure::new(ErrorCode::FileWrite, format!("cannot write to stdout: {error}"))
        })?;
        Ok(ExitCode::SUCCESS)
    })?
}

/// The first repository, in order, that has the backup.
async fn find(request: &ManifestRequest) -> Result<(Arc<Repository>, BackupRecord), Failure> {
    let mut last = None;
    for (key, opened) in open_all(&request.repos, &request.options).await? {
        let found = async {
            let repository = opened?;
            let backups = repository.backups(&request.stanza).await?;
            let wanted =
                backups.into_iter().rev().find(|(label, _)| request.set.is_none_or(|set| set == *label));
            Ok::<_, Failure>(match wanted {
                Some((_, record)) => Some((repository, record?)),
                None => None,
            })
        };
        match found.await {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => {}
            Err(failure) => {
                tracing::warn!("repo {key}: {failure}");
                last = Some(failure);
            }
        }
    }
    Err(last.unwrap_or_else(|| {
        let what = request.set.map_or_else(|| "no backup".to_owned(), |set| format!("no backup {set}"));
        Failure::new(ErrorCode::BackupSetInvalid, format!("stanza {} has {what}", request.stanza))
            .hint("pgconvoy info lists the backups")
    }))
}
