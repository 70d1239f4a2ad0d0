//! Bridges' ports and VLANs.

use adit_net::{BridgePort, BridgeSpec, LinkChange, Port, PortState, PortVlan};

use crate::{
    Test,
    space::{DEADLINE, Space, connect},
};

pub const TESTS: &[Test] = &[
    ("a_ports_state_and_settings_are_read", port_is_read),
    ("vlans_are_set_and_read_or_the_kernel_has_none_in_words", vlans),
];

fn port_is_read(home: &Space) {
    let pod = Space::new("pod");
    let netlink = home.netlink();
    netlink.add_bridge(&BridgeSpec::new("br0")).unwrap();
    let bridge = home.up("br0");
    assert_eq!(bridge.port, None);
    let (near, _) = connect(home, &pod);
    assert_eq!(near.port, None);
    let join = LinkChange { master: Some(Some(bridge.index)), ..LinkChange::default() };
    netlink.change_link(near.index, &join).unwrap();
    let settings = BridgePort { hairpin: Some(true), isolated: Some(true) };
    netlink.set_bridge_port(near.index, &settings).unwrap();
    let forwards = |link: &adit_net::Link| link.port.is_some_and(|port| port.state == PortState::Forwarding);
    let port = netlink.wait_link("near", DEADLINE, forwards).unwrap().port;
    assert_eq!(port, Some(Port { hairpin: true, isolated: true, state: PortState::Forwarding }));
    pod.ip("link set far down");
    netlink.wait_link("near", DEADLINE, |link| !forwards(link)).unwrap();
    assert_eq!(home.link("near").port.unwrap().state, PortState::Disabled);
}

fn vlans(home: &Space) {
    let pod = Space::new("pod");
    let netlink = home.netlink();
    netlink.add_bridge(&BridgeSpec::new("br0")).unwrap();
    let bridge = home.link("br0").index;
    let (near, _) = connect(home, &pod);
    let vlan = PortVlan { first: 100, last: 100, pvid: true, untagged: true };
    let no_port = netlink.add_port_vlan(near.index, &vlan).unwrap_err().to_string();
    assert!(no_port.contains("add VLAN 100 of bridge port near") && no_port.contains("port of a bridge"), "{no_port}");
    let join = LinkChange { master: Some(Some(bridge)), ..LinkChange::default() };
    netlink.change_link(near.index, &join).unwrap();

    if home.link("br0").vlan_filtering.is_none() {
        let filtering = BridgeSpec { vlan_filtering: Some(true), ..BridgeSpec::new("br1") };
        for refused in [
            netlink.add_bridge(&filtering),
            netlink.set_vlan_filtering(bridge, true),
            netlink.add_port_vlan(near.index, &vlan),
        ] {
            let error = refused.unwrap_err().to_string();
            assert!(
                error.ends_with("this kernel has no bridge VLAN filtering (CONFIG_BRIDGE_VLAN_FILTERING)"),
                "{error}"
            );
        }
        assert!(netlink.link("br1").unwrap().is_none());
        netlink.delete_port_vlan(near.index, &vlan).unwrap();
        assert_eq!(netlink.port_vlans(near.index).unwrap(), []);
        return;
    }

    assert_eq!(home.link("br0").vlan_filtering, Some(false));
    netlink.set_vlan_filtering(bridge, true).unwrap();
    assert_eq!(home.link("br0").vlan_filtering, Some(true));
    netlink.add_bridge(&BridgeSpec { vlan_filtering: Some(true), ..BridgeSpec::new("br1") }).unwrap();
    assert_eq!(home.link("br1").vlan_filtering, Some(true));

    let default = PortVlan { first: 1, last: 1, pvid: true, untagged: true };
    assert_eq!(netlink.port_vlans(near.index).unwrap(), [default]);
    netlink.delete_port_vlan(near.index, &default).unwrap();
    netlink.delete_port_vlan(near.index, &default).unwrap();
    assert_eq!(netlink.port_vlans(near.index).unwrap(), []);
    let trunk = PortVlan { first: 200, last: 4094, pvid: false, untagged: false };
    netlink.add_port_vlan(near.index, &vlan).unwrap();
    netlink.add_port_vlan(near.index, &trunk).unwrap();
    assert_eq!(netlink.port_vlans(near.index).unwrap(), [vlan, trunk]);
    netlink.delete_port_vlan(near.index, &PortVlan { first: 201, last: 4093, ..trunk }).unwrap();
    let single = |vid| PortVlan { first: vid, last: vid, ..trunk };
    assert_eq!(netlink.port_vlans(near.index).unwrap(), [vlan, single(200), single(4094)]);
    // Another port has its own.
    assert_eq!(netlink.port_vlans(home.link("lo").index).unwrap(), []);
}
