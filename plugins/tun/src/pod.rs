//! What the tunnel stands on in the pod: the outer interface, its source address, the route to each peer.

use std::net::IpAddr;

use adit_cni::{Call, Code, Error};
use adit_net::{Netlink, Netns};
use adit_plugin::{net_error, open_pod};
use adit_tunnel::{
    Config, Intent,
    spec::{Device, OuterRoute},
};

use crate::error::tunnel_error;

/// The pod as it was found; nothing in it has been changed.
pub struct Underlay {
    /// The pod's namespace.
    pub netns: Netns,
    /// A socket in it.
    pub netlink: Netlink,
    /// The outer interface.
    pub device: Device,
    /// The outer source.
    pub local: std::net::SocketAddr,
    /// How each peer is reached of which is known where it is, in the order of the peers.
    pub routes: Vec<OuterRoute>,
}

impl Underlay {
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
        let device = outer_device(&netlink, call, intent)?;
        let local = intent.local_on(&device).map_err(tunnel_error)?;
        let routes = intent
            .reachable()
            .map(|(peer, endpoint)| outer_route(&netlink, &peer.key, endpoint.ip(), local.ip()))
            .collect::<Result<_, _>>()?;
        Ok(Self { netns, netlink, device, local, routes })
    }
}

fn outer_device(netlink: &Netlink, call: &Call<Config>, intent: &Intent) -> Result<Device, Error> {
    let name = match &intent.device {
        Some(name) => name.clone(),
        None => call.attachment.ifname.as_str().parse().map_err(net_error)?,
    };
    let link = netlink.link(name.as_str()).map_err(net_error)?.ok_or_else(|| {
        Error::new(Code::INVALID_CONFIG, format!("device: the pod has no interface {name}"))
            .with_details("name an interface that is in the pod when tun runs, or leave device out for the chain's own")
    })?;
    let addresses = netlink.addresses(link.index).map_err(net_error)?;
    Ok(Device::new(name, link.index, link.mtu, addresses.into_iter().map(|address| address.network).collect()))
}

/// The route that the kernel takes from `local` to a peer, and how specific it is.
fn outer_route(netlink: &Netlink, key: &str, peer: IpAddr, local: IpAddr) -> Result<OuterRoute, Error> {
    let lookup = netlink.lookup_route(peer, Some(local)).map_err(|error| {
        if error.is_unreachable() {
            Error::new(Code::INVALID_CONFIG, format!("{key}: the pod has no route to {peer} from {local}"))
                .with_details("add a route to it in the ipam of the interface below the tunnel")
        } else {
            net_error(error)
        }
    })?;
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
