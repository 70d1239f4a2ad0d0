//! How peers are asked for signs of life.

use std::time::Duration;

use serde_json::Value;

use super::{Config, wire};
use crate::{Encap, Error, Result, parse, spec::Probe};

/// Oftener would be traffic of its own.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(20);
/// What calls a plugin gives up by itself about then.
const LONGEST_WAIT: Duration = Duration::from_secs(120);

impl Config {
    pub(super) fn probe(&self, encap: Encap) -> Result<Probe> {
        let Some(written) = &self.probe else { return Ok(Probe::default()) };
        if encap != Encap::Udp {
            return Err(wire::meaningless("probe", written, encap));
        }
        let wrong = |key: &str, value: &Value, problem: &str| {
            let remedy =
                "write \"probe\": {\"interval\": \"200ms\", \"timeout\": \"1s\", \"mtu\": true}, or less of it";
            Error::invalid(key, value, problem, remedy)
        };
        let mut probe = Probe::default();
        for (name, value) in written.as_object().ok_or_else(|| wrong("probe", written, "is not an object"))? {
            let key = format!("probe.{name}");
            let duration = || {
                let text = value.as_str().ok_or_else(|| wrong(&key, value, "is not a duration"))?;
                parse::duration(&key, text).map(Some)
            };
            match name.as_str() {
                "interval" => probe.interval = duration()?,
                "timeout" => probe.timeout = duration()?,
                "mtu" => probe.mtu = value.as_bool().ok_or_else(|| wrong(&key, value, "is neither true nor false"))?,
                _ => return Err(wrong(&key, value, "is no setting of a probe")),
            }
        }
        if let Some(interval) = probe.interval.filter(|interval| *interval < SHORTEST_INTERVAL) {
            return Err(Error::invalid(
                "probe.interval",
                format!("{interval:?}"),
                "is too often",
                "write at least 20ms",
            ));
        }
        let shortest = probe.interval.unwrap_or(SHORTEST_INTERVAL).saturating_mul(2);
        match probe.timeout.filter(|timeout| *timeout < shortest) {
            Some(timeout) => Err(Error::invalid(
                "probe.timeout",
                format!("{timeout:?}"),
                "leaves no time for two probes",
                format!("write at least {shortest:?}"),
            )),
            None => Ok(probe),
        }
    }

    /// How long ADD waits for the peers.
    pub(super) fn wait(&self, encap: Encap) -> Result<Option<Duration>> {
        if encap == Encap::Vxlan {
            if let Some(text) = &self.wait_ready {
                return Err(wire::meaningless("waitReady", text, encap));
            }
            if self.check_peer == Some(true) {
                return Err(wire::meaningless("checkPeer", true, encap));
            }
        }
        let wait = self.wait_ready.as_deref().map(|text| parse::duration("waitReady", text)).transpose()?;
        match wait.filter(|wait| *wait > LONGEST_WAIT) {
            Some(wait) => Err(Error::invalid(
                "waitReady",
                format!("{wait:?}"),
                "is longer than what calls the plugin waits for it",
                "write at most 2m",
            )),
            None => Ok(wait),
        }
    }
}
