//! `adit`: what a person types about the tunnels of a node.
#![forbid(unsafe_code)]

mod kernel;
mod table;

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use adit_tunnel::{Client, Error, Store, protocol::TunnelStatus, run_dir};
use clap::{Parser, Subcommand};
use kernel::Recorded;

/// See the tunnels of this node.
#[derive(Debug, Parser)]
#[command(name = "adit", version)]
struct Arguments {
    /// The agent's run directory [default: $ADIT_RUN_DIR, else /run/adit]
    #[arg(long, global = true)]
    run_dir: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Every tunnel of this node: pod, interface, peers, traffic, when something was last seen
    Status {
        /// Everything that is known of them, as JSON
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let directory = arguments.run_dir.unwrap_or_else(run_dir);
    let Command::Status { json } = arguments.command;
    let (tunnels, troubles) = match tunnels(&directory) {
        Ok(found) => found,
        Err(error) => return complain(&error.to_string()),
    };
    let code = troubles.iter().fold(ExitCode::SUCCESS, |_, error| complain(&error.to_string()));
    let text = match render(&tunnels, json) {
        Ok(text) => text,
        Err(error) => return complain(&error.to_string()),
    };
    match io::stdout().write_all(text.as_bytes()) {
        // A reader that has seen enough is no failure.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            complain(&format!("cannot write to stdout: {error}"))
        }
        _ => code,
    }
}

/// The tunnels of the agent and those of the kernel, for which no agent need be there; and what could not be found out.
fn tunnels(run_dir: &Path) -> Result<(Vec<TunnelStatus>, Vec<Error>), Error> {
    let of_agent = Client::new(run_dir).status();
    let Recorded { tunnels, needs_agent, mut unreadable } = match kernel::recorded(&Store::new(run_dir)) {
        Ok(recorded) => recorded,
        // Only root may see the records; the agent's words say so as well.
        Err(error) => return Ok((of_agent?, vec![error])),
    };
    let mut all = tunnels;
    match of_agent {
        Ok(carried) => {
            all.extend(carried);
            // It complains of them in its log.
            unreadable.clear();
        }
        Err(error) if all.is_empty() => return Err(error),
        Err(error) if needs_agent => unreadable.push(error),
        Err(_) => {}
    }
    all.sort_by(|one, other| one.attachment.cmp(&other.attachment));
    Ok((all, unreadable))
}

fn render(tunnels: &[TunnelStatus], json: bool) -> Result<String, Error> {
    if !json {
        return Ok(table::status(tunnels));
    }
    let document: Vec<_> = tunnels.iter().map(table::with_state).collect();
    serde_json::to_string_pretty(&serde_json::json!({ "tunnels": document }))
        .map(|text| text + "\n")
        .map_err(|error| Error::Decode { problem: format!("tunnels: {error}") })
}

fn complain(message: &str) -> ExitCode {
    let _ = writeln!(io::stderr(), "adit: {message}");
    ExitCode::FAILURE
}
