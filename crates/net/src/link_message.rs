//! Links as netlink messages (`struct ifinfomsg`, `IFLA_*` of include/uapi/linux/if_link.h): requests from specifications, and
//! reading what the kernel reports.

use std::os::fd::{AsFd, AsRawFd};

use crate::{
    BridgePort, BridgeSpec, Link, LinkChange, LinkKind, MacAddress, MacvlanMode, MacvlanSpec, Netns, Port, PortState,
    PortVlan, VethSpec, WireguardSpec,
    attribute::{Attributes, attributes, find, native, text},
    vxlan,
};

/// `struct ifinfomsg`.
const HEADER_BYTES: usize = 16;

const AF_UNSPEC: u8 = 0;
pub(crate) const AF_BRIDGE: u8 = 7;
const AF_INET6: u16 = 10;

const IFLA_ADDRESS: u16 = 1;
pub(crate) const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_TXQLEN: u16 = 13;
const IFLA_OPERSTATE: u16 = 16;
pub(crate) const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_GROUP: u16 = 27;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_NUM_TX_QUEUES: u16 = 31;
const IFLA_GSO_MAX_SEGS: u16 = 40;
const IFLA_NUM_RX_QUEUES: u16 = 32;
const IFLA_LINK_NETNSID: u16 = 37;

pub(crate) const INFO_KIND: u16 = 1;
pub(crate) const INFO_DATA: u16 = 2;
const INFO_PORT_KIND: u16 = 4;
const INFO_PORT_DATA: u16 = 5;

const VETH_PEER: u16 = 1;
const MACVLAN_MODE: u16 = 1;
const MACVLAN_BC_QUEUE_LEN: u16 = 7;
const BRIDGE_VLAN_FILTERING: u16 = 7;
const BRIDGE_VLAN_PROTOCOL: u16 = 8;
const PORT_STATE: u16 = 1;
const PORT_HAIRPIN: u16 = 4;
const PORT_ISOLATED: u16 = 33;
const INET6_ADDR_GEN_MODE: u16 = 8;
const ADDR_GEN_NONE: u8 = 1;

// include/uapi/linux/if_bridge.h
const SPEC_FLAGS: u16 = 0;
const SPEC_VLAN: u16 = 2;
const FLAGS_MASTER: u16 = 1;
const VLAN_PVID: u16 = 1 << 1;
const VLAN_UNTAGGED: u16 = 1 << 2;
const VLAN_RANGE_BEGIN: u16 = 1 << 3;
const VLAN_RANGE_END: u16 = 1 << 4;

const EXT_BRIDGE_VLANS_COMPRESSED: u32 = 1 << 2;
const EXT_SKIP_STATISTICS: u32 = 1 << 3;

const IF_OPER_UP: u8 = 6;
const IFF_UP: u32 = 1;
const IFF_PROMISC: u32 = 1 << 8;
const IFF_LOWER_UP: u32 = 1 << 16;

/// A query that matches every link, without the statistics nobody reads.
pub(crate) fn any() -> Attributes {
    query(0)
}

pub(crate) fn by_name(name: &str) -> Attributes {
    let mut message = query(0);
    message.text(IFLA_IFNAME, name);
    message
}

pub(crate) fn by_index(index: u32) -> Attributes {
    query(index)
}

/// Nothing but an index.
pub(crate) fn with_index(index: u32) -> Attributes {
    message(AF_UNSPEC, index, 0, 0)
}

/// A pair in one message: nobody ever sees the other end here or under a passing name.
pub(crate) fn veth(spec: &VethSpec<'_>) -> Attributes {
    let mut link = with_index(0);
    link.text(IFLA_IFNAME, spec.name);
    if let Some(master) = spec.master {
        link.native_u32(IFLA_MASTER, master);
    }
    mtu_and_mac(&mut link, spec.mtu, spec.mac);
    if let Some(group) = spec.passing_group {
        link.native_u32(IFLA_GROUP, group);
    }
    one_queue(&mut link);
    link.group(IFLA_LINKINFO, |info| {
        info.text(INFO_KIND, "veth").group(INFO_DATA, |data| {
            data.group(VETH_PEER, |peer| {
                peer.header(&[0; HEADER_BYTES]).text(IFLA_IFNAME, spec.peer_name);
                mtu_and_mac(peer, spec.mtu, spec.peer_mac);
                one_queue(peer);
                in_netns(peer, Some(spec.peer_netns));
            });
        });
    });
    link
}

