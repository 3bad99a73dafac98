#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
use super::*;
use std::fs;
use std::os::unix::fs::symlink;

struct Place {
    root: tempfile::TempDir,
    links: Links,
}

impl Place {
    /// A cluster at `pg`, and directories beside it.
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        for name in ["pg/base", "wal", "outside/nested"] {
            fs::create_dir_all(root.path().join(name)).unwrap();
        }
        fs::write(root.path().join("outside/postgresql.conf"), "").unwrap();
        let links = Links::new(&root.path().join("pg")).unwrap();
        Place { root, links }
    }

    fn follow(&mut self, name: &str, destination: &str) -> Result<Destination, PostgresError> {
        self.links.follow(name, &self.root.path().join("pg"), OsStr::new(destination))
    }
}

#[test]
fn a_link_keeps_its_own_text_and_knows_where_it_really_leads() {
    let mut place = Place::new();
    let destination = place.follow("pg_wal", "../wal").unwrap();
    assert_eq!(destination.text, "../wal");
    assert_eq!(destination.real, fs::canonicalize(place.root.path().join("wal")).unwrap());
}

#[test]
fn links_to_different_files_in_one_directory_are_followed() {
    let mut place = Place::new();
    fs::write(place.root.path().join("outside/pg_hba.conf"), "").unwrap();
    place.follow("postgresql.conf", "../outside/postgresql.conf").unwrap();
    place.follow("pg_hba.conf", "../outside/pg_hba.conf").unwrap();
}

#[test]
fn a_dangling_link_is_refused() {
    let error = Place::new().follow("pg_wal", "../nowhere").unwrap_err();
    assert!(matches!(error, PostgresError::LinkDangling { .. }), "{error}");
}

#[test]
fn a_link_to_a_link_is_refused_even_when_written_with_a_slash_at_the_end() {
    let mut place = Place::new();
    symlink("wal", place.root.path().join("alias")).unwrap();
    for destination in ["../alias", "../alias/", "../alias/."] {
        let error = place.follow("pg_wal", destination).unwrap_err();
        assert!(matches!(error, PostgresError::LinkToLink { .. }), "{destination}: {error}");
    }
}

#[test]
fn a_link_into_the_cluster_or_around_it_is_refused() {
    let mut place = Place::new();
    for destination in ["base", "..", "../outside/../pg/base"] {
        let error = place.follow("pg_wal", destination).unwrap_err();
        assert!(matches!(error, PostgresError::LinkInside { .. }), "{destination}: {error}");
    }
}

#[test]
fn two_links_to_the_same_or_nested_places_are_refused() {
    for (first, second) in [
        ("../wal", "../wal"),
        ("../outside", "../outside/nested"),
        ("../outside/nested", "../outside"),
        ("../outside", "../outside/postgresql.conf"),
    ] {
        let mut place = Place::new();
        place.follow("one", first).unwrap();
        let error = place.follow("two", second).unwrap_err();
        assert!(
            matches!(&error, PostgresError::LinkOverlap { first, second, .. } if first == "one" && second == "two"),
            "{error}"
        );
    }
}
