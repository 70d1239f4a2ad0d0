//! What happens when a pod is attached to a network, as far as files can tell: the plugins' own decisions, without a kernel.

use std::rc::Rc;

use adit_cni::{CniArgs, CniResult, Error, config::from_value};
use adit_net::MacAddress;
use adit_tunnel::{Intent, parse::masked};
use ipnetwork::IpNetwork;
use serde_json::{Map, Value, json};

use crate::{
    finding::{Code, Findings, Place},
    network::{Network, Plugin, PluginKind},
    node::{self, Node},
    pod::Selection,
    values::{self, spoken_of},
};

mod tunnel;

/// MTU of a veth that is given none, in bytes (Linux, `drivers/net/veth.c`: `ether_setup`).
const VETH_MTU_BYTES: u32 = 1500;
/// No path is larger (IP's total length).
const LARGEST_MTU_BYTES: u32 = 65_535;
/// Chained plugins that change neither addresses nor routes of the main table.
const HARMLESS: [&str; 5] = ["tuning", "sbr", "bandwidth", "portmap", "firewall"];

/// A network with a pod in it, or by itself.
#[derive(Debug)]
pub(crate) struct Attached {
    pub network: Rc<Network>,
    /// Of the interface below; `None`: not known from files.
    pub addresses: Option<Vec<IpNetwork>>,
    pub mac: Option<MacAddress>,
    pub ends: Vec<End>,
}

/// One end of a tunnel.
#[derive(Debug)]
pub(crate) struct End {
    pub intent: Intent,
    /// The tunnel's own addresses; `None`: not known from files.
    pub inner: Option<Vec<IpNetwork>>,
    /// What else is routed to its interface.
    pub routes: Vec<IpNetwork>,
    /// The plugin's object.
    pub node: Node,
    pub file: usize,
}

impl End {
    pub fn port(&self) -> u16 {
        self.intent.local.map_or(self.intent.encap.default_port(), |local| local.port())
    }

    /// Where a key of it stands, or else the object.
    pub fn place(&self, key: &str) -> Place {
        Place { file: self.file, at: self.node.follow(&node::path(key)).at }
    }
}

/// What is known of the interface below a tunnel.
struct Below {
    name: String,
    addresses: Option<Vec<IpNetwork>>,
    routes: Vec<(IpNetwork, Option<u32>)>,
    mtu_bytes: u32,
    /// Nobody whom lint does not know had a hand in it.
    is_certain: bool,
}

/// Attaches a pod with `selection`, in the file `pod_file`; without one the network is looked at by itself.
pub(crate) fn attach(network: &Rc<Network>, pod: Option<(&Selection, usize)>, findings: &mut Findings) -> Attached {
    let name = pod.map_or("net1", |(selection, _)| selection.interface.as_str()).to_owned();
    let below = Below { name, addresses: None, routes: Vec::new(), mtu_bytes: LARGEST_MTU_BYTES, is_certain: true };
    let mut attach = Attach { network, pod, below, mac: None, findings };
    let mut ends = Vec::new();
    for (index, plugin) in network.plugins.iter().enumerate() {
        match &plugin.kind {
            PluginKind::Bridge => attach.bridge(plugin),
            PluginKind::Macvlan => attach.macvlan(plugin),
            PluginKind::Tun if index > 0 => ends.extend(attach.tun(plugin)),
            PluginKind::Tun => {}
            PluginKind::Other(name) => {
                if name == "tuning"
                    && let Some(mtu) =
                        plugin.node.get("mtu").and_then(Node::number).and_then(|mtu| u32::try_from(mtu).ok())
                    && mtu > 0
                {
                    attach.below.mtu_bytes = mtu;
                }
                if !HARMLESS.contains(&name.as_str()) {
                    attach.below.is_certain = false;
                }
            }
        }
    }
    let Attach { below, mac, .. } = attach;
    Attached { network: Rc::clone(network), addresses: below.addresses, mac, ends }
}

struct Attach<'a> {
    network: &'a Rc<Network>,
    pod: Option<(&'a Selection, usize)>,
    below: Below,
    mac: Option<MacAddress>,
    findings: &'a mut Findings,
}

