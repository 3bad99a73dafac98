//! The command where the work is done in the background: it waits for its file's status, and makes sure that somebody is
//! at work.

use super::super::archive::background;
use crate::context::Context;
use crate::settings::ArchivePushRequest;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::pg::WalFileName;
use pgconvoy_worker::archive::Nudge;
use pgconvoy_worker::archive::spool::{FileMark, OutSpool};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Between two looks at the status: a part of what was waited already, so that little is lost of a moment and little
/// done in a minute.
const PAUSE_PART: u32 = 16;
const PAUSE_MIN: Duration = Duration::from_millis(2);
const PAUSE_MAX: Duration = Duration::from_millis(50);
/// Between two looks at whether somebody is at work.
const ENSURE_PAUSE: Duration = Duration::from_millis(500);
/// What was said of this file before holds if nothing newer is said for so long.
const STANDING: Duration = Duration::from_secs(2);

pub(super) async fn run(
    context: &Context,
    request: &ArchivePushRequest,
    file: &WalFileName,
    spool: &OutSpool,
) -> Result<(), Failure> {
    let begun = Instant::now();
    let old: Vec<_> = spool.refused(file).into_iter().map(|refused| refused.telling).collect();
    let mut ensured = None::<Instant>;
    loop {
        if let Some(warnings) = archived(request, file, spool) {
            warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
            tracing::info!("pushed WAL file {file} asynchronously");
            return Ok(());
        }
        let mut refused = spool.refused(file).into_iter();
        let is_news = |telling: &_| !old.contains(telling) || begun.elapsed() >= STANDING;
        if let Some(news) = refused.find(|refused| is_news(&refused.telling)) {
            return Err(news.failure);
        }
        if begun.elapsed() >= request.options.archive_timeout {
            return Err(timed_out(request, file));
        }
        if ensured.is_none_or(|ensured| ensured.elapsed() >= ENSURE_PAUSE) {
            background::wake(context, &request.stanza, Nudge::Look)?;
            ensured = Some(Instant::now());
        }
        sleep((begun.elapsed() / PAUSE_PART).clamp(PAUSE_MIN, PAUSE_MAX)).await;
    }
}

/// The warnings about a file that is archived. A status of another file of that name is none.
fn archived(request: &ArchivePushRequest, file: &WalFileName, spool: &OutSpool) -> Option<Vec<String>> {
    let archived = spool.archived(file)?;
    let mark = FileMark::of(&request.path).ok()?;
    (mark == archived.mark).then_some(archived.warnings)
}

fn timed_out(request: &ArchivePushRequest, file: &WalFileName) -> Failure {
    let seconds = request.options.archive_timeout.as_secs_f64();
    Failure::new(
        ErrorCode::ArchiveTimeout,
        format!("unable to push WAL file '{file}' to the archive asynchronously after {seconds} second(s)"),
    )
    .hint("the log of archive-push tells what its background process does")
}
