//! What this crate prints is read by somebody else's implementation of the specification.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[path = "common/recorder.rs"]
mod recorder;

mod common;

use adit_cni::list::{NetworkList, Runner, RuntimeConf};
use adit_cni::{CniResult, Dns, Interface, Ip, Route, Version};
use common::Plugins;
use recorder::{Recorder, env};
use rscni_plugin::error::Error as TheirError;
use rscni_plugin::types::{CNIResultWithVersion, ErrorResult, NetConf};
use rscni_plugin::version::{PluginInfo, SpecVersion};

fn result() -> CniResult {
    CniResult {
        interfaces: vec![Interface {
            name: "net1".into(),
            mtu: Some(1400),
            sandbox: Some("/run/netns/p".into()),
            ..Interface::default()
        }],
        ips: vec![Ip {
            gateway: Some("fd00::1".parse().unwrap()),
            interface: Some(0),
            ..Ip::new("fd00::5/64".parse().unwrap())
        }],
        routes: vec![Route {
            table: Some(77),
            scope: Some(0),
            advmss: Some(1200),
            ..Route::new("10.0.0.0/8".parse().unwrap(), Some("10.0.0.1".parse().unwrap()))
        }],
        dns: Some(Dns { search: vec!["example.org".into()], ..Dns::default() }),
    }
}

#[test]
fn results_are_read_and_come_back_the_same() {
    for version in [Version::V1_0_0, Version::V1_1_0] {
        let text = result().to_json(version).unwrap();
        let theirs: CNIResultWithVersion = serde_json::from_str(&text).unwrap();
        assert_eq!(theirs.cni_version().to_string(), version.as_str());
        let read = theirs.result();
        assert_eq!(read.interfaces[0].mtu, Some(1400));
        assert_eq!(read.ips[0].address.to_string(), "fd00::5/64");
        assert_eq!(read.ips[0].interface, Some(0));
        assert_eq!(read.routes[0].table, Some(77));
        assert_eq!(read.routes[0].scope, Some(0));
        assert_eq!(read.routes[0].advmss, Some(1200));
        let back = serde_json::to_value(&theirs).unwrap();
        assert_eq!(CniResult::parse(&back, version).unwrap(), result());
    }
}

#[test]
fn versions_and_errors_are_read() {
    let plugin = Recorder::default();
    let (_, versions, _) = plugin.run(&env("VERSION"), "");
    let theirs: PluginInfo = serde_json::from_str(&versions).unwrap();
    assert_eq!(theirs.cni_version(), SpecVersion::CURRENT);
    assert_eq!(theirs.supported_versions().len(), 7);

    let (_, error, _) = plugin.run(&env("ADD"), r#"{"name":"n","cniVersion":"9.9.9"}"#);
    let theirs: ErrorResult = serde_json::from_str(&error).unwrap();
    assert!(matches!(
        TheirError::from(theirs),
        TheirError::IncompatibleVersion(details) if details.contains("9.9.9")
    ));
}

#[test]
fn the_configurations_of_the_list_runner_are_read() {
    let plugins = Plugins::new();
    plugins.recorder("a", &format!("[ $CNI_COMMAND != ADD ] || echo '{}'", result().to_json(Version::V1_1_0).unwrap()));
    let runner = Runner { path: vec![plugins.bin()], cache_dir: plugins.dir().join("cache"), env: Vec::new() };
    let list =
        NetworkList::parse(br#"{"cniVersion":"1.1.0","name":"net","plugins":[{"type":"a"},{"type":"a","mtu":1}]}"#)
            .unwrap();
    let conf = RuntimeConf::new("c1".parse().unwrap(), None, "net1".parse().unwrap());
    runner.add(&list, &conf).unwrap();
    runner.gc(&list, &[conf.attachment()]).unwrap();

    let add: NetConf = serde_json::from_value(plugins.stdin(1)).unwrap();
    assert_eq!(add.name, "net");
    assert_eq!(add.version().unwrap(), SpecVersion::CURRENT);
    assert_eq!(add.prev_result.unwrap().ips.len(), 1);
    let gc: NetConf = serde_json::from_value(plugins.stdin(2)).unwrap();
    let valid = gc.valid_attachments.unwrap();
    assert_eq!(valid.len(), 1);
    assert_eq!(valid[0].container_id, "c1");
    assert_eq!(valid[0].ifname, "net1");
}
