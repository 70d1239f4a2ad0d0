//! Links as netlink messages: requests from specifications, and reading what the kernel reports.

use std::os::fd::{AsFd, AsRawFd};

use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{
        AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoMacVlan, InfoVeth, LinkAttribute,
        LinkExtentMask, LinkFlags, LinkInfo, LinkMessage, MacVlanMode, State,
    },
};
use rtnetlink::{LinkBridge, LinkBridgePort, LinkMacVlan, LinkMessageBuilder, LinkUnspec, LinkVeth};

use crate::{
    BridgePort, BridgeSpec, Link, LinkChange, LinkKind, MacAddress, MacvlanMode, MacvlanSpec, Netns, VethSpec,
};

/// A query that matches every link, without the statistics nobody reads.
pub(crate) fn any() -> LinkMessage {
    let skip = LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]);
    LinkMessageBuilder::<LinkUnspec>::new().append_extra_attribute(skip).build()
}

pub(crate) fn by_name(name: &str) -> LinkMessage {
    let mut message = any();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    message
}

pub(crate) fn by_index(index: u32) -> LinkMessage {
    let mut message = any();
    message.header.index = index;
    message
}

/// Nothing but an index.
pub(crate) fn with_index(index: u32) -> LinkMessage {
    LinkUnspec::new_with_index(index).build()
}

/// A pair in one message: nobody ever sees the other end here or under a passing name.
pub(crate) fn veth(spec: &VethSpec<'_>) -> LinkMessage {
    let peer = LinkUnspec::new_with_name(spec.peer_name);
    let peer = in_netns(with_mtu_and_mac(peer, spec.mtu, spec.peer_mac), Some(spec.peer_netns));
    let mut link = LinkVeth::new(spec.name, spec.peer_name).set_info_data(InfoData::Veth(InfoVeth::Peer(peer.build())));
    if let Some(master) = spec.master {
        link = link.controller(master);
    }
    with_mtu_and_mac(link, spec.mtu, spec.mac).build()
}

pub(crate) fn macvlan(spec: &MacvlanSpec<'_>) -> LinkMessage {
    let mut link = LinkMacVlan::new(spec.name, spec.lower_index, spec.mode.into());
    if let Some(packets) = spec.bc_queue_len {
        link = link.append_info_data(InfoMacVlan::BcQueueLen(packets));
    }
    in_netns(with_mtu_and_mac(link, spec.mtu, spec.mac), spec.netns).build()
}

pub(crate) fn bridge(spec: &BridgeSpec<'_>) -> LinkMessage {
    let link = LinkMessageBuilder::<LinkBridge>::new(spec.name);
    with_mtu_and_mac(link, spec.mtu, spec.mac).build()
}

pub(crate) fn bridge_port(index: u32, port: &BridgePort) -> LinkMessage {
    let mut message = LinkBridgePort::new(index);
    if let Some(hairpin) = port.hairpin {
        message = message.hairpin(hairpin);
    }
    if let Some(isolated) = port.isolated {
        message = message.isolated(isolated);
    }
    message.build()
}

/// Asks for no IPv6 address made by the kernel. The kernel reads this after the flags
/// (`do_setlink`, net/core/rtnetlink.c), but a link that goes up with the old mode has its address
/// already: it must be sent before, on its own.
pub(crate) fn no_generated_address(index: u32) -> LinkMessage {
    let inet6 = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
    LinkUnspec::new_with_index(index).append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![inet6])).build()
}

/// Everything else of a change; `None` when there is nothing else.
pub(crate) fn change(index: u32, change: &LinkChange) -> Option<LinkMessage> {
    let mut message = LinkUnspec::new_with_index(index);
    message = match change.up {
        Some(true) => message.up(),
        Some(false) => message.down(),
        None => message,
    };
    if let Some(promisc) = change.promisc {
        message = message.promiscuous(promisc);
    }
    if let Some(master) = change.master {
        message = message.controller(master.unwrap_or(0));
    }
    if let Some(name) = &change.name {
        message = message.name(name);
    }
    if let Some(alias) = &change.alias {
        message = message.alias(alias);
    }
    if let Some(packets) = change.tx_queue_len {
        message = message.txqueuelen(packets);
    }
    let message = with_mtu_and_mac(message, change.mtu, change.mac).build();
    (message != with_index(index)).then_some(message)
}

