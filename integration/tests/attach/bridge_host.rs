//! What happens to the bridge itself, which other attachments share.

use serde_json::{Value, json};

use crate::Test;
use crate::bridge::gateway;
use crate::harness::{Bench, addresses, finished, says, with};

pub const TESTS: &[Test] = &[
    ("bridge_gives_an_address_to_a_bridge_that_lost_its_own", zero_mac),
    ("bridge_keeps_the_address_of_a_bridge_that_somebody_else_made", foreign_bridge),
    ("bridge_replaces_a_gateway_only_by_force", force_address),
    ("bridge_sets_hairpin_promiscuous_and_mtu", port_settings),
    ("bridge_isolates_ports_from_each_other", port_isolation),
    ("bridge_leaves_the_pods_interface_down_when_asked", interface_down),
    ("bridge_refuses_vlans_where_the_kernel_cannot_separate_them", vlans_without_filtering),
    ("bridge_refuses_an_interface_that_is_no_bridge", not_a_bridge),
    ("bridge_serves_thirty_adds_and_dels_at_once", thirty_at_once),
    ("bridge_gc_removes_only_unlisted_attachments_of_its_network", gc),
    ("bridge_status_asks_ipam_and_looks_at_the_bridge", status),
];

fn mac_of(bench: &Bench, link: &str) -> String {
    let links: Value = serde_json::from_str(&bench.ip(&format!("-j link show {link}"))).unwrap();
    links[0]["address"].as_str().unwrap().to_owned()
}

fn zero_mac() {
    let bench = Bench::new();
    bench.ip("link add br0 type bridge");
    bench.ip("link add port type veth peer name other");
    bench.ip("link set port master br0");
    bench.ip("link del port");
    assert_eq!(mac_of(&bench, "br0"), "00:00:00:00:00:00");
    let pod = bench.pod(&with(&gateway(), "ipam", addresses(&["10.1.1.2/24"])));
    let result = bench.added(&pod);
    let mac = mac_of(&bench, "br0");
    assert_ne!(mac, "00:00:00:00:00:00");
    assert_eq!(result["interfaces"][0]["mac"], mac);
    pod.pings("10.1.1.1");
    bench.del(&pod);
    bench.no_veths();
    assert_eq!(mac_of(&bench, "br0"), mac);
}

fn foreign_bridge() {
    let bench = Bench::new();
    bench.ip("link add br0 type bridge");
    bench.ip("addr add 10.1.1.1/24 dev br0");
    bench.ip("link set br0 up");
    let mac = mac_of(&bench, "br0");
    for number in 2..6 {
        let pod = bench.pod(&with(&gateway(), "ipam", addresses(&[&format!("10.1.1.{number}/24")])));
        let result = bench.added(&pod);
        assert_eq!(mac_of(&bench, "br0"), mac);
        assert!(bench.check(&pod, &result).ok);
    }
}

fn force_address() {
    let bench = Bench::new();
    let first = bench.pod(&with(&gateway(), "ipam", addresses(&["10.1.1.2/24", "fd01::2/64"])));
    bench.added(&first);
    let config = with(&gateway(), "ipam", addresses(&["10.2.1.2/24", "fd02::2/64"]));
    let second = bench.pod(&config);
    let before = bench.snapshot(&[&second]);
    let error = bench.refused(&second);
    says(&error, 999, &["already has an IP address different from 10.2.1.1/24", "10.1.1.1/24", "forceAddress"]);
    bench.unchanged_since(&before, &[&second]);

    bench.added(&second.with_config(&with(&config, "forceAddress", json!(true))));
    let addresses = bench.ip("addr show br0");
    assert!(addresses.contains("10.2.1.1/24") && !addresses.contains("10.1.1.1/24"), "{addresses}");
    // IPv6 subnets that do not overlap live side by side.
    assert!(addresses.contains("fd01::1/64") && addresses.contains("fd02::1/64"), "{addresses}");
}

