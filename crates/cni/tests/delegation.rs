//! Plugins that run plugins.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod common;

use std::time::{Duration, Instant};

use adit_cni::{CniArgs, Code, Delegate, Environment, IfName};
use common::Plugins;
use serde_json::json;

const CONFIG: &str = r#"{ "cniVersion": "0.4.0",   "name": "n", "type": "main" }"#;

fn delegate(plugins: &Plugins) -> Delegate {
    let mut env = Environment::of_process();
    env.set("CNI_COMMAND", "CHECK");
    env.set("CNI_CONTAINERID", "c1");
    env.set("CNI_IFNAME", "net1");
    env.set("CNI_ARGS", "IP=10.0.0.1/8;K=v");
    env.set("CNI_PATH", plugins.bin());
    Delegate::new(env, CONFIG)
}

#[test]
fn the_child_gets_the_identical_bytes_and_the_environment_with_its_verb() {
    let plugins = Plugins::new();
    plugins.recorder("ipam", r#"echo '{"ips":[{"address":"10.0.0.5/24"}]}'"#);
    let delegate = delegate(&plugins);
    let result = delegate.add("ipam").unwrap();
    assert_eq!(result.ips[0].address.to_string(), "10.0.0.5/24");
    delegate.check("ipam").unwrap();
    delegate.del("ipam").unwrap();
    delegate.gc("ipam").unwrap();
    delegate.status("ipam").unwrap();
    assert_eq!(plugins.calls(), ["ipam ADD", "ipam CHECK", "ipam DEL", "ipam GC", "ipam STATUS"]);
    assert_eq!(plugins.stdin_bytes(0), CONFIG.as_bytes());
    assert_eq!(plugins.env(0, "CNI_COMMAND").unwrap(), "ADD");
    assert_eq!(plugins.env(0, "CNI_CONTAINERID").unwrap(), "c1");
    assert_eq!(plugins.env(0, "CNI_ARGS").unwrap(), "IP=10.0.0.1/8;K=v");
}

#[test]
fn interface_arguments_and_configuration_can_be_replaced() {
    let plugins = Plugins::new();
    plugins.recorder("ipam", "echo null");
    let delegate = delegate(&plugins);
    let args = CniArgs::parse("IP=10.0.0.1/8;K=v").unwrap();
    let stdin = json!({"cniVersion": "1.1.0", "name": "n"});
    let result = delegate
        .with_ifname(&IfName::try_from("tun").unwrap())
        .with_args(&args.without(&["IP"]))
        .with_stdin(stdin.as_object().unwrap().clone())
        .add("ipam")
        .unwrap();
    assert_eq!(result, adit_cni::CniResult::default());
    assert_eq!(plugins.env(0, "CNI_IFNAME").unwrap(), "tun");
    assert_eq!(plugins.env(0, "CNI_ARGS").unwrap(), "K=v");
    assert_eq!(plugins.stdin(0), stdin);
}

#[test]
fn a_result_without_version_has_the_configurations() {
    let plugins = Plugins::new();
    plugins.script("ipam", r#"cat >/dev/null; echo '{"ip4":{"ip":"10.0.0.5/24"}}'"#);
    let old = json!({"name": "n"});
    let result = delegate(&plugins).with_stdin(old.as_object().unwrap().clone()).add("ipam").unwrap();
    assert_eq!(result.ips.len(), 1);
}

#[test]
fn the_childs_error_survives_with_its_code() {
    let plugins = Plugins::new();
    plugins.script("ipam", r#"echo '{"cniVersion":"1.1.0","code":11,"msg":"busy","details":"later"}'; exit 1"#);
    plugins.script("terse", r#"echo '{"code":7,"msg":"no","details":null,"more":1}'; exit 1"#);
    let error = delegate(&plugins).add("ipam").unwrap_err();
    assert_eq!(error.code, Code::TRY_AGAIN_LATER);
    assert_eq!(error.to_string(), "busy; later");
    let error = delegate(&plugins).del("terse").unwrap_err();
    assert_eq!(error, adit_cni::Error::new(Code::INVALID_CONFIG, "no"));
}

#[test]
fn a_failure_that_is_no_document_is_quoted() {
    let plugins = Plugins::new();
    plugins
        .script("text", "echo oops; exit 3")
        .script("silent", "exit 3")
        .script("killed", "kill -9 $$")
        .script("vague", "echo '{}'; exit 1");
    let delegate = delegate(&plugins);
    let error = delegate.del("text").unwrap_err();
    assert!(
        error.msg.starts_with(r#"netplugin failed but error parsing its diagnostic message "oops\n": "#),
        "{error}"
    );
    assert_eq!(error.code, Code::INTERNAL);
    assert!(error.details.ends_with("text (DEL): exit status 3"), "{error}");
    let error = delegate.del("silent").unwrap_err();
    assert_eq!(error.msg, "netplugin failed with no error message: exit status 3");
    let error = delegate.del("vague").unwrap_err();
    assert!(error.msg.contains("empty error"), "{error}");
    let error = delegate.del("killed").unwrap_err();
    assert_eq!(error.msg, "netplugin failed with no error message: signal 9");
}

#[test]
fn success_without_one_document_is_a_decoding_failure() {
    let plugins = Plugins::new();
    plugins.script("empty", "exit 0").script("two", "echo '{}{}'").script("newer", r#"echo '{"cniVersion":"3.0.0"}'"#);
    let delegate = delegate(&plugins);
    let error = delegate.add("empty").unwrap_err();
    assert_eq!(error.code, Code::DECODE);
    assert!(error.msg.contains("printed no result"), "{error}");
    let error = delegate.add("two").unwrap_err();
    assert_eq!(error.code, Code::DECODE);
    assert_eq!(error.details, "{}{}\n");
    let error = delegate.add("newer").unwrap_err();
    assert_eq!(error.code, Code::INCOMPATIBLE_VERSION);
    // Other verbs print nothing.
    delegate.check("empty").unwrap();
}

#[test]
fn a_plugin_is_a_regular_file_in_one_of_the_folders() {
    let plugins = Plugins::new();
    std::fs::create_dir(plugins.bin().join("folder")).unwrap();
    plugins.script("plain", "exit 0");
    let delegate = delegate(&plugins);
    assert_eq!(delegate.find("plain").unwrap(), plugins.bin().join("plain"));
    for missing in ["folder", "absent", ".."] {
        let error = delegate.add(missing).unwrap_err();
        assert_eq!(error.msg, format!("failed to find plugin {missing:?} in path [{}]", plugins.bin().display()));
    }
    assert_eq!(delegate.add("").unwrap_err().msg, "no plugin name provided");
    assert_eq!(delegate.add("../x").unwrap_err().msg, "invalid plugin name: ../x");
    let without = delegate.with_env("CNI_PATH", "");
    assert_eq!(without.add("plain").unwrap_err().msg, "no paths provided");
}

#[test]
fn a_plugin_that_cannot_be_executed_is_named() {
    let plugins = Plugins::new();
    std::fs::write(plugins.bin().join("data"), "x").unwrap();
    let error = delegate(&plugins).del("data").unwrap_err();
    assert_eq!(error.code, Code::IO);
    assert!(error.msg.contains("data (DEL): cannot run it: "), "{error}");
}

#[test]
fn a_plugin_that_does_not_end_is_killed() {
    let plugins = Plugins::new();
    plugins.script("hangs", "exec sleep 60").script("closes", "exec >&- 2>&-; sleep 60");
    let delegate = delegate(&plugins).with_timeout(Duration::from_millis(200));
    for plugin in ["hangs", "closes"] {
        let started = Instant::now();
        let error = delegate.add(plugin).unwrap_err();
        assert!(started.elapsed() < Duration::from_secs(20));
        assert!(error.msg.contains("did not end within 200ms and was killed"), "{error}");
    }
}

#[test]
fn a_child_may_leave_a_large_configuration_unread_and_print_a_large_result() {
    let plugins = Plugins::new();
    plugins
        .script("deaf", "exit 0")
        .script("loud", "printf '{\"x\":\"'; head -c 300000 /dev/zero | tr '\\0' y; printf '\"}'; cat >/dev/null");
    let large = json!({"name": "n", "pad": "x".repeat(300_000)});
    let delegate = delegate(&plugins).with_stdin(large.as_object().unwrap().clone());
    delegate.del("deaf").unwrap();
    delegate.add("loud").unwrap();
}

#[test]
fn a_plugin_that_is_being_installed_is_waited_for() {
    let plugins = Plugins::new();
    plugins.script("slow", "exit 0");
    let writer = std::fs::OpenOptions::new().append(true).open(plugins.bin().join("slow")).unwrap();
    let closer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(150));
        drop(writer);
    });
    delegate(&plugins).del("slow").unwrap();
    closer.join().unwrap();
}
