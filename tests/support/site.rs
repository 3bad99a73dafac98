//! The usual stage of a test: a running cluster with data, its repositories, and a stanza that exists.

use super::{
    Cluster, ClusterOptions, Config, Finished, Json, Pgconvoy, Repo, Result, Scratch, data, tmpfs::Tmpfs,
};
use super::{Context, limits, repository::RepositoryFiles};
use std::path::Path;

/// Fields drop in this order: the server stops before its folder goes, and mounts go before the folder they lie in.
pub struct Site {
    pub pgconvoy: Pgconvoy,
    pub config: Config,
    pub repos: Vec<Repo>,
    pub cluster: Cluster,
    pub mounts: Vec<Tmpfs>,
    pub scratch: Scratch,
}

#[derive(Debug, Clone, Default)]
pub struct SiteOptions {
    pub cluster: ClusterOptions,
    /// Repository 2 on a file system of its own, of so many MiB.
    pub small_second_repo_mib: Option<u32>,
    /// Repository 1 keeps files as such.
    pub first_repo_keeps_files: bool,
    /// Only the system databases: for tests that look at codes, not at data.
    pub without_data: bool,
}

impl Site {
    /// Two encrypted repositories and about 60 MB of data.
    pub fn start() -> Result<Site> {
        Site::start_with(&SiteOptions::default())
    }

    pub fn start_with(options: &SiteOptions) -> Result<Site> {
        let site = Site::prepare(options)?;
        site.cluster.start()?;
        site.pgconvoy.run(["stanza-create"])?.ok()?;
        if !options.without_data {
            data::seed_small(&site.cluster)?;
        }
        Ok(site)
    }

    /// The cluster is made but not started, and the stanza does not exist.
    pub fn prepare(options: &SiteOptions) -> Result<Site> {
        let scratch = Scratch::new()?;
        let mut repos = vec![Repo::encrypted(&scratch, 1)?, Repo::encrypted(&scratch, 2)?];
        if options.first_repo_keeps_files {
            repos[0] = Repo::keeping_files(&scratch, 1);
        }
        let mut mounts = Vec::new();
        if let Some(size_mib) = options.small_second_repo_mib {
            let mount = Tmpfs::mount(&scratch.join("small"), size_mib)?;
            repos[1] = repos[1].clone().at(&mount.path().join("repo2"));
            mounts.push(mount);
        }
        let cluster = Cluster::create(&scratch, "primary", &options.cluster)?;
        let config = Config::new(&scratch, &repos, &cluster);
        config.write(&scratch.config_file())?;
        let pgconvoy = Pgconvoy::new(&scratch);
        Ok(Site { pgconvoy, config, repos, cluster, mounts, scratch })
    }

    /// A prepared site whose second repository lies in a store of this kind; `table` has the lines of its own table.
    pub fn with_second_repo_in(self, kind: &str, path: &str, table: &str) -> Result<Site> {
        let second = self.repos[1].clone().in_store(kind, path, table);
        let first = self.repos[0].clone();
        self.with_repos(vec![first, second])
    }

    /// A prepared site with other repositories.
    pub fn with_repos(mut self, repos: Vec<Repo>) -> Result<Site> {
        self.config = self.config.repos(&repos);
        self.repos = repos;
        self.config.write(&self.scratch.config_file())?;
        Ok(self)
    }

    /// The same repositories, none of them encrypted. To be called before they are made.
    pub fn without_keys(self) -> Result<Site> {
        let repos = self.repos.iter().map(|repo| Repo { key_file: None, ..repo.clone() }).collect();
        self.with_repos(repos)
    }

    pub fn backup(&self, more: &[&str]) -> Result<Json> {
        self.try_backup(more)?.ok()?.json()
    }

    pub fn try_backup(&self, more: &[&str]) -> Result<Finished> {
        self.pgconvoy.run(["backup", "--type=full", "--output=json"].iter().chain(more))
    }

    /// A full backup that must succeed; its label.
    pub fn backup_label(&self, more: &[&str]) -> Result<String> {
        let report = self.backup(more)?;
        Ok(report["label"].as_str().with_context(|| format!("no label in {report}"))?.to_owned())
    }

    pub fn try_restore(&self, target: &Path, more: &[&str]) -> Result<Finished> {
        let path = format!("--pg-path={}", target.display());
        self.pgconvoy.run(["restore", path.as_str()].iter().chain(more))
    }

    /// A place for a restored copy, which does not archive and is not restored yet.
    pub fn copy(&self, name: &str) -> Result<Cluster> {
        Cluster::attach(&self.scratch, name, copy_overrides())
    }

    /// Restores into a new directory; not started yet.
    pub fn restore(&self, name: &str, more: &[&str]) -> Result<Cluster> {
        let copy = self.copy(name)?;
        self.try_restore(copy.data(), more)?.ok()?;
        Ok(copy)
    }

    /// A standby made from the newest backup, which streams from the original when this returns.
    pub fn standby(&self, name: &str, overrides: Vec<String>) -> Result<Cluster> {
        let standby = Cluster::attach(&self.scratch, name, overrides)?;
        self.make_standby(&standby)?;
        Ok(standby)
    }

    /// In a directory that is not there.
    pub fn make_standby(&self, standby: &Cluster) -> Result<()> {
        let from = format!(
            "--recovery-option=primary-conninfo=host={} port={} user=postgres",
            self.cluster.socket_dir().display(),
            self.cluster.port()
        );
        self.try_restore(standby.data(), &["--type=standby", &from])?.ok()?;
        standby.start()?;
        limits::wait_for("the standby's stream", limits::RECOVERY, || {
            let receiving = "select count(*) from pg_stat_wal_receiver where status = 'streaming'";
            Ok((standby.psql(receiving)? == "1").then_some(()))
        })
    }

    /// A configuration that knows only the repositories with these numbers.
    pub fn only_repos(&self, numbers: &[u16]) -> Result<Pgconvoy> {
        let repos: Vec<Repo> =
            self.repos.iter().filter(|repo| numbers.contains(&repo.number)).cloned().collect();
        let name = format!("only-{}.toml", numbers.iter().map(u16::to_string).collect::<Vec<_>>().join("-"));
        self.pgconvoy.with_config(&self.scratch, &name, &self.config.clone().repos(&repos))
    }

    pub fn repository(&self, number: u16) -> Result<RepositoryFiles> {
        let repo = self.repos.iter().find(|repo| repo.number == number);
        Ok(RepositoryFiles::at(&repo.with_context(|| format!("no repository {number}"))?.path))
    }
}

/// A copy must never write into the archive of its original.
pub fn copy_overrides() -> Vec<String> {
    vec!["archive_mode=off".to_owned(), "fsync=off".to_owned()]
}
