//! VLANs of the bridge plugin. They need a kernel with bridge VLAN filtering: on others `scripts/vm-test` runs them.

#[allow(dead_code, reason = "these tests use a part of the harness")]
#[path = "attach/harness.rs"]
mod harness;

use std::process::{Command, ExitCode};

use libtest_mimic::{Arguments, Trial};
use serde_json::{Value, json};

use harness::{Bench, addresses, eventually, finished, newest_reference, says, with, with_previous};

const TESTS: &[(&str, fn())] = &[
    ("vlan_separates_pods_on_one_bridge", separates),
    ("vlan_trunk_carries_tagged_frames_of_its_vlans_only", trunk),
    ("vlan_default_is_left_or_preserved", default_vlan),
    ("vlan_gateway_has_an_interface_of_its_own", own_gateway),
    ("vlan_gateway_of_a_failed_add_is_removed_and_one_in_use_stays", failed_add),
    ("vlan_gateway_is_made_once_by_many_adds", many_at_once),
    ("vlan_filtering_is_switched_on_only_where_it_disturbs_nobody", existing_bridge),
    ("vlan_check_notices_what_is_missing", check),
    ("vlan_status_is_ready", status),
    ("vlan_check_holds_for_mac_spoofing_too", spoof_check),
];

const REFERENCE_TESTS: &[(&str, fn())] = &[("vlan_gateway_of_the_newest_reference_is_used", reference_gateway)];

