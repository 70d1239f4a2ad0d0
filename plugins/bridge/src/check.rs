//! CHECK: what ADD made is still there.

use adit_cni::{Call, CniResult, Error, Interface, Ip};
use adit_net::{Link, LinkKind, Netlink, Nftables};
use adit_plugin::check::{self, PodSide, mismatch};
use adit_plugin::{Identity, net_error, open_pod};
use ipnetwork::IpNetwork;

use crate::config::{Config, Network};
use crate::masquerade::Masquerade;
use crate::spoof;
use crate::tag::Tag;

/// Compares this attachment with the kernel, after the IPAM plugin has checked its part.
///
/// What later plugins of the chain may change is not compared with the configuration: MTU and, where the final result
/// says so, MAC address of the pod's interface.
pub(crate) fn check(network: &Network, call: &Call<Config>) -> Result<(), Error> {
    let pod = pod_side(network, call)?;
    pod.is_configured()?;

    let host = Netlink::open().map_err(net_error)?;
    let bridge = check_bridge(&host, network, pod.result)?;
    let port = check_port(&host, &pod.link, &bridge, network, call)?;
    check_vlans(&host, &port, network)?;
    check_gateways(&host, network, pod.result, pod.index)?;
    check_rules(&port, network, call, &own_addresses(pod.result, pod.index))
}

fn pod_side<'a>(network: &Network, call: &'a Call<Config>) -> Result<PodSide<'a>, Error> {
    if network.interface_up {
        return PodSide::find(call, network.ipam.as_deref(), &LinkKind::Veth);
    }
    // Down by configuration, and without IPAM; it may have come up meanwhile.
    let result = call.required_prev_result()?;
    let name = call.attachment.ifname.as_str();
    let (index, interface) = check::pod_interface(result, name, &call.netns.display().to_string())?;
    let netlink = Netlink::open_in(&open_pod(&call.netns)?).map_err(net_error)?;
    let link = netlink.link(name).map_err(net_error)?.filter(|link| link.kind == LinkKind::Veth);
    let link = link.ok_or_else(|| mismatch(format!("Interface name {name} not found in the pod")))?;
    check::check_mac(interface, &link)?;
    Ok(PodSide { result, index, interface, netlink, link })
}

fn own_addresses(result: &CniResult, index: usize) -> Vec<IpNetwork> {
    result.ips.iter().filter(|ip| ip.interface == Some(index)).map(|ip| ip.address).collect()
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

fn check_port(
    host: &Netlink,
    pod: &Link,
    bridge: &Link,
    network: &Network,
    call: &Call<Config>,
) -> Result<Link, Error> {
    let peer = pod.peer_index.map_or(Ok(None), |index| host.link_by_index(index)).map_err(net_error)?;
    let Some(port) = peer.filter(|peer| peer.peer_index == Some(pod.index)) else {
        return Err(mismatch(format!("CNI veth created for bridge {} was not found", bridge.name)));
    };
    let name = &port.name;
    let identity = Identity::new(call.network.as_str(), &call.attachment);
    if port.alias.as_deref().is_some_and(|alias| alias != identity.alias()) {
        return Err(mismatch(format!("Host interface {name} is of another attachment")));
    }
    if port.master != Some(bridge.index) {
        return Err(mismatch(format!("Host interface {name} is not in bridge {}", bridge.name)));
    }
    if !port.up {
        return Err(mismatch(format!("Host interface {name} is down")));
    }
    if let Some(mtu) = network.mtu.filter(|mtu| *mtu != port.mtu) {
        return Err(mismatch(format!("Host interface {name} has mtu {}, not {mtu}", port.mtu)));
    }
    let settings = port.port.as_ref();
    if network.hairpin && settings.is_some_and(|port| !port.hairpin) {
        return Err(mismatch(format!("Host interface {name} is not in hairpin mode")));
    }
    if network.isolated && settings.is_some_and(|port| !port.isolated) {
        return Err(mismatch(format!("Host interface {name} is not isolated")));
    }
    Ok(port)
}

fn check_vlans(host: &Netlink, port: &Link, network: &Network) -> Result<(), Error> {
    let Some(vlans) = &network.vlans else { return Ok(()) };
    let bridge = network.bridge.as_str();
    if host.link(bridge).map_err(net_error)?.is_none_or(|bridge| bridge.vlan_filtering != Some(true)) {
        return Err(mismatch(format!("Bridge {bridge} does not separate VLANs: its VLAN filtering is off")));
    }
    match vlans.difference(&host.port_vlans(port.index).map_err(net_error)?) {
        Some(vid) => Err(mismatch(format!(
            "Host interface {} should be {vlans}, but its VLAN {vid} is absent, superfluous or of other settings",
            port.name
        ))),
        None => Ok(()),
    }
}

fn check_gateways(host: &Netlink, network: &Network, result: &CniResult, index: usize) -> Result<(), Error> {
    if network.gateway.is_none() {
        return Ok(());
    }
    let own: Vec<&Ip> = result.ips.iter().filter(|ip| ip.interface == Some(index)).collect();
    if own.is_empty() {
        return Ok(());
    }
    let name = network.gateway_interface()?;
    let interface = host
        .link(name.as_str())
        .map_err(net_error)?
        .ok_or_else(|| mismatch(format!("Interface {name} of the gateway was not found")))?;
    if !interface.up {
        return Err(mismatch(format!("Interface {name} of the gateway is down")));
    }
    let present = host.addresses(interface.index).map_err(net_error)?;
    for ip in own {
        let wanted = ip.gateway.and_then(|gateway| IpNetwork::new(gateway, ip.address.prefix()).ok());
        if let Some(wanted) = wanted
            && !present.iter().any(|address| address.network == wanted)
        {
            return Err(mismatch(format!("Interface {name} lacks the gateway's address {wanted}")));
        }
    }
    Ok(())
}

fn check_rules(port: &Link, network: &Network, call: &Call<Config>, addresses: &[IpNetwork]) -> Result<(), Error> {
    if network.masquerade.is_none() && !network.mac_spoof_check {
        return Ok(());
    }
    let nft = Nftables::open().map_err(net_error)?;
    if network.mac_spoof_check {
        let tag = Tag::new(call.network.as_str(), &call.attachment);
        spoof::check(&nft, &tag, &port.name)?;
    }
    let Some(backend) = network.masquerade else { return Ok(()) };
    Masquerade::choose(backend, &nft)?.check(&nft, call.network.as_str(), &call.attachment, addresses)
}
