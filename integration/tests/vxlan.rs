//! `encap: vxlan`: tunnels without any process, on nodes where no agent runs.

use std::{net::IpAddr, time::Duration};

use adit_integration::{
    trial,
    tunnels::{
        Below, Call, FIRST_POD, Family, Sight, Star, annotation, inner_pair, lab_with_agents, list, net1, outer, tun,
        tunnels, with,
    },
};
use adit_lab::{Attachment, IperfOptions, Lab, LabSpec, Node, Pod, eventually};
use libtest_mimic::Failed;
use serde_json::{Value, json};

type Outcome = Result<(), Failed>;

fn main() {
    let mut trials = Vec::new();
    for attachment in [Attachment::Bridge, Attachment::Macvlan] {
        for outside in [Family::V4, Family::V6] {
            for inside in [Family::V4, Family::V6] {
                let name = format!("pods_talk_over_{attachment:?}_with_{outside:?}_outside_and_{inside:?}_inside");
                trials.push(trial(name.to_lowercase(), move || pods_talk(attachment, outside, inside)));
            }
        }
    }
    trials.extend([
        trial("both_families_are_inside_one_interface", both_inside),
        trial("the_mtu_is_the_largest_that_passes_with_df", the_mtu_is_the_largest),
        trial("a_smaller_path_is_learned_and_told", a_smaller_path),
        trial("outer_packets_have_the_written_numbers", outer_packets),
        trial("large_transfers_arrive_whole_both_ways", large_transfers),
        trial("one_pod_talks_to_three_by_longest_prefix", one_to_many),
        trial("routes_with_gateways_and_in_other_tables_are_encapsulated", gateways_and_tables),
        trial("two_tunnels_of_a_pod_share_a_port_with_different_vnis", two_vnis),
        trial("two_tunnels_of_a_pod_use_two_ports", two_ports),
        trial("a_vni_that_is_taken_is_refused_and_names_the_key", vni_taken),
        trial("a_port_that_is_taken_is_refused_and_names_the_key", port_taken),
        trial("impossible_values_are_refused_by_name_and_change_nothing", impossible_values),
        trial("the_interface_is_what_an_administrator_expects_of_a_tunnel", interface_flags),
        trial("check_names_what_is_missing", check_names_what_is_missing),
        trial("del_leaves_nothing_in_any_state_of_the_world", del_leaves_nothing),
        trial("gc_removes_what_is_stale_and_nothing_else", gc_removes_the_stale),
        trial("an_add_again_after_a_killed_one_succeeds", add_again),
        trial("status_of_the_plugin_asks_the_kernel_and_not_the_agent", plugin_status),
        trial("adit_shows_tunnels_with_and_without_an_agent", shown),
        trial("an_agent_leaves_the_kernels_tunnels_alone", beside_an_agent),
        trial("an_agent_forgets_the_tunnel_of_a_vanished_pod", vanished_pod),
    ]);
    adit_integration::main(trials);
}

/// A `tun` object with one peer and one inner address.
fn vxlan(remote: IpAddr, inner: &str) -> Value {
    with(tun(remote, inner), &json!({ "encap": "vxlan", "vni": 7 }))
}

/// Two clusters without agents, and a pod in each.
struct Pair {
    ohio: Pod,
    mumbai: Pod,
    lab: Lab,
}

impl Pair {
    fn up(attachment: Attachment, outside: Family, inside: Family, changes: &Value) -> Result<Self, Failed> {
        let lab = Lab::build(&LabSpec::two_clusters(attachment))?;
        let pod = |node: &Node, peer: &Node, inner: &str| {
            let tun = with(vxlan(outer(peer, outside, FIRST_POD), inner), changes);
            let nad = list("tunnelled", &[net1(&lab, node), tun]);
            node.pod(&format!("{}-a", node.cluster())).attach(nad, &annotation("tunnelled", node, FIRST_POD))
        };
        let [here, there] = inner_pair(inside);
        let (ohio, mumbai) = (pod(lab.ohio(), lab.mumbai(), here)?, pod(lab.mumbai(), lab.ohio(), there)?);
        Ok(Self { ohio, mumbai, lab })
    }

    fn usual() -> Result<Self, Failed> {
        Self::up(Attachment::Bridge, Family::V4, Family::V4, &json!({}))
    }
}

