//! What losses mean to applications: a database's standby far away, and a film.

mod database;
mod video;

use std::{fmt::Write as _, fs, path::PathBuf, time::Duration};

use adit_integration::scripts;
use serde_json::{Value, json};

use crate::{
    Outcome,
    loss::{cell::Cell, condition::link, way::Way},
    node::sweep,
    put,
    statistics::summary,
    tunnel::machine,
};

const BEGIN: &str = "<!-- bench loss-apps: begin -->";
const END: &str = "<!-- bench loss-apps: end -->";
const WAYS: [Way; 4] = [Way::Cubic, Way::NoiseOff, Way::Noise, Way::Plain];

/// What to run and what to tell.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// How often each thing is measured, with another seed each time
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Seconds of transactions, and of the film
    #[arg(long, default_value_t = 40)]
    seconds: u32,
    /// Loss in both directions, as `adit lab impair` has it
    #[arg(long, default_value = "5%")]
    loss: String,
    /// Directory of our plugins and agent
    #[arg(long)]
    plugins: PathBuf,
    /// Directory of PostgreSQL's programs (initdb, postgres, pgbench, psql)
    #[arg(long)]
    postgres: PathBuf,
    /// Print everything as JSON instead of tables
    #[arg(long)]
    json: bool,
    /// Put the tables into docs/loss.md
    #[arg(long)]
    write_docs: bool,
}

/// What one way gave, a value a round.
#[derive(Debug, Default)]
struct Measured {
    lags: Vec<database::Lag>,
    views: Vec<video::View>,
    failures: Vec<String>,
}

/// Runs everything.
pub fn run(options: &Options) -> Outcome<bool> {
    sweep()?;
    let mut all: Vec<(Way, Measured)> = WAYS.into_iter().map(|way| (way, Measured::default())).collect();
    for round in 0..options.rounds {
        for (way, measured) in &mut all {
            eprintln!("round {} of {}, {}", round + 1, options.rounds, way.key());
            let bad = link("30mbit", Duration::from_millis(75), &options.loss)?;
            let cell = || Cell::new(&[*way], &options.plugins, &bad, u64::from(round) + 1);
            match cell().and_then(|cell| video::watch(&cell, *way, options.seconds)) {
                Ok(view) => measured.views.push(view),
                Err(error) => measured.fail(format!("film, {}: {error}", way.key())),
            }
            match cell().and_then(|cell| database::replicate(&cell, *way, &options.postgres, options.seconds)) {
                Ok(lag) => measured.lags.push(lag),
                Err(error) => measured.fail(format!("database, {}: {error}", way.key())),
            }
        }
    }
    let facts = [
        format!("{} rounds, {}; medians.", options.rounds, machine()?),
        format!(
            "Link: 30 Mb/s each way, drop-tail queue of 100 ms, RTT 150 ms, {} lost in both directions; cubic.",
            options.loss
        ),
        database::fact(options.seconds),
        video::fact(options.seconds),
    ];
    let (text, document) = (markdown(&facts, &all), json(&facts, &all));
    if options.json {
        println!("{}", serde_json::to_string_pretty(&document)?);
    } else {
        println!("{text}");
    }
    if options.write_docs {
        let page = scripts::root().join("docs/loss.md");
        fs::metadata(&page)?;
        put(&page, (BEGIN, END), &text)?;
    }
    Ok(all.iter().all(|(_, measured)| measured.failures.is_empty()))
}

impl Measured {
    fn fail(&mut self, why: String) {
        eprintln!("bench: {why}");
        self.failures.push(why);
    }

    fn lag(&self, of: fn(&database::Lag) -> f64) -> f64 {
        summary(&self.lags.iter().map(of).collect::<Vec<_>>()).median
    }

    fn view(&self, of: fn(&video::View) -> f64) -> f64 {
        summary(&self.views.iter().map(of).collect::<Vec<_>>()).median
    }
}

fn markdown(facts: &[String], all: &[(Way, Measured)]) -> String {
    let mut text = facts.join("\n") + "\n";
    for failure in all.iter().flat_map(|(_, measured)| &measured.failures) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "\n**Not measured**: {failure}");
    }
    text.push_str(
        "\n| PostgreSQL's standby | lag, median, s | lag, most, s | behind at the end, kB | caught up after, s |\n|---|---:|---:|---:|---:|\n",
    );
    for (way, measured) in all.iter().filter(|(_, measured)| !measured.lags.is_empty()) {
        let _ = writeln!(
            text,
            "| {} | {:.2} | {:.2} | {:.0} | {} |",
            way.label(),
            measured.lag(|lag| lag.median_seconds),
            measured.lag(|lag| lag.most_seconds),
            measured.lag(|lag| lag.behind_bytes / 1e3),
            until(measured.lag(|lag| lag.caught_up_seconds)),
        );
    }
    text.push_str(
        "\n| film | first picture after, s | stalls | stalled, s | seen of it, % |\n|---|---:|---:|---:|---:|\n",
    );
    for (way, measured) in all.iter().filter(|(_, measured)| !measured.views.is_empty()) {
        let _ = writeln!(
            text,
            "| {} | {:.2} | {:.0} | {:.1} | {:.0} |",
            way.label(),
            measured.view(|view| view.start_seconds),
            measured.view(|view| view.stalls),
            measured.view(|view| view.stalled_seconds),
            measured.view(|view| view.seen * 100.0),
        );
    }
    text
}

fn until(seconds: f64) -> String {
    if seconds.is_finite() { format!("{seconds:.1}") } else { "not in time".to_owned() }
}

fn json(facts: &[String], all: &[(Way, Measured)]) -> Value {
    let ways: Vec<Value> = all
        .iter()
        .map(|(way, measured)| {
            json!({
                "way": way.key(), "failures": measured.failures,
                "database": measured.lags.iter().map(|lag| json!({
                    "lagMedianSeconds": lag.median_seconds, "lagMostSeconds": lag.most_seconds,
                    "behindBytes": lag.behind_bytes, "caughtUpSeconds": lag.caught_up_seconds,
                })).collect::<Vec<_>>(),
                "film": measured.views.iter().map(|view| json!({
                    "startSeconds": view.start_seconds, "stalls": view.stalls, "stalledSeconds": view.stalled_seconds,
                    "seen": view.seen,
                })).collect::<Vec<_>>(),
            })
        })
        .collect();
    json!({ "facts": facts, "ways": ways })
}
