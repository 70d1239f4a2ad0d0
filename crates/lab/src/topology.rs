//! What a lab looks like, and the plan that makes it so: a value that can be read without root.

use std::collections::BTreeSet;

use crate::{
    Error, Result,
    address::{Host, NodeNumber, between, masked},
};

/// How the pods' net1 is attached, and so who is their gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attachment {
    /// The bridge plugin: the node has the gateway address on its bridge and routes for its pods.
    Bridge,
    /// The macvlan plugin on the node's `up0`: the node's router has the gateway address.
    Macvlan,
}

/// A lab to be built. Two pods at its two ends always see five routers between them (ttl 59) unless the number of
/// routers is changed: with [`Attachment::Bridge`] the two nodes are two of the five.
#[derive(Debug, Clone)]
pub struct LabSpec {
    name: Option<String>,
    attachment: Attachment,
    routers: u8,
    mtu_bytes: u16,
    wires: bool,
    clusters: Vec<ClusterSpec>,
}

#[derive(Debug, Clone)]
struct ClusterSpec {
    name: String,
    nodes: u8,
    router: Option<u8>,
}

impl LabSpec {
    /// No cluster yet; links of 1500 bytes.
    #[must_use]
    pub fn new(attachment: Attachment) -> Self {
        let routers = match attachment {
            Attachment::Bridge => 3,
            Attachment::Macvlan => 5,
        };
        Self { name: None, attachment, routers, mtu_bytes: 1500, wires: false, clusters: Vec::new() }
    }

    /// Ohio (cluster 1) and Mumbai (cluster 2), a node each, at the two ends of the chain of routers.
    #[must_use]
    pub fn two_clusters(attachment: Attachment) -> Self {
        Self::new(attachment).cluster("ohio", 1).cluster("mumbai", 1)
    }

    /// Adds a cluster with that many nodes. Its number is its position: the first is 1. Clusters are spread over
    /// the chain: the first at its beginning, the last at its end.
    #[must_use]
    pub fn cluster(mut self, name: &str, nodes: u8) -> Self {
        self.clusters.push(ClusterSpec { name: name.to_owned(), nodes, router: None });
        self
    }

    /// Adds a cluster whose nodes are connected to this router (from 1).
    #[must_use]
    pub fn cluster_at(mut self, name: &str, nodes: u8, router: u8) -> Self {
        self.clusters.push(ClusterSpec { name: name.to_owned(), nodes, router: Some(router) });
        self
    }

    /// Begin of every name of the lab, instead of one that nobody else has. For labs that people type the names of.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// How many routers there are in the chain.
    #[must_use]
    pub fn routers(mut self, routers: u8) -> Self {
        self.routers = routers;
        self
    }

    /// MTU of all links of the lab.
    #[must_use]
    pub fn mtu_bytes(mut self, mtu_bytes: u16) -> Self {
        self.mtu_bytes = mtu_bytes;
        self
    }

    /// With a place in each node's uplink where [`crate::Lab::impair`] puts a bad link. Nothing passes before it does.
    ///
    /// Nodes and routers then send packets one by one there: what would be left to a network card is done before.
    #[must_use]
    pub fn with_wires(mut self) -> Self {
        self.wires = true;
        self
    }

    pub(crate) fn plan(&self) -> Result<Plan> {
        self.validate()?;
        let nodes = self.nodes();
        let mut namespaces: Vec<NamespacePlan> = (1..=self.routers).map(|router| self.router(router, &nodes)).collect();
        namespaces.extend(nodes.iter().map(|node| self.node(node)));
        if self.wires {
            namespaces.extend(nodes.iter().map(|node| self.wire(node)));
        }
        Ok(Plan { name: self.name.clone(), attachment: self.attachment, routers: self.routers, nodes, namespaces })
    }

