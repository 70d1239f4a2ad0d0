//! The tables and the JSON.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::{
    statistics::Ratio,
    tunnel::{
        bed::Condition,
        figures::{Figures, Quantity, Target},
        kinds::Kind,
    },
};

/// Everything there is to tell about a run.
#[derive(Debug, Default)]
pub struct Report {
    pub figures: Figures,
    /// Machine, rounds, programs and how they were measured; a line each.
    pub facts: Vec<String>,
    /// What was asked for and not measured, and why.
    pub left_out: Vec<(Kind, String)>,
    /// Features of the path in each condition.
    pub features: Vec<(Condition, Vec<String>)>,
}

impl Report {
    pub fn markdown(&self, targets: &[Target]) -> String {
        let mut text = String::new();
        for fact in &self.facts {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{fact}");
        }
        for (kind, why) in &self.left_out {
            let _ = writeln!(text, "\n{} was **not measured**: {why}", kind.label());
        }
        for (condition, kind, whys) in self.figures.failures() {
            let _ = writeln!(text, "\n{condition}, {}: {} measurements failed: {}", kind.label(), whys.len(), whys[0]);
        }
        for condition in Condition::ALL {
            self.table(&mut text, condition);
        }
        for condition in Condition::ALL {
            self.ratios(&mut text, condition);
        }
        target_table(&mut text, targets);
        for (condition, lines) in &self.features {
            let _ = writeln!(text, "\nPath in \"{condition}\", `ethtool -k`:\n```");
            for line in lines {
                let _ = writeln!(text, "{line}");
            }
            text.push_str("```\n");
        }
        text
    }

    pub fn json(&self, targets: &[Target]) -> Value {
        let mut rows = Vec::new();
        for condition in Condition::ALL {
            for kind in Kind::ALL.into_iter().filter(|kind| self.figures.has(condition, *kind)) {
                let mut row = json!({ "condition": condition.to_string(), "tunnel": kind.key() });
                for quantity in Quantity::ALL {
                    let Some(median) = self.figures.median(condition, kind, quantity) else { continue };
                    let ratio = |other: Kind| {
                        let ratio = self.figures.ratio(condition, kind, other, quantity).filter(|_| other != kind)?;
                        Some(json!({ "value": ratio.value, "low": ratio.low, "high": ratio.high }))
                    };
                    row[quantity.key()] = json!({
                        "median": median, "samples": self.figures.samples(condition, kind, quantity),
                        "toBare": ratio(Kind::Bare), "toVxlan": ratio(Kind::Vxlan), "toWireguardGo": ratio(Kind::WireguardGo),
                    });
                }
                if let Some((median, greatest)) = self.figures.other(condition, kind) {
                    row["otherLoad"] = json!({ "median": median, "greatest": greatest });
                }
                rows.push(row);
            }
        }
        let left_out: Vec<Value> =
            self.left_out.iter().map(|(kind, why)| json!({ "tunnel": kind.key(), "why": why })).collect();
        let failures: Vec<Value> = self
            .figures
            .failures()
            .map(|(condition, kind, whys)| json!({ "condition": condition.to_string(), "tunnel": kind.key(), "errors": whys }))
            .collect();
        let features: Vec<Value> = self
            .features
            .iter()
            .map(|(condition, lines)| json!({ "condition": condition.to_string(), "ethtool": lines }))
            .collect();
        json!({ "facts": self.facts, "rows": rows, "leftOut": left_out, "failures": failures, "features": features,
                "targets": targets.iter().map(target_json).collect::<Vec<_>>() })
    }

    fn table(&self, text: &mut String, condition: Condition) {
        let columns: Vec<Quantity> = Quantity::ALL.into_iter().filter(|column| self.figures.knows(*column)).collect();
        let titles: Vec<&str> = columns.iter().map(|column| column.title()).collect();
        let _ = writeln!(text, "\n| \"{condition}\" | {} | other load |", titles.join(" | "));
        let _ = writeln!(text, "|---|{}---:|", "---:|".repeat(columns.len()));
        for kind in Kind::ALL.into_iter().filter(|kind| self.figures.has(condition, *kind)) {
            let cells: Vec<String> = columns
                .iter()
                .map(|column| {
                    let median = self.figures.median(condition, kind, *column);
                    median.map_or("–".to_owned(), |median| column.show(median))
                })
                .collect();
            let other = self.figures.other(condition, kind);
            let other = other.map_or("–".to_owned(), |(median, greatest)| format!("{median:.2} ({greatest:.2})"));
            let _ = writeln!(text, "| {} | {} | {other} |", kind.label(), cells.join(" | "));
        }
    }

    /// Our rows, against everything else that was measured.
    fn ratios(&self, text: &mut String, condition: Condition) {
        const COMPARED: [Quantity; 6] =
            [Quantity::Tcp1, Quantity::Tcp1Back, Quantity::Tcp4, Quantity::Cpu1, Quantity::Packets64, Quantity::Quiet];
        let columns: Vec<Quantity> = COMPARED.into_iter().filter(|column| self.figures.knows(*column)).collect();
        let titles: Vec<String> = columns.iter().map(|column| named(*column)).collect();
        let _ = writeln!(text, "\n| \"{condition}\": ratio | {} |", titles.join(" | "));
        let _ = writeln!(text, "|---|{}", "---:|".repeat(columns.len()));
        let here = |kind: &Kind| self.figures.has(condition, *kind);
        for ours in Kind::ALL.into_iter().filter(|kind| kind.is_ours() && here(kind)) {
            for theirs in Kind::ALL.into_iter().filter(|kind| !kind.is_ours() && here(kind)) {
                let cells: Vec<String> = columns
                    .iter()
                    .map(|column| self.figures.ratio(condition, ours, theirs, *column).map_or("–".to_owned(), show))
                    .collect();
                let _ = writeln!(text, "| {} to {} | {} |", ours.label(), theirs.label(), cells.join(" | "));
            }
        }
    }
}

/// A column's title where it stands alone.
fn named(column: Quantity) -> String {
    if column == Quantity::Tcp1Back { "TCP 1 back".to_owned() } else { column.title().replace(", Gbit/s", "") }
}

fn show(ratio: Ratio) -> String {
    format!("{:.2} ({:.2}–{:.2})", ratio.value, ratio.low, ratio.high)
}

/// A table of targets.
pub fn target_table(text: &mut String, targets: &[Target]) {
    text.push_str("\n| target | must | measured | |\n|---|---:|---:|---|\n");
    for target in targets {
        let value = target.value.map_or("–".to_owned(), |value| format!("{value:.2}"));
        let interval = target.interval.map_or(String::new(), |(low, high)| format!(" ({low:.2}–{high:.2})"));
        let _ =
            writeln!(text, "| {} | {} | {value}{interval} | {} |", target.name, target.limit, target.verdict().text());
    }
}

/// A target as JSON.
pub fn target_json(target: &Target) -> Value {
    json!({ "name": target.name, "must": target.limit.to_string(), "value": target.value, "interval": target.interval,
            "verdict": target.verdict().text().trim_matches('*') })
}
