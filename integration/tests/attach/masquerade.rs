//! `ipMasq`: on the wire, in the tables, and what is left of it.

use std::net::{IpAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use adit_net::Netns;
use serde_json::{Value, json};

use crate::Test;
use crate::bridge::gateway;
use crate::harness::{Attachment, Bench, addresses, finished, says, with, with_previous};

pub const TESTS: &[Test] = &[
    ("masquerade_by_nftables_gives_pods_the_nodes_address_outside_of_their_subnet_only", || on_the_wire("nftables")),
    ("masquerade_by_iptables_gives_pods_the_nodes_address_outside_of_their_subnet_only", || on_the_wire("iptables")),
    ("masquerade_goes_with_the_attachment_however_del_is_called", || del("nftables")),
    ("masquerade_by_iptables_goes_with_the_attachment_however_del_is_called", || del("iptables")),
    ("masquerade_by_legacy_iptables_goes_with_the_attachment_however_del_is_called", || del("legacy")),
    ("masquerade_of_an_add_that_fails_is_taken_back", failed_add),
    ("masquerade_is_repaired_by_the_next_add_after_a_flush", repaired),
    ("masquerade_of_an_address_that_moved_on_survives_the_old_attachments_del", same_address),
    ("masquerade_by_iptables_of_one_interface_survives_the_del_of_another", || siblings("nft")),
    ("masquerade_by_legacy_iptables_of_one_interface_survives_the_del_of_another", || siblings("legacy")),
    ("masquerade_rules_of_iptables_are_the_references", iptables_rules),
    ("masquerade_check_notices_what_is_missing", check),
    ("masquerade_gc_removes_only_unlisted_attachments_of_its_network", gc),
    ("masquerade_refuses_an_unknown_backend_before_it_acts", unknown_backend),
    ("masquerade_of_a_hundred_pods_at_once_makes_its_rules_once_and_leaves_nothing", hundred_at_once),
];

pub const TABLE: &str = "nft list table inet cni_plugins_masquerade";

/// A default gateway with masquerading by `backend`.
pub fn masquerading(backend: &str) -> Value {
    let config = with(&with(&gateway(), "isDefaultGateway", json!(true)), "ipMasq", json!(true));
    let backend = if backend == "nftables" { backend } else { "iptables" };
    with(&config, "ipMasqBackend", json!(backend))
}

/// A node on which `iptables` is what `backend` says.
pub fn bench_for(backend: &str) -> Bench {
    let bench = Bench::new();
    let variant = if backend == "legacy" { "legacy" } else { "nft" };
    let (ipv4, ipv6) = (format!("/usr/sbin/iptables-{variant}"), format!("/usr/sbin/ip6tables-{variant}"));
    let restore = [&ipv4, &ipv6].map(|program| format!("{program}-restore"));
    bench.use_programs(&[
        ("iptables", &ipv4),
        ("ip6tables", &ipv6),
        ("iptables-restore", &restore[0]),
        ("ip6tables-restore", &restore[1]),
    ]);
    bench
}

/// A neighbour of the node that has no route to pods: 192.0.2.2 and 2001:db8::2, the node being 1.
fn outside(bench: &Bench) -> String {
    let outside = bench.namespace("outside");
    bench.ip(&format!("link add uplink type veth peer name port netns {outside}"));
    for (namespace, link, last) in [(bench.node(), "uplink", 1), (outside.clone(), "port", 2)] {
        let ip = |arguments: &str| crate::harness::ip(&format!("-n {namespace} {arguments}"));
        ip(&format!("addr add 192.0.2.{last}/24 dev {link}"));
        ip(&format!("addr add 2001:db8::{last}/64 dev {link} nodad"));
        ip(&format!("link set {link} up"));
    }
    outside
}

/// Where a datagram from `pod` to `address` seems to come from for its receiver in `namespace`.
fn source_seen(pod: &Attachment, namespace: &str, address: &str) -> IpAddr {
    let address: IpAddr = address.parse().unwrap();
    let to = Netns::open(Path::new("/run/netns").join(namespace)).unwrap();
    let from = Netns::open(pod.netns.as_ref().unwrap()).unwrap();
    let bind = |address: IpAddr| UdpSocket::bind((address, 0)).unwrap();
    let any: IpAddr = if address.is_ipv4() { "0.0.0.0".parse().unwrap() } else { "::".parse().unwrap() };
    let receiver = to.run_on_thread(|| bind(any)).unwrap();
    if let IpAddr::V4(group) = address
        && group.is_multicast()
    {
        let own = pod_address(namespace);
        to.run_on_thread(|| receiver.join_multicast_v4(&group, &own).unwrap()).unwrap();
    }
    receiver.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let sender = from.run_on_thread(|| bind(any)).unwrap();
    sender.send_to(b"?", (address, receiver.local_addr().unwrap().port())).unwrap();
    receiver.recv_from(&mut [0; 8]).unwrap().1.ip()
}

fn pod_address(namespace: &str) -> std::net::Ipv4Addr {
    let text = crate::harness::ip(&format!("-n {namespace} -4 -o addr show dev net1"));
    text.split_whitespace().nth(3).unwrap().split('/').next().unwrap().parse().unwrap()
}

/// Masquerading is told from none where the node routes a packet: beyond the pod's subnet, and to a part of that subnet which
/// lies outside of the node.
fn on_the_wire(backend: &str) {
    let bench = bench_for(backend);
    let outside = outside(&bench);
    for (namespace, link, last) in [(bench.node(), "uplink", 1), (outside.clone(), "port", 2)] {
        let ip = |arguments: &str| crate::harness::ip(&format!("-n {namespace} {arguments}"));
        ip(&format!("addr add 10.1.200.{last}/24 dev {link}"));
        ip(&format!("addr add fd01::200:0:0:{last}/80 dev {link} nodad"));
    }
    // It knows no way back to the pods, and takes their packets all the same.
    crate::harness::ip(&format!(
        "netns exec {outside} sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.port.rp_filter=0"
    ));
    let config = masquerading(backend);
    let pod = |last: u8| {
        let ipam = json!({
            "type": "static",
            "addresses": [{"address": format!("10.1.1.{last}/16")}, {"address": format!("fd01::{last}/64")}],
            "routes": [{"dst": "10.1.200.0/24", "gw": "10.1.0.1"}, {"dst": "fd01::200:0:0:0/80", "gw": "fd01::1"}]
        });
        with(&config, "ipam", ipam)
    };
    let plain = bench.pod(&with(&pod(4), "ipMasq", json!(false)));
    bench.added(&plain);
    plain.does_not_reach("192.0.2.2");
    let (a, b) = (bench.pod(&pod(2)), bench.pod(&pod(3)));
    for pod in [&a, &b] {
        let result = bench.added(pod);
        let ran = bench.check(pod, &result);
        assert!(ran.ok, "{ran:?}");
    }
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    assert_eq!(source_seen(&a, &outside, "192.0.2.2"), ip("192.0.2.1"));
    assert_eq!(source_seen(&a, &outside, "2001:db8::2"), ip("2001:db8::1"));
    assert_eq!(source_seen(&a, &outside, "10.1.200.2"), ip("10.1.1.2"));
    assert_eq!(source_seen(&a, &outside, "fd01::200:0:0:2"), ip("fd01::2"));
    assert_eq!(source_seen(&a, b.namespace(), "10.1.1.3"), ip("10.1.1.2"));
    // Where what one port of the bridge sends to another passes the node's rules too, as on nodes of Kubernetes.
    let bridged = bench.tried_on_node("sysctl -qw net.bridge.bridge-nf-call-iptables=1").status.success();
    let within_bridge = || {
        if bridged {
            assert_eq!(source_seen(&a, b.namespace(), "10.1.1.3"), ip("10.1.1.2"));
            assert_eq!(source_seen(&a, b.namespace(), "224.1.2.3"), ip("10.1.1.2"));
        }
    };
    within_bridge();
    if backend == "nftables" {
        // Without its exception the subnet is masqueraded, so the exception is what the above has seen.
        bench.on_node("nft flush set inet cni_plugins_masquerade adit_local4");
        assert_eq!(source_seen(&a, &outside, "10.1.200.2"), ip("10.1.200.1"));
        if bridged {
            assert_eq!(source_seen(&a, b.namespace(), "10.1.1.3"), ip("10.1.0.1"));
            assert_eq!(source_seen(&a, b.namespace(), "224.1.2.3"), ip("10.1.1.2"));
        }
    }
    bench.del(&a);
    b.pings("192.0.2.2");
    plain.does_not_reach("192.0.2.2");
}

/// Everything that the node's tables hold of attachments.
pub fn rules(bench: &Bench) -> String {
    let nft = bench.on_node("nft list ruleset");
    let legacy: String = ["iptables-legacy-save", "ip6tables-legacy-save"]
        .iter()
        .map(|program| String::from_utf8_lossy(&bench.tried_on_node(program).stdout).into_owned())
        .collect();
    [nft, legacy].concat().lines().filter(|line| is_of_an_attachment(line)).collect::<Vec<_>>().join("\n")
}

fn is_of_an_attachment(line: &str) -> bool {
    ["adit:lan", "adit:other", "CNI-", "macspoofchk", "cni-br-iface", ", net: ", "10.1.1.", "fd01::"]
        .iter()
        .any(|part| line.contains(part))
}

pub fn nothing_left(bench: &Bench) {
    let left = rules(bench);
    assert!(left.is_empty(), "left:\n{left}");
}

fn del(backend: &str) {
    let bench = bench_for(backend);
    let config = with(&masquerading(backend), "ipam", addresses(&["10.1.1.2/24", "fd01::2/64"]));
    let without = with(&config, "ipMasq", json!(false));
    let pod = bench.pod(&config);

    // With everything, without prevResult; with it; a configuration that masquerades no more; an empty CNI_NETNS.
    for round in 0..4 {
        let result = bench.added(&pod);
        assert!(!rules(&bench).is_empty());
        match round {
            0 => bench.del(&pod),
            1 => bench.del(&pod.with_config(&with_previous(&config, &result))),
            2 => bench.del(&pod.with_config(&without)),
            _ => bench.del(&pod.without_netns()),
        }
        nothing_left(&bench);
        bench.del(&pod);
        bench.no_veths();
    }

    // The namespace is gone before DEL.
    bench.added(&pod);
    bench.remove(pod.namespace());
    assert!(!rules(&bench).is_empty());
    bench.del(&pod);
    nothing_left(&bench);

    // The interface is gone before DEL.
    let pod = bench.pod(&config);
    bench.added(&pod);
    pod.ip("link del net1");
    bench.del(&pod);
    nothing_left(&bench);

    // Nobody can read the configuration: iptables' chains are named after the network, which it alone names.
    bench.added(&pod);
    let ran = bench.run("DEL", &pod, &with(&config, "mtu", json!("many")));
    assert!(!ran.ok, "{ran:?}");
    if backend == "nftables" {
        nothing_left(&bench);
    }
    bench.del(&pod);
    nothing_left(&bench);
}

fn failed_add() {
    for backend in ["nftables", "iptables"] {
        let bench = bench_for(backend);
        let first = bench.pod(&with(&masquerading(backend), "ipam", addresses(&["10.1.1.2/24"])));
        bench.added(&first);
        let before = (rules(&bench), bench.snapshot(&[]));
        let many = addresses(&["10.1.1.3/24", "10.1.1.4/24"]);
        let pod = bench.pod(&with(&with(&masquerading(backend), "cniVersion", json!("0.3.1")), "ipam", many));
        // The node's rules cannot be locked: ADD fails after it has the addresses.
        let lock = bench.directory().join("nftables.lock");
        if backend == "nftables" {
            std::fs::remove_file(&lock).unwrap();
            std::fs::create_dir(&lock).unwrap();
        } else {
            let program = bench.directory().join("programs/iptables-restore");
            std::fs::remove_file(&program).unwrap();
            std::os::unix::fs::symlink("/bin/false", &program).unwrap();
        }
        let error = bench.refused(&pod);
        assert!(
            error.to_string().contains(if backend == "nftables" { "nftables.lock" } else { "iptables" }),
            "{error}"
        );
        if backend == "nftables" {
            std::fs::remove_dir(&lock).unwrap();
        }
        assert_eq!(rules(&bench), before.0);
        bench.unchanged_since(&before.1, &[]);
    }
}

fn repaired() {
    let bench = bench_for("nftables");
    let outside = outside(&bench);
    let pods: Vec<_> = (2..6)
        .map(|last| bench.pod(&with(&masquerading("nftables"), "ipam", addresses(&[&format!("10.1.1.{last}/24")]))))
        .collect();
    let result = bench.added(&pods[0]);
    pods[0].pings("192.0.2.2");
    let whole = bench.on_node(TABLE).lines().filter(|line| !line.contains("10.1.1.")).collect::<Vec<_>>().join("\n");
    for (pod, damage) in pods[1..].iter().zip([
        "nft flush chain inet cni_plugins_masquerade masq_checks",
        "nft flush chain inet cni_plugins_masquerade postrouting",
        "nft flush table inet cni_plugins_masquerade",
    ]) {
        bench.on_node(damage);
        pods[0].does_not_reach("192.0.2.2");
        let ran = bench.check(&pods[0], &result);
        assert!(!ran.ok && ran.stdout.contains("not complete"), "{ran:?}");
        bench.added(pod);
        assert_eq!(source_seen(&pods[0], &outside, "192.0.2.2").to_string(), "192.0.2.1");
        assert!(bench.check(&pods[0], &result).ok);
        let now = bench.on_node(TABLE).lines().filter(|line| !line.contains("10.1.1.")).collect::<Vec<_>>().join("\n");
        assert_eq!(now, whole);
    }
}

fn same_address() {
    for prefix in [24, 16] {
        let bench = bench_for("nftables");
        let outside = outside(&bench);
        let config = |network: &str, address: &str| {
            let config = with(&with(&masquerading("nftables"), "forceAddress", json!(true)), "name", json!(network));
            with(&config, "ipam", addresses(&[address]))
        };
        let old = bench.pod(&config("lan", "10.1.1.2/24"));
        bench.added(&old);
        let new = bench.pod(&config("other", &format!("10.1.1.2/{prefix}")));
        // The old pod is dead, and its DEL comes late.
        bench.remove(old.namespace());
        let result = bench.added(&new);
        bench.del(&old);
        let ran = bench.check(&new, &result);
        assert!(ran.ok, "{ran:?}");
        assert_eq!(source_seen(&new, &outside, "192.0.2.2").to_string(), "192.0.2.1");
        bench.del(&new);
        nothing_left(&bench);
    }
}

/// Another interface of the same container in the same network.
fn sibling(pod: &Attachment, address: &str) -> Attachment {
    let config = with(&with(&pod.config, "isDefaultGateway", json!(false)), "ipam", addresses(&[address]));
    Attachment { ifname: "net2".into(), ..pod.with_config(&config) }
}

fn siblings(variant: &str) {
    for with_result in [true, false] {
        let bench = bench_for(variant);
        let pod = bench.pod(&with(&masquerading("iptables"), "ipam", addresses(&["10.1.1.2/24"])));
        let other = sibling(&pod, "10.1.1.3/24");
        let result = bench.added(&pod);
        let other_result = bench.added(&other);
        assert!(bench.check(&pod, &result).ok && bench.check(&other, &other_result).ok);
        let config = if with_result { with_previous(&pod.config, &result) } else { pod.config.clone() };
        bench.del(&pod.with_config(&config));
        let left = rules(&bench);
        assert!(!left.contains("10.1.1.2") && left.contains("10.1.1.3"), "{left}");
        let ran = bench.check(&other, &other_result);
        assert!(ran.ok, "{ran:?}");
        bench.del(&other);
        nothing_left(&bench);
        bench.no_veths();
    }
}

fn iptables_rules() {
    let bench = bench_for("iptables");
    let config = with(&masquerading("iptables"), "name", json!("bnet"));
    let pod =
        Attachment { container: "leak1".into(), ..bench.pod(&with(&config, "ipam", addresses(&["10.77.0.5/16"]))) };
    bench.added(&pod);
    let chain = "CNI-3b7a1c419a9d1ebc830bb3ca";
    let comment = r#"-m comment --comment "name: \"bnet\" id: \"leak1\"""#;
    let rules = bench.on_node("iptables-nft -t nat -S");
    let rules: Vec<&str> = rules.lines().filter(|line| line.contains("CNI-")).collect();
    assert_eq!(
        rules,
        [
            format!("-N {chain}"),
            format!("-A POSTROUTING -s 10.77.0.5/32 {comment} -j {chain}"),
            format!("-A {chain} -d 10.77.0.0/16 {comment} -j ACCEPT"),
            format!("-A {chain} ! -d 224.0.0.0/4 {comment} -j MASQUERADE"),
        ]
    );
}

fn check() {
    for (backend, damage, text) in [
        ("nftables", "nft flush set inet cni_plugins_masquerade adit_pods4", "10.1.1.2/24"),
        ("nftables", "nft flush set inet cni_plugins_masquerade adit_local6", "fd01::2/64"),
        ("nftables", "nft delete table inet cni_plugins_masquerade", "not complete"),
        ("iptables", "iptables-nft -t nat -F POSTROUTING", "10.1.1.2/24"),
        ("iptables", "ip6tables-nft -t nat -F POSTROUTING", "fd01::2/64"),
    ] {
        let bench = bench_for(backend);
        let pod = bench.pod(&with(&masquerading(backend), "ipam", addresses(&["10.1.1.2/24", "fd01::2/64"])));
        let result = bench.added(&pod);
        assert!(bench.check(&pod, &result).ok);
        bench.on_node(damage);
        let ran = bench.check(&pod, &result);
        assert!(!ran.ok && ran.stdout.contains(text), "{damage}: {ran:?}");
        // Removing what is half gone already is no error.
        bench.del(&pod);
        nothing_left(&bench);
    }
}

fn gc() {
    for backend in ["nftables", "iptables", "legacy"] {
        let bench = bench_for(backend);
        let config = |name: &str, address: &str| {
            with(&with(&masquerading(backend), "name", json!(name)), "ipam", addresses(&[address]))
        };
        let kept = bench.pod(&config("lan", "10.1.1.2/24"));
        let stale = bench.pod(&config("lan", "10.1.1.3/24"));
        let other = bench.pod(&config("other", "10.1.1.4/24"));
        for pod in [&kept, &stale, &other] {
            bench.added(pod);
        }
        let before = rules(&bench);
        assert!(bench.run("GC", &kept, &kept.config).ok);
        assert_eq!(rules(&bench), before);
        // The interface went before, as when the stale pod's namespace died.
        stale.ip("link del net1");
        let valid = json!([{"containerID": kept.container, "ifname": "net1"}]);
        let collect = |valid: Value| {
            let ran = bench.run("GC", &kept, &with(&kept.config, "cni.dev/valid-attachments", valid));
            assert!(ran.ok && ran.stdout.is_empty(), "{ran:?}");
            rules(&bench)
        };
        let now = collect(valid);
        assert!(!now.contains("10.1.1.3"), "{now}");
        assert!(now.contains("10.1.1.2") && now.contains("10.1.1.4"), "{now}");
        let now = collect(json!([]));
        assert!(!now.contains("10.1.1.2") && now.contains("10.1.1.4"), "{now}");
    }
}

fn unknown_backend() {
    let bench = Bench::new();
    let config = with(&masquerading("nftables"), "ipMasqBackend", json!("ipfw"));
    let pod = bench.pod(&with(&config, "ipam", addresses(&["10.1.1.2/24"])));
    let before = bench.snapshot(&[&pod]);
    says(&bench.refused(&pod), 7, &["unknown ipmasq backend \"ipfw\"", "\"nftables\" or \"iptables\""]);
    bench.unchanged_since(&before, &[&pod]);
}

fn hundred_at_once() {
    let bench = bench_for("nftables");
    let config = with(&masquerading("nftables"), "macspoofchk", json!(true));
    let pods: Vec<_> =
        (2..102).map(|last| bench.pod(&with(&config, "ipam", addresses(&[&format!("10.1.1.{last}/24")])))).collect();
    let at_once = |verb: &str| {
        let running: Vec<_> = pods.iter().map(|pod| bench.start(verb, pod, &pod.config)).collect();
        for ran in running.into_iter().map(finished) {
            assert!(ran.ok, "{verb}: {ran:?}");
        }
    };
    at_once("ADD");
    let ruleset = bench.on_node("nft list ruleset");
    for (part, times) in
        [(" masquerade comment", 2), ("goto masq_checks", 1), (" drop comment", 1), ("daddr 224.0.0.0/4", 1)]
    {
        assert_eq!(ruleset.matches(part).count(), times, "{part}:\n{ruleset}");
    }
    // Addresses, subnets, ports and their MAC addresses.
    assert_eq!(ruleset.matches("comment \"adit:lan:").count(), 400);
    pods[0].pings("10.1.1.101");
    at_once("DEL");
    nothing_left(&bench);
    bench.no_veths();
}
