//! Addresses, duplicate address detection, and what the neighbours hear.

use std::{net::IpAddr, time::Duration};

use adit_net::{Address, Error, MacAddress, MacvlanMode, MacvlanSpec, sysctl};
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
    ("every_usable_address_of_a_veth_is_announced_once", announced_on_a_veth),
    ("every_usable_address_of_a_macvlan_is_announced_once_in_every_mode", announced_on_a_macvlan),
    ("an_announcement_that_cannot_be_is_refused_in_words", what_cannot_be_announced),
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

/// Frames that a link sends, as its other end sees them.
struct Capture {
    socket: Socket,
    from: MacAddress,
}

impl Capture {
    fn open(at: &Space, from: MacAddress) -> Self {
        let every_protocol = Protocol::from(i32::from(0x0003_u16.to_be()));
        let socket = at.netns.run(|| Socket::new(Domain::PACKET, Type::RAW, Some(every_protocol))).unwrap().unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        Self { socket, from }
    }

    /// The address that the next announcement is of: a gratuitous ARP request, or an unsolicited neighbour advertisement to all
    /// nodes.
    fn next(&self) -> IpAddr {
        loop {
            let mut frame = [0; 2048];
            let length = std::io::Read::read(&mut (&self.socket), &mut frame).expect("an announcement");
            let frame = &frame[..length];
            if frame[6..12] != self.from.0 {
                continue;
            }
            let address = match frame[12..14] {
                [8, 6] if frame[20..22] == [0, 1] && frame[28..32] == frame[38..42] => {
                    assert_eq!((&frame[..6], &frame[22..28]), (&[0xff; 6][..], &self.from.0[..]));
                    IpAddr::from(<[u8; 4]>::try_from(&frame[28..32]).unwrap())
                }
                [0x86, 0xdd] if frame[20] == 58 && frame[54] == 136 => {
                    assert_eq!(frame[38..54], [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
                    // Not solicited, overrides; target link-layer address.
                    assert_eq!((frame[58] & 0x60, &frame[78..86]), (0x20, &[&[2, 1], &self.from.0[..]].concat()[..]));
                    IpAddr::from(<[u8; 16]>::try_from(&frame[62..78]).unwrap())
                }
                _ => continue,
            };
            return address;
        }
    }
}

/// All addresses of `name` in `pod` are announced to `outside`, once each, when that is asked for.
fn announced(pod: &Space, name: &str, outside: &Space) {
    let netlink = pod.netlink();
    let link = netlink.wait_link(name, DEADLINE, |link| link.oper_up).unwrap();
    let usable = ["10.0.0.5/24", "10.9.0.5/32", "fd00::5/64", "fd09::5/128"];
    for text in usable {
        let nodad = text.contains(':');
        netlink.add_address(link.index, &Address { nodad, ..address(text) }).unwrap();
    }
    netlink.wait_addresses_usable(link.index, DEADLINE).unwrap();
    let generated: Vec<IpAddr> = netlink.addresses(link.index).unwrap().iter().map(|a| a.network.ip()).collect();
    let mut expected: Vec<IpAddr> = usable.iter().map(|text| network(text).ip()).collect();
    expected.extend(generated.iter().filter(|ip| !expected.contains(ip)).copied().collect::<Vec<_>>());
    expected.sort_unstable();

    let capture = Capture::open(outside, link.mac.unwrap());
    let notify = |value| {
        let set = || {
            sysctl::set(&format!("net/ipv4/conf/{name}/arp_notify"), value)?;
            sysctl::set(&format!("net/ipv6/conf/{name}/ndisc_notify"), value)
        };
        pod.netns.run(set).unwrap().unwrap();
    };
    // Nobody has asked for it: what this would send would come first below, and make it too many.
    netlink.announce(link.index).unwrap();
    notify("1");
    netlink.add_address(link.index, &address("fd00::bad/64")).unwrap();
    netlink.announce(link.index).unwrap();
    let tentative = netlink.addresses(link.index).unwrap().iter().any(|a| a.tentative);
    assert!(tentative, "the address was to be tentative all the while");
    let mut heard: Vec<IpAddr> = expected.iter().map(|_| capture.next()).collect();
    heard.sort_unstable();
    assert_eq!(heard, expected);
    assert_eq!(pod.link(name), link, "nothing but the neighbours' knowledge has changed");
}

fn announced_on_a_veth(home: &Space) {
    let pod = Space::new("pod");
    connect(home, &pod);
    announced(&pod, "far", home);
}

fn announced_on_a_macvlan(home: &Space) {
    for mode in [MacvlanMode::Bridge, MacvlanMode::Private, MacvlanMode::Vepa, MacvlanMode::Passthru] {
        let (pod, outside) = (Space::new("pod"), Space::new("outside"));
        let (lower, _) = connect(home, &outside);
        let spec = MacvlanSpec { netns: Some(&pod.netns), ..MacvlanSpec::new("net1", lower.index, mode) };
        home.netlink().add_macvlan(&spec).unwrap();
        pod.up("net1");
        announced(&pod, "net1", &outside);
        home.netlink().delete_link(lower.index).unwrap();
    }
}

fn what_cannot_be_announced(home: &Space) {
    let netlink = home.netlink();
    assert!(netlink.announce(999).unwrap_err().is_not_found());
    let error = netlink.announce(home.link("lo").index).unwrap_err();
    assert!(error.to_string().contains("no Ethernet"), "{error}");
}