    fn validate(&self) -> Result<()> {
        let wrong = |text: String| Err(Error::Spec(text));
        if let Some(name) = &self.name {
            let plain = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
            if !plain || !name.starts_with("adit-") || name.len() > 40 {
                return wrong(format!("name `{name}`; `adit-` and lower case letters, digits and `-` are possible"));
            }
        }
        if !(1..=60).contains(&self.routers) {
            return wrong(format!("{} routers; between 1 and 60 are possible (the ttl of 64 must last)", self.routers));
        }
        if !(1280..=9000).contains(&self.mtu_bytes) {
            return wrong(format!("MTU {}; between 1280 (IPv6) and 9000 are possible", self.mtu_bytes));
        }
        if self.clusters.is_empty() || self.clusters.len() > 20 {
            return wrong(format!("{} clusters; between 1 and 20 are possible", self.clusters.len()));
        }
        let mut names = BTreeSet::new();
        for ClusterSpec { name, nodes, router } in &self.clusters {
            // The name is part of an interface name in the router: 15 bytes with "-199".
            let plain = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
            if name.is_empty() || name.len() > 11 || !plain {
                return wrong(format!("cluster name `{name}`; 1 to 11 lower case letters and digits are possible"));
            }
            if !names.insert(name) {
                return wrong(format!("two clusters are named {name}"));
            }
            if !(1..=199).contains(nodes) {
                return wrong(format!("{nodes} nodes in {name}; between 1 and 199 are possible"));
            }
            if router.is_some_and(|router| !(1..=self.routers).contains(&router)) {
                return wrong(format!("{name} is at router {}; there are {}", router.unwrap_or(0), self.routers));
            }
        }
        Ok(())
    }

    fn nodes(&self) -> Vec<NodePlan> {
        let last = u16::try_from(self.clusters.len()).unwrap_or(1).saturating_sub(1);
        let mut nodes = Vec::new();
        for (cluster, position) in self.clusters.iter().zip(0_u16..) {
            let steps = u16::from(self.routers.saturating_sub(1)).saturating_mul(position);
            let spread = u8::try_from(steps.checked_div(last).unwrap_or(0).saturating_add(1)).unwrap_or(1);
            let router = cluster.router.unwrap_or(spread);
            let number = u8::try_from(position.saturating_add(1)).unwrap_or(u8::MAX);
            nodes.extend((1..=cluster.nodes).map(|node| NodePlan {
                name: format!("{}-{node}", cluster.name),
                cluster: cluster.name.clone(),
                number: NodeNumber { cluster: number, node },
                router,
            }));
        }
        nodes
    }

    fn router(&self, router: u8, nodes: &[NodePlan]) -> NamespacePlan {
        let mut plan = NamespacePlan::new(format!("r{router}"));
        // Answers to packets that are too big or too old must come each time, not once a second.
        plan.sysctls.extend([("net/ipv4/icmp_ratelimit", "0"), ("net/ipv6/icmp/ratelimit", "0")]);

        if router > 1 {
            plan.interface("prev", &between(router.saturating_sub(1), Host(2)));
        }
        if router < self.routers {
            plan.link("next", &format!("r{}", router.saturating_add(1)), "prev", self.mtu_bytes);
            plan.interface("next", &between(router, Host(1)));
        }
        for node in nodes {
            if node.router == router {
                if self.wires {
                    plan.link(&node.name, &wire_name(&node.name), "router", self.mtu_bytes);
                } else {
                    plan.link(&node.name, &node.name, "up0", self.mtu_bytes);
                }
                plan.interface(&node.name, &node.number.uplink(Host(1)));
                match self.attachment {
                    Attachment::Macvlan => plan.addresses(&node.name, &node.number.pods(Host(1))),
                    Attachment::Bridge => {
                        plan.routes(&node.number.pods(Host(0)), &node.number.uplink(Host(2)), &node.name)
                    }
                }
            } else {
                let (via, device) = if node.router > router {
                    (between(router, Host(2)), "next")
                } else {
                    (between(router.saturating_sub(1), Host(1)), "prev")
                };
                plan.routes(&node.number.pods(Host(0)), &via, device);
                plan.routes(&node.number.uplink(Host(0)), &via, device);
            }
        }
        plan
    }