fn bare(address: &str) -> &str {
    address.split('/').next().unwrap_or_default()
}

fn pods_talk(attachment: Attachment, outside: Family, inside: Family) -> Outcome {
    let pair = Pair::up(attachment, outside, inside, &json!({}))?;
    let [here, there] = inner_pair(inside).map(bare);
    pair.ohio.ping(there)?.all_received()?.with_ttl(64)?;
    pair.mumbai.ping(here)?.all_received()?.with_ttl(64)?;
    pair.ohio.check()?;
    pair.mumbai.check()?;
    let expected_mtu = if outside == Family::V4 { 1464 } else { 1444 };
    assert_eq!(pair.ohio.interface("tun")?.mtu_bytes, expected_mtu);
    assert_eq!(pair.lab.ohio().agent_pid(), None);
    Ok(())
}

fn both_inside() -> Outcome {
    let lab = Lab::two_clusters(Attachment::Bridge)?;
    let mut pods = Vec::new();
    for (node, peer, end) in [(lab.ohio(), lab.mumbai(), 1), (lab.mumbai(), lab.ohio(), 2)] {
        let addresses = json!([{ "address": format!("10.4.0.{end}/30") }, { "address": format!("fd04::{end}/64") }]);
        let both = json!({ "ipam": { "type": "static", "addresses": addresses } });
        let nad =
            list("both", &[net1(&lab, node), with(vxlan(outer(peer, Family::V6, FIRST_POD), "10.4.0.1/30"), &both)]);
        pods.push(node.pod("both").attach(nad, &annotation("both", node, FIRST_POD))?);
    }
    pods[0].ping("10.4.0.2")?.all_received()?;
    pods[0].ping("fd04::2")?.all_received()?;
    pods[0].check()?;
    Ok(())
}

fn the_mtu_is_the_largest() -> Outcome {
    for (outside, inside, header) in [
        (Family::V4, Family::V4, 28),
        (Family::V4, Family::V6, 48),
        (Family::V6, Family::V4, 28),
        (Family::V6, Family::V6, 48),
    ] {
        let pair = Pair::up(Attachment::Bridge, outside, inside, &json!({}))?;
        let ends = [pair.lab.ohio(), pair.lab.mumbai()].map(|node| outer(node, outside, FIRST_POD));
        let between = move |from: IpAddr, to: IpAddr| ends.contains(&from) && ends.contains(&to);
        let tap = pair.lab.router(2)?.tap("next", move |packet| between(packet.src, packet.dst))?;
        let there = bare(inner_pair(inside)[1]);
        let mtu = pair.ohio.interface("tun")?.mtu_bytes;
        let size = |bytes: u32| (bytes - header).to_string();
        pair.ohio.ping_with(there, &["-c", "2", "-M", "do", "-s", &size(mtu)])?.all_received()?;
        eventually("two requests and two answers that fill the path", Duration::from_secs(5), || {
            Ok((tap.packets().iter().filter(|packet| packet.length == 1500).count() == 4).then_some(()))
        })?;
        pair.ohio.ping_with(there, &["-c", "2", "-W", "1", "-M", "do", "-s", &size(mtu + 1)])?.none_received()?;
        // Larger ones go in pieces that each fit.
        pair.ohio.ping_with(there, &["-c", "2", "-M", "dont", "-s", "4000"])?.all_received()?;
        for packet in tap.stop() {
            assert!(packet.length <= 1500 && !packet.fragment, "{} bytes, fragment {}", packet.length, packet.fragment);
            assert!(packet.df || outside == Family::V6, "no DF");
        }
    }
    Ok(())
}

