//! What the tunnel stands on in the pod: the outer interface, its source address, the route to each peer.

use std::net::{IpAddr, SocketAddr};

use adit_cni::{Call, Code, Error};
use adit_net::{IfName, Netlink, Netns, RouteLookup};
use adit_plugin::{net_error, open_pod};
use adit_tunnel::{
    Config, Encap, Engine, Intent, Underlay,
    spec::{Device, OuterRoute},
};

use crate::error::tunnel_error;

/// The pod as it was found; nothing in it has been changed.
pub struct Found {
    /// The pod's namespace.
    pub netns: Netns,
    /// A socket in it.
    pub netlink: Netlink,
    /// A socket in the node's own namespace, where the outer packets travel there.
    pub node: Option<Netlink>,
    /// The outer interface.
    pub device: Device,
    /// The outer source.
    pub local: SocketAddr,
    /// How each peer is reached of which is known where it is, in the order of the peers.
    pub routes: Vec<OuterRoute>,
}

impl Found {
    /// Looks at the pod of `call`. `leftover`: an interface of the tunnel's name is our own, from an ADD that was killed.
    pub fn find(call: &Call<Config>, intent: &Intent, leftover: bool) -> Result<Self, Error> {
        let netns = open_pod(&call.netns)?;
        let netlink = Netlink::open_in(&netns).map_err(net_error)?;
        if !leftover && netlink.link(intent.if_name.as_str()).map_err(net_error)?.is_some() {
            return Err(Error::new(
                Code::INVALID_CONFIG,
                format!("ifName: the pod has an interface {} already", intent.if_name),
            )
            .with_details("give the tunnel another \"ifName\", or the other interface another name"));
        }
        let node = (intent.underlay == Underlay::Host).then(Netlink::open).transpose().map_err(net_error)?;
        let device = match &node {
            None => device_of_pod(&netlink, call, intent)?,
            Some(node) => device_of_node(node, intent)?,
        };
        let local = intent.local_on(&device).map_err(tunnel_error)?;
        let outside = node.as_ref().unwrap_or(&netlink);
        let routes = intent
            .reachable()
            .map(|(peer, endpoint)| outer_route(outside, intent, &peer.key, endpoint.ip(), source(intent, local)))
            .collect::<Result<_, _>>()?;
        Ok(Self { netns, netlink, node, device, local, routes })
    }

    /// Does something in the namespace in which the outer packets travel.
    ///
    /// # Errors
    /// The pod's cannot be entered.
    pub fn outside<T>(&self, work: impl FnOnce() -> T) -> adit_net::Result<T> {
        if self.node.is_some() { Ok(work()) } else { self.netns.run(work) }
    }
}

fn device_of_pod(netlink: &Netlink, call: &Call<Config>, intent: &Intent) -> Result<Device, Error> {
    let name = match &intent.device {
        Some(name) => name.clone(),
        None => call.attachment.ifname.as_str().parse().map_err(net_error)?,
    };
    named_device(netlink, intent, &name)
}

/// The interface that is named, or that has the address that is written, or by which the first peer is reached.
fn device_of_node(node: &Netlink, intent: &Intent) -> Result<Device, Error> {
    if let Some(name) = &intent.device {
        return named_device(node, intent, name);
    }
    let source = intent.local.map(|local| local.ip()).filter(|address| !address.is_unspecified());
    let Some((peer, endpoint)) = intent.reachable().next() else {
        return Err(Error::new(
            Code::INVALID_CONFIG,
            "device: with \"underlay\": \"host\" and no peer's endpoint nothing says which of the node's interfaces is meant",
        )
        .with_details("write \"device\": the node's interface that peers send to"));
    };
    if let Some(source) = source
        && !node.lookup_route(source, None).is_ok_and(|lookup| lookup.local)
    {
        return Err(Error::new(Code::INVALID_CONFIG, format!("local: {source} is no address of the node"))
            .with_details(
                "write one of the node's addresses, or leave local out for the one that leads to the peers",
            ));
    }
    let lookup = lookup(node, intent, &peer.key, endpoint.ip(), source)?;
    let name = node.link_by_index(lookup.device).map_err(net_error)?.map(|link| link.name).unwrap_or_default();
    let mut device = named_device(node, intent, &name.parse().map_err(net_error)?)?;
    // What the kernel would send from comes first: it may be another interface's.
    if let Some(preferred) = source.or(lookup.source) {
        let first = device.addresses.iter().position(|network| network.ip() == preferred);
        let network = first.map_or_else(|| preferred.into(), |place| device.addresses.remove(place));
        device.addresses.insert(0, network);
    }
    Ok(device)
}

fn named_device(netlink: &Netlink, intent: &Intent, name: &IfName) -> Result<Device, Error> {
    let owner = intent.underlay.owner();
    let link = netlink.link(name.as_str()).map_err(net_error)?.ok_or_else(|| {
        Error::new(Code::INVALID_CONFIG, format!("device: the {owner} has no interface {name}")).with_details(
            match intent.underlay {
                Underlay::Pod => {
                    "name an interface that is in the pod when tun runs, or leave device out for the chain's own"
                }
                Underlay::Host => {
                    "name an interface of the node, or leave device out for the one that leads to the peers"
                }
            },
        )
    })?;
    let addresses = netlink.addresses(link.index).map_err(net_error)?;
    let addresses = addresses.into_iter().map(|address| address.network).collect();
    Ok(Device::new(name.clone(), link.index, link.mtu, addresses))
}

fn lookup(
    netlink: &Netlink,
    intent: &Intent,
    key: &str,
    peer: IpAddr,
    local: Option<IpAddr>,
) -> Result<RouteLookup, Error> {
    netlink.lookup_route(peer, local).map_err(|error| {
        if !error.is_unreachable() {
            return net_error(error);
        }
        let from = local.map(|local| format!(" from {local}")).unwrap_or_default();
        let owner = intent.underlay.owner();
        Error::new(Code::INVALID_CONFIG, format!("{key}: the {owner} has no route to {peer}{from}")).with_details(
            match intent.underlay {
                Underlay::Pod => "add a route to it in the ipam of the interface below the tunnel",
                Underlay::Host => "add a route to it on the node",
            },
        )
    })
}

/// What packets to peers are sent from; the kernel's WireGuard leaves that to the route.
fn source(intent: &Intent, local: SocketAddr) -> Option<IpAddr> {
    let is_bound = intent.engine == Engine::Agent || intent.encap != Encap::Wireguard;
    is_bound.then(|| local.ip())
}

/// The route that the kernel takes from `local` to a peer, and how specific it is.
fn outer_route(
    netlink: &Netlink,
    intent: &Intent,
    key: &str,
    peer: IpAddr,
    local: Option<IpAddr>,
) -> Result<OuterRoute, Error> {
    let lookup = lookup(netlink, intent, key, peer, local)?;
    let prefix = netlink
        .routes(Some(lookup.table))
        .map_err(net_error)?
        .iter()
        .filter(|route| route.device == lookup.device && route.destination.contains(peer))
        .map(|route| route.destination.prefix())
        .max()
        .unwrap_or_default();
    Ok(OuterRoute::new(lookup.device, lookup.mtu, prefix))
}
