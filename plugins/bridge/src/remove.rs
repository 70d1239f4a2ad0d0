//! DEL and GC: what they find without the pod's namespace, and what only there.

use std::collections::HashSet;
use std::path::Path;

use adit_cni::{Attachment, CniResult, DelCall, Error, GcCall};
use adit_net::{Link, LinkKind, Netlink, Netns};
use adit_plugin::{Identity, collected, net_error};

use crate::config::Config;

/// Removes the attachment's interfaces and gives its addresses back. Nothing there is success.
pub(crate) fn del(call: &DelCall<Config>) -> Result<(), Error> {
    let mut errors = Vec::new();
    if let Err(error) = delete_interfaces(call) {
        errors.push(error);
    }
    if let Some(plugin) = call.config.ipam_plugin() {
        errors.extend(call.delegate.del(plugin).err());
    }
    collected(errors)
}

/// Removes the interfaces of every network that the attachment may be of. The address cannot be given back: which IPAM
/// plugin has it is in the configuration that nobody can read.
pub(crate) fn del_unreadable(attachment: &Attachment, why: Error) -> Result<(), Error> {
    let mut errors = vec![why];
    match Netlink::open().and_then(|host| host.links().map(|links| (host, links))) {
        Ok((host, links)) => {
            let ours = links
                .iter()
                .filter(|link| link.alias.as_deref().is_some_and(|alias| Identity::is_of(alias, attachment)));
            errors.extend(ours.filter_map(|link| host.delete_link(link.index).err().map(net_error)));
        }
        Err(error) => errors.push(net_error(error)),
    }
    collected(errors)
}

/// Removes the host interfaces of this network's attachments that are not listed. Without a list: nothing.
pub(crate) fn gc(call: &GcCall<Config>) -> Result<(), Error> {
    let Some(valid) = &call.valid else { return Ok(()) };
    let network = call.network.as_str();
    let keep: HashSet<String> =
        valid.iter().map(|attachment| Identity::new(network, attachment).alias().to_owned()).collect();
    let prefix = Identity::prefix(network);
    let host = Netlink::open().map_err(net_error)?;
    let stale = |link: &&Link| {
        link.kind == LinkKind::Veth
            && link.alias.as_ref().is_some_and(|alias| alias.starts_with(&prefix) && !keep.contains(alias))
    };
    let mut errors: Vec<Error> = host
        .links()
        .map_err(net_error)?
        .iter()
        .filter(stale)
        .filter_map(|link| host.delete_link(link.index).err().map(net_error))
        .collect();
    if let Some(plugin) = call.config.ipam_plugin() {
        errors.extend(call.delegate.gc(plugin).err());
    }
    collected(errors)
}

fn delete_interfaces(call: &DelCall<Config>) -> Result<(), Error> {
    let identity = Identity::new(call.network.as_str(), &call.attachment);
    let host = Netlink::open().map_err(net_error)?;
    if let Some(link) = host_end(&host, &identity)? {
        // The pod's end goes with it.
        host.delete_link(link.index).map_err(net_error)?;
        return Ok(());
    }
    match call.netns.as_deref() {
        Some(netns) => delete_in_pod(&host, netns, call),
        None => Ok(()),
    }
}

/// The host's end: by its name, else by its alias should something have renamed it.
fn host_end(host: &Netlink, identity: &Identity) -> Result<Option<Link>, Error> {
    let named = host.link(&identity.host_name(0)).map_err(net_error)?;
    if let Some(link) = named.filter(|link| is_ours(link, identity)) {
        return Ok(Some(link));
    }
    let links = host.links().map_err(net_error)?;
    Ok(links.into_iter().find(|link| link.alias.as_deref() == Some(identity.alias())))
}

/// By alias; a pair without one that is in no bridge is ours when its maker was killed before it could write the alias.
fn is_ours(link: &Link, identity: &Identity) -> bool {
    match link.alias.as_deref() {
        Some(alias) => alias == identity.alias(),
        None => link.kind == LinkKind::Veth && link.master.is_none(),
    }
}

/// A pair that has no identity was made by the reference plugin: it is the attachment's when its host end is in our bridge
/// or in `prevResult`. Any other interface of that name is somebody else's.
fn delete_in_pod(host: &Netlink, netns: &Path, call: &DelCall<Config>) -> Result<(), Error> {
    // A namespace that is gone, or a file where it was mounted once, has nothing to delete.
    let Ok(pod) = Netns::open(netns) else { return Ok(()) };
    let pod_netlink = Netlink::open_in(&pod).map_err(net_error)?;
    let link = pod_netlink.link(call.attachment.ifname.as_str()).map_err(net_error)?;
    let Some(link) = link.filter(|link| link.kind == LinkKind::Veth) else { return Ok(()) };
    let Some(peer) = link.peer_index else { return Ok(()) };
    let peer = host.link_by_index(peer).map_err(net_error)?;
    let Some(peer) = peer.filter(|peer| peer.peer_index == Some(link.index) && peer.kind == LinkKind::Veth) else {
        return Ok(());
    };
    let bridge = host.link(call.config.bridge_name()).map_err(net_error)?;
    let in_bridge = bridge.is_some_and(|bridge| peer.master == Some(bridge.index));
    let known = in_bridge || names_host_interface(call.prev_result.as_ref(), &peer.name);
    if peer.alias.is_none() && known {
        host.delete_link(peer.index).map_err(net_error)?;
    }
    Ok(())
}

fn names_host_interface(result: Option<&CniResult>, name: &str) -> bool {
    result.is_some_and(|result| {
        result.interfaces.iter().any(|interface| interface.name == name && interface.sandbox.is_none())
    })
}
