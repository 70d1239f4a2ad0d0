//! CHECK: what ADD made is still there.

use adit_cni::{Call, Error};
use adit_net::{LinkKind, Netlink};
use adit_plugin::check::{self, mismatch};
use adit_plugin::{net_error, open_pod};

use crate::config::{Config, Network};

/// Compares this attachment with the kernel, after the IPAM plugin has checked its part.
pub(crate) fn check(network: &Network, call: &Call<Config>) -> Result<(), Error> {
    let result = call.required_prev_result()?;
    if let Some(plugin) = &network.ipam {
        call.delegate.check(plugin)?;
    }
    let sandbox = call.netns.display().to_string();
    let (index, interface) = check::pod_interface(result, call.attachment.ifname.as_str(), &sandbox)?;

    let pod = open_pod(&call.netns)?;
    let netlink = Netlink::open_in(&pod).map_err(net_error)?;
    let link = check::link(&netlink, interface, &LinkKind::Macvlan)?;
    if let Some(mode) = link.macvlan_mode.filter(|mode| *mode != network.mode) {
        return Err(mismatch(format!("Container macvlan mode {mode} does not match the configured {}", network.mode)));
    }
    if let Some(master) = &network.master {
        let host = if network.master_in_pod { None } else { Some(Netlink::open().map_err(net_error)?) };
        let found = host.as_ref().unwrap_or(&netlink).link(master.as_str()).map_err(net_error)?;
        // A macvlan goes with its master, so one that has another name now is still there.
        if found.is_some_and(|master| link.peer_index != Some(master.index)) {
            return Err(mismatch(format!("Interface {} is not on master {}", link.name, master.as_str())));
        }
    }
    check::addresses(&netlink, &link, result, index)?;
    check::routes(&netlink, &link, result, index)
}
