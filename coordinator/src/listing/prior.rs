//! The files of a prior backup, from its manifest.

use super::Listing;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::format::catalogue::BackupRecord;
use pgconvoy_core::format::manifest::{FileRecord, Record};
use pgconvoy_core::ids::RepoKey;
use pgconvoy_core::machine::backup::Event;
use pgconvoy_repository::manifest::ManifestReader;

impl Listing {
    /// The first repository whose manifest can be read to its end will do: it is the same in all.
    pub(crate) async fn prior(&self, record: &BackupRecord, repositories: Vec<RepoKey>) -> Event {
        let mut result = Err(Failure::new(ErrorCode::Assert, "a prior was to be read from no repository"));
        for repository in repositories {
            result = self
                .list_prior(record, repository)
                .await
                .map_err(|failure| failure.context(format!("repo {repository}")));
            match &result {
                Ok(()) => break,
                Err(failure) => {
                    tracing::warn!("the manifest of backup {} cannot be read: {failure}", record.label)
                }
            }
        }
        Event::PriorRead { round: self.round, label: record.label, result }
    }

    async fn list_prior(&self, record: &BackupRecord, repository: RepoKey) -> Result<(), Failure> {
        let opened = self.set.open(repository).await?;
        let mut reader = ManifestReader::open(&opened, &self.stanza, record.label, &record.manifest).await?;
        let (round, label) = (self.round, record.label);
        self.tell(Event::PriorOpened { round, head: Box::new(reader.head().clone()) }).await?;
        while let Some(records) = reader.next_records(&opened).await? {
            let files: Vec<FileRecord> = records
                .into_iter()
                .filter_map(|record| match record {
                    Record::File(file) => Some(file),
                    Record::Directory(_) | Record::Link(_) => None,
                })
                .collect();
            self.tell(Event::PriorListed { round, label, files }).await?;
        }
        Ok(())
    }
}