pub(crate) fn parse(message: &RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(message) = message else { return None };
    let flags = message.header.flags;
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        kind: LinkKind::None,
        mac: None,
        mtu: 0,
        up: flags.contains(LinkFlags::Up),
        oper_up: false,
        lower_up: flags.contains(LinkFlags::LowerUp),
        promisc: flags.contains(LinkFlags::Promisc),
        master: None,
        peer_index: None,
        peer_netnsid: None,
        macvlan_mode: None,
        alias: None,
        flags: flags.bits(),
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Address(bytes) => {
                link.mac = bytes.as_slice().try_into().ok().map(MacAddress);
            }
            LinkAttribute::Mtu(bytes) => link.mtu = *bytes,
            LinkAttribute::OperState(state) => link.oper_up = *state == State::Up,
            LinkAttribute::Controller(index) => link.master = Some(*index),
            LinkAttribute::Link(index) if *index != 0 => link.peer_index = Some(*index),
            LinkAttribute::LinkNetNsId(id) => link.peer_netnsid = Some(*id),
            LinkAttribute::IfAlias(text) => link.alias = Some(text.clone()),
            LinkAttribute::LinkInfo(infos) => parse_info(infos, &mut link),
            _ => {}
        }
    }
    Some(link)
}

fn parse_info(infos: &[LinkInfo], link: &mut Link) {
    for info in infos {
        match info {
            LinkInfo::Kind(kind) => {
                link.kind = match kind {
                    InfoKind::Bridge => LinkKind::Bridge,
                    InfoKind::Veth => LinkKind::Veth,
                    InfoKind::MacVlan => LinkKind::Macvlan,
                    InfoKind::Tun => LinkKind::Tun,
                    other => LinkKind::Other(other.to_string()),
                };
            }
            LinkInfo::Data(InfoData::MacVlan(data)) => {
                link.macvlan_mode = data.iter().find_map(|item| match item {
                    InfoMacVlan::Mode(mode) => MacvlanMode::from_kernel(*mode),
                    _ => None,
                });
            }
            _ => {}
        }
    }
}

fn with_mtu_and_mac<T>(
    mut message: LinkMessageBuilder<T>,
    mtu: Option<u32>,
    mac: Option<MacAddress>,
) -> LinkMessageBuilder<T> {
    if let Some(bytes) = mtu {
        message = message.mtu(bytes);
    }
    if let Some(mac) = mac {
        message = message.address(mac.0.to_vec());
    }
    message
}

/// The message holds the number of the descriptor: it must be sent while `netns` is borrowed.
fn in_netns<T>(message: LinkMessageBuilder<T>, netns: Option<&Netns>) -> LinkMessageBuilder<T> {
    match netns {
        Some(netns) => message.setns_by_fd(netns.as_fd().as_raw_fd()),
        None => message,
    }
}

impl From<MacvlanMode> for MacVlanMode {
    fn from(mode: MacvlanMode) -> Self {
        match mode {
            MacvlanMode::Bridge => Self::Bridge,
            MacvlanMode::Private => Self::Private,
            MacvlanMode::Vepa => Self::Vepa,
            MacvlanMode::Passthru => Self::Passthrough,
        }
    }
}

