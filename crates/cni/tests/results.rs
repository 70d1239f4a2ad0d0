//! Results of every version, both ways.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use adit_cni::{CniResult, Code, Dns, Interface, Ip, Route, Version};
use serde_json::json;

/// Everything that 1.1.0 knows.
fn full() -> CniResult {
    CniResult {
        interfaces: vec![
            Interface {
                name: "br0".into(),
                mac: Some("02:00:00:00:00:01".into()),
                mtu: Some(1500),
                ..Interface::default()
            },
            Interface {
                name: "net1".into(),
                mac: Some("02:00:00:00:00:02".into()),
                mtu: Some(1400),
                sandbox: Some("/run/netns/p".into()),
                socket_path: Some("/run/s".into()),
                pci_id: Some("0000:00:01.0".into()),
            },
        ],
        ips: vec![
            Ip {
                address: "10.0.0.5/24".parse().unwrap(),
                gateway: Some("10.0.0.1".parse().unwrap()),
                interface: Some(1),
            },
            Ip { address: "10.9.0.5/16".parse().unwrap(), gateway: None, interface: Some(1) },
            Ip {
                address: "fd00::5/64".parse().unwrap(),
                gateway: Some("fd00::1".parse().unwrap()),
                interface: Some(1),
            },
        ],
        routes: vec![
            Route {
                mtu: Some(1300),
                advmss: Some(1200),
                priority: Some(7),
                table: Some(0),
                scope: Some(0),
                ..Route::new("10.99.0.0/16".parse().unwrap(), Some("10.0.0.1".parse().unwrap()))
            },
            Route::new("::/0".parse().unwrap(), None),
        ],
        dns: Some(Dns {
            nameservers: vec!["10.0.0.53".into()],
            domain: Some("example.org".into()),
            search: vec!["a".into(), "b".into()],
            options: vec!["ndots:2".into()],
        }),
    }
}

const V1: &str = r#"{
    "cniVersion": "VERSION",
    "dns": {
        "domain": "example.org",
        "nameservers": [
            "10.0.0.53"
        ],
        "options": [
            "ndots:2"
        ],
        "search": [
            "a",
            "b"
        ]
    },
    "interfaces": [
        {
            "mac": "02:00:00:00:00:01",
            "mtu": 1500,
            "name": "br0"
        },
        {
            "mac": "02:00:00:00:00:02",
            "mtu": 1400,
            "name": "net1",
            "pciID": "0000:00:01.0",
            "sandbox": "/run/netns/p",
            "socketPath": "/run/s"
        }
    ],
    "ips": [
        {
            "address": "10.0.0.5/24",
            "gateway": "10.0.0.1",
            "interface": 1
        },
        {
            "address": "10.9.0.5/16",
            "interface": 1
        },
        {
            "address": "fd00::5/64",
            "gateway": "fd00::1",
            "interface": 1
        }
    ],
    "routes": [
        {
            "advmss": 1200,
            "dst": "10.99.0.0/16",
            "gw": "10.0.0.1",
            "mtu": 1300,
            "priority": 7,
            "scope": 0,
            "table": 0
        },
        {
            "dst": "::/0"
        }
    ]
}"#;

const V03: &str = r#"{
    "cniVersion": "VERSION",
    "interfaces": [
        {
            "name": "br0",
            "mac": "02:00:00:00:00:01"
        },
        {
            "name": "net1",
            "mac": "02:00:00:00:00:02",
            "sandbox": "/run/netns/p"
        }
    ],
    "ips": [
        {
            "version": "4",
            "interface": 1,
            "address": "10.0.0.5/24",
            "gateway": "10.0.0.1"
        },
        {
            "version": "4",
            "interface": 1,
            "address": "10.9.0.5/16"
        },
        {
            "version": "6",
            "interface": 1,
            "address": "fd00::5/64",
            "gateway": "fd00::1"
        }
    ],
    "routes": [
        {
            "dst": "10.99.0.0/16",
            "gw": "10.0.0.1",
            "mtu": 1300,
            "advmss": 1200,
            "priority": 7,
            "table": 0,
            "scope": 0
        },
        {
            "dst": "::/0"
        }
    ],
    "dns": {
        "nameservers": [
            "10.0.0.53"
        ],
        "domain": "example.org",
        "search": [
            "a",
            "b"
        ],
        "options": [
            "ndots:2"
        ]
    }
}"#;

