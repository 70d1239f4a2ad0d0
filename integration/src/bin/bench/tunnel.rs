//! Tunnels beside each other: the same path, the same traffic, in turn.

pub mod account;
pub mod bed;
pub mod figures;
pub mod kinds;
pub mod packets;
mod plot;
pub mod process;
pub mod report;
pub mod traffic;

use std::{fs, path::PathBuf, time::Instant};

use adit_integration::scripts;

use crate::{
    Outcome,
    node::sweep,
    put,
    tunnel::{
        account::{Accounting, Spent},
        bed::{Bed, Condition, Side},
        figures::{Quantity, Verdict},
        kinds::{Kind, Programs, Tunnel},
        report::Report,
        traffic::Traffic,
    },
};

const BEGIN: &str = "<!-- bench tunnel: begin -->";
const END: &str = "<!-- bench tunnel: end -->";
const PICTURE: &str = "![Bars of each tunnel's throughput, CPU time, packet rate and round trip](performance.svg)";

/// What to run and what to tell.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// How often each thing is measured [default: 5, quick: 2]
    #[arg(long)]
    rounds: Option<usize>,
    /// Seconds of each TCP measurement
    #[arg(long, default_value_t = 1)]
    seconds: u32,
    /// Under a minute: ours against kernel VXLAN and wireguard-go, TCP with one stream, small packets, round trips
    #[arg(long)]
    quick: bool,
    /// Only these, by their names in the JSON (bare, vxlan, adit-udp, …), separated by commas
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Directory of our plugins and agent
    #[arg(long)]
    plugins: PathBuf,
    /// A program to compare with, as NAME@VERSION=PATH; scripts/peers says them
    #[arg(long)]
    peer: Vec<String>,
    /// Print everything as JSON instead of tables
    #[arg(long)]
    json: bool,
    /// Fail when a target is missed
    #[arg(long)]
    check: bool,
    /// Put the tables and the plot into docs/
    #[arg(long, conflicts_with = "quick")]
    write_docs: bool,
}

/// One kind of measurement.
#[derive(Debug, Clone, Copy)]
enum Step {
    Tcp { streams: u32, back: bool },
    Packets { payload: usize },
    Quiet,
    Loaded,
}

const STEPS: [Step; 8] = [
    Step::Tcp { streams: 1, back: false },
    Step::Tcp { streams: 1, back: true },
    Step::Tcp { streams: 4, back: false },
    Step::Tcp { streams: 4, back: true },
    Step::Packets { payload: 64 },
    Step::Packets { payload: 1400 },
    Step::Quiet,
    Step::Loaded,
];
const QUICK_STEPS: [Step; 3] = [Step::Tcp { streams: 1, back: false }, Step::Packets { payload: 64 }, Step::Quiet];
const QUICK_KINDS: [Kind; 5] = [Kind::Bare, Kind::Vxlan, Kind::Adit, Kind::AditVxlan, Kind::WireguardGo];

/// Runs everything; whether nothing that was to be checked was missed.
pub fn run(options: &Options) -> Outcome<bool> {
    let begun = Instant::now();
    sweep()?;
    kinds::sweep();
    let kinds = options.kinds()?;
    let rounds = options.rounds.unwrap_or(if options.quick { 2 } else { 5 });
    let mut report = Report::default();
    let accounting = match Accounting::find() {
        Ok(accounting) => Some(accounting),
        Err(error) => {
            eprintln!("bench: {error}");
            report.facts.push(error.to_string());
            None
        }
    };
    report.facts.extend(options.facts(rounds, accounting.as_ref())?);

    let bed = Bed::new()?;
    let mut tunnels = Vec::new();
    for kind in kinds {
        let set_up = options.programs(kind).and_then(|programs| Tunnel::up(kind, &bed, accounting.as_ref(), &programs));
        match set_up {
            Ok(tunnel) => tunnels.push(tunnel),
            Err(error) => {
                eprintln!("bench: {} is left out: {error}", kind.key());
                report.left_out.push((kind, error.to_string()));
            }
        }
    }
    if tunnels.is_empty() {
        return Err("there is nothing to measure: every tunnel was left out".into());
    }
    measure(options, rounds, &bed, &tunnels, &mut report)?;
    report.facts.push(format!("Took {} s.", begun.elapsed().as_secs()));

    let targets = figures::targets(&report.figures);
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report.json(&targets))?);
    } else {
        println!("{}", report.markdown(&targets));
    }
    if options.write_docs {
        let docs = scripts::root().join("docs");
        put(&docs.join("performance.md"), (BEGIN, END), &format!("{PICTURE}\n\n{}", report.markdown(&targets)))?;
        fs::write(docs.join("performance.svg"), plot::draw(&report.figures))?;
    }
    Ok(!options.check || targets.iter().all(|target| matches!(target.verdict(), Verdict::Met | Verdict::Near)))
}

