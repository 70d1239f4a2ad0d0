//! `adit`: what a person types about the tunnels of a node.
#![forbid(unsafe_code)]

mod table;

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use adit_tunnel::{Client, Error, protocol::TunnelStatus, run_dir};
use clap::{Parser, Subcommand};

/// See the tunnels that Adit carries on this node.
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
        /// Everything that the agent knows, as JSON
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let directory = arguments.run_dir.unwrap_or_else(run_dir);
    let Command::Status { json } = arguments.command;
    let (text, code) = match Client::new(&directory).status().and_then(|tunnels| render(&tunnels, json)) {
        Ok(text) => (text, ExitCode::SUCCESS),
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

fn render(tunnels: &[TunnelStatus], json: bool) -> Result<String, Error> {
    if !json {
        return Ok(table::status(tunnels));
    }
    let document: Vec<_> = tunnels.iter().map(table::with_state).collect();
    serde_json::to_string_pretty(&serde_json::json!({ "tunnels": document }))
        .map(|text| text + "\n")
        .map_err(|error| Error::Decode { path: "tunnels".into(), problem: error.to_string() })
}

fn complain(message: &str) -> ExitCode {
    let _ = writeln!(io::stderr(), "adit: {message}");
    ExitCode::FAILURE
}
