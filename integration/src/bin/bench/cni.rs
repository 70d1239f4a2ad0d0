//! The plugins' verbs, ours and theirs in turn.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use adit_integration::scripts;
use adit_net::{Netlink, Netns};
use serde_json::{Value, json};

use crate::{
    Outcome,
    cases::{BRIDGE, CASES, Case, MACVLAN},
    node::{Node, sweep},
    put,
    report::Report,
    sample::{Call, IFNAME, Plugins, Sample},
};

/// Rounds that are run and forgotten: they fill caches.
const WARM_UP: usize = 2;
/// How often memory is looked at.
const MEMORY_ROUNDS: usize = 3;
pub const VERBS: [&str; 3] = ["ADD", "CHECK", "DEL"];
const BEGIN: &str = "<!-- bench cni: begin -->";
const END: &str = "<!-- bench cni: end -->";

/// What to run and what to tell.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// How often each verb is measured
    #[arg(long, default_value_t = 40)]
    rounds: usize,
    /// How many pods come and go at once
    #[arg(long, default_value_t = 100)]
    pods: usize,
    /// How often they do
    #[arg(long, default_value_t = 5)]
    crowds: usize,
    /// Directory of the plugins that are ours
    #[arg(long)]
    plugins: PathBuf,
    /// Directory of plugins to compare with, as DIR or NAME=DIR; more than one is fine
    #[arg(long)]
    against: Vec<String>,
    /// Print everything as JSON instead of tables
    #[arg(long)]
    json: bool,
    /// Fail when a target is missed
    #[arg(long)]
    check: bool,
    /// Put the tables into docs/benchmarks.md
    #[arg(long)]
    write_docs: bool,
}

/// Runs everything; whether nothing that was to be checked was missed.
pub fn run(options: &Options) -> Outcome<bool> {
    sweep()?;
    let plugins = options.implementations()?;
    let mut report = Report::new(&plugins, options.rounds)?;
    eprintln!("versions");
    versions(options.rounds, &plugins, &mut report)?;
    for case in CASES {
        eprintln!("{}", case.name);
        one_by_one(case, options.rounds, &plugins, &mut report)?;
    }
    eprintln!("{} pods at once", options.pods);
    crowds(options, &plugins, &mut report)?;

    let targets = report.targets();
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report.json(&targets))?);
    } else {
        println!("{}", report.markdown(&targets));
    }
    if options.write_docs {
        put(&scripts::root().join("docs/benchmarks.md"), (BEGIN, END), &report.markdown(&targets))?;
    }
    Ok(!options.check || targets.iter().all(|target| target.is_met()))
}

impl Options {
    /// Ours first.
    fn implementations(&self) -> Outcome<Vec<Plugins>> {
        let mut all = vec![Plugins { name: "Adit".to_owned(), directory: self.plugins.canonicalize()? }];
        for text in &self.against {
            let (name, directory) = text.split_once('=').unwrap_or((text, text));
            let directory = PathBuf::from(directory).canonicalize().map_err(|error| format!("{directory}: {error}"))?;
            all.push(Plugins { name: name.to_owned(), directory });
        }
        Ok(all)
    }
}

/// The implementations in another order each round, so that each comes as often after each other one.
fn in_turn(plugins: &[Plugins], round: usize) -> impl Iterator<Item = usize> {
    let count = plugins.len();
    let turn: Vec<usize> = (0..count).map(|index| (index + round / 2) % count).collect();
    let backwards = round % 2 == 1;
    (0..count).map(move |index| if backwards { turn[count - 1 - index] } else { turn[index] })
}

fn versions(rounds: usize, plugins: &[Plugins], report: &mut Report) -> Outcome {
    let node = Node::new(0)?;
    let namespace = node.open()?;
    let _inside = namespace.enter()?;
    for kind in ["bridge", "macvlan", "static"] {
        let config = json!({ "cniVersion": "1.0.0", "type": kind });
        for round in 0..WARM_UP + rounds {
            for index in in_turn(plugins, round) {
                let call = Call { plugins: &plugins[index], node: &node, pod: 0, verb: "VERSION", config: &config };
                let sample = call.run()?;
                if round >= WARM_UP {
                    report.add(kind, "VERSION", index, sample);
                }
                if round < MEMORY_ROUNDS {
                    report.add_memory(kind, "VERSION", index, call.peak_kib()?);
                }
            }
        }
    }
    Ok(())
}

