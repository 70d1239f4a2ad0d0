//! Which part of a pod's annotation reaches which plugin, and how.

use std::rc::Rc;

use crate::{
    manifest::Objects,
    network::{Network, PluginKind},
    node::Node,
    pod::{Pod, Selection},
    selection::{candidates, tunnel_name},
    values::shown,
};

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// The pod, or the template of pods.
    pub pod: String,
    /// The network, and the interface that it becomes.
    pub network: String,
    /// The key of the annotation's element.
    pub key: String,
    /// Its value.
    pub value: String,
    /// The plugin or plugins.
    pub reaches: String,
    /// By which means.
    pub how: String,
}

pub(crate) fn explain(objects: &Objects) -> Vec<Way> {
    let mut ways = Vec::new();
    for pod in &objects.pods {
        for selection in &pod.selections {
            let networks = candidates(objects, pod, selection);
            let mut explain = Explain { pod, selection, ways: &mut ways };
            match networks.first() {
                Some(network) => explain.network(network),
                None => explain.way("name", &selection.label(), "", "no given file defines it"),
            }
        }
    }
    ways
}

struct Explain<'a> {
    pod: &'a Pod,
    selection: &'a Selection,
    ways: &'a mut Vec<Way>,
}

impl Explain<'_> {
    fn way(&mut self, key: &str, value: &str, reaches: &str, how: &str) {
        self.ways.push(Way {
            pod: self.pod.label(),
            network: format!("{} as {}", self.selection.label(), self.selection.interface),
            key: key.to_owned(),
            value: value.to_owned(),
            reaches: reaches.to_owned(),
            how: how.to_owned(),
        });
    }

    fn network(&mut self, network: &Rc<Network>) {
        let all: Vec<&str> = network.plugins.iter().map(|plugin| plugin.kind.name()).collect();
        let all = all.join(", ");
        self.way("interface", &self.selection.interface.clone(), &all, "CNI_IFNAME");
        let Some(node) = self.selection.node.clone() else { return };
        for member in node.members() {
            let value = short(&member.value);
            match member.key.as_str() {
                "name" | "namespace" | "interface" | "interfaceRequest" => {}
                "ips" => self.ips(network, &value),
                "mac" => {
                    self.way("mac", &value, &all, "CNI_ARGS MAC, on ADD (tun and its address plugin leave it alone)");
                    self.capability(network, "mac", &value);
                }
                "cni-args" => self.args(network, &member.value, &all),
                "default-route" => self.way(
                    "default-route",
                    &value,
                    "nobody",
                    "Multus itself changes the pod's routes after ADD (4.3 does not)",
                ),
                "ipam-claim-reference" => self.way("ipam-claim-reference", &value, "nobody", "Multus drops it"),
                "infiniband-guid" => self.capability(network, "infinibandGUID", &value),
                "portMappings" | "bandwidth" | "deviceID" => self.capability(network, &member.key, &value),
                other => self.way(other, &value, "nobody", "Multus knows no such key"),
            }
        }
    }

    fn ips(&mut self, network: &Rc<Network>, value: &str) {
        for plugin in &network.plugins {
            let name = plugin.kind.name();
            let has_capability = plugin.has_capability("ips");
            let (reaches, how) = match (&plugin.kind, plugin.ipam_type()) {
                (PluginKind::Tun, _) => {
                    (format!("not {name}"), "its address is not the one of the interface below: cni-args".to_owned())
                }
                (_, Some("static")) if has_capability => {
                    (format!("{name}, static"), "runtimeConfig.ips: in place of ipam.addresses".to_owned())
                }
                (_, Some("static")) => (
                    format!("{name}, static"),
                    "CNI_ARGS IP, on ADD: beside ipam.addresses (no \"capabilities\": { \"ips\": true })".to_owned(),
                ),
                (_, Some(ipam)) if has_capability => (
                    format!("{name}, {ipam}"),
                    "runtimeConfig.ips and CNI_ARGS IP: what it makes of them is its own".to_owned(),
                ),
                (_, Some(ipam)) => {
                    (format!("{name}, {ipam}"), "CNI_ARGS IP, on ADD: what it makes of it is its own".to_owned())
                }
                (_, None) => (format!("not {name}"), "it has no ipam".to_owned()),
            };
            self.way("ips", value, &reaches, &how);
        }
    }

    fn capability(&mut self, network: &Rc<Network>, capability: &str, value: &str) {
        let takers: Vec<&str> = network
            .plugins
            .iter()
            .filter(|plugin| plugin.has_capability(capability))
            .map(|plugin| plugin.kind.name())
            .collect();
        if takers.is_empty() && capability != "mac" {
            self.way(
                capability,
                value,
                "nobody",
                &format!("no member has \"capabilities\": {{ \"{capability}\": true }}"),
            );
        } else if !takers.is_empty() {
            self.way(capability, value, &takers.join(", "), &format!("runtimeConfig.{capability}"));
        }
    }

    fn args(&mut self, network: &Rc<Network>, args: &Node, all: &str) {
        for member in args.members() {
            let tunnel = network.tunnels().find(|plugin| tunnel_name(plugin) == member.key);
            if tunnel.is_none() {
                self.way(
                    &format!("cni-args.{}", member.key),
                    &short(&member.value),
                    all,
                    &format!("args.cni.{}", member.key),
                );
                continue;
            }
            for own in member.value.members() {
                let how = match own.key.as_str() {
                    "ips" => "args.cni: the addresses of the tunnel, in place of its ipam.addresses".to_owned(),
                    key => {
                        format!("args.cni: in place of \"{key}\" in the tunnel's object, if its \"overrides\" lists it")
                    }
                };
                let value = short(&own.value);
                self.way(&format!("cni-args.{}.{}", member.key, own.key), shown(&own.key, &value), "tun", &how);
            }
        }
    }
}

fn short(node: &Node) -> String {
    node.to_value().to_string()
}
