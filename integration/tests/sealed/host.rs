//! Tunnels whose outer packets travel in the network of the nodes.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use adit_integration::{
    sealed::{Format, KeyPair, SealedPair, answers_within, file_crosses, install_key, sealed_tun, tunnel},
    trial,
    tunnels::{Below, Call, FIRST_POD, Family, Pair, annotation, inner_pair, with},
};
use adit_lab::Error;
use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::Outcome;

/// Clusters by their numbers in the lab.
const OHIO: u8 = 1;
const MUMBAI: u8 = 2;

const SOON: Duration = Duration::from_secs(25);

pub fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for format in Format::ALL {
        for outside in [Family::V4, Family::V6] {
            let name = format!("pods_talk_through_the_network_of_their_nodes_by_{format:?}_over_{outside:?}");
            trials.push(trial(name.to_lowercase(), move || talk(format, outside)));
        }
        let named = |what: &str| format!("{what}_by_{format:?}").to_lowercase();
        trials.extend([
            trial(named("a_port_of_the_node_is_one_tunnels_alone"), move || port_taken(format)),
            trial(named("what_the_node_has_not_is_refused_by_name"), move || refused(format)),
        ]);
    }
    trials.push(trial("a_kernel_without_wireguard_says_so_and_nothing_changes", without_wireguard));
    trials
}

/// The address of the only node of a cluster on its uplink, as the lab numbers it.
fn uplink(cluster: u8, family: Family) -> IpAddr {
    family.of(&[
        Ipv4Addr::new(100, 64 + cluster, 1, 2).into(),
        Ipv6Addr::new(0xfd64, u16::from(cluster), 1, 0, 0, 0, 0, 2).into(),
    ])
}

/// A pair whose ends know each other's node.
fn pair_on_nodes(format: Format, outside: Family) -> adit_lab::Result<Pair> {
    let end = |peer: u8| json!({ "underlay": "host", "remote": uplink(peer, outside).to_string() });
    SealedPair::new(format).over(outside, Family::V4).with(end(MUMBAI), end(OHIO)).up()
}

/// A tunnel of Ohio's pod to Mumbai's node.
fn own_tunnel(format: Format, changes: &Value) -> Result<Value, Error> {
    let tun = sealed_tun(format, Family::V4, Some(uplink(MUMBAI, Family::V4)), &KeyPair::new()?.public, "10.4.0.1/30");
    Ok(with(tun, changes))
}

fn talk(format: Format, outside: Family) -> Outcome {
    let pair = pair_on_nodes(format, outside)?;
    let nodes = [pair.lab.ohio(), pair.lab.mumbai()];
    let [here, there] = inner_pair(Family::V4).map(|text| text.split('/').next().unwrap_or_default());
    let port = format.port();
    let tap = pair.lab.router(2)?.tap("next", move |packet| packet.has_port(port))?;
    pair.ohio.ping(there)?.all_received()?.with_ttl(64)?;
    file_crosses(&pair.mumbai, &pair.ohio, here)?;

    let seen = tap.stop();
    let ends = [OHIO, MUMBAI].map(|cluster| uplink(cluster, outside));
    assert!(!seen.is_empty() && seen.iter().all(|packet| ends.contains(&packet.src) && ends.contains(&packet.dst)));
    for (pod, node) in [(&pair.ohio, nodes[0]), (&pair.mumbai, nodes[1])] {
        pod.check()?;
        assert_eq!(pod.interface("tun")?.mtu_bytes, outside.of(&[1440, 1420]));
        let status = tunnel(node)?;
        assert_eq!((&status["underlay"], &status["device"]), (&json!("host"), &json!("up0")), "{status:#}");
        let sockets = pod.root(["ss", "-Hlun"])?.ok()?.stdout;
        assert!(!sockets.contains(&format!(":{port}")), "{sockets}");
    }

    nodes[0].kill_agent()?;
    nodes[0].start_agent()?;
    answers_within(SOON, &pair.ohio, there)?;

    let listening = || Ok::<_, Error>(nodes[0].root(["ss", "-Hlun"])?.ok()?.stdout);
    assert!(listening()?.contains(&format!(":{port}")));
    pair.ohio.delete()?;
    assert!(!listening()?.contains(&format!(":{port}")));
    assert_eq!(nodes[0].agent_fds()?.tun, 0);
    Ok(())
}

fn port_taken(format: Format) -> Outcome {
    let pair = pair_on_nodes(format, Family::V4)?;
    let ohio = pair.lab.ohio();
    let error = ohio.pod("second").annotated(&annotation("tunnelled", ohio, FIRST_POD + 1)).unwrap_err();
    let text = error.to_string();
    for part in ["taken in this node", &format!(":{}", format.port()), "different ports"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    pair.ohio.ping("10.4.0.2")?.all_received()?;
    Ok(())
}

fn refused(format: Format) -> Outcome {
    let pair = pair_on_nodes(format, Family::V4)?;
    let node = pair.lab.ohio();
    let below = Below::usual(&pair.lab, node, "refused")?;
    let tun = own_tunnel(format, &json!({ "underlay": "host", "local": "0.0.0.0:7777" }))?;
    for (changes, words) in [
        (json!({ "device": "wan7" }), ["device", "the node has no interface wan7"]),
        (json!({ "local": "10.99.0.1" }), ["local", "10.99.0.1"]),
        (json!({ "local": "127.0.0.1" }), ["local", "127.0.0.1"]),
    ] {
        below.refuses(&Call::tun(&below.pod)?, &below.stdin(&with(tun.clone(), &changes)), 7, &words)?;
    }
    let own = uplink(OHIO, Family::V4).to_string();
    below.refuses(
        &Call::tun(&below.pod)?,
        &below.stdin(&with(tun.clone(), &json!({ "remote": own }))),
        7,
        &["remote", &own],
    )?;
    below.add(&tun)?;
    Ok(())
}

fn without_wireguard() -> Outcome {
    let pair = SealedPair::new(Format::Wireguard).prepare()?;
    let below = Below::usual(&pair.lab, pair.lab.ohio(), "refused")?;
    let kernel_has_it = below.pod.root(["ip", "link", "add", "probe", "type", "wireguard"])?.success();
    if kernel_has_it {
        eprintln!("left out: this kernel has WireGuard");
        return Ok(());
    }
    install_key(pair.lab.ohio(), "_", "tunnel.key", &KeyPair::new()?.private)?;
    let by_kernel = json!({ "engine": "kernel", "underlay": "host", "privateKeyFile": "tunnel.key" });
    let stdin = below.stdin(&own_tunnel(Format::Wireguard, &by_kernel)?);
    below.refuses(&Call::tun(&below.pod)?, &stdin, 999, &["WireGuard", "CONFIG_WIREGUARD"])?;
    Ok(())
}
