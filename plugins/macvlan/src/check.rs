//! CHECK: what ADD made is still there.

use adit_cni::{Call, Error};
use adit_net::{Link, LinkKind, Netlink};
use adit_plugin::check::{PodSide, mismatch};
use adit_plugin::net_error;

use crate::config::{Config, Network};

/// Compares this attachment with the kernel, after the IPAM plugin has checked its part.
pub(crate) fn check(network: &Network, call: &Call<Config>) -> Result<(), Error> {
    let pod = PodSide::find(call, network.ipam.as_deref(), &LinkKind::Macvlan)?;
    let link = &pod.link;
    if let Some(mode) = link.macvlan_mode.filter(|mode| *mode != network.mode) {
        return Err(mismatch(format!("Container macvlan mode {mode} does not match the configured {}", network.mode)));
    }
    // A smaller one is a later plugin's right: `tuning` does not tell in the result what it has set. A larger one than was
    // asked for may carry nothing.
    let allowed = network.mtu.max(pod.interface.mtu.unwrap_or_default().into());
    if network.mtu > 0 && i64::from(link.mtu) > allowed {
        return Err(mismatch(format!("Interface {} has mtu {}, not {allowed}", link.name, link.mtu)));
    }
    if let Some(master) = &network.master {
        let host = if network.master_in_pod { None } else { Some(Netlink::open().map_err(net_error)?) };
        let netlink = host.as_ref().unwrap_or(&pod.netlink);
        // Interfaces of two namespaces may have the same index.
        let same_namespace = netlink.netns().id() == pod.netlink.netns().id();
        let is_below =
            |master: &Link| link.peer_index == Some(master.index) && link.peer_netnsid.is_none() == same_namespace;
        let found = netlink.link(master.as_str()).map_err(net_error)?;
        // A macvlan goes with its master, so one that has another name now is still there.
        if found.is_some_and(|master| !is_below(&master)) {
            return Err(mismatch(format!("Interface {} is not on master {}", link.name, master.as_str())));
        }
    }
    pod.is_configured()
}
