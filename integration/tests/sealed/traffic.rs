//! Pods talk, files cross, sessions come back.

use std::time::Duration;

use adit_integration::{
    sealed::{
        Format, SealedPair, answers_within, derived_key, drops_of_packets, file_crosses, peer, sealed_tun, tunnel,
    },
    trial,
    tunnels::{FIRST_POD, Family, Star, annotation, dropped, inner_pair, lab_with_agents, list, net1, outer, with},
};
use adit_lab::{Attachment, LabSpec, Node};
use libtest_mimic::Trial;
use serde_json::json;

use crate::Outcome;

/// An end that lost its sessions is found again when the other one misses answers: after 15 s (section 6.5 of the WireGuard paper).
const MISSED: Duration = Duration::from_secs(25);

pub fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for format in Format::ALL {
        for outside in [Family::V4, Family::V6] {
            for inside in [Family::V4, Family::V6] {
                let name = format!("files_cross_by_{format:?}_with_{outside:?}_outside_and_{inside:?}_inside");
                trials.push(trial(name.to_lowercase(), move || files_cross(format, outside, inside)));
            }
        }
        let named = |what: &str| format!("{what}_by_{format:?}").to_lowercase();
        trials.extend([
            trial(named("pods_on_macvlan_talk"), move || macvlan(format)),
            trial(named("one_pod_talks_to_three_by_longest_prefix"), move || star(format)),
            trial(named("a_killed_agent_comes_back_to_its_tunnels"), move || killed(format)),
            trial(named("keepalives_keep_an_idle_peer_seen"), move || keepalive(format)),
        ]);
    }
    trials
}

fn bare(address: &str) -> &str {
    address.split('/').next().unwrap_or_default()
}

fn files_cross(format: Format, outside: Family, inside: Family) -> Outcome {
    let pair = SealedPair::new(format).over(outside, inside).up()?;
    let [here, there] = inner_pair(inside).map(bare);
    // Each end begins once: who is asked first has no session yet.
    pair.ohio.ping(there)?.all_received()?.with_ttl(64)?;
    pair.mumbai.ping(here)?.all_received()?.with_ttl(64)?;
    file_crosses(&pair.ohio, &pair.mumbai, there)?;
    file_crosses(&pair.mumbai, &pair.ohio, here)?;
    for (pod, node) in [(&pair.ohio, pair.lab.ohio()), (&pair.mumbai, pair.lab.mumbai())] {
        pod.check()?;
        assert_eq!(pod.interface("tun")?.mtu_bytes, outside.of(&[1440, 1420]));
        let status = tunnel(node)?;
        assert_eq!((&status["state"], &status["encap"]), (&json!("up"), &json!(format.encap())), "{status:#}");
        assert!(drops_of_packets(node)?.is_empty(), "{status:#}");
        let cipher = status["peers"][0]["cipher"].as_str();
        let possible = match format {
            Format::Noise => ["aes-256-gcm", "chacha20-poly1305"].as_slice(),
            Format::Wireguard => &["chacha20-poly1305"],
        };
        assert!(cipher.is_some_and(|cipher| possible.contains(&cipher)), "{status:#}");
    }
    Ok(())
}

fn macvlan(format: Format) -> Outcome {
    let pair = SealedPair::new(format).on(Attachment::Macvlan).up()?;
    pair.ohio.ping("10.4.0.2")?.all_received()?;
    pair.mumbai.ping("10.4.0.1")?.all_received()?;
    Ok(())
}