fn one_by_one(case: &Case, rounds: usize, plugins: &[Plugins], report: &mut Report) -> Outcome {
    let all = MEMORY_ROUNDS + WARM_UP + rounds;
    let nodes = plugins.iter().map(|_| Node::new(all)).collect::<Outcome<Vec<Node>>>()?;
    let bare = [BRIDGE, MACVLAN].contains(&case.name).then(|| Node::new(all)).transpose()?;
    let mut able: BTreeMap<usize, bool> = BTreeMap::new();
    for (index, plugins) in plugins.iter().enumerate() {
        able.insert(index, knows(plugins, case)?);
    }
    for round in 0..all {
        for index in in_turn(plugins, round) {
            if !able[&index] {
                continue;
            }
            let config = case.config(round);
            let place = Place { plugins: &plugins[index], node: &nodes[index], pod: round };
            let outcome = if round < MEMORY_ROUNDS {
                each_verb(&place, &config, |call| call.peak_kib()).map(Err)
            } else {
                nodes[index].open()?.run(|| each_verb(&place, &config, |call| call.run()))?.map(Ok)
            };
            match outcome {
                Err(error) => {
                    report.fail(case.name, index, error.to_string());
                    able.insert(index, false);
                }
                Ok(Err(peaks)) => {
                    VERBS.iter().zip(peaks).for_each(|(verb, peak)| report.add_memory(case.name, verb, index, peak));
                }
                Ok(Ok(samples)) if round >= MEMORY_ROUNDS + WARM_UP => {
                    VERBS.iter().zip(samples).for_each(|(verb, sample)| report.add(case.name, verb, index, sample));
                }
                Ok(Ok(_)) => (),
            }
        }
        if let Some(bare) = &bare {
            let place = Place { plugins: &plugins[0], node: bare, pod: round };
            let removal = bare.open()?.run(|| removal(&place, &case.config(round)))??;
            if round >= MEMORY_ROUNDS + WARM_UP {
                report.add_removal(case.name, removal);
            }
        }
    }
    Ok(())
}

/// How long the kernel takes for the one request that removes the pod's interface: what no DEL can be shorter than.
fn removal(place: &Place<'_>, config: &Value) -> Outcome<Duration> {
    place.call("ADD", config).run()?;
    let netlink = Netlink::open_in(&Netns::open(place.node.netns(place.pod))?)?;
    let link = netlink.link(IFNAME)?.ok_or("ADD made no interface")?;
    let begin = Instant::now();
    netlink.delete_link(link.index)?;
    let spent = begin.elapsed();
    place.call("DEL", config).run()?;
    Ok(spent)
}

/// Where a pod is attached.
struct Place<'a> {
    plugins: &'a Plugins,
    node: &'a Node,
    pod: usize,
}

impl<'a> Place<'a> {
    fn call(&self, verb: &'a str, config: &'a Value) -> Call<'a> {
        Call { plugins: self.plugins, node: self.node, pod: self.pod, verb, config }
    }
}

fn each_verb<T>(place: &Place<'_>, config: &Value, measure: impl Fn(&Call<'_>) -> Outcome<T>) -> Outcome<[T; 3]> {
    let add = place.call("ADD", config);
    let added = measure(&add)?;
    let mut config_of_check = config.clone();
    config_of_check["prevResult"] = add.printed()?;
    let checked = measure(&place.call("CHECK", &config_of_check))?;
    Ok([added, checked, measure(&place.call("DEL", config))?])
}

/// Whether the implementation names the key that makes the case what it is.
fn knows(plugins: &Plugins, case: &Case) -> Outcome<bool> {
    let Some(key) = case.needs else { return Ok(true) };
    let kind = case.config(0)["type"].as_str().unwrap_or_default().to_owned();
    let program = fs::read(plugins.directory.join(kind))?;
    Ok(program.windows(key.len()).any(|window| window == key.as_bytes()))
}

/// Many pods at once, on one bridge that the first of them makes.
fn crowds(options: &Options, plugins: &[Plugins], report: &mut Report) -> Outcome {
    let case = &CASES[0];
    for crowd in 0..options.crowds {
        for index in in_turn(plugins, crowd) {
            let node = Node::new(options.pods)?;
            let configs: Vec<Value> = (0..options.pods).map(|pod| case.config(pod)).collect();
            for verb in ["ADD", "DEL"] {
                let (wall, failures) = node.open()?.run(|| crowd_of(verb, &plugins[index], &node, &configs))??;
                let name = format!("{} at once", options.pods);
                report.add(&name, verb, index, Sample { wall, cpu: Duration::ZERO });
                report.add_failures(&name, verb, index, failures);
            }
        }
    }
    Ok(())
}

fn crowd_of(verb: &str, plugins: &Plugins, node: &Node, configs: &[Value]) -> Outcome<(Duration, usize)> {
    let calls: Vec<Call<'_>> =
        configs.iter().enumerate().map(|(pod, config)| Call { plugins, node, pod, verb, config }).collect();
    let begin = Instant::now();
    let children = calls.iter().map(Call::start).collect::<Outcome<Vec<_>>>()?;
    let mut failures = 0;
    for (call, mut child) in calls.iter().zip(children) {
        failures += usize::from(!call.ended(child.wait()?));
    }
    Ok((begin.elapsed(), failures))
}
