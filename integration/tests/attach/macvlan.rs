//! What a pod on a macvlan gets.

use serde_json::{Value, json};

use crate::Test;
use crate::harness::{Bench, addresses, ip, says, with};

pub const TESTS: &[Test] = &[
    ("macvlan_pods_reach_each_other_and_the_lan_over_both_families", pods_reach_each_other),
    ("macvlan_uses_the_default_routes_interface", default_master),
    ("macvlan_sets_mode_mtu_queue_and_mac", settings),
    ("macvlan_refuses_what_the_master_cannot_carry", refused),
    ("macvlan_on_an_interface_of_the_pod", link_in_container),
    ("macvlan_without_ipam_is_layer_2_only", layer_2),
    ("macvlan_check_notices_what_is_missing", check_notices),
    ("macvlan_status_needs_the_master", status),
];

pub fn config() -> Value {
    let ipam = json!({
        "type": "static",
        "addresses": [{"address": "10.1.1.2/24", "gateway": "10.1.1.1"}, {"address": "fd01::2/64", "gateway": "fd01::1"}],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
    });
    json!({"cniVersion": "1.1.0", "name": "lan", "type": "macvlan", "master": "up0", "ipam": ipam})
}

/// Gives the node an interface `up0` whose other end is a host on the LAN: 10.1.1.1 and fd01::1.
pub fn master(bench: &Bench) {
    let lan = bench.namespace("lan");
    ip(&format!("-n {lan} link add host0 type veth peer name up0 netns {}", bench.node()));
    ip(&format!("-n {lan} addr add 10.1.1.1/24 dev host0"));
    ip(&format!("-n {lan} addr add fd01::1/64 dev host0 nodad"));
    ip(&format!("-n {lan} link set host0 up"));
    bench.ip("link set up0 up");
}

fn bench() -> Bench {
    let bench = Bench::new();
    master(&bench);
    bench
}

fn pods_reach_each_other() {
    let bench = bench();
    let a = bench.pod(&config());
    let result = bench.added(&a);
    let b = bench.pod(&with(&config(), "ipam", addresses(&["10.1.1.3/24", "fd01::3/64"])));
    bench.added(&b);

    let interface = &result["interfaces"][0];
    assert_eq!((&interface["name"], &interface["mtu"]), (&json!("net1"), &json!(1500)));
    assert_eq!(interface["sandbox"], a.netns.as_ref().unwrap().to_str().unwrap());
    assert_eq!(result["ips"][0], json!({"address": "10.1.1.2/24", "gateway": "10.1.1.1", "interface": 0}));
    assert_eq!(result["routes"][1], json!({"dst": "::/0", "gw": "fd01::1"}));
    for address in ["10.1.1.1", "fd01::1", "10.1.1.3", "fd01::3"] {
        a.pings(address);
    }
    let ran = bench.check(&a, &result);
    assert!(ran.ok && ran.stdout.is_empty(), "{ran:?}");
    bench.del(&a);
    assert!(!a.ip("link").contains("net1"));
    b.pings("10.1.1.1");
}

fn default_master() {
    let bench = bench();
    let mut config = config();
    config.as_object_mut().unwrap().remove("master");
    let pod = bench.pod(&config);
    let before = bench.snapshot(&[&pod]);
    says(&bench.refused(&pod), 7, &["no default route interface found", "set master"]);
    bench.unchanged_since(&before, &[&pod]);
    bench.ip("addr add 10.1.1.9/24 dev up0");
    bench.ip("route add default via 10.1.1.1");
    let result = bench.added(&pod);
    pod.pings("10.1.1.1");
    assert!(bench.check(&pod, &result).ok);
}

fn settings() {
    let bench = bench();
    for mode in ["bridge", "private", "vepa", "passthru"] {
        let mut config = config();
        config["mode"] = json!(mode);
        config["mtu"] = json!(1400);
        config["bcqueuelen"] = json!(3000);
        config["mac"] = json!("02:00:00:00:00:11");
        let pod = bench.pod(&config);
        let result = bench.added(&pod);
        let link = pod.ip("-d link show net1");
        for part in ["mtu 1400", &format!("mode {mode}"), "02:00:00:00:00:11", "bcqueuelen 3000"] {
            assert!(link.contains(part), "{link} lacks {part}");
        }
        assert_eq!(result["interfaces"][0]["mtu"], 1400);
        assert!(bench.check(&pod, &result).ok);
        let other = with(&config, "mode", json!(if mode == "vepa" { "bridge" } else { "vepa" }));
        assert!(!bench.check(&pod.with_config(&other), &result).ok);
        bench.del(&pod);
        let annotated = pod.with_args("MAC=02:00:00:00:00:12");
        assert_eq!(bench.added(&annotated)["interfaces"][0]["mac"], "02:00:00:00:00:12");
        bench.del(&annotated);
    }
}

