//! What a validated configuration means: first without ([`Intent`]), then with knowledge of the pod ([`Spec`]).

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use adit_net::IfName;
use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use crate::{Encap, Engine, Error, KeyFile, PublicKey, Result, Underlay, Vxlan, mtu, parse};

/// How packets are sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Encryption {
    /// Not at all: the underlay is trusted.
    None,
    /// By sessions that a handshake of the Noise framework makes (IKpsk2); WireGuard's is one, too.
    Noise,
}

impl fmt::Display for Encryption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Noise => "noise",
        })
    }
}

/// How peers are asked for signs of life, where Adit's own format is on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// How often, where that was written.
    pub interval: Option<Duration>,
    /// How long nothing may come before a peer counts as lost, where that was written.
    pub timeout: Option<Duration>,
    /// Whether the interface's MTU follows what the path lets through.
    pub mtu: bool,
}

impl Default for Probe {
    fn default() -> Self {
        Self { interval: None, timeout: None, mtu: true }
    }
}

/// How lost packets are recovered, where Adit's own format is on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fec {
    /// Whether, and how much.
    pub mode: FecMode,
    /// The most that repairs may add, of the bytes that they protect, in parts per million.
    pub max_overhead_ppm: u32,
    /// How many packets may stay lost, in parts per billion.
    pub target_ppb: u32,
    /// How late a packet may be recovered and still be of use, in milliseconds.
    pub max_recovery_delay_ms: u64,
    /// `fixed`: repairs for so many packets, in parts per million.
    pub redundancy_ppm: u32,
    /// `fixed`: how many packets each repair covers.
    pub window: u16,
}

/// How much is sent to recover from losses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FecMode {
    /// What the losses ask for: nothing on a clean path.
    Auto,
    /// Nothing.
    Off,
    /// Always the same.
    Fixed,
}

impl FecMode {
    /// The word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Off => "off",
            Self::Fixed => "fixed",
        }
    }
}

impl Fec {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for Fec {
    fn default() -> Self {
        Self {
            mode: FecMode::Auto,
            max_overhead_ppm: 250_000,
            target_ppb: 10_000,
            max_recovery_delay_ms: 50,
            redundancy_ppm: 100_000,
            window: 128,
        }
    }
}

/// A configuration whose every key was checked, before the pod was looked at.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Intent {
    /// The interface's name in the pod.
    pub if_name: IfName,
    /// What is on the wire.
    pub encap: Encap,
    /// Who carries the packets.
    pub engine: Engine,
    /// How packets are sealed.
    pub encryption: Encryption,
    /// Whose network the outer packets travel in.
    pub underlay: Underlay,
    /// The outer interface, when it is not the chain's own (with [`Underlay::Host`]: not the one that leads to the peers).
    pub device: Option<IfName>,
    /// The outer source, when written.
    pub local: Option<SocketAddr>,
    /// The interface's MTU, when written.
    pub mtu_bytes: Option<u32>,
    /// Whether packets may skip the network on the way to a peer of the same agent.
    pub shortcut: bool,
    /// How peers are asked for signs of life.
    pub probe: Probe,
    /// How lost packets are recovered.
    pub fec: Fec,
    /// How long ADD waits for the peers.
    pub wait_ready: Option<Duration>,
    /// What only `vxlan` has.
    pub vxlan: Option<Vxlan>,
    /// The file of this end's private key, when one is named.
    pub private_key_file: Option<KeyFile>,
    /// The peers, at least one, all of one address family as far as it is known.
    pub peers: Vec<IntentPeer>,
}

/// A peer as configured.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct IntentPeer {
    /// Its outer address and port. A sealed peer may have none: it is learned from what it sends.
    pub endpoint: Option<SocketAddr>,
    /// The networks behind it.
    pub allowed_ips: Vec<IpNetwork>,
    /// How often an idle tunnel sends something.
    pub keepalive: Option<Duration>,
    /// What it is known by, where packets are sealed.
    pub public_key: Option<PublicKey>,
    /// The file of the key that was agreed with it beforehand.
    pub preshared_key_file: Option<KeyFile>,
    /// The configuration's key of the endpoint, for messages.
    pub key: String,
}

/// What the plugin found in the pod about the outer interface.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Device {
    /// Its name.
    pub name: IfName,
    /// Its index in the pod's namespace.
    pub index: u32,
    /// Its MTU in bytes.
    pub mtu_bytes: u32,
    /// Its addresses.
    pub addresses: Vec<IpNetwork>,
}

impl Device {
    /// The facts about an outer interface.
    #[must_use]
    pub const fn new(name: IfName, index: u32, mtu_bytes: u32, addresses: Vec<IpNetwork>) -> Self {
        Self { name, index, mtu_bytes, addresses }
    }
}

/// How the kernel reaches one peer from the outer source, before the tunnel exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct OuterRoute {
    /// Index of the interface by which packets leave.
    pub device: u32,
    /// The route's own MTU in bytes, where it has one.
    pub mtu_bytes: Option<u32>,
    /// Length of the route's prefix: what decides whether a route into the tunnel would win over it.
    pub prefix: u8,
}