/// A router in between has a smaller MTU than the ends know.
fn a_smaller_path() -> Outcome {
    let pair = Pair::usual()?;
    pair.lab.router(2)?.root(["ip", "link", "set", "next", "mtu", "1400"])?.ok()?;
    let fitting = (1400 - 36 - 28).to_string();
    pair.ohio.ping_with("10.4.0.2", &["-c", "2", "-M", "do", "-s", &fitting])?.all_received()?;
    // The first is lost on the way, and the router says why; then the pod knows.
    pair.ohio.ping_with("10.4.0.2", &["-c", "2", "-W", "1", "-M", "do", "-s", "1436"])?.none_received()?;
    let told = pair.ohio.ping_with("10.4.0.2", &["-c", "1", "-W", "1", "-M", "do", "-s", "1436"])?;
    assert!(told.ran.stderr.contains("mtu") || told.ran.stdout.contains("mtu"), "{:?}", told.ran);
    // A connection gets through at once.
    let server = pair.mumbai.tcp_echo("10.4.0.2:7".parse()?)?;
    let bytes = vec![0x5a; 1 << 20];
    let back = pair.ohio.tcp_exchange(server.address(), &bytes, Duration::from_secs(20))?;
    assert!(back == bytes, "{} of {} bytes came back", back.len(), bytes.len());
    Ok(())
}

fn outer_packets() -> Outcome {
    let pair =
        Pair::up(Attachment::Bridge, Family::V4, Family::V4, &json!({ "ttl": 20, "tos": 184, "vni": 0x12_3456 }))?;
    let (from, to) = (outer(pair.lab.ohio(), Family::V4, FIRST_POD), outer(pair.lab.mumbai(), Family::V4, FIRST_POD));
    let tap = pair.lab.router(2)?.tap("next", |packet| packet.src.is_ipv4())?;
    pair.ohio.ping("10.4.0.2")?.all_received()?;
    let packets = tap.stop();
    assert!(packets.len() >= 6, "{packets:?}");
    for packet in &packets {
        assert_eq!((packet.protocol, packet.dst_port), (17, Some(4790)), "{packet:?}");
        assert!([(from, to), (to, from)].contains(&(packet.src, packet.dst)), "{packet:?}");
        assert!(packet.df, "{packet:?}");
        assert_ne!(packet.checksum, Some(0), "{packet:?}");
        // Flags "VNI is valid, next protocol is there", protocol IPv4, the VNI; then the inner packet.
        assert_eq!(packet.payload[..8], [0x0c, 0, 0, 1, 0x12, 0x34, 0x56, 0], "{packet:?}");
        assert_eq!(packet.payload[8] >> 4, 4, "{packet:?}");
        // The tap sees them behind two routers, or one.
        assert!((15..20).contains(&packet.ttl), "{packet:?}");
    }
    let routes = pair.ohio.root(["ip", "-d", "route", "show", "dev", "tun"])?.ok()?.stdout;
    assert!(routes.contains(&format!("encap ip id {} src {from} dst {to} ttl 20 tos 184", 0x12_3456)), "{routes}");
    Ok(())
}

fn large_transfers() -> Outcome {
    for outside in [Family::V4, Family::V6] {
        let pair = Pair::up(Attachment::Bridge, outside, Family::V4, &json!({}))?;
        let to = "10.4.0.2".parse()?;
        for reverse in [false, true] {
            let options = IperfOptions { duration: Duration::from_secs(1), reverse, ..IperfOptions::default() };
            let report = pair.ohio.iperf3(&pair.mumbai, to, &options)?;
            assert!(report.bytes > 1 << 20, "{report:?}");
        }
        let server = pair.mumbai.tcp_echo("10.4.0.2:7".parse()?)?;
        let bytes: Vec<u8> = (0..2_u32 << 20).flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
        let back = pair.ohio.tcp_exchange(server.address(), &bytes, Duration::from_secs(30))?;
        assert!(back == bytes, "{} of {} bytes came back", back.len(), bytes.len());
    }
    Ok(())
}

fn one_to_many() -> Outcome {
    let star = Star::up(Lab::build, vxlan)?;
    let (hub, pods) = (star.hub()?, &star.leaves);
    star.all_talk()?;
    for pod in pods {
        pod.check()?;
    }
    star.centre.check()?;
    let status = tunnels(hub)?;
    assert_eq!((status.len(), &status[0]["state"]), (1, &json!("ready")));
    assert_eq!(status[0]["peers"].as_array().map(Vec::len), Some(3));
    assert_eq!(status[0]["traffic"]["rxPackets"], 18, "{status:#?}");
    // Unlike with the agent nobody looks at sources: a leaf may use another leaf's address, and the answer goes to the other.
    pods[0].root(["ip", "address", "add", "10.4.0.6/32", "dev", "tun"])?.ok()?;
    let to_the_other = |packet: &[u8]| packet.get(8 + 16..8 + 20) == Some(&[10, 4, 0, 6]);
    let tap = pods[1].tap("net1", move |packet| packet.dst_port == Some(4790) && to_the_other(&packet.payload))?;
    pods[0].ping_with("10.4.0.1", &["-c", "2", "-W", "1", "-I", "10.4.0.6"])?.none_received()?;
    assert_eq!(tap.wait_for(2, Duration::from_secs(5))?.len(), 2);
    Ok(())
}

