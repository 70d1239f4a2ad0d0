//! The gateways' addresses, on the bridge or on the interface of a VLAN.

use adit_cni::{Code, Error};
use adit_net::{Address, Link, LinkChange, LinkKind, MacAddress, Netlink, VethSpec, sysctl};
use adit_plugin::{existing_link, net_error};
use ipnetwork::IpNetwork;

use super::Attach;
use crate::reference::hex_sha512;
use crate::vlan::Vlans;

/// What the aliases of a VLAN gateway's two ends start with. No attachment's does: those go on with a colon after `adit`.
const ALIAS: &str = "adit-gateway:";

impl Attach<'_, '_> {
    /// Has the pair whose one end, `name`, is the gateway of a VLAN; the other is a port of the bridge in that VLAN.
    ///
    /// Like the bridge and its addresses it stays when the last pod leaves, for the next one: an ADD may be under way that
    /// relies on it. Whoever deletes the bridge's VLAN deletes it.
    pub(super) fn ensure_vlan_gateway(&mut self, name: &str, vlans: &Vlans) -> Result<(), Error> {
        let sides = self.sides;
        let host = &sides.host;
        let bridge = self.bridge()?;
        if let Some(link) = host.link(name).map_err(net_error)? {
            return use_vlan_gateway(host, &link, &bridge, vlans);
        }
        let peer = peer_name(name);
        let alias = format!("{ALIAS}{name}");
        let random = || MacAddress::random_local().map(Some).map_err(net_error);
        let spec = VethSpec {
            mtu: Some(bridge.mtu),
            mac: random()?,
            alias: Some(&alias),
            peer_mac: random()?,
            peer_alias: Some(&alias),
            ..VethSpec::new(name, &peer, host.netns())
        };
        host.add_veth(&spec).map_err(net_error)?;
        let made = name.to_owned();
        self.undo_unless_used(format!("delete {name}"), move |host, _| match host.link(&made).map_err(net_error)? {
            Some(link) => host.delete_link(link.index).map(drop).map_err(net_error),
            None => Ok(()),
        });
        for name in [name, &peer] {
            sysctl::set_if_present(&format!("net/ipv6/conf/{name}/accept_ra"), "0").map_err(net_error)?;
        }
        // As on a bridge of our own: nobody else can have the link-local address.
        sysctl::set_if_present(&format!("net/ipv6/conf/{name}/accept_dad"), "0").map_err(net_error)?;
        let port = existing_link(host, &peer)?;
        connect_vlan_port(host, &port, &bridge, vlans)?;
        let up = LinkChange { up: Some(true), ..LinkChange::default() };
        host.change_link(existing_link(host, name)?.index, &up).map_err(net_error)?;
        self.keep_bridge_mac(&bridge)
    }

    pub(super) fn gateway_address(
        &mut self,
        on: &str,
        network: IpNetwork,
        force: bool,
        others: &[IpNetwork],
    ) -> Result<(), Error> {
        let host = &self.sides.host;
        let link = if on == self.network.bridge.as_str() { self.bridge()? } else { existing_link(host, on)? };
        let present: Vec<IpNetwork> =
            host.addresses(link.index).map_err(net_error)?.iter().map(|a| a.network).collect();
        if present.contains(&network) {
            return Ok(());
        }
        for conflict in present.into_iter().filter(|old| !others.contains(old) && conflict(*old, network)) {
            if !force {
                return Err(Error::new(
                    Code::INTERNAL,
                    format!("{on:?} already has an IP address different from {network}"),
                )
                .with_details(format!(
                    "it has {conflict}: give this network a bridge of its own, or set forceAddress to replace that address"
                )));
            }
            host.delete_address(link.index, conflict).map_err(net_error)?;
            self.undo_address(on, format!("give {on} {conflict} back"), move |host, link| {
                add_gateway(host, link, conflict)
            });
        }
        if link.kind == LinkKind::Bridge && !self.created_bridge {
            let pin = LinkChange { mac: link.mac, ..LinkChange::default() };
            host.change_link(link.index, &pin).map_err(net_error)?;
        }
        if network.is_ipv6() {
            sysctl::set_if_present(&format!("net/ipv6/conf/{on}/disable_ipv6"), "0").map_err(net_error)?;
        }
        self.undo_address(on, format!("take {network} from {on}"), move |host, link| {
            host.delete_address(link.index, network).map(drop).map_err(net_error)
        });
        add_gateway(host, &link, network)
    }

