//! What the encapsulation says about addresses and keys, and the settings that only `vxlan` has.

use std::{fmt, net::SocketAddr, time::Duration};

use serde_json::Value;

use super::{Config, IN_THE_CLEAR, keys_without_encryption};
use crate::{Encap, Encryption, Engine, Error, KeyFile, PublicKey, Result, Vxlan, parse};

/// The largest VXLAN network identifier.
const VNI_MAX: u32 = (1 << 24) - 1;
/// The bits of a TOS that the kernel sets by itself (RFC 6040).
const ECN_BITS: u64 = 3;

/// An encapsulation, how it is sealed, and the UDP port of this end.
#[derive(Clone, Copy)]
pub(super) struct Wire {
    pub(super) encap: Encap,
    engine: Engine,
    encryption: Encryption,
    port: u16,
}

impl Wire {
    pub(super) fn new(encap: Encap, engine: Engine, encryption: Encryption, local: Option<SocketAddr>) -> Self {
        Self { encap, engine, encryption, port: local.map_or(encap.default_port(), |local| local.port()) }
    }

    /// Whether peers are known by their keys.
    pub(super) fn is_sealed(self) -> bool {
        self.encryption != Encryption::None
    }

    /// A peer's public key: required where packets are sealed, refused where they are not.
    pub(super) fn public_key(self, key: &str, text: Option<&str>) -> Result<Option<PublicKey>> {
        const WHERE_FROM: &str =
            "write the other end's, which `adit key show` prints on its node (`wg show` on one of WireGuard's own)";
        match text {
            None if !self.is_sealed() => Ok(None),
            Some(text) if !self.is_sealed() => Err(keys_without_encryption(key, text)),
            Some(text) => {
                text.parse().map(Some).map_err(|problem: &str| Error::invalid(key, text, problem, WHERE_FROM))
            }
            None => {
                let remedy = match self.encap {
                    Encap::Wireguard => {
                        format!(
                            "{WHERE_FROM}; without keys there is only \"encap\": \"udp\" with \"encryption\": \"none\""
                        )
                    }
                    _ => format!("{WHERE_FROM}; or {IN_THE_CLEAR}"),
                };
                Err(Error::Missing { key: key.into(), remedy })
            }
        }
    }

    /// The name of a file below the folder of the pod's namespace.
    pub(super) fn key_file(self, key: &str, text: Option<&str>) -> Result<Option<KeyFile>> {
        match text {
            None => Ok(None),
            Some(text) if !self.is_sealed() => Err(keys_without_encryption(key, text)),
            Some(text) => text.parse().map(Some).map_err(|problem: &str| {
                Error::invalid(
                    key,
                    format!("{text:?}"),
                    problem,
                    "write the name alone of a file in /etc/adit/keys/<the pod's namespace>, without '/' and not beginning with '.'",
                )
            }),
        }
    }

    /// The outer address of a peer.
    pub(super) fn endpoint(self, key: &str, text: &str) -> Result<SocketAddr> {
        if self.encap != Encap::Vxlan {
            return parse::remote_endpoint(key, text, self.encap.default_port());
        }
        let endpoint = parse::remote_endpoint(key, text, self.port)?;
        if endpoint.port() != self.port {
            return Err(Error::invalid(
                key,
                text,
                format!(
                    "has another port than this end ({}), and the kernel's {} sends to its own",
                    self.port, self.encap
                ),
                format!("write the same port as \"local\": \"0.0.0.0:{}\", and at the other end", endpoint.port()),
            ));
        }
        Ok(endpoint)
    }

    pub(super) fn keepalive(self, key: &str, text: Option<&str>) -> Result<Option<Duration>> {
        match text {
            None => Ok(None),
            Some(text) if self.encap == Encap::Vxlan => Err(meaningless(key, text, self.encap)),
            Some(text) => {
                let interval = parse::duration(key, text)?;
                if self.engine == Engine::Kernel
                    && (interval.subsec_nanos() != 0 || u16::try_from(interval.as_secs()).is_err())
                {
                    return Err(Error::invalid(
                        key,
                        text,
                        "is not a number of seconds up to 65535, in which the kernel counts",
                        "write whole seconds, such as \"25s\", or \"engine\": \"agent\"",
                    ));
                }
                Ok(Some(interval))
            }
        }
    }
}

pub(super) fn meaningless(key: &str, value: impl fmt::Display, encap: Encap) -> Error {
    Error::invalid(key, value, format!("has no meaning for encap \"{encap}\""), "leave it out")
}

/// `vni`, `ttl` and `tos`.
pub(super) fn vxlan(config: &Config) -> Result<Vxlan> {
    let vni = config.vni.ok_or_else(|| Error::Missing {
        key: "vni".into(),
        remedy: format!(
            "write the network identifier that both ends use, from 1 to {VNI_MAX}: other packets are not taken"
        ),
    })?;
    if !(1..=VNI_MAX).contains(&vni) {
        return Err(Error::invalid("vni", vni, "is no network identifier", format!("write 1 to {VNI_MAX}")));
    }
    let ttl = match config.ttl.map(u8::try_from) {
        None => 0,
        Some(Ok(ttl)) if ttl > 0 => ttl,
        _ => {
            let written = config.ttl.unwrap_or_default();
            return Err(Error::invalid(
                "ttl",
                written,
                "is no TTL",
                "write 1 to 255, or leave it out for the pod's default",
            ));
        }
    };
    Ok(Vxlan::new(vni, ttl, config.tos.as_ref().map_or(Ok(0), tos)?))
}

fn tos(value: &Value) -> Result<u8> {
    let number = value.as_u64().filter(|number| number & ECN_BITS == 0).and_then(|number| u8::try_from(number).ok());
    number.ok_or_else(|| match value.as_str() {
        Some("inherit") => Error::invalid(
            "tos",
            "inherit",
            "is not possible where routes encapsulate: the kernel takes the value of the route for every packet",
            "write a number, or leave tos out; congestion marks (ECN) are carried over in any case",
        ),
        _ => Error::invalid(
            "tos",
            value,
            "is no TOS without ECN bits",
            "write a multiple of 4 up to 252 (a DSCP times 4, such as 184 for EF), or leave tos out",
        ),
    })
}
