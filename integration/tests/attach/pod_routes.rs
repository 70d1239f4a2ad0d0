//! The settings of a route: in the kernel, and compared by CHECK.

use serde_json::{Value, json};

use crate::Test;
use crate::harness::{Bench, newest, with};
use crate::macvlan::{config, master};

pub const TESTS: &[Test] = &[
    ("every_setting_of_a_route_is_applied_and_checked", applied),
    ("a_route_in_table_0_is_in_the_main_table", table_zero),
    ("a_route_whose_destination_has_host_bits_works", host_bits),
];

pub const REFERENCE_TESTS: &[Test] = &[
    ("reference_macvlan_forgets_mtu_and_advmss_of_a_route", || reference_forgets(&lan())),
    ("reference_bridge_forgets_mtu_and_advmss_of_a_route", || reference_forgets(&bridge())),
    ("reference_check_fails_on_a_route_in_a_table", reference_check_fails),
    ("reference_fails_on_a_destination_with_host_bits", reference_refuses_host_bits),
];

fn routes() -> Value {
    json!([
        {"dst": "10.9.0.0/16", "mtu": 1300, "advmss": 1200, "priority": 7, "table": 77, "scope": 0},
        {"dst": "fd09::/32", "mtu": 1400, "advmss": 1250, "priority": 9, "table": 77},
        {"dst": "10.8.0.0/16", "mtu": 1310, "priority": 5},
        {"dst": "fd08::/32", "advmss": 1260}
    ])
}

fn lan() -> Value {
    let mut config = config();
    config["ipam"]["routes"] = routes();
    config
}

fn bridge() -> Value {
    json!({"cniVersion": "1.1.0", "name": "lan", "type": "bridge", "bridge": "br0", "isGateway": true, "ipam": lan()["ipam"]})
}

fn applied() {
    for config in [lan(), bridge()] {
        let bench = Bench::new();
        master(&bench);
        let pod = bench.pod(&config);
        let result = bench.added(&pod);
        assert_eq!(result["routes"][0]["advmss"], 1200);
        for (list, parts) in [
            ("route show table 77", &["10.9.0.0/16 via 10.1.1.1", "metric 7", "mtu 1300", "advmss 1200"][..]),
            ("-6 route show table 77", &["fd09::/32 via fd01::1", "metric 9", "mtu 1400", "advmss 1250"]),
            ("route show 10.8.0.0/16", &["via 10.1.1.1", "metric 5", "mtu 1310"]),
            ("-6 route show fd08::/32", &["via fd01::1", "advmss 1260"]),
        ] {
            let shown = pod.ip(list);
            parts.iter().for_each(|part| assert!(shown.contains(part), "{shown} lacks {part}"));
        }
        let ran = bench.check(&pod, &result);
        assert!(ran.ok, "{ran:?}");

        let good = "10.9.0.0/16 via 10.1.1.1 dev net1 table 77 metric 7 mtu 1300 advmss 1200";
        for bad in [
            "10.9.0.0/16 via 10.1.1.1 dev net1 table 77 metric 7 mtu 1301 advmss 1200",
            "10.9.0.0/16 via 10.1.1.1 dev net1 table 77 metric 7 mtu 1300",
            "10.9.0.0/16 via 10.1.1.1 dev net1 table 77 metric 8 mtu 1300 advmss 1200",
            "10.9.0.0/16 via 10.1.1.1 dev net1 table 78 metric 7 mtu 1300 advmss 1200",
            "10.9.0.0/16 via 10.1.1.9 dev net1 table 77 metric 7 mtu 1300 advmss 1200",
        ] {
            pod.ip(&format!("route del {good}"));
            pod.ip(&format!("route add {bad}"));
            let ran = bench.check(&pod, &result);
            assert!(!ran.ok && ran.stdout.contains("10.9.0.0/16 via 10.1.1.1 table 77 metric 7"), "{bad}: {ran:?}");
            pod.ip(&format!("route del {bad}"));
            pod.ip(&format!("route add {good}"));
            assert!(bench.check(&pod, &result).ok, "{bad}");
        }
    }
}

fn table_zero() {
    let bench = Bench::new();
    master(&bench);
    let mut config = config();
    config["ipam"] = json!({
        "type": "static",
        "addresses": [{"address": "10.1.1.2/24"}],
        "routes": [{"dst": "10.9.0.0/16", "table": 0}, {"dst": "10.7.0.0/16", "scope": 253}]
    });
    let pod = bench.pod(&config);
    let result = bench.added(&pod);
    assert_eq!((&result["routes"][0]["table"], &result["routes"][1]["scope"]), (&json!(0), &json!(253)));
    let main = pod.ip("route show table main");
    assert!(main.contains("10.9.0.0/16 dev net1"), "{main} {}", pod.ip("route show table all"));
    assert!(bench.check(&pod, &result).ok);
    pod.ip("route del 10.7.0.0/16 dev net1 scope link");
    pod.ip("route add 10.7.0.0/16 dev net1 scope global");
    assert!(!bench.check(&pod, &result).ok);
}

fn with_host_bits() -> Value {
    with(
        &config(),
        "ipam",
        json!({
            "type": "static", "addresses": [{"address": "10.1.1.2/24", "gateway": "10.1.1.1"}], "routes": [{"dst": "10.8.1.2/16"}]
        }),
    )
}

fn host_bits() {
    let bench = Bench::new();
    master(&bench);
    let pod = bench.pod(&with_host_bits());
    let result = bench.added(&pod);
    assert_eq!(result["routes"][0]["dst"], "10.8.1.2/16");
    assert!(pod.ip("route show").contains("10.8.0.0/16 via 10.1.1.1"));
    assert!(bench.check(&pod, &result).ok);
    pod.ip("route del 10.8.0.0/16");
    assert!(!bench.check(&pod, &result).ok);
}

fn reference_refuses_host_bits() {
    let bench = Bench::new();
    master(&bench);
    let pod = bench.pod(&with_host_bits());
    let ran = bench.run_from(&newest(), "ADD", &pod, &pod.config);
    assert!(!ran.ok && ran.stdout.contains("invalid argument"), "{ran:?}");
}

/// What ours does better: it says so in its result, and does not do it.
fn reference_forgets(config: &Value) {
    let bench = Bench::new();
    master(&bench);
    let pod = bench.pod(config);
    let ran = bench.run_from(&newest(), "ADD", &pod, config);
    assert!(ran.ok && ran.stdout.contains("\"advmss\": 1200"), "{ran:?}");
    let shown = pod.ip("route show table 77");
    assert!(shown.contains("10.9.0.0/16") && !shown.contains("mtu") && !shown.contains("advmss"), "{shown}");
}

fn reference_check_fails() {
    let directory = newest();
    let mut config = lan();
    config["ipam"]["routes"] = json!([{"dst": "10.9.0.0/16", "table": 77}]);
    let bench = Bench::new();
    master(&bench);
    let pod = bench.pod(&config);
    let ran = bench.run_from(&directory, "ADD", &pod, &config);
    let result: Value = serde_json::from_str(&ran.stdout).unwrap();
    let checking = with(&config, "prevResult", result.clone());
    let ran = bench.run_from(&directory, "CHECK", &pod, &checking);
    assert!(!ran.ok && ran.stdout.contains("not found in routing table"), "{ran:?}");
    let ran = bench.check(&pod, &result);
    assert!(ran.ok, "ours, of what the reference has made: {ran:?}");
}
