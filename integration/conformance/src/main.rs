//! `conformance`: runs the cases below `cases/` against a directory of CNI plugins, alone or beside a second directory.
//!
//! `docs/conformance.md` is its manual.

mod case;
mod compare;
mod interrupt;
mod judge;
mod needs;
mod report;
mod run;
mod state;
mod suite;
mod text;
mod world;

use std::{io, path::PathBuf, process::ExitCode, time::Duration};

use clap::Parser;

use crate::{report::Report, suite::Suite};

/// Runs conformance cases for CNI plugins, each in network namespaces of its own.
///
/// Exit status: 0 when every case passes and every difference is an expected one, 1 when not, 2 when nothing could be run.
#[derive(Debug, Parser)]
struct Arguments {
    /// The plugins under test.
    #[arg(long, value_name = "DIR", required_unless_present = "list")]
    plugins: Option<PathBuf>,
    /// Plugins of another implementation, to compare with.
    #[arg(long, value_name = "DIR")]
    against: Option<PathBuf>,
    /// Where programs are that neither directory has: other members of chains.
    #[arg(long, value_name = "DIR")]
    also: Option<PathBuf>,
    /// Differences that are meant: a JSON file, as integration/conformance/improvements.json.
    #[arg(long, value_name = "FILE", requires = "against")]
    expect: Option<PathBuf>,
    /// Which implementation --against is, as "against" in the file of --expect calls it.
    #[arg(long, value_name = "NAME", requires = "expect")]
    reference: Option<String>,
    /// Only cases whose name matches; may be given several times.
    #[arg(long, value_name = "GLOB")]
    case: Vec<String>,
    /// Cases from a directory instead of those that are built in.
    #[arg(long, value_name = "DIR")]
    cases: Option<PathBuf>,
    /// Prints the cases and ends.
    #[arg(long)]
    list: bool,
    /// Prints one JSON document instead of a table.
    #[arg(long)]
    json: bool,
    /// How many cases run at the same time.
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
    /// A variable for every call, as KEY=VALUE.
    #[arg(long, value_name = "K=V", value_parser = variable)]
    env: Vec<(String, String)>,
    /// How long one call of a plugin may take.
    #[arg(long, value_name = "SECONDS", default_value = "20")]
    deadline: u64,
}

fn variable(text: &str) -> std::result::Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write it as KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn main() -> ExitCode {
    match conformance(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            report::complain(&error);
            ExitCode::from(2)
        }
    }
}

fn conformance(arguments: &Arguments) -> Result<bool> {
    let suite = Suite::load(
        arguments.plugins.as_deref(),
        arguments.against.as_deref(),
        arguments.cases.as_deref(),
        &arguments.case,
    )?;
    if arguments.list {
        report::list(&suite).map_err(Error::Output)?;
        return Ok(true);
    }
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    interrupt::watch();
    let expected = arguments.expect.as_deref().map(suite::improvements).transpose()?;
    let also = arguments.also.as_deref().map(suite::absolute).transpose()?;
    let deadline = Duration::from_secs(arguments.deadline);
    let settings = run::Settings { env: arguments.env.clone(), also, deadline };
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let outcomes = suite.run(&settings, arguments.jobs.unwrap_or_else(|| cores.saturating_mul(4)))?;
    let (expected, whole) = (expected.as_deref().unwrap_or_default(), arguments.case.is_empty());
    let report = Report::new(outcomes, expected, arguments.reference.as_deref(), whole);
    if arguments.json { report.json(&suite) } else { report.table(&suite) }.map_err(Error::Output)?;
    Ok(report.is_ok())
}

/// Why the harness cannot do its work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Namespaces are made, and plugins change them.
    #[error("cases make network namespaces, which needs root: run it as root (--list needs nothing)")]
    NotRoot,
    /// A case's file is not one.
    #[error("case {name}: {source}")]
    Case {
        /// The case.
        name: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A directory or file that was named on the command line.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file of `--expect` is not one.
    #[error("{path} is no list of expected differences: {source}")]
    Expect {
        /// Its path.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// No case is left.
    #[error("no case matches {0}; --list shows them all")]
    NoCase(String),
    /// No plugin is there.
    #[error("{0} holds no executable file")]
    NoPlugins(PathBuf),
    /// Namespaces or mounts could not be made.
    #[error("cannot {what}: {source}")]
    World {
        /// What was attempted.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// A step speaks of a namespace that is not there.
    #[error("there is no namespace {0}")]
    NoSuchPlace(String),
    /// A step speaks of one that was not before it.
    #[error("there is no earlier step {0:?} with a look at the state")]
    NoSuchStep(String),
    /// A program cannot be started.
    #[error("cannot run {program}: {source}")]
    Program {
        /// The program.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// A command of the case or of the harness failed.
    #[error("in {place}: {command} failed: {said}")]
    CommandFailed {
        /// The namespace.
        place: String,
        /// The command.
        command: String,
        /// What it wrote to standard error.
        said: String,
    },
    /// iproute2 or nft printed something unknown.
    #[error("the output of ip, bridge or nft is not what this harness knows: {0}")]
    Iproute(serde_json::Error),
    /// The report cannot be written.
    #[error("cannot write the report: {0}")]
    Output(io::Error),
}

/// Result with this program's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;
