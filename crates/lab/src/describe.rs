//! What stands, for a person who must find out why a test hangs.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::{State, command::run, labs, ledger, process::ProcessMark};

const LOOK: Duration = Duration::from_secs(5);
const LOG_LINES: usize = 20;

/// The labs of this process: their processes, interfaces, routes and the ends of their logs.
#[must_use]
pub fn describe_own() -> String {
    let mut text = String::new();
    for state in own() {
        let _ = writeln!(text, "lab {}", state.prefix);
        for recorded in &state.processes {
            let pid = recorded.process.pid;
            let life = if recorded.process.is_alive() { "lives" } else { "has ended" };
            let waits = fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
            let _ = writeln!(text, "  process {pid} {}: {life} {waits}", recorded.what);
        }
        for namespace in &state.namespaces {
            let _ = writeln!(text, "  {namespace}");
            for arguments in [["-br", "address", "show"].as_slice(), &["route", "show"], &["-6", "route", "show"]] {
                let mut command = Command::new("ip");
                command.args(["-netns", namespace]).args(arguments);
                let said = run(command, None, LOOK).map_or_else(|error| error.to_string(), |ran| ran.stdout);
                for line in said.lines() {
                    let _ = writeln!(text, "    {line}");
                }
            }
        }
        for log in logs(&state.directory) {
            let _ = writeln!(text, "  end of {}", log.display());
            let lines = fs::read_to_string(&log).unwrap_or_default();
            let lines: Vec<&str> = lines.lines().collect();
            for line in lines.get(lines.len().saturating_sub(LOG_LINES)..).unwrap_or_default() {
                let _ = writeln!(text, "    {line}");
            }
        }
    }
    text
}

/// Takes the labs of this process down. For an end in which nothing will be dropped.
pub fn tear_down_own() {
    for state in own() {
        // The next janitor sees what is left.
        let _ = ledger::tear_down(&state);
    }
}

fn own() -> Vec<State> {
    let own = ProcessMark::own();
    labs().unwrap_or_default().into_iter().filter(|state| !state.kept && Some(state.owner) == own).collect()
}

fn logs(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut found = Vec::new();
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        if path.is_dir() {
            found.extend(logs(&path));
        } else if path.extension().is_some_and(|extension| extension == "log") {
            found.push(path);
        }
    }
    found.sort();
    found
}
