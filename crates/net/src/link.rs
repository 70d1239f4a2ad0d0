//! Links: what there is, making, changing and deleting.

use std::{fmt, str::FromStr, time::Duration};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use nix::errno::Errno;

use crate::{
    Error, MacAddress, Netlink, Netns, Port, Result, Vxlan,
    attribute::Attributes,
    bridge::NO_VLAN_FILTERING,
    link_message as message,
    request::{DELETE_LINK, GET_LINK, NEW_LINK, Request, SET_LINK},
    wait::{GROUP_LINK, Look},
};

/// What made a link, as far as this crate tells them apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LinkKind {
    /// A software bridge.
    Bridge,
    /// One end of a veth pair.
    Veth,
    /// A macvlan on a lower link.
    Macvlan,
    /// A TUN or TAP device.
    Tun,
    /// A VXLAN device.
    Vxlan,
    /// A WireGuard device.
    Wireguard,
    /// Any other kind, by the kernel's name: `vlan`, `macvtap`.
    Other(String),
    /// The link has no kind: loopback, hardware.
    None,
}

/// A link as the kernel reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Index in its namespace.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Kind.
    pub kind: LinkKind,
    /// Hardware address; `None` when the link has none or one that is not six bytes long.
    pub mac: Option<MacAddress>,
    /// MTU in bytes.
    pub mtu: u32,
    /// Administratively up (`IFF_UP`).
    pub up: bool,
    /// Operational state is up (`IF_OPER_UP`, RFC 2863).
    pub oper_up: bool,
    /// Has carrier (`IFF_LOWER_UP`); iproute2's `NO-CARRIER` is `up && !lower_up`.
    pub lower_up: bool,
    /// Promiscuous (`IFF_PROMISC`).
    pub promisc: bool,
    /// Index of the bridge (or other master) it is a port of.
    pub master: Option<u32>,
    /// `IFLA_LINK`: index of the veth peer or of macvlan's lower link, in the namespace
    /// `peer_netnsid` when that is set.
    pub peer_index: Option<u32>,
    /// Number of the namespace in which `peer_index` counts; `None` is this one.
    pub peer_netnsid: Option<i32>,
    /// Mode of a macvlan.
    pub macvlan_mode: Option<MacvlanMode>,
    /// Whether a bridge separates VLANs; `None` for other links, and where the kernel has no bridge VLAN filtering.
    pub vlan_filtering: Option<bool>,
    /// What a VXLAN device is like; `None` for other links.
    pub vxlan: Option<Vxlan>,
    /// What a bridge's port is like; `None` for other links.
    pub port: Option<Port>,
    /// Free text set on the link (`ip link set … alias`).
    pub alias: Option<String>,
    /// Group (`ip link set … group`); 0 where nobody set one.
    pub group: u32,
    /// All flags (`IFF_*`, include/uapi/linux/if.h).
    pub flags: u32,
}

/// Which other links on the same lower link a macvlan reaches, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum MacvlanMode {
    /// All of them, directly.
    #[default]
    Bridge,
    /// None of them.
    Private,
    /// All of them, through the switch outside.
    Vepa,
    /// There is only one, and it has the lower link to itself.
    Passthru,
}

/// A veth pair: one end where the [`Netlink`] lives, the other made directly in `peer_netns` under
/// its final name. Both ends are down.
#[derive(Clone, Copy, Debug)]
pub struct VethSpec<'a> {
    /// Name of this end.
    pub name: &'a str,
    /// MTU of both ends in bytes; `None` is the kernel's 1500.
    pub mtu: Option<u32>,
    /// Hardware address of this end.
    pub mac: Option<MacAddress>,
    /// Free text on this end.
    pub alias: Option<&'a str>,
    /// Group of this end for the moment between creation and its `alias`, which takes it back to 0: in it and without an
    /// alias is what a killed process left half made.
    pub passing_group: Option<u32>,
    /// Index of the bridge this end becomes a port of.
    pub master: Option<u32>,
    /// Name of the other end.
    pub peer_name: &'a str,
    /// Namespace of the other end.
    pub peer_netns: &'a Netns,
    /// Hardware address of the other end.
    pub peer_mac: Option<MacAddress>,
    /// Free text on the other end.
    pub peer_alias: Option<&'a str>,
}

