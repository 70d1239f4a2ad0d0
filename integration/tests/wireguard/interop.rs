//! Handshakes, files, keepalives, preshared keys, a peer that moves.

use std::{net::SocketAddr, time::Duration};

use adit_integration::{
    sealed::{answers_within, drops_of_packets, endpoint, file_crosses, install_key, peer, preshared_key, tunnel},
    trial,
    tunnels::{FIRST_POD, Family, inner_pair, outer},
};
use adit_lab::{Error, eventually};
use libtest_mimic::Trial;
use serde_json::json;

use crate::{
    Outcome,
    world::{Begins, PORT, Setup, World},
};

const SOON: Duration = Duration::from_secs(10);

pub fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for outside in [Family::V4, Family::V6] {
        for inside in [Family::V4, Family::V6] {
            for begins in [Begins::Ours, Begins::Theirs] {
                let name = format!("files_cross_with_{outside:?}_outside_and_{inside:?}_inside_when_{begins:?}_begins");
                trials.push(trial(name.to_lowercase(), move || files_cross(outside, inside, begins)));
            }
        }
    }
    for begins in [Begins::Ours, Begins::Theirs] {
        let name = format!("a_preshared_key_is_the_same_for_both_when_{begins:?}_begins");
        trials.push(trial(name.to_lowercase(), move || preshared(begins)));
    }
    trials.extend([
        trial("a_preshared_key_of_one_end_alone_lets_nobody_in", preshared_differs),
        trial("our_keepalives_reach_the_other", our_keepalives),
        trial("the_others_keepalives_reach_us", their_keepalives),
        trial("a_peer_with_a_new_port_is_followed", new_port),
        trial("a_peer_with_a_new_address_is_followed", new_address),
        trial("the_other_that_starts_anew_is_taken_up_again", other_restarts),
        trial("our_agent_that_starts_anew_is_taken_up_again", agent_restarts),
        trial("the_other_is_held_to_its_allowed_addresses", allowed_addresses),
    ]);
    trials
}

fn files_cross(outside: Family, inside: Family, begins: Begins) -> Outcome {
    let world = World::up(&Setup { outside, inside, begins, ..Setup::default() })?;
    let [here, there] = inner_pair(inside).map(|text| text.split('/').next().unwrap_or_default());
    match begins {
        Begins::Ours => world.ohio.ping(there)?.all_received()?.with_ttl(64)?,
        _ => world.mumbai.ping(here)?.all_received()?.with_ttl(64)?,
    };
    world.mumbai.ping(here)?.all_received()?;
    world.ohio.ping(there)?.all_received()?;
    file_crosses(&world.ohio, &world.mumbai, there)?;
    file_crosses(&world.mumbai, &world.ohio, here)?;
    world.ohio.check()?;
    let status = tunnel(world.node())?;
    assert_eq!(status["state"], "up");
    assert!(drops_of_packets(world.node())?.is_empty(), "{status:#}");
    assert_eq!(status["publicKey"], world.keys.ours.public.as_str());
    let peer = &status["peers"][0];
    assert_eq!((&peer["publicKey"], &peer["cipher"]), (&json!(world.keys.theirs.public), &json!("chacha20-poly1305")));
    assert_eq!(endpoint(world.node())?, Some(SocketAddr::new(outer(world.lab.mumbai(), outside, FIRST_POD), PORT)));
    assert!(peer["lastHandshakeMs"].as_u64().is_some(), "{peer:#}");
    // The other counts what is on the wire; it may lose some of what comes at once, and TCP sends that again.
    let their_count = world.theirs.of_peer("transfer")?;
    let mut words = their_count.split_whitespace();
    let (received, sent): (u64, u64) = (words.next().unwrap_or("0").parse()?, words.next().unwrap_or("0").parse()?);
    let count = |key: &str| peer[key].as_u64().unwrap_or_default();
    assert!(count("txBytes") > 16 << 20 && count("rxBytes") > 16 << 20, "{peer:#}");
    assert!(received > 16 << 20 && sent >= count("rxBytes"), "{their_count}; {peer:#}");
    Ok(())
}

fn preshared(begins: Begins) -> Outcome {
    let world = World::up(&Setup { preshared: true, begins, ..Setup::default() })?;
    match begins {
        Begins::Ours => world.ohio.ping("10.4.0.2")?.all_received()?,
        _ => world.mumbai.ping("10.4.0.1")?.all_received()?,
    };
    Ok(())
}

fn preshared_differs() -> Outcome {
    let world = World::up(&Setup { preshared: true, ..Setup::default() })?;
    world.ohio.ping("10.4.0.2")?.all_received()?;
    world.node().stop_agent()?;
    install_key(world.node(), "default", "tunnel.psk", &preshared_key()?)?;
    world.node().start_agent()?;
    world.ohio.ping_with("10.4.0.2", &["-c", "3", "-W", "1"])?.none_received()?;
    world.mumbai.ping_with("10.4.0.1", &["-c", "3", "-W", "1"])?.none_received()?;
    assert_eq!(tunnel(world.node())?["state"], "waiting");
    Ok(())
}

