//! A stand-in for PostgreSQL's archiver: segments with a true header, which cost hardly any space, and the status files
//! by which PostgreSQL says that they wait.

use super::{Context, Finished, Pgconvoy, Result, Site, user};
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// The smallest that PostgreSQL knows; the cluster that a stand-in borrows its identity from has the same.
pub const SEGMENT_MIB: u32 = 1;
const SEGMENT_BYTES: u64 = (SEGMENT_MIB as u64) << 20;
/// XLOG_PAGE_MAGIC of version 15.
const MAGIC: u16 = 0xD110;
const LONG_HEADER: u16 = 2;

pub struct FakeArchiver {
    data: PathBuf,
    system_id: u64,
}

impl FakeArchiver {
    /// A directory that looks like the data directory of the site's cluster.
    pub fn of(site: &Site) -> Result<FakeArchiver> {
        let data = site.scratch.private_dir("fake")?;
        for folder in ["global", "pg_wal", "pg_wal/archive_status"] {
            user::private_dir(&data.join(folder))?;
        }
        for file in ["global/pg_control", "PG_VERSION"] {
            std::fs::copy(site.cluster.data().join(file), data.join(file))?;
            user::give(&data.join(file))?;
        }
        let system_id = site.cluster.control("Database system identifier")?.parse()?;
        Ok(FakeArchiver { data, system_id })
    }

    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Far from what the real cluster writes.
    pub fn name(number: u32) -> String {
        format!("00000001000000F0{number:08X}")
    }

    pub fn path(&self, number: u32) -> PathBuf {
        self.data.join("pg_wal").join(Self::name(number))
    }

    fn status(&self, number: u32, status: &str) -> PathBuf {
        self.data.join(format!("pg_wal/archive_status/{}.{status}", Self::name(number)))
    }

    /// Writes the segment and says that it waits.
    pub fn fill(&self, number: u32) -> Result<()> {
        write_segment(&self.path(number), self.system_id, number)?;
        File::create(self.status(number, "ready"))?;
        user::give(&self.status(number, "ready"))
    }

    pub fn push(&self, pgconvoy: &Pgconvoy, number: u32) -> Result<Finished> {
        pgconvoy.archive_push(&self.data, &Path::new("pg_wal").join(Self::name(number)))
    }

    /// Pushes until it is archived, as PostgreSQL does without its pauses, and then has no use for the segment.
    pub fn archive(&self, pgconvoy: &Pgconvoy, number: u32) -> Result<Finished> {
        let finished = self.push(pgconvoy, number)?;
        if finished.code == Some(0) {
            self.recycle(number)?;
        }
        Ok(finished)
    }

    /// What PostgreSQL does to a segment that is archived: it becomes one to come, and is written over.
    pub fn recycle(&self, number: u32) -> Result<()> {
        std::fs::rename(self.status(number, "ready"), self.status(number, "done"))?;
        let next = self.data.join("pg_wal").join(format!("00000001000000FF{number:08X}"));
        std::fs::rename(self.path(number), &next)?;
        File::options().write(true).open(&next)?.write_all(b"another life")?;
        std::fs::remove_file(&next)?;
        Ok(())
    }

    /// What the segment must be when it comes back.
    pub fn content(&self, number: u32) -> Result<Vec<u8>> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("segment");
        write_segment(&path, self.system_id, number)?;
        Ok(std::fs::read(path)?)
    }
}

/// A header that PostgreSQL would write, a few bytes that differ from segment to segment, and a hole.
fn write_segment(path: &Path, system_id: u64, number: u32) -> Result<()> {
    let start = (0xF0_u64 << 32) + u64::from(number) * SEGMENT_BYTES;
    let mut header = Vec::new();
    header.extend_from_slice(&MAGIC.to_le_bytes());
    header.extend_from_slice(&LONG_HEADER.to_le_bytes());
    header.extend_from_slice(&1u32.to_le_bytes());
    header.extend_from_slice(&start.to_le_bytes());
    header.extend_from_slice(&[0; 8]);
    header.extend_from_slice(&system_id.to_le_bytes());
    header.extend_from_slice(&u32::try_from(SEGMENT_BYTES)?.to_le_bytes());
    header.extend_from_slice(&8192u32.to_le_bytes());
    let file = File::create(path).with_context(|| path.display().to_string())?;
    file.set_len(SEGMENT_BYTES)?;
    file.write_all_at(&header, 0)?;
    for place in 1..16 {
        file.write_all_at(&number.wrapping_mul(place).to_le_bytes(), u64::from(place) * 60_000)?;
    }
    user::give(path)
}
