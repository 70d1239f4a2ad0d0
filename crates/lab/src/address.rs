//! Which address is where: the numbering of every lab.
//!
//! | what | IPv4 | IPv6 |
//! |---|---|---|
//! | pods of node `n` of cluster `c` (net1) | `10.(10c).n.0/24` | `fd10:(10c):n::/64` |
//! | their gateway | `.1` | `::1` |
//! | uplink of that node: router `.1`, node `.2` | `100.(64+c).n.0/24` | `fd64:c:n::/64` |
//! | link from router `i` to router `i+1`: `.1`, `.2` | `100.64.i.0/24` | `fd64:0:i::/64` |
//!
//! The numbers in IPv6 groups are written as in IPv4: node 1 of cluster 2 has 10.20.1.0/24 and fd10:20:1::/64.

use std::net::{IpAddr, Ipv4Addr};

use ipnetwork::IpNetwork;

/// A node's place in the numbering.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeNumber {
    /// Cluster, 1 to 25: Ohio is 1, Mumbai is 2.
    pub cluster: u8,
    /// Node in the cluster, from 1.
    pub node: u8,
}

/// Which host of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Host(pub u8);

impl NodeNumber {
    /// A host in the network of the node's pods, IPv4 then IPv6, with its prefix length.
    #[must_use]
    pub fn pods(self, host: Host) -> [IpNetwork; 2] {
        let tens = self.cluster.saturating_mul(10);
        [v4(10, tens, self.node, host), v6(&format!("fd10:{tens}:{}", self.node), host)]
    }

    /// The gateway of the node's pods.
    #[must_use]
    pub fn gateway(self) -> [IpAddr; 2] {
        self.pods(Host(1)).map(|network| network.ip())
    }

    /// A host on the node's uplink: 1 is the router, 2 is the node.
    #[must_use]
    pub fn uplink(self, host: Host) -> [IpNetwork; 2] {
        [
            v4(100, self.cluster.saturating_add(64), self.node, host),
            v6(&format!("fd64:{}:{}", self.cluster, self.node), host),
        ]
    }
}

/// A host on the link from router `first` to the next: 1 is `first`, 2 is the next.
pub(crate) fn between(first: u8, host: Host) -> [IpNetwork; 2] {
    [v4(100, 64, first, host), v6(&format!("fd64:0:{first}"), host)]
}

/// The network that an address with its prefix lies in: `10.10.1.7/24` is in `10.10.1.0/24`.
pub(crate) fn masked(network: IpNetwork) -> IpNetwork {
    IpNetwork::new(network.network(), network.prefix()).unwrap_or(network)
}

fn v4(a: u8, b: u8, c: u8, host: Host) -> IpNetwork {
    network(IpAddr::V4(Ipv4Addr::new(a, b, c, host.0)), 24)
}

fn v6(groups: &str, host: Host) -> IpNetwork {
    let address = format!("{groups}::{}", host.0).parse().unwrap_or(std::net::Ipv6Addr::UNSPECIFIED);
    network(IpAddr::V6(address), 64)
}

fn network(address: IpAddr, prefix: u8) -> IpNetwork {
    IpNetwork::new(address, prefix).unwrap_or(IpNetwork::from(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mumbais_first_node_has_the_documented_networks() {
        let node = NodeNumber { cluster: 2, node: 1 };
        assert_eq!(node.pods(Host(200)).map(|n| n.to_string()), ["10.20.1.200/24", "fd10:20:1::200/64"]);
        assert_eq!(node.gateway().map(|a| a.to_string()), ["10.20.1.1", "fd10:20:1::1"]);
        assert_eq!(node.uplink(Host(2)).map(|n| n.to_string()), ["100.66.1.2/24", "fd64:2:1::2/64"]);
        assert_eq!(between(3, Host(1)).map(masked).map(|n| n.to_string()), ["100.64.3.0/24", "fd64:0:3::/64"]);
    }
}
