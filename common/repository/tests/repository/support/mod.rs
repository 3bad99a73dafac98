//! Repositories with real backups in them, and nothing behind them: no database, no worker.

mod backup;
mod incremental;
mod pack;
mod site;

pub(crate) use backup::{BackupRequest, Files, backup, contents, keep_session, writer};
pub(crate) use incremental::{Flaw, incremental};
pub(crate) use pack::{PackFile, write_pack};
pub(crate) use site::{Seal, Site, VERSION, segment, wal_content};