fn gateways_and_tables() -> Outcome {
    let lab = Lab::two_clusters(Attachment::Bridge)?;
    let mut pods = Vec::new();
    for (node, peer, end, far) in [(lab.ohio(), lab.mumbai(), 1, 2), (lab.mumbai(), lab.ohio(), 2, 1)] {
        let ipam = json!({
            "type": "static", "addresses": [{ "address": format!("10.4.0.{end}/30") }],
            "routes": [
                { "dst": format!("10.40.{far}.0/24"), "gw": format!("10.4.0.{far}"), "mtu": 1300 },
                { "dst": format!("10.41.{far}.0/24"), "priority": 500 },
                { "dst": format!("10.42.{far}.0/24"), "table": 100 },
            ],
        });
        let tun = with(vxlan(outer(peer, Family::V4, FIRST_POD), "10.4.0.1/30"), &json!({ "ipam": ipam }));
        let pod = node
            .pod("routed")
            .attach(list("routed", &[net1(&lab, node), tun]), &annotation("routed", node, FIRST_POD))?;
        for network in 40..43 {
            pod.root(["ip", "address", "add", &format!("10.{network}.{end}.1/32"), "dev", "lo"])?.ok()?;
        }
        pods.push(pod);
    }
    pods[0].ping("10.40.2.1")?.all_received()?;
    pods[0].ping("10.41.2.1")?.all_received()?;
    pods[0]
        .ping_with("10.42.2.1", &["-c", "1", "-W", "1"])
        .ok()
        .map_or(Ok(()), |ping| ping.none_received().map(drop))?;
    pods[0].root(["ip", "rule", "add", "to", "10.42.0.0/16", "lookup", "100"])?.ok()?;
    pods[0].ping("10.42.2.1")?.all_received()?;
    pods[0].check()?;
    pods[0].root(["ip", "route", "del", "10.42.2.0/24", "table", "100"])?.ok()?;
    let error = pods[0].check().err().ok_or("CHECK did not notice")?;
    assert!(error.to_string().contains("10.42.2.0/24"), "{error}");
    Ok(())
}

fn several(lab: &Lab, second: &Value) -> Result<Vec<Pod>, Failed> {
    let mut pods = Vec::new();
    for (node, peer, end) in [(lab.ohio(), lab.mumbai(), 1), (lab.mumbai(), lab.ohio(), 2)] {
        let remote = outer(peer, Family::V4, FIRST_POD);
        let other = with(vxlan(remote, &format!("10.5.0.{end}/30")), &json!({ "ifName": "tun1" }));
        let plugins = [net1(lab, node), vxlan(remote, &format!("10.4.0.{end}/30")), with(other, second)];
        pods.push(node.pod("several").attach(list("several", &plugins), &annotation("several", node, FIRST_POD))?);
    }
    Ok(pods)
}

fn two_vnis() -> Outcome {
    let lab = Lab::two_clusters(Attachment::Bridge)?;
    let mut pods = several(&lab, &json!({ "vni": 8 }))?;
    pods[0].ping("10.4.0.2")?.all_received()?;
    pods[0].ping("10.5.0.2")?.all_received()?;
    for (tunnel, packets) in tunnels(lab.ohio())?.iter().zip([3, 3]) {
        assert_eq!(tunnel["peers"][0]["rxPackets"], packets, "{tunnel:#}");
    }
    pods[0].check()?;
    pods[0].detach()?;
    assert_eq!(pods[0].interface_names()?, ["lo"]);
    Ok(())
}

