//! `static` beside the reference's: the same documents, but for what it gets wrong.

use std::path::Path;

use serde_json::{Value, json};

use crate::Test;
use crate::harness::{Attachment, Bench, DEBIAN, newest, says, with, with_previous};

pub const TESTS: &[Test] = &[
    ("static_prints_what_the_reference_prints", || same_documents(Path::new(DEBIAN), &VERSIONS[..5])),
    ("static_check_notices_an_address_that_is_absent", || absent_address(Path::new(DEBIAN), "1.0.0")),
    ("static_keeps_the_gateway_of_an_address_that_the_runtime_replaces", || kept_gateway(Path::new(DEBIAN), "1.0.0")),
    ("static_takes_arguments_of_others", || arguments_of_others(Path::new(DEBIAN), "1.0.0")),
    ("static_refuses_a_gateway_that_no_subnet_contains", || gateway_elsewhere(Path::new(DEBIAN), "1.0.0")),
    ("static_has_nothing_to_collect_and_nothing_to_miss", nothing_to_do),
];

pub const REFERENCE_TESTS: &[Test] = &[
    ("static_prints_what_the_newest_reference_prints", || same_documents(&newest(), &VERSIONS)),
    ("static_check_notices_what_the_newest_reference_does_not", || absent_address(&newest(), "1.1.0")),
    ("static_keeps_the_gateway_that_the_newest_reference_loses", || kept_gateway(&newest(), "1.1.0")),
    ("static_takes_arguments_that_the_newest_reference_does_not", || arguments_of_others(&newest(), "1.1.0")),
    ("static_refuses_a_gateway_that_the_newest_reference_takes", || gateway_elsewhere(&newest(), "1.1.0")),
];

const VERSIONS: [&str; 7] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

fn config(version: &str) -> Value {
    json!({
        "cniVersion": version, "name": "lan", "type": "static",
        "ipam": {
            "type": "static",
            "addresses": [{"address": "10.1.1.2/24", "gateway": "10.1.1.1"}, {"address": "fd01::2/64"}],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "10.9.3.4/16", "gw": "10.1.1.9"}, {"dst": "::/0", "gw": "fd01::1"}],
            "dns": {"nameservers": ["10.1.1.1"], "domain": "a.example", "search": ["b.example"], "options": ["ndots:1"]}
        }
    })
}

fn printed(bench: &Bench, directory: Option<&Path>, pod: &Attachment) -> String {
    let ran = match directory {
        Some(directory) => bench.run_from(directory, "ADD", pod, &pod.config),
        None => bench.add(pod),
    };
    assert!(ran.ok, "{ran:?}");
    ran.stdout
}

/// Byte by byte. Debian's prints 1.0.0 as nobody else does: in another order, and with an empty `dns`.
fn same_documents(directory: &Path, versions: &[&str]) {
    let bench = Bench::new();
    let base = bench.pod(&Value::Null);
    for version in versions {
        let full = config(version);
        let mut bare = full.clone();
        bare["ipam"] = json!({"type": "static", "addresses": [{"address": "10.1.1.2/24"}]});
        let mut odd = full.clone();
        odd["ipam"] =
            json!({"TYPE": "static", "Addresses": [{"ADDRESS": "fd01:0::2/64", "gateway": null}], "routes": null});
        let args = with(&bare, "args", json!({"cni": {"ips": ["10.2.0.3/16", "fd02::3/48"]}}));
        for (config, args) in [
            (&full, "IgnoreUnknown=1"),
            (&bare, "IgnoreUnknown=1;GATEWAY=10.1.1.254"),
            (&bare, "IgnoreUnknown=1;GATEWAY=10.9.9.9"),
            (&odd, "IP=10.3.0.7/16;GATEWAY=10.3.0.1"),
            (&args, "IgnoreUnknown=1"),
        ] {
            let pod = Attachment { args: args.into(), ..base.with_config(config) };
            assert_eq!(printed(&bench, None, &pod), printed(&bench, Some(directory), &pod), "{config} {args}");
        }
    }
}

fn absent_address(directory: &Path, version: &str) {
    let bench = Bench::new();
    let pod = bench.pod(&config(version));
    let mut previous: Value = serde_json::from_str(&printed(&bench, None, &pod)).unwrap();
    assert!(bench.check(&pod, &previous).ok);
    previous["ips"].as_array_mut().unwrap().remove(0);
    let checking = with_previous(&pod.config, &previous);
    assert!(bench.run_from(directory, "CHECK", &pod, &checking).ok, "the reference notices it");
    let ran = bench.run("CHECK", &pod, &checking);
    says(&serde_json::from_str(&ran.stdout).unwrap(), 999, &["Failed to match addr 10.1.1.2/24 on interface net1"]);
}

fn kept_gateway(directory: &Path, version: &str) {
    let bench = Bench::new();
    let pod = bench.pod(&with(&config(version), "runtimeConfig", json!({"ips": ["10.1.1.7/24"]})));
    let gateway = |document: &str| serde_json::from_str::<Value>(document).unwrap()["ips"][0]["gateway"].clone();
    assert_eq!(gateway(&printed(&bench, Some(directory), &pod)), Value::Null);
    assert_eq!(gateway(&printed(&bench, None, &pod)), "10.1.1.1");
}

fn arguments_of_others(directory: &Path, version: &str) {
    let bench = Bench::new();
    let pod = Attachment { args: "MAC=02:00:00:00:00:01".into(), ..bench.pod(&config(version)) };
    let ran = bench.run_from(directory, "ADD", &pod, &pod.config);
    assert!(!ran.ok && ran.stdout.contains("unknown args"), "{ran:?}");
    printed(&bench, None, &pod);
}

fn gateway_elsewhere(directory: &Path, version: &str) {
    let bench = Bench::new();
    let mut config = config(version);
    config["ipam"] = json!({"type": "static", "addresses": [{"address": "10.1.1.2/24", "gateway": "10.2.0.1"}]});
    let pod = bench.pod(&config);
    printed(&bench, Some(directory), &pod);
    says(&bench.refused(&pod), 7, &["gateway 10.2.0.1 is in no subnet of the pod", "10.1.1.2/24", "\"10.2.0.1/32\""]);
}

fn nothing_to_do() {
    let bench = Bench::new();
    let pod = bench.pod(&config("1.1.0"));
    let listed = with(&pod.config, "cni.dev/valid-attachments", json!([]));
    for (verb, config) in [("GC", &pod.config), ("GC", &listed), ("STATUS", &pod.config), ("DEL", &pod.config)] {
        let ran = bench.run(verb, &pod, config);
        assert!(ran.ok && ran.stdout.is_empty(), "{verb}: {ran:?}");
    }
}
