//! Shares of a bottleneck: two tunnels and a plain TCP flow, where nothing is lost but what the queue drops.

use std::{path::Path, time::Duration};

use crate::{
    Outcome,
    loss::{cell::Cell, condition::link, way::Way},
};

/// Who shares it: with the recovery of losses, and, to compare, without.
pub const WAYS: [[Way; 3]; 2] = [[Way::Plain, Way::Noise, Way::Cubic], [Way::PlainOff, Way::NoiseOff, Way::Cubic]];
const SECONDS: u32 = 30;

/// Mb/s of each.
pub type Shares = [f64; 3];

/// Three flows at the same time.
pub fn measure(plugins: &Path, ways: &[Way; 3], round: u32) -> Outcome<Shares> {
    let link = link("30mbit", Duration::from_millis(20), "none")?;
    let cell = Cell::new(ways, plugins, &link, u64::from(round) + 1)?;
    let rates: Vec<f64> = cell.flows(ways, SECONDS)?.iter().map(|flow| flow.mbit_per_second).collect();
    rates.try_into().map_err(|_| "a flow is missing".into())
}

/// What both tunnels have of the whole, in percent.
pub fn tunnels(shares: &Shares) -> f64 {
    let [plain, noise, none] = shares;
    (plain + noise) / (plain + noise + none) * 100.0
}