const V01: &str = r#"{
    "cniVersion": "VERSION",
    "ip4": {
        "ip": "10.0.0.5/24",
        "gateway": "10.0.0.1",
        "routes": [
            {
                "dst": "10.99.0.0/16",
                "gw": "10.0.0.1"
            }
        ]
    },
    "ip6": {
        "ip": "fd00::5/64",
        "gateway": "fd00::1",
        "routes": [
            {
                "dst": "::/0"
            }
        ]
    },
    "dns": {
        "nameservers": [
            "10.0.0.53"
        ],
        "domain": "example.org",
        "search": [
            "a",
            "b"
        ],
        "options": [
            "ndots:2"
        ]
    }
}"#;

fn golden(version: Version) -> String {
    let text = match version {
        Version::V0_1_0 | Version::V0_2_0 => V01,
        Version::V0_3_0 | Version::V0_3_1 | Version::V0_4_0 => V03,
        Version::V1_0_0 | Version::V1_1_0 => V1,
    };
    text.replace("VERSION", version.as_str())
}

/// What is left of [`full`] after a trip through `version`.
fn survives(version: Version) -> CniResult {
    let mut result = full();
    if version < Version::V1_0_0 {
        for interface in &mut result.interfaces {
            interface.mtu = None;
            interface.socket_path = None;
            interface.pci_id = None;
        }
    }
    if version < Version::V0_3_0 {
        result.interfaces.clear();
        result.ips.remove(1);
        for ip in &mut result.ips {
            ip.interface = None;
        }
        result.routes[0] = Route::new(result.routes[0].dst, result.routes[0].gw);
    }
    result
}

#[test]
fn every_version_is_printed_in_its_own_shape_and_key_order() {
    for version in Version::SUPPORTED {
        assert_eq!(full().to_json(version).unwrap(), golden(version));
        let value: serde_json::Value = serde_json::from_str(&golden(version)).unwrap();
        assert_eq!(full().render(version).unwrap(), value);
    }
}

#[test]
fn every_version_is_read_back() {
    for version in Version::SUPPORTED {
        let value = serde_json::from_str(&golden(version)).unwrap();
        let result = CniResult::parse(&value, Version::V0_1_0).unwrap();
        assert_eq!(result, survives(version), "{version}");
    }
}

#[test]
fn empty_parts_are_omitted_but_dns_before_1_0_0() {
    let empty = CniResult { dns: Some(Dns::default()), ..CniResult::default() };
    for version in [Version::V1_0_0, Version::V1_1_0] {
        assert_eq!(empty.render(version).unwrap(), json!({"cniVersion": version.as_str()}));
    }
    for version in [Version::V0_3_0, Version::V0_4_0] {
        assert_eq!(empty.render(version).unwrap(), json!({"cniVersion": version.as_str(), "dns": {}}));
    }
}

#[test]
fn the_oldest_versions_cannot_express_an_attachment_without_addresses() {
    let l2 = CniResult { interfaces: full().interfaces, ..CniResult::default() };
    for version in Version::SUPPORTED {
        assert_eq!(l2.render(version).is_err(), version.requires_address());
    }
    let error = l2.render(Version::V0_2_0).unwrap_err();
    assert_eq!(error.msg, "cannot convert: no valid IP addresses");
    assert_eq!(error.code, Code::INCOMPATIBLE_VERSION);
}

#[test]
fn routes_of_a_family_without_address_are_dropped_in_the_oldest_versions() {
    let mut result = full();
    result.ips.truncate(1);
    let value = result.render(Version::V0_1_0).unwrap();
    assert!(value.get("ip6").is_none());
    assert_eq!(value["ip4"]["routes"].as_array().unwrap().len(), 1);
}

#[test]
fn a_result_without_version_has_the_callers() {
    let ipam = json!({"ips": [{"address": "10.0.0.5/24"}]});
    let result = CniResult::parse(&ipam, Version::V1_0_0).unwrap();
    assert_eq!(result.ips.len(), 1);
    let old = json!({"cniVersion": "", "ip4": {"ip": "10.0.0.5/24"}});
    let result = CniResult::parse(&old, Version::V0_2_0).unwrap();
    assert_eq!(result.ips.len(), 1);
    assert_eq!(CniResult::parse(&json!(null), Version::V1_0_0).unwrap(), CniResult::default());
}

#[test]
fn what_go_would_read_is_read() {
    let value = json!({
        "CNIVersion": "0.4.0",
        "interfaces": [{"name": "a", "mac": "", "sandbox": null, "unknown": 1}],
        "ips": [{"version": "4", "address": "::ffff:10.0.0.5/120", "gateway": ""}],
        "routes": [{"dst": "10.1.2.3/8", "gw": null, "mtu": 0, "priority": 0, "table": 0}],
        "dns": {"nameservers": null},
    });
    let result = CniResult::parse(&value, Version::V1_1_0).unwrap();
    assert_eq!(result.interfaces[0].mac, None);
    assert_eq!(result.ips[0].address.to_string(), "10.0.0.5/24");
    assert_eq!(result.ips[0].gateway, None);
    assert_eq!(result.routes[0].dst.to_string(), "10.1.2.3/8");
    assert_eq!(result.routes[0].mtu, None);
    assert_eq!(result.routes[0].priority, None);
    assert_eq!(result.routes[0].table, Some(0));
    assert_eq!(result.dns, None);
}

