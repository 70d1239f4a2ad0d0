//! Addresses, duplicate address detection, and what the neighbours hear.

use std::{net::IpAddr, time::Duration};

use adit_net::{Address, Error, announce, sysctl};
use ipnetwork::IpNetwork;
use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    Test,
    space::{DEADLINE, Space, connect},
};

pub const TESTS: &[Test] = &[
    ("an_address_is_added_read_and_deleted", added_read_and_deleted),
    ("an_address_with_a_peer_is_deleted_by_its_own_address", address_with_a_peer),
    ("the_wait_ends_when_duplicate_address_detection_does", wait_for_detection),
    ("a_duplicate_address_is_named", duplicate_is_named),
    ("a_wait_without_carrier_names_the_tentative_address", wait_without_carrier),
    ("announcements_reach_the_other_end", announcements_reach_the_other_end),
];

fn address(text: &str) -> Address {
    Address::new(network(text))
}

fn network(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

fn added_read_and_deleted(home: &Space) {
    let netlink = home.netlink();
    let index = home.spare("a").index;
    let four = Address { noprefixroute: true, ..address("10.1.2.3/24") };
    let six = Address { nodad: true, ..address("fd00::1/64") };
    netlink.add_address(index, &four).unwrap();
    netlink.add_address(index, &six).unwrap();

    let shown = home.ip("addr show dev a");
    assert!(shown.contains("inet 10.1.2.3/24 brd 10.1.2.255 scope global noprefixroute a"), "{shown}");
    assert!(shown.contains("inet6 fd00::1/64 scope global nodad"), "{shown}");
    let read = netlink.addresses(index).unwrap();
    assert!(read.contains(&four), "{read:?}");
    let read_six = read.iter().find(|a| a.network == six.network).unwrap();
    assert!(read_six.nodad && !read_six.noprefixroute && read_six.peer.is_none());

    let error = netlink.add_address(index, &four).unwrap_err();
    assert!(error.is_exists() && error.to_string().contains("10.1.2.3/24 to link a"), "{error}");

    // The same address with another prefix length is another address.
    assert!(!netlink.delete_address(index, network("10.1.2.3/16")).unwrap());
    for network in [four.network, six.network] {
        assert!(netlink.delete_address(index, network).unwrap());
        assert!(!netlink.delete_address(index, network).unwrap());
    }
    assert!(netlink.addresses(index).unwrap().is_empty());
    assert!(!netlink.delete_address(999, four.network).unwrap());
    assert!(netlink.addresses(999).unwrap_err().is_not_found());
}

fn address_with_a_peer(home: &Space) {
    let index = home.spare("a").index;
    for (own, peer) in [("10.0.0.1/32", "10.0.0.2"), ("fd00::1/128", "fd00::2")] {
        let address = Address { peer: Some(peer.parse().unwrap()), nodad: true, ..address(own) };
        home.netlink().add_address(index, &address).unwrap();
        assert!(home.ip("addr show dev a").contains(&format!("peer {peer}")));
        let read = home.netlink().addresses(index).unwrap();
        let read = read.iter().find(|a| a.network == address.network).unwrap();
        assert_eq!(read.peer, address.peer);
        assert!(home.netlink().delete_address(index, address.network).unwrap());
        assert!(home.netlink().addresses(index).unwrap().is_empty());
    }
}

fn wait_for_detection(home: &Space) {
    let pod = Space::new("pod");
    let (near, _) = connect(home, &pod);
    let netlink = home.netlink();
    netlink.wait_addresses_usable(near.index, DEADLINE).unwrap();
    netlink.add_address(near.index, &address("fd00::1/64")).unwrap();
    let tentative = || netlink.addresses(near.index).unwrap().iter().any(|a| a.tentative);
    assert!(tentative());
    netlink.wait_addresses_usable(near.index, DEADLINE).unwrap();
    assert!(!tentative());
}

fn duplicate_is_named(home: &Space) {
    let pod = Space::new("pod");
    let (near, far) = connect(home, &pod);
    pod.netlink().add_address(far.index, &address("fd00::1/64")).unwrap();
    pod.netlink().wait_addresses_usable(far.index, DEADLINE).unwrap();
    home.netlink().add_address(near.index, &address("fd00::1/64")).unwrap();
    let error = home.netlink().wait_addresses_usable(near.index, DEADLINE).unwrap_err();
    assert!(matches!(error, Error::DuplicateAddress { .. }), "{error}");
    assert!(error.to_string().contains("fd00::1 on near"), "{error}");
}

fn wait_without_carrier(home: &Space) {
    let pod = Space::new("pod");
    let (near, _) = connect(home, &pod);
    pod.ip("link set far down");
    home.netlink().wait_link("near", DEADLINE, |link| !link.lower_up).unwrap();
    home.netlink().add_address(near.index, &address("fd00::1/64")).unwrap();
    let error = home.netlink().wait_addresses_usable(near.index, Duration::from_millis(200)).unwrap_err();
    assert!(error.to_string().contains("tentative: fd00::1/64"), "{error}");
}

fn announcements_reach_the_other_end(home: &Space) {
    let pod = Space::new("pod");
    // Without IPv6 of their own the ends say nothing by themselves.
    for space in [home, &pod] {
        space.netns.run(|| sysctl::set("net/ipv6/conf/default/disable_ipv6", "1")).unwrap().unwrap();
    }
    let (_, far) = connect(home, &pod);
    let every_protocol = Protocol::from(i32::from(0x0003_u16.to_be()));
    let capture = Socket::new(Domain::PACKET, Type::RAW, Some(every_protocol)).unwrap();
    capture.set_read_timeout(Some(Duration::from_millis(300))).unwrap();

    let mac = far.mac.unwrap();
    let addresses: [IpAddr; 2] = ["10.0.0.5".parse().unwrap(), "fd00::5".parse().unwrap()];
    announce(&pod.netns, "far", mac, &addresses).unwrap();

    let mut frames = Vec::new();
    let mut buffer = [0; 2048];
    while let Ok(length) = std::io::Read::read(&mut (&capture), &mut buffer) {
        frames.push(buffer[..length].to_vec());
    }
    let count = |ethertype: [u8; 2], at: usize, value: u8| {
        frames.iter().filter(|f| f[6..12] == mac.0 && f[12..14] == ethertype && f[at] == value).count()
    };
    assert_eq!(count([8, 6], 21, 1), 3, "ARP requests among {frames:?}");
    assert_eq!(count([8, 6], 21, 2), 3, "ARP replies");
    assert_eq!(count([0x86, 0xdd], 54, 136), 3, "neighbour advertisements");
    let arp = frames.iter().find(|f| f[12..14] == [8, 6]).unwrap();
    assert_eq!(arp[28..32], [10, 0, 0, 5]);

    let error = announce(&pod.netns, "absent", mac, &addresses).unwrap_err();
    assert!(error.is_not_found(), "{error}");
    pod.ip("link set far down");
    let error = announce(&pod.netns, "far", mac, &addresses).unwrap_err();
    assert!(error.to_string().contains("the link must be up"), "{error}");
    let error = announce(&pod.netns, "lo", mac, &addresses).unwrap_err();
    assert!(error.to_string().contains("no Ethernet"), "{error}");
}
