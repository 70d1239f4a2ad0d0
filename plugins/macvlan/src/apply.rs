//! Applies a plan's steps, and pushes how each is taken back.

use adit_cni::{Call, CniResult, Code, Error};
use adit_net::{Link, LinkChange, LinkKind, MacvlanSpec, Netlink, Netns};
use adit_plugin::{
    DuplicateAddressDetection, Identity, Undo, announce_addresses, configure_interface, existing_link, ipam, net_error,
    open_pod, result_interface,
};

use crate::config::{Config, Network};
use crate::master;
use crate::plan::{Master, Step};

/// Both namespaces of an attachment, and the interface below.
pub(crate) struct Sides {
    pod: Netns,
    pod_netlink: Netlink,
    /// Where the master is, when that is not the pod.
    host: Option<Netlink>,
    master: Link,
    identity: Identity,
}

/// An ADD under way.
pub(crate) struct Attach<'a, 'u> {
    sides: &'a Sides,
    network: &'a Network,
    call: &'a Call<Config>,
    undo: &'u mut Undo<'a>,
}

impl Sides {
    /// Opens both namespaces and finds the master. Changes nothing.
    ///
    /// # Errors
    /// When the pod's namespace cannot be opened or has an interface of the name that is asked for, or there is no master.
    pub(crate) fn open(call: &Call<Config>, network: &Network) -> Result<Self, Error> {
        let pod = open_pod(&call.netns)?;
        let pod_netlink = Netlink::open_in(&pod).map_err(net_error)?;
        let ifname = call.attachment.ifname.as_str();
        if pod_netlink.link(ifname).map_err(net_error)?.is_some() {
            return Err(Error::new(
                Code::INTERNAL,
                format!("container interface name provided ({ifname:?}) already exists"),
            )
            .with_details("call DEL first if it is of this attachment, else use another interface name"));
        }
        let host = if network.master_in_pod { None } else { Some(Netlink::open().map_err(net_error)?) };
        let master = master::find(host.as_ref().unwrap_or(&pod_netlink), network.master.as_ref())?;
        let identity = Identity::new(call.network.as_str(), &call.attachment);
        Ok(Self { pod, pod_netlink, host, master, identity })
    }

    pub(crate) fn master(&self) -> Master<'_> {
        Master { name: &self.master.name, mtu: self.master.mtu }
    }
}

impl<'a, 'u> Attach<'a, 'u> {
    pub(crate) fn new(sides: &'a Sides, network: &'a Network, call: &'a Call<Config>, undo: &'u mut Undo<'a>) -> Self {
        Self { sides, network, call, undo }
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
            Step::Create { ifname, mode, mtu, mac, bc_queue_len, .. } => {
                let spec = MacvlanSpec {
                    mtu: *mtu,
                    mac: *mac,
                    bc_queue_len: *bc_queue_len,
                    netns: self.sides.host.is_some().then_some(&self.sides.pod),
                    ..MacvlanSpec::new(ifname, self.sides.master.index, *mode)
                };
                self.create(&spec)
            }
            Step::Pod(steps) => configure_interface(&self.sides.pod, &self.sides.pod_netlink, &self.link()?, steps),
            Step::Announce(_) => {
                announce_addresses(&self.sides.pod_netlink, &self.link()?);
                Ok(())
            }
        }
    }

    /// Addresses from the IPAM plugin; none on layer 2.
    pub(crate) fn request_addresses(&mut self) -> Result<CniResult, Error> {
        let plugin = self.network.ipam.as_deref();
        ipam::add(&self.call.delegate, plugin, self.undo, ipam::IPS_OF_THE_ANNOTATION)
    }

    /// What the kernel can do of the network's duplicate address detection for these addresses.
    pub(crate) fn detection(&self, addressed: &CniResult) -> Result<DuplicateAddressDetection, Error> {
        if addressed.ips.iter().any(|ip| ip.address.is_ipv6()) {
            self.network.dad.supported(&self.sides.pod, self.call.attachment.ifname.as_str())
        } else {
            Ok(self.network.dad)
        }
    }

    /// The result: IPAM's part, and the interface as the kernel has it now.
    pub(crate) fn result(&self, addressed: CniResult) -> Result<CniResult, Error> {
        let mut interface = result_interface(&self.link()?);
        interface.sandbox = Some(self.call.netns.display().to_string());
        Ok(CniResult { interfaces: vec![interface], ..addressed })
    }

    fn create(&mut self, spec: &MacvlanSpec<'_>) -> Result<(), Error> {
        let sides = self.sides;
        let netlink = sides.host.as_ref().unwrap_or(&sides.pod_netlink);
        netlink
            .add_macvlan(spec)
            .map_err(|error| net_error(error).with_details(format!("the master is {}", sides.master.name)))?;
        let pod = &sides.pod_netlink;
        let link = existing_link(pod, spec.name)?;
        debug_assert_eq!(link.kind, LinkKind::Macvlan);
        self.undo
            .push(format!("delete {}", spec.name), move || pod.delete_link(link.index).map(drop).map_err(net_error));
        let change = LinkChange {
            alias: Some(sides.identity.alias().to_owned()),
            // In passthru mode the kernel makes it with the master's address. Its own is taken from the master with it.
            mac: spec.mac.filter(|_| spec.mac != link.mac),
            ..LinkChange::default()
        };
        pod.change_link(link.index, &change).map_err(net_error)
    }

    fn link(&self) -> Result<Link, Error> {
        existing_link(&self.sides.pod_netlink, self.call.attachment.ifname.as_str())
    }
}
