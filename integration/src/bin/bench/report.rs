//! The tables, and the targets that the figures must meet.

use std::{collections::BTreeMap, fmt::Write as _, fs, time::Duration};

use serde_json::{Value, json};

use crate::{
    Outcome,
    cases::{BRIDGE, MACVLAN, MASQUERADE},
    sample::{Plugins, Sample},
    statistics::{Ratio, Summary, ratio, summary},
};

/// Which row of the tables.
type Row = (String, String);

/// Everything that was measured; ours is the implementation with index 0.
#[derive(Debug)]
pub struct Report {
    names: Vec<String>,
    rounds: usize,
    machine: String,
    /// Bytes of each of our plugins.
    sizes: Vec<(String, Vec<Option<u64>>)>,
    wall_ms: BTreeMap<(Row, usize), Vec<f64>>,
    cpu_ms: BTreeMap<(Row, usize), Vec<f64>>,
    memory_kib: BTreeMap<(Row, usize), Vec<f64>>,
    /// By case: the kernel's part of DEL.
    removal_ms: BTreeMap<String, Vec<f64>>,
    failures: BTreeMap<(Row, usize), usize>,
    errors: Vec<(String, usize, String)>,
    order: Vec<Row>,
}

/// A figure with its limit.
#[derive(Debug)]
pub struct Target {
    name: String,
    limit: f64,
    /// `None`: it could not be measured.
    value: Option<f64>,
}

impl Target {
    pub fn is_met(&self) -> bool {
        self.value.is_some_and(|value| value <= self.limit)
    }
}

impl Report {
    pub fn new(plugins: &[Plugins], rounds: usize) -> Outcome<Self> {
        let size = |plugins: &Plugins, kind: &str| Some(fs::metadata(plugins.directory.join(kind)).ok()?.len());
        let kinds = ["bridge", "macvlan", "static", "tun"];
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
        let cpus = std::thread::available_parallelism()?;
        Ok(Self {
            names: plugins.iter().map(|plugins| plugins.name.clone()).collect(),
            rounds,
            machine: format!("{rounds} rounds, Linux {}, {cpus} CPUs", kernel.trim()),
            sizes: kinds
                .map(|kind| (kind.to_owned(), plugins.iter().map(|plugins| size(plugins, kind)).collect()))
                .into(),
            wall_ms: BTreeMap::new(),
            cpu_ms: BTreeMap::new(),
            memory_kib: BTreeMap::new(),
            removal_ms: BTreeMap::new(),
            failures: BTreeMap::new(),
            errors: Vec::new(),
            order: Vec::new(),
        })
    }

    pub fn add(&mut self, case: &str, verb: &str, index: usize, sample: Sample) {
        let row = self.row(case, verb);
        self.wall_ms.entry((row.clone(), index)).or_default().push(sample.wall.as_secs_f64() * 1e3);
        if !sample.cpu.is_zero() {
            self.cpu_ms.entry((row, index)).or_default().push(sample.cpu.as_secs_f64() * 1e3);
        }
    }

    pub fn add_memory(&mut self, case: &str, verb: &str, index: usize, peak_kib: u64) {
        let row = self.row(case, verb);
        self.memory_kib.entry((row, index)).or_default().push(peak_kib as f64);
    }

    /// One request to the kernel that removed an interface.
    pub fn add_removal(&mut self, case: &str, wall: Duration) {
        self.removal_ms.entry(case.to_owned()).or_default().push(wall.as_secs_f64() * 1e3);
    }

    pub fn add_failures(&mut self, case: &str, verb: &str, index: usize, failures: usize) {
        let row = self.row(case, verb);
        *self.failures.entry((row, index)).or_default() += failures;
    }

    /// An implementation that cannot do a case.
    pub fn fail(&mut self, case: &str, index: usize, why: String) {
        self.errors.push((case.to_owned(), index, why));
    }

    fn row(&mut self, case: &str, verb: &str) -> Row {
        let row = (case.to_owned(), verb.to_owned());
        if !self.order.contains(&row) {
            self.order.push(row.clone());
        }
        row
    }

