//! CHECK: what the node can see for itself. Whether the peer is there is another question: it may not exist yet.

use adit_cni::{Call, CniResult, Code, Error};
use adit_net::{LinkKind, Netlink, Route};
use adit_plugin::{check, net_error, open_pod};
use adit_tunnel::{AttachmentId, Config, State};

use crate::{Tun, error::tunnel_error};

/// Interface, addresses, routes, record, and an agent that carries it.
///
/// # Errors
/// The first thing that is not as ADD left it.
pub fn local_truth(
    tun: &Tun,
    call: &Call<Config>,
    attachment: &AttachmentId,
    previous: &CniResult,
) -> Result<(), Error> {
    let sandbox = call.netns.display().to_string();
    let (index, interface) = check::pod_interface(previous, attachment.if_name.as_str(), &sandbox)?;
    let pod = open_pod(&call.netns)?;
    let netlink = Netlink::open_in(&pod).map_err(net_error)?;
    let link = check::link(&netlink, interface, &LinkKind::Tun)?;
    check::addresses(&netlink, &link, previous, index)?;

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
    if link.mtu != u32::from(record.spec.mtu_bytes) {
        return Err(check::mismatch(format!(
            "Interface {} has mtu {}, not {}",
            link.name, link.mtu, record.spec.mtu_bytes
        )));
    }
    for wanted in &record.routes {
        let mut route = Route::new(wanted.destination, link.index);
        (route.gateway, route.priority, route.table) = (wanted.gateway, wanted.priority, wanted.table);
        if !netlink.routes(wanted.table).map_err(net_error)?.iter().any(|present| present.satisfies(&route)) {
            let (destination, name) = (wanted.destination, &link.name);
            return Err(check::mismatch(format!("Expected Route {destination} dev {name} not found in routing table")));
        }
    }

    let status = tun.agent.inspect(attachment).map_err(tunnel_error)?;
    match status {
        Some(status) if status.carried => Ok(()),
        Some(status) => {
            Err(Error::new(Code::INTERNAL, format!("tunnel {attachment} is not carried: {}", status.reason)))
        }
        None => Err(Error::new(Code::INTERNAL, format!("tunnel {attachment} is unknown to the agent"))
            .with_details("it takes recorded tunnels up within two seconds; see its log if this stays")),
    }
}
