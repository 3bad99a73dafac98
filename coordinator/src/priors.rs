//! Lists the files of a prior backup to the machine that compares them with what is there now.
//!
//! The next page is read when the machine has taken the one before: a manifest is never in memory as a whole.

use crate::actors::backup::{BackupActor, Happened};
use actix::Addr;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::format::catalogue::BackupRecord;
use pgconvoy_core::format::manifest::{FileRecord, Record};
use pgconvoy_core::ids::{RepoKey, StanzaName};
use pgconvoy_core::machine::backup::Event;
use pgconvoy_repository::RepositorySet;
use pgconvoy_repository::manifest::ManifestReader;
use std::sync::Arc;

pub(crate) struct PriorListing {
    pub set: Arc<RepositorySet>,
    pub stanza: StanzaName,
    pub actor: Addr<BackupActor>,
    pub round: u32,
}

impl PriorListing {
    /// The first repository whose manifest can be read to its end will do: it is the same in all.
    pub(crate) async fn run(&self, record: &BackupRecord, repositories: Vec<RepoKey>) -> Event {
        let mut result = Err(Failure::new(ErrorCode::Assert, "a prior was to be read from no repository"));
        for repository in repositories {
            result = self
                .list(record, repository)
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

    async fn list(&self, record: &BackupRecord, repository: RepoKey) -> Result<(), Failure> {
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

    async fn tell(&self, event: Event) -> Result<(), Failure> {
        let gone = |_| Failure::new(ErrorCode::Term, "the backup is over");
        self.actor.send(Happened(event)).await.map_err(gone)
    }
}
