//! Which routes a tunnel of the kernel needs: its device sends nothing but what a route encapsulates.
//!
//! As with the agent, the addresses and routes of the address plugin say what goes into the tunnel, and `allowedIPs` to
//! which peer; and a network that a peer is given needs no route of the address plugin to be reached.

use std::{fmt, net::IpAddr};

use adit_cni::CniResult;
use adit_net::{Netlink, route::TABLE_MAIN};
use adit_plugin::PlannedRoute;
use adit_tunnel::{Spec, parse::masked, record::RouteRef};
use ipnetwork::IpNetwork;

/// A route, and the peer to which its packets go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelRoute {
    pub route: PlannedRoute,
    /// The address of the interface that packets are sent from.
    pub source: Option<IpAddr>,
    /// Where in the list of peers; `None`: to nobody, unless a narrower route says to whom.
    pub peer: Option<usize>,
}

impl TunnelRoute {
    /// What the record keeps of it.
    pub fn recorded(&self) -> RouteRef {
        let PlannedRoute { destination, gateway, priority, table, .. } = self.route;
        RouteRef { destination, gateway, priority, table, peer: self.peer }
    }

    /// Adds it to the interface with this index.
    pub fn add(&self, netlink: &Netlink, index: u32, spec: &Spec) -> adit_net::Result<()> {
        let mut route = self.route.on(index);
        route.source = self.source;
        route.encapsulation = self.peer.and_then(|peer| spec.encapsulation(peer));
        netlink.prepend_route(&route)
    }
}

/// The routes of the agent's tunnel: it looks for the peer of each packet by itself.
pub fn plain(planned: Vec<PlannedRoute>) -> Vec<TunnelRoute> {
    planned.into_iter().map(|route| TunnelRoute { route, source: None, peer: None }).collect()
}

/// Whether the kernel's own route to the subnet of `address` would send packets to nobody although a peer owns it.
pub fn is_owned_subnet(spec: &Spec, address: IpNetwork) -> bool {
    let host = if address.is_ipv4() { 32 } else { 128 };
    address.prefix() < host && spec.owner_of(address).is_some()
}

/// The routes of the kernel's tunnel: subnets first, for they may lead to the gateways of others.
pub fn encapsulated(spec: &Spec, inner: &CniResult, planned: Vec<PlannedRoute>) -> Vec<TunnelRoute> {
    let mut routes: Vec<TunnelRoute> = Vec::new();
    let mut add = |destination: IpNetwork, table: Option<u32>, source: Option<IpAddr>| {
        // The address plugin's own route may say more of it, such as an MTU.
        let is_same = |route: &PlannedRoute| route.destination == destination && number(route.table) == number(table);
        if !planned.iter().chain(routes.iter().map(|known| &known.route)).any(is_same) {
            routes.push(leading(spec, to(destination, table), source));
        }
    };
    for address in inner.ips.iter().map(|ip| ip.address).filter(|address| is_owned_subnet(spec, *address)) {
        add(masked(address), None, Some(address.ip()));
    }
    spec.owned_networks().for_each(|network| add(network, None, None));
    // What a rule sends to another table looks for its peer there.
    for route in planned.iter().filter(|route| !is_main(route.table)) {
        let is_within = |network: &IpNetwork| {
            network.prefix() > route.destination.prefix() && route.destination.contains(network.ip())
        };
        spec.owned_networks().filter(is_within).for_each(|network| add(network, route.table, None));
    }
    routes.extend(planned.into_iter().map(|route| leading(spec, route, None)));
    routes
}

fn leading(spec: &Spec, route: PlannedRoute, source: Option<IpAddr>) -> TunnelRoute {
    TunnelRoute { peer: spec.owner_of(route.destination), route, source }
}

fn number(table: Option<u32>) -> u32 {
    table.unwrap_or(TABLE_MAIN)
}

/// Whether this is the table that everything uses.
pub fn is_main(table: Option<u32>) -> bool {
    number(table) == TABLE_MAIN
}

fn to(destination: IpNetwork, table: Option<u32>) -> PlannedRoute {
    PlannedRoute { destination, gateway: None, mtu: None, advmss: None, priority: None, table, scope: None }
}

impl fmt::Display for TunnelRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.route)?;
        self.peer.map_or(Ok(()), |peer| write!(f, " to peer {peer}"))
    }
}
