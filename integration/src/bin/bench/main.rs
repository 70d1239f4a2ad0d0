//! Measurements against other implementations, in one run and interleaved. `scripts/bench` builds and runs this.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "showing is what it is for")]

mod cases;
mod cni;
mod loss;
mod node;
mod report;
mod sample;
mod scale;
mod statistics;
mod tunnel;

use std::{error::Error, fs, path::Path, process::ExitCode};

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
    /// Throughput, packets, round trips, CPU time and memory of tunnels
    Tunnel(tunnel::Options),
    /// Tunnels over a bad link: TCP and datagrams, with and without the recovery of losses
    Loss(loss::Options),
    /// A database's standby and a film across a bad link
    LossApps(loss::apps::Options),
    /// Many tunnels on one node: set-up, memory, idling, restart
    Scale(scale::Options),
    /// The sender and the receiver of a search for the most packets a second; `tunnel` runs it
    #[command(hide = true)]
    Packets(tunnel::packets::Options),
}

fn main() -> ExitCode {
    trace::serve();
    let outcome = match Options::parse().what {
        What::Cni(options) => cni::run(&options),
        What::Tunnel(options) => tunnel::run(&options),
        What::Loss(options) => loss::run(&options),
        What::LossApps(options) => loss::apps::run(&options),
        What::Scale(options) => scale::run(&options),
        What::Packets(options) => tunnel::packets::run(&options),
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

/// Puts `tables` between two marks of a document.
pub fn put(path: &Path, (begin, end): (&str, &str), tables: &str) -> Outcome {
    let document = fs::read_to_string(path)?;
    let missing = || format!("{} lacks {begin} or {end}", path.display());
    let (before, rest) = document.split_once(begin).ok_or_else(missing)?;
    let (_, after) = rest.split_once(end).ok_or_else(missing)?;
    Ok(fs::write(path, format!("{before}{begin}\n{tables}\n{end}{after}"))?)
}
