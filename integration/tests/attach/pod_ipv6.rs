//! IPv6 on a macvlan: usable at once, and still nobody else's.

use std::path::Path;

use serde_json::{Value, json};

use crate::Test;
use crate::harness::{Bench, addresses, eventually, ip, newest, says, with};
use crate::macvlan::{config, master};

pub const TESTS: &[Test] = &[
    ("macvlan_ipv6_works_while_duplicate_address_detection_is_under_way", optimistic),
    ("macvlan_check_notices_a_duplicate_that_the_kernel_has_found_since", duplicate_found_later),
    ("macvlan_with_enabledad_fails_on_a_duplicate", duplicate_while_waiting),
    ("macvlan_without_eui64_link_local_addresses_does_without_detection", other_link_local),
];

pub const REFERENCE_TESTS: &[Test] = &[("reference_macvlan_holds_its_add_until_detection_ends", reference_waits)];

/// Detection takes this many seconds in the pod: longer than the trial, and than the reference waits.
const TRANSMITS: u32 = 20;

fn slow_detection(namespace: &str) {
    ip(&format!("netns exec {namespace} sysctl -qw net.ipv6.conf.default.dad_transmits={TRANSMITS}"));
}

fn ipv6_only() -> Value {
    let ipam = json!({
        "type": "static",
        "addresses": [{"address": "fd01::2/64", "gateway": "fd01::1"}],
        "routes": [{"dst": "::/0"}, {"dst": "fd09::/32", "gw": "fd01::1", "table": 77}]
    });
    with(&config(), "ipam", ipam)
}

fn optimistic() {
    let bench = Bench::new();
    master(&bench);
    let pod = bench.pod(&ipv6_only());
    slow_detection(pod.namespace());
    let before = bench.snapshot(&[&pod]);
    let result = bench.added(&pod);

    pod.pings("fd01::1");
    let lookup = pod.ip("route get 2001:db8::1");
    assert!(lookup.contains("via fd01::1") && lookup.contains("src fd01::2"), "{lookup}");
    let optimistic = pod.ip("-6 address show dev net1 to fd01::2");
    assert!(optimistic.contains("optimistic"), "detection has ended too early for this trial: {optimistic}");
    // And the other way: a neighbour that has heard nothing of the pod asks for it.
    let lan = pod.namespace().replace("pod1", "lan");
    ip(&format!("-n {lan} neighbour flush dev host0"));
    ip(&format!("netns exec {lan} ping -c 2 -i 0.05 -W 2 fd01::2"));
    // A server can bind the address.
    let listen = "netns exec NS python3 -c import+socket;socket.create_server(('fd01::2',5000),family=socket.AF_INET6)";
    let words: Vec<String> =
        listen.split(' ').map(|word| word.replace("NS", pod.namespace()).replace('+', " ")).collect();
    let output = std::process::Command::new("ip").args(words).output().unwrap();
    assert!(output.status.success(), "{output:?}");

    let ran = bench.check(&pod, &result);
    assert!(ran.ok, "{ran:?}");
    bench.del(&pod);
    bench.unchanged_since(&before, &[&pod]);
}

fn reference_waits() {
    let bench = Bench::new();
    master(&bench);
    let pod = bench.pod(&ipv6_only());
    slow_detection(pod.namespace());
    let directory = newest();
    let ran = bench.run_from(&directory, "ADD", &pod, &pod.config);
    assert!(!ran.ok && ran.stdout.contains("tentative"), "{ran:?}");
    bench.run_from(&directory, "DEL", &pod, &pod.config);
    bench.added(&pod);
    pod.pings("fd01::1");
}

/// A host on the LAN has the pod's address.
fn bench_with_duplicate() -> Bench {
    let bench = Bench::new();
    master(&bench);
    let lan = bench.node().replace("-node", "-lan");
    ip(&format!("-n {lan} address add fd01::2/64 dev host0 nodad"));
    ip(&format!("-n {lan} address add 10.1.1.2/24 dev host0"));
    bench
}

fn duplicate_found_later() {
    let bench = bench_with_duplicate();
    let pod = bench.pod(&ipv6_only());
    let result = bench.added(&pod);
    eventually(|| {
        let address = pod.ip("-6 address show dev net1 to fd01::2");
        if address.contains("dadfailed") { Ok(()) } else { Err(address) }
    });
    let ran = bench.check(&pod, &result);
    assert!(!ran.ok && ran.stdout.contains("fd01::2/64"), "{ran:?}");
    bench.del(&pod);
}

fn duplicate_while_waiting() {
    let bench = bench_with_duplicate();
    let pod = bench.pod(&with(&ipv6_only(), "enabledad", json!(true)));
    let before = bench.snapshot(&[&pod]);
    says(&bench.refused(&pod), 100, &["fd01::2", "net1", "another host", "give one of the two another address"]);
    bench.unchanged_since(&before, &[&pod]);
    let other = pod.with_config(&with(&pod.config, "ipam", addresses(&["fd01::3/64"])));
    bench.added(&other);
    assert!(!pod.ip("-6 address show dev net1").contains("tentative"));
    pod.pings("fd01::1");
}

fn other_link_local() {
    let bench = Bench::new();
    master(&bench);
    let pod = bench.pod(&ipv6_only());
    // Random ones.
    ip(&format!("netns exec {} sysctl -qw net.ipv6.conf.default.addr_gen_mode=3", pod.namespace()));
    bench.added(&pod);
    assert!(pod.ip("-6 address show dev net1 to fd01::2").contains("nodad"));
    pod.pings("fd01::1");
    assert!(Path::new("/proc/sys/net/ipv6/conf/all/optimistic_dad").exists(), "this kernel cannot tell");
}
