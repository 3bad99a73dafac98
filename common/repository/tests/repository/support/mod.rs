//! Repositories with real backups in them, and nothing behind them: no database, no worker.

mod backup;
mod pack;
mod site;

pub(crate) use backup::{BackupRequest, Files, backup};
pub(crate) use pack::{PackFile, write_pack};
pub(crate) use site::{Seal, Site, VERSION, segment, wal_content};
