//! CHECK: what ADD made is still there.

use adit_cni::{Call, CniResult, Error, Interface};
use adit_net::{Link, LinkKind, Netlink};
use adit_plugin::check::{self, PodSide, mismatch};
use adit_plugin::{Identity, net_error};
use ipnetwork::IpNetwork;

use crate::config::{Config, Network};

/// Compares this attachment with the kernel, after the IPAM plugin has checked its part.
pub(crate) fn check(network: &Network, call: &Call<Config>) -> Result<(), Error> {
    let pod = PodSide::find(call, network.ipam.as_deref(), &LinkKind::Veth)?;
    pod.is_configured()?;

    let host = Netlink::open().map_err(net_error)?;
    let bridge = check_bridge(&host, network, pod.result)?;
    check_port(&host, &pod.link, &bridge, call)?;
    check_gateways(&host, &bridge, network, pod.result, pod.index)
}

fn check_bridge(host: &Netlink, network: &Network, result: &CniResult) -> Result<Link, Error> {
    let name = network.bridge.as_str();
    let bridge = host
        .link(name)
        .map_err(net_error)?
        .ok_or_else(|| mismatch(format!("CNI created bridge {name} in host namespace was not found")))?;
    if bridge.kind != LinkKind::Bridge {
        return Err(mismatch(format!("{name:?} is not a bridge")));
    }
    if !bridge.up {
        return Err(mismatch(format!("Bridge {name} is down")));
    }
    if network.promiscuous && !bridge.promisc {
        return Err(mismatch(format!(
            "Bridge interface {name} configured Promisc Mode true doesn't match current state: false"
        )));
    }
    // Without a gateway's address the bridge may be somebody else's, and its MAC may follow its ports.
    if network.gateway.is_some() {
        let on_host = |interface: &&Interface| interface.name == name && interface.sandbox.is_none();
        if let Some(interface) = result.interfaces.iter().find(on_host) {
            check::check_mac(interface, &bridge)?;
        }
    }
    Ok(bridge)
}

fn check_port(host: &Netlink, pod: &Link, bridge: &Link, call: &Call<Config>) -> Result<(), Error> {
    let peer = pod.peer_index.map_or(Ok(None), |index| host.link_by_index(index)).map_err(net_error)?;
    let Some(port) = peer.filter(|peer| peer.peer_index == Some(pod.index)) else {
        return Err(mismatch(format!("CNI veth created for bridge {} was not found", bridge.name)));
    };
    let identity = Identity::new(call.network.as_str(), &call.attachment);
    if port.alias.as_deref().is_some_and(|alias| alias != identity.alias()) {
        return Err(mismatch(format!("Host interface {} is of another attachment", port.name)));
    }
    if port.master != Some(bridge.index) {
        return Err(mismatch(format!("Host interface {} is not in bridge {}", port.name, bridge.name)));
    }
    if !port.up {
        return Err(mismatch(format!("Host interface {} is down", port.name)));
    }
    Ok(())
}

fn check_gateways(
    host: &Netlink,
    bridge: &Link,
    network: &Network,
    result: &CniResult,
    index: usize,
) -> Result<(), Error> {
    if network.gateway.is_none() {
        return Ok(());
    }
    let present = host.addresses(bridge.index).map_err(net_error)?;
    let own = result.ips.iter().filter(|ip| ip.interface == Some(index));
    for ip in own {
        let wanted = ip.gateway.and_then(|gateway| IpNetwork::new(gateway, ip.address.prefix()).ok());
        if let Some(wanted) = wanted
            && !present.iter().any(|address| address.network == wanted)
        {
            return Err(mismatch(format!("Bridge {} lacks the gateway's address {wanted}", bridge.name)));
        }
    }
    Ok(())
}
