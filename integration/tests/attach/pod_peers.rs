//! Beside the reference plugins: chains, migration and the way back.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::Test;
use crate::harness::{Attachment, Bench, DEBIAN, Ran, newest, plugins, with, with_previous};
use crate::macvlan::{config, master};

pub const TESTS: &[Test] = &[
    ("macvlan_check_passes_after_tuning_has_changed_mac_and_mtu", || after_tuning(Path::new(DEBIAN), "1.0.0")),
    ("macvlan_del_removes_what_the_reference_made", || migrated(Path::new(DEBIAN), "1.0.0")),
    ("reference_macvlan_del_removes_what_ours_made", || way_back(Path::new(DEBIAN), "1.0.0")),
    ("macvlan_del_removes_what_a_killed_reference_has_not_renamed_only_with_its_mac", unfinished),
    ("macvlan_gc_is_handed_to_the_ipam_plugin", gc_is_forwarded),
    ("macvlan_status_names_a_missing_ipam_plugin", status_without_ipam),
    ("macvlan_survives_a_log_that_cannot_be_written", full_log),
];

pub const REFERENCE_TESTS: &[Test] = &[
    ("macvlan_check_passes_after_the_newest_tuning", || after_tuning(&newest(), "1.1.0")),
    ("macvlan_del_removes_what_the_newest_reference_made", || migrated(&newest(), "1.1.0")),
    ("newest_reference_macvlan_del_removes_what_ours_made", || way_back(&newest(), "1.1.0")),
    ("reference_macvlan_that_fails_leaves_its_interface_and_our_del_removes_it", reference_leaves),
];

fn bench() -> Bench {
    let bench = Bench::new();
    master(&bench);
    bench
}

fn succeeded(ran: &Ran) -> Value {
    assert!(ran.ok, "{ran:?}");
    serde_json::from_str(&ran.stdout).unwrap_or_default()
}

fn after_tuning(directory: &Path, version: &str) {
    let bench = bench();
    let configured = with(&with(&config(), "cniVersion", json!(version)), "mtu", json!(1450));
    let pod = bench.pod(&configured);
    let made = bench.added(&pod);
    let tuning = json!({
        "cniVersion": version, "name": "lan", "type": "tuning", "mac": "02:00:00:00:00:77", "mtu": 1400,
        "dataDir": format!("/tmp/{}-tuning", bench.node()), "prevResult": made
    });
    let result = succeeded(&bench.run_from(directory, "ADD", &pod, &tuning));
    let link = pod.ip("link show net1");
    assert!(link.contains("02:00:00:00:00:77") && link.contains("mtu 1400"), "{link}");
    let ran = bench.check(&pod, &result);
    assert!(ran.ok, "{ran:?}");
    // What the final result does not say is still noticed.
    pod.ip("link set net1 mtu 1480");
    let ran = bench.check(&pod, &result);
    assert!(!ran.ok && ran.stdout.contains("mtu 1480, not 1450"), "{ran:?}");
    pod.ip("link set net1 mtu 1400");
    assert!(!bench.check(&pod, &made).ok, "the MAC is not the one that we made it with");
    bench.run_from(directory, "DEL", &pod, &with_previous(&tuning, &result));
    bench.del(&pod.with_config(&with_previous(&configured, &result)));
    let _ = fs::remove_dir_all(format!("/tmp/{}-tuning", bench.node()));
}

fn migrated(directory: &Path, version: &str) {
    let bench = bench();
    let pod = bench.pod(&with(&config(), "cniVersion", json!(version)));
    let before = bench.snapshot(&[&pod]);
    let result = succeeded(&bench.run_from(directory, "ADD", &pod, &pod.config));
    let ran = bench.check(&pod, &result);
    assert!(ran.ok, "{ran:?}");
    bench.del(&pod);
    bench.unchanged_since(&before, &[&pod]);
}

fn way_back(directory: &Path, version: &str) {
    let bench = bench();
    let pod = bench.pod(&with(&config(), "cniVersion", json!(version)));
    let before = bench.snapshot(&[&pod]);
    let result = bench.added(&pod);
    let ran = bench.run_from(directory, "CHECK", &pod, &with_previous(&pod.config, &result));
    assert!(ran.ok, "{ran:?}");
    succeeded(&bench.run_from(directory, "DEL", &pod, &with_previous(&pod.config, &result)));
    bench.unchanged_since(&before, &[&pod]);
}

