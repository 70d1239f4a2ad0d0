use std::time::Duration;

use serde_json::json;

use super::*;
use crate::{Engine, Fec, FecMode, Underlay, Vxlan};

fn read(value: Value) -> Result<Effective> {
    Effective::read(value.as_object().unwrap())
}

fn problem(value: Value) -> String {
    read(value).and_then(|e| e.config.validate()).unwrap_err().to_string()
}

fn plain(extra: Value) -> Value {
    let mut base = json!({"encap": "udp", "encryption": "none", "remote": "10.20.1.200"});
    for (key, value) in extra.as_object().unwrap() {
        if value.is_null() {
            base.as_object_mut().unwrap().remove(key);
        } else {
            base[key] = value.clone();
        }
    }
    base
}

#[test]
fn the_shorthand_is_one_peer_that_gets_everything() {
    let intent = read(plain(json!({}))).unwrap().config.validate().unwrap();
    assert_eq!(intent.if_name.as_str(), "tun");
    assert_eq!(intent.peers.len(), 1);
    assert_eq!(intent.peers[0].endpoint.unwrap().to_string(), "10.20.1.200:6090");
    assert_eq!(intent.peers[0].allowed_ips.len(), 2);
}

#[test]
fn every_impossible_value_names_key_value_and_remedy() {
    let cases = [
        (plain(json!({"encap": "carrier-pigeon"})), "encap: carrier-pigeon is no encapsulation"),
        (plain(json!({"encap": null})), "encap is missing"),
        (plain(json!({"encap": "wireguard"})), "encryption: none is nothing that wireguard has"),
        (plain(json!({"encryption": null})), "write \"encryption\": \"none\""),
        (plain(json!({"encryption": "rot13"})), "encryption: rot13 is no kind of encryption"),
        (plain(json!({"remote": null})), "remote is missing"),
        (plain(json!({"remote": "mumbai.example"})), "remote: mumbai.example is not an IP address"),
        (plain(json!({"remote": "0.0.0.0"})), "remote: 0.0.0.0 is the unspecified address"),
        (plain(json!({"engine": "kernel"})), "engine: kernel cannot carry encap \"udp\"; write \"agent\""),
        (plain(json!({"underlay": "host"})), "underlay: host needs encryption"),
        (plain(json!({"underlay": "cluster"})), "underlay: cluster is nobody's network; write \"pod\""),
        (plain(json!({"publicKey": "abc="})), "publicKey: abc= has no use"),
        (plain(json!({"vni": 7})), "vni: 7 has no meaning"),
        (plain(json!({"fec": "auto"})), "fec: \"auto\" is not an object"),
        (plain(json!({"fec": {"mode": "on"}})), "fec.mode: \"on\" is neither \"auto\" nor \"off\" nor \"fixed\""),
        (plain(json!({"fec": {"maxOverhead": 25}})), "fec.maxOverhead: 25 is no such share"),
        (plain(json!({"fec": {"target": "1e-5"}})), "fec.target: \"1e-5\" is no such share"),
        (plain(json!({"fec": {"maxRecoveryDelay": "2s"}})), "fec.maxRecoveryDelay: \"2s\" is not between 1ms and 1s"),
        (plain(json!({"fec": {"window": 64}})), "fec.window: 64 is a setting of \"mode\": \"fixed\" alone"),
        (plain(json!({"fec": {"mode": "fixed", "window": 513}})), "fec.window: 513 is no window of 1 to 512 packets"),
        (plain(json!({"fec": {"ratio": "20:10"}})), "fec.ratio: \"20:10\" is no setting of loss recovery"),
        (plain(json!({"waitReady": "soon"})), "waitReady: soon is not a duration"),
        (plain(json!({"waitReady": "121s"})), "waitReady: 121s is longer than what calls the plugin waits"),
        (plain(json!({"probe": true})), "probe: true is not an object"),
        (plain(json!({"probe": {"interval": 200}})), "probe.interval: 200 is not a duration"),
        (plain(json!({"probe": {"interval": "19ms"}})), "probe.interval: 19ms is too often; write at least 20ms"),
        (
            plain(json!({"probe": {"interval": "1s", "timeout": "1s"}})),
            "probe.timeout: 1s leaves no time for two probes; write at least 2s",
        ),
        (plain(json!({"probe": {"mtu": "auto"}})), "probe.mtu: \"auto\" is neither true nor false"),
        (plain(json!({"probe": {"intervall": "1s"}})), "probe.intervall: \"1s\" is no setting of a probe"),
        (plain(json!({"ifName": "ips"})), "ifName: ips is a key of the pod's annotation"),
        (plain(json!({"ifName": "a/b"})), "ifName: \"a/b\" is no interface name"),
        (plain(json!({"device": "much-too-long-name"})), "device: \"much-too-long-name\" is no interface name"),
        (plain(json!({"local": "ff02::1"})), "local: ff02::1 is a multicast address"),
        (plain(json!({"capabilities": {"ips": true}})), "capabilities.ips: true would give the tunnel"),
        (plain(json!({"keepalive": 25})), "cannot read the tunnel's configuration: keepalive"),
        (plain(json!({"mtu": "big"})), "cannot read the tunnel's configuration: mtu"),
        (plain(json!({"peers": [{}]})), "remote: 10.20.1.200 stands beside"),
        (plain(json!({"remote": null, "peers": []})), "remote is missing"),
        (plain(json!({"remote": null, "peers": [{}]})), "peers[0].endpoint is missing"),
        (
            plain(
                json!({"remote": null, "peers": [{"endpoint": "10.0.0.1", "allowedIPs": ["10.4.0.2/32"]}, {"endpoint": "10.0.0.2"}]}),
            ),
            "peers[1].allowedIPs is missing",
        ),
        (
            plain(json!({"remote": null, "peers": [
                {"endpoint": "10.0.0.1", "allowedIPs": ["10.4.0.2/32"]},
                {"endpoint": "10.0.0.2", "allowedIPs": ["10.4.0.2/32"]}]})),
            "peers[1].allowedIPs: 10.4.0.2/32 belongs to peers[0] already",
        ),
        (
            plain(json!({"remote": null, "peers": [
                {"endpoint": "10.0.0.1", "allowedIPs": ["10.4.0.2/32"]},
                {"endpoint": "10.0.0.1", "allowedIPs": ["10.4.0.3/32"]}]})),
            "peers[1].endpoint: 10.0.0.1:6090 is peers[0].endpoint already",
        ),
        (
            plain(json!({"remote": null, "peers": [
                {"endpoint": "10.0.0.1", "allowedIPs": ["10.4.0.2/32"]},
                {"endpoint": "fd00::1", "allowedIPs": ["10.4.0.3/32"]}]})),
            "peers[1].endpoint: [fd00::1]:6090 is of another address family",
        ),
    ];
    for (value, expected) in cases {
        let message = problem(value.clone());
        assert!(message.contains(expected), "{value}\n got: {message}\nwant: {expected}");
    }
}

