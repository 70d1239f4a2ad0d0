//! What must hold for every interface plugin when something goes wrong.

use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};

use crate::Test;
use crate::bridge::gateway;
use crate::harness::{Attachment, Bench, addresses, finished, ip, says, with, with_previous};
use crate::macvlan;

pub const TESTS: &[Test] = &[
    ("bridge_add_that_fails_leaves_nothing_and_the_retry_works", || failed_add(&bridge())),
    ("macvlan_add_that_fails_leaves_nothing_and_the_retry_works", || failed_add(&macvlan::config())),
    ("bridge_del_succeeds_however_it_is_called", || del(&bridge())),
    ("macvlan_del_succeeds_however_it_is_called", || del(&macvlan::config())),
    ("bridge_del_leaves_interfaces_of_others", || del_of_others(&bridge())),
    ("macvlan_del_leaves_interfaces_of_others", || del_of_others(&macvlan::config())),
    ("bridge_killed_at_any_instant_leaves_only_what_del_removes", || killed(&bridge())),
    ("macvlan_killed_at_any_instant_leaves_only_what_del_removes", || killed(&macvlan::config())),
    ("bridge_refuses_the_nodes_own_namespace_before_it_acts", || own_namespace(&bridge())),
    ("macvlan_refuses_the_nodes_own_namespace_before_it_acts", || own_namespace(&macvlan::config())),
    ("bridge_del_with_an_unreadable_configuration_removes_the_interface", unreadable),
];

fn bridge() -> Value {
    with(&with(&gateway(), "isDefaultGateway", json!(true)), "ipam", addresses(&["10.1.1.2/24", "fd01::2/64"]))
}

/// A node on which `config` works.
fn bench_for(config: &Value) -> Bench {
    let bench = Bench::new();
    if config["type"] == "macvlan" {
        macvlan::master(&bench);
    }
    bench
}

/// Waits until no attachment has an interface on the node. A macvlan never has; its master is a veth.
fn settled(bench: &Bench, config: &Value) {
    if config["type"] == "bridge" {
        bench.no_veths();
    }
}

fn failed_add(good: &Value) {
    let bench = bench_for(good);
    let pod = bench.pod(good);
    let static_ = |extra: Value| {
        let mut ipam = good["ipam"].clone();
        for (key, value) in extra.as_object().unwrap() {
            ipam[key] = value.clone();
        }
        with(good, "ipam", ipam)
    };
    let bad_ipam = static_(json!({"addresses": [{"address": "10.1.1.2"}]}));
    let no_address = static_(json!({"addresses": []}));
    let no_plugin = with(good, "ipam", json!({"type": "no-such-plugin"}));
    let unreachable = static_(json!({"routes": [{"dst": "10.9.0.0/16", "gw": "192.0.2.1"}]}));
    let second_unreachable =
        static_(json!({"routes": [{"dst": "10.8.0.0/16"}, {"dst": "10.9.0.0/16", "gw": "192.0.2.1"}]}));
    let old = with(
        &static_(json!({"addresses": [{"address": "10.1.1.2/24"}, {"address": "10.1.1.3/24"}]})),
        "cniVersion",
        json!("0.2.0"),
    );
    for (config, text) in [
        (&bad_ipam, "CIDR notation"),
        (&no_address, "IPAM plugin returned missing IP config"),
        (&no_plugin, "no-such-plugin"),
        (&unreachable, "10.9.0.0/16 via 192.0.2.1"),
        (&second_unreachable, "10.9.0.0/16 via 192.0.2.1"),
        (&old, "more than 1 address per family"),
    ] {
        let before = bench.snapshot(&[&pod]);
        let error = bench.refused(&pod.with_config(config));
        assert!(error.to_string().contains(text), "{error} lacks {text}");
        bench.unchanged_since(&before, &[&pod]);
    }

    pod.ip("link add net1 type veth peer name net1-peer");
    let before = bench.snapshot(&[&pod]);
    let error = bench.refused(&pod);
    assert!(error.to_string().contains("already exists"), "{error}");
    bench.unchanged_since(&before, &[&pod]);
    pod.ip("link del net1");

    let before = bench.snapshot(&[&pod]);
    let result = bench.added(&pod);
    let again = bench.refused(&pod);
    assert!(again.to_string().contains("call DEL"), "{again}");
    assert!(bench.check(&pod, &result).ok, "a second ADD must not harm the first");
    bench.del(&pod);
    if good["type"] == "macvlan" {
        bench.unchanged_since(&before, &[&pod]);
    }
    settled(&bench, good);
}

