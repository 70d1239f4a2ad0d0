//! Both ends of a tunnel, where the given files have both.
//!
//! An end is found by its outer address: what one end writes as its peer's address, the other has on its interface below. Files may hold
//! several pods with one address (of different clusters, or as alternatives); then only what fits none of them is reported.

use std::net::{IpAddr, SocketAddr};

use adit_tunnel::{Encap, Encryption, Underlay, parse::masked, spec::IntentPeer};
use ipnetwork::IpNetwork;

use crate::{
    attach::{Attached, End},
    finding::{Code, Findings, Raw, Severity},
    node, values,
};

/// An end, and how messages call it.
pub(crate) struct Outer<'a> {
    pub label: String,
    pub attached: &'a Attached,
    pub end: &'a End,
}

impl Outer<'_> {
    /// Where peers find it.
    fn addresses(&self) -> Vec<IpAddr> {
        let known = self.attached.addresses.iter().flatten().map(IpNetwork::ip);
        match self.end.intent.local.map(|local| local.ip()).filter(|ip| !ip.is_unspecified()) {
            Some(own) => vec![own],
            None if self.end.intent.device.is_none() && self.end.intent.underlay == Underlay::Pod => known.collect(),
            // Another interface, or the node, has addresses that no file tells.
            None => Vec::new(),
        }
    }

    fn has(&self, address: IpAddr) -> bool {
        self.addresses().contains(&address)
    }

    /// The peer that is the other end.
    fn peer_at(&self, other: &Outer<'_>) -> Option<&IntentPeer> {
        self.end.intent.peers.iter().find(|peer| peer.endpoint.is_some_and(|endpoint| other.has(endpoint.ip())))
    }

    fn inner(&self) -> impl Iterator<Item = IpAddr> {
        self.end.inner.iter().flatten().map(IpNetwork::ip)
    }

    /// Whether packets to `address` go into the tunnel.
    fn routes(&self, address: IpAddr) -> bool {
        let owned = self.end.intent.peers.iter().flat_map(|peer| &peer.allowed_ips);
        let by_kernel = |network: &IpNetwork| self.end.intent.encap == Encap::Vxlan && network.prefix() > 0;
        self.end.inner.iter().flatten().any(|own| own.contains(address))
            || self.end.routes.iter().any(|route| masked(*route).contains(address))
            || owned.filter(|network| by_kernel(network)).any(|network| network.contains(address))
    }
}

pub(crate) fn check(ends: &[Outer<'_>], findings: &mut Findings) {
    // Of which is not known where it is, nobody knows whether the other end means it.
    let ends: Vec<&Outer<'_>> = ends.iter().filter(|end| !end.addresses().is_empty()).collect();
    for (number, one) in ends.iter().enumerate() {
        for (peer, endpoint) in one.end.intent.reachable() {
            let others = ends.iter().enumerate().filter(|(index, other)| *index != number && other.has(endpoint.ip()));
            let candidates = others.map(|(index, other)| {
                // What differs is told once: at the later end, or at the only one that names the other.
                let tells = index < number || other.peer_at(one).is_none();
                Pair { one, peer, endpoint, other, tells, found: Vec::new() }.compared()
            });
            let fewest = candidates.min_by_key(Vec::len);
            fewest.into_iter().flatten().for_each(|raw| findings.push(raw));
        }
    }
}

/// One end that has `peer` at `endpoint`, and the end that is there.
struct Pair<'a> {
    one: &'a Outer<'a>,
    peer: &'a IntentPeer,
    endpoint: SocketAddr,
    other: &'a Outer<'a>,
    /// Whether it is here that both are told of.
    tells: bool,
    found: Vec<Raw>,
}

