//! One of several peers, and what several peers may not share.

use std::collections::BTreeMap;

use ipnetwork::IpNetwork;
use serde::Deserialize;

use super::{Wire, keys_without_encryption};
use crate::{Engine, Error, Result, parse, spec::IntentPeer};

/// One of `peers`, as written.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct PeerConfig {
    /// `address[:port]` of the peer's outer socket.
    pub endpoint: Option<String>,
    /// The peer's public key.
    pub public_key: Option<String>,
    /// File with a preshared key.
    pub preshared_key_file: Option<String>,
    /// Networks behind the peer.
    #[serde(rename = "allowedIPs")]
    pub allowed_ips: Option<Vec<String>>,
    /// Interval of keepalives, such as `25s`.
    pub keepalive: Option<String>,
}

impl PeerConfig {
    pub(super) fn validate(&self, index: usize, alone: bool, wire: Wire) -> Result<IntentPeer> {
        let key = |name: &str| format!("peers[{index}].{name}");
        for (name, value) in [("publicKey", &self.public_key), ("presharedKeyFile", &self.preshared_key_file)] {
            if let Some(value) = value {
                return Err(keys_without_encryption(key(name), value));
            }
        }
        let Some(endpoint) = self.endpoint.as_deref() else {
            return Err(Error::Missing {
                key: key("endpoint"),
                remedy: match wire.encap.engine() {
                    Engine::Agent => "write the peer's outer address; it can be learned only with encryption",
                    Engine::Kernel => {
                        "write the peer's outer address: the kernel sends every packet where a route says, and learns no addresses"
                    }
                }
                .into(),
            });
        };
        let allowed_ips = match self.allowed_ips.as_deref() {
            Some([]) | None if alone => everything()?,
            Some([]) | None => {
                return Err(Error::Missing {
                    key: key("allowedIPs"),
                    remedy: "with several peers each needs the networks behind it, such as [\"10.4.0.2/32\"]".into(),
                });
            }
            Some(networks) => networks
                .iter()
                .enumerate()
                .map(|(n, text)| parse::network(&format!("peers[{index}].allowedIPs[{n}]"), text))
                .collect::<Result<_>>()?,
        };
        Ok(IntentPeer {
            endpoint: wire.endpoint(&key("endpoint"), endpoint)?,
            allowed_ips,
            keepalive: wire.keepalive(&key("keepalive"), self.keepalive.as_deref())?,
            key: key("endpoint"),
        })
    }
}

/// What leads to a peer that is alone.
pub(super) fn everything() -> Result<Vec<IpNetwork>> {
    ["0.0.0.0/0", "::/0"].into_iter().map(|text| parse::network("allowedIPs", text)).collect()
}

/// One socket carries one family.
pub(super) fn refuse_mixed_families(peers: &[IntentPeer]) -> Result<()> {
    let Some(first) = peers.first() else { return Ok(()) };
    match peers.iter().find(|peer| peer.endpoint.is_ipv6() != first.endpoint.is_ipv6()) {
        Some(other) => Err(Error::invalid(
            &other.key,
            other.endpoint,
            format!("is of another address family than {} {}", first.key, first.endpoint),
            "make two tunnels, one for each family",
        )),
        None => Ok(()),
    }
}

/// Two peers cannot own one network, and two entries cannot name one socket.
pub(super) fn refuse_shared_networks(peers: &[IntentPeer]) -> Result<()> {
    let mut owners = BTreeMap::new();
    let mut endpoints = BTreeMap::new();
    for peer in peers {
        if let Some(other) = endpoints.insert(peer.endpoint, &peer.key) {
            return Err(Error::invalid(
                &peer.key,
                peer.endpoint,
                format!("is {other} already"),
                "write each peer once, with all of its allowedIPs",
            ));
        }
        for network in &peer.allowed_ips {
            if let Some(other) = owners.insert((network.ip(), network.prefix()), &peer.key) {
                return Err(Error::invalid(
                    peer.key.replace("endpoint", "allowedIPs"),
                    network,
                    format!("belongs to {} already", other.replace(".endpoint", "")),
                    "give each network to one peer",
                ));
            }
        }
    }
    Ok(())
}
