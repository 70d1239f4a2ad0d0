use netlink_packet_core::{Emitable, Parseable};
use netlink_packet_route::link::{
    BridgePortState, InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth,
    LinkAttribute, LinkFlags, LinkInfo, LinkMessage, State, VlanProtocol,
};

use super::*;

fn bytes(message: &Attributes) -> Vec<u8> {
    message.clone().finish().unwrap()
}

/// What another implementation reads.
fn read(message: &Attributes) -> LinkMessage {
    LinkMessage::parse(bytes(message).as_slice()).unwrap()
}

/// What another implementation writes.
fn written(message: &LinkMessage) -> Vec<u8> {
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut bytes);
    bytes
}

#[test]
fn a_macvlan_is_asked_for_byte_by_byte() {
    let spec =
        MacvlanSpec { mtu: Some(1400), bc_queue_len: Some(2000), ..MacvlanSpec::new("net1", 7, MacvlanMode::Private) };
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
    let message = read(&veth(&spec));
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
            LinkAttribute::NumTxQueues(1),
            LinkAttribute::NumRxQueues(1),
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
fn vlan_filtering_is_asked_for_byte_by_byte() {
    let info = |on| {
        let mut bytes = vec![16, 0, 1, 0]; // IFLA_INFO_KIND: the terminating zero is padding too
        bytes[0] = 11;
        bytes.extend(b"bridge\0\0");
        bytes.extend([12, 0, 2, 0]); // IFLA_INFO_DATA
        bytes.extend([5, 0, 7, 0, on, 0, 0, 0]); // IFLA_BR_VLAN_FILTERING
        bytes
    };
    let mut created = vec![0; 16];
    created.extend([8, 0, 3, 0, b'b', b'r', b'0', 0]); // IFLA_IFNAME
    created.extend([28, 0, 18, 0]); // IFLA_LINKINFO
    created.extend(info(1));
    let spec = BridgeSpec { vlan_filtering: Some(true), ..BridgeSpec::new("br0") };
    assert_eq!(bytes(&bridge(&spec)), created);

    let mut changed = vec![0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    changed.extend([28, 0, 18, 0]);
    changed.extend(info(0));
    assert_eq!(bytes(&vlan_filtering(9, false)), changed);
}

#[test]
fn a_ports_vlans_are_asked_for_byte_by_byte() {
    let header = [7, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]; // AF_BRIDGE
    let flags = [6, 0, 0, 0, 1, 0, 0, 0]; // IFLA_BRIDGE_FLAGS: BRIDGE_FLAGS_MASTER
    let mut single = header.to_vec();
    single.extend([20, 0, 26, 0]); // IFLA_AF_SPEC
    single.extend(flags);
    single.extend([8, 0, 2, 0, 6, 0, 100, 0]); // IFLA_BRIDGE_VLAN_INFO: PVID and UNTAGGED
    let vlan = PortVlan { first: 100, last: 100, pvid: true, untagged: true };
    assert_eq!(bytes(&port_vlan(5, &vlan)), single);

    let mut range = header.to_vec();
    range.extend([28, 0, 26, 0]);
    range.extend(flags);
    range.extend([8, 0, 2, 0, 8, 0, 0x90, 1]); // RANGE_BEGIN 400
    range.extend([8, 0, 2, 0, 16, 0, 0xfe, 0x0f]); // RANGE_END 4094
    let vlan = PortVlan { first: 400, last: 4094, pvid: false, untagged: false };
    assert_eq!(bytes(&port_vlan(5, &vlan)), range);

    let mut query = vec![7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    query.extend([8, 0, 29, 0, 4, 0, 0, 0]); // IFLA_EXT_MASK: RTEXT_FILTER_BRVLAN_COMPRESSED
    assert_eq!(bytes(&ports_with_vlans()), query);
}

/// An answer as the kernel gives it: `br_fill_ifvlaninfo_compressed`, net/bridge/br_netlink.c.
#[test]
fn a_ports_vlans_are_read() {
    let mut answer = vec![7, 0, 1, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    answer.extend([36, 0, 26, 0]);
    answer.extend([8, 0, 2, 0, 6, 0, 1, 0]);
    answer.extend([8, 0, 2, 0, 8, 0, 10, 0, 8, 0, 2, 0, 16, 0, 20, 0]);
    answer.extend([8, 0, 2, 0, 4, 0, 0xfe, 0x0f]);
    assert_eq!(
        port_vlans(&answer, 5),
        [
            PortVlan { first: 1, last: 1, pvid: true, untagged: true },
            PortVlan { first: 10, last: 20, pvid: false, untagged: false },
            PortVlan { first: 4094, last: 4094, pvid: false, untagged: true },
        ]
    );
    assert_eq!(port_vlans(&answer, 6), []);
}

#[test]
fn what_a_port_and_its_bridge_are_like_is_read() {
    let mut message = read(&with_index(3));
    let data = [InfoBridgePort::State(BridgePortState::Forwarding), InfoBridgePort::HairpinMode(true)];
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::PortKind(InfoPortKind::Bridge),
        LinkInfo::PortData(InfoPortData::BridgePort(data.into())),
    ]));
    let link = parse(&written(&message)).unwrap();
    assert_eq!(link.port, Some(Port { hairpin: true, isolated: false, state: PortState::Forwarding }));
    assert_eq!(link.vlan_filtering, None);

    let protocol = InfoBridge::VlanProtocol(VlanProtocol::Ieee8021Q);
    for (data, expected) in [
        (vec![InfoBridge::VlanFiltering(true), protocol.clone()], Some(true)),
        (vec![protocol, InfoBridge::VlanFiltering(false)], Some(false)),
        (vec![InfoBridge::VlanFiltering(false)], None),
    ] {
        let mut message = read(&with_index(3));
        let info = vec![LinkInfo::Kind(InfoKind::Bridge), LinkInfo::Data(InfoData::Bridge(data.clone()))];
        message.attributes.push(LinkAttribute::LinkInfo(info));
        let link = parse(&written(&message)).unwrap();
        assert_eq!(link.vlan_filtering, expected, "{data:?}");
    }
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
    let message = read(&change(3, &wanted).unwrap());
    assert_eq!(message.attributes, [LinkAttribute::Controller(0)]);
}

#[test]
fn a_reported_link_is_read() {
    let mut message = read(&macvlan(&MacvlanSpec {
        mtu: Some(1400),
        mac: Some(MacAddress([2, 0, 0, 0, 0, 1])),
        ..MacvlanSpec::new("net1", 7, MacvlanMode::Vepa)
    }));
    message.header.index = 9;
    message.header.flags = LinkFlags::Up | LinkFlags::LowerUp;
    message.attributes.push(LinkAttribute::OperState(State::Up));
    message.attributes.push(LinkAttribute::LinkNetNsId(3));
    message.attributes.push(LinkAttribute::IfAlias("a pod".into()));
    message.attributes.push(LinkAttribute::Group(77));
    let link = parse(&written(&message)).unwrap();
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
            vlan_filtering: None,
            vxlan: None,
            port: None,
            alias: Some("a pod".into()),
            group: 77,
            flags: 0x1_0001,
        }
    );
}