impl Pair<'_> {
    fn compared(mut self) -> Vec<Raw> {
        let (mine, theirs) = (&self.one.end.intent, &self.other.end.intent);
        let is_alike = mine.encap == theirs.encap && mine.encryption == theirs.encryption;
        if is_alike {
            self.port();
            self.back();
            self.addresses();
        }
        if self.tells {
            self.wire();
            self.mtu();
        }
        self.found
    }

    fn add(&mut self, key: &str, severity: Severity, message: String, remedy: &str) {
        let place = self.one.end.place(key);
        self.found.push(Raw { place, severity, code: Code::Ends, message, remedy: remedy.to_owned() });
    }

    fn error(&mut self, key: &str, message: String, remedy: &str) {
        self.add(key, Severity::Error, message, remedy);
    }

    /// The path of a key of the peer, which may stand in a list.
    fn peer_key(&self, name: &str) -> String {
        let before = self.peer.key.strip_suffix("endpoint").unwrap_or_default();
        format!("{before}{name}")
    }

    fn wire(&mut self) {
        let (one, other) = (self.one, self.other);
        let (mine, theirs) = (&one.end.intent, &other.end.intent);
        if mine.encap != theirs.encap {
            let message = format!(
                "{} speaks {}, and {} at the other end speaks {}",
                one.label, mine.encap, other.label, theirs.encap
            );
            return self.error("encap", message, "write the same \"encap\" at both ends");
        }
        if mine.encryption != theirs.encryption {
            // Where nothing is written, it is the default.
            let key = if mine.encryption == Encryption::None { "encryption" } else { "encap" };
            let message = format!(
                "{} has encryption {}, and {} at the other end {}",
                one.label, mine.encryption, other.label, theirs.encryption
            );
            return self.error(key, message, "write the same \"encryption\" at both ends");
        }
        if let (Some(my), Some(their)) = (mine.vxlan, theirs.vxlan)
            && my.vni != their.vni
        {
            let message =
                format!("{} has VNI {}, and {} at the other end {}", one.label, my.vni, other.label, their.vni);
            self.error("vni", message, "write the same \"vni\" at both ends");
        }
    }

    fn mtu(&mut self) {
        let (one, other) = (self.one, self.other);
        if let (Some(my), Some(their)) = (one.end.intent.mtu_bytes, other.end.intent.mtu_bytes)
            && my != their
        {
            self.add(
                "mtu",
                Severity::Warning,
                format!("{} has MTU {my}, and {} at the other end {their}", one.label, other.label),
                "write the smaller one at both ends: of the larger packets some would arrive in one direction only",
            );
        }
    }

    fn port(&mut self) {
        let (one, other, endpoint) = (self.one, self.other, self.endpoint);
        let port = other.end.port();
        if endpoint.port() != port {
            let written = SocketAddr::new(endpoint.ip(), port);
            self.error(
                &self.peer.key,
                format!("{} sends to port {}, and {} receives at {port}", one.label, endpoint.port(), other.label),
                &format!("write \"{written}\", or \"local\" with that port at the other end"),
            );
        }
    }

    /// What the other end says of this one.
    fn back(&mut self) {
        let (one, other, peer) = (self.one, self.other, self.peer);
        let Some(back) = other.peer_at(one) else {
            // A sealed end learns where its peer is.
            if other.end.intent.encryption == Encryption::None {
                let named: Vec<String> =
                    other.end.intent.reachable().map(|(_, endpoint)| endpoint.ip().to_string()).collect();
                let own: Vec<String> = one.addresses().iter().map(ToString::to_string).collect();
                let message = format!(
                    "{} sends to {}, whose peers are elsewhere ({}), not at {}",
                    one.label,
                    other.label,
                    named.join(", "),
                    own.join(", ")
                );
                self.add(&peer.key, Severity::Warning, message, "write each other's addresses at both ends");
            }
            return;
        };
        let key = self.peer_key("publicKey");
        let is_written = !one.end.node.follow(&node::path(&key)).text().is_some_and(values::is_placeholder);
        if self.tells && is_written && peer.public_key.is_some() && peer.public_key == back.public_key {
            let message = format!(
                "{} and {} both name this public key as the other's: for one of them it is its own",
                one.label, other.label
            );
            self.error(&key, message, "write at each end the key that `adit key show` prints on the other's node");
        }
        if self.tells && peer.preshared_key_file.is_some() != back.preshared_key_file.is_some() {
            let (with, without, key) = match peer.preshared_key_file {
                Some(_) => (&one.label, &other.label, "presharedKeyFile"),
                None => (&other.label, &one.label, "publicKey"),
            };
            let message = format!("{with} has a preshared key, and {without} at the other end has none");
            let key = self.peer_key(key);
            self.error(&key, message, "write \"presharedKeyFile\" at both ends, or at none");
        }
    }

    /// The inner addresses: each end must send the other's into the tunnel, and to this peer.
    fn addresses(&mut self) {
        const OWN: &str = "ipam.addresses[0].address";
        let (one, other) = (self.one, self.other);
        for address in other.inner() {
            let own: Vec<String> = one
                .end
                .inner
                .iter()
                .flatten()
                .filter(|own| own.is_ipv6() == address.is_ipv6())
                .map(ToString::to_string)
                .collect();
            if own.is_empty() {
                continue;
            }
            if one.inner().any(|own| own == address) {
                if self.tells {
                    let message = format!(
                        "{} and {} at the other end have the same tunnel address {address}",
                        one.label, other.label
                    );
                    self.error(OWN, message, "give each end an address of its own");
                }
                continue;
            }
            let is_only_here = one.inner().all(|own| other.routes(own));
            if !one.routes(address) && (self.tells || is_only_here) {
                let message = format!(
                    "{} has {} on the tunnel, and {} at the other end {address}: another subnet, with no route between them",
                    one.label,
                    own.join(", "),
                    other.label
                );
                let remedy = format!(
                    "write addresses of one subnet at both ends, or {{ \"dst\": \"{}\" }} in the tunnel's ipam.routes",
                    host(address)
                );
                self.error(OWN, message, &remedy);
            }
            if !self.peer.allowed_ips.iter().any(|allowed| allowed.contains(address)) {
                let message = format!(
                    "{} at {} has the tunnel address {address}, which is not in its allowedIPs here",
                    other.label, self.peer.key
                );
                let key = self.peer_key("allowedIPs");
                self.error(&key, message, &format!("add \"{}\"", host(address)));
            }
        }
    }
}

fn host(address: IpAddr) -> String {
    format!("{address}/{}", if address.is_ipv6() { 128 } else { 32 })
}
