//! CHECK: what the node can see for itself. Whether the peer is there is another question: it may not exist yet.

use adit_cni::{Call, CniResult, Code, Error};
use adit_net::{LinkKind, Netlink};
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

    let record = tun.store.read(attachment).map_err(tunnel_error)?.filter(|record| record.state == State::Attached);
    let Some(record) = record else {
        return Err(check::mismatch(format!(
            "tunnel {attachment} has no record in {}",
            tun.store.directory().display()
        )));
    };
    if record.netns.id != pod.id() {
        return Err(check::mismatch(format!("tunnel {attachment} was made in another namespace than {sandbox}")));
    }
    if link.mtu != u32::from(record.spec.mtu_bytes) {
        return Err(check::mismatch(format!(
            "Interface {} has mtu {}, not {}",
            link.name, link.mtu, record.spec.mtu_bytes
        )));
    }
    let present = netlink.routes(None).map_err(net_error)?;
    let lost = record
        .routes
        .iter()
        .find(|wanted| !present.iter().any(|route| route.destination == **wanted && route.device == link.index));
    if let Some(destination) = lost {
        return Err(check::mismatch(format!(
            "Expected Route {destination} dev {} not found in routing table",
            link.name
        )));
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
