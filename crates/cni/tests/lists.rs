//! Lists of plugins, run as libcni runs them.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use adit_cni::list::{ListError, NetworkList, Runner, RuntimeConf};
use adit_cni::{Attachment, Code, Command, Version};
use common::Plugins;
use serde_json::{Value, json};

/// Prints a result with one more address than the one before.
const APPEND: &str = r#"if [ $CNI_COMMAND = ADD ]; then
    if grep -q prevResult $stdin
    then echo '{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.1/8"},{"address":"10.0.0.2/8"}]}'
    else echo '{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.1/8"}],"interfaces":[{"name":"a","mtu":9}]}'
    fi
fi"#;

struct Setup {
    plugins: Plugins,
    runner: Runner,
    conf: RuntimeConf,
}

/// Recorders `a`, `b` and `c`.
fn setup() -> Setup {
    let plugins = Plugins::new();
    for name in ["a", "b", "c"] {
        plugins.recorder(name, APPEND);
    }
    let runner = Runner {
        path: vec![plugins.bin()],
        cache_dir: plugins.dir().join("cache"),
        env: vec![("CNI_EXTRA".into(), "x".into())],
    };
    let mut conf = RuntimeConf::new("c1".parse().unwrap(), Some("/run/netns/p".into()), "net1".parse().unwrap());
    conf.args = vec![("IgnoreUnknown".into(), "1".into()), ("IP".into(), "10.0.0.1/8".into())];
    conf.capability_args =
        json!({"ips": ["10.0.0.9/8"], "mac": "02::", "bandwidth": {"x": 1}}).as_object().unwrap().clone();
    Setup { plugins, runner, conf }
}

fn list(version: &str) -> NetworkList {
    let list = json!({
        "cniVersion": version,
        "name": "net",
        "plugins": [
            {"type": "a", "capabilities": {"ips": true, "mac": false, "portMappings": true}},
            {"type": "b", "name": "mine", "cniVersion": "0.1.0", "key": [1]},
            {"type": "c", "capabilities": {"mac": true, "bandwidth": true}},
        ],
    });
    NetworkList::parse(list.to_string().as_bytes()).unwrap()
}

fn cache_file(setup: &Setup) -> PathBuf {
    setup.runner.cache_dir.join("results/net-c1-net1")
}

#[test]
fn add_hands_each_result_to_the_next_plugin() {
    let s = setup();
    let result = s.runner.add(&list("1.0.0"), &s.conf).unwrap();
    assert_eq!(result.ips.len(), 2);
    assert_eq!(s.plugins.calls(), ["a ADD", "b ADD", "c ADD"]);
    assert_eq!(s.plugins.stdin(0).get("prevResult"), None);
    assert_eq!(
        s.plugins.stdin(1)["prevResult"],
        json!({
            "cniVersion": "1.0.0",
            "interfaces": [{"name": "a", "mtu": 9}],
            "ips": [{"address": "10.0.0.1/8"}],
        })
    );
    assert_eq!(s.plugins.stdin(2)["prevResult"]["ips"].as_array().unwrap().len(), 2);
}

#[test]
fn every_plugin_gets_the_lists_name_and_version_and_its_own_keys() {
    let s = setup();
    s.runner.add(&list("0.4.0"), &s.conf).unwrap();
    for n in 0..3 {
        assert_eq!(s.plugins.stdin(n)["name"], "net");
        assert_eq!(s.plugins.stdin(n)["cniVersion"], "0.4.0");
    }
    assert_eq!(s.plugins.stdin(1)["key"], json!([1]));
    assert_eq!(s.plugins.env(1, "CNI_COMMAND").unwrap(), "ADD");
    assert_eq!(s.plugins.env(1, "CNI_CONTAINERID").unwrap(), "c1");
    assert_eq!(s.plugins.env(1, "CNI_NETNS").unwrap(), "/run/netns/p");
    assert_eq!(s.plugins.env(1, "CNI_IFNAME").unwrap(), "net1");
    assert_eq!(s.plugins.env(1, "CNI_ARGS").unwrap(), "IgnoreUnknown=1;IP=10.0.0.1/8");
    assert_eq!(s.plugins.env(1, "CNI_PATH").unwrap(), s.plugins.bin().to_str().unwrap());
    assert_eq!(s.plugins.env(1, "CNI_EXTRA").unwrap(), "x");
}

