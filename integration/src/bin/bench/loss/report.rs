//! The tables, the targets and the JSON.

use std::{collections::BTreeMap, fmt::Write as _};

use serde_json::{Value, json};

use crate::{
    Outcome,
    loss::{
        cell::{Carried, Datagrams, Flow},
        condition::Row,
        fair::{self, Shares},
        probe::Arrivals,
        way::Way,
    },
    statistics::summary,
    tunnel::{
        figures::{Limit, Target},
        report::{target_json, target_table},
    },
};

/// Two parts of three, with the larger overhead of the two, that of a sealed tunnel's headers.
const FAIR: f64 = 200.0 / 3.0 * 1.058;

/// One TCP flow.
#[derive(Debug, Clone)]
pub struct Tcp {
    pub flow: Flow,
    pub carried: Carried,
    pub trouble: Option<String>,
}

/// Everything there is to tell about a run.
#[derive(Debug, Default)]
pub struct Report {
    /// Machine, rounds and how things were measured; a line each.
    pub facts: Vec<String>,
    tcp: BTreeMap<(Row, Way), Vec<Tcp>>,
    datagrams: BTreeMap<(Row, Way), Vec<Datagrams>>,
    /// By the first of those who share.
    shares: BTreeMap<Way, Vec<Shares>>,
    failures: Vec<String>,
}

impl Report {
    pub fn add_tcp(&mut self, row: Row, way: Way, outcome: Outcome<Tcp>) {
        match outcome {
            Ok(tcp) => self.tcp.entry((row, way)).or_default().push(tcp),
            Err(error) => self.fail(format!("TCP, loss {}, {}: {error}", row.key(), way.key())),
        }
    }

    /// `None` where datagrams are not measured.
    pub fn add_datagrams(&mut self, row: Row, way: Way, outcome: Option<Outcome<Datagrams>>) {
        match outcome {
            Some(Ok(datagrams)) => self.datagrams.entry((row, way)).or_default().push(datagrams),
            Some(Err(error)) => self.fail(format!("datagrams, loss {}, {}: {error}", row.key(), way.key())),
            None => (),
        }
    }

    pub fn add_shares(&mut self, first: Way, outcome: Outcome<Shares>) {
        match outcome {
            Ok(shares) => self.shares.entry(first).or_default().push(shares),
            Err(error) => self.fail(format!("shares of a bottleneck, {}: {error}", first.key())),
        }
    }

    fn fail(&mut self, why: String) {
        eprintln!("bench: {why}");
        self.failures.push(why);
    }

    /// Why the link was not punctual.
    pub fn trouble(&self) -> Option<&str> {
        self.tcp.values().flatten().find_map(|tcp| tcp.trouble.as_deref())
    }

    /// How much later than due a packet left the link.
    pub fn late_max_ms(&self) -> Option<f64> {
        let tcp = self.tcp.values().flatten().map(|tcp| tcp.carried.late_max_us);
        let all = tcp.chain(self.datagrams.values().flatten().map(|one| one.carried.late_max_us));
        all.max().map(|late_us| late_us as f64 / 1e3)
    }

    /// Median of the rounds in Mb/s.
    pub fn goodput(&self, row: Row, way: Way) -> Option<f64> {
        let rates: Vec<f64> = self.tcp.get(&(row, way))?.iter().map(|tcp| tcp.flow.mbit_per_second).collect();
        Some(summary(&rates).median)
    }

    /// Of the second half of each flow, as it was sent: what a tunnel had to learn is learnt.
    fn later(&self, row: Row, way: Way) -> Option<f64> {
        let half = |sent: &[f64]| sent[sent.len() / 2..].iter().sum::<f64>() / sent.len().div_ceil(2).max(1) as f64;
        let rates: Vec<f64> = self.tcp.get(&(row, way))?.iter().map(|tcp| half(&tcp.flow.sent)).collect();
        Some(summary(&rates).median)
    }

    /// Datagrams of all rounds that never arrived, in parts per million.
    pub fn residual_ppm(&self, row: Row, way: Way) -> Option<f64> {
        self.together(row, way).map(|all| all.lost_ppm())
    }

    /// By how much a delay is longer than without a tunnel over the same link, in ms.
    fn added_ms(&self, row: Row, way: Way, share: f64) -> Option<f64> {
        Some(self.together(row, way)?.delay_ms(share) - self.together(row, Way::Cubic)?.delay_ms(share))
    }

