use serde_json::json;

use super::*;
use crate::Effective;

fn intent(value: serde_json::Value) -> Intent {
    Effective::read(value.as_object().unwrap()).unwrap().config.validate().unwrap()
}

fn plain(remote: &str) -> Intent {
    intent(json!({"encap": "udp", "encryption": "none", "remote": remote}))
}

fn net1() -> Device {
    Device::new(
        "net1".parse().unwrap(),
        2,
        1500,
        ["fe80::1/64", "10.10.1.200/24", "fd10:10:1::c8/64"].iter().map(|a| a.parse().unwrap()).collect(),
    )
}

fn via(device: u32, mtu_bytes: Option<u32>) -> OuterRoute {
    OuterRoute::new(device, mtu_bytes, 16)
}

#[test]
fn the_local_address_is_the_first_of_the_peers_family() {
    assert_eq!(plain("10.20.1.200").local_on(&net1()).unwrap().to_string(), "10.10.1.200:6090");
    assert_eq!(plain("fd10:20:1::c8").local_on(&net1()).unwrap().to_string(), "[fd10:10:1::c8]:6090");
}

#[test]
fn a_port_alone_keeps_the_devices_address() {
    let local = |text: &str| {
        let value = json!({"encap": "udp", "encryption": "none", "remote": "10.20.1.200", "local": text});
        intent(value).local_on(&net1()).unwrap().to_string()
    };
    assert_eq!(local("0.0.0.0:6091"), "10.10.1.200:6091");
    assert_eq!(local("[::]:6092"), "10.10.1.200:6092");
    assert_eq!(local("10.10.1.200"), "10.10.1.200:6090");
}

#[test]
fn a_family_that_the_device_lacks_is_refused() {
    let mut device = net1();
    device.addresses.truncate(2);
    let message = plain("fd10:20:1::c8").local_on(&device).unwrap_err().to_string();
    assert!(message.starts_with("remote: [fd10:20:1::c8]:6090 is of another address family than net1"), "{message}");
}

#[test]
fn own_addresses_and_foreign_locals_are_refused() {
    assert!(plain("10.10.1.200").local_on(&net1()).unwrap_err().to_string().contains("own address"));
    let foreign = intent(json!({"encap": "udp", "encryption": "none", "remote": "10.20.1.200", "local": "10.10.1.7"}));
    assert!(foreign.local_on(&net1()).unwrap_err().to_string().contains("is no address of net1"));
}

#[test]
fn a_peer_behind_another_interface_is_refused() {
    let intent = plain("10.20.1.200");
    let local = intent.local_on(&net1()).unwrap();
    let message = intent.resolve(&net1(), local, &[via(9, None)]).unwrap_err().to_string();
    assert!(message.contains("is not reached through net1"), "{message}");
}

#[test]
fn the_mtu_follows_the_smallest_outer_route() {
    let intent = plain("10.20.1.200");
    let local = intent.local_on(&net1()).unwrap();
    assert_eq!(intent.resolve(&net1(), local, &[via(2, None)]).unwrap().mtu_bytes, 1456);
    assert_eq!(intent.resolve(&net1(), local, &[via(2, Some(1400))]).unwrap().mtu_bytes, 1356);
}

#[test]
fn inner_networks_may_not_swallow_the_outer_endpoint() {
    let intent = plain("10.20.1.200");
    let local = intent.local_on(&net1()).unwrap();
    let spec = intent.resolve(&net1(), local, &[via(2, None)]).unwrap();
    let nets = |texts: &[&str]| -> Vec<IpNetwork> { texts.iter().map(|t| t.parse().unwrap()).collect() };
    let outer = [via(2, None)];
    assert!(spec.check_inner(&outer, &nets(&["10.4.0.1/30"]), &nets(&["10.4.0.0/16"])).is_ok());
    assert!(spec.check_inner(&outer, &nets(&["10.4.0.1/30"]), &nets(&["0.0.0.0/0"])).is_ok());
    let default_route = [OuterRoute::new(2, None, 0)];
    assert!(spec.check_inner(&default_route, &nets(&["10.4.0.1/30"]), &nets(&["0.0.0.0/0"])).is_err());
    for (addresses, routes) in [(nets(&["10.4.0.1/30"]), nets(&["10.20.1.0/24"])), (nets(&["10.20.1.9/16"]), vec![])] {
        let message = spec.check_inner(&outer, &addresses, &routes).unwrap_err().to_string();
        assert!(message.contains("into the tunnel"), "{message}");
    }
}

