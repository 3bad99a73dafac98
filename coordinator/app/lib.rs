//! The composition root: what the process was given comes in, one command runs, an exit status goes out.
//!
//! Code map: [`args`] is what was typed and [`settings`] what it means; [`context`] holds the configuration; [`commands`]
//! has one file for each verb; [`fleet`] is for what is done elsewhere; [`output`] and [`logging`] are the two ways out;
//! [`signals`] and [`reload`] are for daemons.
//!
//! Invariants
//! 1. The environment, the arguments and the configuration file are read here and nowhere below.
//! 2. stdout carries the result only; everything else goes to stderr.
//! 3. Nothing is started before a command asks for it: archive-push runs once per WAL segment.

pub mod args;
pub mod commands;
pub mod context;
pub mod embedded;
pub mod fleet;
pub mod host;
pub mod key_locks;
pub mod logging;
pub mod member;
pub mod output;
pub mod progress;
pub mod reload;
pub mod repositories;
pub mod runtime;
pub mod settings;
pub mod signals;

use args::{Command, Parsed, Typed};
use context::Context;
use fleet::submit::{Submission, is_wanted};
use output::Failures;
use pgconvoy_core::failure::{ErrorCode, Failure};
use pgconvoy_core::job::JobKind;
use settings::{
    ArchivePushRequest, BackupRequest, CheckRequest, InfoRequest, ManifestRequest, RepoGetRequest,
    RepoLsRequest, RepoSyncRequest, RestoreRequest, StanzaCreateRequest, VerifyRequest,
};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

/// What the process was given. No `Debug`: the environment may hold secrets.
#[derive(Clone)]
pub struct Invocation {
    /// With the program's name in front.
    pub arguments: Vec<OsString>,
    pub environment: BTreeMap<String, String>,
    pub is_root: bool,
}

impl Invocation {
    pub fn of_this_process() -> Self {
        let lossy = |text: OsString| text.to_string_lossy().into_owned();
        Invocation {
            arguments: std::env::args_os().collect(),
            environment: std::env::vars_os().map(|(name, value)| (lossy(name), lossy(value))).collect(),
            is_root: rustix::process::geteuid().is_root(),
        }
    }

    /// The last part of the name under which the program was called.
    pub fn program(&self) -> &str {
        let path = self.arguments.first().map(Path::new);
        path.and_then(|path| path.file_name()?.to_str()).unwrap_or("pgconvoy")
    }
}

/// Runs one command; whatever fails is reported before this returns.
pub fn run(invocation: &Invocation) -> ExitCode {
    match parse_and_dispatch(invocation) {
        Ok(code) => code,
        Err(failures) => failures.report(),
    }
}

fn parse_and_dispatch(invocation: &Invocation) -> Result<ExitCode, Failures> {
    let parsed = args::parse(&invocation.arguments);
    match parsed.map_err(|failure| commands::archive_get::misspelt(&invocation.arguments, failure))? {
        Parsed::Help(text) => Ok(output::text(&text)?),
        Parsed::Typed(typed) => dispatch(invocation, *typed),
    }
}

/// Commands that need no configuration, or report on it, come first: they work where it is missing or broken.
fn dispatch(invocation: &Invocation, typed: Typed) -> Result<ExitCode, Failures> {
    match &typed.command {
        Command::Version(args) => Ok(commands::version::run(invocation.program(), args)?),
        Command::Help(args) => Ok(commands::help::run(args)?),
        Command::Completions(args) => Ok(commands::completions::run(args)?),
        Command::Man(args) => Ok(commands::man::run(args)?),
        Command::Config(command) => commands::config::run(invocation, &typed.common, command),
        Command::RepoKey(command) => Ok(commands::repo_key::run(command)?),
        Command::Cert(command) => commands::cert::run(invocation, &typed.common, command),
        Command::ArchiveGet(args) => commands::archive_get::run(invocation, &typed, args),
        _ => {
            let context = Context::open(invocation, &typed)?;
            let run = logging::start(&context);
            let outcome = match submission(&context, &typed) {
                Some(submission) => fleet::submit::run(&context, &submission),
                None => work(&context, &typed.command),
            };
            run.end(&outcome);
            Ok(outcome?)
        }
    }
}

/// What the fleet is to do instead of this process.
fn submission<'a>(context: &Context, typed: &'a Typed) -> Option<Submission<'a>> {
    let (kind, detach, output) = match &typed.command {
        Command::Backup(args) if is_wanted(context) && !args.plan => {
            (JobKind::Backup, args.detach, args.output)
        }
        Command::Verify(args) if is_wanted(context) => (JobKind::Verify, false, args.output),
        Command::RepoSync(args) if is_wanted(context) => (JobKind::RepoSync, false, args.output),
        Command::Restore(args) if !args.worker.is_empty() => (JobKind::Restore, false, args.output),
        _ => return None,
    };
    Some(Submission { kind, options: &typed.options, detach, output })
}

/// Commands that work on a cluster or on repositories.
fn work(context: &Context, command: &Command) -> Result<ExitCode, Failure> {
    match command {
        Command::StanzaCreate(args) => {
            commands::stanza_create::run(context, &StanzaCreateRequest::new(context, args)?)
        }
        Command::Check(args) => commands::check::run(context, args.output, &CheckRequest::all(context)?),
        Command::Backup(args) => commands::backup::run(context, &BackupRequest::new(context, args)?),
        Command::Info(args) => commands::info::run(&InfoRequest::new(context, args)?),
        Command::Verify(args) => commands::verify::run(&VerifyRequest::new(context, args)?),
        Command::Manifest(args) => commands::manifest::run(&ManifestRequest::new(context, args)?),
        Command::RepoLs(args) => commands::repo_ls::run(&RepoLsRequest::new(context, args)?),
        Command::RepoGet(args) => commands::repo_get::run(&RepoGetRequest::new(context, args)?),
        Command::RepoSync(args) => commands::repo_sync::run(&RepoSyncRequest::new(context, args)?),
        Command::ArchivePush(args) => {
            commands::archive_push::run(context, &ArchivePushRequest::new(context, args)?)
        }
        Command::Restore(args) => commands::restore::run(context, &RestoreRequest::new(context, args)?),
        Command::Job(command) => commands::job::run(context, command),
        Command::Coordinator => commands::coordinator::run(context),
        Command::Worker => commands::worker::run(context),
        Command::Workers(command) => commands::workers::run(context, command),
        Command::Token(command) => commands::token::run(context, command),
        other => Err(Failure::new(
            ErrorCode::CommandInvalid,
            format!("command '{}' is not part of this build", other.name()),
        )),
    }
}
