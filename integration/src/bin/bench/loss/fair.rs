//! Shares of a bottleneck: two tunnels and a plain TCP flow, where nothing is lost but what the queue drops.

use std::{path::Path, time::Duration};

use crate::{
    Outcome,
    loss::{cell::Cell, condition::link, way::Way},
};

/// Who shares it.
pub const WAYS: [Way; 3] = [Way::Plain, Way::Noise, Way::Cubic];
const SECONDS: u32 = 30;

/// Mb/s of each.
pub fn measure(plugins: &Path, round: u32) -> Outcome<[f64; 3]> {
    let link = link("30mbit", Duration::from_millis(20), "none")?;
    let cell = Cell::new(&WAYS, plugins, &link, u64::from(round) + 1)?;
    let rates: Vec<f64> = cell.flows(&WAYS, SECONDS)?.iter().map(|flow| flow.mbit_per_second).collect();
    rates.try_into().map_err(|_| "a flow is missing".into())
}
