//! Makes the table of redundancy and window.

use super::{
    channel::Path,
    open::{Outcome, stream},
};
use crate::fec::table::{BURSTS, LOSSES, TARGETS, WINDOWS};
use std::{fmt::Write, thread};

/// The most redundancy that is written down; and the most that is spent where even so the target is not reached.
const REACHABLE: f64 = 0.25;
const MODERATE: f64 = 0.17;
/// As little as this is always worth it; more is up to so many times what is lost, times the length of its runs.
const SMALL: f64 = 0.05;
const WORTH: f64 = 10.0;
/// How many times as many packets as may stay lost may come back later than after half a window, up to where packets are many.
const LATE: f64 = 40.0;
const LATE_OF_MANY: f64 = 5.0;
const FEW: u16 = 128;
const STEP: f64 = 1.04;

/// The p99 of the added delay of all packets, in packets: 6 to 8 ms of a thousand a second, and the same time where more are sent.
fn longest_delay(loss: f64, widest: u16) -> f64 {
    let packets = if loss <= 0.03 { 6.0 } else { 8.0 };
    packets * (f64::from(widest) / 100.0).max(1.0)
}

fn meets(loss: f64, burst: f64, code: (f64, u16), target: f64, packets: u64) -> Option<Outcome> {
    stream(Path::new(loss, burst), code, packets, target, 7)
}

/// The least redundancy with which at most `target` stays lost.
fn least(loss: f64, burst: f64, window: u16, target: f64, packets: u64, is_enough: impl Fn(&Outcome) -> bool) -> f64 {
    let from = (loss * 1.05).max(0.004);
    let at = |step: i32| from * STEP.powi(step);
    let (mut below, mut above) = (0, ((REACHABLE / from).ln() / STEP.ln()).ceil() as i32);
    while below < above {
        let middle = i32::midpoint(below, above);
        match meets(loss, burst, (at(middle), window), target, packets) {
            Some(outcome) if is_enough(&outcome) => above = middle,
            _ => below = middle + 1,
        }
    }
    at(above)
}

/// The least redundancy with which independent losses come back soon: almost all within half a window.
fn soon(target: f64, loss: f64, widest: u16, packets: u64) -> f64 {
    let late = target * if widest <= FEW { LATE } else { LATE_OF_MANY };
    let is_soon = |outcome: &Outcome| {
        outcome.of_all(0.99) as f64 <= longest_delay(loss, widest) && outcome.late(usize::from(widest) / 2) <= late
    };
    least(loss, 1.0, widest, loss / 20.0, packets / 2, is_soon).min(REACHABLE)
}

/// Redundancy and window of one place in the table.
fn place(target: f64, loss: f64, burst: f64, (widest, soon): (u16, f64), packets: u64) -> (f64, u16) {
    let wanted = least(loss, burst, widest, target, packets, |_| true);
    let worth = (WORTH * loss * burst).max(SMALL);
    if wanted > REACHABLE || wanted > worth {
        let moderate = MODERATE.max(1.25 * loss).min(REACHABLE).min(worth);
        return (moderate.max(soon), widest);
    }
    let redundancy = wanted.max(soon);
    // A shorter one takes less time to make and to solve.
    let narrow = WINDOWS.into_iter().filter(|window| *window < widest);
    let narrow = narrow
        .flat_map(|window| [window, window + window / 2])
        .find(|window| *window < widest && meets(loss, burst, (redundancy, *window), target / 2.0, packets).is_some());
    (redundancy, narrow.unwrap_or(widest))
}

const HEADER: &str = "\
//! Redundancy and window for losses, as the simulation finds them. Made by
//!
//! `cargo test --release -p adit-dataplane --lib make_table -- --ignored`

/// The shares of packets that may stay lost.
pub(super) const TARGETS: [f64; 2] = [1e-3, 1e-5];
/// The shares of packets that are lost.
pub(super) const LOSSES: [f64; 9] = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2];
/// How many times as long runs of losses are as those of independent ones.
pub(super) const BURSTS: [f64; 6] = [1.0, 1.5, 2.0, 3.0, 5.0, 8.0];
/// How many packets a repair may cover.
pub(super) const WINDOWS: [u16; 5] = [32, 64, 128, 256, 512];
/// Redundancy in parts per ten thousand, and window: by the longest window.
type Row = [(u16, u16); WINDOWS.len()];
";

/// Takes some minutes of two processors.
#[test]
#[ignore = "makes src/fec/table.rs"]
fn make_table() {
    let packets = |target: f64| if target < 1e-4 { 2_000_000 } else { 200_000 };
    let cells: Vec<(f64, f64)> = TARGETS.into_iter().flat_map(|target| LOSSES.map(|loss| (target, loss))).collect();
    let make = |first: usize| {
        let (cells, packets) = (&cells, &packets);
        move || {
            let mine = cells.iter().skip(first).step_by(2).map(|(target, loss)| {
                let packets = packets(*target);
                let widest = WINDOWS.map(|widest| (widest, soon(*target, *loss, widest, packets)));
                BURSTS.map(|burst| widest.map(|widest| place(*target, *loss, burst, widest, packets)))
            });
            mine.collect::<Vec<_>>()
        }
    };
    let (even, odd) = thread::scope(|scope| {
        let (even, odd) = (scope.spawn(make(0)), scope.spawn(make(1)));
        (even.join().unwrap(), odd.join().unwrap())
    });
    let mut rows = even.into_iter().zip(odd).flat_map(|(even, odd)| [even, odd]).flatten();
    let mut text = HEADER.to_owned();
    text += "/// By target, loss and burst.\n#[rustfmt::skip]\n";
    text += "pub(super) const TABLE: [[[Row; BURSTS.len()]; LOSSES.len()]; TARGETS.len()] = [\n";
    for target in TARGETS {
        writeln!(text, "    // target {target:e}\n    [").unwrap();
        for loss in LOSSES {
            writeln!(text, "        [ // loss {loss}").unwrap();
            for _ in BURSTS {
                let row = rows
                    .next()
                    .unwrap()
                    .map(|(redundancy, window)| format!("({:4}, {window:3})", (redundancy * 1e4).ceil()));
                writeln!(text, "            [{}],", row.join(", ")).unwrap();
            }
            text += "        ],\n";
        }
        text += "    ],\n";
    }
    text += "];\n";
    std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/src/fec/table.rs"), text).unwrap();
}