    /// What the link carried for each datagram, as a share more than without a tunnel over a clean one; both directions.
    fn added_bytes(&self, row: Row, way: Way) -> Option<f64> {
        let each = |row, way| -> Option<f64> {
            let all = self.datagrams.get(&(row, way))?;
            let sent: u64 = all.iter().map(|one| one.arrivals.sent).sum();
            Some(all.iter().map(|one| one.carried.bytes).sum::<u64>() as f64 / sent.max(1) as f64)
        };
        Some(each(row, way)? / each(row, Way::Cubic)? - 1.0)
    }

    fn together(&self, row: Row, way: Way) -> Option<Arrivals> {
        let mut all = Arrivals::default();
        for one in self.datagrams.get(&(row, way))? {
            all.sent += one.arrivals.sent;
            all.received += one.arrivals.received;
            all.duplicates += one.arrivals.duplicates;
            all.delays_ms.extend(&one.arrivals.delays_ms);
        }
        all.delays_ms.sort_by(f64::total_cmp);
        Some(all)
    }

    /// What recovery has to reach, sealed and plain.
    pub fn targets(&self) -> Vec<Target> {
        use Limit::{AtLeast, AtMost};
        let mut targets = Vec::new();
        let mut add = |name: String, limit, value| targets.push(Target { name, limit, value, interval: None });
        for (way, seal) in [(Way::Plain, "plain"), (Way::Noise, "noise")] {
            for (row, goodput) in [
                (Row::Clean, 24.5),
                (Row::One, 23.5),
                (Row::Two, 23.0),
                (Row::Five, 22.0),
                (Row::Bursts, 21.0),
                (Row::Fat, 120.0),
            ] {
                add(format!("{seal}: TCP, loss {}, Mb/s", row.label()), AtLeast(goodput), self.goodput(row, way));
            }
            for (row, residual_ppm, p99_ms, bytes) in [
                (Row::Clean, 0.0, 0.2, 5.0),
                (Row::One, 10.0, 6.0, 12.0),
                (Row::Two, 10.0, 6.0, 15.0),
                (Row::Five, 100.0, 8.0, 25.0),
                (Row::Bursts, 1000.0, 50.0, 25.0),
            ] {
                let name = |what: &str, unit: &str| format!("{seal}: {what}, loss {}, {unit}", row.label());
                add(name("datagrams lost", "ppm"), AtMost(residual_ppm), self.residual_ppm(row, way));
                add(name("added p99", "ms"), AtMost(p99_ms), self.added_ms(row, way, 0.99));
                let added = self.added_bytes(row, way).map(|share| share * 100.0);
                add(name("added bytes", "%"), AtMost(bytes), added);
            }
        }
        let both = self.shares.get(&Way::Plain).map(|rounds| summary(&tunnels(rounds)).median);
        add("what both tunnels have of a bottleneck, %".into(), AtMost(FAIR), both);
        targets
    }

    pub fn markdown(&self, targets: &[Target]) -> String {
        let mut text = String::new();
        for fact in &self.facts {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{fact}");
        }
        for failure in &self.failures {
            let _ = writeln!(text, "\n**Not measured**: {failure}");
        }
        self.tcp_table(&mut text);
        self.datagram_table(&mut text);
        self.share_table(&mut text);
        target_table(&mut text, targets);
        text
    }

    fn tcp_table(&self, text: &mut String) {
        let rows: Vec<Row> =
            Row::ALL.into_iter().filter(|row| self.tcp.keys().any(|(known, _)| known == row)).collect();
        if rows.is_empty() {
            return;
        }
        let titles: Vec<&str> = rows.iter().map(|row| row.label()).collect();
        let _ = writeln!(
            text,
            "\n| TCP goodput in Mb/s (least–most), second half alone; by loss | {} |",
            titles.join(" | ")
        );
        let _ = writeln!(text, "|---|{}", "---:|".repeat(rows.len()));
        for way in Way::ALL.into_iter().filter(|way| self.tcp.keys().any(|(_, known)| known == way)) {
            let cell = |row: &Row| {
                let rates: Vec<f64> = self.tcp.get(&(*row, way))?.iter().map(|tcp| tcp.flow.mbit_per_second).collect();
                let later = self.later(*row, way).map(show).unwrap_or_default();
                Some(format!("{}, {later}", range(&rates)))
            };
            let cells: Vec<String> = rows.iter().map(|row| cell(row).unwrap_or_else(|| "–".to_owned())).collect();
            let _ = writeln!(text, "| {} | {} |", way.label(), cells.join(" | "));
        }
    }