impl<'a> VethSpec<'a> {
    /// A pair with the kernel's MTU and random addresses.
    #[must_use]
    pub const fn new(name: &'a str, peer_name: &'a str, peer_netns: &'a Netns) -> Self {
        Self {
            name,
            mtu: None,
            mac: None,
            alias: None,
            passing_group: None,
            master: None,
            peer_name,
            peer_netns,
            peer_mac: None,
            peer_alias: None,
        }
    }
}

/// A macvlan on a link of the [`Netlink`]'s namespace, made directly in `netns` under its final
/// name. It is down.
#[derive(Clone, Copy, Debug)]
pub struct MacvlanSpec<'a> {
    /// Name in its namespace.
    pub name: &'a str,
    /// Index of the lower link, in the [`Netlink`]'s namespace.
    pub lower_index: u32,
    /// Mode.
    pub mode: MacvlanMode,
    /// MTU in bytes; `None` is the lower link's.
    pub mtu: Option<u32>,
    /// Hardware address; `None` is a random one (passthru: the lower link's).
    pub mac: Option<MacAddress>,
    /// Length of the lower link's queue of broadcasts in packets.
    pub bc_queue_len: Option<u32>,
    /// Where it is to be; `None` is the [`Netlink`]'s namespace.
    pub netns: Option<&'a Netns>,
}

impl<'a> MacvlanSpec<'a> {
    /// A macvlan in the [`Netlink`]'s own namespace with the lower link's MTU.
    #[must_use]
    pub const fn new(name: &'a str, lower_index: u32, mode: MacvlanMode) -> Self {
        Self { name, lower_index, mode, mtu: None, mac: None, bc_queue_len: None, netns: None }
    }
}

/// A bridge. It is down.
#[derive(Clone, Copy, Debug)]
pub struct BridgeSpec<'a> {
    /// Name.
    pub name: &'a str,
    /// MTU in bytes; `None` lets it follow its ports.
    pub mtu: Option<u32>,
    /// Hardware address; `None` lets it follow its ports.
    pub mac: Option<MacAddress>,
    /// Whether it separates VLANs from its beginning on; `None` is the kernel's default (no).
    pub vlan_filtering: Option<bool>,
}

impl<'a> BridgeSpec<'a> {
    /// A bridge whose MTU and address follow its ports.
    #[must_use]
    pub const fn new(name: &'a str) -> Self {
        Self { name, mtu: None, mac: None, vlan_filtering: None }
    }
}

/// What is to change on a link; what is `None` or `false` stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkChange {
    /// Up or down.
    pub up: Option<bool>,
    /// MTU in bytes.
    pub mtu: Option<u32>,
    /// Hardware address.
    pub mac: Option<MacAddress>,
    /// `Some(None)` takes the link out of its bridge.
    pub master: Option<Option<u32>>,
    /// New name; before Linux 6.2 the link must be down.
    pub name: Option<String>,
    /// Promiscuous mode.
    pub promisc: Option<bool>,
    /// Free text.
    pub alias: Option<String>,
    /// Group.
    pub group: Option<u32>,
    /// `true`: the kernel makes no IPv6 link-local address by itself. Takes effect before `up`.
    pub addr_gen_none: bool,
    /// Length of the transmit queue in packets.
    pub tx_queue_len: Option<u32>,
    /// The most packets that one packet may stand for which the kernel leaves in one piece.
    pub gso_max_segments: Option<u32>,
}

/// Settings of a bridge's port; what is `None` stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BridgePort {
    /// Frames may leave through the port they came from.
    pub hairpin: Option<bool>,
    /// Isolated ports do not reach each other.
    pub isolated: Option<bool>,
}

impl Netlink {
    /// The link called `name`; `None` when there is none.
    ///
    /// # Errors
    /// When the kernel refuses or does not answer.
    pub fn link(&self, name: &str) -> Result<Option<Link>> {
        self.find_link(message::by_name(name), || name.to_owned())
    }

    /// The link with `index`; `None` when there is none.
    ///
    /// # Errors
    /// As [`Netlink::link`].
    pub fn link_by_index(&self, index: u32) -> Result<Option<Link>> {
        self.find_link(message::by_index(index), || format!("with index {index}"))
    }

    /// All links of the namespace.
    ///
    /// # Errors
    /// As [`Netlink::link`].
    pub fn links(&self) -> Result<Vec<Link>> {
        let request = Request::new(GET_LINK, message::any());
        self.dump("list", || "links".into(), &request, (NEW_LINK, message::parse))
    }