    /// What the figures must be, against each implementation that was measured.
    pub fn targets(&self) -> Vec<Target> {
        let mut targets = Vec::new();
        let crowd = self.order.iter().find(|(case, _)| case.ends_with("at once")).map_or("", |(case, _)| case.as_str());
        for (index, name) in self.names.iter().enumerate().skip(1) {
            let mut compare = |table: &BTreeMap<_, _>, what: &str, case: &str, verb: &str, limit: f64| {
                let value = self.ratio(table, case, verb, index).map(|ratio| ratio.value);
                targets.push(Target { name: format!("{case}: {verb} {what} to {name}"), limit, value });
            };
            for case in [BRIDGE, MACVLAN] {
                compare(&self.wall_ms, "wall time", case, "ADD", 0.35);
                compare(&self.wall_ms, "wall time", case, "DEL", 0.9);
                compare(&self.cpu_ms, "CPU time", case, "DEL", 0.4);
            }
            compare(&self.wall_ms, "wall time", MASQUERADE, "ADD", 0.2);
            for kind in ["bridge", "macvlan", "static"] {
                compare(&self.wall_ms, "wall time", kind, "VERSION", 0.4);
            }
            compare(&self.wall_ms, "wall time", crowd, "ADD", 0.5);
        }
        let failed: usize = self.failures.iter().filter(|((_, index), _)| *index == 0).map(|(_, count)| count).sum();
        targets.push(Target { name: format!("{crowd}: failures"), limit: 0.0, value: Some(failed as f64) });
        let peak = self.memory_kib.iter().filter(|((_, index), _)| *index == 0).flat_map(|(_, peaks)| peaks.clone());
        let megabytes = peak.reduce(f64::max).map(|kib| kib * 1024.0 / 1e6);
        targets.push(Target { name: "peak memory of any process, MB".to_owned(), limit: 3.0, value: megabytes });
        for (kind, sizes) in &self.sizes {
            let value = sizes[0].map(|bytes| bytes as f64 / 1e6);
            targets.push(Target { name: format!("size of {kind}, MB"), limit: 2.0, value });
        }
        targets
    }

