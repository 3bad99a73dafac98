//! WAL that is fetched before PostgreSQL asks for it, in the spool.
//!
//! It is a store of what is known to be there, never of what is not: a file that is not in the spool is asked for in the
//! repositories. So a prefetched segment saves the wait, and a history that was fetched once is known for good, while the
//! hunt for histories of timelines to come asks for each by its name, which costs no listing and cannot be out of date.
//!
//! Invariants
//! 1. What lies here is whole, checked and on disk before it bears its name.
//! 2. Clusters and choices of repositories have directories of their own: nobody gets another's file of the same name.

use super::destination::{Destination, TEMPORARY};
use super::spool::{create, directory_of, remove, trouble};
use super::{ClusterIdentity, Connect, Fetched, Get};
use futures::stream::{self, StreamExt};
use pgconvoy_core::failure::Failure;
use pgconvoy_core::ids::{RepoKey, StanzaName};
use pgconvoy_core::pg::{WalFileName, WalSegmentName, WalSegmentSize};
use pgconvoy_core::units::ByteCount;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Fewer would not be ahead.
const SEGMENTS_MIN: u64 = 2;

/// The segments from `first` on that the queue has room for.
pub fn segments_ahead(
    first: WalSegmentName,
    size: WalSegmentSize,
    queue_max: ByteCount,
) -> Vec<WalSegmentName> {
    let count = (queue_max.0 / size.bytes()).max(SEGMENTS_MIN);
    let following = std::iter::successors(Some(first), |segment| Some(segment.next(size)));
    following.take(usize::try_from(count).unwrap_or(usize::MAX)).collect()
}

/// What is there for one cluster, from one choice of repositories.
#[derive(Debug, Clone)]
pub struct InSpool {
    directory: PathBuf,
}

impl InSpool {
    pub fn open(
        spool: &Path,
        stanza: &StanzaName,
        cluster: ClusterIdentity,
        repositories: &[RepoKey],
    ) -> Result<InSpool, Failure> {
        let repositories: Vec<String> = repositories.iter().map(ToString::to_string).collect();
        let whose = format!("{}-{}-{}", cluster.version, cluster.system_id, repositories.join("+"));
        let directory = directory_of(spool, stanza, "in").join(whose);
        create(&directory)?;
        Ok(InSpool { directory })
    }

    fn path(&self, file: &WalFileName) -> PathBuf {
        self.directory.join(file.to_string())
    }

    fn has(&self, segment: &WalSegmentName) -> bool {
        self.path(&WalFileName::Segment(*segment)).exists()
    }

    /// How many of these are there before the first that is not.
    pub fn count(&self, segments: &[WalSegmentName]) -> usize {
        segments.iter().take_while(|segment| self.has(segment)).count()
    }

    /// Moves a segment to its destination, or copies a history there. False: it is not here.
    pub fn take(&self, file: &WalFileName, destination: &Path) -> Result<bool, Failure> {
        let path = self.path(file);
        let is_history = matches!(file, WalFileName::History(_));
        if !is_history {
            match std::fs::rename(&path, destination) {
                Ok(()) => return Ok(true),
                Err(error) if error.kind() == ErrorKind::CrossesDevices => {}
                Err(error) if error.kind() == ErrorKind::NotFound && !path.exists() => return Ok(false),
                Err(error) => return Err(trouble("rename to", destination, &error)),
            }
        }
        let content = match std::fs::read(&path) {
            Ok(content) => content,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(trouble("read", &path, &error)),
        };
        let mut copy = Destination::create(destination)?;
        copy.write(&content)?;
        copy.publish()?;
        if !is_history {
            remove(&path)?;
        }
        Ok(true)
    }

    /// Keeps a history that was fetched: it never changes.
    pub fn keep_history(&self, file: &WalFileName, fetched: &Path) -> Result<(), Failure> {
        if !matches!(file, WalFileName::History(_)) {
            return Ok(());
        }
        let content = std::fs::read(fetched).map_err(|error| trouble("read", fetched, &error))?;
        let mut copy = Destination::create(&self.path(file))?;
        copy.write(&content)?;
        copy.publish_synced()
    }

    /// Whether somebody has begun to fetch it.
    pub fn is_coming(&self, file: &WalFileName) -> bool {
        let beginning = format!("{file}{TEMPORARY}");
        let Ok(entries) = std::fs::read_dir(&self.directory) else { return false };
        entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with(&beginning))
    }

    /// Removes what is not wanted, and what a process that died had begun. Only for who fetches.
    fn tidy(&self, wanted: &[WalSegmentName]) -> Result<(), Failure> {
        let entries = std::fs::read_dir(&self.directory);
        for entry in entries.map_err(|error| trouble("read", &self.directory, &error))? {
            let path = entry.map_err(|error| trouble("read", &self.directory, &error))?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let stays = match name.and_then(|name| name.parse().ok()) {
                Some(WalFileName::Segment(segment)) => wanted.contains(&segment),
                Some(WalFileName::History(_)) => true,
                _ => false,
            };
            if !stays {
                remove(&path)?;
            }
        }
        Ok(())
    }
}

/// Fills the spool.
pub struct FetchAhead<'a> {
    pub connect: &'a Connect,
    pub repositories: &'a [RepoKey],
    pub stanza: &'a StanzaName,
    pub cluster: ClusterIdentity,
    pub spool: &'a InSpool,
    /// In the order in which PostgreSQL will ask.
    pub segments: &'a [WalSegmentName],
    /// Files at once.
    pub width: usize,
}

impl FetchAhead<'_> {
    /// Ends at the first segment that is not to be had: whoever waits for it asks by himself. How many were fetched.
    pub async fn run(&self) -> Result<usize, Failure> {
        self.spool.tidy(self.segments)?;
        let missing = self.segments.iter().filter(|segment| !self.spool.has(segment));
        let mut fetching =
            stream::iter(missing.map(|segment| self.fetch(*segment))).buffered(self.width.max(1));
        let mut fetched = 0;
        while let Some(one) = fetching.next().await {
            if one? == Fetched::Absent {
                break;
            }
            fetched += 1;
        }
        Ok(fetched)
    }

    async fn fetch(&self, segment: WalSegmentName) -> Result<Fetched, Failure> {
        let file = WalFileName::Segment(segment);
        let get = Get {
            connect: self.connect,
            repositories: self.repositories,
            stanza: self.stanza,
            file,
            destination: &self.spool.path(&file),
            cluster: Some(self.cluster),
            patience: Duration::ZERO,
            is_kept: true,
        };
        let fetched = get.run().await?;
        tracing::debug!("{file} ahead: {fetched:?}");
        Ok(fetched)
    }
}

#[cfg(test)]
mod tests;
