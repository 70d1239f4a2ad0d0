//! Who carries the packets, and whose network they travel in outside.

use super::Config;
use crate::{Encap, Encryption, Engine, Error, Result, Underlay};

/// Keys that say where the outer packets go. In the pod's network an administrator may leave them to the pod; in the node's network
/// a pod could send with them what it cannot send by itself.
pub(super) const OUTER: [&str; 4] = ["remote", "peers", "local", "device"];

impl Config {
    /// Who carries what `encap` says, also when other keys are wrong.
    #[must_use]
    pub fn engine(&self) -> Engine {
        let carrier = |encap| self.carrier(encap).unwrap_or(Encap::engine(encap));
        self.encapsulation().map_or(Engine::Agent, carrier)
    }

    pub(super) fn carrier(&self, encap: Encap) -> Result<Engine> {
        let wanted = match self.engine.as_deref() {
            None | Some("" | "auto") => Some(encap.engine()),
            Some("agent") => Some(Engine::Agent),
            Some("kernel") => Some(Engine::Kernel),
            Some(_) => None,
        };
        wanted.filter(|engine| encap.runs_on(*engine)).ok_or_else(|| {
            Error::invalid(
                "engine",
                self.engine.as_deref().unwrap_or_default(),
                format!("cannot carry encap \"{encap}\""),
                format!("write \"{}\", or leave engine out", encap.engine()),
            )
        })
    }

    pub(super) fn underlay(&self, encryption: Encryption) -> Result<Underlay> {
        match self.underlay.as_deref() {
            None | Some("" | "pod") => Ok(Underlay::Pod),
            Some("host") if encryption == Encryption::None => Err(Error::invalid(
                "underlay",
                "host",
                "needs encryption: packets of a pod must not enter the node's network as they are",
                "use \"encap\": \"udp\" with \"encryption\": \"noise\", or \"encap\": \"wireguard\"; or leave underlay out",
            )),
            Some("host") => Ok(Underlay::Host),
            Some(other) => Err(Error::invalid(
                "underlay",
                other,
                "is nobody's network",
                "write \"pod\" (the default) or \"host\", the node's",
            )),
        }
    }
}