    /// Makes a veth pair; all of it or nothing.
    ///
    /// # Errors
    /// [`Error::is_exists`] when either name is taken.
    pub fn add_veth(&self, spec: &VethSpec<'_>) -> Result<()> {
        let names = format!("{} with peer {}", spec.name, spec.peer_name);
        self.create("create veth pair", &names, message::veth(spec))?;
        // The kernel ignores an alias on creation.
        self.set_veth_aliases(spec).inspect_err(|_| {
            if let Ok(Some(link)) = self.link(spec.name) {
                let _ = self.delete_link(link.index);
            }
        })
    }

    /// Makes a macvlan.
    ///
    /// # Errors
    /// [`Error::is_exists`] when the name is taken.
    pub fn add_macvlan(&self, spec: &MacvlanSpec<'_>) -> Result<()> {
        self.create("create macvlan", spec.name, message::macvlan(spec)).map_err(|error| {
            error
                .with_remedy(Errno::EBUSY, "the lower link is in use by an ipvlan, a passthru macvlan or a bridge")
                .with_remedy(Errno::ENODEV, "the lower link does not exist")
                .with_remedy(
                    Errno::EINVAL,
                    "the lower link must be an Ethernet other than loopback, and the MTU at most its MTU",
                )
        })
    }

    /// Makes a bridge.
    ///
    /// # Errors
    /// [`Error::is_exists`] when the name is taken; with words when VLANs are asked for and this kernel has no bridge VLAN
    /// filtering.
    pub fn add_bridge(&self, spec: &BridgeSpec<'_>) -> Result<()> {
        self.create("create bridge", spec.name, message::bridge(spec)).map_err(|error| match error {
            // Without bridges at all it says "Unknown device type".
            Error::Kernel { message: None, .. } if spec.vlan_filtering.is_some() => {
                error.with_remedy(Errno::EOPNOTSUPP, NO_VLAN_FILTERING)
            }
            other => other,
        })
    }

    /// Changes a link.
    ///
    /// # Errors
    /// [`Error::is_not_found`] when there is no such link.
    pub fn change_link(&self, index: u32, change: &LinkChange) -> Result<()> {
        let set = |message| {
            let request = Request::new(SET_LINK, message);
            self.acked("change link", || self.label(index), &request, 0)
        };
        if change.addr_gen_none {
            // A link without IPv6 (switched off, MTU below 1280) generates nothing anyway.
            gone_is_false(set(message::no_generated_address(index)), &[Errno::EAFNOSUPPORT])?;
        }
        message::change(index, change).map_or(Ok(()), set)
    }

    /// Changes the settings of a port of a bridge.
    ///
    /// # Errors
    /// When there is no such link or it is no port.
    pub fn set_bridge_port(&self, index: u32, port: &BridgePort) -> Result<()> {
        if *port == BridgePort::default() {
            return Ok(());
        }
        let request = Request::new(NEW_LINK, message::bridge_port(index, port));
        self.acked("change bridge port", || self.label(index), &request, 0)
    }

    /// Makes the kernel tell the neighbours where the link's addresses are: its hardware address is set to what it is, whereupon
    /// (`NETDEV_CHANGEADDR`) the kernel sends a gratuitous ARP request for every IPv4 address where the sysctl
    /// `net/ipv4/conf/<link>/arp_notify` is 1, and an unsolicited neighbour advertisement for every IPv6 address where
    /// `net/ipv6/conf/<link>/ndisc_notify` is 1.
    ///
    /// The link must be up; without carrier, or while a bridge's port does not forward, nothing gets through. An IPv6 address
    /// that is tentative is not announced (an optimistic one is): see [`Netlink::wait_addresses_usable`]. The kernel forgets the
    /// neighbours that it knew on the link.
    ///
    /// # Errors
    /// [`Error::is_not_found`] when there is no such link; when it has no hardware address that could be set.
    pub fn announce(&self, index: u32) -> Result<()> {
        let action = "announce the addresses of link";
        let link = self.link_by_index(index)?;
        let link = link.ok_or_else(|| Error::kernel(action, format!("with index {index}"), Errno::ENODEV))?;
        let Some(mac) = link.mac.filter(|mac| !mac.is_zero()) else {
            let reason = "it is no Ethernet, where neighbours could be told".into();
            return Err(Error::InvalidRequest { action, object: link.name, reason });
        };
        let same = LinkChange { mac: Some(mac), ..LinkChange::default() };
        let request = message::change(index, &same).unwrap_or_else(|| message::with_index(index));
        self.acked(action, || link.name.clone(), &Request::new(SET_LINK, request), 0)
    }

