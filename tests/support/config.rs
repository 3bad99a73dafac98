//! Writes `pgconvoy.toml`: n POSIX repositories, one stanza, every path in the scratch folder.

use super::{Cluster, Context, Random, Result, Scratch, user};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

pub const STANZA: &str = "main";

/// A repository as the configuration names it.
#[derive(Debug, Clone)]
pub struct Repo {
    pub number: u16,
    pub path: PathBuf,
    /// None: not encrypted.
    pub key_file: Option<PathBuf>,
    pub required: bool,
    /// Layout plain: files as such, no packs of frames.
    pub keeps_files: bool,
    /// Lines of `[repo.N]` that name another kind of store, and its own table; empty: a directory.
    pub store: String,
}

impl Repo {
    /// An encrypted repository with a new key.
    pub fn encrypted(scratch: &Scratch, number: u16) -> Result<Repo> {
        let key_file = scratch.join(&format!("repo{number}.key"));
        write_key(&key_file, u64::from(number))?;
        Ok(Repo { key_file: Some(key_file), ..Repo::plain(scratch, number) })
    }

    pub fn plain(scratch: &Scratch, number: u16) -> Repo {
        let path = scratch.join(&format!("repo{number}"));
        Repo { number, path, key_file: None, required: true, keeps_files: false, store: String::new() }
    }

    /// One whose backups are data directories.
    pub fn keeping_files(scratch: &Scratch, number: u16) -> Repo {
        Repo { keeps_files: true, ..Repo::plain(scratch, number) }
    }

    /// In another kind of store: `kind` is its type, `table` the lines of its own table; the path is one in it.
    #[must_use]
    pub fn in_store(self, kind: &str, path: &str, table: &str) -> Repo {
        let store =
            format!("type = \"{kind}\"\npath = \"{path}\"\n\n[repo.{}.{kind}]\n{table}\n", self.number);
        Repo { store, ..self }
    }

    /// Further lines of `[repo.N]`, of one in another kind of store.
    #[must_use]
    pub fn with(self, lines: &str) -> Repo {
        Repo { store: format!("{lines}\n{}", self.store), ..self }
    }

    pub fn at(self, path: &Path) -> Repo {
        Repo { path: path.to_owned(), ..self }
    }
}

/// 32 bytes in base64 on one line. 43 characters hold 258 bits, so the last one has its two lowest bits 0.
pub fn write_key(path: &Path, seed: u64) -> Result<()> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut random = Random::seeded(seed);
    let mut character = |step: u64| -> Result<char> {
        let index = usize::try_from(random.below(64 / step) * step)?;
        Ok(char::from(ALPHABET[index]))
    };
    let mut text = (0..42).map(|_| character(1)).collect::<Result<String>>()?;
    text.push(character(4)?);
    text.push_str("=\n");
    std::fs::write(path, text).with_context(|| path.display().to_string())?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    user::give(path)
}

/// The parts of a configuration file that tests vary.
#[derive(Debug, Clone)]
pub struct Config {
    scratch: PathBuf,
    lock: PathBuf,
    repos: Vec<Repo>,
    backup: BTreeMap<String, String>,
    stanza: String,
    extra: String,
}

impl Config {
    pub fn new(scratch: &Scratch, repos: &[Repo], cluster: &Cluster) -> Config {
        let mut backup = BTreeMap::new();
        // Two slots: enough to see work shared, and as many as the smallest machine has cores.
        backup.insert("process-max".to_owned(), "2".to_owned());
        backup.insert("start-fast".to_owned(), "true".to_owned());
        backup.insert("archive-timeout".to_owned(), "\"60s\"".to_owned());
        let config = Config {
            scratch: scratch.path().to_owned(),
            lock: scratch.join("lock"),
            repos: repos.to_vec(),
            backup,
            stanza: String::new(),
            extra: String::new(),
        };
        config.for_cluster(cluster)
    }

    /// The same configuration with another cluster behind the stanza.
    #[must_use]
    pub fn for_cluster(mut self, cluster: &Cluster) -> Self {
        self.stanza = format!(
            "[[stanza.{STANZA}.pg]]\npath = \"{}\"\nport = {}\nsocket-path = \"{}\"\nuser = \"postgres\"\n",
            cluster.data().display(),
            cluster.port(),
            cluster.socket_dir().display(),
        );
        self
    }

    /// The worker that sees the stanza's data directory.
    #[must_use]
    pub fn pg_host(mut self, worker: &str) -> Self {
        self.stanza.push_str(&format!("host = \"{worker}\"\n"));
        self
    }

    /// A key of the `[backup]` table; the value as TOML writes it.
    #[must_use]
    pub fn backup(mut self, key: &str, value: &str) -> Self {
        self.backup.insert(key.to_owned(), value.to_owned());
        self
    }

    #[must_use]
    pub fn repos(mut self, repos: &[Repo]) -> Self {
        self.repos = repos.to_vec();
        self
    }

    /// Another folder for lock files: what shares none is as far apart as two hosts are.
    #[must_use]
    pub fn lock_path(mut self, path: &Path) -> Self {
        self.lock = path.to_owned();
        self
    }

    /// Lines at the end of the file.
    #[must_use]
    pub fn extra(mut self, lines: &str) -> Self {
        self.extra.push_str(lines);
        self
    }

    fn text(&self) -> Result<String> {
        let mut text = String::new();
        for repo in &self.repos {
            writeln!(text, "[repo.{}]", repo.number)?;
            if repo.store.is_empty() {
                writeln!(text, "type = \"posix\"\npath = \"{}\"", repo.path.display())?;
            }
            match &repo.key_file {
                Some(key) => writeln!(text, "cipher = \"aes-256-gcm\"\nkey-file = \"{}\"", key.display())?,
                None => writeln!(text, "cipher = \"none\"")?,
            }
            if repo.keeps_files {
                writeln!(text, "layout = \"plain\"")?;
            }
            writeln!(text, "required = {}\n{}", repo.required, repo.store)?;
        }
        writeln!(text, "[backup]")?;
        for (key, value) in &self.backup {
            writeln!(text, "{key} = {value}")?;
        }
        let (scratch, lock) = (self.scratch.display(), self.lock.display());
        writeln!(text, "\n{}\n[paths]", self.stanza)?;
        writeln!(text, "lock = \"{lock}\"\nspool = \"{scratch}/spool\"\nlog = \"{scratch}/log\"")?;
        text.push_str(&self.extra);
        Ok(text)
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        std::fs::write(path, self.text()?).with_context(|| path.display().to_string())?;
        user::give(path)
    }
}
