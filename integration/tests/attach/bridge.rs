//! What a pod on a bridge gets.

use serde_json::{Value, json};

use crate::Test;
use crate::harness::{Bench, addresses, says, with};

pub const TESTS: &[Test] = &[
    ("bridge_pods_reach_each_other_and_their_gateway_over_both_families", pods_reach_each_other),
    ("bridge_takes_the_address_of_a_misspelt_configuration_from_the_arguments", misspelt_configuration),
    ("bridge_prints_its_result_in_every_version", every_version),
    ("bridge_without_ipam_is_layer_2_only", layer_2),
    ("bridge_applies_every_attribute_of_a_route", route_attributes),
    ("bridge_puts_its_default_route_before_one_that_the_pod_has", default_route_beside_another),
    ("bridge_check_ignores_what_other_plugins_added", check_ignores_others),
    ("bridge_check_notices_what_is_missing", check_notices),
    ("bridge_takes_the_mac_of_the_last_source", mac_precedence),
    ("bridge_probes_for_duplicates_only_when_asked", duplicate_address_detection),
];

pub fn gateway() -> Value {
    json!({"cniVersion": "1.1.0", "name": "lan", "type": "bridge", "bridge": "br0", "isGateway": true})
}

fn default_route_beside_another() {
    let bench = Bench::new();
    let config = with(&gateway(), "isDefaultGateway", json!(true));
    let pod = bench.pod(&with(&config, "ipam", addresses(&["10.1.1.2/24"])));
    for line in ["link add eth0 type veth peer name eth0-peer", "link set eth0 up", "link set eth0-peer up"] {
        pod.ip(line);
    }
    pod.ip("address add 10.3.0.2/24 dev eth0");
    pod.ip("route add default via 10.3.0.1");
    let result = bench.added(&pod);
    let defaults = pod.ip("route show default");
    let gateways: Vec<&str> = defaults.lines().filter_map(|line| line.split_whitespace().nth(2)).collect();
    assert_eq!(gateways, ["10.1.1.1", "10.3.0.1"], "{defaults}");
    assert!(bench.check(&pod, &result).ok);
    bench.del(&pod);
    assert_eq!(pod.ip("route show default").lines().count(), 1);
}

fn pods_reach_each_other() {
    let bench = Bench::new();
    let config = with(&gateway(), "isDefaultGateway", json!(true));
    let a = bench.pod(&with(&config, "ipam", addresses(&["10.1.1.2/24", "fd01::2/64"])));
    let b = bench.pod(&with(&config, "ipam", addresses(&["10.1.1.3/24", "fd01::3/64"])));
    let result = bench.added(&a);
    // Usable at once: no duplicate address detection under way.
    assert!(a.ip("address show dev net1 nodad").contains("inet6"), "{}", a.ip("address show dev net1"));
    assert!(!a.ip("address show dev net1").contains("tentative"), "{}", a.ip("address show dev net1"));
    let b_result = bench.added(&b);

    assert_eq!(result["interfaces"][0]["name"], "br0");
    assert_eq!(result["interfaces"][1]["name"], bench.veths()[0]);
    assert_eq!(result["interfaces"][2]["name"], "net1");
    assert_eq!(result["interfaces"][2]["sandbox"], a.netns.as_ref().unwrap().to_str().unwrap());
    for interface in result["interfaces"].as_array().unwrap() {
        assert_eq!(interface["mtu"], 1500);
    }
    assert_eq!(
        result["ips"],
        json!([
            {"address": "10.1.1.2/24", "gateway": "10.1.1.1", "interface": 2},
            {"address": "fd01::2/64", "gateway": "fd01::1", "interface": 2}
        ])
    );
    assert_eq!(result["routes"], json!([{"dst": "0.0.0.0/0", "gw": "10.1.1.1"}, {"dst": "::/0", "gw": "fd01::1"}]));
    for address in ["10.1.1.3", "fd01::3", "10.1.1.1", "fd01::1"] {
        a.pings(address);
    }
    for (pod, result) in [(&a, &result), (&b, &b_result)] {
        let ran = bench.check(pod, result);
        assert!(ran.ok && ran.stdout.is_empty(), "{ran:?}");
        bench.del(pod);
        assert!(!pod.ip("link").contains("net1"));
    }
    bench.no_veths();
    assert!(bench.ip("addr show br0").contains("10.1.1.1/24"));
}

