//! Routes as the kernel keeps them, and as it takes them.

use std::net::IpAddr;

use adit_net::{Encapsulation, Error, LinkChange, LinkKind, Route, Vxlan};
use ipnetwork::IpNetwork;
use nix::errno::Errno;

use crate::{
    Test,
    space::{Space, connect},
};

pub const TESTS: &[Test] = &[
    ("a_route_is_shown_by_ip_and_read_back_equal", shown_and_read_back),
    ("an_ipv6_route_is_shown_by_ip_and_read_back_equal", ipv6_shown_and_read_back),
    ("an_ipv4_route_goes_over_an_ipv6_gateway", ipv4_over_ipv6_gateway),
    ("an_encapsulating_route_is_shown_by_ip_and_read_back_equal", encapsulating_shown_and_read_back),
    ("a_vxlan_device_takes_the_networks_that_it_was_told", vxlan_takes_what_it_was_told),
    ("the_kernel_is_asked_for_vxlan_and_nothing_is_made", vxlan_is_asked_for),
    ("routes_are_listed_by_table_and_an_empty_table_is_no_error", listed_by_table),
    ("the_gateways_refusal_is_in_the_kernels_words", refusal_in_words),
    ("a_lookup_tells_device_gateway_source_mtu_and_table", lookup),
    ("a_lookup_without_a_way_is_unreachable", lookup_unreachable),
];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn network(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

fn connected(home: &Space) -> (Space, u32) {
    let pod = Space::new("pod");
    let (near, _) = connect(home, &pod);
    home.ip("addr add 10.0.0.2/24 dev near");
    home.ip("addr add fd00::2/64 dev near nodad");
    (pod, near.index)
}

fn shown_and_read_back(home: &Space) {
    let (_pod, device) = connected(home);
    let netlink = home.netlink();
    let route = Route {
        gateway: Some(ip("10.0.0.1")),
        source: Some(ip("10.0.0.2")),
        mtu: Some(1400),
        advmss: Some(1360),
        priority: Some(50),
        table: Some(1000),
        scope: Some(0),
        ..Route::new(network("10.9.0.0/16"), device)
    };
    netlink.add_route(&route).unwrap();
    let shown = home.ip("-d route show table 1000");
    for part in ["unicast 10.9.0.0/16 via 10.0.0.1 dev near", "src 10.0.0.2", "metric 50", "mtu 1400", "advmss 1360"] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    assert_eq!(netlink.routes(Some(1000)).unwrap(), std::slice::from_ref(&route));

    let error = netlink.add_route(&route).unwrap_err();
    assert!(error.is_exists(), "{error}");
    assert!(error.to_string().contains("10.9.0.0/16 via 10.0.0.1 dev near table 1000"), "{error}");
    assert!(netlink.delete_route(&route).unwrap());
    assert!(!netlink.delete_route(&route).unwrap());
    assert!(netlink.routes(Some(1000)).unwrap().is_empty());
}

fn ipv6_shown_and_read_back(home: &Space) {
    let (_pod, device) = connected(home);
    let netlink = home.netlink();
    let route = Route {
        gateway: Some(ip("fd00:99::1")),
        mtu: Some(1400),
        advmss: Some(1340),
        priority: Some(50),
        table: Some(1000),
        scope: Some(0),
        onlink: true,
        ..Route::new(network("::/0"), device)
    };
    netlink.add_route(&route).unwrap();
    let shown = home.ip("-6 -d route show table 1000");
    for part in ["default via fd00:99::1 dev near", "mtu 1400", "advmss 1340", "onlink"] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    assert_eq!(netlink.routes(Some(1000)).unwrap(), std::slice::from_ref(&route));
    // What is left to the kernel does not hinder finding the route again.
    let sparse = Route { scope: None, mtu: None, advmss: None, ..route.clone() };
    assert!(netlink.routes(Some(1000)).unwrap()[0].satisfies(&sparse));
    assert!(netlink.delete_route(&sparse).unwrap());
    assert!(!netlink.delete_route(&route).unwrap());
}

/// A device of [`adit_net::Netlink::add_vxlan`] that is up.
fn vxlan(home: &Space, name: &str, port: u16) -> u32 {
    let netlink = home.netlink();
    netlink.add_vxlan(name, port).unwrap();
    let index = home.link(name).index;
    netlink.change_link(index, &LinkChange { up: Some(true), addr_gen_none: true, ..LinkChange::default() }).unwrap();
    index
}

fn encapsulating_shown_and_read_back(home: &Space) {
    let device = vxlan(home, "tun", 4790);
    let netlink = home.netlink();
    let encapsulation = |source: &str, destination: &str| Encapsulation {
        id: 0x12_3456,
        source: ip(source),
        destination: ip(destination),
        ttl: 20,
        tos: 184,
        checksum: true,
        dont_fragment: true,
    };
    let pairs = [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")];
    for (outside, (source, destination)) in pairs.into_iter().enumerate() {
        for inside in [format!("10.4.{outside}.0/24"), format!("fd04:{outside}::/64")] {
            let mut route = Route::new(network(&inside), device);
            route.encapsulation = Some(encapsulation(source, destination));
            netlink.add_route(&route).unwrap();
            let family = if inside.contains(':') { "-6" } else { "-4" };
            let shown = home.ip(&format!("{family} -d route show {inside}"));
            assert!(shown.contains(&format!("id 1193046 src {source} dst {destination}")), "{shown}");
            let found: Vec<Route> =
                netlink.routes(None).unwrap().into_iter().filter(|found| found.satisfies(&route)).collect();
            assert_eq!(found.len(), 1, "{inside}");
            assert_eq!(found[0].encapsulation, route.encapsulation);
            let other = Route { encapsulation: Some(encapsulation(destination, source)), ..route.clone() };
            assert!(!found[0].satisfies(&other));
            assert!(netlink.delete_route(&route).unwrap());
        }
    }
    // Without one it is another route.
    netlink.add_route(&Route::new(network("10.4.0.0/24"), device)).unwrap();
    assert!(netlink.routes(None).unwrap().iter().all(|found| found.encapsulation.is_none()));
}

fn vxlan_takes_what_it_was_told(home: &Space) {
    let netlink = home.netlink();
    let device = vxlan(home, "tun", 4790);
    let link = home.link("tun");
    assert_eq!(link.kind, LinkKind::Vxlan);
    assert_eq!(link.mac, None, "it carries no Ethernet");
    assert_eq!(link.vxlan, Some(Vxlan { port: 4790, external: true, gpe: true, vnifilter: true }));
    assert!(!netlink.admits_vni(device, 7).unwrap());
    assert!(netlink.admit_vni(device, 7).unwrap());
    assert!(netlink.admits_vni(device, 7).unwrap() && !netlink.admits_vni(device, 8).unwrap());

    let second = vxlan(home, "tun1", 4790);
    let error = netlink.admit_vni(second, 7).unwrap_err();
    assert!(error.is_exists(), "{error}");
    assert!(error.to_string().contains("another vxlan device on this UDP port takes this VNI"), "{error}");
    assert!(netlink.admit_vni(second, 8).unwrap());
    assert!(!netlink.admits_vni(device, 8).unwrap(), "each device has its own");

    let error = netlink.add_vxlan("tun", 4791).unwrap_err();
    assert!(error.is_exists(), "{error}");
    home.ip("link add taken type vxlan id 9 dstport 4792");
    home.ip("link set taken up");
    netlink.add_vxlan("late", 4792).unwrap();
    let up = LinkChange { up: Some(true), ..LinkChange::default() };
    let error = netlink.change_link(home.link("late").index, &up).unwrap_err();
    assert!(error.is_address_in_use(), "{error}");
}

fn vxlan_is_asked_for(home: &Space) {
    let netlink = home.netlink();
    let before = (netlink.links().unwrap(), netlink.all_routes().unwrap());
    netlink.require_vxlan().unwrap();
    assert_eq!((netlink.links().unwrap(), netlink.all_routes().unwrap()), before);
}

fn ipv4_over_ipv6_gateway(home: &Space) {
    let (_pod, device) = connected(home);
    let route = Route { gateway: Some(ip("fd00::1")), ..Route::new(network("10.9.0.0/16"), device) };
    home.netlink().add_route(&route).unwrap();
    assert!(home.ip("route show").contains("10.9.0.0/16 via inet6 fd00::1 dev near"));
    assert!(home.netlink().routes(None).unwrap().iter().any(|found| found.satisfies(&route)));
    assert_eq!(home.netlink().lookup_route(ip("10.9.1.1"), None).unwrap().gateway, Some(ip("fd00::1")));
    assert!(home.netlink().delete_route(&route).unwrap());
}

fn listed_by_table(home: &Space) {
    let (_pod, device) = connected(home);
    let netlink = home.netlink();
    assert!(netlink.routes(Some(4711)).unwrap().is_empty());
    netlink.add_route(&Route::new(network("10.8.1.1/16"), device)).unwrap();
    let main = netlink.routes(None).unwrap();
    let found = main.iter().find(|r| r.destination == network("10.8.0.0/16")).unwrap();
    assert_eq!((found.scope, found.table, found.device), (Some(253), Some(254), device));
    assert!(main.iter().any(|r| r.destination == network("fd00::/64")));
    assert!(main.iter().all(|r| r.table == Some(254)));
    let gone = Route::new(network("10.8.0.0/16"), 999);
    assert!(!netlink.delete_route(&gone).unwrap());
}

fn refusal_in_words(home: &Space) {
    let (_pod, device) = connected(home);
    let route = Route { gateway: Some(ip("192.0.2.1")), ..Route::new(network("10.9.0.0/16"), device) };
    let error = home.netlink().add_route(&route).unwrap_err();
    let Error::Kernel { errno, ref message, .. } = error else { panic!("{error}") };
    assert_eq!(errno, Errno::ENETUNREACH);
    assert_eq!(message.as_deref(), Some("Nexthop has invalid gateway"));
    assert!(error.to_string().contains("onlink"), "{error}");
    home.netlink().add_route(&Route { onlink: true, ..route }).unwrap();
}

fn lookup(home: &Space) {
    let (_pod, device) = connected(home);
    let netlink = home.netlink();
    home.ip("route add default via 10.0.0.1 dev near mtu 1400");
    home.ip("-6 route add default via fd00::1 dev near mtu 1400");
    home.ip("route add 10.9.0.0/16 via 10.0.0.9 dev near table 1000");
    home.ip("rule add from 10.0.0.2 table 1000");
    home.ip("link set lo up");

    let found = netlink.lookup_route(ip("192.0.2.1"), None).unwrap();
    assert_eq!((found.device, found.gateway), (device, Some(ip("10.0.0.1"))));
    assert_eq!((found.source, found.mtu), (Some(ip("10.0.0.2")), Some(1400)));
    assert_eq!((found.table, found.local), (254, false));

    let found = netlink.lookup_route(ip("2001:db8::1"), None).unwrap();
    assert_eq!((found.device, found.gateway), (device, Some(ip("fd00::1"))));
    assert_eq!((found.source, found.mtu), (Some(ip("fd00::2")), Some(1400)));
    assert_eq!((found.table, found.local), (254, false));

    let found = netlink.lookup_route(ip("10.9.0.1"), Some(ip("10.0.0.2"))).unwrap();
    assert_eq!((found.gateway, found.table, found.mtu), (Some(ip("10.0.0.9")), 1000, None));
    let found = netlink.lookup_route(ip("fd00::7"), Some(ip("fd00::2"))).unwrap();
    assert_eq!((found.gateway, found.device, found.mtu), (None, device, None));

    for own in ["10.0.0.2", "fd00::2"] {
        assert!(netlink.lookup_route(ip(own), None).unwrap().local, "{own}");
    }
}

fn lookup_unreachable(home: &Space) {
    let (_pod, _) = connected(home);
    let netlink = home.netlink();
    for to in ["192.0.2.1", "2001:db8::1"] {
        let error = netlink.lookup_route(ip(to), None).unwrap_err();
        assert!(error.is_unreachable(), "{error}");
        assert!(error.to_string().starts_with(&format!("look up route to {to}: ")), "{error}");
    }
    home.ip("route add unreachable 198.51.100.0/24");
    home.ip("route add prohibit 203.0.113.0/24");
    home.ip("-6 route add unreachable 2001:db8:1::/48");
    home.ip("-6 route add prohibit 2001:db8:2::/48");
    for to in ["198.51.100.1", "203.0.113.1", "2001:db8:1::1", "2001:db8:2::1"] {
        assert!(netlink.lookup_route(ip(to), None).unwrap_err().is_unreachable(), "{to}");
    }
}
