//! Keys that nobody reads, and the ones that were meant.

use std::sync::LazyLock;

use crate::{
    finding::{Code, Findings, Place},
    guess,
    network::{Network, Plugin, PluginKind},
    node::{Kind, Member, Node},
    shape::Shape,
    values::is_key_material,
};

/// Keys of every plugin's object that CNI or Multus know (CNI 1.1.0 section 1; Multus adds those of devices).
pub(crate) const OF_EVERY_PLUGIN: [&str; 11] = [
    "type",
    "name",
    "cniVersion",
    "capabilities",
    "args",
    "runtimeConfig",
    "prevResult",
    "ipam",
    "dns",
    "deviceID",
    "pciBusID",
];
/// Keys of a list, which a single plugin's configuration is as well.
pub(crate) const OF_A_LIST: [&str; 7] =
    ["cniVersion", "cniVersions", "name", "disableCheck", "disableGC", "loadOnlyInlinedPlugins", "plugins"];
/// Capabilities that runtimes fill (CNI conventions, "Dynamic Plugin specific fields").
pub(crate) const CAPABILITIES: [&str; 11] = [
    "ips",
    "mac",
    "portMappings",
    "bandwidth",
    "ipRanges",
    "dns",
    "infinibandGUID",
    "deviceID",
    "aliases",
    "cgroupPath",
    "CNIDeviceInfoFile",
];
/// Plugins of the reference and of others that lists often have: they are no slips of ours.
const OTHER_PLUGINS: [&str; 27] = [
    "bandwidth",
    "bond",
    "calico",
    "calico-ipam",
    "cilium-cni",
    "dhcp",
    "dummy",
    "firewall",
    "flannel",
    "host-device",
    "host-local",
    "ib-sriov",
    "ipvlan",
    "loopback",
    "multus",
    "ovs",
    "portmap",
    "ptp",
    "route-override",
    "sbr",
    "sriov",
    "tap",
    "tuning",
    "vlan",
    "vrf",
    "whereabouts",
    "ipvtap",
];
/// Keys of other address plugins, which `static` does not have.
const OF_HOST_LOCAL: [&str; 6] = ["subnet", "rangeStart", "rangeEnd", "ranges", "dataDir", "resolvConf"];

/// What the parsers take.
pub(crate) struct Shapes {
    pub bridge: Shape,
    pub macvlan: Shape,
    pub tun: Shape,
    /// `ipam` with `static`.
    pub of_static: Shape,
}

/// Asked of the parsers once.
pub(crate) static SHAPES: LazyLock<Shapes> = LazyLock::new(|| {
    let of_static = Shape::of::<adit_static::Config>();
    Shapes {
        bridge: Shape::of::<adit_bridge::Config>(),
        macvlan: Shape::of::<adit_macvlan::Config>(),
        tun: Shape::of::<adit_tunnel::Config>(),
        of_static: of_static.member("ipam").cloned().unwrap_or(Shape::Any),
    }
});

impl Shapes {
    pub fn of(&self, kind: &PluginKind) -> Option<&Shape> {
        match kind {
            PluginKind::Bridge => Some(&self.bridge),
            PluginKind::Macvlan => Some(&self.macvlan),
            PluginKind::Tun => Some(&self.tun),
            PluginKind::Other(_) => None,
        }
    }
}

/// A place in a plugin's object, and how it is called.
struct Room {
    keys: Vec<&'static str>,
    /// As in "belongs into …".
    name: &'static str,
}

