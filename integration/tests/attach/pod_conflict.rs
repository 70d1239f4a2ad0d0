//! The probe for addresses that are taken.

use serde_json::{Value, json};

use crate::Test;
use crate::harness::{Bench, addresses, finished, ip, says, with};
use crate::macvlan::{config, master};

pub const TESTS: &[Test] = &[
    ("macvlan_fails_on_an_ipv4_address_that_a_host_on_the_lan_has", taken_on_the_lan),
    ("macvlan_takes_a_taken_address_unless_told_to_look", not_asked),
    ("macvlan_pods_that_start_at_once_do_not_share_an_address", at_once),
    ("macvlan_probes_ipv6_addresses_too", ipv6),
    ("bridge_fails_on_an_ipv4_address_that_another_pod_has", on_a_bridge),
];

fn probing(list: &[&str]) -> Value {
    with(&with(&config(), "ipam", addresses(list)), "addressConflictDetection", json!(true))
}

fn lan(bench: &Bench) -> String {
    bench.node().replace("-node", "-lan")
}

fn taken_on_the_lan() {
    let bench = Bench::new();
    master(&bench);
    ip(&format!("-n {} address add 10.1.1.3/24 dev host0", lan(&bench)));
    let link: Value = serde_json::from_str(&ip(&format!("-n {} -j link show host0", lan(&bench)))).unwrap();
    let pod = bench.pod(&probing(&["10.1.1.2/24", "10.1.1.3/24"]));
    let before = bench.snapshot(&[&pod]);
    let holder = link[0]["address"].as_str().unwrap();
    says(&bench.refused(&pod), 100, &["10.1.1.3", "net1", holder, "give the pod another address"]);
    bench.unchanged_since(&before, &[&pod]);

    ip(&format!("-n {} address del 10.1.1.3/24 dev host0", lan(&bench)));
    let result = bench.added(&pod);
    pod.pings("10.1.1.1");
    assert!(bench.check(&pod, &result).ok);
    // Another pod of this node, which macvlan reaches without the wire.
    let second = bench.pod(&probing(&["10.1.1.2/24"]));
    let mac = result["interfaces"][0]["mac"].as_str().unwrap();
    says(&bench.refused(&second), 100, &["10.1.1.2", mac]);
    bench.del(&pod);
    bench.added(&second);
}

fn not_asked() {
    let bench = Bench::new();
    master(&bench);
    let first = bench.pod(&with(&config(), "ipam", addresses(&["10.1.1.2/24"])));
    let second = bench.pod(&first.config);
    bench.added(&first);
    bench.added(&second);
}

fn at_once() {
    let bench = Bench::new();
    master(&bench);
    let config = probing(&["10.1.1.2/24"]);
    let pods = [bench.pod(&config), bench.pod(&config)];
    let children: Vec<_> = pods.iter().map(|pod| bench.start("ADD", pod, &config)).collect();
    let succeeded = children.into_iter().map(finished).filter(|ran| ran.ok).count();
    assert!(succeeded < 2, "both pods have 10.1.1.2");
}

fn ipv6() {
    let bench = Bench::new();
    master(&bench);
    ip(&format!("-n {} address add fd01::2/64 dev host0 nodad", lan(&bench)));
    let pod = bench.pod(&probing(&["10.1.1.2/24", "fd01::2/64"]));
    let before = bench.snapshot(&[&pod]);
    says(&bench.refused(&pod), 100, &["fd01::2", "net1"]);
    bench.unchanged_since(&before, &[&pod]);
}

fn on_a_bridge() {
    let bench = Bench::new();
    let config = |conflict: bool| {
        json!({
            "cniVersion": "1.1.0", "name": "lan", "type": "bridge", "bridge": "br0", "isDefaultGateway": true,
            "addressConflictDetection": conflict, "ipam": addresses(&["10.1.1.2/24"])
        })
    };
    let first = bench.pod(&config(true));
    let result = bench.added(&first);
    first.pings("10.1.1.1");
    assert!(bench.check(&first, &result).ok);
    let second = bench.pod(&config(true));
    let before = bench.snapshot(&[&second]);
    let mac = result["interfaces"][2]["mac"].as_str().unwrap();
    says(&bench.refused(&second), 100, &["10.1.1.2", "net1", mac]);
    bench.unchanged_since(&before, &[&second]);
    bench.added(&second.with_config(&config(false)));
}
