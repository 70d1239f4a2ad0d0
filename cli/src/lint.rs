//! `adit lint`: mistakes in manifests, before a cluster sees them.

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use adit_lint::{Finding, Report, Severity, Source, Way, lint};
use clap::Args;
use comfy_table::{ContentArrangement, Table, presets};
use serde_json::json;

/// Endings of the files that are looked for in folders.
const ENDINGS: [&str; 5] = ["yaml", "yml", "json", "conf", "conflist"];

/// What is looked at, and how it is told.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Files (YAML or JSON), folders of them, or - for stdin
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Warnings are failures, too
    #[arg(long)]
    strict: bool,
    /// Everything as JSON
    #[arg(long)]
    json: bool,
    /// Also a table: what of each pod's annotation reaches which plugin, and how
    #[arg(long)]
    explain: bool,
    /// Also what was passed over, since it is neither network nor pod
    #[arg(long)]
    verbose: bool,
}

/// What came of it.
pub struct Outcome {
    /// For stdout.
    pub text: String,
    /// Files that could not be read.
    pub troubles: Vec<String>,
    /// Whether there is a mistake.
    pub is_wrong: bool,
}

impl Arguments {
    /// Looks at the files.
    pub fn run(&self) -> Outcome {
        let mut reading = Reading::default();
        for path in &self.files {
            reading.read(path, false);
        }
        let Reading { sources, troubles } = reading;
        let report = lint(&sources);
        let limit = if self.strict { Severity::Warning } else { Severity::Error };
        let is_wrong = report.findings.iter().any(|finding| finding.severity <= limit);
        let text = if self.json { format!("{:#}\n", self.as_json(&report)) } else { self.as_text(&report) };
        Outcome { text, troubles, is_wrong }
    }

    fn as_text(&self, report: &Report) -> String {
        let mut text: String = report.findings.iter().map(|finding| format!("{finding}\n")).collect();
        if self.verbose {
            text.extend(report.passed_over.iter().map(|what| format!("{what}: passed over\n")));
        }
        if self.explain {
            text.push_str(&table(&report.ways));
        }
        text
    }

    fn as_json(&self, report: &Report) -> serde_json::Value {
        let findings: Vec<_> = report.findings.iter().map(finding_as_json).collect();
        let mut document = json!({ "findings": findings });
        let ways = report.ways.iter().map(|way| {
            let Way { pod, network, key, value, reaches, how } = way;
            json!({ "pod": pod, "network": network, "key": key, "value": value, "reaches": reaches, "how": how })
        });
        if let Some(document) = document.as_object_mut() {
            if self.explain {
                document.insert("ways".into(), ways.collect());
            }
            if self.verbose {
                document.insert("passedOver".into(), json!(report.passed_over));
            }
        }
        document
    }
}

fn finding_as_json(finding: &Finding) -> serde_json::Value {
    let Finding { path, line, column, severity, code, message, remedy } = finding;
    json!({
        "path": path, "line": line, "column": column, "severity": severity.to_string(), "code": code.as_str(),
        "message": message, "remedy": remedy,
    })
}

fn table(ways: &[Way]) -> String {
    if ways.is_empty() {
        return "no pod of these files asks for a network\n".to_owned();
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(["POD", "NETWORK", "KEY", "VALUE", "REACHES", "HOW"]);
    for Way { pod, network, key, value, reaches, how } in ways {
        table.add_row([pod, network, key, value, reaches, how]);
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n") + "\n"
}

/// What was read, and what could not be.
#[derive(Default)]
struct Reading {
    sources: Vec<Source>,
    troubles: Vec<String>,
}

impl Reading {
    /// Reads a file, stdin, or what is in a folder.
    fn read(&mut self, path: &Path, is_found: bool) {
        let read = if path == Path::new("-") {
            let mut bytes = Vec::new();
            io::stdin().read_to_end(&mut bytes).map(|_| bytes)
        } else if path.is_dir() {
            match folder(path) {
                Ok(paths) => return paths.iter().for_each(|path| self.read(path, true)),
                Err(error) => Err(error),
            }
        } else {
            fs::read(path)
        };
        let text = read.map_err(|error| error.to_string());
        match text.and_then(|bytes| String::from_utf8(bytes).map_err(|error| error.to_string())) {
            Ok(text) => self.sources.push(Source {
                path: path.display().to_string(),
                // What Windows writes in front of its files is no part of the text.
                text: text.trim_start_matches('\u{feff}').to_owned(),
                is_found,
            }),
            Err(why) => self.troubles.push(format!("cannot read {}: {why}", path.display())),
        }
    }
}

/// The files and folders of a folder that are looked at, by their names. Folders that are links may lead anywhere, also back.
fn folder(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let path = entry.path();
        let is_hidden = entry.file_name().to_string_lossy().starts_with('.');
        let has_ending =
            path.extension().and_then(|ending| ending.to_str()).is_some_and(|ending| ENDINGS.contains(&ending));
        let kind = entry.file_type()?;
        if !is_hidden && (kind.is_dir() || (has_ending && !path.is_dir())) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}
