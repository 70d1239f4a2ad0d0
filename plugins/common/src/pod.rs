//! The pod's namespace and the link in it.

use std::path::Path;

use adit_cni::{Code, Error};
use adit_net::{Link, Netlink, Netns};

use crate::net_error;

/// Opens the pod's namespace.
///
/// # Errors
/// [`Code::INVALID_NETNS`] when it is missing or is none.
pub fn open_pod(path: &Path) -> Result<Netns, Error> {
    Netns::open(path).map_err(net_error)
}

/// The link called `name`, which was there a moment ago.
///
/// # Errors
/// [`Code::TRY_AGAIN_LATER`] when it is gone.
pub fn existing_link(netlink: &Netlink, name: &str) -> Result<Link, Error> {
    netlink.link(name).map_err(net_error)?.ok_or_else(|| {
        Error::new(Code::TRY_AGAIN_LATER, format!("interface {name} vanished during ADD"))
            .with_details("another program deleted it: try again")
    })
}

/// Has the kernel tell the neighbours where the interface's addresses are, for which its plan set `arp_notify` and
/// `ndisc_notify`. They learn it later from its first packet, so a failure is a warning only.
pub fn announce_addresses(netlink: &Netlink, link: &Link) {
    if let Err(error) = netlink.announce(link.index) {
        tracing::warn!("{error}");
    }
}