impl OuterRoute {
    /// The facts about the route to one peer.
    #[must_use]
    pub const fn new(device: u32, mtu_bytes: Option<u32>, prefix: u8) -> Self {
        Self { device, mtu_bytes, prefix }
    }
}

/// Everything that is needed to carry a tunnel; what the record keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Spec {
    /// The interface's name in the pod.
    pub if_name: IfName,
    /// What is on the wire.
    pub encap: Encap,
    /// Who carries the packets.
    pub engine: Engine,
    /// How packets are sealed.
    pub encryption: Encryption,
    /// Whose network the outer packets travel in.
    #[serde(skip_serializing_if = "is_pod", default)]
    pub underlay: Underlay,
    /// The outer interface, in the pod or on the node.
    pub device: IfName,
    /// The outer source address and port, to which the agent binds the outer socket. The kernel's `vxlan` is sent from the
    /// address, but from any port, and received at the port of every address; its `wireguard` has the port at every address.
    pub local: SocketAddr,
    /// The interface's MTU in bytes.
    pub mtu_bytes: u16,
    /// Whether packets may skip the network on the way to a peer of the same agent.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub shortcut: bool,
    /// How often peers are asked for signs of life, in milliseconds, where that was written.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub probe_interval_ms: Option<u64>,
    /// How long nothing may come before a peer counts as lost, in milliseconds, where that was written.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub probe_timeout_ms: Option<u64>,
    /// Whether the interface's MTU stays whatever the path lets through.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub fixed_mtu: bool,
    /// How lost packets are recovered.
    #[serde(skip_serializing_if = "Fec::is_default", default)]
    pub fec: Fec,
    /// What only `vxlan` has.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub vxlan: Option<Vxlan>,
    /// The file of this end's private key. A sealed tunnel without one has a key of its own.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub private_key_file: Option<KeyFile>,
    /// What peers know this end by, as the agent said.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub public_key: Option<PublicKey>,
    /// The peers.
    pub peers: Vec<Peer>,
}

/// A peer as it is carried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Peer {
    /// Its outer address and port, as configured.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub endpoint: Option<SocketAddr>,
    /// What it is known by, where packets are sealed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub public_key: Option<PublicKey>,
    /// The file of the key that was agreed with it beforehand.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub preshared_key_file: Option<KeyFile>,
    /// The networks behind it; the longest prefix decides.
    #[serde(rename = "allowedIPs")]
    pub allowed_ips: Vec<IpNetwork>,
    /// How often an idle tunnel sends something, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub keepalive_ms: Option<u64>,
}

impl Intent {
    /// The peers of which is known where they are, in their order.
    pub fn reachable(&self) -> impl Iterator<Item = (&IntentPeer, SocketAddr)> {
        self.peers.iter().filter_map(|peer| Some((peer, peer.endpoint?)))
    }

    /// The outer source: as written, or the first address of `device` of the peers' family; of any, if no peer has an endpoint.
    ///
    /// # Errors
    /// `device` has no address of that family, or not the one that is written, or a peer's endpoint is its own.
    pub fn local_on(&self, device: &Device) -> Result<SocketAddr> {
        let local = match self.local {
            Some(local) if !local.ip().is_unspecified() => self.own_address(local, device)?,
            port_alone => {
                let port = port_alone.map_or(self.encap.default_port(), |local| local.port());
                SocketAddr::new(self.first_address(device)?, port)
            }
        };
        match self.reachable().find(|(_, endpoint)| device.addresses.iter().any(|own| own.ip() == endpoint.ip())) {
            Some((peer, endpoint)) => Err(Error::invalid(
                &peer.key,
                endpoint,
                format!("is {}'s own address", device.name),
                "write the address of the other end",
            )),
            None => Ok(local),
        }
    }

    fn own_address(&self, local: SocketAddr, device: &Device) -> Result<SocketAddr> {
        if let Some((first, endpoint)) = self.reachable().next()
            && local.is_ipv6() != endpoint.is_ipv6()
        {
            return Err(Error::invalid(
                "local",
                local,
                format!("is of another address family than {} {endpoint}", first.key),
                "write both as IPv4 or both as IPv6",
            ));
        }
        if !device.addresses.iter().any(|network| network.ip() == local.ip()) {
            return Err(Error::invalid(
                "local",
                local,
                format!("is no address of {}", device.name),
                format!("write one of {}, or leave local out", list(&device.addresses)),
            ));
        }
        Ok(local)
    }

