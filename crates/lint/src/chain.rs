//! The order of a list's members, and what two tunnels of one list may not share.

use std::net::IpAddr;

use adit_tunnel::{Encap, Engine, Intent};

use crate::{
    finding::{Code, Findings},
    network::{Network, Plugin, PluginKind},
    values::{filled, has_interfaces, tunnel},
};

/// Plugins that change the interface below a tunnel, or its routes.
const BEFORE_TUN: [&str; 2] = ["tuning", "sbr"];

pub(crate) fn check(network: &Network, findings: &mut Findings) {
    let at = |plugin: &Plugin| network.place(plugin.node.get_any_case("type").map_or(plugin.node.at, |node| node.at));
    let is_tun = |plugin: &Plugin| plugin.kind == PluginKind::Tun;
    for (index, plugin) in network.plugins.iter().enumerate() {
        if is_tun(plugin) {
            check_tun(network, plugin, index, findings);
        }
        let before: Vec<&Plugin> = network.plugins.iter().take(index).collect();
        if matches!(plugin.kind, PluginKind::Bridge | PluginKind::Macvlan)
            && before.iter().any(|earlier| !is_tun(earlier))
        {
            findings.error(
                at(plugin),
                Code::Chain,
                format!(
                    "{} is no. {} of the list, and makes the interface that is there by then",
                    plugin.kind.name(),
                    index.saturating_add(1)
                ),
                "put it first, and let one plugin of a list make the interface",
            );
        }
        if BEFORE_TUN.contains(&plugin.kind.name()) && before.iter().any(|earlier| is_tun(earlier)) {
            findings.warning(
                at(plugin),
                Code::Chain,
                format!("{} comes after tun, and changes what the tunnel stands on", plugin.kind.name()),
                "put it before tun",
            );
        }
    }
    clashes(network, findings);
}

fn check_tun(network: &Network, plugin: &Plugin, index: usize, findings: &mut Findings) {
    let place = network.place(plugin.node.get_any_case("type").map_or(plugin.node.at, |node| node.at));
    if !network.is_list {
        return findings.error(
            place,
            Code::Chain,
            "tun is configured alone, and it stands on an interface that another plugin makes",
            "write a list, \"plugins\": [{ \"type\": \"bridge\", … }, { \"type\": \"tun\", … }]",
        );
    }
    if index == 0 {
        findings.error(
            place,
            Code::Chain,
            "tun is the first of the list, and there is no interface yet that it could stand on",
            "put the plugin that makes one (bridge or macvlan) before it",
        );
    }
    if !has_interfaces(network.version) {
        findings.error(
            place,
            Code::Chain,
            format!("the list speaks CNI {}, whose results name no interface that tun could stand on", network.version),
            "write \"cniVersion\": \"1.1.0\"",
        );
    }
}

/// Tunnels of one list that cannot be in one pod.
fn clashes(network: &Network, findings: &mut Findings) {
    let tunnels: Vec<(&Plugin, Intent)> =
        network.tunnels().filter_map(|plugin| Some((plugin, tunnel(&filled(&plugin.raw)).ok()?.intent))).collect();
    for (index, (plugin, intent)) in tunnels.iter().enumerate() {
        for (_, earlier) in tunnels.iter().take(index) {
            let at = |key: &str| network.place(plugin.node.get_any_case(key).map_or(plugin.node.at, |node| node.at));
            if earlier.if_name == intent.if_name {
                findings.error(
                    at("ifName"),
                    Code::TunnelClash,
                    format!("two tunnels of the list are called {}", intent.if_name),
                    format!("give one of them another \"ifName\", such as \"{}2\"", intent.if_name),
                );
            }
            if let Some(port) = shared_port(earlier, intent) {
                let (message, remedy) = if intent.encap == Encap::Vxlan && earlier.encap == Encap::Vxlan {
                    (
                        format!("two vxlan tunnels of the list share port {port} and VNI"),
                        "give one of them another \"vni\"".to_owned(),
                    )
                } else {
                    let other = port.checked_add(1).unwrap_or(6091);
                    (
                        format!("two tunnels of the list receive at port {port}"),
                        format!("give one of them another, such as \"local\": \"0.0.0.0:{other}\""),
                    )
                };
                findings.error(at("local"), Code::TunnelClash, message, remedy);
            }
        }
    }
}

fn shared_port(one: &Intent, other: &Intent) -> Option<u16> {
    let port = |intent: &Intent| intent.local.map_or(intent.encap.default_port(), |local| local.port());
    let address = |intent: &Intent| intent.local.map(|local| local.ip()).filter(|ip: &IpAddr| !ip.is_unspecified());
    let family = |intent: &Intent| intent.reachable().next().map(|(_, endpoint)| endpoint.is_ipv6());
    let kernels = [one, other].iter().filter(|intent| intent.engine == Engine::Kernel).count();
    // The kernel receives at the port of every address.
    let apart = one.underlay != other.underlay
        || kernels == 0
            && (one.device != other.device
                || matches!((address(one), address(other)), (Some(one), Some(other)) if one != other)
                || matches!((family(one), family(other)), (Some(one), Some(other)) if one != other));
    let by_vni = matches!((one.vxlan, other.vxlan), (Some(one), Some(other)) if one.vni != other.vni);
    (port(one) == port(other) && !apart && !by_vni).then(|| port(one))
}
