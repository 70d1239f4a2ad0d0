//! Applies a plan's steps, and pushes how each is taken back.

use adit_cni::{Call, CniResult, Code, Error, Interface};
use adit_net::{
    Address, BridgePort, BridgeSpec, Link, LinkChange, LinkKind, MacAddress, Netlink, Netns, VethSpec, sysctl,
};
use adit_plugin::{
    Identity, Undo, announce_addresses, configure_interface, existing_link, ipam, net_error, open_pod, result_interface,
};
use ipnetwork::IpNetwork;

use crate::config::{Config, Network};
use crate::lock::BridgeLock;
use crate::plan::{POD_INTERFACE, Step};

/// How many names are tried for the host's end of the pair, should a stranger have one.
const HOST_NAME_ATTEMPTS: u8 = 8;

/// Both namespaces of an attachment.
pub(crate) struct Sides {
    host: Netlink,
    pod: Netns,
    pod_netlink: Netlink,
    identity: Identity,
}

/// An ADD under way.
pub(crate) struct Attach<'a, 'u> {
    sides: &'a Sides,
    network: &'a Network,
    call: &'a Call<Config>,
    undo: &'u mut Undo<'a>,
    lock: Option<BridgeLock>,
    created_bridge: bool,
    /// Name of the host's end, once there is one.
    port: String,
}

impl Sides {
    /// Opens both namespaces. Changes nothing.
    ///
    /// # Errors
    /// When the pod's namespace cannot be opened, or has an interface of the name that is asked for.
    pub(crate) fn open(call: &Call<Config>) -> Result<Self, Error> {
        let host = Netlink::open().map_err(net_error)?;
        let pod = open_pod(&call.netns)?;
        let pod_netlink = Netlink::open_in(&pod).map_err(net_error)?;
        let ifname = call.attachment.ifname.as_str();
        if pod_netlink.link(ifname).map_err(net_error)?.is_some() {
            return Err(Error::new(
                Code::INTERNAL,
                format!("container veth name provided ({ifname:?}) already exists"),
            )
            .with_details("call DEL first if it is of this attachment, else use another interface name"));
        }
        let identity = Identity::new(call.network.as_str(), &call.attachment);
        Ok(Self { host, pod, pod_netlink, identity })
    }

    fn bridge(&self, name: &str) -> Result<Link, Error> {
        existing_link(&self.host, name)
    }
}

impl<'a, 'u> Attach<'a, 'u> {
    pub(crate) fn new(sides: &'a Sides, network: &'a Network, call: &'a Call<Config>, undo: &'u mut Undo<'a>) -> Self {
        Self { sides, network, call, undo, lock: None, created_bridge: false, port: String::new() }
    }

    /// Applies `steps` in their order.
    pub(crate) fn run(&mut self, steps: &[Step]) -> Result<(), Error> {
        steps.iter().try_for_each(|step| {
            tracing::debug!(%step);
            self.apply(step)
        })
    }

    fn apply(&mut self, step: &Step) -> Result<(), Error> {
        match step {
            Step::Lock(bridge) => {
                self.lock = Some(BridgeLock::take(bridge)?);
                Ok(())
            }
            Step::Unlock => {
                self.lock = None;
                Ok(())
            }
            Step::EnsureBridge { name, mtu, promiscuous } => self.ensure_bridge(name, *mtu, *promiscuous),
            Step::CreatePort { ifname, mac, mtu, hairpin } => self.create_port(ifname, *mac, *mtu, *hairpin),
            Step::Pod(steps) => {
                let sides = self.sides;
                let link = existing_link(&sides.pod_netlink, self.call.attachment.ifname.as_str())?;
                configure_interface(&sides.pod, &sides.pod_netlink, &link, steps)
            }
            Step::GatewayAddress { network, force, others } => self.gateway_address(*network, *force, others),
            Step::AwaitPort(timeout) => self
                .sides
                .host
                .wait_link(&self.port, *timeout, |link| link.oper_up)
                .map(drop)
                .map_err(|error| net_error(error).in_context("bridge port in error state")),
            Step::Forward { key } => sysctl::set(key, "1").map(drop).map_err(net_error),
            Step::Announce(addresses) => {
                let name = self.call.attachment.ifname.as_str();
                let link = existing_link(&self.sides.pod_netlink, name)?;
                announce_addresses(&self.sides.pod, &link, addresses);
                Ok(())
            }
        }
    }

    /// Addresses from the IPAM plugin; none on layer 2.
    pub(crate) fn request_addresses(&mut self) -> Result<CniResult, Error> {
        let plugin = self.network.ipam.as_deref();
        ipam::add(&self.call.delegate, plugin, self.undo, ipam::IPS_OF_THE_ANNOTATION)
    }

