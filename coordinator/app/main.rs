//! The program `pgconvoy`. Everything it does is in the library beside this file.

use pgconvoy::Invocation;
use std::process::ExitCode;

fn main() -> ExitCode {
    pgconvoy::run(&Invocation::of_this_process())
}
