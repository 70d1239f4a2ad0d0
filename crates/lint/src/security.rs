//! What a pod asks for although its tunnel needs none of it.

use crate::{
    finding::{Code, Findings},
    network::Network,
    node::{Kind, Node},
    pod::Pod,
};

const REMEDY: &str = "remove it if it is there for the network: interfaces and tunnels are made on the node, and the pod needs no right for them";

/// For a pod in a network that has a tunnel.
pub(crate) fn check(pod: &Pod, network: &Network, findings: &mut Findings) {
    if network.tunnels().next().is_none() {
        return;
    }
    let Some(spec) = &pod.spec else { return };
    let containers = ["containers", "initContainers", "ephemeralContainers"];
    let containers = containers.iter().filter_map(|key| spec.get(key)).flat_map(Node::items);
    for context in containers.filter_map(|container| container.get("securityContext")) {
        let added = context
            .get("capabilities")
            .and_then(|capabilities| capabilities.get("add"))
            .map(Node::items)
            .unwrap_or_default();
        for capability in added {
            let name = capability.text().unwrap_or_default();
            if matches!(name.trim_start_matches("CAP_"), "NET_ADMIN" | "SYS_ADMIN" | "ALL") {
                findings.note(
                    pod.place(capability.at),
                    Code::NeedlessPrivilege,
                    format!("the pod asks for the capability {name}, which no tunnel needs"),
                    REMEDY,
                );
            }
        }
        if let Some(node) = context.get("privileged").filter(|node| matches!(node.kind, Kind::Bool(true))) {
            findings.note(
                pod.place(node.at),
                Code::NeedlessPrivilege,
                "the pod is privileged, which no tunnel needs",
                REMEDY,
            );
        }
    }
    for volume in spec.get("volumes").map(Node::items).unwrap_or_default() {
        if let Some(member) = volume.member("hostPath") {
            findings.note(
                pod.place(member.at),
                Code::NeedlessPrivilege,
                "the pod mounts a folder of the node, which no tunnel needs",
                REMEDY,
            );
        }
    }
    if let Some(member) = spec.member("hostNetwork").filter(|member| matches!(member.value.kind, Kind::Bool(true))) {
        findings.warning(
            pod.place(member.at),
            Code::NeedlessPrivilege,
            "the pod uses the node's own network, so Multus attaches it to nothing",
            "remove hostNetwork, or the annotation",
        );
    }
}
