//! Plain repositories: which part of which file a frame of a plain pack stands for, and where a file of the cluster lies in a
//! backup's data directory (`FORMAT.md` section 4a).

use super::FormatError;
use super::object::{FRAME_RAW_BYTES, FRAME_RAW_BYTES_MAX, FrameEntry};
use super::pack::{BlockRun, PackRange};

/// In a backup's data directory: what links of `pg_tblspc` lead to. Inside, so that a copy of the directory is whole.
pub const TABLESPACES: &str = "pgconvoy.tablespaces";
pub const TABLESPACE_LINKS: &str = "pg_tblspc";

/// So many bytes of a file, from there on: what a reader takes for a frame, stored as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Index of the range in its pack's footer.
    pub range: usize,
    pub offset: u64,
    pub length: u32,
}

impl Extent {
    pub const fn frame(&self) -> FrameEntry {
        FrameEntry(self.length, self.length, 0)
    }
}

/// Cuts the files of a plain pack into extents, and gives their ranges the runs that lead there: a reader of packs needs to
/// know no more of plain ones.
pub fn lay_out(ranges: &mut [PackRange]) -> Result<Vec<Extent>, FormatError> {
    let mut extents = Vec::new();
    for (number, range) in ranges.iter_mut().enumerate() {
        let inconsistent = |reason: &str| FormatError::Inconsistent {
            what: "plain pack",
            reason: format!("{}: {reason}", range.path),
        };
        if range.offset != 0 || !range.runs.is_empty() {
            return Err(inconsistent("it is no whole file"));
        }
        if range.block_size == 0 || range.block_size > FRAME_RAW_BYTES_MAX {
            return Err(inconsistent("its blocks have an impossible size"));
        }
        // So the number of extents is bounded by the bytes that the footer has.
        if range.blocks().checked_mul(16) != Some(range.hashes.len() as u64) {
            return Err(inconsistent("it has not a hash for each block"));
        }
        let blocks = (FRAME_RAW_BYTES as u64 / u64::from(range.block_size)).max(1);
        let step = blocks * u64::from(range.block_size);
        let mut runs = Vec::new();
        let mut offset = 0;
        while offset < range.length {
            let bytes = step.min(range.length - offset);
            let small = |value: u64| u32::try_from(value).expect("an extent is a frame at most");
            let frame = u32::try_from(extents.len()).map_err(|_| inconsistent("it is too large"))?;
            runs.push(BlockRun(small(bytes.div_ceil(u64::from(range.block_size))), 0, frame, 0));
            extents.push(Extent { range: number, offset, length: small(bytes) });
            offset += bytes;
        }
        range.runs = runs;
    }
    Ok(extents)
}

/// Where a file or directory of the cluster lies, from the data directory: no link is on the way.
pub fn place(path: &str) -> String {
    match path.strip_prefix(TABLESPACE_LINKS).and_then(|rest| rest.strip_prefix('/')) {
        Some(rest) => format!("{TABLESPACES}/{rest}"),
        None => path.to_owned(),
    }
}

/// Whether the cluster itself has something where tablespaces are to lie.
pub fn is_taken(path: &str) -> bool {
    path.split('/').next() == Some(TABLESPACES)
}

/// The tablespace whose link this is: a name directly under `pg_tblspc`.
pub fn tablespace_of_link(path: &str) -> Option<&str> {
    path.strip_prefix(TABLESPACE_LINKS)?.strip_prefix('/').filter(|name| !name.contains('/'))
}

/// What that link says.
pub fn link_to(tablespace: &str) -> String {
    format!("../{TABLESPACES}/{tablespace}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::format::{HashSecret, layout};
    use proptest::prelude::*;

    fn range(secret: &HashSecret, length: u64, block_size: u32) -> PackRange {
        let blocks = usize::try_from(length.div_ceil(u64::from(block_size))).unwrap();
        let hashes = vec![7; blocks * 16];
        PackRange {
            path: "base/1/2".into(),
            offset: 0,
            length,
            block_size,
            checksum: secret.hash(&hashes),
            hashes,
            runs: Vec::new(),
            bad_pages: Vec::new(),
            sha1: None,
        }
    }

    proptest! {
        #[test]
        fn what_is_laid_out_is_a_valid_block_map_over_every_byte(
            files in prop::collection::vec((1u64..20 << 20, 13u32..16), 1..5)
        ) {
            let secret = HashSecret::from_random_bytes([3; HashSecret::BYTES]);
            let mut ranges: Vec<PackRange> =
                files.iter().map(|(length, shift)| range(&secret, *length, 1 << shift)).collect();
            let extents = lay_out(&mut ranges).unwrap();
            let frames: Vec<FrameEntry> = extents.iter().map(Extent::frame).collect();
            for (number, range) in ranges.iter().enumerate() {
                prop_assert!(range.validate(&frames, &[], &secret).is_ok());
                let own = extents.iter().filter(|extent| extent.range == number);
                let end = own.fold(0, |end, extent| {
                    assert_eq!(extent.offset, end);
                    end + u64::from(extent.length)
                });
                prop_assert_eq!(end, range.length);
            }
        }
    }

    #[test]
    fn a_footer_that_lies_is_refused_before_anything_is_made_of_it() {
        let secret = HashSecret::from_random_bytes([3; HashSecret::BYTES]);
        let good = range(&secret, 9000, 8192);
        for bad in [
            PackRange { offset: 8192, ..good.clone() },
            PackRange { block_size: 0, ..good.clone() },
            PackRange { block_size: u32::MAX, ..good.clone() },
            PackRange { length: u64::MAX, ..good.clone() },
            PackRange { runs: vec![BlockRun(2, 0, 0, 0)], ..good.clone() },
        ] {
            assert!(lay_out(&mut [bad]).is_err());
        }
        assert!(lay_out(&mut [good]).is_ok());
    }

    #[test]
    fn files_of_tablespaces_lie_inside_the_data_directory_where_its_links_lead() {
        assert_eq!(place("base/1/2"), "base/1/2");
        assert_eq!(place("pg_tblspc"), "pg_tblspc");
        assert_eq!(
            place("pg_tblspc/16400/PG_15_202209061/5/2"),
            "pgconvoy.tablespaces/16400/PG_15_202209061/5/2"
        );
        assert_eq!(tablespace_of_link("pg_tblspc/16400"), Some("16400"));
        assert_eq!(tablespace_of_link("pg_tblspc/16400/PG_15_202209061"), None);
        assert_eq!(tablespace_of_link("pg_wal"), None);
        assert_eq!(link_to("16400"), "../pgconvoy.tablespaces/16400");
        for (name, holds) in [
            ("main/backup/20261122-103000F/data/pg_tblspc", true),
            ("main/backup/20261122-103000F.partial/data/pg_tblspc", true),
            ("main/backup/20261122-103000F/data/pg_tblspc/16400", false),
            ("main/backup/20261122-103000F/data/base", false),
            ("main/wal/pg_tblspc", false),
        ] {
            assert_eq!(layout::holds_links(name), holds, "{name}");
        }
        assert!(is_taken("pgconvoy.tablespaces/1") && !is_taken("base/pgconvoy.tablespaces"));
    }
}
