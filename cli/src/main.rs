//! `adit`: what a person types about tunnels.
#![forbid(unsafe_code)]

mod bundle;
mod connect;
mod doctor;
mod graph;
mod install;
mod kernel;
mod key;
mod lab;
mod lint;
mod peer;
mod schema;
mod select;
mod show;
mod status;
mod table;
mod units;
mod watch;

use std::{
    error::Error,
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use adit_tunnel::{Client, KeyStore, keys::config_dir, run_dir};
use clap::{Parser, Subcommand};
use install::AgentDirectories;

/// See the tunnels of this node, make their keys, put its programs in place; find mistakes in manifests, connect two clusters.
#[derive(Debug, Parser)]
#[command(name = "adit", version)]
struct Arguments {
    /// The agent's run directory [default: $ADIT_RUN_DIR, else /run/adit]
    #[arg(long, global = true)]
    run_dir: Option<PathBuf>,
    /// The agent's directory of keys [default: $ADIT_CONFIG_DIR, else /etc/adit]
    #[arg(long, global = true)]
    config_dir: Option<PathBuf>,
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
        /// Go on, with what passes in a second and every change of a state, through restarts of the agent; with --json one document a line
        #[arg(long)]
        watch: bool,
        /// How often to look, such as 500ms or 5s
        #[arg(long, default_value = "1s", requires = "watch", value_parser = interval)]
        interval: Duration,
    },
    /// The configuration that one tunnel has, and where each part of it comes from: the network, the pod's annotation, a default, the
    /// route, the path, the peer
    Show(show::Show),
    /// Pods and the tunnels between them as a graph, with state, round trip, loss and traffic: of this node, or of several whose
    /// `adit status --json` is in files
    Graph(graph::Show),
    Doctor(doctor::Doctor),
    SupportBundle(bundle::Bundle),
    /// Keys of tunnels: make them, and tell the public ones
    #[command(subcommand)]
    Key(key::Command),
    /// The other end of a tunnel: what it has to be told, and what it tells
    #[command(subcommand)]
    Peer(peer::Command),
    /// Both ends of a tunnel from one description: networks and annotations in two clusters, and keys on their nodes
    Connect(connect::Connect),
    /// Mistakes in networks, pods and CNI lists: file, line, column, what is wrong and what was meant
    ///
    /// Exit status: 0 nothing, or notes alone; 1 errors (with --strict also warnings); 2 a file cannot be read.
    Lint(lint::Arguments),
    /// JSON Schema of what lint reads, for editors: nad, tun, bridge, macvlan, static or list
    Schema {
        /// What the schema describes
        #[arg(default_value = "nad")]
        subject: adit_lint::schema::Subject,
    },
    /// Put the plugins, and the agent as a service, in place on this node
    Install(install::Install),
    /// Remove what `adit install` put in place, and put back what was there before
    Uninstall(install::Uninstall),
    /// Bad networks to try tunnels on
    #[command(subcommand)]
    Lab(lab::Command),
    /// Say by the exit code whether an agent of this node answers
    Ready,
}

/// Exit status of `lint` when it could not look at everything; the same as for arguments that cannot be read.
const UNREADABLE: u8 = 2;

/// What a command has to print, or why it has nothing.
type Said = Result<String, Box<dyn Error>>;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let directory = arguments.run_dir.unwrap_or_else(run_dir);
    let config_dir = arguments.config_dir.unwrap_or_else(config_dir);
    let keys = KeyStore::new(&config_dir);
    let mut code = ExitCode::SUCCESS;
    let said = match arguments.command {
        Command::Status { json, watch: true, interval } => {
            watch::watch(&directory, json, interval).map(|()| String::new())
        }
        Command::Status { json, .. } => {
            status::status(&directory, json).map(|status::Told { text, troubles, note }| {
                let _ = note.map(complain);
                code = troubles.iter().fold(code, |_, error| complain(&error.to_string()));
                text
            })
        }
        Command::Show(show) => show.run(&directory),
        Command::Graph(graph) => graph.run(&directory),
        Command::Doctor(doctor) => doctor.run(&directory, &config_dir).map(|(text, failed)| {
            if failed {
                code = ExitCode::FAILURE;
            }
            text
        }),
        Command::SupportBundle(bundle) => bundle.run(&directory, &config_dir),
        Command::Key(command) => command.run(&Client::new(&directory), &keys),
        Command::Peer(command) => command.run(&Client::new(&directory), &keys),
        Command::Connect(connect) => connect.run(),
        Command::Lint(arguments) => {
            let lint::Outcome { text, troubles, is_wrong } = arguments.run();
            if is_wrong {
                code = ExitCode::FAILURE;
            }
            for trouble in &troubles {
                complain(trouble);
                code = ExitCode::from(UNREADABLE);
            }
            Ok(text)
        }
        Command::Schema { subject } => schema::print(subject),
        Command::Install(command) => command.run(),
        Command::Uninstall(command) => command.run(&AgentDirectories { run: &directory, config: &config_dir }),
        Command::Lab(command) => command.run(),
        Command::Ready => Client::new(&directory).ping().map(|()| String::new()).map_err(Into::into),
    };
    let text = match said {
        Ok(text) => text,
        Err(error) => return complain(&error.to_string()),
    };
    print(&text).map_or_else(|error| complain(&error.to_string()), |()| code)
}

fn interval(text: &str) -> Result<Duration, String> {
    adit_tunnel::parse::duration("--interval", text).map_err(|error| error.to_string())
}

fn print(text: &str) -> Result<(), String> {
    match io::stdout().write_all(text.as_bytes()) {
        // A reader that has seen enough is no failure.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(format!("cannot write to stdout: {error}")),
        _ => Ok(()),
    }
}

fn complain(message: &str) -> ExitCode {
    let _ = writeln!(io::stderr(), "adit: {message}");
    ExitCode::FAILURE
}
