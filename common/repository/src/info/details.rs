//! What `info --set` adds, from the manifest.

use crate::error::RepositoryError;
use crate::manifest::ManifestReader;
use crate::open::Repository;
use pgconvoy_core::format::catalogue::BackupRecord;
use pgconvoy_core::format::manifest::{Database, Record, Tablespace};
use pgconvoy_core::ids::StanzaName;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BackupDetails {
    pub databases: Vec<Database>,
    pub tablespaces: Vec<Tablespace>,
    /// Path and destination.
    pub links: Vec<(String, String)>,
    /// Files with pages whose checksum did not match, and those pages' numbers.
    pub files_with_errors: Vec<(String, Vec<u32>)>,
}

pub(super) async fn read(
    repository: &Repository,
    stanza: &StanzaName,
    record: &BackupRecord,
) -> Result<BackupDetails, RepositoryError> {
    let mut manifest = ManifestReader::open(repository, stanza, record.label, &record.manifest).await?;
    let head = manifest.head();
    let mut details = BackupDetails {
        databases: head.databases.clone(),
        tablespaces: head.tablespaces.clone(),
        ..BackupDetails::default()
    };
    let is_tablespace = |path: &str| path.starts_with("pg_tblspc/");
    while let Some(records) = manifest.next_records(repository).await? {
        for record in records {
            match record {
                Record::Link(link) if !is_tablespace(link.path.as_str()) => {
                    details.links.push((link.path.to_string(), link.destination));
                }
                Record::File(file) if !file.bad_pages.is_empty() => {
                    details.files_with_errors.push((file.path.to_string(), file.bad_pages));
                }
                _ => {}
            }
        }
    }
    Ok(details)
}