fn del(config: &Value) {
    let bench = bench_for(config);
    let first = bench.pod(config);
    bench.added(&first);
    bench.del(&first);
    settled(&bench, config);
    let base = bench.snapshot(&[]);

    // Never added.
    bench.del(&bench.pod(config));

    // Twice; with prevResult; in the pod nothing is left.
    let pod = bench.pod(config);
    let empty = bench.snapshot(&[&pod]);
    let result = bench.added(&pod);
    let with_result = pod.with_config(&with_previous(config, &result));
    for attachment in [&with_result, &pod, &pod.without_netns()] {
        bench.del(attachment);
        bench.unchanged_since(&empty, &[&pod]);
    }

    // The namespace is gone before DEL.
    let pod = bench.pod(config);
    bench.added(&pod);
    bench.remove(pod.namespace());
    bench.del(&pod);
    bench.del(&pod.without_netns());
    bench.unchanged_since(&base, &[]);

    // The namespace lives, but the runtime has forgotten it. A macvlan can only be found there.
    let pod = bench.pod(config);
    bench.added(&pod);
    bench.del(&pod.without_netns());
    if config["type"] == "bridge" {
        assert!(!pod.ip("link").contains("net1"));
        bench.unchanged_since(&base, &[]);
    }
    bench.del(&pod);
    assert!(!pod.ip("link").contains("net1"));

    // A file where the namespace was mounted.
    let stale = std::env::temp_dir().join(format!("{}-stale", pod.namespace()));
    std::fs::write(&stale, "").unwrap();
    bench.del(&Attachment { netns: Some(stale.clone()), ..pod });
    std::fs::remove_file(stale).unwrap();
    bench.unchanged_since(&base, &[]);
}

fn del_of_others(config: &Value) {
    let bench = bench_for(config);
    let pod = bench.pod(config);
    pod.ip("link add net1 type veth peer name elsewhere");
    bench.del(&pod);
    assert!(pod.ip("link").contains("net1"));
    pod.ip("link del net1");

    // Another attachment that has the same address and interface name in another pod, and one in the same pod.
    let other = bench.pod(config);
    bench.added(&other);
    let same_pod =
        Attachment { ifname: "net2".into(), config: with(config, "ipam", addresses(&["10.1.1.7/24"])), ..pod.clone() };
    let same_pod = same_pod.with_config(&with(&same_pod.config, "isDefaultGateway", json!(false)));
    let result = bench.added(&same_pod);
    bench.del(&pod);
    assert!(other.ip("link").contains("net1"));
    assert!(bench.check(&same_pod, &result).ok);
}

fn killed(config: &Value) {
    let bench = bench_for(config);
    let warm = bench.pod(config);
    bench.added(&warm);
    bench.del(&warm);
    settled(&bench, config);
    let pod = bench.pod(config);
    let before = bench.snapshot(&[&pod]);
    for round in 0_u64..60 {
        let mut child = bench.start("ADD", &pod, config);
        // An ADD takes some 20 ms.
        sleep(Duration::from_micros(round * 431));
        child.kill().unwrap();
        let _ = finished(child);
        // What the dying process had begun in the kernel ends first.
        sleep(Duration::from_millis(2));
        if config["type"] == "bridge" && round % 2 == 0 {
            bench.del(&pod.without_netns());
        } else {
            bench.del(&pod);
        }
        bench.unchanged_since(&before, &[&pod]);
    }
    bench.added(&pod);
}

fn own_namespace(config: &Value) {
    let bench = bench_for(config);
    let pod = bench.pod(config);
    let own = Attachment { netns: Some(Path::new("/run/netns").join(bench.node())), ..pod.clone() };
    let before = bench.snapshot(&[&pod]);
    let ran = bench.add(&own);
    assert!(!ran.ok, "{ran:?}");
    // One document, no result before it.
    says(&serde_json::from_str(&ran.stdout).unwrap(), 8, &["netns"]);
    bench.unchanged_since(&before, &[&pod]);
}

fn unreadable() {
    let bench = Bench::new();
    let pod = bench.pod(&bridge());
    bench.added(&pod);
    let ran = bench.run("DEL", &pod, &with(&bridge(), "mtu", json!("many")));
    assert!(!ran.ok && ran.stdout.contains("mtu"), "{ran:?}");
    bench.no_veths();
    assert!(!ip(&format!("-n {} link", pod.namespace())).contains("net1"));
}
