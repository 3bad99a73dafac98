//! WAL summaries as all units of a job share them, until one of them finds that they are wrong.

use pgconvoy_core::plan::summaries::{ChangedBlocks, Geometry, Window};
use std::sync::OnceLock;

#[derive(Debug)]
pub struct Summaries {
    pub changed: ChangedBlocks,
    pub geometry: Geometry,
    pub window: Window,
    wrong: OnceLock<String>,
}

impl Summaries {
    pub fn new(changed: ChangedBlocks, geometry: Geometry, window: Window) -> Summaries {
        Summaries { changed, geometry, window, wrong: OnceLock::new() }
    }

    /// None of them is believed from here on.
    pub fn distrust(&self, reason: String) {
        // The first reason is as good as any.
        let _ = self.wrong.set(reason);
    }

    pub fn wrong(&self) -> Option<&str> {
        self.wrong.get().map(String::as_str)
    }
}
