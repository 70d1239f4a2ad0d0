//! Many tunnels on one node: what each takes to make and to keep, and what a restart of the agent takes.

mod add;
mod fleet;
mod idle;
mod memory;

use std::{
    fmt::Write as _,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use adit_integration::scripts;
use serde_json::{Value, json};

use crate::{
    Outcome,
    node::sweep,
    put,
    sample::Plugins,
    scale::{
        fleet::Fleet,
        idle::Idle,
        memory::{Grown, Memory},
    },
    statistics::{Summary, summary},
    tunnel::{
        bed::Bed,
        figures::{Limit, Target, Verdict},
        machine,
        report::{target_json, target_table},
        traffic::{Traffic, Way},
    },
};

const BEGIN: &str = "<!-- bench scale: begin -->";
const END: &str = "<!-- bench scale: end -->";
/// How often one busy tunnel is measured.
const BUSY_RUNS: usize = 3;
/// With fewer tunnels, what they take is lost in what the rest of the machine does.
const ENOUGH: usize = 50;
/// The count that the targets are for.
const MANY: usize = 1000;

/// An agent looks around a little after each change.
const SETTLING: Duration = Duration::from_secs(6);

/// What to run and what to tell.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// At how many tunnels to measure, in growing order
    #[arg(long, value_delimiter = ',', default_value = "1,100,1000,5000")]
    tunnels: Vec<usize>,
    /// Seconds that making tunnels may take in all; what does not fit is left out
    #[arg(long, default_value_t = 300)]
    limit_seconds: u64,
    /// Seconds for which idle agents are watched
    #[arg(long, default_value_t = 65)]
    idle_seconds: u64,
    /// How often ADD is measured with and without `tun`; 0 leaves it out
    #[arg(long, default_value_t = 30)]
    rounds: usize,
    /// Directory of our plugins and agent
    #[arg(long)]
    plugins: PathBuf,
    /// Print everything as JSON instead of tables
    #[arg(long)]
    json: bool,
    /// Fail when a target is missed
    #[arg(long)]
    check: bool,
    /// Put the tables into docs/performance.md
    #[arg(long)]
    write_docs: bool,
}

/// What was found with so many tunnels.
#[derive(Debug)]
struct Row {
    tunnels: usize,
    /// ADD of those that this count added.
    add_ms: Summary,
    agent_resident_kib: f64,
    /// For each end of a tunnel; `None` where there are too few to tell.
    grown: Option<Grown>,
    up: usize,
    idle: Idle,
    busy_gbit_per_second: Option<f64>,
    reopened: Option<Duration>,
    answered: Option<Duration>,
}

#[derive(Debug, Default)]
struct Report {
    facts: Vec<String>,
    rows: Vec<Row>,
    left_out: Vec<String>,
    chain: Option<add::Chain>,
}

/// Runs everything; whether nothing that was to be checked was missed.
pub fn run(options: &Options) -> Outcome<bool> {
    sweep()?;
    let directory = options.plugins.canonicalize()?;
    let mut report = Report { facts: vec![format!("{}.", machine()?)], ..Report::default() };
    if options.rounds > 0 {
        eprintln!("ADD with and without tun");
        let plugins = Plugins { name: "Adit".to_owned(), directory: directory.clone() };
        report.chain = Some(add::compare(&plugins, options.rounds)?);
    }
    grow(options, &directory, &mut report)?;

    let targets = report.targets();
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report.json(&targets))?);
    } else {
        println!("{}", report.markdown(&targets));
    }
    if options.write_docs {
        put(&scripts::root().join("docs/performance.md"), (BEGIN, END), &report.markdown(&targets))?;
    }
    Ok(!options.check || targets.iter().all(|target| matches!(target.verdict(), Verdict::Met | Verdict::Near)))
}

/// One fleet that grows from count to count.
fn grow(options: &Options, plugins: &std::path::Path, report: &mut Report) -> Outcome {
    let mut counts = options.tunnels.clone();
    counts.sort_unstable();
    let bed = Bed::new()?;
    let mut fleet = Fleet::start(&bed, plugins)?;
    let mut traffic = Traffic::start(&bed, 1, false)?;
    let before = Memory::now(fleet.agents())?;
    let deadline = Instant::now() + Duration::from_secs(options.limit_seconds);
    for count in counts {
        eprintln!("{count} tunnels");
        let added = fleet.grow(count, deadline)?;
        if fleet.tunnels() < count {
            let why =
                format!("{count} tunnels: left out; within {} s there were {}", options.limit_seconds, fleet.tunnels());
            eprintln!("bench: {why}");
            report.left_out.push(why);
            continue;
        }
        report.rows.push(row(options, &mut fleet, &mut traffic, &before, &added, &mut report.left_out)?);
    }
    Ok(())
}

