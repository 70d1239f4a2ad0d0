//! One of several peers, and what several peers may not share.

use std::{collections::BTreeMap, fmt};

use ipnetwork::IpNetwork;
use serde::Deserialize;

use super::Wire;
use crate::{Encap, Encryption, Error, Result, parse, spec::IntentPeer};

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
        let public_key = wire.public_key(&key("publicKey"), self.public_key.as_deref())?;
        let preshared_key_file = wire.key_file(&key("presharedKeyFile"), self.preshared_key_file.as_deref())?;
        if self.endpoint.is_none() && !wire.is_sealed() {
            return Err(Error::Missing {
                key: key("endpoint"),
                remedy: match wire.encap {
                    Encap::Udp | Encap::Wireguard => {
                        "write the peer's outer address; it can be learned only with encryption"
                    }
                    Encap::Vxlan => {
                        "write the peer's outer address: the kernel sends every packet where a route says, and learns no addresses"
                    }
                }
                .into(),
            });
        }
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
            endpoint: self.endpoint.as_deref().map(|text| wire.endpoint(&key("endpoint"), text)).transpose()?,
            public_key,
            preshared_key_file,
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
    let mut reachable = peers.iter().filter_map(|peer| Some((&peer.key, peer.endpoint?)));
    let Some((first, endpoint)) = reachable.next() else { return Ok(()) };
    match reachable.find(|(_, other)| other.is_ipv6() != endpoint.is_ipv6()) {
        Some((key, other)) => Err(Error::invalid(
            key,
            other,
            format!("is of another address family than {first} {endpoint}"),
            "make two tunnels, one for each family",
        )),
        None => Ok(()),
    }
}

/// Two peers cannot own one network, and two entries cannot mean one peer: it is known by its key, or else by its socket.
pub(super) fn refuse_shared(peers: &[IntentPeer], encryption: Encryption) -> Result<()> {
    let (mut owners, mut endpoints, mut keys) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for peer in peers {
        let by_socket = peer.endpoint.filter(|_| encryption == Encryption::None);
        if let Some(endpoint) = by_socket
            && let Some(other) = endpoints.insert(endpoint, &peer.key)
        {
            return Err(twice(&peer.key, endpoint, other));
        }
        if let Some(public) = peer.public_key
            && let Some(other) = keys.insert(public, &peer.key)
        {
            let named = |key: &str| key.replace("endpoint", "publicKey");
            return Err(twice(&named(&peer.key), public, &named(other)));
        }
        for network in &peer.allowed_ips {
            if let Some(other) = owners.insert((network.ip(), network.prefix()), &peer.key) {
                return Err(Error::invalid(
                    networks_of(peer),
                    network,
                    format!("belongs to {} already", other.replace(".endpoint", "")),
                    "give each network to one peer",
                ));
            }
            if encryption != Encryption::None {
                refuse_endpoints_in(*network, peer, peers)?;
            }
        }
    }
    Ok(())
}

fn twice(key: &str, value: impl fmt::Display, other: &str) -> Error {
    Error::invalid(key, value, format!("is {other} already"), "write each peer once, with all of its allowedIPs")
}

fn networks_of(peer: &IntentPeer) -> String {
    peer.key.replace("endpoint", "allowedIPs")
}

/// A network that holds an outer address is hardly meant. Everything, which is what an only peer gets, always holds it: what goes
/// into the tunnel is then a matter of routes.
fn refuse_endpoints_in(network: IpNetwork, owner: &IntentPeer, peers: &[IntentPeer]) -> Result<()> {
    let endpoints = peers.iter().filter_map(|peer| Some((&peer.key, peer.endpoint?.ip())));
    match endpoints.filter(|_| network.prefix() > 0).find(|(_, endpoint)| network.contains(*endpoint)) {
        Some((key, endpoint)) => Err(Error::invalid(
            networks_of(owner),
            network,
            format!("holds an outer address, {endpoint} ({key})"),
            "write inner networks only: the tunnel's own packets must stay outside",
        )),
        None => Ok(()),
    }
}