/// As in the plain star; where the last leaf is, its centre is not told.
fn star(format: Format) -> Outcome {
    let spec =
        LabSpec::new(Attachment::Bridge).cluster("hub", 1).cluster("east", 1).cluster("south", 1).cluster("west", 1);
    let lab = lab_with_agents(&spec)?;
    let hub = lab.node("hub-1")?;
    let nodes = [lab.node("east-1")?, lab.node("south-1")?, lab.node("west-1")?];
    let allowed = [json!(["10.4.0.2/32"]), json!(["10.4.0.4/30"]), json!(["10.4.0.0/24", "fd04::/64"])];
    let endpoint = |node: &Node| outer(node, Family::V4, FIRST_POD).to_string();
    let mut peers = Vec::new();
    for (node, allowed) in nodes.iter().zip(&allowed) {
        let key = derived_key(node, "default", "leaf", "star", "tun")?;
        peers.push(json!({ "endpoint": endpoint(node), "publicKey": key, "allowedIPs": allowed }));
    }
    peers[2] = with(peers[2].clone(), &json!({ "endpoint": null }));
    let key = derived_key(hub, "default", "centre", "star", "tun")?;
    let tunnel_to =
        |public: &str, inner| sealed_tun(format, Family::V4, Some(outer(hub, Family::V4, FIRST_POD)), public, inner);
    let own = with(tunnel_to("", "10.4.0.1/24"), &json!({ "remote": null, "publicKey": null, "peers": peers }));
    let centre =
        hub.pod("centre").attach(list("star", &[net1(&lab, hub), own]), &annotation("star", hub, FIRST_POD))?;
    let mut leaves = Vec::new();
    for (node, inner) in nodes.into_iter().zip(Star::INNER) {
        let nad = list("star", &[net1(&lab, node), tunnel_to(&key, inner)]);
        leaves.push(node.pod("leaf").attach(nad, &annotation("star", node, FIRST_POD))?);
    }
    let star = Star { leaves, centre, lab };
    // Who is to be learned has to begin.
    star.leaves[2].ping("10.4.0.1")?.all_received()?;
    star.all_talk()?;
    // A leaf that uses another leaf's address is not believed.
    star.leaves[0].root(["ip", "address", "add", "10.4.0.5/32", "dev", "tun"])?.ok()?;
    star.leaves[0].ping_with("10.4.0.1", &["-c", "2", "-W", "1", "-I", "10.4.0.5"])?.none_received()?;
    assert_eq!(dropped(star.hub()?, "source_not_allowed")?, 2);
    Ok(())
}

/// The sessions are gone with the process; whoever speaks first makes new ones.
fn killed(format: Format) -> Outcome {
    let pair = SealedPair::new(format).up()?;
    pair.ohio.ping("10.4.0.2")?.all_received()?;
    let (ohio, mumbai) = (pair.lab.ohio(), pair.lab.mumbai());
    for node in [ohio, mumbai] {
        node.kill_agent()?;
        node.start_agent()?;
        // The end that has lost nothing knows of nothing.
        let (pod, address) =
            if node.name() == ohio.name() { (&pair.mumbai, "10.4.0.1") } else { (&pair.ohio, "10.4.0.2") };
        answers_within(MISSED, pod, address)?;
        node.kill_agent()?;
        node.start_agent()?;
        // The end that has lost everything begins anew.
        let (pod, address) =
            if node.name() == ohio.name() { (&pair.ohio, "10.4.0.2") } else { (&pair.mumbai, "10.4.0.1") };
        answers_within(MISSED, pod, address)?;
    }
    pair.ohio.check()?;
    pair.mumbai.check()?;
    Ok(())
}

/// Nobody sends anything, and the end that sends keepalives is seen all the same.
fn keepalive(format: Format) -> Outcome {
    let pair = SealedPair::new(format).with(json!({ "keepalive": "1s" }), json!({})).up()?;
    pair.ohio.ping("10.4.0.2")?.all_received()?;
    let mumbai = pair.lab.mumbai();
    let received = |node| Ok::<_, adit_lab::Error>(peer(node)?["rxPackets"].as_u64());
    let before = received(mumbai)?;
    let seen = || Ok::<_, adit_lab::Error>(peer(mumbai)?["lastSeenMs"].as_u64());
    // Twice it becomes older than half an interval, and young again.
    for _ in 0..2 {
        for (what, wanted) in [("to grow old", false), ("to be seen again", true)] {
            adit_lab::eventually(&format!("the peer {what}"), Duration::from_secs(5), || {
                Ok(seen()?.is_some_and(|age| (age < 500) == wanted).then_some(()))
            })?;
        }
    }
    assert_eq!(received(mumbai)?, before);
    Ok(())
}