fn two_ports() -> Outcome {
    let lab = Lab::two_clusters(Attachment::Bridge)?;
    let pods = several(&lab, &json!({ "local": "0.0.0.0:4791" }))?;
    pods[0].ping("10.4.0.2")?.all_received()?;
    pods[0].ping("10.5.0.2")?.all_received()?;
    pods[0].check()?;
    Ok(())
}

fn usual() -> Result<(Lab, Below), Failed> {
    let lab = Lab::two_clusters(Attachment::Bridge)?;
    let below = Below::usual(&lab, lab.ohio(), "refused")?;
    // What the first tunnel of a node makes, and leaves.
    std::fs::create_dir_all(lab.ohio().run_dir().join("attachments"))?;
    Ok((lab, below))
}

fn to_mumbai(lab: &Lab) -> Value {
    vxlan(outer(lab.mumbai(), Family::V4, FIRST_POD), "10.4.0.1/30")
}

fn vni_taken() -> Outcome {
    let (lab, below) = usual()?;
    below.add(&to_mumbai(&lab))?;
    let inner = json!({ "type": "static", "addresses": [{ "address": "10.5.0.1/30" }] });
    let second = with(to_mumbai(&lab), &json!({ "ifName": "tun1", "ipam": inner }));
    below.refuses(
        &Call::tun(&below.pod)?,
        &below.stdin(&second),
        7,
        &["vni: 7 is taken", "different numbers or ports"],
    )?;
    below.add(&with(second, &json!({ "vni": 8 })))?;
    Ok(())
}

fn port_taken() -> Outcome {
    let (lab, below) = usual()?;
    let squatter = below.pod.udp_echo("0.0.0.0:4790".parse()?)?;
    let words = ["local: UDP port 4790 is taken", "address:port"];
    below.refuses(&Call::tun(&below.pod)?, &below.stdin(&to_mumbai(&lab)), 7, &words)?;
    drop(squatter);
    below.add(&to_mumbai(&lab))?;
    Ok(())
}

fn impossible_values() -> Outcome {
    let (lab, below) = usual()?;
    let swallowing =
        json!({ "type": "static", "addresses": [{ "address": "10.4.0.1/30" }], "routes": [{ "dst": "10.20.1.0/24" }] });
    let remote = outer(lab.mumbai(), Family::V4, FIRST_POD).to_string();
    let own_network = json!([{ "endpoint": remote, "allowedIPs": ["10.20.1.0/24"] }]);
    let cases: [(Value, &[&str]); 11] = [
        (json!({ "encryption": null }), &["encryption is missing", "write \"encryption\": \"none\""]),
        (json!({ "encryption": "noise" }), &["encryption", "noise", "nothing that vxlan has"]),
        (json!({ "engine": "agent" }), &["engine", "agent", "cannot carry encap \"vxlan\"", "write \"kernel\""]),
        (json!({ "underlay": "host" }), &["underlay", "host"]),
        (json!({ "vni": null }), &["vni is missing", "both ends"]),
        (json!({ "vni": 16_777_216 }), &["vni", "16777216", "1 to 16777215"]),
        (json!({ "tos": "inherit" }), &["tos", "inherit", "not possible where routes encapsulate"]),
        (json!({ "remote": format!("{remote}:4791") }), &["remote", "4791", "another port than this end (4790)"]),
        (json!({ "mtu": 1465 }), &["mtu", "1465", "does not fit", "1464"]),
        (json!({ "ipam": swallowing }), &["ipam route", "10.20.1.0/24", "into the tunnel"]),
        (json!({ "remote": null, "peers": own_network }), &["allowedIPs", "10.20.1.0/24", "into the tunnel"]),
    ];
    for (changes, words) in cases {
        let stdin = below.stdin(&with(to_mumbai(&lab), &changes));
        below.refuses(&Call::tun(&below.pod)?, &stdin, 7, words).map_err(|error| format!("{changes}: {error}"))?;
    }
    // A route that is refused by the kernel comes last of all: nothing of what was made before stays.
    let unreachable = json!({
        "type": "static", "addresses": [{ "address": "10.4.0.1/30" }], "routes": [{ "dst": "10.9.0.0/16", "gw": "10.99.0.1" }],
    });
    let stdin = below.stdin(&with(to_mumbai(&lab), &json!({ "ipam": unreachable })));
    below.refuses(&Call::tun(&below.pod)?, &stdin, 999, &["add route 10.9.0.0/16", "gateway"])?;
    below.add(&to_mumbai(&lab))?;
    Ok(())
}