fn misspelt_configuration() {
    let bench = Bench::new();
    let config = json!({
        "cniVersion": "0.3.0", "name": "br-plumr-config", "type": "bridge", "isGateway": true,
        "ipam": {
            "type": "static", "capabilites": {"ips": true},
            "routes": [{"dst": "10.10.2.0/24"}, {"dst": "10.20.0.0/16"}]
        }
    });
    let pod = bench.pod(&config).with_args("IP=10.10.1.200/24");
    let result = bench.added(&pod);
    assert_eq!(result["cniVersion"], "0.3.0");
    assert_eq!(
        result["ips"],
        json!([{"version": "4", "interface": 2, "address": "10.10.1.200/24", "gateway": "10.10.1.1"}])
    );
    assert!(pod.ip("addr show net1").contains("inet 10.10.1.200/24 brd 10.10.1.255"));
    assert!(bench.ip("addr show cni0").contains("inet 10.10.1.1/24 brd 10.10.1.255"));
    let routes = pod.ip("route");
    for route in ["10.10.2.0/24 via 10.10.1.1 dev net1", "10.20.0.0/16 via 10.10.1.1 dev net1"] {
        assert!(routes.contains(route), "{routes}");
    }
    pod.pings("10.10.1.1");
    // Multus repeats neither the address nor the result on DEL.
    bench.del(&pod.with_args(""));
    bench.no_veths();
}

fn every_version() {
    let bench = Bench::new();
    for version in ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let config = with(&gateway(), "cniVersion", json!(version));
        let pod = bench.pod(&with(&config, "ipam", addresses(&["10.1.1.2/24"])));
        let result = bench.added(&pod);
        assert_eq!(result["cniVersion"], version);
        let address = if version < "0.3.0" { &result["ip4"]["ip"] } else { &result["ips"][0]["address"] };
        assert_eq!(address, "10.1.1.2/24");
        if version >= "0.4.0" {
            assert!(bench.check(&pod, &result).ok, "{version}");
        }
        bench.del(&pod);
    }
    let bare = with(&gateway(), "cniVersion", json!("0.2.0"));
    let pod = bench.pod(&bare);
    let before = bench.snapshot(&[&pod]);
    says(&bench.refused(&pod), 7, &["0.2.0", "ipam", "0.3.0 or later"]);
    bench.unchanged_since(&before, &[&pod]);
}

fn layer_2() {
    let bench = Bench::new();
    let config = json!({"cniVersion": "1.1.0", "name": "lan", "type": "bridge", "bridge": "br0", "ipam": {}});
    let pod = bench.pod(&config);
    let result = bench.added(&pod);
    assert_eq!(result.get("ips"), None);
    assert!(pod.ip("link show net1").contains("state UP"));
    let ran = bench.check(&pod, &result);
    assert!(ran.ok, "{ran:?}");
    bench.del(&pod);
    bench.no_veths();
}

fn route_attributes() {
    let bench = Bench::new();
    let ipam = json!({
        "type": "static", "addresses": [{"address": "10.1.1.2/24"}, {"address": "fd01::2/64"}],
        "routes": [
            {"dst": "10.9.0.0/16", "mtu": 1300, "advmss": 1200, "priority": 7, "table": 77},
            {"dst": "10.8.0.0/16", "scope": 0},
            {"dst": "fd09::/32", "mtu": 1290, "priority": 9}
        ]
    });
    let pod = bench.pod(&with(&gateway(), "ipam", ipam));
    let result = bench.added(&pod);
    let table = pod.ip("route show table 77");
    for part in ["10.9.0.0/16 via 10.1.1.1 dev net1", "metric 7", "mtu 1300", "advmss 1200"] {
        assert!(table.contains(part), "{table}");
    }
    let ipv6 = pod.ip("-6 route");
    let line = ipv6.lines().find(|line| line.starts_with("fd09::/32 via fd01::1 dev net1")).unwrap();
    assert!(line.contains("metric 9") && line.contains("mtu 1290"), "{line}");
    assert!(bench.check(&pod, &result).ok);
    pod.ip("route del 10.9.0.0/16 table 77");
    let ran = bench.check(&pod, &result);
    assert!(!ran.ok && ran.stdout.contains("10.9.0.0/16 via 10.1.1.1 table 77"), "{ran:?}");
}

