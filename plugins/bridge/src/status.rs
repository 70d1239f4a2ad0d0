//! STATUS: whether an ADD could be served now.

use adit_cni::{Code, Error, StatusCall};
use adit_net::{LinkKind, Netlink, Nftables};
use adit_plugin::net_error;

use crate::apply::no_vlan_filtering;
use crate::config::Config;
use crate::masquerade::Masquerade;
use crate::spoof;

/// Ready when the node has what the network asks for, the bridge's name is free or a bridge's, and the IPAM plugin is ready.
///
/// Whether the kernel separates VLANs is seen by any bridge on the node. While there is none it could only be found
/// out by making one, which STATUS does not: then the first ADD tells, before a pod is attached.
pub(crate) fn status(call: &StatusCall<Config>) -> Result<(), Error> {
    let config = &call.config;
    let name = config.bridge_name();
    let netlink = Netlink::open().map_err(net_error)?;
    let taken = netlink.link(name).map_err(net_error)?;
    if taken.is_some_and(|link| link.kind != LinkKind::Bridge) {
        return Err(Error::new(Code::NOT_AVAILABLE, format!("{name:?} already exists but is not a bridge"))
            .with_details("remove that interface or give the network another bridge"));
    }
    if config.vlans()?.is_some() {
        let links = netlink.links().map_err(net_error)?;
        if links.iter().any(|link| link.kind == LinkKind::Bridge && link.vlan_filtering.is_none()) {
            return Err(no_vlan_filtering());
        }
    }
    let nft = Nftables::open().map_err(net_error)?;
    if config.mac_spoof_check() {
        spoof::ensure_supported(&nft)?;
    }
    if let Some(backend) = config.masquerade()? {
        Masquerade::choose(backend, &nft)?;
    }
    match config.ipam_plugin() {
        Some(plugin) => call.delegate.status(plugin),
        None => Ok(()),
    }
}