    /// Between a node and its router: two interfaces, and nobody who answers at them.
    fn wire(&self, node: &NodePlan) -> NamespacePlan {
        let mut plan = NamespacePlan::new(wire_name(&node.name));
        plan.sysctls = vec![("net/ipv6/conf/all/disable_ipv6", "1"), ("net/ipv6/conf/default/disable_ipv6", "1")];
        plan.link("node", &node.name, "up0", self.mtu_bytes);
        for name in ["node", "router"] {
            plan.interface(name, &[]);
        }
        plan
    }

    fn node(&self, node: &NodePlan) -> NamespacePlan {
        let mut plan = NamespacePlan::new(node.name.clone());
        plan.interface("up0", &node.number.uplink(Host(2)));
        for gateway in node.number.uplink(Host(1)) {
            plan.lines.push(format!("route add default via {} dev up0", gateway.ip()));
        }
        plan
    }
}

/// Name of the namespace in a node's uplink.
pub(crate) fn wire_name(node: &str) -> String {
    format!("{node}-wire")
}

/// What must be made.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) name: Option<String>,
    pub(crate) attachment: Attachment,
    pub(crate) routers: u8,
    pub(crate) nodes: Vec<NodePlan>,
    pub(crate) namespaces: Vec<NamespacePlan>,
}

#[derive(Debug, Clone)]
pub(crate) struct NodePlan {
    pub(crate) name: String,
    pub(crate) cluster: String,
    pub(crate) number: NodeNumber,
    pub(crate) router: u8,
}

/// One namespace: links first (in all namespaces), then sysctls, then lines for `ip -batch`.
#[derive(Debug)]
pub(crate) struct NamespacePlan {
    pub(crate) name: String,
    pub(crate) links: Vec<LinkPlan>,
    pub(crate) interfaces: Vec<String>,
    pub(crate) sysctls: Vec<(&'static str, &'static str)>,
    pub(crate) lines: Vec<String>,
}

/// A veth pair whose first end is in the namespace that lists it.
#[derive(Debug)]
pub(crate) struct LinkPlan {
    pub(crate) name: String,
    pub(crate) peer_namespace: String,
    pub(crate) peer_name: String,
    pub(crate) mtu_bytes: u16,
}

impl NamespacePlan {
    fn new(name: String) -> Self {
        // Routers and nodes forward; plugins that want it switched on find it so.
        let sysctls = vec![("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1")];
        Self { name, links: Vec::new(), interfaces: Vec::new(), sysctls, lines: vec!["link set lo up".to_owned()] }
    }

    fn link(&mut self, name: &str, peer_namespace: &str, peer_name: &str, mtu_bytes: u16) {
        let (name, peer_namespace, peer_name) = (name.to_owned(), peer_namespace.to_owned(), peer_name.to_owned());
        self.links.push(LinkPlan { name, peer_namespace, peer_name, mtu_bytes });
    }

    fn interface(&mut self, name: &str, addresses: &[ipnetwork::IpNetwork]) {
        self.interfaces.push(name.to_owned());
        self.lines.push(format!("link set {name} up"));
        self.addresses(name, addresses);
    }

    fn addresses(&mut self, device: &str, addresses: &[ipnetwork::IpNetwork]) {
        for address in addresses {
            let nodad = if address.is_ipv6() { " nodad" } else { "" };
            self.lines.push(format!("address add {address} dev {device}{nodad}"));
        }
    }

