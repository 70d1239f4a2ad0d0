//! Tunnels that this kernel's WireGuard carries for a pod of ours: made by the plugin, told their keys by the agent.

use std::time::Duration;

use adit_integration::{
    sealed::{Format, SealedPair, answers_within, peer, tunnel},
    trial_within,
    tunnels::{Family, Pair, inner_pair, with},
};
use adit_lab::{Error, Pod, eventually};
use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::{DEADLINE, Outcome};

const SOON: Duration = Duration::from_secs(30);

pub fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for outside in [Family::V4, Family::V6] {
        let name = |what: &str| format!("{what}_over_{outside:?}").to_lowercase();
        trials.push(trial_within(name("the_kernel_carries_one_end_and_the_agent_the_other"), DEADLINE, move || {
            pods_talk(outside, [true, false])
        }));
        trials
            .push(trial_within(name("the_kernel_carries_both_ends"), DEADLINE, move || pods_talk(outside, [true; 2])));
    }
    trials.extend([
        trial_within("no_packet_needs_the_agent", DEADLINE, without_agent),
        trial_within("what_somebody_in_the_pod_changes_is_seen_and_the_next_agent_repairs_it", DEADLINE, changed),
        trial_within("keys_change_at_both_ends", DEADLINE, keys_change),
        trial_within("the_nodes_network_is_outside", DEADLINE, on_the_node),
        trial_within("del_without_an_agent_leaves_nothing", DEADLINE, del_alone),
        trial_within("a_port_that_is_taken_is_named_and_nothing_is_left", DEADLINE, port_taken),
    ]);
    trials
}

fn kernel() -> Value {
    json!({ "engine": "kernel" })
}

fn both(changes: &Value) -> adit_lab::Result<Pair> {
    let own = with(kernel(), changes);
    SealedPair::new(Format::Wireguard).preshared().with(own.clone(), own).up()
}

fn pods_talk(outside: Family, by_kernel: [bool; 2]) -> Outcome {
    let [ohio, mumbai] = by_kernel.map(|is| if is { kernel() } else { json!({}) });
    let pair = SealedPair::new(Format::Wireguard).over(outside, Family::V4).preshared().with(ohio, mumbai).up()?;
    pair.ohio.ping("10.4.0.2")?.all_received()?.with_ttl(64)?;
    pair.mumbai.ping("10.4.0.1")?.all_received()?.with_ttl(64)?;
    crate::interop::file_crosses(&pair.ohio, &pair.mumbai, "10.4.0.2")?;
    for ((pod, node), by_kernel) in
        [(&pair.ohio, pair.lab.ohio()), (&pair.mumbai, pair.lab.mumbai())].into_iter().zip(by_kernel)
    {
        pod.check()?;
        assert_eq!(pod.interface("tun")?.mtu_bytes, outside.of(&[1440, 1420]));
        let status = tunnel(node)?;
        let engine = if by_kernel { "kernel" } else { "agent" };
        assert_eq!((&status["state"], &status["engine"]), (&json!("up"), &json!(engine)), "{status:#}");
        assert_eq!(status["peers"][0]["preshared"], true, "{status:#}");
        assert_eq!(node.agent_fds()?.tun, usize::from(!by_kernel));
        if by_kernel {
            assert_eq!(status["publicKey"].as_str(), Some(said(pod, "public-key")?.as_str()));
            assert!(status["traffic"]["rxPackets"].as_u64() > Some(8), "{status:#}");
        }
    }
    let before = pair.lab.ohio().run_dir().join("attachments");
    pair.ohio.delete()?;
    assert_eq!(std::fs::read_dir(before)?.count(), 0);
    Ok(())
}

/// What `wg show tun WHAT` says: the only line, or what it says of the only peer.
fn said(pod: &Pod, what: &str) -> Result<String, Error> {
    let text = pod.root(["wg", "show", "tun", what])?.ok()?.stdout;
    Ok(text.trim().rsplit('\t').next().unwrap_or_default().to_owned())
}

fn without_agent() -> Outcome {
    let pair = both(&json!({}))?;
    pair.ohio.ping("10.4.0.2")?.all_received()?;
    let handshake = said(&pair.ohio, "latest-handshakes")?;
    for node in [pair.lab.ohio(), pair.lab.mumbai()] {
        node.kill_agent()?;
    }
    pair.ohio.ping("10.4.0.2")?.all_received()?;
    for node in [pair.lab.ohio(), pair.lab.mumbai()] {
        node.start_agent()?;
        assert_eq!(tunnel(node)?["state"], "up");
    }
    pair.mumbai.ping("10.4.0.1")?.all_received()?;
    pair.ohio.check()?;
    // The next agent found everything as it should be, and touched nothing.
    assert_eq!(said(&pair.ohio, "latest-handshakes")?, handshake);
    Ok(())
}

fn changed() -> Outcome {
    let pair = both(&json!({}))?;
    let ohio = pair.lab.ohio();
    pair.ohio.ping("10.4.0.2")?.all_received()?;
    for line in [["listen-port", "4242"], ["fwmark", "0x7"], ["private-key", "/dev/null"]] {
        pair.ohio.root(["wg", "set", "tun", line[0], line[1]])?.ok()?;
        let status = tunnel(ohio)?;
        assert_eq!(status["state"], "down", "{status:#}");
        assert!(status["reason"].as_str().is_some_and(|reason| reason.contains("somebody in the pod")), "{status:#}");
        let error = pair.ohio.check().unwrap_err().to_string();
        assert!(error.contains("is not carried"), "{error}");

        ohio.kill_agent()?;
        ohio.start_agent()?;
        assert_ne!(tunnel(ohio)?["state"], "down");
        pair.ohio.check()?;
        answers_within(SOON, &pair.ohio, "10.4.0.2")?;
    }
    Ok(())
}