pub(crate) fn macvlan(spec: &MacvlanSpec<'_>) -> Attributes {
    let mut link = with_index(0);
    link.text(IFLA_IFNAME, spec.name).native_u32(IFLA_LINK, spec.lower_index);
    mtu_and_mac(&mut link, spec.mtu, spec.mac);
    in_netns(&mut link, spec.netns);
    link.group(IFLA_LINKINFO, |info| {
        info.text(INFO_KIND, "macvlan").group(INFO_DATA, |data| {
            data.native_u32(MACVLAN_MODE, spec.mode.number());
            if let Some(packets) = spec.bc_queue_len {
                data.native_u32(MACVLAN_BC_QUEUE_LEN, packets);
            }
        });
    });
    link
}

pub(crate) fn bridge(spec: &BridgeSpec<'_>) -> Attributes {
    let mut link = with_index(0);
    link.text(IFLA_IFNAME, spec.name);
    mtu_and_mac(&mut link, spec.mtu, spec.mac);
    bridge_info(&mut link, spec.vlan_filtering);
    link
}

pub(crate) fn wireguard(spec: &WireguardSpec<'_>) -> Attributes {
    let mut link = with_index(0);
    link.text(IFLA_IFNAME, spec.name);
    mtu_and_mac(&mut link, spec.mtu, None);
    in_netns(&mut link, spec.netns);
    link.group(IFLA_LINKINFO, |info| {
        info.text(INFO_KIND, "wireguard");
    });
    link
}

/// With an MTU that no device can have.
pub(crate) fn impossible(name: &str, kind: &str) -> Attributes {
    let mut link = with_index(0);
    link.text(IFLA_IFNAME, name);
    mtu_and_mac(&mut link, Some(u32::MAX), None);
    link.group(IFLA_LINKINFO, |info| {
        info.text(INFO_KIND, kind);
    });
    link
}

pub(crate) fn vlan_filtering(bridge_index: u32, on: bool) -> Attributes {
    let mut link = with_index(bridge_index);
    bridge_info(&mut link, Some(on));
    link
}

/// A query for the ports of all bridges, with consecutive VLANs as ranges.
pub(crate) fn ports_with_vlans() -> Attributes {
    let mut message = message(AF_BRIDGE, 0, 0, 0);
    message.native_u32(IFLA_EXT_MASK, EXT_BRIDGE_VLANS_COMPRESSED);
    message
}

/// VLANs of a port, told to its bridge and not to the link itself.
pub(crate) fn port_vlan(index: u32, vlan: &PortVlan) -> Attributes {
    let flags = if vlan.pvid { VLAN_PVID } else { 0 } | if vlan.untagged { VLAN_UNTAGGED } else { 0 };
    let info = |spec: &mut Attributes, flags: u16, vid: u16| {
        spec.bytes(SPEC_VLAN, &[flags.to_ne_bytes(), vid.to_ne_bytes()].concat());
    };
    let mut message = message(AF_BRIDGE, index, 0, 0);
    message.group(IFLA_AF_SPEC, |spec| {
        spec.bytes(SPEC_FLAGS, &FLAGS_MASTER.to_ne_bytes());
        if vlan.first == vlan.last {
            info(spec, flags, vlan.first);
        } else {
            info(spec, flags | VLAN_RANGE_BEGIN, vlan.first);
            info(spec, flags | VLAN_RANGE_END, vlan.last);
        }
    });
    message
}

/// The VLANs in an answer, if it is about the port `index`.
pub(crate) fn port_vlans(body: &[u8], index: u32) -> Vec<PortVlan> {
    let Some((header, rest)) = body.split_first_chunk::<HEADER_BYTES>() else { return Vec::new() };
    if header.get(4..8).and_then(native) != Some(index) {
        return Vec::new();
    }
    let mut found = Vec::new();
    let mut first = None;
    for (_, value) in find(rest, IFLA_AF_SPEC).into_iter().flat_map(attributes).filter(|(kind, _)| *kind == SPEC_VLAN) {
        let Some([f0, f1, v0, v1]) = value.first_chunk() else { continue };
        let (flags, vid) = (u16::from_ne_bytes([*f0, *f1]), u16::from_ne_bytes([*v0, *v1]));
        if flags & VLAN_RANGE_BEGIN != 0 {
            first = Some(vid);
            continue;
        }
        let begun = first.take().filter(|_| flags & VLAN_RANGE_END != 0);
        found.push(PortVlan {
            first: begun.unwrap_or(vid),
            last: vid,
            pvid: flags & VLAN_PVID != 0,
            untagged: flags & VLAN_UNTAGGED != 0,
        });
    }
    found
}

