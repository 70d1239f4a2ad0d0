//! DEL.

use std::path::Path;

use adit_cni::{Attachment, DelCall, Error};
use adit_net::{LinkKind, Netlink, Netns};
use adit_plugin::{Identity, collected, net_error};

use crate::config::Config;

/// Removes the interface and gives its addresses back. Nothing there is success; with the namespace the interface is gone.
pub(crate) fn del(call: &DelCall<Config>) -> Result<(), Error> {
    let identity = Identity::new(call.network.as_str(), &call.attachment);
    let mut errors = Vec::new();
    if let Some(netns) = call.netns.as_deref() {
        let ours = |alias: &str| alias == identity.alias();
        errors.extend(delete(netns, call.attachment.ifname.as_str(), ours).err());
    }
    if let Some(plugin) = call.config.ipam_plugin() {
        errors.extend(call.delegate.del(plugin).err());
    }
    collected(errors)
}

/// Removes the interface. The address cannot be given back: which IPAM plugin has it is in the configuration that nobody can
/// read.
pub(crate) fn del_unreadable(attachment: &Attachment, netns: Option<&Path>, why: Error) -> Result<(), Error> {
    let mut errors = vec![why];
    if let Some(netns) = netns {
        let ours = |alias: &str| Identity::is_of(alias, attachment);
        errors.extend(delete(netns, attachment.ifname.as_str(), ours).err());
    }
    collected(errors)
}

/// Deletes the macvlan of that name, unless its alias says that it is another attachment's. One without alias was made by the
/// reference plugin, or by an ADD that was killed.
fn delete(netns: &Path, ifname: &str, ours: impl Fn(&str) -> bool) -> Result<(), Error> {
    // A namespace that is gone, or a file where it was mounted once, has nothing to delete.
    let Ok(pod) = Netns::open(netns) else { return Ok(()) };
    let netlink = Netlink::open_in(&pod).map_err(net_error)?;
    let Some(link) = netlink.link(ifname).map_err(net_error)? else { return Ok(()) };
    if link.kind == LinkKind::Macvlan && link.alias.as_deref().is_none_or(ours) {
        netlink.delete_link(link.index).map_err(net_error)?;
    }
    Ok(())
}
