//! The bridge: there, up, with an address of its own; and how changes of what attachments share are taken back.

use adit_cni::{Code, Error};
use adit_net::{BridgeSpec, Link, LinkChange, LinkKind, MacAddress, Netlink, sysctl};
use adit_plugin::{existing_link, net_error};

use super::Attach;
use super::gateway::is_gateway_port;
use crate::lock::BridgeLock;

/// What the bridge must be like.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub mtu: Option<u32>,
    pub promiscuous: bool,
    pub vlan_filtering: bool,
}

impl Attach<'_, '_> {
    pub(super) fn ensure_bridge(&mut self, name: &str, wanted: Wanted) -> Result<(), Error> {
        let host = &self.sides.host;
        let mut bridge = match host.link(name).map_err(net_error)? {
            Some(bridge) if bridge.kind != LinkKind::Bridge => {
                return Err(Error::new(Code::INTERNAL, format!("{name:?} already exists but is not a bridge"))
                    .with_details("remove that interface or give the network another bridge"));
            }
            Some(bridge) => bridge,
            None => {
                self.create_bridge(name, wanted)?;
                existing_link(host, name)?
            }
        };
        if wanted.vlan_filtering {
            self.ensure_vlan_filtering(&bridge)?;
        }
        let mut change = LinkChange::default();
        let mut restore = LinkChange::default();
        if !bridge.up {
            // The last step of making one; what an ADD left down that was killed lacks these too.
            //
            // A node whose own link-local address is still being probed asks for no neighbour, so what it forwards to the
            // pod would be lost for a second or two. Nobody else is on a new bridge to have that address.
            for key in ["accept_ra", "accept_dad"] {
                sysctl::set_if_present(&format!("net/ipv6/conf/{name}/{key}"), "0").map_err(net_error)?;
            }
            change.up = Some(true);
            restore.up = Some(false);
        }
        if wanted.promiscuous && !bridge.promisc {
            change.promisc = Some(true);
            restore.promisc = Some(false);
        }
        // A bridge whose address was never set has none after its last port left, and refuses to be given that one.
        if bridge.mac.is_some_and(|mac| mac.is_zero()) {
            change.mac = Some(MacAddress::random_local().map_err(net_error)?);
        }
        if change != LinkChange::default() {
            host.change_link(bridge.index, &change).map_err(net_error)?;
            bridge.mac = change.mac.or(bridge.mac);
        }
        self.bridge = Some(bridge);
        if !self.created_bridge && restore != LinkChange::default() {
            self.undo_unless_used(format!("restore bridge {name}"), move |host, bridge| {
                host.change_link(bridge.index, &restore).map_err(net_error)
            });
        }
        Ok(())
    }

    fn create_bridge(&mut self, name: &str, wanted: Wanted) -> Result<(), Error> {
        let host = &self.sides.host;
        if wanted.vlan_filtering {
            // Another bridge tells it before one is made.
            let links = host.links().map_err(net_error)?;
            if links.iter().any(|link| link.kind == LinkKind::Bridge && link.vlan_filtering.is_none()) {
                return Err(no_vlan_filtering());
            }
        }
        // A bridge with an address of its own keeps it, whatever ports come and go.
        let mac = MacAddress::random_local().map_err(net_error)?;
        let vlan_filtering = wanted.vlan_filtering.then_some(true);
        let spec = BridgeSpec { mtu: wanted.mtu, mac: Some(mac), vlan_filtering, ..BridgeSpec::new(name) };
        host.add_bridge(&spec).map_err(|error| {
            if wanted.vlan_filtering && is_unsupported(&error) { no_vlan_filtering() } else { net_error(error) }
        })?;
        self.created_bridge = true;
        let bridge = name.to_owned();
        self.undo.push(format!("delete bridge {name}"), move || delete_unused_bridge(host, &bridge));
        Ok(())
    }