pub(crate) fn bridge_port(index: u32, port: &BridgePort) -> Attributes {
    let mut message = with_index(index);
    message.group(IFLA_LINKINFO, |info| {
        info.text(INFO_PORT_KIND, "bridge").group(INFO_PORT_DATA, |data| {
            for (kind, wanted) in [(PORT_HAIRPIN, port.hairpin), (PORT_ISOLATED, port.isolated)] {
                if let Some(on) = wanted {
                    data.u8(kind, on.into());
                }
            }
        });
    });
    message
}

/// Asks for no IPv6 address made by the kernel. The kernel reads this after the flags
/// (`do_setlink`, net/core/rtnetlink.c), but a link that goes up with the old mode has its address
/// already: it must be sent before, on its own.
pub(crate) fn no_generated_address(index: u32) -> Attributes {
    let mut message = with_index(index);
    message.group(IFLA_AF_SPEC, |spec| {
        spec.group(AF_INET6, |inet6| {
            inet6.u8(INET6_ADDR_GEN_MODE, ADDR_GEN_NONE);
        });
    });
    message
}

/// Everything else of a change; `None` when there is nothing else.
pub(crate) fn change(index: u32, change: &LinkChange) -> Option<Attributes> {
    let (mut flags, mut mask) = (0, 0);
    for (bit, wanted) in [(IFF_UP, change.up), (IFF_PROMISC, change.promisc)] {
        if let Some(on) = wanted {
            mask |= bit;
            flags |= if on { bit } else { 0 };
        }
    }
    let mut message = message(AF_UNSPEC, index, flags, mask);
    if let Some(master) = change.master {
        message.native_u32(IFLA_MASTER, master.unwrap_or(0));
    }
    if let Some(name) = &change.name {
        message.text(IFLA_IFNAME, name);
    }
    if let Some(alias) = &change.alias {
        message.bytes(IFLA_IFALIAS, alias.as_bytes());
    }
    if let Some(group) = change.group {
        message.native_u32(IFLA_GROUP, group);
    }
    if let Some(segments) = change.gso_max_segments {
        message.native_u32(IFLA_GSO_MAX_SEGS, segments);
    }
    if let Some(packets) = change.tx_queue_len {
        message.native_u32(IFLA_TXQLEN, packets);
    }
    mtu_and_mac(&mut message, change.mtu, change.mac);
    (message != with_index(index)).then_some(message)
}

/// The link in an answer; `None` when it is none.
pub(crate) fn parse(body: &[u8]) -> Option<Link> {
    let (header, rest) = body.split_first_chunk::<HEADER_BYTES>()?;
    let flags = header.get(8..12).and_then(native)?;
    let mut link = Link {
        index: header.get(4..8).and_then(native)?,
        name: String::new(),
        kind: LinkKind::None,
        mac: None,
        mtu: 0,
        up: flags & IFF_UP != 0,
        oper_up: false,
        lower_up: flags & IFF_LOWER_UP != 0,
        promisc: flags & IFF_PROMISC != 0,
        master: None,
        peer_index: None,
        peer_netnsid: None,
        macvlan_mode: None,
        vlan_filtering: None,
        vxlan: None,
        port: None,
        alias: None,
        group: 0,
        flags,
    };
    for (kind, value) in attributes(rest) {
        match kind {
            IFLA_IFNAME => link.name = text(value),
            IFLA_ADDRESS => link.mac = value.try_into().ok().map(MacAddress),
            IFLA_MTU => link.mtu = native(value)?,
            IFLA_OPERSTATE => link.oper_up = value == [IF_OPER_UP],
            IFLA_MASTER => link.master = native(value),
            IFLA_LINK => link.peer_index = native(value).filter(|index| *index != 0),
            IFLA_LINK_NETNSID => link.peer_netnsid = native(value).map(u32::cast_signed),
            IFLA_IFALIAS => link.alias = Some(text(value)),
            IFLA_GROUP => link.group = native(value)?,
            IFLA_LINKINFO => parse_info(value, &mut link),
            _ => {}
        }
    }
    Some(link)
}

