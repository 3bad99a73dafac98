//! `completions`: what a shell sources to complete commands and options.

use crate::args::{CompletionsArgs, Shell, definition};
use crate::output;
use clap_complete::shells;
use pgconvoy_core::failure::Failure;
use std::process::ExitCode;

pub fn run(args: &CompletionsArgs) -> Result<ExitCode, Failure> {
    let mut script = Vec::new();
    let mut command = definition();
    match args.shell {
        Shell::Bash => clap_complete::generate(shells::Bash, &mut command, "pgconvoy", &mut script),
        Shell::Zsh => clap_complete::generate(shells::Zsh, &mut command, "pgconvoy", &mut script),
        Shell::Fish => clap_complete::generate(shells::Fish, &mut command, "pgconvoy", &mut script),
    }
    output::bytes(&script)
}
