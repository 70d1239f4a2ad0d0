//! Fixed redundancy and window: what they bring.

use super::{
    channel::{Path, Random},
    rank::Rank,
};
use crate::fec::control::choice::choose;

/// What became of a stream.
pub(super) struct Outcome {
    pub(super) packets: u64,
    pub(super) lost: u64,
    /// How many came back so many packets later.
    delays: Vec<u64>,
}

impl Outcome {
    pub(super) fn new() -> Self {
        Self { packets: 0, lost: 0, delays: vec![0; 4096] }
    }

    pub(super) fn recovered(&mut self, delay: u64) {
        let place = (delay as usize).min(self.delays.len() - 1);
        self.delays[place] += 1;
    }

    /// The share of packets that stay lost.
    pub(super) fn residual(&self) -> f64 {
        (self.lost - self.delays.iter().sum::<u64>()) as f64 / self.packets as f64
    }

    /// The share of packets that come back more than so many packets later.
    pub(super) fn late(&self, packets: usize) -> f64 {
        self.delays.iter().skip(packets + 1).sum::<u64>() as f64 / self.packets as f64
    }

    /// The delay that this share of the recovered ones did not exceed, in packets.
    pub(super) fn of_recovered(&self, share: f64) -> u64 {
        let wanted = (self.delays.iter().sum::<u64>() as f64 * share).ceil() as u64;
        let mut below = 0;
        let enough = |count: &u64| {
            below += count;
            below >= wanted
        };
        self.delays.iter().position(enough).unwrap_or(0) as u64
    }

    /// The same of all that came, with the others' 0.
    pub(super) fn of_all(&self, share: f64) -> u64 {
        let recovered = self.delays.iter().sum::<u64>() as f64;
        let above = (1.0 - share) * self.packets as f64;
        if recovered <= above { 0 } else { self.of_recovered(1.0 - above / recovered) }
    }
}

/// A stream of so many packets in which a repair over the last `window` follows each 1/`redundancy` packets. `None`: more than this share
/// stays lost.
pub(super) fn stream(
    mut path: Path,
    (redundancy, window): (f64, u16),
    packets: u64,
    residual: f64,
    seed: u64,
) -> Option<Outcome> {
    let most = (residual * packets as f64) as u64;
    let (mut random, mut rank, mut outcome) = (Random(seed), Rank::new(seed ^ 1), Outcome::new());
    let mut credit = 0.0;
    outcome.packets = packets;
    for number in 0..packets {
        if path.loses(&mut random) {
            rank.lost(number);
            outcome.lost += 1;
            if rank.given_up > most {
                return None;
            }
        }
        credit += redundancy;
        if credit >= 1.0 {
            credit -= 1.0;
            if !path.loses(&mut random) {
                let first = (number + 1).saturating_sub(window.into());
                rank.repair(first, number).into_iter().for_each(|solved| outcome.recovered(number - solved));
            }
        }
    }
    (outcome.residual() <= residual).then_some(outcome)
}

#[test]
fn table_holds_what_it_says() {
    for (loss, burst, longest, packets) in [
        (0.01, 1.0, 100.0, 300_000),
        (0.02, 1.0, 256.0, 300_000),
        (0.05, 1.0, 100.0, 300_000),
        (0.01, 2.0, 512.0, 300_000),
    ] {
        let (redundancy, window) = choose(1e-5, loss, burst / (1.0 - loss), longest);
        let outcome = stream(Path::new(loss, burst), (redundancy, window), packets, 3e-5, 11);
        let outcome = outcome.unwrap_or_else(|| panic!("{loss} {burst}: {redundancy} {window}"));
        let late = outcome.late(longest as usize / 2);
        assert!(late < 6e-4 || burst > 1.0, "{loss} {burst}: {redundancy} {window}: {late}");
    }
}

#[test]
fn a_wider_window_loses_less_and_recovers_no_later() {
    let of = |window| stream(Path::new(0.02, 1.0), (0.0498, window), 2_000_000, 1.0, 3).unwrap();
    let (narrow, wide) = (of(96), of(512));
    assert!(narrow.residual() > 2e-5 && wide.residual() < 2e-6, "{} {}", narrow.residual(), wide.residual());
    assert_eq!(narrow.of_recovered(0.5), wide.of_recovered(0.5));
}
