//! The registry of settings: one row says all that is known of one.
//!
//! The same row serves the key in the TOML file, the environment variable, the option on the command line, its help, and
//! `config show`. Rows live in `table`; a setting that has no row does not exist.

mod table;

use super::value::ValueType;

/// The kind of table in the file that a setting belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Section {
    Repo,
    S3,
    Azure,
    Gcs,
    Sftp,
    /// Policy: `[backup]` sets it for all stanzas, a stanza for itself.
    Backup,
    Stanza,
    Pg,
    Paths,
    Log,
    Fleet,
    Coordinator,
    Worker,
}

impl Section {
    /// As a user writes it, for messages.
    pub const fn title(self) -> &'static str {
        match self {
            Section::Repo => "[repo.N]",
            Section::S3 => "[repo.N.s3]",
            Section::Azure => "[repo.N.azure]",
            Section::Gcs => "[repo.N.gcs]",
            Section::Sftp => "[repo.N.sftp]",
            Section::Backup => "[backup]",
            Section::Stanza => "[stanza.NAME]",
            Section::Pg => "[[stanza.NAME.pg]]",
            Section::Paths => "[paths]",
            Section::Log => "[log]",
            Section::Fleet => "[fleet]",
            Section::Coordinator => "[coordinator]",
            Section::Worker => "[worker]",
        }
    }
}

/// Which commands take a setting as an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commands {
    None,
    All,
    Only(&'static [&'static str]),
}

/// One row of the registry.
#[derive(Debug, Clone, Copy)]
pub struct OptionSpec {
    pub section: Section,
    /// The key in the file.
    pub name: &'static str,
    pub value_type: ValueType,
    /// As one would type it on the command line.
    pub default: Option<&'static str>,
    pub required: bool,
    pub commands: Commands,
    /// The option's name on the command line, without dashes.
    pub long: &'static str,
    /// One sentence.
    pub help: &'static str,
}

impl OptionSpec {
    const fn new(section: Section, name: &'static str, value_type: ValueType, help: &'static str) -> Self {
        OptionSpec {
            section,
            name,
            value_type,
            default: None,
            required: false,
            commands: Commands::None,
            long: name,
            help,
        }
    }

    const fn default(mut self, text: &'static str) -> Self {
        self.default = Some(text);
        self
    }

    const fn required(mut self) -> Self {
        self.required = true;
        self
    }

    const fn on(mut self, commands: &'static [&'static str]) -> Self {
        self.commands = Commands::Only(commands);
        self
    }

    const fn everywhere(mut self, long: &'static str) -> Self {
        self.commands = Commands::All;
        self.long = long;
        self
    }

    pub fn is_secret(&self) -> bool {
        self.value_type == ValueType::Secret
    }

    pub fn accepts(&self, command: &str) -> bool {
        match self.commands {
            Commands::None => false,
            Commands::All => true,
            Commands::Only(names) => names.contains(&command),
        }
    }
}

/// Every setting there is.
pub fn all() -> &'static [OptionSpec] {
    table::OPTIONS
}

/// The settings that a command takes as options.
pub fn of_command(command: &str) -> impl Iterator<Item = &'static OptionSpec> {
    all().iter().filter(move |spec| spec.accepts(command))
}

/// The setting that an option of the command line means.
pub fn by_long(long: &str) -> Option<&'static OptionSpec> {
    all().iter().find(|spec| spec.commands != Commands::None && spec.long == long)
}

pub(super) fn find(sections: &[Section], name: &str) -> Option<&'static OptionSpec> {
    all().iter().find(|spec| spec.name == name && sections.contains(&spec.section))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::value::{Raw, Spelling};
    use std::collections::BTreeSet;

    #[test]
    fn no_two_settings_of_a_section_share_a_name_and_no_two_options_a_long_name() {
        let mut keys = BTreeSet::new();
        let mut longs = BTreeSet::new();
        for spec in all() {
            assert!(keys.insert((spec.section, spec.name)), "{} {}", spec.section.title(), spec.name);
            assert!(spec.commands == Commands::None || longs.insert(spec.long), "--{}", spec.long);
        }
    }

    /// Both may stand in `[stanza.NAME]`.
    #[test]
    fn no_setting_of_a_stanza_hides_one_of_its_policy() {
        for spec in all().iter().filter(|spec| spec.section == Section::Stanza) {
            assert!(find(&[Section::Backup], spec.name).is_none(), "{}", spec.name);
        }
    }

    #[test]
    fn every_default_is_a_value_of_its_setting() {
        for spec in all() {
            if let Some(text) = spec.default {
                let read = spec.value_type.read(Raw::Text(text.into()), Spelling::Text);
                assert!(read.is_ok(), "{} {}: {read:?}", spec.section.title(), spec.name);
            }
        }
    }

    #[test]
    fn a_secret_is_never_an_option_of_the_command_line() {
        for spec in all().iter().filter(|spec| spec.is_secret()) {
            assert_eq!(spec.commands, Commands::None, "{}", spec.name);
        }
    }

    #[test]
    fn help_is_one_sentence_that_needs_no_full_stop() {
        for spec in all() {
            assert!(!spec.help.is_empty() && !spec.help.ends_with('.'), "{}: {}", spec.name, spec.help);
        }
    }
}
