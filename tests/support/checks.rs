//! What many tests conclude in the same words.

use super::{Cluster, Finished, Json, Pgconvoy, Result, data, ensure};

/// An error as the contract has it: the code, in the exit status and in the line; a hint; nothing of a panic.
pub fn assert_refused(finished: &Finished, code: i32) -> Result<()> {
    assert_refused_with_one_of(finished, &[code])
}

pub fn assert_refused_with_one_of(finished: &Finished, codes: &[i32]) -> Result<()> {
    let exit = finished.code.filter(|code| codes.contains(code));
    let Some(exit) = exit else { super::bail!("one of the exit codes {codes:?} was expected\n{finished}") };
    let prefix = format!("ERROR: [{exit:03}]: ");
    ensure!(
        finished.stderr.lines().any(|line| line.contains(&prefix)),
        "no line with '{prefix}'\n{finished}"
    );
    ensure!(finished.has_hint(), "no hint\n{finished}");
    ensure!(!finished.stderr.contains("panicked at"), "a panic is no error message\n{finished}");
    Ok(())
}

/// The published backups in a repository, oldest first.
pub fn labels(pgconvoy: &Pgconvoy, repo: u16) -> Result<Vec<String>> {
    let info = pgconvoy.run(["info", "--output=json", &format!("--repo={repo}")])?.ok()?.json()?;
    let backups = info[0]["backup"].as_array().cloned().unwrap_or_default();
    Ok(backups.iter().filter_map(|backup| backup["label"].as_str().map(str::to_owned)).collect())
}

/// The restored cluster holds what the original held, row by row.
pub fn same_data(restored: &Cluster, expected: &str) -> Result<()> {
    let found = data::fingerprint(restored)?;
    ensure!(found == expected, "the restored rows differ\n--- expected\n{expected}\n--- found\n{found}");
    Ok(())
}

/// Neither a running server nor a control file that one could start from.
pub fn assert_nothing_startable(copy: &Cluster) -> Result<()> {
    let control = copy.data().join("global/pg_control");
    if control.exists() {
        super::cluster::assert_does_not_start(copy)?;
    }
    Ok(())
}

/// The report of one repository in the JSON of `backup`.
pub fn repo_report(report: &Json, number: u16) -> Result<&Json> {
    let repos = report["repos"].as_array();
    let found = repos.and_then(|repos| repos.iter().find(|repo| repo["key"] == number));
    found.ok_or_else(|| super::anyhow!("repository {number} is not in {report}"))
}
