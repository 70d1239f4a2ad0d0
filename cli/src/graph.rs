//! `adit graph`: pods and the tunnels between them, of one node or of several.

mod dot;
mod model;

use std::{
    error::Error,
    fs, io,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use adit_tunnel::protocol::TunnelStatus;
use model::{Graph, View};
use serde_json::Value;

use crate::{Said, status, watch::rates::Rates};

/// Pods and the tunnels between them
#[derive(Debug, clap::Args)]
pub struct Show {
    /// What `adit status --json` printed on each node, one file a node; without any, this node is looked at
    files: Vec<PathBuf>,
    /// What to print
    #[arg(long, default_value = "dot")]
    format: Format,
    /// Between which two looks at this node what passes in a second is counted
    #[arg(long, default_value = "1s", value_parser = crate::interval, conflicts_with = "files")]
    interval: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// The language of graphviz
    Dot,
    /// A picture, made by graphviz
    Svg,
    /// For other programs
    Json,
}

impl Show {
    pub fn run(&self, run_dir: &Path) -> Said {
        let views = if self.files.is_empty() {
            vec![this_node(run_dir, self.interval)?]
        } else {
            self.files.iter().map(|path| from_file(path)).collect::<Result<Vec<_>, _>>()?
        };
        let graph = Graph::of(&views);
        match self.format {
            Format::Dot => Ok(dot::dot(&graph)),
            Format::Svg => Ok(svg(&dot::dot(&graph))?),
            Format::Json => Ok(serde_json::to_string_pretty(&graph)? + "\n"),
        }
    }
}

fn this_node(run_dir: &Path, interval: Duration) -> Result<View, Box<dyn Error>> {
    let look = || {
        let seen = status::look(run_dir);
        match seen.agent {
            Err(error) if seen.tunnels.is_empty() => Err(error),
            _ => Ok((seen.tunnels, Instant::now())),
        }
    };
    let mut rates = Rates::default();
    let (before, then) = look()?;
    rates.add(&before, then);
    thread::sleep(interval);
    let (tunnels, now) = look()?;
    rates.add(&tunnels, now);
    let rate_of = |tunnel: &TunnelStatus| {
        (0..tunnel.peers.len())
            .map(|index| rates.of(tunnel, index).map(|rate| (rate.rx_bytes, rate.tx_bytes)))
            .collect()
    };
    let rates = tunnels.iter().map(rate_of).collect();
    Ok(View { source: String::new(), tunnels, rates })
}

/// The last document of the file: `--watch --json` writes one after the other, with rates.
fn from_file(path: &Path) -> Result<View, Box<dyn Error>> {
    let failed = |problem: &dyn std::fmt::Display| {
        format!("cannot read {}: {problem}; write what `adit status --json` prints into it", path.display())
    };
    let text = fs::read_to_string(path).map_err(|error| failed(&error))?;
    let documents = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
    let documents: Vec<Value> = documents.collect::<Result<_, _>>().map_err(|error| failed(&error))?;
    let tunnels =
        documents.last().and_then(|document| document.get("tunnels")).ok_or_else(|| failed(&"it has no tunnels"))?;
    let rates = tunnels.as_array().into_iter().flatten().map(|tunnel| {
        let peers = tunnel.get("peers").and_then(Value::as_array).into_iter().flatten();
        let of = |peer: &Value, key: &str| peer.get("perSecond")?.get(key)?.as_u64();
        peers.map(|peer| of(peer, "rxBytes").zip(of(peer, "txBytes"))).collect()
    });
    let rates = rates.collect();
    let tunnels: Vec<TunnelStatus> = serde_json::from_value(tunnels.clone()).map_err(|error| failed(&error))?;
    let source = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Ok(View { source, tunnels, rates })
}

fn svg(dot: &str) -> Result<String, String> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => {
            "there is no graphviz here (apt-get install graphviz); or take --format dot where there is one".to_owned()
        }
        _ => format!("cannot run dot: {error}"),
    };
    let mut command = Command::new("dot");
    command.arg("-Tsvg").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = command.spawn().map_err(failed)?;
    let output = thread::scope(|scope| {
        let input = process.stdin.take();
        scope.spawn(move || input.map(|mut input| input.write_all(dot.as_bytes())));
        process.wait_with_output()
    });
    let output = output.map_err(failed)?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(format!("dot failed: {}", String::from_utf8_lossy(&output.stderr).trim()))
    }
}