#[test]
fn an_unreadable_result_is_named_by_its_path() {
    let value = json!({"cniVersion": "1.1.0", "ips": [{"address": "10.0.0.5"}]});
    let error = CniResult::parse(&value, Version::V1_1_0).unwrap_err();
    assert_eq!(error.code, Code::DECODE);
    assert_eq!(error.msg, "cannot decode the result: ips[0].address: invalid CIDR address: 10.0.0.5");
    let error = CniResult::parse(&json!({"cniVersion": "2.0.0"}), Version::V1_1_0).unwrap_err();
    assert_eq!(error.code, Code::INCOMPATIBLE_VERSION);
    assert_eq!(error.msg, r#"unsupported CNI result version "2.0.0""#);
    assert!(CniResult::parse(&json!([1]), Version::V1_1_0).is_err());
}

mod any_result {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use adit_cni::{CniResult, Dns, Interface, Ip, Route, Version};
    use ipnetwork::IpNetwork;
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    fn address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            any::<u32>().prop_map(|bits| IpAddr::V4(Ipv4Addr::from(bits))),
            // An IPv4 address in IPv6 form is read as IPv4.
            any::<u128>().prop_map(|bits| IpAddr::V6(Ipv6Addr::from(bits)).to_canonical()),
        ]
    }

    fn network() -> impl Strategy<Value = IpNetwork> {
        (address(), 0u8..=128).prop_map(|(address, prefix)| {
            let longest = if address.is_ipv4() { 32 } else { 128 };
            IpNetwork::new(address, prefix.min(longest)).unwrap()
        })
    }

    fn text() -> impl Strategy<Value = String> {
        "[ -~é]{1,12}"
    }

    fn interface() -> impl Strategy<Value = Interface> {
        (text(), option::of(text()), option::of(1u32..), option::of(text()), option::of(text()), option::of(text()))
            .prop_map(|(name, mac, mtu, sandbox, socket_path, pci_id)| Interface {
                mac,
                mtu,
                name,
                pci_id,
                sandbox,
                socket_path,
            })
    }

    fn ip() -> impl Strategy<Value = Ip> {
        (network(), option::of(address()), option::of(0usize..9)).prop_map(|(address, gateway, interface)| Ip {
            address,
            gateway,
            interface,
        })
    }

    fn route() -> impl Strategy<Value = Route> {
        (
            network(),
            option::of(address()),
            option::of(1u32..),
            option::of(1u32..),
            option::of(1u32..),
            option::of(any::<u32>()),
            option::of(any::<u8>()),
        )
            .prop_map(|(dst, gw, mtu, advmss, priority, table, scope)| Route {
                mtu,
                advmss,
                priority,
                table,
                scope,
                ..Route::new(dst, gw)
            })
    }

    fn dns() -> impl Strategy<Value = Dns> {
        (vec(text(), 0..3), option::of(text()), vec(text(), 0..3), vec(text(), 0..3))
            .prop_map(|(nameservers, domain, search, options)| Dns { nameservers, domain, search, options })
    }

    fn result() -> impl Strategy<Value = CniResult> {
        (
            vec(interface(), 0..4),
            vec(ip(), 0..4),
            vec(route(), 0..4),
            option::of(dns()).prop_map(|dns| dns.filter(|dns| !dns.is_empty())),
        )
            .prop_map(|(interfaces, ips, routes, dns)| CniResult { interfaces, ips, routes, dns })
    }

    proptest! {
        #[test]
        fn is_read_back_as_it_was_printed_in_1_x(result in result()) {
            for version in [Version::V1_0_0, Version::V1_1_0] {
                let value = result.render(version).unwrap();
                prop_assert_eq!(&CniResult::parse(&value, Version::V0_1_0).unwrap(), &result);
                let text: serde_json::Value =
                    serde_json::from_str(&result.to_json(version).unwrap()).unwrap();
                prop_assert_eq!(&text, &value);
            }
        }

        #[test]
        fn survives_a_second_trip_through_any_version(result in result()) {
            for version in Version::SUPPORTED {
                let Ok(value) = result.render(version) else { continue };
                let once = CniResult::parse(&value, version).unwrap();
                prop_assert_eq!(once.render(version).unwrap(), value);
            }
        }
    }
}