    pub fn markdown(&self, targets: &[Target]) -> String {
        let mut text =
            format!("{}; ratios are medians to medians, with the interval of 95 of 100 resamplings.\n", self.machine);
        self.table(&mut text, "Wall time, ms: median (p95)", &self.wall_ms, 1);
        self.removals(&mut text);
        self.table(&mut text, "CPU time with children, ms: median (p95)", &self.cpu_ms, 1);
        self.table(&mut text, "Peak memory of the largest process, KiB: median (p95)", &self.memory_kib, 0);
        text.push_str("\n| size, bytes | ");
        text.push_str(&self.names.join(" | "));
        text.push_str(&format!(" |\n|---|{}\n", "---:|".repeat(self.names.len())));
        for (kind, sizes) in &self.sizes {
            let cells: Vec<String> =
                sizes.iter().map(|size| size.map_or("–".to_owned(), |bytes| bytes.to_string())).collect();
            text.push_str(&format!("| {kind} | {} |\n", cells.join(" | ")));
        }
        for (case, index, why) in &self.errors {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "\n{case}, {}: {why}", self.names[*index]);
        }
        for (((case, verb), index), failures) in self.failures.iter().filter(|(_, failures)| **failures > 0) {
            let _ = writeln!(text, "\n{case}, {verb} of {}: {failures} failed", self.names[*index]);
        }
        text.push_str("\n| target | limit | measured | |\n|---|---:|---:|---|\n");
        for target in targets {
            let value = target.value.map_or("–".to_owned(), |value| format!("{value:.2}"));
            let verdict = if target.is_met() { "met" } else { "**missed**" };
            text.push_str(&format!("| {} | {} | {value} | {verdict} |\n", target.name, target.limit));
        }
        text
    }

    pub fn json(&self, targets: &[Target]) -> Value {
        let rows: Vec<Value> = self
            .order
            .iter()
            .flat_map(|(case, verb)| self.names.iter().enumerate().map(move |(index, name)| (case, verb, index, name)))
            .filter_map(|(case, verb, index, name)| {
                let key = ((case.clone(), verb.clone()), index);
                let figures = |table: &BTreeMap<(Row, usize), Vec<f64>>| {
                    let samples = table.get(&key)?;
                    let summary = summary(samples);
                    let ratio = self.ratio(table, case, verb, index).filter(|_| index > 0);
                    let ratio = ratio.map(|r| json!({ "value": r.value, "low": r.low, "high": r.high }));
                    Some(json!({ "samples": samples.len(), "min": summary.min, "median": summary.median, "p95": summary.p95, "ratio": ratio }))
                };
                let (wall, cpu, memory) = (figures(&self.wall_ms), figures(&self.cpu_ms), figures(&self.memory_kib));
                wall.as_ref().or(memory.as_ref())?;
                let failures = self.failures.get(&key);
                Some(json!({ "case": case, "verb": verb, "plugins": name, "wallMs": wall, "cpuMs": cpu, "peakKib": memory, "failures": failures }))
            })
            .collect();
        let targets: Vec<Value> = targets
            .iter()
            .map(|t| json!({ "name": t.name, "limit": t.limit, "value": t.value, "met": t.is_met() }))
            .collect();
        let sizes: Vec<Value> =
            self.sizes.iter().map(|(kind, bytes)| json!({ "plugin": kind, "bytes": bytes })).collect();
        let errors: Vec<Value> = self
            .errors
            .iter()
            .map(|(case, index, why)| json!({ "case": case, "plugins": self.names[*index], "error": why }))
            .collect();
        json!({ "machine": self.machine, "rounds": self.rounds, "plugins": self.names, "rows": rows, "sizes": sizes,
                "errors": errors, "targets": targets })
    }

    fn ratio(&self, table: &BTreeMap<(Row, usize), Vec<f64>>, case: &str, verb: &str, index: usize) -> Option<Ratio> {
        let of = |index| table.get(&((case.to_owned(), verb.to_owned()), index)).filter(|samples| !samples.is_empty());
        Some(ratio(of(0)?, of(index)?))
    }

    /// The kernel's part of DEL, and its share of each implementation's.
    fn removals(&self, text: &mut String) {
        let names: Vec<String> = self.names.iter().map(|name| format!("share of {name}'s DEL")).collect();
        text.push_str(&format!(
            "\n| Removal of the interface alone, ms: median (p95) | kernel | {} |\n",
            names.join(" | ")
        ));
        text.push_str(&format!("|---|---:|{}\n", "---:|".repeat(names.len())));
        for (case, samples) in &self.removal_ms {
            let Summary { median, p95, .. } = summary(samples);
            text.push_str(&format!("| {case} | {median:.1} ({p95:.1}) |"));
            for index in 0..self.names.len() {
                let dels = self.wall_ms.get(&((case.clone(), "DEL".to_owned()), index));
                let share = dels.map_or("–".to_owned(), |dels| {
                    let Ratio { value, low, high } = ratio(samples, dels);
                    format!("{value:.2} ({low:.2}–{high:.2})")
                });
                text.push_str(&format!(" {share} |"));
            }
            text.push('\n');
        }
    }

    fn table(&self, text: &mut String, title: &str, table: &BTreeMap<(Row, usize), Vec<f64>>, digits: usize) {
        text.push_str(&format!("\n| {title} | {} |", self.names[0]));
        for name in &self.names[1..] {
            text.push_str(&format!(" {name} | ratio |"));
        }
        text.push_str(&format!("\n|---|---:|{}\n", "---:|---:|".repeat(self.names.len() - 1)));
        for (case, verb) in &self.order {
            let cell = |index: usize| {
                let samples = table.get(&((case.clone(), verb.clone()), index));
                samples.map_or("–".to_owned(), |samples| {
                    let summary = summary(samples);
                    format!("{:.digits$} ({:.digits$})", summary.median, summary.p95)
                })
            };
            if (0..self.names.len()).all(|index| !table.contains_key(&((case.clone(), verb.clone()), index))) {
                continue;
            }
            text.push_str(&format!("| {case}: {verb} | {} |", cell(0)));
            for index in 1..self.names.len() {
                let ratio = self.ratio(table, case, verb, index).map_or("–".to_owned(), |ratio| {
                    format!("{:.2} ({:.2}–{:.2})", ratio.value, ratio.low, ratio.high)
                });
                text.push_str(&format!(" {} | {ratio} |", cell(index)));
            }
            text.push('\n');
        }
    }
}