fn interface_flags() -> Outcome {
    let pair = Pair::usual()?;
    let link = pair.ohio.root(["ip", "-details", "link", "show", "dev", "tun"])?.ok()?.stdout;
    assert!(link.contains("tun: <POINTOPOINT,MULTICAST,NOARP,UP,LOWER_UP> mtu 1464 "), "{link}");
    for part in ["vxlan external", "dstport 4790", " gpe ", "addrgenmode none", "link/none"] {
        assert!(link.contains(part), "{part} in {link}");
    }
    assert_eq!(pair.ohio.interface_names()?, ["lo", "net1", "tun"]);
    assert_eq!(pair.ohio.addresses("tun")?.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.4.0.1/30"]);
    let summary = pair.ohio.network_status();
    let summary: Vec<_> = summary.iter().map(|entry| (entry.interface.as_deref(), entry.mtu)).collect();
    assert_eq!(summary, [(Some("net1"), Some(1500)), (Some("tun"), Some(1464))]);
    // No process: none but the pod's own has anything open there.
    assert_eq!(pair.lab.ohio().agent_pid(), None);
    Ok(())
}

/// ADD by hand, and what CHECK and DEL read afterwards.
fn added(below: &Below, tun: &Value) -> Result<(Call, Value), Failed> {
    let call = Call::tun(&below.pod)?;
    let result: Value = call.run("ADD", &below.stdin(tun))?.ok()?.json()?;
    let stdin = with(below.stdin(tun), &json!({ "prevResult": result }));
    Ok((call, stdin))
}

fn check_names_what_is_missing() -> Outcome {
    let (lab, below) = usual()?;
    let ipam =
        json!({ "type": "static", "addresses": [{ "address": "10.4.0.1/30" }], "routes": [{ "dst": "10.44.0.0/16" }] });
    let tun = with(to_mumbai(&lab), &json!({ "ipam": ipam }));
    let replace = |encap: &str| format!("ip route replace 10.44.0.0/16 {encap} dev tun");
    let damages = [
        ("ip route del 10.44.0.0/16".to_owned(), "10.44.0.0/16"),
        ("ip route del 10.4.0.0/30".to_owned(), "10.4.0.0/30"),
        (replace(""), "encap id 7 src 10.10.1.200 dst 10.20.1.200"),
        (replace("encap ip id 8 src 10.10.1.200 dst 10.20.1.200 csum"), "encap id 7"),
        (replace("encap ip id 7 src 10.10.1.200 dst 10.20.1.201 csum"), "dst 10.20.1.200"),
        (replace("encap ip id 7 src 10.10.1.201 dst 10.20.1.200 csum"), "src 10.10.1.200"),
        (replace("encap ip id 7 src 10.10.1.200 dst 10.20.1.200 ttl 9 csum"), "10.44.0.0/16"),
        (replace("encap ip id 7 src 10.10.1.200 dst 10.20.1.200"), "10.44.0.0/16"),
        ("ip link set tun mtu 1400".to_owned(), "mtu 1400"),
        ("ip address del 10.4.0.1/30 dev tun".to_owned(), "10.4.0.1"),
        ("bridge vni delete vni 7 dev tun".to_owned(), "VNI 7"),
        ("ip link set tun down".to_owned(), "tun"),
        ("ip link del tun".to_owned(), "tun"),
    ];
    for (damage, word) in &damages {
        let (call, stdin) = added(&below, &tun)?;
        call.run("CHECK", &stdin)?.ok()?;
        below.pod.root(damage.split_ascii_whitespace())?.ok()?;
        let said = call.run("CHECK", &stdin)?.fails().map_err(|_| format!("CHECK did not notice: {damage}"))?.stdout;
        assert!(said.contains(word), "{damage}: {said}");
        call.run("DEL", &stdin)?.ok()?;
    }
    // Another device of the same name.
    for other in
        ["type vxlan dstport 4790 external", "type vxlan dstport 4791 gpe external", "type vxlan id 7 dstport 4790"]
    {
        let (call, stdin) = added(&below, &tun)?;
        below.pod.root(["ip", "link", "del", "tun"])?.ok()?;
        below.pod.root(format!("ip link add tun mtu 1464 {other}").split(' '))?.ok()?;
        for command in ["address add 10.4.0.1/30 noprefixroute dev tun", "link set tun up"] {
            below.pod.root(format!("ip {command}").split(' '))?.ok()?;
        }
        let said = call.run("CHECK", &stdin)?.fails()?.stdout;
        assert!(said.contains("Interface tun is Vxlan"), "{other}: {said}");
        call.run("DEL", &stdin)?.ok()?;
        assert_eq!(below.pod.interface_names()?, ["lo", "net1"]);
    }
    Ok(())
}

/// A pod before its tunnel, the call and what it reads, and how pod and node looked.
struct Before {
    lab: Lab,
    below: Below,
    before: Sight,
}

impl Before {
    fn new() -> Result<Self, Failed> {
        let (lab, below) = usual()?;
        let before = Sight::of(&below.pod)?;
        Ok(Self { lab, below, before })
    }

    fn is_back(&self) -> Outcome {
        Ok(self.before.unchanged(&Sight::of(&self.below.pod)?)?)
    }

    fn add(&self) -> Result<(Call, Value), Failed> {
        added(&self.below, &to_mumbai(&self.lab))
    }
}

fn del_leaves_nothing() -> Outcome {
    let site = Before::new()?;
    let (call, stdin) = site.add()?;
    for _ in 0..2 {
        call.run("DEL", &stdin)?.ok()?;
        site.is_back()?;
    }
    for (netns, read) in [
        ("", stdin.clone()),
        ("/run/netns/adit-no-such", with(stdin.clone(), &json!({ "prevResult": null }))),
        ("", with(stdin.clone(), &json!({ "vni": "seven", "encryption": null }))),
        ("", json!([])),
    ] {
        let (call, _) = site.add()?;
        call.clone().in_netns(netns).run("DEL", &read)?.ok()?;
        site.is_back()?;
    }
    // The namespace goes first: the device with it, the record by DEL.
    site.add()?;
    site.below.pod.vanish()?;
    assert!(!records(site.below.pod.node())?.is_empty());
    call.run("DEL", &stdin)?.ok()?;
    assert!(records(site.below.pod.node())?.is_empty());
    Ok(())
}

fn records(node: &Node) -> Result<Vec<String>, Failed> {
    let files = std::fs::read_dir(node.run_dir().join("attachments"))?;
    Ok(files.map(|file| Ok(file?.file_name().to_string_lossy().into_owned())).collect::<std::io::Result<_>>()?)
}

fn gc_removes_the_stale() -> Outcome {
    let site = Before::new()?;
    let (call, stdin) = site.add()?;
    let list = |valid: Value| with(stdin.clone(), &json!({ "cni.dev/valid-attachments": valid, "prevResult": null }));
    let own = json!([{ "containerID": site.below.pod.identity().container_id, "ifname": "net1" }]);
    call.run("GC", &list(own))?.ok()?;
    call.run("CHECK", &stdin)?.ok()?;
    // Nothing of another network goes.
    call.run("GC", &with(list(json!([])), &json!({ "name": "another" })))?.ok()?;
    call.run("CHECK", &stdin)?.ok()?;
    call.run("GC", &list(json!([])))?.ok()?;
    site.is_back()
}

fn add_again() -> Outcome {
    let site = Before::new()?;
    let mut killed = 0;
    for step in 0..12_u64 {
        let call = Call::tun(&site.below.pod)?;
        let life = Duration::from_micros(500 + step * 500).as_secs_f64().to_string();
        let mortal = call.clone().under(&["timeout", "--foreground", "--signal=KILL", &life]);
        killed += u32::from(!mortal.run("ADD", &site.below.stdin(&to_mumbai(&site.lab)))?.success());
        let (call, stdin) = site.add()?;
        call.run("CHECK", &stdin)?.ok()?;
        call.run("DEL", &stdin)?.ok()?;
        site.is_back().map_err(|failed| format!("step {step}: {}", failed.message().unwrap_or_default()))?;
    }
    assert!(killed >= 2, "only {killed} of 12 were killed in time");
    Ok(())
}

fn plugin_status() -> Outcome {
    let (lab, below) = usual()?;
    let call = Call::tun(&below.pod)?;
    let before = lab.ohio().snapshot()?;
    call.run("STATUS", &below.stdin(&to_mumbai(&lab)))?.ok()?;
    // It asks by requests that the kernel refuses: nothing is made.
    before.unchanged(&lab.ohio().snapshot()?)?;
    let of_agent = tun(outer(lab.mumbai(), Family::V4, FIRST_POD), "10.4.0.1/30");
    call.fails("STATUS", &below.stdin(&of_agent), 50, &["cannot reach the agent"])?;
    Ok(())
}

fn shown() -> Outcome {
    let pair = Pair::usual()?;
    pair.ohio.ping("10.4.0.2")?.all_received()?;
    let (ohio, shown) = (pair.lab.ohio(), |node: &Node| node.adit(["status"]));
    let text = shown(ohio)?.ok()?;
    for part in ["ohio-a", "tun over net1", "ready", "vxlan, encryption none", "1464", "10.20.1.200:4790", "252 B in 3"]
    {
        assert!(text.stdout.contains(part), "{part} in {}", text.stdout);
    }
    assert_eq!(text.stderr, "");
    let before = tunnels(ohio)?;
    assert_eq!(
        (before[0]["engine"].as_str(), before[0]["carried"].as_bool()),
        (Some("kernel"), Some(true)),
        "{before:#?}"
    );

    // With an agent it is the same, and one that is missed is named where a tunnel needs it.
    ohio.start_agent()?;
    assert_eq!(tunnels(ohio)?.len(), 1);
    pair.ohio.root(["ip", "link", "set", "tun", "down"])?.ok()?;
    assert!(shown(ohio)?.ok()?.stdout.contains("not carried: tun is down"));
    pair.ohio.root(["ip", "link", "del", "tun"])?.ok()?;
    assert!(shown(ohio)?.ok()?.stdout.contains("no interface tun any more"));
    Ok(())
}

fn beside_an_agent() -> Outcome {
    let lab = lab_with_agents(&LabSpec::two_clusters(Attachment::Bridge))?;
    let mut pods = Vec::new();
    for (node, peer, end) in [(lab.ohio(), lab.mumbai(), 1), (lab.mumbai(), lab.ohio(), 2)] {
        let remote = outer(peer, Family::V4, FIRST_POD);
        let other = with(tun(remote, &format!("10.5.0.{end}/30")), &json!({ "ifName": "tun1" }));
        let plugins = [net1(&lab, node), vxlan(remote, &format!("10.4.0.{end}/30")), other];
        pods.push(node.pod("mixed").attach(list("mixed", &plugins), &annotation("mixed", node, FIRST_POD))?);
    }
    pods[0].ping("10.4.0.2")?.all_received()?;
    pods[0].ping("10.5.0.2")?.all_received()?;
    let ohio = lab.ohio();
    let open = ohio.agent_fds()?;
    assert_eq!((open.tun, open.udp), (1, 1), "{open:?}");
    ohio.restart_agent()?;
    pods[0].ping("10.5.0.2")?.all_received()?;
    assert!(!ohio.agent_log().contains(":tun:"), "{}", ohio.agent_log());
    let states: Vec<_> = tunnels(ohio)?.iter().map(|tunnel| tunnel["state"].clone()).collect();
    assert_eq!(states, ["ready", "up"]);

    // Without the agent the kernel's goes on, and the other one is not passed over in silence.
    ohio.kill_agent()?;
    pods[0].ping("10.4.0.2")?.all_received()?;
    let text = ohio.adit(["status"])?.fails()?;
    assert!(text.stdout.contains("ready") && text.stderr.contains("cannot reach the agent"), "{text:?}");
    pods[0].detach()?;
    assert_eq!(pods[0].interface_names()?, ["lo"]);
    Ok(())
}

fn vanished_pod() -> Outcome {
    let pair = Pair::usual()?;
    let ohio = pair.lab.ohio();
    ohio.start_agent()?;
    pair.ohio.vanish()?;
    eventually("the agent to retire the record", Duration::from_secs(10), || {
        Ok(tunnels(ohio)?.is_empty().then_some(()))
    })?;
    assert!(records(ohio)?.is_empty());
    Ok(())
}
