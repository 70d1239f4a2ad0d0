//! Whatever a runtime sends, a plugin answers with one document, or with none where none belongs.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[path = "common/recorder.rs"]
mod recorder;

use adit_cni::{Environment, run_with};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use recorder::Recorder;
use serde_json::{Map, Value};

/// Variables, each with values that are right somewhere.
const VARIABLES: [(&str, &[&str]); 7] = [
    ("CNI_COMMAND", &["ADD", "CHECK", "DEL", "GC", "STATUS", "VERSION", "add", "FOO"]),
    ("CNI_CONTAINERID", &["c1", "-c", "a/b", "0123456789abcdef"]),
    ("CNI_NETNS", &["/run/netns/no-such-namespace", "/proc/self/ns/net", "/proc/self/status", "relative"]),
    ("CNI_IFNAME", &["net1", "..", "sixteen-bytes-xx", "a:b"]),
    ("CNI_ARGS", &["IgnoreUnknown=1;IP=10.0.0.1/8", "nonsense", "=", ";;", "MAC="]),
    ("CNI_PATH", &["/nowhere", ":", "/opt/cni/bin:/usr/lib/cni"]),
    ("CNI_NETNS_OVERRIDE", &["1", "TRUE", "no"]),
];

const KEYS: [&str; 22] = [
    "name",
    "NAME",
    "cniVersion",
    "CNIVersion",
    "type",
    "mtu",
    "ipam",
    "dns",
    "args",
    "cni",
    "runtimeConfig",
    "ips",
    "mac",
    "prevResult",
    "interfaces",
    "routes",
    "ip4",
    "address",
    "gateway",
    "dst",
    "cni.dev/valid-attachments",
    "cni.dev/attachments",
];

const TEXTS: [&str; 12] = [
    "net",
    "1.1.0",
    "1.0.0",
    "0.4.0",
    "0.2.0",
    "9.9.9",
    "",
    "10.0.0.1/24",
    "fd00::1/64",
    "::ffff:10.0.0.1/120",
    "10.0.0.1",
    "02:00:00:00:00:01",
];

fn environment() -> impl Strategy<Value = Environment> {
    let value = |known: &'static [&'static str]| {
        option::weighted(0.9, prop_oneof![6 => select(known).prop_map(str::to_owned), 1 => "\\PC{0,20}"])
    };
    VARIABLES.map(|(name, known)| value(known).prop_map(move |value| (name, value))).to_vec().prop_map(|variables| {
        variables.into_iter().filter_map(|(name, value)| value.map(|value| (name, value))).collect::<Environment>()
    })
}

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        4 => select(&TEXTS[..]).prop_map(Value::from),
        1 => "\\PC{0,12}".prop_map(Value::from),
        1 => any::<i64>().prop_map(Value::from),
        1 => any::<f64>().prop_map(Value::from),
        1 => any::<bool>().prop_map(Value::from),
        1 => Just(Value::Null),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        let member = (select(&KEYS[..]).prop_map(str::to_owned), inner.clone());
        prop_oneof![
            vec(inner, 0..4).prop_map(Value::from),
            vec(member, 0..6).prop_map(|members| Value::Object(members.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// A configuration that is sound but for what `extra` puts into it.
fn configuration() -> impl Strategy<Value = Vec<u8>> {
    let member = (select(&KEYS[..]).prop_map(str::to_owned), json());
    let sound = (select(&TEXTS[1..5]), vec(member, 0..4)).prop_map(|(version, extra)| {
        let mut config = serde_json::json!({"name": "net", "cniVersion": version, "type": "recorder"});
        extra.into_iter().for_each(|(key, value)| config[key] = value);
        config.to_string().into_bytes()
    });
    let sound = sound.boxed();
    let cut = (sound.clone(), any::<proptest::sample::Index>()).prop_map(|(bytes, index)| {
        let length = index.index(bytes.len());
        bytes[..length].to_vec()
    });
    prop_oneof![
        6 => sound,
        2 => json().prop_map(|value| value.to_string().into_bytes()),
        1 => cut,
        1 => vec(any::<u8>(), 0..64),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn one_document_or_none(env in environment(), stdin in configuration()) {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let status = run_with(&Recorder::default(), &env, stdin.as_slice(), &mut stdout, &mut stderr);
        let verb = env.get("CNI_COMMAND").ok().flatten().unwrap_or_default();
        if status == 0 && !["ADD", "VERSION"].contains(&verb) {
            prop_assert_eq!(String::from_utf8_lossy(&stdout), "");
            return Ok(());
        }
        let document: Value = serde_json::from_slice(&stdout).unwrap();
        if status == 0 {
            prop_assert!(document["cniVersion"].is_string(), "{}", document);
        } else {
            prop_assert_eq!(status, 1);
            prop_assert!(document["code"].is_u64(), "{}", document);
            let message = document["msg"].as_str().unwrap();
            prop_assert!(!message.is_empty() && !message.contains("panicked"), "{}", message);
        }
    }
}
