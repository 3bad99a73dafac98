//! `tablespace_map`: where the tablespaces of a backup were.
//!
//! The map that the stop function returned is kept for what it says, and **never written into a restored cluster as it
//! is**: PostgreSQL would link the tablespaces to their original, perhaps live, directories. What is written is a map with
//! the places that the restore chose, or none.
//!
//! Invariant: `parse(render(map)) == map` for every map that renders.
//!
//! Source: `access/xlog.c` (`do_pg_backup_start`), `access/xlogrecovery.c` (`read_tablespace_map`). Before 14 only line ends
//! were escaped, so that a path could not end with a backslash.

use crate::ids::Oid;
use crate::pg::relation::canonical_number;
use crate::pg::{PgFormatError, PgVersion};

/// One tablespace: `pg_tblspc/<oid>` points to `location`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TablespaceMapEntry {
    pub oid: Oid,
    pub location: String,
}

/// A whole map, in the file's order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TablespaceMap {
    pub entries: Vec<TablespaceMapEntry>,
}

const WHAT: &str = "tablespace_map";

impl TablespaceMap {
    pub fn parse(version: PgVersion, text: &str) -> Result<Self, PgFormatError> {
        let mut lines = Vec::new();
        let mut line = String::new();
        let mut escaped = false;
        for character in text.chars() {
            let ends_line = matches!(character, '\n' | '\r');
            if escaped {
                // Before 14 a backslash meant itself, unless a line end followed.
                if !(ends_line || escapes_backslashes(version)) {
                    line.push('\\');
                }
                escaped = character == '\\' && !escapes_backslashes(version);
                if !escaped {
                    line.push(character);
                }
            } else if ends_line {
                lines.push(std::mem::take(&mut line));
            } else if character == '\\' {
                escaped = true;
            } else {
                line.push(character);
            }
        }
        if escaped || !line.is_empty() {
            return Err(PgFormatError::new(WHAT, &line, "its last line does not end"));
        }
        let entries =
            lines.iter().filter(|line| !line.is_empty()).map(|line| entry(line)).collect::<Result<_, _>>()?;
        Ok(TablespaceMap { entries })
    }

    /// The text for a server of this version; an error for a location that its map cannot express.
    pub fn render(&self, version: PgVersion) -> Result<String, PgFormatError> {
        let mut text = String::new();
        for TablespaceMapEntry { oid, location } in &self.entries {
            if !location.starts_with('/') || location.contains('\0') {
                return Err(PgFormatError::new(
                    "tablespace location",
                    location,
                    "it is not an absolute path",
                ));
            }
            if !escapes_backslashes(version) && location.ends_with('\\') {
                let reason = "before PostgreSQL 14 its last character cannot be a backslash";
                return Err(PgFormatError::new("tablespace location", location, reason));
            }
            text.push_str(&format!("{oid} "));
            for character in location.chars() {
                if matches!(character, '\n' | '\r') || character == '\\' && escapes_backslashes(version) {
                    text.push('\\');
                }
                text.push(character);
            }
            text.push('\n');
        }
        Ok(text)
    }
}

fn escapes_backslashes(version: PgVersion) -> bool {
    version >= PgVersion::V14
}

fn entry(line: &str) -> Result<TablespaceMapEntry, PgFormatError> {
    line.split_once(' ')
        .filter(|(_, location)| !location.is_empty())
        .and_then(|(oid, location)| {
            Some(TablespaceMapEntry { oid: Oid(canonical_number(oid)?), location: location.to_owned() })
        })
        .ok_or_else(|| PgFormatError::new(WHAT, line, "a line is not an OID, a space and a path"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;
    use proptest::prelude::*;

    fn map(entries: &[(u32, &str)]) -> TablespaceMap {
        let entry = |(oid, location): &(u32, &str)| TablespaceMapEntry {
            oid: Oid(*oid),
            location: (*location).to_owned(),
        };
        TablespaceMap { entries: entries.iter().map(entry).collect() }
    }

    #[test]
    fn what_servers_returned_for_a_path_with_a_backslash_is_understood() {
        let expected = map(&[(16384, "/srv/ts13 a\\b")]);
        assert_eq!(TablespaceMap::parse(PgVersion::V13, "16384 /srv/ts13 a\\b\n").unwrap(), expected);
        assert_eq!(TablespaceMap::parse(PgVersion::V14, "16384 /srv/ts13 a\\\\b\n").unwrap(), expected);
    }

    #[test]
    fn an_empty_map_is_a_map_without_tablespaces() {
        assert_eq!(TablespaceMap::parse(PgVersion::V15, "").unwrap(), TablespaceMap::default());
        assert_eq!(TablespaceMap::default().render(PgVersion::V15).unwrap(), "");
    }

    #[test]
    fn broken_maps_are_refused() {
        for bad in ["16384 /a", "16384\n", "x /a\n", "16384 \n", "16384 /a\\\n", "0 /a\n"] {
            assert!(TablespaceMap::parse(PgVersion::V15, bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn locations_that_a_map_cannot_express_are_refused() {
        assert!(map(&[(16384, "relative")]).render(PgVersion::V15).is_err());
        assert!(map(&[(16384, "/a\\")]).render(PgVersion::V13).is_err());
        assert_eq!(map(&[(16384, "/a\\")]).render(PgVersion::V14).unwrap(), "16384 /a\\\\\n");
    }

    proptest! {
        #[test]
        fn a_rendered_map_reads_back(locations in prop::collection::vec("/[a \\\\\n\r]{0,9}", 0..4), new: bool) {
            let version = if new { PgVersion::V18 } else { PgVersion::V9_6 };
            let entries: Vec<(u32, &str)> = locations.iter().map(|location| (16384, location.as_str())).collect();
            if let Ok(text) = map(&entries).render(version) {
                prop_assert_eq!(TablespaceMap::parse(version, &text).unwrap(), map(&entries));
            } else {
                prop_assert!(!new);
            }
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "([0-9]{0,3}[ \\\\\n\r/a]|\\PC){0,20}", new: bool) {
            let _ = TablespaceMap::parse(if new { PgVersion::V18 } else { PgVersion::V9_6 }, &text);
        }
    }
}
