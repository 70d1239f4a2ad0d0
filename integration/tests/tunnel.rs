//! Tunnels as users make them: every kind of network below, every IP version, one peer or several, real traffic.

use std::time::Duration;

use adit_integration::{
    trial,
    tunnels::{
        FIRST_POD, Family, Pair, Star, annotation, inner_pair, lab_with_agents, list, net1, outer, tun, tunnels, with,
    },
};
use adit_lab::{Attachment, IperfOptions, Lab, LabSpec, eventually};
use libtest_mimic::Failed;
use serde_json::json;

type Outcome = Result<(), Failed>;

fn main() {
    let mut trials = Vec::new();
    for attachment in [Attachment::Bridge, Attachment::Macvlan] {
        for outside in [Family::V4, Family::V6] {
            for inside in [Family::V4, Family::V6] {
                let name = format!("pods_talk_over_{attachment:?}_with_{outside:?}_outside_and_{inside:?}_inside")
                    .to_lowercase();
                trials.push(trial(name, move || pods_talk(attachment, outside, inside)));
            }
        }
    }
    trials.extend([
        trial("outer_packets_are_udp_between_the_two_net1_addresses", outer_packets_are_udp),
        trial("the_mtu_is_the_largest_that_passes_with_df", the_mtu_is_the_largest),
        trial("a_configured_mtu_of_1452_is_used", a_configured_mtu),
        trial("a_smaller_route_mtu_makes_a_smaller_tunnel", a_smaller_route_mtu),
        trial("large_transfers_arrive_whole_both_ways", large_transfers),
        trial("one_pod_talks_to_three_by_longest_prefix", one_to_many),
        trial("several_tunnels_live_in_one_pod", several_tunnels),
        trial("two_pods_of_one_node_use_the_same_outer_port", same_port_on_one_node),
        trial("two_pods_of_one_node_may_skip_the_network", shortcut),
        trial("an_annotation_sets_the_tunnels_address", annotated_address),
        trial("the_first_packet_waits_for_the_peer_to_come", the_peer_comes_later),
        trial("an_ipv6_pod_on_a_new_bridge_answers_at_once", new_bridge_ipv6),
        trial("network_status_shows_net1_and_tun", network_status),
        trial("the_tuns_interface_is_what_an_administrator_expects", interface_flags),
    ]);
    adit_integration::main(trials);
}

fn pods_talk(attachment: Attachment, outside: Family, inside: Family) -> Outcome {
    let pair = Pair::up(attachment, outside, inside)?;
    let [here, there] = inner_pair(inside).map(|text| text.split('/').next().unwrap_or_default());
    pair.ohio.ping(outer(pair.lab.mumbai(), outside, FIRST_POD))?.all_received()?.with_ttl(59)?;
    pair.ohio.ping(there)?.all_received()?.with_ttl(64)?;
    pair.mumbai.ping(here)?.all_received()?;
    pair.ohio.check()?;
    pair.mumbai.check()?;
    let expected_mtu = if outside == Family::V4 { 1456 } else { 1436 };
    assert_eq!(pair.ohio.interface("tun")?.mtu_bytes, expected_mtu);
    let status = tunnels(pair.lab.ohio())?;
    assert_eq!(status.len(), 1);
    assert_eq!(status[0]["state"], "up");
    let peer = &status[0]["peers"][0];
    assert!(peer["rxPackets"].as_u64().is_some_and(|packets| packets >= 3), "{status:#?}");
    assert!(peer["lastSeenMs"].as_u64().is_some_and(|age| age < 60_000), "{status:#?}");
    Ok(())
}

fn outer_packets_are_udp() -> Outcome {
    let pair = Pair::usual()?;
    let (from, to) = (outer(pair.lab.ohio(), Family::V4, FIRST_POD), outer(pair.lab.mumbai(), Family::V4, FIRST_POD));
    let tap = pair.lab.router(2)?.tap("next", |packet| packet.src.is_ipv4())?;
    pair.ohio.ping("10.4.0.2")?.all_received()?;
    let packets = tap.stop();
    assert!(packets.len() >= 6, "{packets:?}");
    for packet in &packets {
        assert_eq!((packet.protocol, packet.src_port, packet.dst_port), (17, Some(6090), Some(6090)), "{packet:?}");
        assert!([(from, to), (to, from)].contains(&(packet.src, packet.dst)), "{packet:?}");
        assert!(packet.df, "{packet:?}");
        assert_ne!(packet.checksum, Some(0), "{packet:?}");
    }
    // Version 1, type data, unlike a handshake that may come late; behind the 16 bytes of header the inner packet, which is
    // from 10.4.0.1.
    let is_data = |payload: &[u8]| payload.first() == Some(&0x01) && payload.len() > 16;
    let request = packets.iter().find(|packet| packet.src == from && is_data(&packet.payload)).ok_or("no data")?;
    assert_eq!(request.payload[28..32], [10, 4, 0, 1]);
    Ok(())
}

