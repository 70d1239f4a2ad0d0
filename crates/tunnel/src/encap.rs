//! What is on the wire, and who puts it there.

use std::fmt;

use adit_net::Encapsulation;
use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use crate::{Encryption, Spec, parse::masked};

/// What is on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Encap {
    /// Our own format over UDP.
    Udp,
    /// WireGuard, to the byte.
    Wireguard,
    /// VXLAN-GPE (draft-ietf-nvo3-vxlan-gpe): IP packets behind 8 bytes of header, over UDP.
    Vxlan,
}

/// Who carries the packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// The node's agent.
    Agent,
    /// The kernel: no process touches a packet. Where it has keys, it got them from the agent.
    Kernel,
}

/// Whose network the outer packets travel in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Underlay {
    /// The pod's: its interface below the tunnel.
    #[default]
    Pod,
    /// The node's: the pod needs no way to its peers but the tunnel.
    Host,
}

/// What a tunnel of [`Encap::Vxlan`] has beside the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Vxlan {
    /// The VXLAN network identifier, the same at both ends: 24 bits.
    pub vni: u32,
    /// Outer TTL or hop limit; 0 is the pod's default.
    pub ttl: u8,
    /// Outer TOS or traffic class, without ECN.
    pub tos: u8,
}

impl Vxlan {
    pub(crate) const fn new(vni: u32, ttl: u8, tos: u8) -> Self {
        Self { vni, ttl, tos }
    }
}

impl Underlay {
    /// Who has that network, in a word.
    #[must_use]
    pub const fn owner(self) -> &'static str {
        match self {
            Self::Pod => "pod",
            Self::Host => "node",
        }
    }
}

impl Encap {
    /// Who carries it unless the configuration says otherwise. WireGuard is the agent's: in the kernel's devices the private key can be
    /// read by whoever in the pod has `CAP_NET_ADMIN`, and a change of it ends every session.
    #[must_use]
    pub const fn engine(self) -> Engine {
        match self {
            Self::Udp | Self::Wireguard => Engine::Agent,
            Self::Vxlan => Engine::Kernel,
        }
    }

    /// Whether `engine` can carry it.
    #[must_use]
    pub const fn runs_on(self, engine: Engine) -> bool {
        matches!((self, engine), (Self::Wireguard, _) | (Self::Udp, Engine::Agent) | (Self::Vxlan, Engine::Kernel))
    }

    /// The UDP port when none is written: 6090, which nobody has registered, the one that WireGuard's documentation uses,
    /// and IANA's `vxlan-gpe`.
    #[must_use]
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Udp => 6090,
            Self::Wireguard => 51_820,
            Self::Vxlan => 4790,
        }
    }
}

impl Spec {
    /// Whether the agent has a part in it: it carries the packets, or keeps the keys.
    #[must_use]
    pub fn needs_agent(&self) -> bool {
        self.engine == Engine::Agent || self.encryption != Encryption::None
    }

    /// Where in the list the peer stands to which all of `network` goes: the one with the longest prefix around it.
    #[must_use]
    pub fn owner_of(&self, network: IpNetwork) -> Option<usize> {
        let network = masked(network);
        let owned = self.peers.iter().enumerate().flat_map(|(index, peer)| {
            let around = peer
                .allowed_ips
                .iter()
                .filter(move |allowed| allowed.prefix() <= network.prefix() && allowed.contains(network.ip()));
            around.map(move |allowed| (allowed.prefix(), index))
        });
        // Of equal prefixes there is one only: two peers cannot own the same network.
        owned.max_by_key(|(prefix, _)| *prefix).map(|(_, index)| index)
    }

    /// The networks that get an encapsulating route of their own because a peer owns them. Those of length 0 stand for whatever else is
    /// routed to the interface.
    pub fn owned_networks(&self) -> impl Iterator<Item = IpNetwork> + Clone {
        let owned = self.peers.iter().flat_map(|peer| &peer.allowed_ips).copied();
        owned.filter(|network| network.prefix() > 0 && self.vxlan.is_some())
    }

    /// What the kernel puts around packets to the peer at `index`; `None` when that is not the kernel's work.
    #[must_use]
    pub fn encapsulation(&self, index: usize) -> Option<Encapsulation> {
        let Vxlan { vni, ttl, tos } = self.vxlan?;
        Some(Encapsulation {
            id: vni,
            source: self.local.ip(),
            destination: self.peers.get(index)?.endpoint?.ip(),
            ttl,
            tos,
            checksum: true,
            dont_fragment: true,
        })
    }
}

impl fmt::Display for Encap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Udp => "udp",
            Self::Wireguard => "wireguard",
            Self::Vxlan => "vxlan",
        })
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Agent => "agent",
            Self::Kernel => "kernel",
        })
    }
}

impl fmt::Display for Underlay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pod => "pod",
            Self::Host => "host",
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::{
        Effective, Spec,
        spec::{Device, OuterRoute},
    };

    fn spec(peers: serde_json::Value) -> Spec {
        let raw = json!({"encap": "vxlan", "encryption": "none", "vni": 7, "tos": 184, "peers": peers});
        let intent = Effective::read(raw.as_object().unwrap()).unwrap().config.validate().unwrap();
        let device = Device::new("net1".parse().unwrap(), 2, 1500, vec!["10.10.1.200/24".parse().unwrap()]);
        let routes = vec![OuterRoute::new(2, None, 16); intent.peers.len()];
        intent.resolve(&device, intent.local_on(&device).unwrap(), &routes).unwrap()
    }

    #[test]
    fn the_longest_prefix_around_a_network_owns_it() {
        let spec = spec(json!([
            {"endpoint": "10.20.1.1", "allowedIPs": ["10.4.0.0/16", "fd04::/64"]},
            {"endpoint": "10.20.1.2", "allowedIPs": ["10.4.2.0/24"]},
        ]));
        let owner = |text: &str| spec.owner_of(text.parse().unwrap());
        assert_eq!(owner("10.4.1.0/24"), Some(0));
        assert_eq!(owner("10.4.2.9/32"), Some(1));
        assert_eq!(owner("10.4.2.9/23"), Some(0), "only all of a network counts");
        assert_eq!(owner("10.0.0.0/8"), None);
        assert_eq!(owner("fd04::1/128"), Some(0));
        assert_eq!(owner("fd05::1/128"), None);
    }

    #[test]
    fn everything_is_owned_but_no_route_of_its_own() {
        let spec = spec(json!([{"endpoint": "10.20.1.1"}]));
        assert_eq!(spec.owner_of("10.4.0.0/30".parse().unwrap()), Some(0));
        assert_eq!(spec.owner_of("::/0".parse().unwrap()), Some(0));
        assert_eq!(spec.owned_networks().count(), 0);
    }

    #[test]
    fn an_encapsulation_has_the_specs_numbers() {
        let found = spec(json!([{"endpoint": "10.20.1.1"}])).encapsulation(0).unwrap();
        assert_eq!((found.id, found.ttl, found.tos), (7, 0, 184));
        assert_eq!(found.source.to_string(), "10.10.1.200");
        assert_eq!(found.destination.to_string(), "10.20.1.1");
        assert!(found.checksum && found.dont_fragment);
        assert_eq!(spec(json!([{"endpoint": "10.20.1.1"}])).encapsulation(1), None);
    }
}