    fn first_address(&self, device: &Device) -> Result<IpAddr> {
        let first = self.reachable().next();
        // Where no peer says more, what was written as `0.0.0.0:port` or `[::]:port` does.
        let family = first.map(|(_, endpoint)| endpoint).or(self.local).map(|address| address.is_ipv6());
        let usable = |network: &&IpNetwork| {
            family.is_none_or(|is_ipv6| network.is_ipv6() == is_ipv6) && !is_link_local(network.ip())
        };
        let found = device.addresses.iter().find(usable).map(|network| network.ip());
        found.ok_or_else(|| {
            let Device { name, addresses, .. } = device;
            let Some((peer, endpoint)) = first else {
                return Error::invalid(
                    "device",
                    name,
                    format!("has no address that peers could send to, but {}", list(addresses)),
                    "give it one in the ipam of the interface below the tunnel, or write another device",
                );
            };
            Error::invalid(
                &peer.key,
                endpoint,
                format!("is of another address family than {name}, which has {}", list(addresses)),
                format!("give {name} an address of that family, or write the peer's address of the other one"),
            )
        })
    }

    /// The tunnel, given its outer interface and the route that the kernel found from `local` to each [reachable](Self::reachable) peer, in
    /// order.
    ///
    /// # Errors
    /// A peer is reached through another interface, or the MTU does not fit.
    pub fn resolve(&self, device: &Device, local: SocketAddr, routes: &[OuterRoute]) -> Result<Spec> {
        let mut path_bytes = device.mtu_bytes;
        for ((peer, endpoint), route) in self.reachable().zip(routes) {
            if route.device != device.index {
                return Err(Error::invalid(
                    &peer.key,
                    endpoint,
                    format!(
                        "is not reached through {}: the {}'s route to it leaves by another interface",
                        device.name,
                        self.underlay.owner()
                    ),
                    format!("add a route to it on {}, or name the right interface as \"device\"", device.name),
                ));
            }
            path_bytes = path_bytes.min(route.mtu_bytes.unwrap_or(path_bytes));
        }
        let mtu_bytes = mtu::interface_mtu(
            self.mtu_bytes,
            path_bytes,
            mtu::overhead_bytes(self.encap, local.is_ipv6(), self.encryption),
        )?;
        Ok(Spec {
            if_name: self.if_name.clone(),
            encap: self.encap,
            engine: self.engine,
            encryption: self.encryption,
            underlay: self.underlay,
            device: device.name.clone(),
            local,
            mtu_bytes,
            shortcut: self.shortcut,
            probe_interval_ms: self.probe.interval.map(milliseconds),
            probe_timeout_ms: self.probe.timeout.map(milliseconds),
            fixed_mtu: !self.probe.mtu,
            fec: self.fec,
            vxlan: self.vxlan,
            private_key_file: self.private_key_file.clone(),
            public_key: None,
            peers: self
                .peers
                .iter()
                .map(|peer| Peer {
                    endpoint: peer.endpoint,
                    public_key: peer.public_key,
                    preshared_key_file: peer.preshared_key_file.clone(),
                    allowed_ips: peer.allowed_ips.clone(),
                    keepalive_ms: peer.keepalive.map(milliseconds),
                })
                .collect(),
        })
    }
}

impl Spec {
    /// Checks the addresses and routes that the tunnel's interface is to get, beside the `outer` routes to its peers.
    ///
    /// # Errors
    /// A route (or the subnet of an address) would win over the outer route and carry the tunnel's own packets into the
    /// tunnel; IPv6 with too small an MTU. Where the kernel carries the tunnel, the networks of its peers are routes, too.
    pub fn check_inner(&self, outer: &[OuterRoute], addresses: &[IpNetwork], routes: &[IpNetwork]) -> Result<()> {
        let owned = self.owned_networks().map(|network| ("allowedIPs", network));
        let has_ipv6 = addresses.iter().chain(routes).any(IpNetwork::is_ipv6)
            || owned.clone().any(|(_, network)| network.is_ipv6());
        mtu::check_ipv6_floor(self.mtu_bytes, has_ipv6)?;
        let connected = addresses.iter().copied().map(|address| ("ipam address", parse::masked(address)));
        let routed = routes.iter().copied().map(|route| ("ipam route", parse::masked(route)));
        // The node's own packets never see the pod's routes.
        let beside = if self.underlay == Underlay::Host { &[] } else { outer };
        for (what, network) in connected.chain(routed).chain(owned) {
            let swallowed = |(endpoint, outer): &(IpAddr, &OuterRoute)| {
                network.contains(*endpoint) && network.prefix() >= outer.prefix
            };
            let endpoints = self.peers.iter().filter_map(|peer| Some(peer.endpoint?.ip()));
            if let Some((endpoint, _)) = endpoints.zip(beside).find(swallowed) {
                return Err(Error::invalid(
                    what,
                    network,
                    format!("would send the tunnel's own packets to {endpoint} into the tunnel"),
                    "choose an inner network that does not hold the peer's outer address, or a narrower route to the peer on the outer interface",
                ));
            }
        }
        Ok(())
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_pod(underlay: &Underlay) -> bool {
    *underlay == Underlay::Pod
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

fn list(addresses: &[IpNetwork]) -> String {
    if addresses.is_empty() {
        return "no address".into();
    }
    let texts: Vec<String> = addresses.iter().map(|network| network.ip().to_string()).collect();
    texts.join(", ")
}

#[cfg(test)]
mod tests;
