//! Settings that are one of a few words. The words are part of the user's contract.

macro_rules! choices {
    ($( $(#[$meta:meta])* $name:ident { $( $(#[$vmeta:meta])* $variant:ident = $text:literal, )+ } )+) => { $(
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        pub enum $name { $( $(#[$vmeta])* #[serde(rename = $text)] $variant, )+ }

        impl $name {
            /// The words, in the order in which help shows them.
            pub const NAMES: &'static [&'static str] = &[ $( $text, )+ ];

            pub const fn as_str(self) -> &'static str {
                match self { $( $name::$variant => $text, )+ }
            }

            /// The meaning of a word, if it is one of [`Self::NAMES`].
            pub fn from_name(text: &str) -> Option<Self> {
                match text { $( $text => Some($name::$variant), )+ _ => None }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl super::value::FromValue for $name {
            fn from_value(value: &super::value::Value) -> Option<Self> {
                value.as_text().and_then($name::from_name)
            }
        }
    )+ };
}

choices! {
    /// Where a repository's bytes live.
    RepoType { Posix = "posix", S3 = "s3", Azure = "azure", Gcs = "gcs", Sftp = "sftp", }
    /// How a backup lies in its repository.
    Layout {
        /// Packs of compressed, encrypted frames.
        Packed = "packed",
        /// A data directory that PostgreSQL can be started on.
        Plain = "plain",
    }
    CipherType { None = "none", Aes256Gcm = "aes-256-gcm", }
    CompressType { None = "none", Lz4 = "lz4", Zst = "zst", Gz = "gz", Bz2 = "bz2", }
    /// What `retention-full` counts.
    RetentionFullType { Count = "count", Time = "time", }
    /// Which backups `retention-archive` counts.
    RetentionArchiveType { Full = "full", Diff = "diff", Incr = "incr", }
    /// Whether a standby is read for a backup.
    BackupStandby { No = "n", Prefer = "prefer", Yes = "y", }
    /// Whether units go to compute workers.
    Offload { Never = "never", Prefer = "prefer", Always = "always", }
    /// What pages that do not match their checksums do to the backup.
    PageErrors {
        /// It is published, with a record of them.
        Warn = "warn",
        /// It is not published.
        Fail = "fail",
    }
    /// PostgreSQL's `sslmode`, without the two modes that pretend (`allow`, `verify-ca`).
    TlsMode { Disable = "disable", Prefer = "prefer", Require = "require", VerifyFull = "verify-full", }
    /// How a bucket's name gets into the address.
    UriStyle { Host = "host", Path = "path", }
    S3KeyType { Shared = "shared", Auto = "auto", WebId = "web-id", Process = "process", }
    AzureKeyType { Shared = "shared", Sas = "sas", Auto = "auto", }
    GcsKeyType { Service = "service", Token = "token", Auto = "auto", }
    /// Who may end the retention of a stored object before its time.
    LockMode {
        /// Whoever has a right of its own for that.
        Governance = "governance",
        /// Nobody.
        Compliance = "compliance",
    }
    /// What decides which of several writers of one object was first.
    CreateOnlyBy {
        /// Conditional requests, links: the store's own means.
        Store = "store",
        /// A lock on each host, for stores that have none.
        Lock = "lock",
    }
    LogLevel {
        Off = "off", Error = "error", Warn = "warn", Info = "info", Detail = "detail", Debug = "debug", Trace = "trace",
    }
    LogFormat { Text = "text", Json = "json", }
}

macro_rules! usual {
    ($( $name:ident :: $variant:ident, )+) => { $(
        #[allow(clippy::derivable_impls, reason = "the macro that makes the type marks no default")]
        impl Default for $name {
            fn default() -> Self {
                $name::$variant
            }
        }
    )+ };
}

usual! { PageErrors::Warn, BackupStandby::No, Offload::Never, }

impl Layout {
    pub fn is_packed(&self) -> bool {
        *self == Layout::Packed
    }
}

/// What a repository has that does not say otherwise.
#[allow(clippy::derivable_impls, reason = "the macro that makes the type marks no default")]
impl Default for Layout {
    fn default() -> Self {
        Layout::Packed
    }
}

impl CompressType {
    /// pgBackRest's ranges. `None` where there is nothing to choose.
    pub const fn levels(self) -> Option<(i32, i32)> {
        match self {
            CompressType::None => None,
            CompressType::Lz4 => Some((-5, 12)),
            CompressType::Zst => Some((-7, 22)),
            CompressType::Gz => Some((-1, 9)),
            CompressType::Bz2 => Some((1, 9)),
        }
    }

    pub const fn level_default(self) -> i32 {
        match self {
            CompressType::None => 0,
            CompressType::Lz4 => 1,
            CompressType::Zst => 3,
            CompressType::Gz => 6,
            CompressType::Bz2 => 9,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_level_lies_in_its_range() {
        for name in CompressType::NAMES {
            let kind = CompressType::from_name(name).expect("a listed name");
            if let Some((low, high)) = kind.levels() {
                assert!((low..=high).contains(&kind.level_default()), "{name}");
            }
        }
    }

    #[test]
    fn every_word_means_itself() {
        for name in LogLevel::NAMES {
            assert_eq!(LogLevel::from_name(name).expect("a listed name").as_str(), *name);
        }
        assert_eq!(LogLevel::from_name("loud"), None);
        assert!(LogLevel::Detail < LogLevel::Debug && LogLevel::Info < LogLevel::Detail);
    }
}