/// Where a key may be at home that stands elsewhere.
fn rooms() -> Vec<Room> {
    let shapes = &*SHAPES;
    let items = |shape: &Shape, key: &str| match shape.member(key) {
        Some(Shape::List(item)) => item.keys(),
        _ => Vec::new(),
    };
    let routes = items(&shapes.of_static, "routes");
    vec![
        Room { keys: vec!["capabilities", "args"], name: "the plugin's own object, beside its \"type\"" },
        Room { keys: shapes.of_static.keys(), name: "\"ipam\"" },
        Room { keys: items(&shapes.of_static, "addresses"), name: "an element of \"addresses\" in \"ipam\"" },
        Room {
            keys: routes.into_iter().filter(|key| !["mtu"].contains(key)).collect(),
            name: "an element of \"routes\" in \"ipam\"",
        },
        Room {
            keys: items(&shapes.tun, "peers").into_iter().filter(|key| shapes.tun.member(key).is_none()).collect(),
            name: "an element of \"peers\" of tun",
        },
        Room { keys: own(&shapes.tun), name: "the object of tun" },
        Room { keys: own(&shapes.bridge), name: "the object of bridge" },
        Room { keys: own(&shapes.macvlan), name: "the object of macvlan" },
        Room {
            keys: vec!["disableCheck", "disableGC", "loadOnlyInlinedPlugins", "cniVersions"],
            name: "the list, beside \"plugins\"",
        },
        Room { keys: OF_HOST_LOCAL.to_vec(), name: "\"ipam\" with the type host-local" },
    ]
}

fn own(shape: &Shape) -> Vec<&'static str> {
    shape.keys().into_iter().filter(|key| !OF_EVERY_PLUGIN.contains(key)).collect()
}

/// Remarks, and what runtimes add.
fn is_remark(key: &str) -> bool {
    key.starts_with(['_', '#', '$'])
        || key.starts_with("//")
        || key.starts_with("x-")
        || key.starts_with("cni.dev/")
        || key == "comment"
}

/// Every key of the network that nobody reads.
pub(crate) fn check(network: &Network, findings: &mut Findings) {
    let room = Checker { file: network.file };
    if network.is_list {
        for member in network
            .root
            .members()
            .iter()
            .filter(|member| !OF_A_LIST.iter().any(|key| key.eq_ignore_ascii_case(&member.key)))
        {
            room.unknown(member, &OF_A_LIST, "the list", findings);
        }
    }
    for plugin in &network.plugins {
        room.plugin(plugin, network.is_list, findings);
    }
}

struct Checker {
    file: usize,
}

impl Checker {
    fn plugin(&self, plugin: &Plugin, is_list: bool, findings: &mut Findings) {
        if let Some(shape) = SHAPES.of(&plugin.kind) {
            let mut known: Vec<&'static str> = shape.keys();
            known.extend(OF_EVERY_PLUGIN.iter().filter(|key| !shape.keys().contains(key)));
            if !is_list {
                known.extend(OF_A_LIST.iter().filter(|key| !OF_EVERY_PLUGIN.contains(key)));
            }
            for member in plugin.node.members() {
                let key = known.iter().find(|key| key.eq_ignore_ascii_case(&member.key));
                match key {
                    None => self.unknown(member, &known, plugin.kind.name(), findings),
                    // What follows is filled by others, or is the address plugin's.
                    Some(&("ipam" | "args" | "runtimeConfig" | "prevResult" | "capabilities")) => {}
                    Some(key) => {
                        shape.member(key).into_iter().for_each(|shape| self.within(&member.value, shape, key, findings))
                    }
                }
            }
        } else {
            self.type_name(plugin, findings);
        }
        self.capabilities(plugin, findings);
        self.ipam(plugin, findings);
    }

    fn within(&self, node: &Node, shape: &Shape, name: &str, findings: &mut Findings) {
        match shape {
            Shape::List(item) => node.items().iter().for_each(|node| self.within(node, item, name, findings)),
            Shape::Object(_) => {
                let known = shape.keys();
                for member in node.members() {
                    match shape.member(&member.key) {
                        None => self.unknown(member, &known, &format!("\"{name}\""), findings),
                        Some(inner) => self.within(&member.value, inner, &member.key, findings),
                    }
                }
            }
            _ => {}
        }
    }

    fn ipam(&self, plugin: &Plugin, findings: &mut Findings) {
        let Some(ipam) = plugin.ipam() else { return };
        let shape = &SHAPES.of_static;
        let is_static = plugin.ipam_type() == Some("static");
        for member in ipam.members() {
            if member.key.eq_ignore_ascii_case("type") {
                if let Some(name) = member.value.text() {
                    self.near_name(name, member.value.at, ["static", "host-local", "dhcp", "whereabouts"], findings);
                }
                continue;
            }
            match shape.member(&member.key) {
                Some(inner) if is_static => self.within(&member.value, inner, &member.key, findings),
                None if is_static => {
                    let mut known = shape.keys();
                    known.push("type");
                    self.unknown(member, &known, "\"ipam\" (static)", findings);
                }
                // Other address plugins have keys of their own, but none has this one.
                _ if guess::distance(&member.key, "capabilities") <= 3 => {
                    self.unknown(member, &[], "\"ipam\"", findings)
                }
                _ => {}
            }
        }
    }