impl Attach<'_> {
    fn selection(&self) -> Option<&Selection> {
        self.pod.map(|(selection, _)| selection)
    }

    /// What Multus adds to the plugin's object.
    fn raw(&self, plugin: &Plugin) -> Map<String, Value> {
        let mut raw = values::filled(&plugin.raw);
        let Some(selection) = self.selection() else { return raw };
        if let Some(args) = selection.cni_args() {
            let own = raw
                .get("args")
                .and_then(|args| args.get("cni"))
                .and_then(Value::as_object)
                .cloned()
                .unwrap_or_default();
            let cni: Map<String, Value> = own.into_iter().chain(args.to_object()).collect();
            raw.insert("args".into(), json!({ "cni": cni }));
        }
        let mut runtime = Map::new();
        for key in ["ips", "mac"] {
            if let Some(node) = selection.get(key).filter(|_| plugin.has_capability(key)) {
                runtime.insert(key.to_owned(), node.to_value());
            }
        }
        if !runtime.is_empty() {
            raw.insert("runtimeConfig".into(), Value::Object(runtime));
        }
        raw
    }

    fn args(&self) -> CniArgs {
        let Some(selection) = self.selection() else { return CniArgs::default() };
        let ips: Vec<&str> = selection.ips().into_iter().map(|(_, text)| text).collect();
        let mac = selection.get("mac").and_then(Node::text);
        let pairs = [("IP", (!ips.is_empty()).then(|| ips.join(","))), ("MAC", mac.map(str::to_owned))];
        pairs.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
    }

    fn bridge(&mut self, plugin: &Plugin) {
        let Some(network) =
            self.checked(plugin, |config: &adit_bridge::Config, args, version| config.validate(args, version))
        else {
            return self.addresses_alone(plugin);
        };
        self.mac = network.mac;
        self.below.mtu_bytes = network.mtu.unwrap_or(VETH_MTU_BYTES);
        let name = self.below.name.clone();
        self.addressed(plugin, |result| adit_bridge::AddressPlan::new(&network, &name, result).map(|plan| plan.result));
    }

    fn macvlan(&mut self, plugin: &Plugin) {
        let Some(network) =
            self.checked(plugin, |config: &adit_macvlan::Config, args, version| config.validate(args, version))
        else {
            return self.addresses_alone(plugin);
        };
        self.mac = network.mac;
        self.below.mtu_bytes = u32::try_from(network.mtu).ok().filter(|mtu| *mtu > 0).unwrap_or(LARGEST_MTU_BYTES);
        let master = adit_macvlan::Master { name: "its master", mtu: self.below.mtu_bytes };
        let name = self.below.name.clone();
        self.addressed(plugin, |result| {
            adit_macvlan::AddressPlan::new(&network, &name, master, network.dad, result).map(|plan| plan.result)
        });
    }

    /// What `static` says of the addresses, where the plugin refuses something else.
    fn addresses_alone(&mut self, plugin: &Plugin) {
        self.below.is_certain = false;
        if plugin.ipam_type() == Some("static") {
            self.checked(plugin, |config: &adit_static::Config, args, version| {
                adit_static::answer(config, args, version)
            });
        }
    }

    /// What the plugin makes of its object with the annotation. What it says without one was reported before.
    fn checked<C: serde::de::DeserializeOwned, T>(
        &mut self,
        plugin: &Plugin,
        validate: impl Fn(&C, &CniArgs, adit_cni::Version) -> Result<T, Error>,
    ) -> Option<T> {
        let config: C = from_value(&Value::Object(plugin.raw.clone())).ok()?;
        validate(&config, &CniArgs::default(), self.network.version).ok()?;
        let result = from_value(&Value::Object(self.raw(plugin)))
            .and_then(|config: C| validate(&config, &self.args(), self.network.version));
        self.told(result, plugin)
    }

    /// The addresses and routes of the interface below.
    fn addressed(&mut self, plugin: &Plugin, plan: impl Fn(CniResult) -> Result<CniResult, Error>) {
        match plugin.ipam_type() {
            None => self.below.addresses = Some(Vec::new()),
            Some("static") => {
                let answer = self.checked(plugin, |config: &adit_static::Config, args, version| {
                    adit_static::answer(config, args, version)
                });
                let Some(answer) = answer else { return };
                let routes = answer.routes.clone();
                if answer.ips.is_empty() {
                    self.below.routes = routes.iter().map(|route| (masked(route.dst), route.mtu)).collect();
                    let name = self.below.name.clone();
                    self.no_address(&name, "\"ips\": [\"10.10.1.200/24\"]");
                    return;
                }
                let Some(result) = self.told(plan(answer), plugin) else { return };
                let addresses: Vec<IpNetwork> = result.ips.iter().map(|ip| ip.address).collect();
                let connected = addresses.iter().map(|address| (masked(*address), None));
                self.below.routes =
                    connected.chain(result.routes.iter().map(|route| (masked(route.dst), route.mtu))).collect();
                self.below.addresses = Some(addresses);
            }
            Some(_) => self.below.is_certain = false,
        }
    }

    fn no_address(&mut self, interface: &str, remedy: &str) {
        let Some((selection, file)) = self.pod else { return };
        // Where the annotation is wrong already, that is why.
        if selection.ips().iter().any(|(at, _)| self.findings.has_error_at(Place { file, at: *at })) {
            return;
        }
        let place = Place { file, at: selection.name_at };
        if self.findings.has_error_at(place) {
            return;
        }
        self.findings.error(
            place,
            Code::Missing,
            format!("{interface} gets no address: {} has none, and the annotation asks for none", selection.label()),
            format!("write {remedy} here"),
        );
    }

    /// Reports what a plugin says, at what it speaks of: in the annotation, or else in the network.
    fn told<T>(&mut self, result: Result<T, Error>, plugin: &Plugin) -> Option<T> {
        let error = match result {
            Ok(value) => return Some(value),
            Err(error) => error,
        };
        let message = format!("{} {}", error.msg, error.details);
        let in_annotation = self.pod.and_then(|(selection, file)| {
            let node = selection.node.as_ref()?;
            let at = spoken_of(node, &message);
            (at != node.at).then_some(Place { file, at })
        });
        let place = in_annotation.unwrap_or_else(|| self.network.place(spoken_of(&plugin.node, &message)));
        if !self.findings.has_error_at(place) {
            let remedy = if error.details.is_empty() { "mend it".to_owned() } else { error.details };
            self.findings.error(place, Code::Value, error.msg, remedy);
        }
        None
    }
}
