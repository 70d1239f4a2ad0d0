//! What a pod asks of a network, and whether anybody there hears it.

use std::{net::IpAddr, rc::Rc};

use crate::{
    finding::{Code, Findings, Place},
    guess,
    manifest::Objects,
    network::{Network, Plugin, PluginKind},
    node::Node,
    pod::{Pod, Selection},
};

/// Members of `args.cni` that have a meaning for plugins that lint does not know by name (CNI conventions).
const ARGS_OF_CONVENTION: [&str; 3] = ["ips", "mac", "labels"];
/// Chained plugins that take nothing from `args.cni`.
const TAKE_NO_ARGS: [&str; 4] = ["sbr", "bandwidth", "portmap", "firewall"];
/// What `tuning` takes from `args.cni`.
const ARGS_OF_TUNING: [&str; 6] = ["sysctl", "mac", "mtu", "promisc", "allmulti", "txQLen"];

/// The networks that a selection may mean: of several with one name (as in files for two clusters) that in the pod's own file, or else those
/// in its folder.
pub(crate) fn candidates(objects: &Objects, pod: &Pod, selection: &Selection) -> Vec<Rc<Network>> {
    let is_named = |network: &&Rc<Network>| {
        let named = network.definition.as_ref();
        named.is_some_and(|(namespace, name)| *namespace == selection.namespace && *name == selection.name)
    };
    let all: Vec<Rc<Network>> = objects.networks.iter().filter(is_named).cloned().collect();
    let folder = |file: usize| objects.folders.get(file);
    let own = |is_own: &dyn Fn(&Network) -> bool| -> Vec<Rc<Network>> {
        all.iter().filter(|network| is_own(network)).cloned().collect()
    };
    let nearer = [own(&|network| network.file == pod.file), own(&|network| folder(network.file) == folder(pod.file))];
    nearer.into_iter().find(|own| !own.is_empty()).unwrap_or(all)
}

/// A name that none of the files defines is worth a note where they define others of its namespace.
pub(crate) fn unknown(objects: &Objects, pod: &Pod, selection: &Selection, findings: &mut Findings) {
    let read = objects.networks.iter().filter_map(|network| network.definition.as_ref());
    let names: Vec<&str> = read
        .chain(&objects.unread)
        .filter(|(namespace, _)| *namespace == selection.namespace)
        .map(|(_, name)| name.as_str())
        .collect();
    if names.is_empty() || names.contains(&selection.name.as_str()) {
        return;
    }
    let remedy = match guess::nearest(&selection.name, names) {
        Some((meant, _)) => format!("{meant:?} is meant, or the file that defines it is to be given too"),
        None => "give the file that defines it too".to_owned(),
    };
    findings.note(
        pod.place(selection.name_at),
        Code::UnknownNetwork,
        format!("no file defines the network {}", selection.label()),
        remedy,
    );
}

/// What of the annotation nobody in the network hears, or more than one.
pub(crate) fn check(network: &Network, pod: &Pod, selection: &Selection, findings: &mut Findings) {
    ips(network, pod, selection, findings);
    prefixes(network, pod, selection, findings);
    cni_args(network, pod, selection, findings);
    for plugin in network.tunnels() {
        if tunnel_name(plugin) == selection.interface {
            findings.error(
                pod.place(selection.at),
                Code::InterfaceName,
                format!("{} is the name of the interface below the tunnel and of the tunnel", selection.interface),
                "write another \"interface\" here, or another \"ifName\" for tun",
            );
        }
    }
}

pub(crate) fn tunnel_name(plugin: &Plugin) -> &str {
    plugin.node.get_any_case("ifName").and_then(Node::text).unwrap_or("tun")
}

/// How an address plugin gets what the annotation's `ips` say.
fn takes_ips(plugin: &Plugin) -> Option<bool> {
    match plugin.ipam_type() {
        _ if plugin.kind == PluginKind::Tun => Some(false),
        None if matches!(plugin.kind, PluginKind::Other(_))
            && !TAKE_NO_ARGS.contains(&plugin.kind.name())
            && plugin.kind.name() != "tuning" =>
        {
            None
        }
        None => Some(false),
        Some("static") => Some(true),
        // It may read CNI_ARGS, or the capability, or neither.
        Some(_) if plugin.has_capability("ips") => Some(true),
        Some(_) => None,
    }
}

