//! Names of users and groups, each asked for once.
//!
//! `/etc/passwd` and `/etc/group` answer for nearly every cluster; whoever is only in a directory service is asked of
//! `getent`, which speaks to all services that the host uses.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

#[derive(Debug)]
pub(super) struct Owners {
    users: Database,
    groups: Database,
}

impl Owners {
    pub(super) fn new() -> Self {
        Owners { users: Database::new("passwd"), groups: Database::new("group") }
    }

    /// `None` for an id without a name.
    pub(super) fn user(&mut self, id: u32) -> Option<String> {
        self.users.name(id)
    }

    pub(super) fn group(&mut self, id: u32) -> Option<String> {
        self.groups.name(id)
    }
}

/// `passwd` and `group` have the name first and the number third.
#[derive(Debug)]
struct Database {
    name: &'static str,
    known: BTreeMap<u32, Option<String>>,
}

impl Database {
    fn new(name: &'static str) -> Self {
        let text = std::fs::read_to_string(format!("/etc/{name}")).unwrap_or_default();
        let mut known = BTreeMap::new();
        for (id, owner) in text.lines().filter_map(parse) {
            // Of several names for one number the first counts, as it does for the system.
            known.entry(id).or_insert(Some(owner));
        }
        Database { name, known }
    }

    fn name(&mut self, id: u32) -> Option<String> {
        let database = self.name;
        self.known.entry(id).or_insert_with(|| ask_getent(database, id)).clone()
    }
}

fn parse(line: &str) -> Option<(u32, String)> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| !name.is_empty())?;
    Some((fields.nth(1)?.parse().ok()?, name.to_owned()))
}

fn ask_getent(database: &str, id: u32) -> Option<String> {
    let output =
        Command::new("getent").args([database, &id.to_string()]).stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.lines().find_map(parse).filter(|(found, _)| *found == id).map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_passwd_and_group_give_number_and_name() {
        assert_eq!(
            parse("postgres:x:101:104:,,,:/var/lib/postgresql:/bin/bash"),
            Some((101, "postgres".into()))
        );
        assert_eq!(parse("ssl-cert:x:103:postgres"), Some((103, "ssl-cert".into())));
        for bad in ["", "::1:", "+", "name:x", "name:x:many"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_id_without_a_name_stays_nameless() {
        let mut owners = Owners::new();
        assert_eq!(owners.user(0).as_deref(), Some("root"));
        assert_eq!(owners.user(4_123_456_789), None);
        assert_eq!(owners.group(4_123_456_789), None);
    }
}
