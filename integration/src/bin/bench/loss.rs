//! Tunnels over a bad link: what TCP gets, and what becomes of datagrams.

pub mod apps;
mod cell;
mod condition;
mod fair;
mod plot;
mod probe;
mod report;
mod way;

use std::{fs, path::PathBuf, time::Duration, time::Instant};

use adit_integration::scripts;

use crate::{
    Outcome,
    loss::{cell::Cell, condition::Row, probe::Pace, report::Report, way::Way},
    node::sweep,
    put,
    tunnel::{figures::Verdict, machine},
};

const BEGIN: &str = "<!-- bench loss: begin -->";
const END: &str = "<!-- bench loss: end -->";
const PICTURE: &str = "![TCP goodput and lost datagrams by loss on the link, for each way](loss.svg)";

/// What to run and what to tell.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// How often each thing is measured, with another seed each time
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Seconds of each TCP flow [default: 16; 22 at 150 Mb/s]
    #[arg(long)]
    seconds: Option<u32>,
    /// Seconds of datagrams in each measurement
    #[arg(long, default_value_t = 20)]
    datagram_seconds: u32,
    /// Seconds of datagrams before, not counted: what is learnt of the link at first
    #[arg(long, default_value_t = 3)]
    warm_up_seconds: u32,
    /// Seconds of datagrams before each TCP flow: a tunnel that has had traffic knows its link
    #[arg(long, default_value_t = 0)]
    tcp_warm_up_seconds: u32,
    /// Only these ways (none, none-bbr, adit-plain, adit-plain-off, adit-noise, adit-noise-off, adit-noise-bbr, adit-noise-fixed), separated
    /// by commas
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// The TCP flows of these ways are measured in the first round alone, separated by commas: what is not compared closely
    #[arg(long, value_delimiter = ',')]
    once: Vec<String>,
    /// Only these losses (0, 1, 2, 5, bursts, fat), separated by commas
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    /// Leave this out: tcp, datagrams or fair; may be given several times
    #[arg(long)]
    without: Vec<Part>,
    /// Directory of our plugins and agent
    #[arg(long)]
    plugins: PathBuf,
    /// Print everything as JSON instead of tables
    #[arg(long)]
    json: bool,
    /// Fail when a target is missed
    #[arg(long)]
    check: bool,
    /// Put the tables and the plot into docs/
    #[arg(long)]
    write_docs: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    Tcp,
    Datagrams,
    Fair,
}

/// Runs everything; whether nothing that was to be checked was missed.
pub fn run(options: &Options) -> Outcome<bool> {
    let begun = Instant::now();
    sweep()?;
    let (rows, ways) = (options.rows()?, options.ways()?);
    let once = if options.once.is_empty() { Vec::new() } else { chosen("--once", &options.once, &Way::ALL, Way::key)? };
    let mut report = Report::default();
    for round in 0..options.rounds {
        for row in &rows {
            for way in &ways {
                eprintln!("round {} of {}, loss {}, {}", round + 1, options.rounds, row.key(), way.key());
                if options.has(Part::Tcp) && (round == 0 || !once.contains(way)) {
                    let outcome = options.tcp(*row, *way, round);
                    report.add_tcp(*row, *way, outcome);
                }
                if options.has(Part::Datagrams) && way.carries_datagrams() {
                    let outcome = options.datagrams(*row, *way, round);
                    report.add_datagrams(*row, *way, outcome.transpose());
                }
            }
        }
        if options.has(Part::Fair) {
            for ways in &fair::WAYS {
                eprintln!("round {} of {}, shares of a bottleneck, {}", round + 1, options.rounds, ways[0].key());
                report.add_shares(ways[0], fair::measure(&options.plugins, ways, round));
            }
        }
    }
    report.facts = options.facts(&mut report, begun.elapsed())?;
    let targets = report.targets();
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report.json(&targets))?);
    } else {
        println!("{}", report.markdown(&targets));
    }
    if options.write_docs {
        let docs = scripts::root().join("docs");
        put(&docs.join("loss.md"), (BEGIN, END), &format!("{PICTURE}\n\n{}", report.markdown(&targets)))?;
        fs::write(docs.join("loss.svg"), plot::draw(&report))?;
    }
    Ok(!options.check || targets.iter().all(|target| matches!(target.verdict(), Verdict::Met | Verdict::Near)))
}