fn parse_info(info: &[u8], link: &mut Link) {
    let name = find(info, INFO_KIND).map(text).unwrap_or_default();
    let data = find(info, INFO_DATA).unwrap_or_default();
    link.kind = match name.as_str() {
        "bridge" => LinkKind::Bridge,
        "veth" => LinkKind::Veth,
        "macvlan" => LinkKind::Macvlan,
        "tun" => LinkKind::Tun,
        "vxlan" => LinkKind::Vxlan,
        "wireguard" => LinkKind::Wireguard,
        "" => LinkKind::None,
        _ => LinkKind::Other(name),
    };
    match link.kind {
        LinkKind::Macvlan => {
            link.macvlan_mode = find(data, MACVLAN_MODE).and_then(native).and_then(MacvlanMode::from_number);
        }
        LinkKind::Bridge => link.vlan_filtering = parse_vlan_filtering(data),
        LinkKind::Vxlan => link.vxlan = Some(vxlan::parse(data)),
        _ => {}
    }
    if find(info, INFO_PORT_KIND).map(text).as_deref() == Some("bridge") {
        link.port = find(info, INFO_PORT_DATA).and_then(parse_port);
    }
}

/// A kernel without VLAN filtering says that it is off, but has no VLAN protocol (`br_fill_info`, net/bridge/br_netlink.c).
fn parse_vlan_filtering(data: &[u8]) -> Option<bool> {
    find(data, BRIDGE_VLAN_PROTOCOL)?;
    flag(data, BRIDGE_VLAN_FILTERING)
}

fn parse_port(data: &[u8]) -> Option<Port> {
    let &[state] = find(data, PORT_STATE)? else { return None };
    Some(Port {
        state: PortState::from_number(state)?,
        hairpin: flag(data, PORT_HAIRPIN).unwrap_or(false),
        isolated: flag(data, PORT_ISOLATED).unwrap_or(false),
    })
}

fn flag(data: &[u8], kind: u16) -> Option<bool> {
    Some(find(data, kind)?.first()? != &0)
}

fn query(index: u32) -> Attributes {
    let mut message = with_index(index);
    message.native_u32(IFLA_EXT_MASK, EXT_SKIP_STATISTICS);
    message
}

/// `struct ifinfomsg`; the bits of `flags` count that `mask` has.
fn message(family: u8, index: u32, flags: u32, mask: u32) -> Attributes {
    let mut message = Attributes::new();
    message.header(&[family, 0, 0, 0]);
    for field in [index, flags, mask] {
        message.header(&field.to_ne_bytes());
    }
    message
}

fn bridge_info(link: &mut Attributes, vlan_filtering: Option<bool>) {
    link.group(IFLA_LINKINFO, |info| {
        info.text(INFO_KIND, "bridge");
        if let Some(on) = vlan_filtering {
            info.group(INFO_DATA, |data| {
                data.u8(BRIDGE_VLAN_FILTERING, on.into());
            });
        }
    });
}

fn mtu_and_mac(message: &mut Attributes, mtu: Option<u32>, mac: Option<MacAddress>) {
    if let Some(bytes) = mtu {
        message.native_u32(IFLA_MTU, bytes);
    }
    if let Some(mac) = mac {
        message.bytes(IFLA_ADDRESS, &mac.0);
    }
}

/// A pair uses one queue in each direction whatever it has, but when the kernel has to make it so it waits for every processor,
/// twice, while nobody else can change a link (`veth_init_queues`, drivers/net/veth.c).
fn one_queue(message: &mut Attributes) {
    message.native_u32(IFLA_NUM_TX_QUEUES, 1).native_u32(IFLA_NUM_RX_QUEUES, 1);
}

/// The message holds the number of the descriptor: it must be sent while `netns` is borrowed.
fn in_netns(message: &mut Attributes, netns: Option<&Netns>) {
    if let Some(netns) = netns {
        message.bytes(IFLA_NET_NS_FD, &netns.as_fd().as_raw_fd().to_ne_bytes());
    }
}

impl MacvlanMode {
    /// `enum macvlan_mode`.
    const ALL: [(Self, u32); 4] = [(Self::Private, 1), (Self::Vepa, 2), (Self::Bridge, 4), (Self::Passthru, 8)];

    fn number(self) -> u32 {
        Self::ALL.into_iter().find_map(|(mode, number)| (mode == self).then_some(number)).unwrap_or_default()
    }

    fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find_map(|(mode, known)| (known == number).then_some(mode))
    }
}

impl PortState {
    fn from_number(state: u8) -> Option<Self> {
        Some(match state {
            0 => Self::Disabled,
            1 => Self::Listening,
            2 => Self::Learning,
            3 => Self::Forwarding,
            4 => Self::Blocking,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests;
