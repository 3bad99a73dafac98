//! A quarter of a gigabyte of a real cluster's relation files, kept under `target` from one run to the next.

use crate::support::{Cluster, ClusterOptions, Context, Result, Scratch, ensure, files};
use pgconvoy_core::pg::RelationFileName;
use std::fs;
use std::path::{Path, PathBuf};

const BYTES: u64 = 256 << 20;
/// Catalogues are small; what is larger is our table and its indexes.
const FILE_BYTES_MIN: u64 = 1 << 20;
const FOLDER: &str = "pages-of-mixed-data";
/// Where relations of one database lie in a data directory.
const DATABASE: &str = "base/5";

pub(crate) struct Pages {
    directory: PathBuf,
    files: Vec<RelationFile>,
}

pub(crate) struct RelationFile {
    /// Relative to the data directory.
    pub(crate) path: String,
    pub(crate) name: RelationFileName,
    pub(crate) size: u64,
}

impl Pages {
    /// Those of an earlier run, or new ones.
    pub(crate) fn ready() -> Result<Pages> {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(FOLDER);
        if !directory.exists() {
            make(&directory)?;
        }
        let mut found = Vec::new();
        for file in files::walk(&directory.join(DATABASE))? {
            let name = file.file_name().context("a file has a name")?.to_string_lossy().into_owned();
            let parsed = RelationFileName::parse(&name).with_context(|| name.clone())?;
            let size = fs::metadata(&file)?.len();
            found.push(RelationFile { path: format!("{DATABASE}/{name}"), name: parsed, size });
        }
        let pages = Pages { directory, files: found };
        ensure!(pages.bytes() > BYTES / 2, "{} has only {} bytes", pages.directory.display(), pages.bytes());
        Ok(pages)
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn files(&self) -> &[RelationFile] {
        &self.files
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }
}

/// Appears under its name when it is whole.
fn make(directory: &Path) -> Result<()> {
    let scratch = Scratch::new()?;
    let options = ClusterOptions { archive_mode: false, ..ClusterOptions::default() };
    let cluster = Cluster::create(&scratch, "source", &options)?;
    cluster.start()?;
    crate::mixed::load(&cluster, BYTES)?;
    cluster.stop()?;
    let unfinished = directory.with_extension("unfinished");
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished)?;
    }
    fs::create_dir_all(unfinished.join(DATABASE))?;
    for file in files::walk(&cluster.data().join("base"))? {
        let name = file.file_name().context("a file has a name")?;
        if fs::metadata(&file)?.len() >= FILE_BYTES_MIN {
            fs::copy(&file, unfinished.join(DATABASE).join(name))?;
        }
    }
    fs::rename(&unfinished, directory).with_context(|| directory.display().to_string())
}