    /// Deletes a link; `Ok(false)` when it is gone already.
    ///
    /// # Errors
    /// When the kernel refuses (hardware, loopback).
    pub fn delete_link(&self, index: u32) -> Result<bool> {
        let request = Request::new(DELETE_LINK, message::with_index(index));
        gone_is_false(self.acked("delete link", || self.label(index), &request, 0), &[Errno::ENODEV])
    }

    /// Waits until the link called `name` exists and `until` holds for it.
    ///
    /// # Errors
    /// [`Error::TimedOut`] with the last state seen.
    pub fn wait_link(&self, name: &str, timeout: Duration, until: impl Fn(&Link) -> bool) -> Result<Link> {
        let look = || {
            Ok(match self.link(name)? {
                Some(link) if until(&link) => Look::Done(link),
                Some(link) => Look::NotYet(link.state()),
                None => Look::NotYet("there is no such link".into()),
            })
        };
        self.wait_for(&[GROUP_LINK], || format!("link {name}"), timeout, look)
    }

    /// How a link is called in errors.
    pub(crate) fn label(&self, index: u32) -> String {
        match self.link_by_index(index) {
            Ok(Some(link)) => link.name,
            _ => format!("with index {index}"),
        }
    }

    fn find_link(&self, query: Attributes, object: impl Fn() -> String) -> Result<Option<Link>> {
        match self.get("look up link", &object, &Request::new(GET_LINK, query), (NEW_LINK, message::parse)) {
            Ok(link) => Ok(Some(link)),
            Err(error) if error.errno() == Some(Errno::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn create(&self, action: &'static str, name: &str, message: Attributes) -> Result<()> {
        let request = Request::new(NEW_LINK, message);
        self.acked(action, || name.to_owned(), &request, NLM_F_CREATE | NLM_F_EXCL).map_err(|e| {
            e.with_remedy(Errno::EEXIST, "a link of this name is there already: delete it or choose another name")
        })
    }

    fn set_veth_aliases(&self, spec: &VethSpec<'_>) -> Result<()> {
        let change = |alias: &str| LinkChange { alias: Some(alias.to_owned()), ..LinkChange::default() };
        if let Some(alias) = spec.alias {
            let group = spec.passing_group.map(|_| 0);
            self.change_by_name(spec.name, LinkChange { group, ..change(alias) })?;
        }
        if let Some(alias) = spec.peer_alias {
            Self::open_in(spec.peer_netns)?.change_by_name(spec.peer_name, change(alias))?;
        }
        Ok(())
    }

    /// Without an index the kernel takes the name for the link's own instead of a new one (`rtnl_setlink`).
    fn change_by_name(&self, name: &str, change: LinkChange) -> Result<()> {
        let Some(message) = message::change(0, &LinkChange { name: Some(name.to_owned()), ..change }) else {
            return Ok(());
        };
        self.acked("change link", || name.to_owned(), &Request::new(SET_LINK, message), 0)
    }
}

impl Link {
    /// The state as iproute2 would put it, for errors.
    fn state(&self) -> String {
        let admin = if self.up { "up" } else { "down" };
        let carrier = if self.lower_up { "carrier" } else { "no carrier" };
        let operational = if self.oper_up { "up" } else { "not up" };
        format!("it is administratively {admin}, with {carrier}, operationally {operational}")
    }
}

/// Turns the given refusals of a deletion into "there was nothing to delete".
pub(crate) fn gone_is_false(outcome: Result<()>, gone: &[Errno]) -> Result<bool> {
    match outcome {
        Ok(()) => Ok(true),
        Err(error) if error.errno().is_some_and(|errno| gone.contains(&errno)) => Ok(false),
        Err(error) => Err(error),
    }
}

impl FromStr for MacvlanMode {
    type Err = Error;

    /// Reads the kernel's names: `bridge`, `private`, `vepa`, `passthru`.
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "bridge" => Ok(Self::Bridge),
            "private" => Ok(Self::Private),
            "vepa" => Ok(Self::Vepa),
            "passthru" => Ok(Self::Passthru),
            _ => Err(Error::InvalidMode { text: text.to_owned() }),
        }
    }
}

impl fmt::Display for MacvlanMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Bridge => "bridge",
            Self::Private => "private",
            Self::Vepa => "vepa",
            Self::Passthru => "passthru",
        })
    }
}