#[test]
fn a_peers_network_may_not_swallow_the_outer_endpoint_where_it_becomes_a_route() {
    let spec = |encap: &str| {
        let peer = json!([{"endpoint": "10.20.1.200", "allowedIPs": ["10.20.0.0/16"]}]);
        let mut value = json!({"encap": encap, "encryption": "none", "peers": peer});
        if encap == "vxlan" {
            value["vni"] = json!(7);
        }
        let intent = intent(value);
        let local = intent.local_on(&net1()).unwrap();
        intent.resolve(&net1(), local, &[via(2, None)]).unwrap()
    };
    assert!(spec("udp").check_inner(&[via(2, None)], &[], &[]).is_ok());
    let message = spec("vxlan").check_inner(&[via(2, None)], &[], &[]).unwrap_err().to_string();
    assert!(message.starts_with("allowedIPs: 10.20.0.0/16 would send"), "{message}");
}

fn sealed(endpoint: Option<&str>, local: Option<&str>) -> Intent {
    let key = PublicKey::new([1; 32]).to_string();
    intent(json!({"encap": "wireguard", "local": local, "peers": [{"publicKey": key, "endpoint": endpoint}]}))
}

#[test]
fn without_any_endpoint_what_is_written_decides_the_family_and_else_the_device() {
    for (endpoint, local, expected) in [
        (None, None, "10.10.1.200:51820"),
        (None, Some("0.0.0.0:7"), "10.10.1.200:7"),
        (None, Some("[::]:7"), "[fd10:10:1::c8]:7"),
        (None, Some("fd10:10:1::c8"), "[fd10:10:1::c8]:51820"),
        (Some("fd10:20:1::c8"), Some("0.0.0.0:7"), "[fd10:10:1::c8]:7"),
    ] {
        assert_eq!(sealed(endpoint, local).local_on(&net1()).unwrap().to_string(), expected, "{local:?}");
    }
    let bare = Device::new("net1".parse().unwrap(), 2, 1500, vec!["fe80::1/64".parse().unwrap()]);
    let message = sealed(None, None).local_on(&bare).unwrap_err().to_string();
    assert!(message.starts_with("device: net1 has no address that peers could send to, but fe80::1"), "{message}");
}

#[test]
fn only_peers_that_can_be_reached_have_a_route() {
    let key = |byte: u8| PublicKey::new([byte; 32]).to_string();
    let intent = intent(json!({"encap": "udp", "peers": [
        {"publicKey": key(1), "allowedIPs": ["10.4.0.2/32"]},
        {"publicKey": key(2), "allowedIPs": ["10.4.0.3/32"], "endpoint": "10.20.1.200"},
    ]}));
    let local = intent.local_on(&net1()).unwrap();
    let message = intent.resolve(&net1(), local, &[via(9, None)]).unwrap_err().to_string();
    assert!(message.starts_with("peers[1].endpoint: 10.20.1.200:6090 is not reached"), "{message}");
    let spec = intent.resolve(&net1(), local, &[via(2, Some(1400))]).unwrap();
    assert_eq!(spec.mtu_bytes, 1340);
    let swallowed = ["10.20.0.0/16".parse().unwrap()];
    assert!(spec.check_inner(&[via(2, None)], &[], &swallowed).is_err());
    let text = serde_json::to_string(&spec).unwrap();
    assert_eq!(serde_json::from_str::<Spec>(&text).unwrap(), spec);
}

#[test]
fn a_spec_survives_its_record() {
    let intent = plain("10.20.1.200");
    let local = intent.local_on(&net1()).unwrap();
    let spec = intent.resolve(&net1(), local, &[via(2, None)]).unwrap();
    let text = serde_json::to_string(&spec).unwrap();
    assert_eq!(serde_json::from_str::<Spec>(&text).unwrap(), spec);
}