fn port_settings() {
    let bench = Bench::new();
    let hairpin = with(&with(&gateway(), "hairpinMode", json!(true)), "mtu", json!(1400));
    let a = bench.pod(&with(&hairpin, "ipam", addresses(&["10.1.1.2/24"])));
    let result = bench.added(&a);
    assert!(bench.ip(&format!("-d link show {}", bench.veths()[0])).contains("hairpin on"));
    for (damage, text) in [("type bridge_slave hairpin off", "hairpin mode"), ("mtu 1300", "has mtu 1300, not 1400")] {
        bench.ip(&format!("link set {} {damage}", bench.veths()[0]));
        let ran = bench.check(&a, &result);
        assert!(!ran.ok && ran.stdout.contains(text), "{damage}: {ran:?}");
        bench.ip(&format!("link set {} mtu 1400 type bridge_slave hairpin on", bench.veths()[0]));
        assert!(bench.check(&a, &result).ok);
    }
    for interface in result["interfaces"].as_array().unwrap() {
        assert_eq!(interface["mtu"], 1400);
    }
    assert!(a.ip("link show net1").contains("mtu 1400"));
    bench.del(&a);
    let promiscuous = with(&gateway(), "promiscMode", json!(true));
    let b = bench.pod(&with(&promiscuous, "ipam", addresses(&["10.1.1.3/24"])));
    let result = bench.added(&b);
    assert!(bench.ip("link show br0").contains("PROMISC"));
    assert!(bench.check(&b, &result).ok);
    bench.ip("link set br0 promisc off");
    assert!(!bench.check(&b, &result).ok);
}

fn port_isolation() {
    let bench = Bench::new();
    let config = with(&gateway(), "portIsolation", json!(true));
    let pods: Vec<_> =
        (2..4).map(|n| bench.pod(&with(&config, "ipam", addresses(&[&format!("10.1.1.{n}/24")])))).collect();
    let open = bench.pod(&with(&gateway(), "ipam", addresses(&["10.1.1.4/24"])));
    let result = bench.added(&pods[0]);
    bench.added(&pods[1]);
    bench.added(&open);
    pods[0].does_not_reach("10.1.1.3");
    for address in ["10.1.1.1", "10.1.1.4"] {
        pods[0].pings(address);
    }
    let ran = bench.check(&pods[0], &result);
    assert!(ran.ok, "{ran:?}");
    let port = result["interfaces"][1]["name"].as_str().unwrap();
    bench.ip(&format!("link set {port} type bridge_slave isolated off"));
    let ran = bench.check(&pods[0], &result);
    assert!(!ran.ok && ran.stdout.contains("is not isolated"), "{ran:?}");
}

fn interface_down() {
    let bench = Bench::new();
    let config = json!({
        "cniVersion": "1.1.0", "name": "lan", "type": "bridge", "bridge": "br0", "disableContainerInterface": true
    });
    let pod = bench.pod(&config);
    let result = bench.added(&pod);
    assert!(pod.ip("link show net1").contains("state DOWN"), "{}", pod.ip("link show net1"));
    assert!(bench.ip(&format!("link show {}", bench.veths()[0])).contains("master br0"));
    let ran = bench.check(&pod, &result);
    assert!(ran.ok, "{ran:?}");
    bench.del(&pod);
    bench.no_veths();
    let layer_3 = bench.pod(&with(&config, "ipam", addresses(&["10.1.1.2/24"])));
    says(&bench.refused(&layer_3), 7, &["cannot use IPAM when DisableContainerInterface flag is set", "remove ipam"]);
}

fn vlans_without_filtering() {
    let bench = Bench::new();
    if separates_vlans(&bench) {
        // What happens there is in the tests of VLANs.
        return;
    }
    let config = with(&gateway(), "ipam", addresses(&["10.1.1.2/24"]));
    let pod = bench.pod(&config);
    for existing in [false, true] {
        if existing {
            bench.ip("link add br0 type bridge");
        }
        for (key, value) in [("vlan", json!(100)), ("vlanTrunk", json!([{"minID": 5, "maxID": 9}]))] {
            let before = bench.snapshot(&[&pod]);
            let error = bench.refused(&pod.with_config(&with(&config, key, value.clone())));
            says(&error, 50, &["CONFIG_BRIDGE_VLAN_FILTERING", "one bridge for each VLAN"]);
            bench.unchanged_since(&before, &[&pod]);
            let status = bench.run("STATUS", &pod, &with(&config, key, value));
            // Without any bridge STATUS cannot know.
            assert_eq!(status.ok, !existing, "{status:?}");
        }
    }
    assert_eq!(bench.run("STATUS", &pod, &config).stdout, "");
}

