//! The words of the tunnel tests: networks with a tunnel on top, and two pods that it joins.

use std::net::IpAddr;

use adit_lab::{Attachment, Host, Lab, LabSpec, Nad, Node, Pod, Result};
use serde_json::{Value, json};

/// An IP version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The one of `both` (IPv4 first) that is of this version.
    pub fn of<T: Clone>(self, both: &[T; 2]) -> T {
        let [four, six] = both.clone();
        match self {
            Self::V4 => four,
            Self::V6 => six,
        }
    }
}

/// Host number of the first pod of a test in its node's network, as in the documented example: 10.10.1.200.
pub const FIRST_POD: u8 = 200;

/// The outer address of a node's pod.
#[must_use]
pub fn outer(node: &Node, family: Family, host: u8) -> IpAddr {
    family.of(&node.number().pods(Host(host))).ip()
}

/// The first plugin of a list: `net1` of a node's pods, with routes to every other pod network of the lab.
#[must_use]
pub fn net1(lab: &Lab, node: &Node) -> Value {
    let others = lab.nodes().iter().filter(|other| other.name() != node.name());
    let gateways = node.number().gateway();
    let routes: Vec<Value> = others
        .flat_map(|other| other.number().pods(Host(0)))
        .map(|network| {
            let gateway = if network.is_ipv4() { gateways[0] } else { gateways[1] };
            json!({ "dst": network.to_string(), "gw": gateway.to_string() })
        })
        .collect();
    let mut plugin = match lab.attachment() {
        Attachment::Bridge => json!({ "type": "bridge", "isGateway": true }),
        Attachment::Macvlan => json!({ "type": "macvlan", "master": "up0" }),
    };
    plugin["capabilities"] = json!({ "ips": true });
    plugin["ipam"] = json!({ "type": "static", "routes": routes });
    plugin
}

/// A `tun` object with one peer and one inner address.
#[must_use]
pub fn tun(remote: IpAddr, inner: &str) -> Value {
    json!({
        "type": "tun", "encap": "udp", "encryption": "none", "remote": remote.to_string(),
        "ipam": { "type": "static", "addresses": [{ "address": inner }] },
    })
}

/// `base` with `changes` merged into it; `null` removes a key.
#[must_use]
pub fn with(mut base: Value, changes: &Value) -> Value {
    for (key, value) in changes.as_object().into_iter().flatten() {
        if value.is_null() {
            base.as_object_mut().map(|map| map.remove(key));
        } else {
            base[key] = value.clone();
        }
    }
    base
}

/// A definition of a list of plugins.
#[must_use]
pub fn list(name: &str, plugins: &[Value]) -> Nad {
    Nad::new(name, json!({ "cniVersion": "1.1.0", "plugins": plugins }))
}

/// The annotation that attaches a pod with host number `host` to a network, with both its outer addresses.
#[must_use]
pub fn annotation(network: &str, node: &Node, host: u8) -> String {
    let ips: Vec<String> = node.number().pods(Host(host)).iter().map(ToString::to_string).collect();
    json!([{ "name": network, "ips": ips }]).to_string()
}

/// Inner addresses of the two ends of a tunnel.
#[must_use]
pub fn inner_pair(family: Family) -> [&'static str; 2] {
    match family {
        Family::V4 => ["10.4.0.1/30", "10.4.0.2/30"],
        Family::V6 => ["fd04::1/64", "fd04::2/64"],
    }
}

/// Two clusters with an agent each.
///
/// # Errors
/// The lab cannot be built, or an agent does not start.
pub fn lab_with_agents(spec: &LabSpec) -> Result<Lab> {
    let lab = Lab::build(spec)?;
    for node in lab.nodes() {
        node.start_agent()?;
    }
    Ok(lab)
}

/// A pod in Ohio and one in Mumbai with a tunnel between them.
pub struct Pair {
    /// Ohio's pod.
    pub ohio: Pod,
    /// Mumbai's pod.
    pub mumbai: Pod,
    /// The lab around them; it goes last.
    pub lab: Lab,
}

impl Pair {
    /// Two pods whose tunnel uses `outside` below and `inside` within.
    ///
    /// # Errors
    /// Anything on the way.
    pub fn up(attachment: Attachment, outside: Family, inside: Family) -> Result<Self> {
        Self::with_tun(attachment, outside, inside, &json!({}))
    }

    /// The same, with `changes` merged into both `tun` objects.
    ///
    /// # Errors
    /// Anything on the way.
    pub fn with_tun(attachment: Attachment, outside: Family, inside: Family, changes: &Value) -> Result<Self> {
        let lab = lab_with_agents(&LabSpec::two_clusters(attachment))?;
        let [here, there] = inner_pair(inside);
        let ohio = Self::pod(&lab, lab.ohio(), lab.mumbai(), outside, here, changes)?;
        let mumbai = Self::pod(&lab, lab.mumbai(), lab.ohio(), outside, there, changes)?;
        Ok(Self { ohio, mumbai, lab })
    }

    /// The usual pair: bridge, IPv4 outside and inside.
    ///
    /// # Errors
    /// Anything on the way.
    pub fn usual() -> Result<Self> {
        Self::up(Attachment::Bridge, Family::V4, Family::V4)
    }

    fn pod(lab: &Lab, node: &Node, peer: &Node, outside: Family, inner: &str, changes: &Value) -> Result<Pod> {
        let tun = with(tun(outer(peer, outside, FIRST_POD), inner), changes);
        let nad = list("tunnelled", &[net1(lab, node), tun]);
        node.pod(&format!("{}-a", node.cluster())).attach(nad, &annotation("tunnelled", node, FIRST_POD))
    }
}

/// The tunnels of a node as `adit status --json` tells them.
///
/// # Errors
/// The command fails.
pub fn tunnels(node: &Node) -> Result<Vec<Value>> {
    let document = node.adit(["status", "--json"])?.json()?;
    Ok(document["tunnels"].as_array().cloned().unwrap_or_default())
}

/// How many datagrams a node's tunnels dropped for `reason`.
///
/// # Errors
/// The command fails.
pub fn dropped(node: &Node, reason: &str) -> Result<u64> {
    Ok(tunnels(node)?.iter().filter_map(|tunnel| tunnel["drops"][reason].as_u64()).sum())
}