fn row(
    options: &Options,
    fleet: &mut Fleet<'_>,
    traffic: &mut Traffic<'_>,
    before: &Memory,
    added: &[f64],
    left_out: &mut Vec<String>,
) -> Outcome<Row> {
    let tunnels = fleet.tunnels();
    let mut note = |what: &str, error: Box<dyn std::error::Error>| {
        let why = format!("{tunnels} tunnels: {what}: {error}");
        eprintln!("bench: {why}");
        left_out.push(why);
    };
    let up = fleet.up().inspect_err(|error| eprintln!("bench: {error}")).unwrap_or(0);
    if up < tunnels {
        note("up", format!("only {up} have heard from their peer").into());
    }
    // What the last ADD caused is over then.
    thread::sleep(SETTLING);
    let idle = Idle::watch(fleet.agents()[0].pid(), Duration::from_secs(options.idle_seconds))?;
    let now = Memory::now(fleet.agents())?;
    let grown = now.since(before, tunnels);
    let busy = busy(fleet, traffic).map_err(|error| note("one busy tunnel", error)).ok();
    let restarted = fleet.restart().map_err(|error| note("restart", error)).ok();
    Ok(Row {
        tunnels,
        add_ms: summary(added),
        agent_resident_kib: now.resident_kib[0],
        grown: (tunnels >= ENOUGH).then_some(grown),
        up,
        idle,
        busy_gbit_per_second: busy,
        reopened: restarted.map(|restarted| restarted.reopened),
        answered: restarted.map(|restarted| restarted.answered),
    })
}

/// TCP with one stream through the first tunnel.
fn busy(fleet: &Fleet<'_>, traffic: &mut Traffic<'_>) -> Outcome<f64> {
    let way = Way { far: fleet.far(), mtu: 1456, group: None };
    let runs: Vec<f64> =
        (0..BUSY_RUNS).map(|_| Ok(traffic.tcp(&way, 1, false)?.0.gbit_per_second)).collect::<Outcome<_>>()?;
    Ok(summary(&runs).median)
}

impl Report {
    fn targets(&self) -> Vec<Target> {
        let many = self.rows.iter().find(|row| row.tunnels == MANY);
        let grown = many.and_then(|row| row.grown);
        let of = |name: &str, limit: f64, value: Option<f64>| Target {
            name: format!("{MANY} tunnels: {name}"),
            limit: Limit::AtMost(limit),
            value,
            interval: None,
        };
        let mut targets = vec![
            of("agent memory of each, KB", 16.0, grown.map(|grown| kb(grown.user_kib))),
            of("kernel memory of each, KB", 100.0, grown.map(|grown| kb(grown.slab_kib))),
            of("resident memory of the agent, MB", 40.0, many.map(|row| kb(row.agent_resident_kib) / 1e3)),
            of("CPU of the idle agent, % of a core", 0.1, many.map(|row| row.idle.cpu_percent)),
        ];
        if let Some(chain) = &self.chain {
            targets.push(Target {
                name: "ADD of bridge + static + tun, ms more than bridge + static".to_owned(),
                limit: Limit::AtMost(4.0),
                value: Some(chain.added_ms()),
                interval: None,
            });
        }
        targets
    }

    fn markdown(&self, targets: &[Target]) -> String {
        let mut text = String::new();
        for line in self.facts.iter().chain(&self.left_out) {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{line}\n");
        }
        text.push_str("| tunnels | ADD, ms (p95) | agent RSS, MB | agent, KB each | kernel, KB each | unaccounted, KB each | idle CPU, % of a core | wake-ups/s | one busy, Gbit/s | restart: all open, s | answers again, s |\n");
        text.push_str("|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n");
        for row in &self.rows {
            let each = |kib: Option<f64>| kib.map_or("–".to_owned(), |kib| format!("{:.1}", kb(kib)));
            let seconds =
                |time: Option<Duration>| time.map_or("–".to_owned(), |time| format!("{:.2}", time.as_secs_f64()));
            let _ = writeln!(
                text,
                "| {} | {:.1} ({:.1}) | {:.1} | {} | {} | {} | {:.3} | {:.1} | {} | {} | {} |",
                row.tunnels,
                row.add_ms.median,
                row.add_ms.p95,
                kb(row.agent_resident_kib) / 1e3,
                each(row.grown.map(|grown| grown.user_kib)),
                each(row.grown.map(|grown| grown.slab_kib)),
                each(row.grown.map(|grown| grown.unaccounted_kib)),
                row.idle.cpu_percent,
                row.idle.wake_ups_per_second,
                row.busy_gbit_per_second.map_or("–".to_owned(), |rate| format!("{rate:.2}")),
                seconds(row.reopened),
                seconds(row.answered),
            );
        }
        if let Some(chain) = &self.chain {
            text.push_str(&chain.markdown());
        }
        target_table(&mut text, targets);
        text
    }

    fn json(&self, targets: &[Target]) -> Value {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                json!({
                    "tunnels": row.tunnels, "up": row.up,
                    "addMs": { "median": row.add_ms.median, "p95": row.add_ms.p95, "min": row.add_ms.min },
                    "agentResidentKib": row.agent_resident_kib,
                    "eachUserKib": row.grown.map(|grown| grown.user_kib), "eachKernelKib": row.grown.map(|grown| grown.slab_kib),
                    "eachUnaccountedKib": row.grown.map(|grown| grown.unaccounted_kib),
                    "idleCpuPercent": row.idle.cpu_percent, "idleWakeUpsPerSecond": row.idle.wake_ups_per_second,
                    "busyGbitPerSecond": row.busy_gbit_per_second,
                    "restartReopenedSeconds": row.reopened.map(|time| time.as_secs_f64()),
                    "restartAnsweredSeconds": row.answered.map(|time| time.as_secs_f64()),
                })
            })
            .collect();
        json!({ "facts": self.facts, "rows": rows, "leftOut": self.left_out, "chain": self.chain.as_ref().map(add::Chain::json),
                "targets": targets.iter().map(target_json).collect::<Vec<_>>() })
    }
}

fn kb(kib: f64) -> f64 {
    kib * 1.024
}
