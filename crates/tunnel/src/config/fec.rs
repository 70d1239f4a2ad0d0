//! How lost packets are recovered.

use std::time::Duration;

use serde_json::Value;

use super::{Config, wire};
use crate::{
    Encap, Error, Result, parse,
    spec::{Fec, FecMode},
};

/// More would be every packet twice.
const MOST_OVERHEAD: f64 = 1.0;
const LONGEST_DELAY: Duration = Duration::from_secs(1);
/// What the wire format has room for.
const LONGEST_WINDOW: u64 = 512;

impl Config {
    pub(super) fn recovery(&self, encap: Encap) -> Result<Fec> {
        let Some(written) = &self.fec else { return Ok(Fec::default()) };
        if encap != Encap::Udp {
            return Err(wire::meaningless("fec", written, encap));
        }
        let wrong = |key: &str, value: &Value, problem: &str| {
            let remedy = "write \"fec\": {\"mode\": \"auto\", \"maxOverhead\": 0.25, \"target\": 1e-5, \
                          \"maxRecoveryDelay\": \"50ms\"}, or less of it";
            Error::invalid(key, value, problem, remedy)
        };
        let mut fec = Fec::default();
        for (name, value) in written.as_object().ok_or_else(|| wrong("fec", written, "is not an object"))? {
            let key = format!("fec.{name}");
            let share = |least: f64, most: f64, of: f64| {
                let share = value.as_f64().filter(|share| (least..=most).contains(share));
                share.map(|share| (share * of).round() as u32).ok_or_else(|| wrong(&key, value, "is no such share"))
            };
            match name.as_str() {
                "mode" => {
                    fec.mode = match value.as_str() {
                        Some("auto") => FecMode::Auto,
                        Some("off") => FecMode::Off,
                        Some("fixed") => FecMode::Fixed,
                        _ => return Err(wrong(&key, value, "is neither \"auto\" nor \"off\" nor \"fixed\"")),
                    }
                }
                "maxOverhead" => fec.max_overhead_ppm = share(0.01, MOST_OVERHEAD, 1e6)?,
                "target" => fec.target_ppb = share(1e-8, 0.1, 1e9)?,
                "redundancy" => fec.redundancy_ppm = share(0.001, MOST_OVERHEAD, 1e6)?,
                "maxRecoveryDelay" => {
                    let text = value.as_str().ok_or_else(|| wrong(&key, value, "is not a duration"))?;
                    let delay = parse::duration(&key, text)?;
                    if delay.is_zero() || delay > LONGEST_DELAY {
                        return Err(wrong(&key, value, "is not between 1ms and 1s"));
                    }
                    fec.max_recovery_delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
                }
                "window" => {
                    let packets = value.as_u64().filter(|packets| (1..=LONGEST_WINDOW).contains(packets));
                    let packets = packets.ok_or_else(|| wrong(&key, value, "is no window of 1 to 512 packets"))?;
                    fec.window = u16::try_from(packets).unwrap_or_default();
                }
                _ => return Err(wrong(&key, value, "is no setting of loss recovery")),
            }
        }
        let of_fixed = ["redundancy", "window"].into_iter().find_map(|name| Some((name, written.get(name)?)));
        match of_fixed.filter(|_| fec.mode != FecMode::Fixed) {
            Some((name, value)) => {
                Err(wrong(&format!("fec.{name}"), value, "is a setting of \"mode\": \"fixed\" alone"))
            }
            None => Ok(fec),
        }
    }
}
