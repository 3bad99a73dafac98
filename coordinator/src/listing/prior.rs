//! The files of a prior backup, from its manifest.

use super::Listing;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::format::catalogue::BackupRecord;
use pgconvoy_core::format::manifest::{FileRecord, Record};
use pgconvoy_core::ids::RepoKey;
use pgconvoy_core::machine::backup::Event;
use pgconvoy_repository::manifest::ManifestReader;

impl Listing {
    /// The first repository whose manifest can be read to its end will do: all have the same backup, each with a manifest of
    /// its own.
    pub(crate) async fn prior(&self, prior: u32, records: Vec<(RepoKey, Box<BackupRecord>)>) -> Event {
        let mut result = Err(Failure::new(ErrorCode::Assert, "a prior was to be read from no repository"));
        for (repository, record) in records {
            result = self
                .list_prior(prior, repository, &record)
                .await
                .map_err(|failure| failure.context(format!("repo {repository}")));
            match &result {
                Ok(()) => break,
                Err(failure) => {
                    tracing::warn!("the manifest of backup {} cannot be read: {failure}", record.label)
                }
            }
        }
        Event::PriorRead { round: self.round, prior, result }
    }

    async fn list_prior(
        &self,
        prior: u32,
        repository: RepoKey,
        record: &BackupRecord,
    ) -> Result<(), Failure> {
        let opened = self.set.open(repository).await?;
        let mut reader = ManifestReader::open(&opened, &self.stanza, record.label, &record.manifest).await?;
        if reader.head().backup != record.backup {
            let message = format!("the manifest under label {} is that of another backup", record.label);
            return Err(Failure::new(ErrorCode::BackupMismatch, message)
                .hint("verify tells what else is wrong in this repository"));
        }
        let round = self.round;
        self.tell(Event::PriorOpened { round, prior, head: Box::new(reader.head().clone()) }).await?;
        while let Some(records) = reader.next_records(&opened).await? {
            let files: Vec<FileRecord> = records
                .into_iter()
                .filter_map(|record| match record {
                    Record::File(file) => Some(file),
                    Record::Directory(_) | Record::Link(_) => None,
                })
                .collect();
            self.tell(Event::PriorListed { round, prior, files }).await?;
        }
        Ok(())
    }
}
