//! `adit doctor`: looks at a node and at its tunnels, leg by leg, and says what to do. It changes nothing.

mod features;
mod node;
mod peer;
mod plugins;
mod process;
mod tunnel;

use std::{
    error::Error,
    fmt,
    path::{Path, PathBuf},
};

use adit_tunnel::{Client, Record, Store};
use serde::Serialize;

/// What is wrong on this node, and what to do about it
///
/// Exit status: 0 nothing, 1 something that is marked FAIL.
#[derive(Debug, Default, clap::Args)]
pub struct Doctor {
    /// Only the tunnels of this pod (default/plumbr-a)
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pod: Option<String>,
    /// Directory of the node's CNI plugins [default: /opt/cni/bin]
    #[arg(long, value_name = "DIRECTORY")]
    cni_bin: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    /// As it should be.
    Ok,
    /// Worth knowing.
    Note,
    /// Something works worse than it could, or may not work.
    Warn,
    /// Something does not work.
    Fail,
}

/// What was looked at, and what came of it.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Line {
    verdict: Verdict,
    /// Of what: the node's part, or the tunnel and its leg.
    subject: String,
    /// What was seen.
    what: String,
    /// What to do; empty when nothing is to be done.
    remedy: String,
}

impl Line {
    fn new(verdict: Verdict, subject: &str, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { verdict, subject: subject.into(), what: what.into(), remedy: remedy.into() }
    }

    fn ok(subject: &str, what: impl Into<String>) -> Self {
        Self::new(Verdict::Ok, subject, what, "")
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { verdict, subject, what, remedy } = self;
        let word = match verdict {
            Verdict::Ok => "ok",
            Verdict::Note => "note",
            Verdict::Warn => "warn",
            Verdict::Fail => "FAIL",
        };
        write!(f, "{word:<4}  {subject}: {what}")?;
        if remedy.is_empty() { Ok(()) } else { write!(f, " \u{2014} {remedy}") }
    }
}

impl Doctor {
    /// The report, and whether anything has failed.
    pub fn run(&self, run_dir: &Path, config_dir: &Path) -> Result<(String, bool), Box<dyn Error>> {
        let store = Store::new(run_dir);
        let listed = store.list().map_err(|error| format!("{error}; run this as root"))?;
        let (records, unreadable): (Vec<_>, Vec<_>) = listed.into_iter().partition(Result::is_ok);
        let mut records: Vec<Record> = records.into_iter().flatten().collect();
        let agent = Client::new(run_dir).status();
        let mut lines = node::kernel();
        lines.push(node::agent(&agent, &records));
        lines.extend(process::limits(run_dir));
        lines.extend(plugins::plugins(self.cni_bin.as_deref().unwrap_or(Path::new(plugins::DIRECTORY))));
        lines.extend(unreadable.into_iter().filter_map(Result::err).map(|error| {
            Line::new(
                Verdict::Warn,
                "records",
                error.to_string(),
                "the tunnel is carried until the agent ends, and not after",
            )
        }));
        lines.extend(node::keys(config_dir));
        if let Some(pod) = &self.pod {
            records.retain(|record| record.pod.to_string() == *pod);
            if records.is_empty() {
                let remedy = "adit status lists those that have; was the pod's network attached?";
                lines.push(Line::new(Verdict::Fail, pod, "has no tunnel on this node", remedy));
            }
        }
        let seen = agent.unwrap_or_default();
        for record in &records {
            lines.extend(tunnel::legs(record, seen.iter().find(|tunnel| tunnel.attachment == record.attachment)));
        }
        let failed = lines.iter().any(|line| line.verdict == Verdict::Fail);
        let text = if self.json {
            serde_json::to_string_pretty(&serde_json::json!({ "lines": lines }))? + "\n"
        } else {
            lines.iter().map(|line| format!("{line}\n")).collect()
        };
        Ok((text, failed))
    }
}
