//! The tunnel of an attachment: what it makes of the annotation, and its way to its peers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use adit_cni::{CniArgs, CniResult, config::from_value};
use adit_net::IfName;
use adit_tunnel::{
    Intent, Underlay,
    parse::masked,
    spec::{Device, OuterRoute},
};
use ipnetwork::IpNetwork;
use serde_json::{Map, Value, json};

use super::{Attach, End, LARGEST_MTU_BYTES};
use crate::{
    finding::{Code, Place},
    network::Plugin,
    node::{self, Node},
    selection::tunnel_name,
    values::{self, Tunnel, tun_error},
};

/// What no route to a peer is narrower than: then a route into the tunnel is not said to win over it.
const UNKNOWN_PREFIX: u8 = u8::MAX;
/// The interface below, and the only one that there is.
const INDEX: u32 = 2;

impl Attach<'_> {
    /// The end that the pod gets, if the tunnel's parser and checks take it.
    pub(super) fn tun(&mut self, plugin: &Plugin) -> Option<End> {
        values::tunnel(&values::filled(&plugin.raw)).ok()?;
        let raw = self.raw(plugin);
        let tunnel = match values::tunnel(&raw) {
            Ok(tunnel) => tunnel,
            Err(error) => {
                self.tell_of_tunnel(&error, plugin);
                return None;
            }
        };
        let answer = self.inner(plugin, &raw, &tunnel)?;
        let inner = answer.as_ref().map(|answer| answer.ips.iter().map(|ip| ip.address).collect::<Vec<_>>());
        let routes: Vec<IpNetwork> =
            answer.iter().flat_map(|answer| answer.routes.iter().map(|route| route.dst)).collect();
        let is_somewhere = self.outer(plugin, &tunnel.intent, inner.as_deref().unwrap_or_default(), &routes);
        is_somewhere.then(|| End {
            intent: tunnel.intent,
            inner,
            routes,
            node: plugin.node.clone(),
            file: self.network.file,
        })
    }

    /// What `static` gives the tunnel's interface: `Some(None)` where another address plugin decides, `None` where it refuses.
    fn inner(&mut self, plugin: &Plugin, raw: &Map<String, Value>, tunnel: &Tunnel) -> Option<Option<CniResult>> {
        match plugin.ipam_type() {
            None => return Some(Some(CniResult::default())),
            Some("static") => {}
            Some(_) => return Some(None),
        }
        let mut child = raw.clone();
        child.remove("runtimeConfig");
        child.insert("args".into(), json!({ "cni": { "ips": tunnel.effective.ips } }));
        let config: adit_static::Config = from_value(&Value::Object(child)).ok()?;
        let own: adit_static::Config = from_value(&Value::Object(plugin.raw.clone())).ok()?;
        adit_static::answer(&own, &CniArgs::default(), self.network.version).ok()?;
        let answer = adit_static::answer(&config, &CniArgs::default(), self.network.version);
        let answer = self.told(answer, plugin)?;
        if answer.ips.is_empty() {
            let name = tunnel.intent.if_name.to_string();
            self.no_address(&name, &format!("\"cni-args\": {{ \"{name}\": {{ \"ips\": [\"10.4.0.1/30\"] }} }}"));
        }
        Some(Some(answer))
    }

    /// The tunnel's way to its peers: whether there is one, whether it stays outside the tunnel, how large packets may be. False: the end
    /// is nowhere that a peer could find it.
    fn outer(&mut self, plugin: &Plugin, intent: &Intent, inner: &[IpNetwork], routes: &[IpNetwork]) -> bool {
        let of_pod = intent.underlay == Underlay::Pod;
        let is_below = of_pod && intent.device.as_ref().is_none_or(|device| device.as_str() == self.below.name);
        let (mtu_bytes, addresses) = match &self.below.addresses {
            _ if !is_below => (LARGEST_MTU_BYTES, None),
            addresses => (self.below.mtu_bytes, addresses.clone()),
        };
        let Ok(name) = self.below.name.parse::<IfName>() else { return false };
        let device = Device::new(name, INDEX, mtu_bytes, addresses.clone().unwrap_or_default());
        let local = match addresses {
            Some(_) => intent.local_on(&device),
            None => Ok(any_address(intent)),
        };
        let local = match local {
            Ok(local) => local,
            Err(error) => {
                self.tell_of_tunnel(&error, plugin);
                return false;
            }
        };
        if let Some(ways) = self.ways(plugin, intent, is_below) {
            let checked = intent.resolve(&device, local, &ways).and_then(|spec| spec.check_inner(&ways, inner, routes));
            if let Err(error) = checked {
                self.tell_of_tunnel(&error, plugin);
            }
        }
        true
    }

    /// How each peer is reached by the interface below; `None`: one is not.
    fn ways(&mut self, plugin: &Plugin, intent: &Intent, is_below: bool) -> Option<Vec<OuterRoute>> {
        let knows_all = is_below && self.below.addresses.is_some() && self.below.is_certain;
        let mut ways = Vec::new();
        for (peer, endpoint) in intent.reachable() {
            let leading = self.below.routes.iter().filter(|(route, _)| is_below && route.contains(endpoint.ip()));
            match leading.max_by_key(|(route, _)| route.prefix()) {
                Some((route, mtu)) => ways.push(OuterRoute::new(INDEX, *mtu, route.prefix())),
                None if knows_all => {
                    let place = self.place_of(&peer.key, plugin);
                    let (key, below, address) = (&peer.key, &self.below.name, endpoint.ip());
                    let message = format!(
                        "{key}: no route of {below} leads to {address}, so packets would leave by the cluster's own interface"
                    );
                    let remedy = format!(
                        "add {{ \"dst\": \"{}\" }} to the routes in the ipam of the interface below the tunnel",
                        host(address)
                    );
                    self.findings.error(place, Code::UnreachablePeer, message, remedy);
                    return None;
                }
                None => ways.push(OuterRoute::new(INDEX, None, UNKNOWN_PREFIX)),
            }
        }
        Some(ways)
    }

    /// Where a key of the tunnel is set: in the annotation, or else in the network.
    fn place_of(&self, key: &str, plugin: &Plugin) -> Place {
        let path = node::path(key);
        let own = self.settings(plugin).and_then(|(own, file)| {
            let found = own.follow(&path);
            (found.at != own.at).then_some(Place { file, at: found.at })
        });
        own.unwrap_or_else(|| self.network.place(plugin.node.follow(&path).at))
    }

    /// What the annotation says to the tunnel, and the file that it is in.
    fn settings(&self, plugin: &Plugin) -> Option<(&Node, usize)> {
        let (selection, file) = self.pod?;
        Some((selection.cni_args()?.get(tunnel_name(plugin))?, file))
    }

    /// Reports an error of the tunnel's own checks where its key stands: in the annotation, or else in the network.
    fn tell_of_tunnel(&mut self, error: &adit_tunnel::Error, plugin: &Plugin) {
        let network = self.network;
        let adit_tunnel::Error::Invalid { key, value, problem, remedy } = error else {
            tun_error(error, &plugin.node, &|at| network.place(at), self.findings);
            return;
        };
        let is_loop = key.starts_with("ipam ") || key == "allowedIPs";
        let in_annotation = self.pod.and_then(|(selection, file)| {
            let node = selection.node.as_ref().filter(|_| key.starts_with("cni-args."))?;
            Some(Place { file, at: node.follow(&node::path(key)).at })
        });
        let place = in_annotation.unwrap_or_else(|| {
            let of_annotation = self.settings(plugin).filter(|_| key == "ipam address");
            let of_annotation =
                of_annotation.and_then(|(own, file)| Some(Place { file, at: in_network(own, value)?.at }));
            match in_network(&plugin.node, value) {
                _ if of_annotation.is_some() => of_annotation.unwrap_or_default(),
                Some(node) if is_loop => network.place(node.at),
                _ => self.place_of(key, plugin),
            }
        });
        if self.findings.has_error_at(place) {
            return;
        }
        let code = match key.as_str() {
            _ if is_loop => Code::RouteLoop,
            "mtu" | "device" => Code::Mtu,
            _ => Code::Value,
        };
        self.findings.error(place, code, format!("{key}: {} {problem}", values::shown(key, value)), remedy.clone());
    }
}

/// The address of a socket that has none yet, of the peers' family.
fn any_address(intent: &Intent) -> SocketAddr {
    let is_ipv6 = intent.reachable().next().is_some_and(|(_, endpoint)| endpoint.is_ipv6());
    let any = if is_ipv6 { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
    SocketAddr::new(any, intent.encap.default_port())
}

/// The text below `node` that stands for this network.
fn in_network<'a>(node: &'a Node, network: &str) -> Option<&'a Node> {
    let is_it = |text: &str| text.parse::<IpNetwork>().is_ok_and(|written| masked(written).to_string() == network);
    if node.text().is_some_and(is_it) {
        return Some(node);
    }
    let mut below = node.members().iter().map(|member| &member.value).chain(node.items());
    below.find_map(|node| in_network(node, network))
}

fn host(address: IpAddr) -> String {
    if address.is_ipv4() { format!("{address}/32") } else { format!("{address}/128") }
}