fn ips(network: &Network, pod: &Pod, selection: &Selection, findings: &mut Findings) {
    let Some(member) = selection.node.as_ref().and_then(|node| node.member("ips")) else { return };
    if selection.ips().is_empty() {
        return;
    }
    let place = pod.place(member.at);
    let takers: Vec<Option<bool>> = network.plugins.iter().map(takes_ips).collect();
    let certain = takers.iter().filter(|takes| **takes == Some(true)).count();
    let has_tunnel = network.tunnels().next().is_some();
    if takers.iter().all(|takes| *takes == Some(false)) {
        let remedy = match network.tunnels().next() {
            Some(tunnel) => format!(
                "give the plugin below the tunnel \"ipam\": {{ \"type\": \"static\" }}; an address of the tunnel is written as \"cni-args\": {{ \"{0}\": {{ \"ips\": […] }} }}",
                tunnel_name(tunnel)
            ),
            None => {
                "give the plugin \"ipam\": { \"type\": \"static\" } and \"capabilities\": { \"ips\": true }".to_owned()
            }
        };
        findings.warning(
            place,
            Code::IpsUnused,
            format!("\"ips\" reaches nobody: no member of {} gives its interface addresses", network.label()),
            remedy,
        );
    }
    if certain > 1 {
        let names: Vec<&str> = network
            .plugins
            .iter()
            .filter(|plugin| takes_ips(plugin) == Some(true))
            .map(|plugin| plugin.kind.name())
            .collect();
        let tunnel = if has_tunnel { "; a tunnel's address belongs into \"cni-args\"" } else { "" };
        findings.warning(
            place,
            Code::IpsTwice,
            format!("\"ips\" reaches {} members of {}: {}", certain, network.label(), names.join(", ")),
            format!("leave one of them \"ipam\": {{ \"type\": \"static\" }}{tunnel}"),
        );
    }
    for plugin in &network.plugins {
        let configured =
            plugin.ipam().and_then(|ipam| ipam.get_any_case("addresses")).map(Node::items).unwrap_or_default();
        let is_added =
            takes_ips(plugin) == Some(true) && plugin.ipam_type() == Some("static") && !plugin.has_capability("ips");
        if is_added && !configured.is_empty() {
            let own: Vec<&str> = configured.iter().filter_map(|entry| entry.get_any_case("address")?.text()).collect();
            findings.warning(
                place,
                Code::IpsAdded,
                format!("{} keeps the address of {} ({}) beside these", selection.interface, network.label(), own.join(", ")),
                format!("write \"capabilities\": {{ \"ips\": true }} beside \"type\": \"{}\", and the annotation's replace it; or remove one of them", plugin.kind.name()),
            );
        }
    }
}

/// `static` takes no address without the length of its prefix; other address plugins may know it themselves.
fn prefixes(network: &Network, pod: &Pod, selection: &Selection, findings: &mut Findings) {
    if !network.plugins.iter().any(|plugin| plugin.kind != PluginKind::Tun && plugin.ipam_type() == Some("static")) {
        return;
    }
    for (at, text) in selection.ips() {
        if let Ok(address) = text.parse::<IpAddr>() {
            let usual = if address.is_ipv4() { 24 } else { 64 };
            findings.error(
                pod.place(at),
                Code::Prefix,
                format!("{text} has no prefix length, and static refuses it"),
                format!("write that of its subnet behind it, such as {text}/{usual}"),
            );
        }
    }
}

fn cni_args(network: &Network, pod: &Pod, selection: &Selection, findings: &mut Findings) {
    let Some(args) = selection.cni_args() else { return };
    let tunnels: Vec<&str> = network.tunnels().map(tunnel_name).collect();
    let takes = |key: &str| {
        network.plugins.iter().any(|plugin| match &plugin.kind {
            PluginKind::Other(name) if name == "tuning" => ARGS_OF_TUNING.contains(&key),
            PluginKind::Other(name) => !TAKE_NO_ARGS.contains(&name.as_str()),
            // An address plugin that lint does not know may take anything.
            PluginKind::Bridge | PluginKind::Macvlan => plugin.ipam_type().is_some_and(|name| name != "static"),
            PluginKind::Tun => false,
        })
    };
    for member in args.members() {
        let key = member.key.as_str();
        if tunnels.contains(&key) || ARGS_OF_CONVENTION.contains(&key) || takes(key) {
            continue;
        }
        let remedy = match (guess::nearest(key, tunnels.iter().copied()), tunnels.as_slice()) {
            (Some((meant, _)), _) => format!("{meant:?} is meant"),
            (None, []) => "the network has no tunnel: remove it, or name the network that has one".to_owned(),
            (None, [only]) if member.value.is_map() => format!("the tunnel is called {only:?} (its \"ifName\")"),
            (None, [only]) => format!("what the tunnel is to be told stands in {{ {only:?}: {{ … }} }}"),
            (None, several) => format!("the tunnels are called {}", several.join(", ")),
        };
        findings.warning(
            Place { file: pod.file, at: member.at },
            Code::UnknownInterface,
            format!("\"cni-args\" speaks to {key:?}, and {} has nobody of that name", network.label()),
            remedy,
        );
    }
}