    fn routes(&mut self, to: &[ipnetwork::IpNetwork], via: &[ipnetwork::IpNetwork], device: &str) {
        for (to, via) in to.iter().zip(via) {
            self.lines.push(format!("route add {} via {} dev {device}", masked(*to), via.ip()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(plan: &Plan, namespace: &str) -> Vec<String> {
        plan.namespaces.iter().find(|n| n.name == namespace).unwrap().lines.clone()
    }

    #[test]
    fn a_bridge_node_is_the_router_of_its_pods() {
        let plan = LabSpec::two_clusters(Attachment::Bridge).plan().unwrap();
        let names: Vec<_> = plan.namespaces.iter().map(|n| n.name.as_str()).collect();
        assert_eq!(names, ["r1", "r2", "r3", "ohio-1", "mumbai-1"]);
        assert_eq!(
            lines(&plan, "r1"),
            [
                "link set lo up",
                "link set next up",
                "address add 100.64.1.1/24 dev next",
                "address add fd64:0:1::1/64 dev next nodad",
                "link set ohio-1 up",
                "address add 100.65.1.1/24 dev ohio-1",
                "address add fd64:1:1::1/64 dev ohio-1 nodad",
                "route add 10.10.1.0/24 via 100.65.1.2 dev ohio-1",
                "route add fd10:10:1::/64 via fd64:1:1::2 dev ohio-1",
                "route add 10.20.1.0/24 via 100.64.1.2 dev next",
                "route add fd10:20:1::/64 via fd64:0:1::2 dev next",
                "route add 100.66.1.0/24 via 100.64.1.2 dev next",
                "route add fd64:2:1::/64 via fd64:0:1::2 dev next",
            ]
        );
        assert!(lines(&plan, "ohio-1").contains(&"route add default via 100.65.1.1 dev up0".to_owned()));
    }

    #[test]
    fn the_gateway_of_macvlan_pods_is_on_the_router() {
        let plan = LabSpec::two_clusters(Attachment::Macvlan).plan().unwrap();
        let first = lines(&plan, "r1");
        assert!(first.contains(&"address add 10.10.1.1/24 dev ohio-1".to_owned()), "{first:?}");
        assert!(!first.iter().any(|line| line.starts_with("route add 10.10.1.0/24")), "{first:?}");
        assert!(lines(&plan, "r5").contains(&"address add fd10:20:1::1/64 dev mumbai-1 nodad".to_owned()));
    }

    #[test]
    fn a_wire_stands_between_a_node_and_its_router() {
        let plan = LabSpec::two_clusters(Attachment::Bridge).with_wires().plan().unwrap();
        let names: Vec<_> = plan.namespaces.iter().map(|n| n.name.as_str()).collect();
        assert_eq!(names, ["r1", "r2", "r3", "ohio-1", "mumbai-1", "ohio-1-wire", "mumbai-1-wire"]);
        let links = |name: &str| -> Vec<String> {
            let part = plan.namespaces.iter().find(|n| n.name == name).unwrap();
            part.links.iter().map(|l| format!("{} - {}:{}", l.name, l.peer_namespace, l.peer_name)).collect()
        };
        assert_eq!(links("r3"), ["mumbai-1 - mumbai-1-wire:router"]);
        assert_eq!(links("mumbai-1-wire"), ["node - mumbai-1:up0"]);
        assert_eq!(lines(&plan, "ohio-1-wire"), ["link set lo up", "link set node up", "link set router up"]);
    }

    #[test]
    fn three_clusters_are_spread_over_the_chain() {
        let spec = LabSpec::new(Attachment::Bridge).cluster("a", 2).cluster("b", 1).cluster("c", 1);
        let routers: Vec<_> = spec.plan().unwrap().nodes.iter().map(|n| (n.name.clone(), n.router)).collect();
        assert_eq!(routers, [("a-1", 1), ("a-2", 1), ("b-1", 2), ("c-1", 3)].map(|(n, r)| (n.to_owned(), r)));
    }

    #[test]
    fn an_impossible_lab_is_refused_in_words() {
        let error = LabSpec::new(Attachment::Bridge).cluster("Ohio!", 1).plan().unwrap_err();
        assert!(error.to_string().contains("cluster name `Ohio!`"), "{error}");
        assert!(LabSpec::two_clusters(Attachment::Bridge).routers(0).plan().is_err());
        assert!(LabSpec::new(Attachment::Bridge).cluster_at("a", 1, 9).plan().is_err());
        assert!(LabSpec::two_clusters(Attachment::Bridge).named("../demo").plan().is_err());
    }
}