impl MacvlanMode {
    fn from_kernel(mode: MacVlanMode) -> Option<Self> {
        match mode {
            MacVlanMode::Bridge => Some(Self::Bridge),
            MacVlanMode::Private => Some(Self::Private),
            MacVlanMode::Vepa => Some(Self::Vepa),
            MacVlanMode::Passthrough => Some(Self::Passthru),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::{Emitable, Parseable};

    use super::*;

    fn bytes(message: &LinkMessage) -> Vec<u8> {
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        bytes
    }

    #[test]
    fn a_macvlan_is_asked_for_byte_by_byte() {
        let spec = MacvlanSpec {
            mtu: Some(1400),
            bc_queue_len: Some(2000),
            ..MacvlanSpec::new("net1", 7, MacvlanMode::Private)
        };
        let mut expected = vec![0; 16]; // struct ifinfomsg
        expected.extend([9, 0, 3, 0, b'n', b'e', b't', b'1', 0, 0, 0, 0]); // IFLA_IFNAME
        expected.extend([8, 0, 5, 0, 7, 0, 0, 0]); // IFLA_LINK
        expected.extend([8, 0, 4, 0, 0x78, 5, 0, 0]); // IFLA_MTU
        expected.extend([36, 0, 18, 0]); // IFLA_LINKINFO
        expected.extend([12, 0, 1, 0]); // IFLA_INFO_KIND
        expected.extend(b"macvlan\0");
        expected.extend([20, 0, 2, 0]); // IFLA_INFO_DATA
        expected.extend([8, 0, 1, 0, 1, 0, 0, 0]); // IFLA_MACVLAN_MODE
        expected.extend([8, 0, 7, 0, 0xd0, 7, 0, 0]); // IFLA_MACVLAN_BC_QUEUE_LEN
        assert_eq!(bytes(&macvlan(&spec)), expected);
    }

    #[test]
    fn the_peer_of_a_veth_pair_is_named_and_placed_in_the_one_message() {
        let netns = Netns::current().unwrap();
        let spec = VethSpec {
            mtu: Some(1400),
            master: Some(4),
            peer_mac: Some(MacAddress([2, 0, 0, 0, 0, 1])),
            ..VethSpec::new("veth0", "net1", &netns)
        };
        let message = LinkMessage::parse(bytes(&veth(&spec)).as_slice()).unwrap();
        assert!(message.attributes.contains(&LinkAttribute::Controller(4)));
        let peer = message
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                LinkAttribute::LinkInfo(infos) => infos.iter().find_map(|info| match info {
                    LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))) => Some(peer),
                    _ => None,
                }),
                _ => None,
            })
            .unwrap();
        assert_eq!(
            peer.attributes,
            [
                LinkAttribute::IfName("net1".into()),
                LinkAttribute::Mtu(1400),
                LinkAttribute::Address(vec![2, 0, 0, 0, 0, 1]),
                LinkAttribute::NetNsFd(netns.as_fd().as_raw_fd()),
            ]
        );
    }

    #[test]
    fn the_ipv6_mode_is_asked_for_byte_by_byte() {
        let mut expected = vec![0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        expected.extend([16, 0, 26, 0]); // IFLA_AF_SPEC
        expected.extend([12, 0, 10, 0]); // AF_INET6
        expected.extend([5, 0, 8, 0, 1, 0, 0, 0]); // IFLA_INET6_ADDR_GEN_MODE
        assert_eq!(bytes(&no_generated_address(3)), expected);
    }

    #[test]
    fn no_change_is_no_request() {
        // The IPv6 mode is a request of its own.
        let nothing = LinkChange { addr_gen_none: true, ..LinkChange::default() };
        assert_eq!(change(3, &nothing), None);
    }

    #[test]
    fn leaving_a_bridge_is_master_zero() {
        let wanted = LinkChange { master: Some(None), ..LinkChange::default() };
        let message = change(3, &wanted).unwrap();
        assert_eq!(message.attributes, [LinkAttribute::Controller(0)]);
    }

    #[test]
    fn a_reported_link_is_read() {
        let mut message = macvlan(&MacvlanSpec {
            mtu: Some(1400),
            mac: Some(MacAddress([2, 0, 0, 0, 0, 1])),
            ..MacvlanSpec::new("net1", 7, MacvlanMode::Vepa)
        });
        message.header.index = 9;
        message.header.flags = LinkFlags::Up | LinkFlags::LowerUp;
        message.attributes.push(LinkAttribute::OperState(State::Up));
        message.attributes.push(LinkAttribute::LinkNetNsId(3));
        message.attributes.push(LinkAttribute::IfAlias("a pod".into()));
        let link = parse(&RouteNetlinkMessage::NewLink(message)).unwrap();
        assert_eq!(
            link,
            Link {
                index: 9,
                name: "net1".into(),
                kind: LinkKind::Macvlan,
                mac: Some(MacAddress([2, 0, 0, 0, 0, 1])),
                mtu: 1400,
                up: true,
                oper_up: true,
                lower_up: true,
                promisc: false,
                master: None,
                peer_index: Some(7),
                peer_netnsid: Some(3),
                macvlan_mode: Some(MacvlanMode::Vepa),
                alias: Some("a pod".into()),
                flags: 0x1_0001,
            }
        );
    }
}