fn refused() {
    let bench = bench();
    let pod = bench.pod(&config());
    bench.ip("link add br9 type bridge");
    bench.ip("link set br9 address 02:00:00:00:00:09");
    bench.ip("link add port9 type veth peer name port9-peer");
    bench.ip("link set port9 master br9");
    let before = bench.snapshot(&[&pod]);
    for (key, value, code, parts) in [
        ("master", json!("nope"), 7, ["\"nope\"", "Link not found"]),
        ("mtu", json!(1501), 7, ["invalid MTU 1501, must be [0, master MTU(1500)]", "up0"]),
        ("mtu", json!(-1), 7, ["invalid MTU -1, must be [0, master MTU(1500)]", "up0"]),
        ("mode", json!("source"), 7, ["unknown macvlan mode: \"source\"", "passthru"]),
        ("mac", json!("f1:00:00:00:00:01"), 7, ["f1:00:00:00:00:01", "multicast"]),
        ("master", json!("port9"), 999, ["port9", "bridge"]),
    ] {
        says(&bench.refused(&pod.with_config(&with(&config(), key, value))), code, &parts);
        bench.unchanged_since(&before, &[&pod]);
    }
}

fn link_in_container() {
    let bench = bench();
    let pod = bench.pod(&with(&config(), "linkInContainer", json!(true)));
    // The node's own up0 is not meant.
    let before = bench.snapshot(&[&pod]);
    says(&bench.refused(&pod), 7, &["\"up0\"", "Link not found", "of the pod with linkInContainer"]);
    bench.unchanged_since(&before, &[&pod]);
    assert!(bench.run("STATUS", &pod, &pod.config).ok, "a master in a pod cannot be looked for");

    let peer = bench.namespace("peer");
    pod.ip(&format!("link add up0 mtu 1400 type veth peer name host0 netns {peer}"));
    pod.ip("link set up0 up");
    for line in ["link set host0 mtu 1400 up", "addr add 10.1.1.1/24 dev host0", "addr add fd01::1/64 dev host0 nodad"]
    {
        ip(&format!("-n {peer} {line}"));
    }
    let large = pod.with_config(&with(&pod.config, "mtu", json!(1450)));
    says(&bench.refused(&large), 7, &["invalid MTU 1450, must be [0, master MTU(1400)]", "up0"]);
    let result = bench.added(&pod);
    assert_eq!(result["interfaces"][0]["mtu"], 1400);
    assert!(pod.ip("-d link show net1").contains("net1@up0"));
    pod.pings("10.1.1.1");
    pod.pings("fd01::1");
    assert!(bench.check(&pod, &result).ok);
    let on_node = pod.with_config(&with(&pod.config, "linkInContainer", json!(false)));
    let ran = bench.check(&on_node, &result);
    assert!(!ran.ok && ran.stdout.contains("not on master up0"), "{ran:?}");
    bench.del(&pod);
    let links = pod.ip("link");
    assert!(links.contains("up0") && !links.contains("net1"), "{links}");
}

fn layer_2() {
    let bench = bench();
    let pod = bench.pod(&with(&config(), "ipam", Value::Null));
    let result = bench.added(&pod);
    assert_eq!(result.get("ips"), None);
    assert!(pod.ip("link show net1").contains("UP"));
    assert!(bench.check(&pod, &result).ok);
    bench.del(&pod);
}

fn check_notices() {
    for (breaking, text) in [
        ("addr del 10.1.1.2/24 dev net1", "10.1.1.2/24"),
        ("route del default", "0.0.0.0/0"),
        ("link set net1 down", "is down"),
        ("link set net1 address 02:00:00:00:00:99", "Mac"),
        ("link set net1 mtu 1450", "mtu 1450, not 1400"),
        ("link del net1", "net1 not found"),
    ] {
        let bench = bench();
        let pod = bench.pod(&with(&config(), "mtu", json!(1400)));
        let result = bench.added(&pod);
        assert!(bench.check(&pod, &result).ok);
        pod.ip(breaking);
        let ran = bench.check(&pod, &result);
        assert!(!ran.ok && ran.stdout.contains(text), "{breaking}: {ran:?}");
    }
}

fn status() {
    let bench = bench();
    let pod = bench.pod(&config());
    let ran = bench.run("STATUS", &pod, &config());
    assert!(ran.ok && ran.stdout.is_empty(), "{ran:?}");
    bench.ip("link del up0");
    let ran = bench.run("STATUS", &pod, &config());
    says(&serde_json::from_str(&ran.stdout).unwrap(), 50, &["\"up0\"", "not found"]);
}