impl Options {
    fn has(&self, part: Part) -> bool {
        !self.without.contains(&part)
    }

    fn ways(&self) -> Outcome<Vec<Way>> {
        chosen("--only", &self.only, &Way::ALL, Way::key)
    }

    fn rows(&self) -> Outcome<Vec<Row>> {
        chosen("--rows", &self.rows, &Row::ALL, Row::key)
    }

    fn tcp(&self, row: Row, way: Way, round: u32) -> Outcome<report::Tcp> {
        let cell = Cell::new(&[way], &self.plugins, &row.tcp_link()?, seed(round))?;
        if self.tcp_warm_up_seconds > 0 {
            cell.datagrams(way, pace(self.tcp_warm_up_seconds))?;
        }
        let (flow, carried) = cell.tcp(way, self.seconds.unwrap_or(row.tcp_seconds()))?;
        Ok(report::Tcp { flow, carried, trouble: cell.trouble() })
    }

    fn datagrams(&self, row: Row, way: Way, round: u32) -> Outcome<Option<cell::Datagrams>> {
        let Some(link) = row.datagram_link()? else { return Ok(None) };
        let cell = Cell::new(&[way], &self.plugins, &link, seed(round))?;
        if self.warm_up_seconds > 0 {
            cell.datagrams(way, pace(self.warm_up_seconds))?;
        }
        cell.datagrams(way, pace(self.datagram_seconds)).map(Some)
    }

    fn facts(&self, report: &mut Report, took: Duration) -> Outcome<Vec<String>> {
        let mut facts = vec![
            format!("{} rounds, {}; medians.", self.rounds, machine()?),
            format!(
                "Link: 30 Mb/s each way (150 where it is said), drop-tail queue of 100 ms, the same loss in both directions, seeds 1 to {}.",
                self.rounds
            ),
            format!(
                "TCP: one flow of iperf3 from A to B, RTT 200 ms without the queue, {}, after {} s of datagrams; buffers up to 32 MB; the tunnel stands before anything is lost.",
                self.seconds.map_or("16 s (22 s at 150 Mb/s)".to_owned(), |seconds| format!("{seconds} s")),
                self.tcp_warm_up_seconds
            ),
            format!(
                "Datagrams: 1,000 a second of 1,000 bytes from A to B, 25 ms, {} s after {} s that do not count; delays and losses of all rounds together.",
                self.datagram_seconds, self.warm_up_seconds
            ),
            format!("Took {} s.", took.as_secs()),
        ];
        if !self.once.is_empty() {
            facts.push(format!("In the first round alone: TCP of {}.", self.once.join(", ")));
        }
        facts.extend(report.trouble().map(|trouble| format!("The link had no realtime priority: {trouble}")));
        facts.extend(report.late_max_ms().map(|late| format!("A packet left the link at most {late:.1} ms late.")));
        Ok(facts)
    }
}

fn pace(seconds: u32) -> Pace {
    Pace { per_second: 1000, payload_bytes: 1000, duration: Duration::from_secs(seconds.into()) }
}

/// The same losses for every way in a round, others in every round.
fn seed(round: u32) -> u64 {
    u64::from(round) + 1
}

fn chosen<T: Copy>(option: &str, names: &[String], all: &[T], key: fn(T) -> &'static str) -> Outcome<Vec<T>> {
    if let Some(unknown) = names.iter().find(|name| all.iter().all(|one| key(*one) != name.as_str())) {
        let known: Vec<&str> = all.iter().map(|one| key(*one)).collect();
        return Err(format!("{option} {unknown}: there are {}", known.join(", ")).into());
    }
    Ok(all.iter().copied().filter(|one| names.is_empty() || names.iter().any(|name| name == key(*one))).collect())
}
