//! Credentials from a program: what AWS's tools call `credential_process`. It is run as it is, without a shell.

use super::CredentialsFailure;
use super::fetch::Told;
use aws_credential_types::Credentials;
use std::process::Stdio;

pub(crate) struct Process(pub Vec<String>);

impl Process {
    pub(crate) async fn fetch(&self) -> Result<Credentials, CredentialsFailure> {
        const HINT: &str = "run process-command by hand as the user of this process; it must print JSON with Version, \
                            AccessKeyId and SecretAccessKey";
        let Some((program, arguments)) = self.0.split_first() else {
            return Err(CredentialsFailure::lasting("process-command is empty", HINT));
        };
        let output = tokio::process::Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            // Its complaints are the operator's; its output is nobody's.
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .output()
            .await
            .map_err(|error| {
                CredentialsFailure::lasting(format!("unable to run {program}: {error}"), HINT)
            })?;
        if !output.status.success() {
            return Err(CredentialsFailure::passing(format!("{program} ended with {}", output.status)));
        }
        Told::parse(&output.stdout, program)
    }
}