    /// The result: IPAM's part, and the interfaces as the kernel has them now.
    pub(crate) fn result(&self, addressed: CniResult) -> Result<CniResult, Error> {
        let sides = self.sides;
        let bridge = sides.bridge(self.network.bridge.as_str())?;
        let port = existing_link(&sides.host, &self.port)?;
        let pod = existing_link(&sides.pod_netlink, self.call.attachment.ifname.as_str())?;
        let mut interfaces: Vec<Interface> = [&bridge, &port, &pod].map(result_interface).into();
        if let Some(pod) = interfaces.get_mut(POD_INTERFACE) {
            pod.sandbox = Some(self.call.netns.display().to_string());
        }
        Ok(CniResult { interfaces, ..addressed })
    }

    fn ensure_bridge(&mut self, name: &str, mtu: Option<u32>, promiscuous: bool) -> Result<(), Error> {
        let host = &self.sides.host;
        let before = host.link(name).map_err(net_error)?;
        if before.is_none() {
            // A bridge with an address of its own keeps it, whatever ports come and go.
            let mac = MacAddress::random_local().map_err(net_error)?;
            host.add_bridge(&BridgeSpec { mtu, mac: Some(mac), ..BridgeSpec::new(name) }).map_err(net_error)?;
            self.created_bridge = true;
            let bridge = name.to_owned();
            self.undo.push(format!("delete bridge {name}"), move || delete_unused_bridge(host, &bridge));
            // A node whose own link-local address is still being probed asks for no neighbour, so what it forwards to the
            // pod would be lost for a second or two. Nobody else is on a new bridge to have that address.
            for key in ["accept_ra", "accept_dad"] {
                sysctl::set_if_present(&format!("net/ipv6/conf/{name}/{key}"), "0").map_err(net_error)?;
            }
        }
        let bridge = self.sides.bridge(name)?;
        if bridge.kind != LinkKind::Bridge {
            return Err(Error::new(Code::INTERNAL, format!("{name:?} already exists but is not a bridge"))
                .with_details("remove that interface or give the network another bridge"));
        }
        let mut change = LinkChange::default();
        let mut restore = LinkChange::default();
        if !bridge.up {
            change.up = Some(true);
            restore.up = Some(false);
        }
        if promiscuous && !bridge.promisc {
            change.promisc = Some(true);
            restore.promisc = Some(false);
        }
        // A bridge whose address was never set has none after its last port left, and refuses to be given that one.
        if bridge.mac.is_some_and(|mac| mac.is_zero()) {
            change.mac = Some(MacAddress::random_local().map_err(net_error)?);
        }
        if change != LinkChange::default() {
            host.change_link(bridge.index, &change).map_err(net_error)?;
        }
        if !self.created_bridge && restore != LinkChange::default() {
            let bridge = name.to_owned();
            self.undo.push(format!("restore bridge {name}"), move || {
                unless_used(host, &bridge, |link| host.change_link(link.index, &restore).map_err(net_error))
            });
        }
        Ok(())
    }

    fn create_port(
        &mut self,
        ifname: &str,
        mac: Option<MacAddress>,
        mtu: Option<u32>,
        hairpin: bool,
    ) -> Result<(), Error> {
        let sides = self.sides;
        let host = &sides.host;
        let bridge = sides.bridge(self.network.bridge.as_str())?;
        self.port = free_host_name(host, &sides.identity)?;
        let spec = VethSpec {
            mtu,
            // Set, so that no udev rule gives it another one later.
            mac: Some(MacAddress::random_local().map_err(net_error)?),
            alias: Some(sides.identity.alias()),
            peer_mac: mac,
            ..VethSpec::new(&self.port, ifname, &sides.pod)
        };
        host.add_veth(&spec).map_err(net_error)?;
        let port = self.port.clone();
        self.undo.push(format!("delete {port}"), move || match host.link(&port).map_err(net_error)? {
            Some(link) => host.delete_link(link.index).map(drop).map_err(net_error),
            None => Ok(()),
        });
        let port = existing_link(host, &self.port)?;
        sysctl::set_if_present(&format!("net/ipv6/conf/{}/accept_ra", port.name), "0").map_err(net_error)?;
        // Only after the alias is there: a pair in a bridge without one is somebody else's (see DEL).
        let connect = LinkChange {
            master: Some(Some(bridge.index)),
            up: Some(true),
            addr_gen_none: true,
            ..LinkChange::default()
        };
        host.change_link(port.index, &connect).map_err(net_error)?;
        if hairpin {
            let settings = BridgePort { hairpin: Some(true), ..BridgePort::default() };
            host.set_bridge_port(port.index, &settings).map_err(net_error)?;
        }
        self.keep_bridge_mac(&bridge)
    }