fn the_mtu_is_the_largest() -> Outcome {
    for (outside, inside, header) in [(Family::V4, Family::V4, 28), (Family::V6, Family::V6, 48)] {
        // What looks for the path's size is as large.
        let fixed = json!({ "probe": { "mtu": false } });
        let pair = Pair::with_tun(Attachment::Bridge, outside, inside, &fixed)?;
        let ends = [pair.lab.ohio(), pair.lab.mumbai()].map(|node| outer(node, outside, FIRST_POD));
        // A pair would carry several datagrams as one, which is not what a wire has.
        for pod in [&pair.ohio, &pair.mumbai] {
            pod.root(["ethtool", "-K", "net1", "tx-udp-segmentation", "off"])?.ok()?;
        }
        // By address alone: only the first fragment of a datagram has ports.
        let tap =
            pair.lab.router(2)?.tap("next", move |packet| ends.contains(&packet.src) && ends.contains(&packet.dst))?;
        let [_, there] = inner_pair(inside).map(|text| text.split('/').next().unwrap_or_default());
        let mtu = pair.ohio.interface("tun")?.mtu_bytes;
        let size = |bytes: u32| (bytes - header).to_string();
        pair.ohio.ping_with(there, &["-c", "2", "-M", "do", "-s", &size(mtu)])?.all_received()?;
        eventually("two requests and two answers that fill the path", Duration::from_secs(5), || {
            // Repairs of them fill it, too.
            Ok((tap.packets().iter().filter(|packet| packet.length == 1500).count() >= 4).then_some(()))
        })?;

        // A larger packet is refused where it is sent, or comes in pieces that each fit.
        pair.ohio.ping_with(there, &["-c", "2", "-W", "1", "-M", "do", "-s", &size(mtu + 1)])?.none_received()?;
        pair.ohio.ping_with(there, &["-c", "2", "-M", "dont", "-s", "4000"])?.all_received()?;
        for packet in tap.stop() {
            let whole = packet.length <= 1500 && packet.df && !packet.fragment;
            assert!(whole, "{} bytes, df {}, fragment {}", packet.length, packet.df, packet.fragment);
        }
    }
    Ok(())
}

fn a_configured_mtu() -> Outcome {
    let pair = Pair::with_tun(Attachment::Bridge, Family::V4, Family::V4, &json!({ "mtu": 1452 }))?;
    assert_eq!(pair.ohio.interface("tun")?.mtu_bytes, 1452);
    pair.ohio.ping_with("10.4.0.2", &["-c", "2", "-M", "do", "-s", "1424"])?.all_received()?;
    Ok(())
}

fn a_smaller_route_mtu() -> Outcome {
    let lab = lab_with_agents(&LabSpec::two_clusters(Attachment::Bridge))?;
    let (ohio, mumbai) = (lab.ohio(), lab.mumbai());
    let mut below = net1(&lab, ohio);
    for route in below["ipam"]["routes"].as_array_mut().into_iter().flatten() {
        route["mtu"] = json!(1400);
    }
    let nad = list("narrow", &[below, tun(outer(mumbai, Family::V4, FIRST_POD), "10.4.0.1/30")]);
    let pod = ohio.pod("narrow").attach(nad, &annotation("narrow", ohio, FIRST_POD))?;
    assert_eq!(pod.interface("tun")?.mtu_bytes, 1400 - 44);
    Ok(())
}

fn large_transfers() -> Outcome {
    let pair = Pair::usual()?;
    let to = "10.4.0.2".parse()?;
    for reverse in [false, true] {
        let options = IperfOptions { duration: Duration::from_secs(1), reverse, ..IperfOptions::default() };
        let report = pair.ohio.iperf3(&pair.mumbai, to, &options)?;
        assert!(report.bytes > 1 << 20, "{report:?}");
    }
    // Content, not only amount: the same eight megabytes come back.
    let server = pair.mumbai.tcp_echo("10.4.0.2:7".parse()?)?;
    let bytes: Vec<u8> = (0..2_u32 << 20).flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
    let back = pair.ohio.tcp_exchange(server.address(), &bytes, Duration::from_secs(30))?;
    assert!(back == bytes, "{} of {} bytes came back", back.len(), bytes.len());
    Ok(())
}

fn one_to_many() -> Outcome {
    let star = Star::up(lab_with_agents, tun)?;
    let (hub, pods) = (star.hub()?, &star.leaves);
    star.all_talk()?;
    // A leaf that uses another leaf's address is not believed.
    pods[0].root(["ip", "address", "add", "10.4.0.5/32", "dev", "tun"])?.ok()?;
    pods[0].ping_with("10.4.0.1", &["-c", "2", "-W", "1", "-I", "10.4.0.5"])?.none_received()?;
    assert_eq!(adit_integration::tunnels::dropped(hub, "source_not_allowed")?, 2);
    let status = tunnels(hub)?;
    assert_eq!(status[0]["peers"].as_array().map(Vec::len), Some(3));
    assert_eq!(status[0]["state"], "up");
    Ok(())
}

