//! CHECK: what the node can see for itself. Whether the peer is there is another question: it may not exist yet.

use adit_cni::{Call, CniResult, Error};
use adit_net::{Link, LinkKind, Netlink, Route, Vxlan};
use adit_plugin::{check, net_error, open_pod};
use adit_tunnel::{AttachmentId, Config, Encap, Engine, Spec, State};

use crate::{Tun, error::tunnel_error};

/// Record, interface, addresses, routes, and what the agent has to do with it.
///
/// # Errors
/// The first thing that is not as ADD left it.
pub fn local_truth(
    tun: &Tun,
    call: &Call<Config>,
    attachment: &AttachmentId,
    previous: &CniResult,
    check_peer: bool,
) -> Result<(), Error> {
    let sandbox = call.netns.display().to_string();
    let (index, interface) = check::pod_interface(previous, attachment.if_name.as_str(), &sandbox)?;
    let pod = open_pod(&call.netns)?;
    let netlink = Netlink::open_in(&pod).map_err(net_error)?;
    let Some(record) = tun.store.read(attachment).map_err(tunnel_error)? else {
        let directory = tun.store.directory().display();
        return Err(check::mismatch(format!("tunnel {attachment} has no record in {directory}")));
    };
    if record.state != State::Attached {
        return Err(check::mismatch(format!("the ADD of tunnel {attachment} never came to its end")));
    }
    if !record.netns.is(pod.id(), netlink.netns_cookie()) {
        return Err(check::mismatch(format!("tunnel {attachment} was made in another namespace than {sandbox}")));
    }
    let kind = match (record.spec.engine, record.spec.encap) {
        (Engine::Agent, _) => LinkKind::Tun,
        (Engine::Kernel, Encap::Wireguard) => LinkKind::Wireguard,
        (Engine::Kernel, _) => LinkKind::Vxlan,
    };
    let link = check::link(&netlink, interface, &kind)?;
    check::addresses(&netlink, &link, previous, index)?;
    let wanted = u32::from(record.spec.mtu_bytes);
    // The agent lowers it where the path takes less.
    let follows = record.spec.engine == Engine::Agent && !record.spec.fixed_mtu;
    if link.mtu > wanted || link.mtu < wanted && !follows {
        return Err(check::mismatch(format!(
            "Interface {} has mtu {}, not {}",
            link.name, link.mtu, record.spec.mtu_bytes
        )));
    }
    if kind == LinkKind::Vxlan {
        device(&netlink, &link, &record.spec)?;
    }
    let present = if record.routes.is_empty() { Vec::new() } else { netlink.all_routes().map_err(net_error)? };
    for wanted in &record.routes {
        let mut route = Route::new(wanted.destination, link.index);
        (route.gateway, route.priority, route.table) = (wanted.gateway, wanted.priority, wanted.table);
        route.encapsulation = wanted.peer.and_then(|peer| record.spec.encapsulation(peer));
        if !present.iter().any(|present| present.satisfies(&route)) {
            let (destination, name) = (wanted.destination, &link.name);
            let tunnel = route.encapsulation.map(|tunnel| format!(" {tunnel}")).unwrap_or_default();
            return Err(check::mismatch(format!(
                "Expected Route {destination} dev {name}{tunnel} not found in routing table"
            )));
        }
    }
    if record.spec.needs_agent() {
        // It carries the tunnel, or finds its keys and peers in the kernel's device.
        tun.agent.check(attachment, check_peer).map_err(tunnel_error)?;
    }
    Ok(())
}

/// The VXLAN device is as ADD made it.
fn device(netlink: &Netlink, link: &Link, spec: &Spec) -> Result<(), Error> {
    let found = link.vxlan.unwrap_or_default();
    // Older kernels have no filter of network identifiers.
    let wanted = Vxlan { port: spec.local.port(), external: true, gpe: true, vnifilter: found.vnifilter };
    if found != wanted {
        return Err(check::mismatch(format!("Interface {} is {found:?}, not {wanted:?}", link.name)));
    }
    let vni = spec.vxlan.map(|vxlan| vxlan.vni).unwrap_or_default();
    if found.vnifilter && !netlink.admits_vni(link.index, vni).map_err(net_error)? {
        return Err(check::mismatch(format!("Interface {} does not take packets of VNI {vni}", link.name)));
    }
    Ok(())
}