fn separates_vlans(bench: &Bench) -> bool {
    bench.tried_on_node(&format!("ip -n {} link add probe type bridge vlan_filtering 1", bench.node())).status.success()
        && bench.ip("link del probe").is_empty()
}

fn not_a_bridge() {
    let bench = Bench::new();
    bench.ip("link add br0 type veth peer name br0-peer");
    let pod = bench.pod(&with(&gateway(), "ipam", addresses(&["10.1.1.2/24"])));
    let before = bench.snapshot(&[&pod]);
    says(&bench.refused(&pod), 999, &["\"br0\" already exists but is not a bridge"]);
    bench.unchanged_since(&before, &[&pod]);
}

fn thirty_at_once() {
    let bench = Bench::new();
    let pods: Vec<_> = (2..32)
        .map(|n| {
            bench.pod(&with(&gateway(), "ipam", addresses(&[&format!("10.1.1.{n}/24"), &format!("fd01::{n}/64")])))
        })
        .collect();
    let at_once = |verb: &str| {
        let running: Vec<_> = pods.iter().map(|pod| bench.start(verb, pod, &pod.config)).collect();
        running.into_iter().map(finished).collect::<Vec<_>>()
    };
    for ran in at_once("ADD") {
        assert!(ran.ok, "{ran:?}");
    }
    assert_eq!(bench.veths().len(), 30);
    pods[0].pings("10.1.1.31");
    pods[29].pings("fd01::1");
    for ran in at_once("DEL") {
        assert!(ran.ok, "{ran:?}");
    }
    bench.no_veths();
    for pod in &pods {
        assert!(!pod.ip("link").contains("net1"));
    }
}

fn gc() {
    let bench = Bench::new();
    let config =
        |name: &str, address: &str| with(&with(&gateway(), "name", json!(name)), "ipam", addresses(&[address]));
    let kept = bench.pod(&config("lan", "10.1.1.2/24"));
    let stale = bench.pod(&config("lan", "10.1.1.3/24"));
    let other = bench.pod(&config("other", "10.1.1.4/24"));
    for pod in [&kept, &stale, &other] {
        bench.added(pod);
    }
    let without_list = bench.run("GC", &kept, &kept.config);
    assert!(without_list.ok, "{without_list:?}");
    assert_eq!(bench.veths().len(), 3);
    let valid = json!([{"containerID": kept.container, "ifname": "net1"}]);
    let ran = bench.run("GC", &kept, &with(&kept.config, "cni.dev/valid-attachments", valid));
    assert!(ran.ok && ran.stdout.is_empty(), "{ran:?}");
    assert_eq!(bench.veths().len(), 2);
    assert!(!stale.ip("link").contains("net1"));
    kept.pings("10.1.1.4");
    let ran = bench.run("GC", &kept, &with(&kept.config, "cni.dev/valid-attachments", json!([])));
    assert!(ran.ok, "{ran:?}");
    assert_eq!(bench.veths().len(), 1);
    other.pings("10.1.1.1");
}

fn status() {
    let bench = Bench::new();
    let pod = bench.pod(&with(&gateway(), "ipam", addresses(&["10.1.1.2/24"])));
    let ran = bench.run("STATUS", &pod, &pod.config);
    assert!(ran.ok && ran.stdout.is_empty(), "{ran:?}");
    let missing = bench.run("STATUS", &pod, &with(&pod.config, "ipam", json!({"type": "no-such-plugin"})));
    assert!(!missing.ok && missing.stdout.contains("no-such-plugin"), "{missing:?}");
    bench.ip("link add br0 type veth peer name br0-peer");
    let taken = bench.run("STATUS", &pod, &pod.config);
    says(&serde_json::from_str(&taken.stdout).unwrap(), 50, &["is not a bridge"]);
}