fn several_tunnels() -> Outcome {
    let lab = lab_with_agents(&LabSpec::two_clusters(Attachment::Bridge))?;
    let mut pods = Vec::new();
    for (node, peer, end) in [(lab.ohio(), lab.mumbai(), 1), (lab.mumbai(), lab.ohio(), 2)] {
        let own = outer(node, Family::V4, FIRST_POD);
        let remote = outer(peer, Family::V4, FIRST_POD);
        let tunnel = |name: &str, port: u16, inner: String| {
            with(
                tun(remote, &inner),
                &json!({ "ifName": name, "local": format!("{own}:{port}"), "remote": format!("{remote}:{port}") }),
            )
        };
        let plugins = [
            net1(&lab, node),
            tunnel("tun", 6090, format!("10.4.0.{end}/30")),
            tunnel("tun1", 6091, format!("10.5.0.{end}/30")),
            tunnel("tun2", 6092, format!("fd06::{end}/64")),
        ];
        pods.push(node.pod("several").attach(list("several", &plugins), &annotation("several", node, FIRST_POD))?);
    }
    for inner in ["10.4.0.2", "10.5.0.2", "fd06::2"] {
        pods[0].ping(inner)?.all_received()?;
    }
    assert_eq!(tunnels(lab.ohio())?.len(), 3);
    pods[0].check()?;
    pods[0].detach()?;
    assert_eq!(tunnels(lab.ohio())?.len(), 0);
    Ok(())
}

fn same_port_on_one_node() -> Outcome {
    let lab = lab_with_agents(&LabSpec::two_clusters(Attachment::Bridge))?;
    let mut pods = Vec::new();
    for host in [FIRST_POD, FIRST_POD + 1] {
        let network = host - FIRST_POD;
        for (node, peer, end) in [(lab.ohio(), lab.mumbai(), 1), (lab.mumbai(), lab.ohio(), 2)] {
            // Both tunnels use the same inner addresses too: pods of a node know nothing of each other.
            let name = format!("net-{network}");
            let nad = list(&name, &[net1(&lab, node), tun(outer(peer, Family::V4, host), &format!("10.4.0.{end}/30"))]);
            pods.push(node.pod(&format!("pod-{network}")).attach(nad, &annotation(&name, node, host))?);
        }
    }
    pods[0].ping("10.4.0.2")?.all_received()?;
    pods[2].ping("10.4.0.2")?.all_received()?;
    for tunnel in tunnels(lab.ohio())? {
        assert_eq!(tunnel["peers"][0]["rxPackets"], 3, "{tunnel:#}");
    }
    Ok(())
}

fn shortcut() -> Outcome {
    let lab = lab_with_agents(&LabSpec::two_clusters(Attachment::Bridge))?;
    let node = lab.ohio();
    let mut pods = Vec::new();
    for end in [1, 2] {
        let remote = outer(node, Family::V4, FIRST_POD + 2 - end);
        let tunnel = with(tun(remote, &format!("10.4.0.{end}/30")), &json!({ "shortcut": true }));
        let (name, host) = (format!("pod-{end}"), FIRST_POD + end - 1);
        pods.push(node.pod(&name).attach(list(&name, &[net1(&lab, node), tunnel]), &annotation(&name, node, host))?);
    }
    // They meet over the network.
    eventually("both ends to skip the network", Duration::from_secs(10), || {
        pods[0].ping("10.4.0.2")?.all_received()?;
        let found = tunnels(node)?.iter().filter(|tunnel| tunnel["peers"][0]["shortcut"] == true).count();
        Ok((found == 2).then_some(()))
    })?;
    // Probes take the network: they are about it.
    let is_probe = |payload: &[u8]| payload.first().is_some_and(|first| first >> 4 == 3);
    let tap = pods[0].tap("net1", move |packet| packet.protocol == 17 && !is_probe(&packet.payload))?;
    let server = pods[1].tcp_echo("10.4.0.2:7".parse()?)?;
    let bytes: Vec<u8> = (0..1_u32 << 20).flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
    let back = pods[0].tcp_exchange(server.address(), &bytes, Duration::from_secs(30))?;
    assert!(back == bytes, "{} of {} bytes came back", back.len(), bytes.len());
    let outside = tap.stop();
    assert!(outside.is_empty(), "{outside:?}");
    for tunnel in tunnels(node)? {
        let received = tunnel["peers"][0]["rxBytes"].as_u64();
        assert!(received.is_some_and(|received| received > 4 << 20), "{tunnel:#}");
        assert_eq!(tunnel["drops"], json!({}), "{tunnel:#}");
    }
    // The other end's end is noticed, and what comes then is no longer believed to arrive.
    pods[1].detach()?;
    pods[0].ping_with("10.4.0.2", &["-c", "1", "-W", "1"])?.none_received()?;
    assert_eq!(tunnels(node)?.first().map(|tunnel| tunnel["peers"][0]["shortcut"] == true), Some(false));
    Ok(())
}

