//! CHECK: what ADD made is still there.

use adit_cni::{Call, Error};
use adit_net::{LinkKind, Netlink};
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
    if let Some(master) = &network.master {
        let host = if network.master_in_pod { None } else { Some(Netlink::open().map_err(net_error)?) };
        let found = host.as_ref().unwrap_or(&pod.netlink).link(master.as_str()).map_err(net_error)?;
        // A macvlan goes with its master, so one that has another name now is still there.
        if found.is_some_and(|master| link.peer_index != Some(master.index)) {
            return Err(mismatch(format!("Interface {} is not on master {}", link.name, master.as_str())));
        }
    }
    pod.is_configured()
}