/// What a SIGKILL between making and renaming leaves: a macvlan under a temporary name, down.
fn unfinished() {
    let bench = bench();
    let pod = bench.pod(&config());
    let before = bench.snapshot(&[&pod]);
    let leave = |name: &str| {
        let netns = pod.netns.as_ref().unwrap().display().to_string();
        bench.ip(&format!(
            "link add link up0 name {name} address 02:00:00:00:00:0a netns {netns} type macvlan mode bridge"
        ));
    };
    let named = pod.with_args("MAC=02:00:00:00:00:0a");
    leave("veth1234abcd");
    bench.del(&named);
    bench.unchanged_since(&before, &[&pod]);

    // Nothing says whose they are.
    for (name, attachment, preparation) in [
        ("veth1234abcd", &pod, None),
        ("veth1234abcd", &pod.with_args("MAC=02:00:00:00:00:0b"), None),
        ("veth1234abcd", &named, Some("link set veth1234abcd up")),
        ("veth1234abcd", &named, Some("link set veth1234abcd alias somebody's")),
        ("veth1234", &named, None),
    ] {
        leave(name);
        preparation.map(|line| pod.ip(line));
        bench.del(attachment);
        assert!(pod.ip("link").contains(name), "{name} {preparation:?}");
        pod.ip(&format!("link del {name}"));
    }
    // One that the reference has just made for another interface is not looked at while ours is there.
    bench.added(&named.with_config(&with(&config(), "mac", json!("02:00:00:00:00:0c"))).with_args(""));
    leave("veth1234abcd");
    bench.del(&named);
    let links = pod.ip("link");
    assert!(!links.contains("net1") && links.contains("veth1234abcd"), "{links}");
}

fn reference_leaves() {
    let bench = bench();
    let pod = bench.pod(&config());
    let unreachable = json!([{"dst": "10.9.0.0/16", "gw": "192.0.2.1"}]);
    let mut broken = config();
    broken["ipam"] = json!({"type": "static", "addresses": [{"address": "10.1.1.2/24"}], "routes": unreachable});
    let before = bench.snapshot(&[&pod]);
    let ran = bench.run_from(&newest(), "ADD", &pod, &broken);
    assert!(!ran.ok, "{ran:?}");
    assert!(pod.ip("address show net1").contains("10.1.1.2"), "the reference has left nothing");
    let retry = bench.run_from(&newest(), "ADD", &pod, &config());
    assert!(!retry.ok, "{retry:?}");
    bench.del(&pod);
    bench.unchanged_since(&before, &[&pod]);
    bench.added(&pod);
}

/// A directory with our macvlan and an IPAM plugin that writes down what it is asked.
fn with_recorder(bench: &Bench) -> (PathBuf, PathBuf) {
    let directory = std::env::temp_dir().join(format!("{}-recorder", bench.node()));
    let log = directory.join("log");
    fs::create_dir_all(&directory).unwrap();
    symlink(plugins().join("macvlan"), directory.join("macvlan")).unwrap();
    let script = format!("#!/bin/sh\necho $CNI_COMMAND $(cat) >>{}\n", log.display());
    fs::write(directory.join("recorder"), script).unwrap();
    fs::set_permissions(directory.join("recorder"), fs::Permissions::from_mode(0o755)).unwrap();
    (directory, log)
}

fn gc_is_forwarded() {
    let bench = bench();
    let (directory, log) = with_recorder(&bench);
    let configured = with(&config(), "ipam", json!({"type": "recorder"}));
    let pod = bench.pod(&configured);
    let run = |extra: &Value| {
        let mut config = configured.clone();
        extra.as_object().unwrap().iter().for_each(|(key, value)| config[key] = value.clone());
        let ran = bench.run_from(&directory, "GC", &pod, &config);
        assert!(ran.ok && ran.stdout.is_empty(), "{ran:?}");
        fs::read_to_string(&log).unwrap_or_default()
    };
    assert_eq!(run(&json!({})), "", "no list says nothing");
    let heard = run(&json!({"cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "net1"}]}));
    assert!(heard.starts_with("GC ") && heard.contains("\"containerID\":\"c1\""), "{heard}");
    fs::remove_dir_all(&directory).unwrap();
}

fn status_without_ipam() {
    let bench = bench();
    let configured = with(&config(), "ipam", json!({"type": "no-such-plugin"}));
    let pod = bench.pod(&configured);
    let ran = bench.run("STATUS", &pod, &configured);
    crate::harness::says(&serde_json::from_str(&ran.stdout).unwrap(), 50, &["no-such-plugin"]);
    let silent: Attachment = pod.with_config(&with(&configured, "ipam", Value::Null));
    assert!(bench.run("STATUS", &silent, &silent.config).ok);
}

fn full_log() {
    let bench = bench();
    let pod = bench.pod(&config());
    let mut child = Command::new("nsenter")
        .arg(format!("--net=/run/netns/{}", bench.node()))
        .arg(plugins().join("macvlan"))
        .envs([
            ("CNI_COMMAND", "ADD"),
            ("CNI_CONTAINERID", &pod.container),
            ("CNI_IFNAME", "net1"),
            ("ADIT_LOG", "debug"),
        ])
        .env("CNI_NETNS", pod.netns.as_ref().unwrap())
        .env("CNI_PATH", plugins())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(fs::OpenOptions::new().write(true).open("/dev/full").unwrap())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(config().to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    serde_json::from_slice::<Value>(&output.stdout).unwrap();
    bench.del(&pod);
}