fn check_ignores_others() {
    let bench = Bench::new();
    let ipam = json!({"type": "static", "addresses": [{"address": "10.1.1.2/24"}], "routes": [{"dst": "10.9.0.0/16"}]});
    let pod = bench.pod(&with(&gateway(), "ipam", ipam));
    let mut result = bench.added(&pod);
    // A chained plugin appended its interface, address and routes; Multus dropped a route.
    let sandbox = result["interfaces"][2]["sandbox"].clone();
    result["interfaces"].as_array_mut().unwrap().push(json!({"name": "tun", "sandbox": sandbox, "mtu": 1456}));
    result["ips"].as_array_mut().unwrap().push(json!({"address": "10.4.0.1/32", "interface": 3}));
    result["routes"] = json!([{"dst": "10.5.0.0/16", "gw": "10.4.0.2"}]);
    let ran = bench.check(&pod, &result);
    assert!(ran.ok, "{ran:?}");
}

fn check_notices() {
    for (breaking, on_node, text) in [
        ("addr del 10.1.1.2/24 dev net1", false, "10.1.1.2/24"),
        ("route del 10.9.0.0/16", false, "10.9.0.0/16"),
        ("link set net1 down", false, "is down"),
        ("link set net1 address 02:00:00:00:00:99", false, "Mac"),
        ("link del net1", false, "net1 not found"),
        ("addr del 10.1.1.1/24 dev br0", true, "10.1.1.1/24"),
        ("link set br0 down", true, "br0 is down"),
    ] {
        let bench = Bench::new();
        let ipam =
            json!({"type": "static", "addresses": [{"address": "10.1.1.2/24"}], "routes": [{"dst": "10.9.0.0/16"}]});
        let pod = bench.pod(&with(&gateway(), "ipam", ipam));
        let result = bench.added(&pod);
        assert!(bench.check(&pod, &result).ok);
        if on_node {
            bench.ip(breaking);
        } else {
            pod.ip(breaking);
        }
        let ran = bench.check(&pod, &result);
        assert!(!ran.ok && ran.stdout.contains(text), "{breaking}: {ran:?}");
    }
}

fn mac_precedence() {
    let bench = Bench::new();
    let mac = |last: u8| format!("02:00:00:00:00:{last:02x}");
    let args = json!({"cni": {"mac": mac(2)}});
    let runtime = json!({"mac": mac(3)});
    for (config, env, expected) in [
        (gateway(), format!("MAC={}", mac(1)), mac(1)),
        (with(&gateway(), "args", args.clone()), format!("MAC={}", mac(1)), mac(2)),
        (with(&with(&gateway(), "args", args), "runtimeConfig", runtime), String::new(), mac(3)),
    ] {
        let pod = bench.pod(&with(&config, "ipam", addresses(&["10.1.1.2/24"]))).with_args(&env);
        let result = bench.added(&pod);
        assert_eq!(result["interfaces"][2]["mac"], expected);
        assert!(pod.ip("link show net1").contains(&expected));
        bench.del(&pod);
    }
}

fn duplicate_address_detection() {
    let bench = Bench::new();
    let config = with(&gateway(), "enabledad", json!(true));
    let first = bench.pod(&with(&config, "ipam", addresses(&["fd01::2/64"])));
    bench.added(&first);
    let second = bench.pod(&with(&config, "ipam", addresses(&["fd01::2/64"])));
    let before = bench.snapshot(&[&first, &second]);
    says(&bench.refused(&second), 100, &["fd01::2", "duplicate"]);
    bench.unchanged_since(&before, &[&first, &second]);
    first.pings("fd01::1");
}