#[test]
fn a_plugin_gets_only_the_capabilities_that_it_declares() {
    let s = setup();
    s.runner.add(&list("1.0.0"), &s.conf).unwrap();
    assert_eq!(s.plugins.stdin(0)["runtimeConfig"], json!({"ips": ["10.0.0.9/8"]}));
    assert_eq!(s.plugins.stdin(1).get("runtimeConfig"), None);
    assert_eq!(s.plugins.stdin(2)["runtimeConfig"], json!({"mac": "02::", "bandwidth": {"x": 1}}));
    // The declaration itself stays.
    assert_eq!(s.plugins.stdin(0)["capabilities"]["mac"], false);
}

#[test]
fn the_cache_is_libcnis() {
    let s = setup();
    let list = list("1.0.0");
    s.runner.add(&list, &s.conf).unwrap();
    let cached: Value = serde_json::from_slice(&std::fs::read(cache_file(&s)).unwrap()).unwrap();
    use base64::Engine as _;
    assert_eq!(
        cached,
        json!({
            "kind": "cniCacheV1",
            "containerId": "c1",
            "config": base64::prelude::BASE64_STANDARD.encode(&list.source),
            "ifName": "net1",
            "networkName": "net",
            "netns": "/run/netns/p",
            "cniArgs": [["IgnoreUnknown", "1"], ["IP", "10.0.0.1/8"]],
            "capabilityArgs": {"ips": ["10.0.0.9/8"], "mac": "02::", "bandwidth": {"x": 1}},
            "result": {
                "cniVersion": "1.0.0",
                "ips": [{"address": "10.0.0.1/8"}, {"address": "10.0.0.2/8"}],
            },
        })
    );
    let mode = std::fs::metadata(cache_file(&s)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let attachments = s.runner.cached_attachments();
    assert_eq!(attachments.len(), 1);
    assert_eq!(attachments[0].conf, s.conf);
}

#[test]
fn del_goes_backwards_with_the_final_result_and_forgets_it() {
    let s = setup();
    let list = list("1.0.0");
    s.runner.add(&list, &s.conf).unwrap();
    s.plugins.calls();
    s.runner.del(&list, &s.conf).unwrap();
    assert_eq!(s.plugins.calls(), ["c DEL", "b DEL", "a DEL"]);
    for n in 3..6 {
        let prev_result = &s.plugins.stdin(n)["prevResult"];
        assert_eq!(prev_result["ips"].as_array().unwrap().len(), 2);
    }
    assert!(!cache_file(&s).exists());
    // Once more: nothing is cached, everybody is asked all the same.
    s.runner.del(&list, &s.conf).unwrap();
    assert_eq!(s.plugins.calls(), ["c DEL", "b DEL", "a DEL"]);
    assert_eq!(s.plugins.stdin(6).get("prevResult"), None);
}

#[test]
fn del_before_0_4_0_carries_no_result() {
    let s = setup();
    let list = list("0.3.1");
    s.runner.add(&list, &s.conf).unwrap();
    s.runner.del(&list, &s.conf).unwrap();
    assert_eq!(s.plugins.stdin(3).get("prevResult"), None);
    assert!(!cache_file(&s).exists());
}

#[test]
fn a_cached_result_arrives_in_the_lists_version() {
    let s = setup();
    s.runner.add(&list("1.0.0"), &s.conf).unwrap();
    s.runner.del(&list("0.4.0"), &s.conf).unwrap();
    let prev_result = s.plugins.stdin(3)["prevResult"].clone();
    assert_eq!(prev_result["cniVersion"], "0.4.0");
    assert_eq!(prev_result["ips"][0]["version"], "4");
}

#[test]
fn the_first_error_of_del_stops_the_chain_and_keeps_the_cache() {
    let s = setup();
    let list = list("1.0.0");
    s.runner.add(&list, &s.conf).unwrap();
    s.plugins.calls();
    s.plugins.recorder("b", r#"echo '{"code":11,"msg":"busy"}'; exit 1"#);
    let error = s.runner.del(&list, &s.conf).unwrap_err();
    assert_eq!(error.to_string(), r#"plugin type="b" failed (delete): busy"#);
    assert_eq!(error.plugin_error().unwrap().code, Code::TRY_AGAIN_LATER);
    assert_eq!(s.plugins.calls(), ["c DEL", "b DEL"]);
    assert!(cache_file(&s).exists());
}

#[test]
fn a_broken_cache_does_not_keep_del_from_its_work() {
    let s = setup();
    let list = list("1.0.0");
    s.runner.add(&list, &s.conf).unwrap();
    std::fs::write(cache_file(&s), "{").unwrap();
    assert!(matches!(s.runner.check(&list, &s.conf), Err(ListError::Cache { .. })));
    s.runner.del(&list, &s.conf).unwrap();
    assert_eq!(s.plugins.stdin(3).get("prevResult"), None);
}

#[test]
fn add_stops_at_the_first_error_and_caches_nothing() {
    let s = setup();
    s.plugins.script("b", "echo nonsense >&2; exit 1");
    let error = s.runner.add(&list("1.0.0"), &s.conf).unwrap_err();
    assert_eq!(error.plugin_error().unwrap().msg, r#"netplugin failed: "nonsense\n""#);
    assert!(matches!(
        error,
        ListError::Plugin { plugin, command: Command::Add, .. } if plugin == "b"
    ));
    assert_eq!(s.plugins.calls(), ["a ADD"]);
    assert!(!cache_file(&s).exists());
}

#[test]
fn check_asks_everybody_with_the_final_result() {
    let s = setup();
    let list = list("1.0.0");
    s.runner.add(&list, &s.conf).unwrap();
    s.plugins.calls();
    s.runner.check(&list, &s.conf).unwrap();
    assert_eq!(s.plugins.calls(), ["a CHECK", "b CHECK", "c CHECK"]);
    assert_eq!(s.plugins.stdin(3)["prevResult"]["ips"].as_array().unwrap().len(), 2);
}

#[test]
fn check_can_be_disabled_and_needs_0_4_0() {
    let s = setup();
    let mut list = list("1.0.0");
    list.disable_check = true;
    s.runner.check(&list, &s.conf).unwrap();
    assert!(s.plugins.calls().is_empty());
    list.version = Version::V0_3_1;
    let error = s.runner.check(&list, &s.conf).unwrap_err();
    assert_eq!(error.to_string(), r#"configuration version "0.3.1" does not support the CHECK command"#);
}

fn attachment(container_id: &str) -> Attachment {
    Attachment { container_id: container_id.parse().unwrap(), ifname: "net1".parse().unwrap() }
}

#[test]
fn gc_deletes_what_is_cached_and_not_listed_and_then_asks_the_plugins() {
    let s = setup();
    let list = list("1.1.0");
    s.runner.add(&list, &s.conf).unwrap();
    let mut other = s.conf.clone();
    other.container_id = "c2".parse().unwrap();
    s.runner.add(&list, &other).unwrap();
    let mut elsewhere = list.clone();
    elsewhere.name = "elsewhere".parse().unwrap();
    s.runner.add(&elsewhere, &s.conf).unwrap();
    s.plugins.calls();

    s.runner.gc(&list, &[attachment("c2")]).unwrap();
    assert_eq!(s.plugins.calls(), ["c DEL", "b DEL", "a DEL", "a GC", "b GC", "c GC"]);
    assert_eq!(s.plugins.env(9, "CNI_CONTAINERID").unwrap(), "c1");
    assert_eq!(s.plugins.env(9, "CNI_ARGS").unwrap(), "IgnoreUnknown=1;IP=10.0.0.1/8");
    assert_eq!(
        s.plugins.stdin(12),
        json!({
            "type": "a",
            "capabilities": {"ips": true, "mac": false, "portMappings": true},
            "name": "net",
            "cniVersion": "1.1.0",
            "cni.dev/valid-attachments": [{"containerID": "c2", "ifname": "net1"}],
            "cni.dev/attachments": [{"containerID": "c2", "ifname": "net1"}],
        })
    );
    assert_eq!(s.plugins.env(12, "CNI_CONTAINERID").unwrap(), "");
    let left: Vec<String> =
        s.runner.cached_attachments().iter().map(|a| format!("{}/{}", a.network, a.conf.container_id)).collect();
    assert_eq!(left, ["elsewhere/c1", "net/c2"]);
}

#[test]
fn gc_goes_on_after_errors_and_tells_them_all() {
    let s = setup();
    let list = list("1.1.0");
    s.runner.add(&list, &s.conf).unwrap();
    s.plugins.calls();
    for name in ["a", "c"] {
        s.plugins.recorder(name, &format!(r#"echo '{{"code":100,"msg":"{name}"}}'; exit 1"#));
    }
    let error = s.runner.gc(&list, &[]).unwrap_err();
    assert_eq!(s.plugins.calls(), ["c DEL", "a GC", "b GC", "c GC"]);
    assert_eq!(
        error.to_string(),
        "plugin type=\"c\" failed (delete): c\n\
         plugin type=\"a\" failed (gc): a\n\
         plugin type=\"c\" failed (gc): c"
    );
}

#[test]
fn gc_before_1_1_0_asks_no_plugin_and_can_be_disabled() {
    let s = setup();
    let mut list = list("1.0.0");
    s.runner.add(&list, &s.conf).unwrap();
    s.plugins.calls();
    list.disable_gc = true;
    s.runner.gc(&list, &[]).unwrap();
    assert!(s.plugins.calls().is_empty());
    list.disable_gc = false;
    s.runner.gc(&list, &[]).unwrap();
    assert_eq!(s.plugins.calls(), ["c DEL", "b DEL", "a DEL"]);
}

#[test]
fn status_stops_at_the_first_plugin_that_is_not_ready() {
    let s = setup();
    s.runner.status(&list("1.1.0")).unwrap();
    assert_eq!(s.plugins.calls(), ["a STATUS", "b STATUS", "c STATUS"]);
    s.plugins.recorder("b", r#"echo '{"code":50,"msg":"no master"}'; exit 1"#);
    let error = s.runner.status(&list("1.1.0")).unwrap_err();
    assert_eq!(error.plugin_error().unwrap().code, Code::NOT_AVAILABLE);
    assert_eq!(s.plugins.calls(), ["a STATUS", "b STATUS"]);
    s.runner.status(&list("1.0.0")).unwrap();
    assert!(s.plugins.calls().is_empty());
}

#[test]
fn a_plugin_tells_its_versions() {
    let s = setup();
    s.plugins
        .script("new", r#"echo '{"cniVersion":"1.1.0","supportedVersions":["1.0.0","1.1.0"]}'"#)
        .script("old", r#"echo '{"code":4,"msg":"unknown CNI_COMMAND: VERSION"}'; exit 1"#)
        .script("silent", "echo '{}'");
    assert_eq!(s.runner.version("new").unwrap(), ["1.0.0", "1.1.0"]);
    assert_eq!(s.runner.version("old").unwrap(), ["0.1.0"]);
    assert!(s.runner.version("silent").is_err());
    let error = s.runner.version("absent").unwrap_err();
    assert!(error.to_string().contains(r#"failed to find plugin "absent" in path"#), "{error}");
}

#[test]
fn a_missing_plugin_is_named_with_its_verb() {
    let s = setup();
    std::fs::remove_file(s.plugins.bin().join("b")).unwrap();
    let error = s.runner.add(&list("1.0.0"), &s.conf).unwrap_err();
    assert!(
        error.to_string().starts_with(r#"plugin type="b" failed (add): failed to find plugin "b" in path ["#),
        "{error}"
    );
}

#[test]
fn results_of_the_oldest_versions_pass_through_a_list() {
    let s = setup();
    s.plugins.recorder("a", "echo '{}'");
    s.plugins.recorder("b", r#"echo '{"ip4":{"ip":"10.0.0.1/8"}}'"#);
    s.plugins.recorder("c", r#"echo '{"ip4":{"ip":"10.0.0.1/8"}}'"#);
    let result = s.runner.add(&list("0.2.0"), &s.conf).unwrap();
    assert_eq!(result.ips.len(), 1);
    assert_eq!(s.plugins.stdin(1)["prevResult"], json!({}));
    assert_eq!(
        s.plugins.stdin(2)["prevResult"],
        json!({"cniVersion": "0.2.0", "ip4": {"ip": "10.0.0.1/8"}, "dns": {}})
    );
}