fn annotated_address() -> Outcome {
    let lab = lab_with_agents(&LabSpec::two_clusters(Attachment::Bridge))?;
    let mut pods = Vec::new();
    for (node, peer, inner) in [(lab.ohio(), lab.mumbai(), "10.4.9.1/30"), (lab.mumbai(), lab.ohio(), "10.4.9.2/30")] {
        let mut networks: serde_json::Value = serde_json::from_str(&annotation("own", node, FIRST_POD))?;
        networks[0]["cni-args"] = json!({ "tun": { "ips": [inner] } });
        let nad = list("own", &[net1(&lab, node), tun(outer(peer, Family::V4, FIRST_POD), "10.4.0.1/30")]);
        pods.push(node.pod("own").attach(nad, &networks.to_string())?);
    }
    assert_eq!(pods[0].addresses("tun")?.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.4.9.1/30"]);
    pods[0].ping("10.4.9.2")?.all_received()?;
    Ok(())
}

fn the_peer_comes_later() -> Outcome {
    let lab = lab_with_agents(&LabSpec::two_clusters(Attachment::Bridge))?;
    let make = |node: &adit_lab::Node, peer: &adit_lab::Node, inner: &str| {
        let nad = list("later", &[net1(&lab, node), tun(outer(peer, Family::V4, FIRST_POD), inner)]);
        node.pod("later").attach(nad, &annotation("later", node, FIRST_POD))
    };
    let first = make(lab.ohio(), lab.mumbai(), "10.4.0.1/30")?;
    assert_eq!(tunnels(lab.ohio())?[0]["state"], "waiting");
    // CHECK tells local truth: the peer may not exist yet.
    first.check()?;
    first.ping_with("10.4.0.2", &["-c", "1", "-W", "1"])?.none_received()?;
    let second = make(lab.mumbai(), lab.ohio(), "10.4.0.2/30")?;
    second.ping("10.4.0.1")?.all_received()?;
    first.ping("10.4.0.2")?.all_received()?;
    Ok(())
}

fn new_bridge_ipv6() -> Outcome {
    let lab = Lab::build(&LabSpec::two_clusters(Attachment::Bridge))?;
    let ohio = lab.ohio();
    // The pod announces itself on a link that has forgotten it: only the node's own question can find it.
    let below = with(net1(&lab, ohio), &json!({ "ipam": { "type": "static", "routes": [{ "dst": "::/0" }] } }));
    let pod = ohio.pod("fresh").attach(list("fresh", &[below]), &annotation("fresh", ohio, FIRST_POD))?;
    ohio.root(["ip", "-6", "neighbour", "flush", "dev", "cni0"])?.ok()?;
    let address = outer(ohio, Family::V6, FIRST_POD).to_string();
    lab.router(1)?.root(["ping", "-c", "1", "-W", "1", &address])?.ok()?;
    drop(pod);
    Ok(())
}

fn network_status() -> Outcome {
    let pair = Pair::usual()?;
    let status = pair.ohio.network_status();
    let summary: Vec<_> = status.iter().map(|entry| (entry.interface.as_deref(), entry.mtu)).collect();
    assert_eq!(summary, [(Some("net1"), Some(1500)), (Some("tun"), Some(1456))], "{status:#?}");
    assert_eq!(status[1].ips.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.4.0.1"]);
    assert_eq!(status[1].name, "default/tunnelled");
    Ok(())
}

fn interface_flags() -> Outcome {
    let pair = Pair::usual()?;
    let line = pair.ohio.root(["ip", "link", "show", "dev", "tun"])?.ok()?.stdout;
    assert!(line.contains("tun: <POINTOPOINT,MULTICAST,NOARP,UP,LOWER_UP> mtu 1456 "), "{line}");
    assert!(line.contains("state UNKNOWN") && line.contains("qlen 500"), "{line}");
    assert_eq!(pair.ohio.interface_names()?, ["lo", "net1", "tun"]);
    assert!(pair.ohio.capabilities()?.are_none());
    let tun = pair.ohio.root(["ip", "-details", "link", "show", "dev", "tun"])?.ok()?.stdout;
    assert!(tun.contains("tun type tun") && tun.contains("persist on") && tun.contains("user root"), "{tun}");
    assert!(!tun.contains("multi_queue"), "{tun}");
    Ok(())
}
