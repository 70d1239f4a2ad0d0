//! Pods that the reference bridge plugin attached, and pods of ours that it detaches.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::Test;
use crate::bridge::gateway;
use crate::harness::{Attachment, Bench, DEBIAN, addresses, eventually, newest, with, with_previous};
use crate::masquerade::{bench_for, masquerading, nothing_left, rules};

pub const TESTS: &[Test] = &[
    ("bridge_del_removes_what_the_reference_made", || del_of_reference(&debian(), "1.0.0", "nft")),
    ("bridge_del_removes_what_the_reference_made_by_legacy_iptables", || {
        del_of_reference(&debian(), "1.0.0", "legacy");
    }),
    ("bridge_gc_removes_what_the_reference_made_of_its_network", || gc_of_reference(&debian(), "1.0.0", "nft")),
    ("bridge_gc_removes_what_the_reference_made_by_legacy_iptables", || {
        gc_of_reference(&debian(), "1.0.0", "legacy");
    }),
    ("reference_bridge_del_removes_what_ours_made", || way_back(&debian(), "1.0.0")),
    ("reference_bridge_leaves_masquerade_and_spoof_check_of_a_dead_namespace", || leak(&debian(), "1.0.0")),
    ("bridge_del_leaves_a_pair_that_only_has_a_name_from_the_result", foreign_pair),
];

pub const REFERENCE_TESTS: &[Test] = &[
    ("bridge_del_removes_what_the_newest_reference_made", || del_of_reference(&newest(), "1.1.0", "nft")),
    ("bridge_del_removes_what_the_newest_reference_made_by_nftables", || {
        del_of_reference(&newest(), "1.1.0", "nftables");
    }),
    ("bridge_gc_removes_what_the_newest_reference_made_by_nftables", || {
        gc_of_reference(&newest(), "1.1.0", "nftables");
    }),
    ("newest_reference_bridge_del_removes_what_ours_made", || way_back(&newest(), "1.1.0")),
    ("newest_reference_bridge_leaves_masquerade_and_spoof_check_of_a_dead_namespace", || leak(&newest(), "1.1.0")),
    ("bridge_and_the_newest_reference_masquerade_in_one_table", side_by_side),
];

fn debian() -> PathBuf {
    PathBuf::from(DEBIAN)
}

/// Everything that the reference leaves in the kernel: masquerading and spoof check.
fn everything(backend: &str, version: &str) -> Value {
    let config = with(&masquerading(backend), "macspoofchk", json!(true));
    with(&with(&config, "cniVersion", json!(version)), "ipam", addresses(&["10.1.1.2/24", "fd01::2/64"]))
}

fn made_by(bench: &Bench, directory: &Path, pod: &Attachment) -> Value {
    let ran = bench.run_from(directory, "ADD", pod, &pod.config);
    assert!(ran.ok, "{ran:?}");
    serde_json::from_str(&ran.stdout).unwrap()
}

fn del_of_reference(directory: &Path, version: &str, backend: &str) {
    let bench = bench_for(backend);
    let pod = bench.pod(&everything(backend, version));
    let other = bench.pod(&with(&pod.config, "ipam", addresses(&["10.1.1.3/24"])));
    made_by(&bench, directory, &other);
    let of_other = rules(&bench);
    for round in 0..3 {
        let result = made_by(&bench, directory, &pod);
        assert_ne!(rules(&bench), of_other);
        match round {
            0 => bench.del(&pod),
            1 => bench.del(&pod.with_config(&with_previous(&pod.config, &result))),
            _ => bench.del(&pod.with_config(&with_previous(&pod.config, &result)).without_netns()),
        }
        assert_eq!(rules(&bench), of_other);
        assert!(!pod.ip("link").contains("net1"));
        bench.del(&pod);
    }
    // Its namespace is gone, and with it the pair.
    made_by(&bench, directory, &pod);
    bench.remove(pod.namespace());
    bench.del(&pod);
    assert_eq!(rules(&bench), of_other);
    other.pings("10.1.1.1");
    bench.del(&other);
    nothing_left(&bench);
    bench.no_veths();
}

fn gc_of_reference(directory: &Path, version: &str, backend: &str) {
    let bench = bench_for(backend);
    // The chains of its spoof check name no network: GC cannot know whose they are.
    let config = with(&with(&everything(backend, version), "macspoofchk", json!(false)), "cniVersion", json!(version));
    let pod = |name: &str, address: &str| {
        bench.pod(&with(&with(&config, "name", json!(name)), "ipam", addresses(&[address])))
    };
    let (kept, stale, other) = (pod("lan", "10.1.1.2/24"), pod("lan", "10.1.1.3/24"), pod("other", "10.1.1.4/24"));
    for pod in [&kept, &stale, &other] {
        made_by(&bench, directory, pod);
    }
    bench.remove(stale.namespace());
    let config = with(&kept.config, "cniVersion", json!("1.1.0"));
    let collect = |valid: Value| {
        let ran = bench.run("GC", &kept, &with(&config, "cni.dev/valid-attachments", valid));
        assert!(ran.ok && ran.stdout.is_empty(), "{ran:?}");
        rules(&bench)
    };
    let now = collect(json!([{"containerID": kept.container, "ifname": "net1"}]));
    assert!(!now.contains("10.1.1.3"), "{now}");
    assert!(now.contains("10.1.1.2") && now.contains("10.1.1.4"), "{now}");
    let now = collect(json!([]));
    assert!(!now.contains("10.1.1.2") && now.contains("10.1.1.4"), "{now}");
    // Whose a living pair of the reference is nobody can tell; the third goes when the kernel frees its namespace.
    eventually(|| match bench.veths() {
        left if left.len() == 2 => Ok(()),
        left => Err(format!("{left:?}")),
    });
    assert!([&kept, &other].iter().all(|pod| pod.ip("link").contains("net1")));
}