fn keys_change() -> Outcome {
    let pair = both(&json!({}))?;
    pair.ohio.ping("10.4.0.2")?.all_received()?;
    let (ohio, mumbai) = (pair.lab.ohio(), pair.lab.mumbai());
    let name = |node| {
        let attachment = tunnel(node)?["attachment"].clone();
        let part = |key: &str| attachment[key].as_str().unwrap_or_default().to_owned();
        Ok::<_, Error>([part("containerId"), part("cniIfName"), part("ifName")].join(":"))
    };
    let (ours, theirs) = (name(ohio)?, name(mumbai)?);
    let old = said(&pair.ohio, "public-key")?;
    let new = ohio.adit(["key", "rotate", &ours])?.ok()?.stdout.trim().to_owned();
    // A second key beside the first is more than the kernel knows.
    let error = mumbai.adit(["peer", "rekey", &theirs, &new])?.fails()?.stderr;
    assert!(error.contains("--forget-old"), "{error}");
    assert_eq!(said(&pair.ohio, "public-key")?, old);
    pair.ohio.ping("10.4.0.2")?.all_received()?;

    // Nor is a key that somebody here has already, and what is refused changes nothing.
    let own = said(&pair.mumbai, "public-key")?;
    let error = mumbai.adit(["peer", "rekey", &theirs, &own, "--forget-old"])?.fails()?.stderr;
    assert!(error.contains("this end's own"), "{error}");
    pair.ohio.ping("10.4.0.2")?.all_received()?;

    ohio.adit(["key", "rotate", &ours, "--use"])?.ok()?;
    mumbai.adit(["peer", "rekey", &theirs, &new, "--forget-old"])?.ok()?;
    ohio.adit(["key", "rotate", &ours, "--finish"])?.ok()?;
    assert_eq!((said(&pair.ohio, "public-key")?, said(&pair.mumbai, "peers")?), (new.clone(), new.clone()));
    answers_within(SOON, &pair.ohio, "10.4.0.2")?;
    assert_eq!(peer(mumbai)?["publicKey"], json!(new));
    // What is written down is what the next agent finds.
    mumbai.kill_agent()?;
    mumbai.start_agent()?;
    assert_eq!(tunnel(mumbai)?["state"], "up");
    Ok(())
}

fn on_the_node() -> Outcome {
    let end = |cluster: u8| with(kernel(), &json!({ "underlay": "host", "remote": format!("100.{cluster}.1.2") }));
    let pair = SealedPair::new(Format::Wireguard).with(end(66), end(65)).up()?;
    let tap = pair.lab.router(2)?.tap("next", |packet| packet.has_port(51820))?;
    pair.ohio.ping("10.4.0.2")?.all_received()?;
    let seen = tap.stop();
    let ends = ["100.65.1.2".parse()?, "100.66.1.2".parse()?];
    assert!(!seen.is_empty() && seen.iter().all(|packet| ends.contains(&packet.src) && ends.contains(&packet.dst)));
    pair.ohio.check()?;
    let ohio = pair.lab.ohio().clone();
    let listening = || Ok::<_, Error>(ohio.root(["ss", "-Hlun"])?.ok()?.stdout.contains(":51820"));
    assert!(listening()?);
    pair.ohio.delete()?;
    // The socket is the device's, which the kernel frees a little later.
    eventually("the port of the node to be free", SOON, || Ok((!listening()?).then_some(())))?;
    Ok(())
}

fn del_alone() -> Outcome {
    let mut pair = both(&json!({}))?;
    pair.ohio.ping(inner_pair(Family::V4)[1].split('/').next().unwrap_or_default())?.all_received()?;
    pair.lab.ohio().kill_agent()?;
    pair.ohio.detach()?;
    assert!(!pair.ohio.interface_names()?.contains(&"tun".to_owned()));
    assert_eq!(std::fs::read_dir(pair.lab.ohio().run_dir().join("attachments"))?.count(), 0);
    Ok(())
}

fn port_taken() -> Outcome {
    let prepared = SealedPair::new(Format::Wireguard)
        .with(with(kernel(), &json!({ "underlay": "host", "remote": "100.66.1.2" })), json!({}))
        .prepare()?;
    let ohio = prepared.lab.ohio();
    ohio.ip_batch(&["link add taken type wireguard".to_owned()])?;
    ohio.root(["wg", "set", "taken", "listen-port", "51820"])?.ok()?;
    ohio.root(["ip", "link", "set", "taken", "up"])?.ok()?;
    let error = prepared.attach(adit_integration::sealed::Side::Ohio).unwrap_err().to_string();
    assert!(error.contains("local: UDP port 51820 is taken") && error.contains("write \"local\""), "{error}");
    assert_eq!(std::fs::read_dir(ohio.run_dir().join("attachments"))?.count(), 0);
    Ok(())
}
