//! Applies a plan's steps, and pushes how each is taken back.

mod bridge;
mod gateway;
mod port;

use adit_cni::{Call, CniResult, Code, Error, Interface};
use adit_net::{Link, Netlink, Netns, Nftables, sysctl};
use adit_plugin::{
    Identity, Undo, announce_addresses, configure_interface, existing_link, ipam, net_error, open_pod, result_interface,
};
use ipnetwork::IpNetwork;

pub(crate) use bridge::no_vlan_filtering;

use crate::config::{Config, Network};
use crate::lock::BridgeLock;
use crate::masquerade::Masquerade;
use crate::plan::{POD_INTERFACE, Step};
use crate::remove::{self, Node};
use crate::spoof;
use crate::tag::Tag;

/// Both namespaces of an attachment.
pub(crate) struct Sides {
    host: Netlink,
    pod: Netns,
    pod_netlink: Netlink,
    identity: Identity,
    tag: Tag,
    /// Where the network asks for rules.
    nft: Option<Nftables>,
    masquerade: Option<Masquerade>,
}

/// An ADD under way.
pub(crate) struct Attach<'a, 'u> {
    sides: &'a Sides,
    network: &'a Network,
    call: &'a Call<Config>,
    undo: &'u mut Undo<'a>,
    lock: Option<BridgeLock>,
    created_bridge: bool,
    /// The bridge as it was when it became ready, then as it was with the port.
    bridge: Option<Link>,
    /// Name of the host's end, once there is one.
    port: String,
    /// The host's end as it was when it forwarded.
    port_link: Option<Link>,
    /// The pod's end, whose index, name, MTU and MAC address stay as it was made with.
    pod_link: Option<Link>,
}

impl Sides {
    /// Opens both namespaces, and looks whether the node has what the network takes. Changes nothing.
    ///
    /// # Errors
    /// When the pod's namespace cannot be opened, or has an interface of the name that is asked for, or the kernel cannot do
    /// what the network asks for.
    pub(crate) fn open(call: &Call<Config>, network: &Network) -> Result<Self, Error> {
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
        let mut nft = None;
        let mut masquerade = None;
        if network.masquerade.is_some() || network.mac_spoof_check {
            let socket = Nftables::open().map_err(net_error)?;
            if network.mac_spoof_check {
                spoof::ensure_supported(&socket)?;
            }
            masquerade = network.masquerade.map(|backend| Masquerade::choose(backend, &socket)).transpose()?;
            nft = Some(socket);
        }
        let identity = Identity::new(call.network.as_str(), &call.attachment);
        let tag = Tag::new(call.network.as_str(), &call.attachment);
        Ok(Self { host, pod, pod_netlink, identity, tag, nft, masquerade })
    }

    fn rules(&self) -> Result<&Nftables, Error> {
        self.nft.as_ref().ok_or_else(|| Error::new(Code::INTERNAL, "no socket for nftables was opened"))
    }
}

impl<'a, 'u> Attach<'a, 'u> {
    pub(crate) fn new(sides: &'a Sides, network: &'a Network, call: &'a Call<Config>, undo: &'u mut Undo<'a>) -> Self {
        Self {
            sides,
            network,
            call,
            undo,
            lock: None,
            created_bridge: false,
            bridge: None,
            port: String::new(),
            port_link: None,
            pod_link: None,
        }
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
            Step::EnsureBridge { name, mtu, promiscuous, vlan_filtering } => {
                let (mtu, promiscuous, vlan_filtering) = (*mtu, *promiscuous, *vlan_filtering);
                self.ensure_bridge(name, bridge::Wanted { mtu, promiscuous, vlan_filtering })
            }
            Step::CreatePair { ifname, mac, mtu } => self.create_pair(ifname, *mac, *mtu),
            Step::GuardPort => self.guard_port(),
            Step::ConnectPort { hairpin, isolated, vlans } => self.connect_port(*hairpin, *isolated, vlans.as_ref()),
            Step::Pod(steps) => {
                let link = self.pod_link()?;
                configure_interface(&self.sides.pod, &self.sides.pod_netlink, &link, steps)
            }
            Step::VlanGateway { name, vlans } => self.ensure_vlan_gateway(name, vlans),
            Step::GatewayAddress { on, network, force, others } => self.gateway_address(on, *network, *force, others),
            Step::Masquerade(addresses) => self.masquerade(addresses),
            Step::AwaitPort(timeout) => {
                let port = self.sides.host.wait_link(&self.port, *timeout, |link| link.oper_up);
                let port = port.map_err(|error| net_error(error).in_context("bridge port in error state"))?;
                self.port_link = Some(port);
                Ok(())
            }
            Step::Forward { key } => sysctl::set(key, "1").map(drop).map_err(net_error),
            Step::Announce(_) => {
                announce_addresses(&self.sides.pod_netlink, &self.pod_link()?);
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
    pub(crate) fn result(&mut self, addressed: CniResult) -> Result<CniResult, Error> {
        let sides = self.sides;
        let bridge = self.bridge()?;
        let port = self.port_link.take().map_or_else(|| existing_link(&sides.host, &self.port), Ok)?;
        let pod = self.pod_link()?;
        let mut interfaces: Vec<Interface> = [&bridge, &port, &pod].map(result_interface).into();
        if let Some(pod) = interfaces.get_mut(POD_INTERFACE) {
            pod.sandbox = Some(self.call.netns.display().to_string());
        }
        if self.network.gateway.is_some() && !addressed.ips.is_empty() {
            let gateway = self.network.gateway_interface()?;
            if gateway != self.network.bridge {
                interfaces.push(result_interface(&existing_link(&sides.host, gateway.as_str())?));
            }
        }
        Ok(CniResult { interfaces, ..addressed })
    }

    fn pod_link(&mut self) -> Result<Link, Error> {
        if let Some(link) = &self.pod_link {
            return Ok(link.clone());
        }
        let link = existing_link(&self.sides.pod_netlink, self.call.attachment.ifname.as_str())?;
        Ok(self.pod_link.insert(link).clone())
    }

    fn bridge(&self) -> Result<Link, Error> {
        let name = self.network.bridge.as_str();
        self.bridge.clone().map_or_else(|| existing_link(&self.sides.host, name), Ok)
    }

    fn masquerade(&mut self, addresses: &[IpNetwork]) -> Result<(), Error> {
        let sides = self.sides;
        let (nft, call) = (sides.rules()?, self.call);
        let Some(masquerade) = &sides.masquerade else { return Ok(()) };
        let network = call.network.as_str();
        let own = addresses.to_vec();
        self.undo.push("do not masquerade", move || match masquerade {
            Masquerade::Nftables => {
                crate::masquerade::nftables::discard(nft, |comment| comment == sides.tag.as_str(), || Ok(()))
            }
            Masquerade::Iptables => {
                let node = Node { host: &sides.host, nft };
                remove::iptables(node, network, &call.attachment, true, || own)
            }
        });
        masquerade.add(nft, network, &call.attachment, addresses)
    }
}