fn way_back(directory: &Path, version: &str) {
    // Debian's plugin knows the rules of iptables only; elements of sets wait for GC.
    for backend in ["nftables", "iptables", "legacy"] {
        let bench = bench_for(backend);
        let config = everything(backend, version);
        let pod = bench.pod(&config);
        let result = bench.added(&pod);
        let detach = || bench.run_from(directory, "DEL", &pod, &with_previous(&config, &result));
        // Debian's takes it for an error that a chain of its own is not there; the runtime then calls it again.
        let ran = Some(detach()).filter(|ran| ran.ok).unwrap_or_else(detach);
        assert!(ran.ok, "{ran:?}");
        bench.no_veths();
        let left = rules(&bench);
        let elements = |line: &str| line.contains("comment \"adit:lan:");
        assert!(left.lines().all(elements), "{left}");
        assert_eq!(left.contains("10.1.1.2"), backend == "nftables", "{left}");
        assert!(left.contains("veth"), "the spoof check's elements: {left}");

        // The reference attaches the pod again, and is not disturbed.
        made_by(&bench, directory, &pod);
        pod.pings("10.1.1.1");
        assert!(bench.run_from(directory, "DEL", &pod, &config).ok);
        if backend == "nftables" {
            let gc = with(&with(&config, "cniVersion", json!("1.1.0")), "cni.dev/valid-attachments", json!([]));
            assert!(bench.run("GC", &pod, &gc).ok);
        } else {
            bench.on_node("nft delete table bridge adit");
        }
        nothing_left(&bench);
    }
}

/// What the reference does not do, and ours does: see the same call in the tests of masquerading.
fn leak(directory: &Path, version: &str) {
    let bench = bench_for("nft");
    let pod = bench.pod(&everything("iptables", version));
    let ours = bench.pod(&with(&pod.config, "name", json!("ours")));
    made_by(&bench, directory, &pod);
    let before = rules(&bench);
    bench.remove(pod.namespace());
    assert!(bench.run_from(directory, "DEL", &pod, &pod.config).ok);
    assert_eq!(rules(&bench), before, "the reference has become better: say so where we claim to be");
    bench.del(&pod);
    nothing_left(&bench);

    bench.added(&ours);
    bench.remove(ours.namespace());
    bench.del(&ours);
    nothing_left(&bench);
}

fn side_by_side() {
    let bench = bench_for("nft");
    let config = |last: u8| {
        with(&masquerading("nftables"), "ipam", addresses(&[&format!("10.1.1.{last}/24"), &format!("fd01::{last}/64")]))
    };
    let (ours, theirs, third) = (bench.pod(&config(2)), bench.pod(&config(3)), bench.pod(&config(4)));
    let result = bench.added(&ours);
    made_by(&bench, &newest(), &theirs);
    // Its ADD has written one of the chains anew.
    let ran = bench.check(&ours, &result);
    assert!(ran.ok, "{ran:?}");
    bench.added(&third);
    let table = bench.on_node("nft list table inet cni_plugins_masquerade");
    assert_eq!(table.matches("goto masq_checks").count(), 1, "{table}");
    assert!(table.contains("ip saddr 10.1.1.3 ip daddr != 10.1.1.0/24 masquerade"), "{table}");
    assert!(bench.run_from(&newest(), "DEL", &theirs, &theirs.config).ok);
    assert!(bench.check(&ours, &result).ok);
    bench.del(&ours);
    bench.del(&third);
    nothing_left(&bench);
}

fn foreign_pair() {
    let bench = Bench::new();
    let pod = bench.pod(&with(&gateway(), "ipam", addresses(&["10.1.1.2/24"])));
    let result = bench.added(&pod);
    bench.del(&pod);
    let port = result["interfaces"][1]["name"].as_str().unwrap();
    bench.ip(&format!("link add {port} type veth peer name other"));
    bench.ip(&format!("link set {port} master br0"));
    let with_result = pod.with_config(&with_previous(&pod.config, &result));
    bench.del(&with_result.without_netns());
    bench.del(&with_result);
    assert!(bench.veths().contains(&port.to_owned()));
}