#[test]
fn an_annotation_sets_the_listed_keys_only() {
    let annotated = |overrides: Value, settings: Value| {
        read(plain(json!({"overrides": overrides, "args": {"cni": {"tun": settings, "foo": "bar"}}})))
    };
    let effective = annotated(Value::Null, json!({"ips": ["10.4.0.1/32"]})).unwrap();
    assert_eq!(effective.ips.unwrap(), ["10.4.0.1/32"]);

    let effective = annotated(json!(["ips", "remote"]), json!({"remote": "10.20.1.201"})).unwrap();
    assert_eq!(effective.config.validate().unwrap().peers[0].endpoint.unwrap().to_string(), "10.20.1.201:6090");

    for (overrides, settings, expected) in [
        (Value::Null, json!({"remote": "10.9.9.9"}), "cni-args.tun.remote: \"10.9.9.9\" is not among the keys"),
        (json!([]), json!({"ips": []}), "cni-args.tun.ips"),
        (json!(["privateKeyFile"]), json!({"privateKeyFile": "x"}), "cannot be set by a pod's annotation"),
        (Value::Null, json!({"ips": "10.4.0.1/32"}), "is not a list of addresses"),
        (Value::Null, json!("10.4.0.1/32"), "is not an object"),
    ] {
        let message = annotated(overrides, settings).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn settings_of_another_interface_are_not_ours() {
    let effective = read(plain(json!({"ifName": "tun1", "args": {"cni": {"tun": {"remote": "10.9.9.9"}}}}))).unwrap();
    assert!(effective.ips.is_none());
}

fn vxlan(extra: Value) -> Value {
    let mut base = json!({"encap": "vxlan", "encryption": "none", "vni": 7, "remote": "10.20.1.200"});
    for (key, value) in extra.as_object().unwrap() {
        base[key] = value.clone();
    }
    base
}

#[test]
fn vxlan_is_read_with_its_own_keys_and_defaults() {
    let intent = read(vxlan(json!({}))).unwrap().config.validate().unwrap();
    assert_eq!(intent.encap, Encap::Vxlan);
    assert_eq!(intent.engine, Engine::Kernel);
    assert_eq!(intent.peers[0].endpoint.unwrap().to_string(), "10.20.1.200:4790");
    let vxlan_keys = |extra: Value| {
        let Vxlan { vni, ttl, tos } = read(vxlan(extra)).unwrap().config.validate().unwrap().vxlan.unwrap();
        (vni, ttl, tos)
    };
    assert_eq!(vxlan_keys(json!({})), (7, 0, 0));
    assert_eq!(
        vxlan_keys(json!({"vni": 16_777_215, "ttl": 255, "tos": 184, "engine": "kernel"})),
        (16_777_215, 255, 184)
    );
    // A peer's port is this end's, whether written or not.
    for remote in ["10.20.1.200", "10.20.1.200:4791"] {
        let other_port = vxlan(json!({"local": "0.0.0.0:4791", "remote": remote}));
        let intent = read(other_port).unwrap().config.validate().unwrap();
        assert_eq!(intent.peers[0].endpoint.unwrap().to_string(), "10.20.1.200:4791");
    }
}

#[test]
fn what_vxlan_cannot_do_is_refused_with_a_reason() {
    for (value, expected) in [
        (vxlan(json!({"encryption": null})), "encryption is missing: vxlan has none: write \"encryption\": \"none\""),
        (vxlan(json!({"encryption": "noise"})), "encryption: noise is nothing that vxlan has; write"),
        (vxlan(json!({"engine": "agent"})), "engine: agent cannot carry encap \"vxlan\"; write \"kernel\""),
        (vxlan(json!({"underlay": "host"})), "underlay: host needs encryption"),
        (vxlan(json!({"vni": null})), "vni is missing: write the network identifier that both ends use"),
        (vxlan(json!({"vni": 0})), "vni: 0 is no network identifier; write 1 to 16777215"),
        (vxlan(json!({"vni": 16_777_216})), "vni: 16777216 is no network identifier"),
        (vxlan(json!({"ttl": 0})), "ttl: 0 is no TTL"),
        (vxlan(json!({"ttl": 256})), "ttl: 256 is no TTL"),
        (vxlan(json!({"tos": 185})), "tos: 185 is no TOS without ECN bits"),
        (vxlan(json!({"tos": 256})), "tos: 256 is no TOS without ECN bits"),
        (vxlan(json!({"tos": "inherit"})), "tos: inherit is not possible where routes encapsulate"),
        (vxlan(json!({"keepalive": "25s"})), "keepalive: 25s has no meaning for encap \"vxlan\""),
        (vxlan(json!({"shortcut": true})), "shortcut: true has no meaning for encap \"vxlan\""),
        (vxlan(json!({"publicKey": "abc="})), "publicKey: abc= has no use"),
        (vxlan(json!({"fec": {}})), "fec: {} has no meaning for encap \"vxlan\""),
        (vxlan(json!({"probe": {}})), "probe: {} has no meaning for encap \"vxlan\""),
        (vxlan(json!({"waitReady": "1s"})), "waitReady: 1s has no meaning for encap \"vxlan\""),
        (vxlan(json!({"checkPeer": true})), "checkPeer: true has no meaning for encap \"vxlan\""),
        (
            vxlan(json!({"remote": "10.20.1.200:4791"})),
            "remote: 10.20.1.200:4791 has another port than this end (4790)",
        ),
        (
            vxlan(json!({"remote": null, "peers": [{}]})),
            "peers[0].endpoint is missing: write the peer's outer address: the kernel",
        ),
        (
            vxlan(json!({"remote": null, "peers": [{"endpoint": "10.0.0.1", "keepalive": "1s"}]})),
            "peers[0].keepalive: 1s has no meaning",
        ),
        (
            vxlan(json!({"remote": null, "peers": [{"endpoint": "10.0.0.1"}, {"endpoint": "10.0.0.2"}]})),
            "peers[0].allowedIPs is missing",
        ),
        (plain(json!({"tos": 184})), "tos: 184 has no meaning for encap \"udp\""),
        (
            plain(json!({"encap": "geneve", "remote": null})),
            "encap: geneve is not supported by this version; write \"udp\", \"wireguard\" or \"vxlan\"",
        ),
    ] {
        let message = problem(value.clone());
        assert!(message.contains(expected), "{value}\n got: {message}\nwant: {expected}");
    }
}

const OHIO: &str = "T2hpb09oaW9PaGlvT2hpb09oaW9PaGlvT2hpb09oaW8=";
const MUMBAI: &str = "TXVtYmFpTXVtYmFpTXVtYmFpTXVtYmFpTXVtYmFpTXU=";

fn sealed(extra: Value) -> Value {
    let mut base = json!({"encap": "udp", "publicKey": MUMBAI, "remote": "10.20.1.200"});
    for (key, value) in extra.as_object().unwrap() {
        base[key] = value.clone();
    }
    base
}

fn sealed_peers(peers: Value) -> Value {
    json!({"encap": "wireguard", "peers": peers})
}

fn valid(value: Value) -> Intent {
    read(value).unwrap().config.validate().unwrap()
}

#[test]
fn udp_is_sealed_unless_the_opposite_is_written() {
    for encryption in [Value::Null, json!("noise"), json!("")] {
        let intent = valid(sealed(json!({"encryption": encryption})));
        assert_eq!(intent.encryption, Encryption::Noise);
        assert_eq!(intent.peers[0].public_key.unwrap().to_string(), MUMBAI);
        assert_eq!(intent.peers[0].endpoint.unwrap().to_string(), "10.20.1.200:6090");
        assert_eq!(intent.private_key_file, None);
    }
}

#[test]
fn wireguard_has_its_own_port_and_is_always_sealed() {
    for encryption in [Value::Null, json!("noise")] {
        let value = sealed(json!({"encap": "wireguard", "encryption": encryption, "engine": "agent"}));
        let intent = valid(value);
        assert_eq!((intent.encap, intent.encryption), (Encap::Wireguard, Encryption::Noise));
        assert_eq!((intent.engine, intent.underlay), (Engine::Agent, Underlay::Pod));
        assert_eq!(intent.peers[0].endpoint.unwrap().to_string(), "10.20.1.200:51820");
    }
}

#[test]
fn the_kernel_carries_wireguard_where_it_is_asked_for() {
    for (engine, expected) in
        [(json!("kernel"), Engine::Kernel), (json!("auto"), Engine::Agent), (Value::Null, Engine::Agent)]
    {
        let value = sealed(json!({"encap": "wireguard", "engine": engine, "keepalive": "25s"}));
        let config = Effective::read(value.as_object().unwrap()).unwrap().config;
        assert_eq!((config.engine(), config.validate().unwrap().engine), (expected, expected));
    }
}

#[test]
fn a_pod_never_chooses_whose_network_it_uses_nor_what_leaves_the_node() {
    let host = |annotation: Value, overrides: Value| {
        let value = sealed(json!({
            "underlay": "host", "overrides": overrides, "args": { "cni": { "tun": annotation } },
        }));
        Effective::read(value.as_object().unwrap())
    };
    for (key, value) in [
        ("remote", json!("10.30.1.200")),
        ("peers", json!([])),
        ("local", json!("10.10.1.1")),
        ("device", json!("eth0")),
    ] {
        let error = host(json!({ key: value }), json!([key])).unwrap_err().to_string();
        assert!(error.contains(&format!("cni-args.tun.{key}")) && error.contains("leave from the node"), "{error}");
    }
    for key in ["underlay", "engine"] {
        let error = host(json!({ key: "pod" }), json!([key])).unwrap_err().to_string();
        assert!(error.contains(&format!("cni-args.tun.{key}: \"pod\" cannot be set by a pod")), "{error}");
    }
    let allowed = host(json!({ "mtu": 1400 }), json!(["mtu"])).unwrap().config;
    assert_eq!(allowed.validate().unwrap().underlay, Underlay::Host);
}

#[test]
fn a_sealed_peer_needs_no_endpoint_and_may_share_one() {
    let peer = json!({"publicKey": MUMBAI, "presharedKeyFile": "both.psk"});
    let intent = valid(json!({"encap": "udp", "privateKeyFile": "ohio.key", "peers": [peer]}));
    assert_eq!(intent.peers.len(), 1);
    assert_eq!((intent.peers[0].endpoint, intent.peers[0].allowed_ips.len()), (None, 2));
    assert_eq!(intent.peers[0].preshared_key_file.as_ref().unwrap().as_str(), "both.psk");
    assert_eq!(intent.private_key_file.unwrap().as_str(), "ohio.key");

    let intent = valid(sealed_peers(json!([
        {"publicKey": OHIO, "endpoint": "10.20.1.200", "allowedIPs": ["10.4.0.2/32"]},
        {"publicKey": MUMBAI, "endpoint": "10.20.1.200", "allowedIPs": ["10.4.0.3/32"], "keepalive": "25s"},
    ])));
    assert_eq!(intent.peers[0].endpoint, intent.peers[1].endpoint);
    assert_eq!(intent.reachable().count(), 2);
}

#[test]
fn impossible_keys_and_peers_are_named() {
    let short = "AQEBAQ==";
    for (value, expected) in [
        (sealed(json!({"publicKey": null})), "publicKey is missing: write the other end's, which `adit key show`"),
        (sealed(json!({"publicKey": null})), "; or write \"encryption\": \"none\" if the network"),
        (sealed(json!({"publicKey": short})), "publicKey: AQEBAQ== is of another length than a key"),
        (sealed(json!({"publicKey": "mumbai"})), "publicKey: mumbai is not the base64 of a key"),
        (sealed(json!({"publicKey": MUMBAI.replace("U=", "V=")})), "is not the base64 of a key"),
        (sealed(json!({"publicKey": format!("{}=", "A".repeat(43))})), "is all zeroes, which is nobody's key"),
        (sealed(json!({"publicKey": format!("{MUMBAI}\n")})), "is not the base64 of a key"),
        (
            sealed(json!({"privateKeyFile": "../other/a.key"})),
            "privateKeyFile: \"../other/a.key\" is no plain file name",
        ),
        (sealed(json!({"privateKeyFile": "/etc/shadow"})), "privateKeyFile: \"/etc/shadow\" is no plain file name"),
        (
            sealed(json!({"presharedKeyFile": ".."})),
            "presharedKeyFile: \"..\" is no plain file name; write the name alone",
        ),
        (sealed(json!({"presharedKeyFile": ""})), "presharedKeyFile: \"\" is no plain file name"),
        (sealed(json!({"encap": "wireguard", "encryption": "none"})), "encryption: none is nothing that wireguard has"),
        (sealed(json!({"engine": "kernel"})), "engine: kernel cannot carry encap \"udp\"; write \"agent\""),
        (sealed(json!({"encap": "wireguard", "engine": "bpf"})), "engine: bpf cannot carry encap \"wireguard\""),
        (
            sealed(json!({"encap": "wireguard", "engine": "kernel", "keepalive": "1500ms"})),
            "keepalive: 1500ms is not a number of seconds",
        ),
        (sealed(json!({"encap": "wireguard", "shortcut": true})), "shortcut: true has no meaning"),
        (
            sealed(json!({"remote": null})),
            "remote is missing: write the outer address of the peer; or a list of \"peers\", in which",
        ),
        (sealed(json!({"remote": null, "peers": [{}]})), "publicKey: "),
        (sealed(json!({"encryption": "none"})), "publicKey: TXVtYmFpTXVtYmFpTXVtYmFpTXVtYmFpTXVtYmFpTXU= has no use"),
        (plain(json!({"privateKeyFile": "a"})), "privateKeyFile: a has no use with \"encryption\": \"none\""),
        (sealed_peers(json!([{"endpoint": "10.20.1.200"}])), "peers[0].publicKey is missing: write the other end's"),
        (
            sealed_peers(json!([
                {"publicKey": OHIO, "allowedIPs": ["10.4.0.2/32"]},
                {"publicKey": OHIO, "endpoint": "10.20.1.200", "allowedIPs": ["10.4.0.3/32"]},
            ])),
            "peers[1].publicKey: T2hpb09oaW9PaGlvT2hpb09oaW9PaGlvT2hpb09oaW8= is peers[0].publicKey already",
        ),
        (
            sealed_peers(json!([
                {"publicKey": OHIO, "allowedIPs": ["10.4.0.2/32"]}, {"publicKey": MUMBAI, "allowedIPs": ["10.4.0.2/32"]},
            ])),
            "peers[1].allowedIPs: 10.4.0.2/32 belongs to peers[0] already",
        ),
        (
            sealed_peers(json!([
                {"publicKey": OHIO, "allowedIPs": ["10.20.0.0/16"]},
                {"publicKey": MUMBAI, "endpoint": "10.20.1.200", "allowedIPs": ["10.4.0.2/32"]},
            ])),
            "peers[0].allowedIPs: 10.20.0.0/16 holds an outer address, 10.20.1.200 (peers[1].endpoint)",
        ),
    ] {
        let message = problem(value.clone());
        assert!(message.contains(expected), "{value}\n got: {message}\nwant: {expected}");
    }
}

#[test]
fn no_annotation_chooses_keys_of_the_node() {
    for key in ["privateKeyFile", "presharedKeyFile", "publicKey", "peers"] {
        let settings = json!({"args": {"cni": {"tun": {key: "x"}}}});
        let message = read(sealed(settings)).unwrap_err().to_string();
        assert!(message.starts_with(&format!("cni-args.tun.{key}: \"x\" ")), "{message}");
    }
    let peers = json!([{"publicKey": OHIO, "presharedKeyFile": "x"}]);
    let allowed = json!({"overrides": ["peers"], "remote": null, "args": {"cni": {"tun": {"peers": peers}}}});
    let message = read(sealed(allowed)).unwrap_err().to_string();
    assert!(message.starts_with("cni-args.tun.peers[0].presharedKeyFile: \"x\" cannot be set"), "{message}");
}

#[test]
fn losses_are_recovered_as_written_and_else_by_need() {
    let of = |keys| read(plain(keys)).unwrap().config.validate().unwrap().fec;
    assert_eq!(of(json!({})), Fec::default());
    assert_eq!(of(json!({"fec": {"mode": "off"}})), Fec { mode: FecMode::Off, ..Fec::default() });
    let written = json!({"fec": {"mode": "fixed", "redundancy": 0.15, "window": 200, "target": 1e-6, "maxOverhead": 0.5,
        "maxRecoveryDelay": "80ms"}});
    let fixed = Fec {
        mode: FecMode::Fixed,
        max_overhead_ppm: 500_000,
        target_ppb: 1000,
        max_recovery_delay_ms: 80,
        redundancy_ppm: 150_000,
        window: 200,
    };
    assert_eq!(of(written), fixed);
}

#[test]
fn probes_are_as_written_and_else_by_need() {
    let of = |extra: Value| {
        let intent = valid(plain(extra));
        (intent.probe.interval, intent.probe.timeout, intent.probe.mtu, intent.wait_ready)
    };
    assert_eq!(of(json!({})), (None, None, true, None));
    let (interval, timeout) = (Duration::from_millis(200), Duration::from_secs(1));
    let written =
        json!({"probe": {"interval": "200ms", "timeout": "1s", "mtu": false}, "waitReady": "2m", "checkPeer": true});
    assert_eq!(of(written), (Some(interval), Some(timeout), false, Some(Duration::from_secs(120))));
    assert_eq!(of(json!({"probe": {}})), (None, None, true, None));
}
