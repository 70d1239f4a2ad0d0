//! Measurements against other implementations, in one run and interleaved. `scripts/bench` builds and runs this.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "showing is what it is for")]

mod cases;
mod cni;
mod node;
mod report;
mod sample;
mod statistics;

use std::{error::Error, process::ExitCode};

use adit_integration::trace;
use clap::{Parser, Subcommand};

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// How long things take, beside others that do the same.
#[derive(Debug, Parser)]
struct Options {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// ADD, CHECK, DEL and VERSION of bridge, macvlan and static, one by one and many at once
    Cni(cni::Options),
}

fn main() -> ExitCode {
    trace::serve();
    let outcome = match Options::parse().what {
        What::Cni(options) => cni::run(&options),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::from(2)
        }
    }
}