    /// A bridge that mixes VLANs until now is changed only while it has no ports to disturb.
    fn ensure_vlan_filtering(&mut self, bridge: &Link) -> Result<(), Error> {
        let name = bridge.name.as_str();
        match bridge.vlan_filtering {
            Some(true) => return Ok(()),
            None => return Err(no_vlan_filtering()),
            Some(false) => {}
        }
        let host = &self.sides.host;
        let ports = host.links().map_err(net_error)?.iter().filter(|link| link.master == Some(bridge.index)).count();
        if ports > 0 {
            return Err(Error::new(
                Code::INTERNAL,
                format!("bridge {name:?} has no VLAN filtering, and switching it on may cut off its {ports} ports"),
            )
            .with_details(format!(
                "give this network a bridge of its own, or run: ip link set {name} type bridge vlan_filtering 1"
            )));
        }
        host.set_vlan_filtering(bridge.index, true).map_err(net_error)?;
        self.undo_unless_used(format!("switch VLAN filtering of {name} off"), |host, bridge| {
            host.set_vlan_filtering(bridge.index, false).map_err(net_error)
        });
        Ok(())
    }

    /// A bridge that somebody else made may take its new port's address: it is given its own again, for good.
    ///
    /// Afterwards the bridge is known as it stays, with the MTU that may have followed the port's.
    pub(super) fn keep_bridge_mac(&mut self, before: &Link) -> Result<(), Error> {
        let mut after = existing_link(&self.sides.host, &before.name)?;
        if after.mac != before.mac {
            let change = LinkChange { mac: before.mac, ..LinkChange::default() };
            self.sides.host.change_link(after.index, &change).map_err(net_error)?;
            after.mac = before.mac;
        }
        self.bridge = Some(after);
        Ok(())
    }

    /// Remembers how to take back a change of what attachments share, unless another one relies on it by then.
    pub(super) fn undo_unless_used(
        &mut self,
        description: String,
        restore: impl FnOnce(&Netlink, &Link) -> Result<(), Error> + 'static,
    ) {
        let host = &self.sides.host;
        let bridge = self.network.bridge.to_string();
        let own = self.sides.identity.alias().to_owned();
        self.undo.push(description, move || {
            with_ports(host, &bridge, |bridge, ports| {
                let others = |port: &Link| {
                    port.kind == LinkKind::Veth && port.alias.as_ref() != Some(&own) && !is_gateway_port(port)
                };
                if ports.iter().any(others) { Ok(()) } else { restore(host, bridge) }
            })
        });
    }
}

/// `EOPNOTSUPP`
fn is_unsupported(error: &adit_net::Error) -> bool {
    const EOPNOTSUPP: i32 = 95;
    error.errno().is_some_and(|errno| errno as i32 == EOPNOTSUPP)
}

/// This kernel separates no VLANs, and an attachment must not be made without.
pub(crate) fn no_vlan_filtering() -> Error {
    Error::new(
        Code::NOT_AVAILABLE,
        "vlan and vlanTrunk need bridge VLAN filtering, which this kernel has not (CONFIG_BRIDGE_VLAN_FILTERING)",
    )
    .with_details("boot a kernel that has it, or use one bridge for each VLAN and remove vlan and vlanTrunk")
}

/// Deletes a bridge that this ADD made, unless it has got ports meanwhile.
fn delete_unused_bridge(host: &Netlink, name: &str) -> Result<(), Error> {
    with_ports(host, name, |bridge, ports| {
        if ports.is_empty() { host.delete_link(bridge.index).map(drop).map_err(net_error) } else { Ok(()) }
    })
}

fn with_ports(host: &Netlink, name: &str, act: impl FnOnce(&Link, &[Link]) -> Result<(), Error>) -> Result<(), Error> {
    let _lock = BridgeLock::take(name)?;
    let links = host.links().map_err(net_error)?;
    let Some(bridge) = links.iter().find(|link| link.name == name) else { return Ok(()) };
    let ports: Vec<Link> = links.iter().filter(|link| link.master == Some(bridge.index)).cloned().collect();
    act(bridge, &ports)
}