    fn datagram_table(&self, text: &mut String) {
        if self.datagrams.is_empty() {
            return;
        }
        text.push_str(
            "\n| loss | way | datagrams | lost | twice | p50, ms | p99, ms | p99.9, ms | added p50, ms | added p99, ms | added bytes |\n\
             |---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n",
        );
        for (row, way) in self.datagrams.keys().copied() {
            let Some(all) = self.together(row, way) else { continue };
            let optional = |value: Option<f64>| value.map_or("–".to_owned(), |value| format!("{value:.2}"));
            let bytes = self.added_bytes(row, way).map_or("–".to_owned(), |share| format!("{:.1} %", share * 100.0));
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} ({:.4} %) | {} | {:.2} | {:.2} | {:.2} | {} | {} | {bytes} |",
                row.label(),
                way.label(),
                all.sent,
                all.sent - all.received,
                all.lost_ppm() / 1e4,
                all.duplicates,
                all.delay_ms(0.5),
                all.delay_ms(0.99),
                all.delay_ms(0.999),
                optional(self.added_ms(row, way, 0.5)),
                optional(self.added_ms(row, way, 0.99)),
            );
        }
    }

    fn share_table(&self, text: &mut String) {
        if self.shares.is_empty() {
            return;
        }
        text.push_str("\n| at one bottleneck, nothing lost at random | Mb/s (least–most) | both tunnels have, % |\n|---|---:|---:|\n");
        for ways in fair::WAYS {
            let Some(rounds) = self.shares.get(&ways[0]) else { continue };
            for (place, way) in ways.into_iter().enumerate() {
                let rates: Vec<f64> = rounds.iter().map(|shares| shares[place]).collect();
                let both = if place == 0 { range(&tunnels(rounds)) } else { String::new() };
                let _ = writeln!(text, "| {} | {} | {both} |", way.label(), range(&rates));
            }
        }
    }

    pub fn json(&self, targets: &[Target]) -> Value {
        let tcp: Vec<Value> = self
            .tcp
            .iter()
            .map(|((row, way), samples)| {
                json!({
                    "loss": row.key(), "way": way.key(), "mbitPerSecond": self.goodput(*row, *way),
                    "samples": samples.iter().map(|tcp| tcp.flow.mbit_per_second).collect::<Vec<_>>(),
                    "sentEachSecond": samples.iter().map(|tcp| tcp.flow.sent.clone()).collect::<Vec<_>>(),
                    "laterMbitPerSecond": self.later(*row, *way),
                    "linkBytes": samples.iter().map(|tcp| tcp.carried.bytes).collect::<Vec<_>>(),
                    "lost": samples.iter().map(|tcp| tcp.carried.lost).collect::<Vec<_>>(),
                    "queueDrops": samples.iter().map(|tcp| tcp.carried.queue_drops).collect::<Vec<_>>(),
                })
            })
            .collect();
        let datagrams: Vec<Value> = self
            .datagrams
            .iter()
            .filter_map(|((row, way), samples)| {
                let all = self.together(*row, *way)?;
                Some(json!({
                    "loss": row.key(), "way": way.key(), "sent": all.sent, "lost": all.sent - all.received,
                    "lostPpm": all.lost_ppm(), "duplicates": all.duplicates,
                    "p50Ms": all.delay_ms(0.5), "p99Ms": all.delay_ms(0.99), "p999Ms": all.delay_ms(0.999),
                    "addedP50Ms": self.added_ms(*row, *way, 0.5), "addedP99Ms": self.added_ms(*row, *way, 0.99),
                    "addedBytes": self.added_bytes(*row, *way),
                    "samples": samples.iter().map(|one| json!({
                        "lost": one.arrivals.sent - one.arrivals.received, "linkBytes": one.carried.bytes,
                        "linkLost": one.carried.lost,
                    })).collect::<Vec<_>>(),
                }))
            })
            .collect();
        let shares: Vec<Value> = fair::WAYS
            .iter()
            .filter_map(|ways| {
                let rounds = self.shares.get(&ways[0])?;
                Some(json!({
                    "ways": ways.map(Way::key), "mbitPerSecond": rounds, "tunnelsPercent": tunnels(rounds),
                }))
            })
            .collect();
        json!({ "facts": self.facts, "failures": self.failures, "tcp": tcp, "datagrams": datagrams, "shares": shares,
                "targets": targets.iter().map(target_json).collect::<Vec<_>>() })
    }
}

fn tunnels(rounds: &[Shares]) -> Vec<f64> {
    rounds.iter().map(fair::tunnels).collect()
}

/// The median, and between what all lie.
fn range(values: &[f64]) -> String {
    let most = values.iter().copied().fold(f64::MIN, f64::max);
    let told = summary(values);
    format!("{} ({}–{})", show(told.median), show(told.min), show(most))
}

/// Three digits that count.
pub fn show(mbit_per_second: f64) -> String {
    if mbit_per_second < 10.0 { format!("{mbit_per_second:.2}") } else { format!("{mbit_per_second:.1}") }
}