fn main() -> ExitCode {
    let root = harness::is_root();
    let filtering = root && separates_vlans();
    let reference = newest_reference().is_some();
    let trial = |&(name, body): &(&'static str, fn()), runs: bool| {
        let trial = Trial::test(name, move || {
            body();
            Ok(())
        });
        trial.with_ignored_flag(!runs)
    };
    let mut trials: Vec<Trial> = TESTS.iter().map(|test| trial(test, filtering)).collect();
    trials.extend(REFERENCE_TESTS.iter().map(|test| trial(test, filtering && reference)));
    if !root {
        eprintln!("{} tests left out: they make network namespaces, which needs root", trials.len());
    } else if !filtering {
        eprintln!(
            "{} tests left out: this kernel has no bridge VLAN filtering (scripts/vm-test boots one that has)",
            trials.len()
        );
    } else {
        harness::plugins();
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// Whether the kernel makes a bridge that filters VLANs.
fn separates_vlans() -> bool {
    let make = "ip link add probe type bridge vlan_filtering 1 && ip -d link show probe | grep -q 'vlan_filtering 1'";
    Command::new("unshare").args(["--net", "sh", "-c", make]).output().is_ok_and(|output| output.status.success())
}

fn lan() -> Value {
    json!({"cniVersion": "1.1.0", "name": "lan", "type": "bridge", "bridge": "br0"})
}

fn in_vlan(vlan: u16, address: &str) -> Value {
    with(&with(&lan(), "vlan", json!(vlan)), "ipam", addresses(&[address]))
}

/// The VLANs of a port as `bridge vlan show` lists them, with their flags.
fn vlans_of(bench: &Bench, port: &str) -> Vec<String> {
    let listed: Value = serde_json::from_str(&bench.on_node(&format!("bridge -j vlan show dev {port}"))).unwrap();
    let vlans = listed[0]["vlans"].as_array().cloned().unwrap_or_default();
    vlans
        .iter()
        .map(|vlan| {
            let flags: String = vlan["flags"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|flag| format!(" {}", flag.as_str().unwrap()))
                .collect();
            format!("{}{flags}", vlan["vlan"])
        })
        .collect()
}

fn port(result: &Value) -> &str {
    result["interfaces"][1]["name"].as_str().unwrap()
}

fn separates() {
    let bench = Bench::new();
    let (a, b, c) = (
        bench.pod(&in_vlan(100, "10.1.1.2/24")),
        bench.pod(&in_vlan(100, "10.1.1.3/24")),
        bench.pod(&in_vlan(200, "10.1.1.4/24")),
    );
    let result = bench.added(&a);
    bench.added(&b);
    bench.added(&c);
    assert!(bench.ip("-d link show br0").contains("vlan_filtering 1"));
    assert_eq!(vlans_of(&bench, port(&result)), ["100 PVID Egress Untagged"]);
    assert_eq!(result["interfaces"].as_array().unwrap().len(), 3);
    a.pings("10.1.1.3");
    a.does_not_reach("10.1.1.4");
    let ran = bench.check(&a, &result);
    assert!(ran.ok, "{ran:?}");
    for pod in [&a, &b, &c] {
        bench.del(pod);
    }
    bench.no_veths();
}

fn trunk() {
    let bench = Bench::new();
    let trunk = json!([{"minID": 30, "maxID": 32}, {"id": 40}, {"id": 31}]);
    let router = bench.pod(&with(&lan(), "vlanTrunk", trunk.clone()));
    let result = bench.added(&router);
    assert_eq!(vlans_of(&bench, port(&result)), ["1 PVID Egress Untagged", "30", "31", "32", "40"]);
    let ran = bench.check(&router, &result);
    assert!(ran.ok, "{ran:?}");
    let native = bench.pod(&with(&with(&lan(), "vlanTrunk", trunk), "vlan", json!(31)));
    let result = bench.added(&native);
    assert_eq!(vlans_of(&bench, port(&result)), ["30", "31 PVID Egress Untagged", "32", "40"]);
    assert!(bench.check(&native, &result).ok);

    for (vlan, address) in [(31, "10.31.0.1/24"), (50, "10.50.0.1/24")] {
        router.ip(&format!("link add link net1 name net1.{vlan} type vlan id {vlan}"));
        router.ip(&format!("addr add {address} dev net1.{vlan}"));
        router.ip(&format!("link set net1.{vlan} up"));
    }
    let inside = bench.pod(&in_vlan(31, "10.31.0.2/24"));
    let outside = bench.pod(&in_vlan(50, "10.50.0.2/24"));
    bench.added(&inside);
    bench.added(&outside);
    inside.pings("10.31.0.1");
    outside.does_not_reach("10.50.0.1");
}

fn default_vlan() {
    let bench = Bench::new();
    let preserving = with(&in_vlan(100, "10.1.1.2/24"), "preserveDefaultVlan", json!(true));
    let pod = bench.pod(&preserving);
    let result = bench.added(&pod);
    assert_eq!(vlans_of(&bench, port(&result)), ["1 Egress Untagged", "100 PVID Egress Untagged"]);
    let ran = bench.check(&pod, &result);
    assert!(ran.ok, "{ran:?}");
    // A port without VLANs of its own has the bridge's default.
    let plain = bench.pod(&with(&lan(), "ipam", addresses(&["10.1.1.3/24"])));
    let result = bench.added(&plain);
    assert_eq!(vlans_of(&bench, port(&result)), ["1 PVID Egress Untagged"]);
    assert!(bench.check(&plain, &result).ok);
}

fn routed(vlan: u16, address: &str) -> Value {
    with(&in_vlan(vlan, address), "isGateway", json!(true))
}

fn own_gateway() {
    let bench = Bench::new();
    let (a, b, c) = (
        bench.pod(&routed(100, "10.1.1.2/24")),
        bench.pod(&routed(100, "10.1.1.3/24")),
        bench.pod(&routed(200, "10.2.1.2/24")),
    );
    let result = bench.added(&a);
    bench.added(&b);
    bench.added(&c);
    let gateway = &result["interfaces"][3];
    assert_eq!(gateway["name"], "br0.100");
    let links: Value = serde_json::from_str(&bench.ip("-j -d link show br0.100")).unwrap();
    assert_eq!(gateway["mac"], links[0]["address"]);
    assert_eq!(links[0]["linkinfo"]["info_kind"], "veth");
    let peer = links[0]["link"].as_str().unwrap();
    assert_eq!(vlans_of(&bench, peer), ["100 PVID Egress Untagged"]);
    assert!(bench.ip("addr show br0.100").contains("inet 10.1.1.1/24"));
    assert!(bench.ip("addr show br0.200").contains("inet 10.2.1.1/24"));
    assert!(!bench.ip("addr show br0").contains("inet 10."));
    for (pod, address) in [(&a, "10.1.1.1"), (&b, "10.1.1.1"), (&c, "10.2.1.1")] {
        pod.pings(address);
    }
    let ran = bench.check(&a, &result);
    assert!(ran.ok, "{ran:?}");
    for pod in [&a, &b, &c] {
        bench.del(pod);
    }
    // As the bridge, it stays for the next pod.
    assert_eq!(bench.veths().len(), 4);
    let again = bench.added(&a);
    assert_eq!(again["interfaces"][3], *gateway);
    a.pings("10.1.1.1");
    // Without addresses there is no gateway.
    let layer_2 = bench.pod(&with(&with(&lan(), "vlan", json!(300)), "isGateway", json!(true)));
    assert_eq!(bench.added(&layer_2)["interfaces"].as_array().unwrap().len(), 3);
}

fn failed_add() {
    let bench = Bench::new();
    let unreachable = |config: &Value| {
        // The route makes ADD fail in the pod, the second gateway on the node: after the interface was made.
        with(
            config,
            "ipam",
            json!({"type": "static", "addresses": [
            {"address": "10.1.1.2/24"}, {"address": "10.9.1.2/24", "gateway": "255.255.255.255"}]}),
        )
    };
    let pod = bench.pod(&unreachable(&routed(100, "10.1.1.2/24")));
    let before = bench.snapshot(&[&pod]);
    bench.refused(&pod);
    bench.unchanged_since(&before, &[&pod]);

    let first = bench.pod(&routed(100, "10.1.1.3/24"));
    let result = bench.added(&first);
    let before = bench.snapshot(&[&pod, &first]);
    bench.refused(&pod);
    bench.unchanged_since(&before, &[&pod, &first]);
    assert!(bench.check(&first, &result).ok);
    first.pings("10.1.1.1");
}

fn many_at_once() {
    let bench = Bench::new();
    let pods: Vec<_> = (2..18).map(|last| bench.pod(&routed(100, &format!("10.1.1.{last}/24")))).collect();
    let at_once = |verb: &str| {
        let running: Vec<_> = pods.iter().map(|pod| bench.start(verb, pod, &pod.config)).collect();
        for ran in running.into_iter().map(finished) {
            assert!(ran.ok, "{verb}: {ran:?}");
        }
    };
    at_once("ADD");
    assert_eq!(bench.veths().len(), 16 + 2);
    pods[0].pings("10.1.1.17");
    pods[15].pings("10.1.1.1");
    at_once("DEL");
    eventually(|| {
        let veths = bench.veths();
        if veths.len() == 2 { Ok(()) } else { Err(format!("{veths:?}")) }
    });
}

fn existing_bridge() {
    let bench = Bench::new();
    bench.ip("link add br0 type bridge");
    bench.ip("link set br0 up");
    let pod = bench.pod(&in_vlan(100, "10.1.1.2/24"));
    // A failed ADD leaves it as it was.
    bench.refused(&pod.with_config(&in_vlan(100, "10.1.1.2")));
    bench.no_veths();
    assert!(bench.ip("-d link show br0").contains("vlan_filtering 0"));
    let result = bench.added(&pod);
    assert!(bench.ip("-d link show br0").contains("vlan_filtering 1"));
    assert_eq!(vlans_of(&bench, port(&result)), ["100 PVID Egress Untagged"]);

    bench.ip("link add br1 type bridge");
    bench.ip("link add used type veth peer name other");
    bench.ip("link set used master br1");
    let second = bench.pod(&with(&in_vlan(100, "10.1.1.2/24"), "bridge", json!("br1")));
    let before = bench.snapshot(&[&second]);
    let error = bench.refused(&second);
    says(&error, 999, &["\"br1\" has no VLAN filtering", "1 ports", "ip link set br1 type bridge vlan_filtering 1"]);
    bench.unchanged_since(&before, &[&second]);
    bench.ip("link set br1 type bridge vlan_filtering 1");
    bench.added(&second);
}

fn check() {
    for (damage, text) in [
        ("bridge vlan del dev PORT vid 100", "VLAN 100"),
        ("bridge vlan add dev PORT vid 7", "VLAN 7"),
        ("bridge vlan add dev PORT vid 100 untagged", "VLAN 100"),
        ("ip link set br0 type bridge vlan_filtering 0", "VLAN filtering is off"),
        ("ip link set br0.100 down", "br0.100 of the gateway is down"),
        ("ip addr flush dev br0.100", "br0.100 lacks the gateway's address 10.1.1.1/24"),
        ("ip link del br0.100", "br0.100 of the gateway was not found"),
    ] {
        let bench = Bench::new();
        let pod = bench.pod(&routed(100, "10.1.1.2/24"));
        let result = bench.added(&pod);
        let ran = bench.check(&pod, &result);
        assert!(ran.ok, "{ran:?}");
        bench.on_node(&damage.replace("PORT", port(&result)));
        let ran = bench.check(&pod, &result);
        assert!(!ran.ok && ran.stdout.contains(text), "{damage}: {ran:?}");
        bench.del(&pod);
    }
}

fn status() {
    let bench = Bench::new();
    let pod = bench.pod(&in_vlan(100, "10.1.1.2/24"));
    for _ in 0..2 {
        let ran = bench.run("STATUS", &pod, &pod.config);
        assert!(ran.ok && ran.stdout.is_empty(), "{ran:?}");
        bench.ip("link add other type bridge");
        bench.ip("link del other");
        bench.added(&pod);
        bench.del(&pod);
    }
}

fn spoof_check() {
    let bench = Bench::new();
    let pod = bench.pod(&with(&routed(100, "10.1.1.2/24"), "macspoofchk", json!(true)));
    let result = bench.added(&pod);
    assert!(bench.check(&pod, &result).ok);
    pod.pings("10.1.1.1");
    pod.ip("link set net1 address 02:00:00:00:00:99");
    pod.does_not_reach("10.1.1.1");
    bench.del(&pod.with_config(&with_previous(&pod.config, &result)));
}

fn reference_gateway() {
    let bench = Bench::new();
    let (theirs, ours) = (bench.pod(&routed(100, "10.1.1.2/24")), bench.pod(&routed(100, "10.1.1.3/24")));
    let directory = newest_reference().unwrap();
    let ran = bench.run_from(&directory, "ADD", &theirs, &theirs.config);
    assert!(ran.ok, "{ran:?}");
    let result = bench.added(&ours);
    assert_eq!(result["interfaces"][3]["name"], "br0.100");
    ours.pings("10.1.1.1");
    ours.pings("10.1.1.2");
    let ran = bench.check(&ours, &result);
    assert!(ran.ok, "{ran:?}");
    bench.del(&theirs);
    assert!(!theirs.ip("link").contains("net1"));
    ours.pings("10.1.1.1");
    // And the other way round.
    bench.added(&theirs);
    let third = bench.pod(&routed(100, "10.1.1.4/24"));
    let ran = bench.run_from(&directory, "ADD", &third, &third.config);
    assert!(ran.ok, "{ran:?}");
    third.pings("10.1.1.2");
}
