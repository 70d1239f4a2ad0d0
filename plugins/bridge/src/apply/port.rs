//! The pair: one end in the pod, the other a port of the bridge.

use adit_cni::{Code, Error};
use adit_net::{BridgePort, LinkChange, MacAddress, Netlink, VethSpec, sysctl};
use adit_plugin::{Identity, existing_link, net_error};

use super::Attach;
use crate::remove::half_made;
use crate::spoof;
use crate::vlan::Vlans;

/// How many names are tried for the host's end of the pair, should a stranger have one.
const HOST_NAME_ATTEMPTS: u8 = 8;

impl Attach<'_, '_> {
    pub(super) fn create_pair(&mut self, ifname: &str, mac: Option<MacAddress>, mtu: Option<u32>) -> Result<(), Error> {
        let sides = self.sides;
        let host = &sides.host;
        self.port = free_host_name(host, &sides.identity)?;
        let spec = VethSpec {
            mtu,
            // Set, so that no udev rule gives it another one later.
            mac: Some(MacAddress::random_local().map_err(net_error)?),
            alias: Some(sides.identity.alias()),
            passing_group: Some(half_made(self.call.network.as_str())),
            peer_mac: mac,
            ..VethSpec::new(&self.port, ifname, &sides.pod)
        };
        host.add_veth(&spec).map_err(net_error)?;
        let port = self.port.clone();
        self.undo.push(format!("delete {port}"), move || match host.link(&port).map_err(net_error)? {
            Some(link) => host.delete_link(link.index).map(drop).map_err(net_error),
            None => Ok(()),
        });
        sysctl::set_if_present(&format!("net/ipv6/conf/{}/accept_ra", self.port), "0").map(drop).map_err(net_error)
    }

    /// Before the port forwards anything: no frame gets past the check.
    pub(super) fn guard_port(&mut self) -> Result<(), Error> {
        let sides = self.sides;
        let nft = sides.rules()?;
        let pod = self.pod_link()?;
        let Some(mac) = pod.mac else {
            return Err(Error::new(Code::INTERNAL, format!("interface {} has no MAC address", pod.name)));
        };
        self.undo.push(format!("let every address through {}", self.port), || {
            spoof::discard(nft, |comment| comment == sides.tag.as_str(), || Ok(()))
        });
        spoof::add(nft, &sides.tag, &self.port, mac)
    }

    pub(super) fn connect_port(&mut self, hairpin: bool, isolated: bool, vlans: Option<&Vlans>) -> Result<(), Error> {
        let host = &self.sides.host;
        let bridge = self.bridge()?;
        let port = existing_link(host, &self.port)?;
        // Only after the alias is there: a pair in a bridge without one is somebody else's (see DEL).
        let mut connect = LinkChange { master: Some(Some(bridge.index)), addr_gen_none: true, ..LinkChange::default() };
        let up = LinkChange { up: Some(true), ..LinkChange::default() };
        if vlans.is_none() && !isolated {
            connect.up = up.up;
        }
        host.change_link(port.index, &connect).map_err(net_error)?;
        if hairpin || isolated {
            let settings = BridgePort { hairpin: hairpin.then_some(true), isolated: isolated.then_some(true) };
            host.set_bridge_port(port.index, &settings).map_err(net_error)?;
        }
        // What separates the port stands before it comes up.
        vlans.map_or(Ok(()), |vlans| vlans.apply(host, port.index))?;
        if connect.up.is_none() {
            host.change_link(port.index, &up).map_err(net_error)?;
        }
        self.keep_bridge_mac(&bridge)
    }
}

fn free_host_name(host: &Netlink, identity: &Identity) -> Result<String, Error> {
    for attempt in 0..HOST_NAME_ATTEMPTS {
        let name = identity.host_name(attempt);
        let Some(link) = host.link(&name).map_err(net_error)? else { return Ok(name) };
        if link.alias.as_deref() == Some(identity.alias()) {
            return Err(Error::new(
                Code::INTERNAL,
                format!("this attachment exists already: its host interface is {name}"),
            )
            .with_details("call DEL before ADD"));
        }
    }
    Err(Error::new(Code::INTERNAL, "no free name for the host's interface")
        .with_details("interfaces that this plugin did not make have its names: rename them"))
}