    /// A bridge that somebody else made may take its new port's address: it is given its own again, for good.
    fn keep_bridge_mac(&self, before: &Link) -> Result<(), Error> {
        let after = self.sides.bridge(&before.name)?;
        if after.mac == before.mac {
            return Ok(());
        }
        let change = LinkChange { mac: before.mac, ..LinkChange::default() };
        self.sides.host.change_link(after.index, &change).map_err(net_error)
    }

    fn gateway_address(&mut self, network: IpNetwork, force: bool, others: &[IpNetwork]) -> Result<(), Error> {
        let host = &self.sides.host;
        let bridge = self.sides.bridge(self.network.bridge.as_str())?;
        let present: Vec<IpNetwork> =
            host.addresses(bridge.index).map_err(net_error)?.iter().map(|a| a.network).collect();
        if present.contains(&network) {
            return Ok(());
        }
        for conflict in present.into_iter().filter(|old| !others.contains(old) && conflict(*old, network)) {
            if !force {
                return Err(Error::new(
                    Code::INTERNAL,
                    format!("{:?} already has an IP address different from {network}", bridge.name),
                )
                .with_details(format!(
                    "it has {conflict}: give this network a bridge of its own, or set forceAddress to replace that address"
                )));
            }
            host.delete_address(bridge.index, conflict).map_err(net_error)?;
            let name = bridge.name.clone();
            self.undo.push(format!("give {name} {conflict} back"), move || {
                unless_used(host, &name, |link| add_gateway(host, link, conflict))
            });
        }
        if !self.created_bridge {
            let pin = LinkChange { mac: bridge.mac, ..LinkChange::default() };
            host.change_link(bridge.index, &pin).map_err(net_error)?;
        }
        if network.is_ipv6() {
            sysctl::set_if_present(&format!("net/ipv6/conf/{}/disable_ipv6", bridge.name), "0").map_err(net_error)?;
        }
        let name = bridge.name.clone();
        self.undo.push(format!("take {network} from {name}"), move || {
            unless_used(host, &name, |link| host.delete_address(link.index, network).map(drop).map_err(net_error))
        });
        add_gateway(host, &bridge, network)
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

/// One IPv4 address a bridge; IPv6 addresses must not overlap.
fn conflict(old: IpNetwork, new: IpNetwork) -> bool {
    match (old, new) {
        (IpNetwork::V4(_), IpNetwork::V4(_)) => true,
        (IpNetwork::V6(old), IpNetwork::V6(new)) => old.contains(new.ip()) || new.contains(old.ip()),
        _ => false,
    }
}

fn add_gateway(host: &Netlink, bridge: &Link, network: IpNetwork) -> Result<(), Error> {
    // Every node's bridge may have the same gateway: the pods must reach theirs at once.
    let address = Address { nodad: network.is_ipv6(), ..Address::new(network) };
    match host.add_address(bridge.index, &address) {
        Err(error) if !error.is_exists() => Err(net_error(error)),
        _ => Ok(()),
    }
}

/// Deletes a bridge that this ADD made, unless it has got ports meanwhile.
fn delete_unused_bridge(host: &Netlink, name: &str) -> Result<(), Error> {
    with_ports(host, name, |bridge, ports| {
        if ports.is_empty() { host.delete_link(bridge.index).map(drop).map_err(net_error) } else { Ok(()) }
    })
}

/// Takes a change of a shared bridge back, unless another attachment relies on it by now.
fn unless_used(host: &Netlink, name: &str, restore: impl FnOnce(&Link) -> Result<(), Error>) -> Result<(), Error> {
    with_ports(
        host,
        name,
        |bridge, ports| {
            if ports.iter().any(|port| port.kind == LinkKind::Veth) { Ok(()) } else { restore(bridge) }
        },
    )
}

fn with_ports(host: &Netlink, name: &str, act: impl FnOnce(&Link, &[Link]) -> Result<(), Error>) -> Result<(), Error> {
    let _lock = BridgeLock::take(name)?;
    let links = host.links().map_err(net_error)?;
    let Some(bridge) = links.iter().find(|link| link.name == name) else { return Ok(()) };
    let ports: Vec<Link> = links.iter().filter(|link| link.master == Some(bridge.index)).cloned().collect();
    act(bridge, &ports)
}
