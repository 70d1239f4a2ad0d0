//! DEL.

use std::path::Path;

use adit_cni::{Attachment, DelCall, Error};
use adit_net::{Link, LinkKind, MacAddress, Netlink, Netns};
use adit_plugin::{Identity, collected, ipam, net_error};

use crate::config::Config;

/// Removes the interface and gives its addresses back. Nothing there is success; with the namespace the interface is gone.
pub(crate) fn del(call: &DelCall<Config>) -> Result<(), Error> {
    let identity = Identity::new(call.network.as_str(), &call.attachment);
    let remove = || {
        let netns = call.netns.as_deref()?;
        let ours = |alias: &str| alias == identity.alias();
        let unfinished = call.config.requested_mac(&call.args).unwrap_or_default();
        delete(netns, call.attachment.ifname.as_str(), unfinished, ours).err()
    };
    let remove = || remove().into_iter().collect();
    collected(ipam::del_after(&call.delegate, call.config.ipam_plugin(), remove))
}

/// Removes the interface. The address cannot be given back: which IPAM plugin has it is in the configuration that nobody can
/// read.
pub(crate) fn del_unreadable(attachment: &Attachment, netns: Option<&Path>, why: Error) -> Result<(), Error> {
    let mut errors = vec![why];
    if let Some(netns) = netns {
        let ours = |alias: &str| Identity::is_of(alias, attachment);
        errors.extend(delete(netns, attachment.ifname.as_str(), None, ours).err());
    }
    collected(errors)
}

/// Deletes the macvlan of that name, unless its alias says that it is another attachment's. One without alias was made by the
/// reference plugin, or by an ADD that was killed.
///
/// The reference makes the interface under another name and renames it. Killed in between, it leaves the first one behind,
/// which nothing connects with its attachment but the MAC address, if one was asked for: `unfinished`. Without that it
/// stays, down, until the pod's namespace goes: it could as well be one that the reference is making at this moment for another
/// network of this pod.
fn delete(
    netns: &Path,
    ifname: &str,
    unfinished: Option<MacAddress>,
    ours: impl Fn(&str) -> bool,
) -> Result<(), Error> {
    // A namespace that is gone, or a file where it was mounted once, has nothing to delete.
    let Ok(pod) = Netns::open(netns) else { return Ok(()) };
    let netlink = Netlink::open_in(&pod).map_err(net_error)?;
    let found = match netlink.link(ifname).map_err(net_error)? {
        Some(link) => {
            Some(link).filter(|link| link.kind == LinkKind::Macvlan && link.alias.as_deref().is_none_or(ours))
        }
        None => match unfinished {
            Some(mac) => netlink.links().map_err(net_error)?.into_iter().find(|link| is_unfinished(link, mac)),
            None => None,
        },
    };
    found.map_or(Ok(()), |link| netlink.delete_link(link.index).map(drop).map_err(net_error))
}

/// Whether the reference plugin made `link`, for an attachment with this MAC address, and was killed before it renamed it.
fn is_unfinished(link: &Link, mac: MacAddress) -> bool {
    let temporary = link
        .name
        .strip_prefix("veth")
        .is_some_and(|digits| digits.len() == 8 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    temporary && link.kind == LinkKind::Macvlan && !link.up && link.alias.is_none() && link.mac == Some(mac)
}
