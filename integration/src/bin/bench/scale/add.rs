//! What `tun` adds to the time that a pod's network takes.

use serde_json::{Value, json};

use crate::{
    Outcome,
    cases::CASES,
    node::{InMemory, Node},
    sample::{Call, Plugins},
    statistics::{ratio, summary},
    tunnel::{kinds::start_agent, process::command_here},
};

/// Rounds that are run and forgotten: they fill caches and make the bridge.
const WARM_UP: usize = 2;

/// Wall time of ADD, by round.
#[derive(Debug, Default)]
pub struct Chain {
    /// bridge + static.
    without_ms: Vec<f64>,
    /// bridge + static + tun.
    with_ms: Vec<f64>,
    /// `tun` of the latter.
    tun_ms: Vec<f64>,
}

/// Adds pods in turn with and without `tun`, on one node with an agent.
pub fn compare(plugins: &Plugins, rounds: usize) -> Outcome<Chain> {
    let all = WARM_UP + rounds;
    let node = Node::new(2 * all)?;
    let _memory = InMemory::on(node.directory())?;
    let namespace = node.open()?;
    let _inside = namespace.enter()?;
    // Before the node goes, whose directory it writes to.
    let _agent = start_agent(command_here(plugins.directory.join("aditd")), node.directory())?;
    let mut chain = Chain::default();
    for round in 0..all {
        for turn in 0..2 {
            let (pod, with_tun) = (2 * round + turn, (round + turn) % 2 == 0);
            let (bridge_ms, tun_ms) =
                attach(&Call { plugins, node: &node, pod, verb: "ADD", config: &Value::Null }, with_tun)?;
            if round < WARM_UP {
                continue;
            }
            if with_tun {
                chain.with_ms.push(bridge_ms + tun_ms);
                chain.tun_ms.push(tun_ms);
            } else {
                chain.without_ms.push(bridge_ms);
            }
        }
    }
    Ok(chain)
}

/// ADD of a pod's plugins one after the other, and DEL in the reverse order. Milliseconds of each ADD.
fn attach(call: &Call<'_>, with_tun: bool) -> Outcome<(f64, f64)> {
    let bridge = CASES[0].config(call.pod);
    let add = Call { config: &bridge, ..*call };
    let bridge_ms = add.run()?.wall.as_secs_f64() * 1e3;
    let mut tun_ms = 0.0;
    if with_tun {
        let tun = json!({
            "cniVersion": "1.0.0", "name": "bench", "type": "tun", "encap": "udp", "encryption": "none",
            "peers": [{ "endpoint": "10.77.255.1", "allowedIPs": ["10.99.0.2/32"] }],
            "ipam": { "type": "static", "addresses": [{ "address": "10.99.0.1/30" }] },
            "prevResult": add.printed()?,
        });
        tun_ms = Call { config: &tun, ..*call }.run()?.wall.as_secs_f64() * 1e3;
        Call { config: &tun, verb: "DEL", ..*call }.run()?;
    }
    Call { config: &bridge, verb: "DEL", ..*call }.run()?;
    Ok((bridge_ms, tun_ms))
}

impl Chain {
    /// By how many milliseconds the median is longer with `tun`.
    pub fn added_ms(&self) -> f64 {
        summary(&self.with_ms).median - summary(&self.without_ms).median
    }

    pub fn markdown(&self) -> String {
        let cell = |samples: &[f64]| {
            let summary = summary(samples);
            format!("{:.1} ({:.1})", summary.median, summary.p95)
        };
        let ratio = ratio(&self.with_ms, &self.without_ms);
        format!(
            "\n| ADD, ms: median (p95) of {} | bridge + static | bridge + static + tun | tun alone | ratio |\n\
             |---|---:|---:|---:|---:|\n| wall time | {} | {} | {} | {:.2} ({:.2}–{:.2}) |\n",
            self.with_ms.len(),
            cell(&self.without_ms),
            cell(&self.with_ms),
            cell(&self.tun_ms),
            ratio.value,
            ratio.low,
            ratio.high,
        )
    }

    pub fn json(&self) -> Value {
        json!({ "bridgeStaticMs": self.without_ms, "bridgeStaticTunMs": self.with_ms, "tunMs": self.tun_ms, "addedMs": self.added_ms() })
    }
}