    fn undo_address(
        &mut self,
        on: &str,
        description: String,
        restore: impl FnOnce(&Netlink, &Link) -> Result<(), Error> + 'static,
    ) {
        let on = on.to_owned();
        self.undo_unless_used(description, move |host, _| match host.link(&on).map_err(net_error)? {
            Some(link) => restore(host, &link),
            None => Ok(()),
        });
    }
}

/// Whether a port of a bridge leads to a VLAN's gateway, not to a pod.
pub(super) fn is_gateway_port(port: &Link) -> bool {
    port.alias.as_deref().is_some_and(|alias| alias.starts_with(ALIAS))
}

/// An interface of that name is there: a pair that an ADD made (perhaps only half of it, when it was killed) or the
/// reference plugin, or what an administrator put there instead, such as a VLAN interface on the bridge.
fn use_vlan_gateway(host: &Netlink, link: &Link, bridge: &Link, vlans: &Vlans) -> Result<(), Error> {
    if link.kind == LinkKind::Veth {
        let peer = link.peer_index.map_or(Ok(None), |index| host.link_by_index(index)).map_err(net_error)?;
        let peer = peer.filter(|peer| peer.peer_index == Some(link.index));
        match peer {
            Some(port) if port.master == Some(bridge.index) && port.up => {}
            Some(port) if port.master.is_none() || is_gateway_port(link) => {
                connect_vlan_port(host, &port, bridge, vlans)?;
            }
            _ => {
                return Err(Error::new(
                    Code::INTERNAL,
                    format!("{:?} already exists but is not connected with bridge {:?}", link.name, bridge.name),
                )
                .with_details("remove that interface: ADD makes it again, connected with the bridge"));
            }
        }
    }
    if link.up {
        return Ok(());
    }
    let up = LinkChange { up: Some(true), ..LinkChange::default() };
    host.change_link(link.index, &up).map_err(net_error)
}

fn connect_vlan_port(host: &Netlink, port: &Link, bridge: &Link, vlans: &Vlans) -> Result<(), Error> {
    let connect = LinkChange { master: Some(Some(bridge.index)), addr_gen_none: true, ..LinkChange::default() };
    host.change_link(port.index, &connect).map_err(net_error)?;
    vlans.apply(host, port.index)?;
    let up = LinkChange { up: Some(true), ..LinkChange::default() };
    host.change_link(port.index, &up).map_err(net_error)
}

/// `veth` and 8 hexadecimal digits, the same at every call.
fn peer_name(gateway: &str) -> String {
    let digits: String = hex_sha512(gateway).chars().take(8).collect();
    format!("veth{digits}")
}

/// One IPv4 address a bridge; IPv6 addresses must not overlap.
fn conflict(old: IpNetwork, new: IpNetwork) -> bool {
    match (old, new) {
        (IpNetwork::V4(_), IpNetwork::V4(_)) => true,
        (IpNetwork::V6(old), IpNetwork::V6(new)) => old.contains(new.ip()) || new.contains(old.ip()),
        _ => false,
    }
}

fn add_gateway(host: &Netlink, link: &Link, network: IpNetwork) -> Result<(), Error> {
    // Every node's bridge may have the same gateway: the pods must reach theirs at once.
    let address = Address { nodad: network.is_ipv6(), ..Address::new(network) };
    match host.add_address(link.index, &address) {
        Err(error) if !error.is_exists() => Err(net_error(error)),
        _ => Ok(()),
    }
}
