//! archive-get with a background process that fetches ahead: the command takes what is there, and sees to it that more
//! comes. Whatever is wrong with that, the command can still ask the repositories by itself.

use super::super::archive::{background, leave_directory, run_wide_until_terminated};
use crate::context::Context;
use crate::host::cores;
use crate::repositories::repository_set;
use crate::settings::ArchiveGetRequest;
use pgconvoy_core::failure::Failure;
use pgconvoy_core::ids::RepoKey;
use pgconvoy_core::pg::{WalFileName, WalSegmentName, WalSegmentSize};
use pgconvoy_worker::archive::ahead::{FetchAhead, InSpool, segments_ahead};
use pgconvoy_worker::archive::{ClusterIdentity, Connect, data_directory};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A segment that is on its way is waited for so long at most.
const COMING_MAX: Duration = Duration::from_secs(5);
const COMING_PAUSE: Duration = Duration::from_millis(5);
const WIDTH_MIN: usize = 2;

pub(super) struct Ahead<'a> {
    context: &'a Context,
    request: &'a ArchiveGetRequest,
    cluster: ClusterIdentity,
    size: WalSegmentSize,
    spool: InSpool,
}

impl<'a> Ahead<'a> {
    /// `None` where nobody asked for it, or where it cannot be.
    pub(super) fn of(
        context: &'a Context,
        request: &'a ArchiveGetRequest,
        directory: Option<&Path>,
        cluster: Option<ClusterIdentity>,
    ) -> Option<Ahead<'a>> {
        // The spool holds what is in the archive now.
        if !request.options.archive_async || request.repos.iter().any(|repo| repo.as_of.is_some()) {
            return None;
        }
        let (cluster, size) = (cluster?, data_directory::segment_size(directory?)?);
        let keys: Vec<RepoKey> = request.repos.iter().map(|repo| repo.key).collect();
        match InSpool::open(Path::new(&context.config.paths.spool), &request.stanza, cluster, &keys) {
            Ok(spool) => Some(Ahead { context, request, cluster, size, spool }),
            Err(failure) => {
                tracing::warn!("{failure}; fetching without a background process");
                None
            }
        }
    }

    /// Takes the file from the spool, if it is there or on its way.
    pub(super) fn take(&self, file: &WalFileName) -> bool {
        let begun = Instant::now();
        loop {
            match self.spool.take(file, &self.request.destination) {
                Ok(true) => return true,
                Ok(false) => {}
                Err(failure) => {
                    tracing::warn!("{failure}; asking the repositories");
                    return false;
                }
            }
            let is_coming = begun.elapsed() < COMING_MAX
                && self.spool.is_coming(file)
                && background::is_running(self.context, &self.request.stanza);
            if !is_coming {
                return false;
            }
            std::thread::sleep(COMING_PAUSE);
        }
    }

    /// Whoever got this file will ask for the next.
    pub(super) fn prepare_for_next(&self, file: &WalFileName) {
        let prepared = match file {
            WalFileName::Segment(segment) => self.ensure_half(segment.next(self.size)),
            _ => self.spool.keep_history(file, &self.request.destination),
        };
        if let Err(failure) = prepared {
            tracing::warn!("{failure}");
        }
    }

    fn ensure_half(&self, first: WalSegmentName) -> Result<(), Failure> {
        let wanted = self.wanted(first);
        match self.spool.count(&wanted) * 2 < wanted.len() {
            true => background::ensure(self.context, &self.request.stanza),
            false => Ok(()),
        }
    }

    fn wanted(&self, first: WalSegmentName) -> Vec<WalSegmentName> {
        segments_ahead(first, self.size, self.request.options.archive_get_queue_max)
    }

    /// What the background process does: fetch what follows the file that its command got.
    pub(super) fn fetch(&self, file: &WalFileName) -> Result<(), Failure> {
        let WalFileName::Segment(segment) = file else { return Ok(()) };
        let Some(_lock) = background::become_it(self.context, &self.request.stanza)? else { return Ok(()) };
        let set = repository_set(&self.request.repos, &self.request.options)?;
        let connect: Connect = Arc::new(move |_| Ok(set.clone()));
        let repositories: Vec<RepoKey> = self.request.repos.iter().map(|repo| repo.key).collect();
        let width = self.request.options.slots(cores()).max(WIDTH_MIN);
        let ahead = FetchAhead {
            connect: &connect,
            repositories: &repositories,
            stanza: &self.request.stanza,
            cluster: self.cluster,
            spool: &self.spool,
            segments: &self.wanted(segment.next(self.size)),
            width,
        };
        leave_directory();
        let fetched = run_wide_until_terminated(width * repositories.len(), ahead.run())??;
        tracing::info!("fetched {fetched} segments ahead of {file}");
        Ok(())
    }
}