/// Round by round, condition by condition, step by step; within a step the tunnels in turn.
fn measure(options: &Options, rounds: usize, bed: &Bed, tunnels: &[Tunnel], report: &mut Report) -> Outcome {
    let steps: &[Step] = if options.quick { &QUICK_STEPS } else { &STEPS };
    let mut traffic = Traffic::start(bed, options.seconds, options.quick)?;
    for round in 0..rounds {
        for condition in Condition::ALL {
            bed.set(condition)?;
            if round == 0 {
                report.features.push((condition, bed.features()?));
            }
            eprintln!("round {} of {rounds}, {condition}", round + 1);
            for step in steps {
                for tunnel in in_turn(tunnels, round) {
                    match one(*step, tunnel, &mut traffic) {
                        Ok((values, spent)) => {
                            report.figures.add_other(condition, tunnel.kind, spent.other);
                            for (quantity, value) in values {
                                report.figures.add((condition, tunnel.kind, quantity), round, value);
                            }
                        }
                        Err(error) => report.figures.fail(condition, tunnel.kind, format!("{step:?}: {error}")),
                    }
                }
            }
        }
    }
    Ok(())
}

fn one(step: Step, tunnel: &Tunnel, traffic: &mut Traffic<'_>) -> Outcome<(Vec<(Quantity, f64)>, Spent)> {
    let mut values = Vec::new();
    let spent = match step {
        Step::Tcp { streams, back } => {
            let (tcp, spent) = traffic.tcp(&tunnel.way(), streams, back)?;
            let (rate, cpu) = match (streams, back) {
                (1, false) => (Quantity::Tcp1, Some(Quantity::Cpu1)),
                (1, true) => (Quantity::Tcp1Back, None),
                (_, false) => (Quantity::Tcp4, Some(Quantity::Cpu4)),
                (_, true) => (Quantity::Tcp4Back, None),
            };
            values.push((rate, tcp.gbit_per_second));
            values.extend(cpu.zip(tcp.cpu_seconds_per_gb));
            for (side, quantity) in [(Side::A, Quantity::MemoryA), (Side::B, Quantity::MemoryB)] {
                values.extend(tunnel.resident_kib(side).map(|kib| (quantity, kib as f64)));
            }
            spent
        }
        Step::Packets { payload } => {
            let (rate, spent) = traffic.packets(&tunnel.way(), payload)?;
            values.push((if payload == 64 { Quantity::Packets64 } else { Quantity::Packets1400 }, rate));
            spent
        }
        Step::Quiet => {
            let (trips, spent) = traffic.quiet(&tunnel.way())?;
            values.extend([(Quantity::Quiet, trips.median), (Quantity::QuietP99, trips.p99)]);
            spent
        }
        Step::Loaded => {
            let (trips, spent) = traffic.loaded(&tunnel.way())?;
            values.extend([(Quantity::Loaded, trips.median), (Quantity::LoadedP99, trips.p99)]);
            spent
        }
    };
    Ok((values, spent))
}

/// The tunnels in another order each round, so that each comes as often after each other one.
fn in_turn(tunnels: &[Tunnel], round: usize) -> impl Iterator<Item = &Tunnel> {
    let count = tunnels.len().max(1);
    (0..tunnels.len()).map(move |place| {
        let turned = (place + round / 2) % count;
        &tunnels[if round % 2 == 1 { count - 1 - turned } else { turned }]
    })
}

impl Options {
    fn kinds(&self) -> Outcome<Vec<Kind>> {
        if let Some(unknown) = self.only.iter().find(|name| Kind::ALL.iter().all(|kind| kind.key() != name.as_str())) {
            let known = Kind::ALL.map(Kind::key).join(", ");
            return Err(format!("--only {unknown}: there are {known}").into());
        }
        let all: &[Kind] = if self.quick && self.only.is_empty() { &QUICK_KINDS } else { &Kind::ALL };
        let wanted = |kind: &&Kind| self.only.is_empty() || self.only.iter().any(|name| name == kind.key());
        Ok(all.iter().filter(wanted).copied().collect())
    }

    fn programs(&self, kind: Kind) -> Outcome<Programs<'_>> {
        let peer = match kind.peer() {
            None => None,
            Some(name) => Some(self.peers().find(|peer| peer.name == name).ok_or_else(|| {
                format!("no program {name} was given; scripts/peers brings it in, or says why it cannot")
            })?),
        };
        Ok(Programs { plugins: &self.plugins, peer: peer.map(|peer| peer.path) })
    }

    fn peers(&self) -> impl Iterator<Item = Peer<'_>> {
        self.peer.iter().filter_map(|text| {
            let (name, path) = text.split_once('=')?;
            let (name, version) = name.split_once('@').unwrap_or((name, "of an unknown version"));
            Some(Peer { name, version, path: path.as_ref() })
        })
    }

    fn facts(&self, rounds: usize, accounting: Option<&Accounting>) -> Outcome<Vec<String>> {
        let peers: Vec<String> = self.peers().map(|peer| format!("{} {}", peer.name, peer.version)).collect();
        Ok(vec![
            format!("{rounds} rounds, {}; medians.", machine()?),
            format!(
                "TCP: iperf3, {} s each. CPU time: {}, and ksoftirqd.",
                self.seconds,
                accounting.map_or("not measured", Accounting::name)
            ),
            format!("Peers: {}.", if peers.is_empty() { "none".to_owned() } else { peers.join(", ") }),
        ])
    }
}

/// What this runs on, in words.
pub fn machine() -> Outcome<String> {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let cpus = std::thread::available_parallelism()?;
    let cpu = fs::read_to_string("/proc/cpuinfo")?;
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let model = model.map_or("unknown processor", |(_, name)| name.trim());
    Ok(format!("Linux {}, {cpus} CPUs ({model})", kernel.trim()))
}

/// A program to compare with.
struct Peer<'a> {
    name: &'a str,
    version: &'a str,
    path: &'a std::path::Path,
}