fn our_keepalives() -> Outcome {
    let world = World::up(&Setup { ours: json!({ "keepalive": "1s" }), begins: Begins::Ours, ..Setup::default() })?;
    // The keepalive needs a session, and makes one.
    let received = || -> Result<u64, Error> {
        let count = world.theirs.of_peer("transfer")?;
        Ok(count.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0))
    };
    let first = eventually("a first keepalive", SOON, || Ok(Some(received()?).filter(|count| *count > 0)))?;
    // A keepalive is 32 bytes: header and tag of nothing.
    eventually("three more keepalives", SOON, || Ok((received()? >= first + 3 * 32).then_some(())))?;
    assert_eq!(peer(world.node())?["txPackets"], 0);
    Ok(())
}

fn their_keepalives() -> Outcome {
    let world = World::up(&Setup { their_keepalive: Some(1), begins: Begins::Theirs, ..Setup::default() })?;
    let age = || Ok::<_, Error>(peer(world.node())?["lastSeenMs"].as_u64());
    for _ in 0..2 {
        for (what, young) in [("be seen", true), ("grow old", false), ("be seen again", true)] {
            eventually(&format!("the peer to {what}"), SOON, || {
                Ok(age()?.is_some_and(|age| (age < 500) == young).then_some(()))
            })?;
        }
    }
    assert_eq!(peer(world.node())?["rxPackets"], 0);
    Ok(())
}

fn new_port() -> Outcome {
    let world = World::up(&Setup::default())?;
    world.ohio.ping("10.4.0.2")?.all_received()?;
    let handshakes = peer(world.node())?["handshakes"].clone();
    for port in [40_000, 40_001] {
        world.theirs.wg(["set", "wg0", "listen-port", &port.to_string()])?.ok()?;
        world.mumbai.ping("10.4.0.1")?.all_received()?;
        assert_eq!(endpoint(world.node())?.map(|endpoint| endpoint.port()), Some(port));
        world.ohio.ping("10.4.0.2")?.all_received()?;
    }
    // The same session all the time.
    assert_eq!(peer(world.node())?["handshakes"], handshakes);
    Ok(())
}

fn new_address() -> Outcome {
    for outside in [Family::V4, Family::V6] {
        let world = World::up(&Setup { outside, ..Setup::default() })?;
        world.ohio.ping("10.4.0.2")?.all_received()?;
        let (old, new) = (outer(world.lab.mumbai(), outside, FIRST_POD), outer(world.lab.mumbai(), outside, 77));
        let prefix = outside.of(&["24", "64"]);
        let gateway = outside.of(&world.lab.mumbai().number().gateway());
        let beyond = outside.of(&["10.10.1.0/24", "fd10:10:1::/64"]);
        world.mumbai.ip_batch(&[
            format!("address delete {old}/{prefix} dev net1"),
            format!("address add {new}/{prefix} dev net1{}", outside.of(&["", " nodad"])),
            // It goes with the last address of its family.
            format!("route replace {beyond} via {gateway} dev net1"),
        ])?;
        // wireguard-go clings to the address that it used before, until it is told the endpoint anew.
        let ours = SocketAddr::new(outer(world.node(), outside, FIRST_POD), PORT).to_string();
        world.theirs.wg(["set", "wg0", "peer", &world.keys.ours.public, "endpoint", &ours])?.ok()?;
        answers_within(SOON, &world.mumbai, "10.4.0.1")?;
        assert_eq!(endpoint(world.node())?.map(|endpoint| endpoint.ip()), Some(new));
        world.ohio.ping("10.4.0.2")?.all_received()?;
    }
    Ok(())
}

/// It comes back with the same keys and nothing else.
fn other_restarts() -> Outcome {
    let world = World::up(&Setup::default())?;
    world.ohio.ping("10.4.0.2")?.all_received()?;
    let configuration = world.theirs.wg(["showconf", "wg0"])?.ok()?.stdout;
    let World { theirs, ohio, mumbai, keys: _keys, lab: _lab } = world;
    drop(theirs);
    let _again = adit_integration::foreign::WireguardGo::start(&mumbai, &configuration, "10.4.0.2/30", 1440)?;
    // Who has lost the session begins anew; whoever has not misses answers first, for 15 s.
    answers_within(Duration::from_secs(25), &ohio, "10.4.0.2")?;
    mumbai.ping("10.4.0.1")?.all_received()?;
    Ok(())
}

fn agent_restarts() -> Outcome {
    let world = World::up(&Setup::default())?;
    world.ohio.ping("10.4.0.2")?.all_received()?;
    world.node().kill_agent()?;
    world.node().start_agent()?;
    // A repeated or earlier time stamp would not be taken by the other.
    world.ohio.ping("10.4.0.2")?.all_received()?;
    world.mumbai.ping("10.4.0.1")?.all_received()?;
    world.node().kill_agent()?;
    world.node().start_agent()?;
    answers_within(Duration::from_secs(25), &world.mumbai, "10.4.0.1")?;
    Ok(())
}

fn allowed_addresses() -> Outcome {
    let world = World::up(&Setup { begins: Begins::Theirs, allowed: Some("10.4.0.2/32"), ..Setup::default() })?;
    world.mumbai.ping("10.4.0.1")?.all_received()?;
    world.mumbai.root(["ip", "address", "add", "10.4.0.9/32", "dev", "wg0"])?.ok()?;
    world.mumbai.ping_with("10.4.0.1", &["-c", "2", "-W", "1", "-I", "10.4.0.9"])?.none_received()?;
    assert_eq!(tunnel(world.node())?["drops"], json!({ "source_not_allowed": 2 }));
    world.mumbai.ping_with("10.4.0.1", &["-c", "2", "-I", "10.4.0.2"])?.all_received()?;
    Ok(())
}
