//! Walks the data directory on a blocking thread and reports what it finds, page by page.

use super::spool::Recording;
use super::{Directory, Keeper, Session, live, offline};
use crate::outbox::Reporter;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::pg::{PgVersion, Rules};
use pgconvoy_core::plan::inventory::ScannedEntry;
use pgconvoy_core::wire::{ReportBody, ScanEnd};
use pgconvoy_postgres::scan::{ScanReport, ScanRequest, scan};
use pgconvoy_postgres::tablespaces::AskTablespaces;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Entries of a scan in one report: keeps it far below a frame's limit, whatever the length of the paths.
const ENTRIES_PER_REPORT: usize = 200;
/// Pages between the walk and the connection: one being sent, and some found meanwhile.
const PAGES_IN_FLIGHT: usize = 4;

struct Walk {
    path: PathBuf,
    version: PgVersion,
    rules: Rules,
    ask: Arc<AskTablespaces>,
}

impl Keeper {
    /// The first time it walks; a repeated order gets what the walk found then, because the backup's plan rests on it.
    pub(super) async fn scan(&mut self) -> Result<ScanEnd, Failure> {
        if let Some(scan) = &mut self.scanned {
            return scan.tell(&self.reporter).await;
        }
        let mut recording = Recording::begin(self.ground.spool.as_deref())?;
        let end = self.walk(&mut recording).await?;
        self.scanned = Some(recording.end(end.clone()));
        Ok(end)
    }

    /// Ends at a full second of the database's clock that is later than anything it saw: a file that changes after that has
    /// another time than the one in the manifest.
    async fn walk(&mut self, recording: &mut Recording) -> Result<ScanEnd, Failure> {
        let before_session = || Failure::new(ErrorCode::Assert, "a scan came before a session");
        let known = self.known.as_ref().ok_or_else(before_session)?;
        let directory = self.directory.as_mut().ok_or_else(before_session)?;
        let options = &known.options;
        let walk = Walk {
            path: known.config.directory.clone(),
            version: known.facts.version,
            rules: Rules::new(
                known.facts.version,
                known.facts.catalog_version,
                options.online,
                &options.exclude,
            )?,
            ask: ask(&known.session, directory, &self.ground.runtime),
        };
        let doubts = doubts_about_excludes(&walk);
        let report = walk.run(directory, &self.reporter, recording).await?;
        directory.roots = report.roots;
        let warnings = doubts.into_iter().chain(report.warnings.iter().map(ToString::to_string)).collect();
        let copy_start = match &known.session {
            Session::Online(online) => online.live.next_second().await?,
            _ => offline::next_second().await,
        };
        Ok(ScanEnd { warnings, copy_start })
    }
}

/// What is left out by name may be missed, and a name that is misspelt leaves nothing out.
fn doubts_about_excludes(walk: &Walk) -> Vec<String> {
    let is_absent = |path: &&str| walk.path.join(path).symlink_metadata().is_err();
    let absent = walk.rules.excludes().filter(is_absent);
    let absent = absent.map(|path| format!("exclude '{path}': the data directory has nothing of that name"));
    let lossy = walk.rules.lossy_excludes().map(|path| {
        format!("exclude '{path}' leaves out data: a restored copy will not have what is in there")
    });
    absent.chain(lossy).collect()
}

/// Of a stopped cluster nobody can be asked: it has the tablespaces that it had.
pub(super) fn ask(
    session: &Session,
    directory: &Directory,
    runtime: &tokio::runtime::Handle,
) -> Arc<AskTablespaces> {
    match session {
        Session::Online(online) => live::ask_tablespaces(&online.live, runtime.clone()),
        Session::Elsewhere(client) => live::ask_client(client.clone(), runtime.clone()),
        Session::Standby(standby) => live::ask_client(standby.client.clone(), runtime.clone()),
        _ => {
            let tablespaces = directory.tablespaces.clone();
            Arc::new(move || Ok(tablespaces.clone()))
        }
    }
}

impl Walk {
    async fn run(
        self,
        directory: &Directory,
        reporter: &Reporter,
        recording: &mut Recording,
    ) -> Result<ScanReport, Failure> {
        let (roots, tablespaces) = (directory.roots.clone(), directory.tablespaces.clone());
        let (pages, mut received) = mpsc::channel::<Vec<ScannedEntry>>(PAGES_IN_FLIGHT);
        let walking = tokio::task::spawn_blocking(move || {
            let request = ScanRequest {
                directory: &self.path,
                version: self.version,
                rules: &self.rules,
                tablespaces: &tablespaces,
                ask_tablespaces: self.ask.as_ref(),
                roots,
            };
            scan(request, |page| match pages.blocking_send(page) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            })
        });
        while let Some(mut page) = received.recv().await {
            while !page.is_empty() {
                let rest = page.split_off(page.len().min(ENTRIES_PER_REPORT));
                recording.add(&page)?;
                reporter.send(ReportBody::Scanned(page)).await?;
                page = rest;
            }
        }
        let scanned =
            walking.await.map_err(|_| Failure::new(ErrorCode::Assert, "the scan's thread panicked"))?;
        scanned?.ok_or_else(|| Failure::new(ErrorCode::Term, "the scan was broken off"))
    }
}