    fn capabilities(&self, plugin: &Plugin, findings: &mut Findings) {
        let Some(capabilities) = plugin.node.get_any_case("capabilities") else { return };
        for member in capabilities.members().iter().filter(|member| !CAPABILITIES.contains(&member.key.as_str())) {
            if let Some((meant, _)) = guess::nearest(&member.key, CAPABILITIES) {
                findings.warning(
                    Place { file: self.file, at: member.at },
                    Code::UnknownKey,
                    format!("{:?} is no capability that a runtime fills", member.key),
                    format!("{meant:?} is meant"),
                );
            }
        }
    }

    fn type_name(&self, plugin: &Plugin, findings: &mut Findings) {
        let name = plugin.kind.name();
        let at = plugin.node.get_any_case("type").map_or(plugin.node.at, |node| node.at);
        self.near_name(name, at, ["bridge", "macvlan", "tun", "tuning"], findings);
    }

    fn near_name<'a>(
        &self,
        name: &str,
        at: usize,
        known: impl IntoIterator<Item = &'a str> + Clone,
        findings: &mut Findings,
    ) {
        if OTHER_PLUGINS.contains(&name)
            || known.clone().into_iter().any(|known| known == name)
            || name == "adit-static"
        {
            return;
        }
        if let Some((meant, _)) = guess::nearest(name, known).filter(|(meant, _)| !name.contains(meant)) {
            findings.warning(
                Place { file: self.file, at },
                Code::UnknownType,
                format!("{name:?} is hardly the name of a plugin"),
                format!("{meant:?} is meant"),
            );
        }
    }

    fn unknown(&self, member: &Member, known: &[&str], room: &str, findings: &mut Findings) {
        let key = member.key.as_str();
        if is_remark(key) || is_key_material(member) {
            return;
        }
        let here = guess::nearest(key, known.iter().copied());
        let elsewhere = elsewhere(key, known);
        let remedy = match (here, elsewhere) {
            (Some((meant, distance)), None) if distance <= guess::reach(key) => format!("{meant:?} is meant"),
            (Some((meant, distance)), Some((_, other, _))) if distance <= other || distance <= 1 => {
                format!("{meant:?} is meant")
            }
            (_, Some((_, 0, room))) => format!("it belongs into {room}"),
            (_, Some((meant, _, room))) => format!("{meant:?} is meant, and belongs into {room}"),
            _ => "remove it".to_owned(),
        };
        let remedy = match (&member.value.kind, remedy.as_str()) {
            // The famous one: who writes it here usually has no other.
            (Kind::Map(_), _) if room.starts_with("\"ipam\"") && guess::distance(key, "capabilities") <= 3 => {
                "\"capabilities\" is meant, and belongs into the plugin's own object, beside its \"type\"; without it addresses of the \
                 pod's annotation arrive through CNI_ARGS alone"
                    .to_owned()
            }
            _ => remedy,
        };
        findings.warning(
            Place { file: self.file, at: member.at },
            Code::UnknownKey,
            format!("{key:?} is no key of {room}, and does nothing there"),
            remedy,
        );
    }
}

/// The room that has a key of that name, or nearly: the key, how far it is, and the room.
fn elsewhere(key: &str, here: &[&str]) -> Option<(&'static str, usize, &'static str)> {
    let near = rooms().into_iter().flat_map(|room| {
        let name = room.name;
        room.keys.into_iter().map(move |known| (known, name))
    });
    near.filter(|(known, _)| !here.contains(known))
        .map(|(known, room)| (known, guess::distance(key, known), room))
        .filter(|(_, distance, _)| *distance <= guess::reach(key))
        .min_by_key(|(_, distance, _)| *distance)
}
