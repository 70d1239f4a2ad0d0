//! The tunnels as a table for people, and as JSON for programs.

use adit_tunnel::{
    Encryption,
    protocol::{Health, PeerStatus, Recovery, TunnelStatus},
};
use comfy_table::{ContentArrangement, Table, presets};
use serde_json::Value;

use crate::{
    units::{ago, duration, percent, round_trip, size},
    watch::rates::{Rate, Rates},
};

const HEADINGS: [&str; 9] = ["POD", "INTERFACE", "STATE", "ENCAP", "MTU", "PEER", "RECEIVED", "SENT", "LAST SEEN"];
/// What only peers that are probed have to tell, shown where there is one.
const HEALTH_HEADINGS: [&str; 2] = ["ROUND TRIP", "LOSS"];
/// What only sealed tunnels have to tell, shown where there is one.
const SEALED_HEADINGS: [&str; 3] = ["HANDSHAKE", "CIPHER", "PEER'S KEY"];

/// One row a peer, then what is wrong with each tunnel that is not carried or each peer that is not well, and what was dropped.
pub fn status(tunnels: &[TunnelStatus]) -> String {
    render(tunnels, None)
}

/// The same with what passes in a second instead of what has passed.
pub fn with_rates(tunnels: &[TunnelStatus], rates: &Rates) -> String {
    render(tunnels, Some(rates))
}

fn render(tunnels: &[TunnelStatus], rates: Option<&Rates>) -> String {
    if tunnels.is_empty() {
        return "no tunnels on this node\n".into();
    }
    let mut table = Table::new();
    let is_probed = tunnels.iter().flat_map(|tunnel| &tunnel.peers).any(|peer| peer.health.is_some());
    let is_sealed = tunnels.iter().any(|tunnel| tunnel.encryption != Encryption::None);
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(
        HEADINGS
            .iter()
            .chain(HEALTH_HEADINGS.iter().filter(|_| is_probed))
            .chain(SEALED_HEADINGS.iter().filter(|_| is_sealed)),
    );
    for tunnel in tunnels {
        for (index, peer) in tunnel.peers.iter().enumerate() {
            let rate = rates.map(|rates| rates.of(tunnel, index));
            let mut cells = row(tunnel, peer, index == 0, rate);
            if is_probed {
                cells.extend(peer.health.as_ref().map_or_else(Default::default, health_cells));
            }
            if tunnel.encryption != Encryption::None {
                cells.extend(sealed_cells(peer));
            }
            table.add_row(cells);
        }
    }
    let mut text = String::new();
    for line in table.lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    for tunnel in tunnels {
        for note in notes(tunnel) {
            text.push_str(&note);
            text.push('\n');
        }
    }
    text
}

/// A tunnel as JSON, with its state and those of its peers in one word as the table shows them.
pub fn with_state(tunnel: &TunnelStatus) -> Value {
    let mut value = serde_json::to_value(tunnel).unwrap_or_default();
    let states = tunnel.peers.iter().map(|peer| tunnel.peer_state(peer));
    for (peer, state) in value.get_mut("peers").and_then(Value::as_array_mut).into_iter().flatten().zip(states) {
        if let Value::Object(map) = peer {
            map.insert("state".into(), state.into());
        }
    }
    if let Value::Object(map) = &mut value {
        map.insert("state".into(), tunnel.state().into());
    }
    value
}

/// `rate` is given, and may be unknown, where rates are shown.
fn row(tunnel: &TunnelStatus, peer: &PeerStatus, first: bool, rate: Option<Option<Rate>>) -> Vec<String> {
    let once = |text: String| if first { text } else { String::new() };
    let [received, sent] = match (rate, tunnel.traffic) {
        (Some(Some(rate)), _) => {
            [per_second(rate.rx_bytes, rate.rx_packets), per_second(rate.tx_bytes, rate.tx_packets)]
        }
        (Some(None), _) => ["-".into(), "-".into()],
        (None, Some(all)) => [traffic(all.rx_bytes, all.rx_packets), traffic(all.tx_bytes, all.tx_packets)],
        (None, None) => [traffic(peer.rx_bytes, peer.rx_packets), traffic(peer.tx_bytes, peer.tx_packets)],
    };
    // The kernel counts by interface, and asks no peer whether it is there.
    let [received, sent, seen] = match tunnel.traffic {
        Some(_) => [once(received), once(sent), "not asked".into()],
        None => [received, sent, ago(peer.last_seen_ms)],
    };
    vec![
        once(owner(tunnel)),
        once(format!("{} over {}", tunnel.attachment.if_name, tunnel.device)),
        tunnel.peer_state(peer).into(),
        once(format!("{}, encryption {}", tunnel.encap, tunnel.encryption)),
        once(mtu(tunnel)),
        endpoint(peer),
        received,
        sent,
        seen,
    ]
}

fn mtu(tunnel: &TunnelStatus) -> String {
    let TunnelStatus { mtu_bytes, mtu_limit_bytes, .. } = tunnel;
    if mtu_bytes < mtu_limit_bytes { format!("{mtu_bytes} of {mtu_limit_bytes}") } else { mtu_bytes.to_string() }
}

fn health_cells(health: &Health) -> [String; 2] {
    let Health { rtt, received, sent, .. } = health;
    let times = rtt.map(|rtt| format!("{}, p99 {}", round_trip(rtt.average_us), round_trip(rtt.p99_us)));
    let incoming = percent(received.recent_loss_ppm);
    let outgoing = sent.map_or_else(|| "not told".into(), |sent| percent(sent.recent_loss_ppm));
    [times.unwrap_or_else(|| "not measured".into()), format!("in {incoming}, out {outgoing}")]
}

/// Where a peer is, in words.
pub fn endpoint(peer: &PeerStatus) -> String {
    let Some(endpoint) = peer.endpoint else { return "not heard of yet".into() };
    match (peer.shortcut, peer.learned) {
        (true, _) => format!("{endpoint} by shortcut"),
        (false, true) => format!("{endpoint} learned"),
        (false, false) => endpoint.to_string(),
    }
}

fn sealed_cells(peer: &PeerStatus) -> [String; 3] {
    [
        ago(peer.last_handshake_ms),
        peer.cipher.clone().unwrap_or_default(),
        peer.public_key.map(|key| key.to_string()).unwrap_or_default(),
    ]
}

/// Whose the tunnel is, in words.
pub fn owner(tunnel: &TunnelStatus) -> String {
    if tunnel.pod.name.is_empty() { tunnel.attachment.container_id.clone() } else { tunnel.pod.to_string() }
}

fn notes(tunnel: &TunnelStatus) -> Vec<String> {
    let name = format!("{} {}", owner(tunnel), tunnel.attachment.if_name);
    let mut notes = Vec::new();
    if !tunnel.carried {
        notes.push(format!("{name}: not carried: {}", tunnel.reason));
    }
    for peer in tunnel.peers.iter().filter(|_| tunnel.carried) {
        let Some(health) = peer.health.as_ref().filter(|health| !health.reason.is_empty()) else { continue };
        let (state, since) = (health.state.word(), duration(health.since_ms));
        notes.push(format!("{name}: {} {state} for {since}: {}", endpoint(peer), health.reason));
    }
    for peer in tunnel.peers.iter().filter(|_| tunnel.carried) {
        if let Some(said) = peer.recovery.as_ref().and_then(recovery) {
            notes.push(format!("{name}: {}: {said}", endpoint(peer)));
        }
    }
    if let Some(key) = tunnel.public_key {
        notes.push(format!("{name}: public key {key}"));
    }
    if let Some(refusal) = &tunnel.offload_refusal {
        notes.push(format!(
            "{name}: slower than it could be: {refusal}; the kernel does {}",
            tunnel.offloads.join(", ")
        ));
    }
    if !tunnel.drops.is_empty() {
        let drops: Vec<String> = tunnel.drops.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
        notes.push(format!("{name}: dropped: {}", drops.join(", ")));
    }
    notes
}

/// What loss recovery does with a peer, in words; nothing on a path that has never lost anything.
fn recovery(recovery: &Recovery) -> Option<String> {
    let Recovery { lost, recovered, redundancy_ppm, window, overhead_ppm, .. } = recovery;
    let late = |time: Option<u64>| time.map_or_else(|| "over 1 s".into(), round_trip);
    let (median, p99) = (late(recovery.delay_median_us), late(recovery.delay_p99_us));
    let mut said = Vec::new();
    match (*lost, *recovered) {
        (0, 0) => {}
        (lost, 0) => said.push(format!("lost {lost} packets, recovered none")),
        (lost, recovered) => {
            said.push(format!("lost {lost} packets, recovered {recovered}, half within {median}, 99 % within {p99}"));
        }
    }
    if *redundancy_ppm > 0 {
        let (redundancy, overhead) = (percent(*redundancy_ppm), percent(*overhead_ppm));
        said.push(format!("sends {redundancy} repairs over {window} packets each, {overhead} of the bytes"));
    }
    (!said.is_empty()).then(|| said.join("; "))
}

fn traffic(bytes: u64, packets: u64) -> String {
    format!("{} in {packets}", size(bytes))
}

fn per_second(bytes: u64, packets: u64) -> String {
    format!("{}/s in {packets}/s", size(bytes))
}

#[cfg(test)]
pub mod tests {
    use std::{
        collections::BTreeMap,
        time::{Duration, Instant},
    };

    use adit_tunnel::{
        AttachmentId, Encap, Engine, Pod, PublicKey, Underlay,
        protocol::{Delivery, HealthState, RoundTrip, Traffic},
    };

    use super::*;

    pub fn tunnel() -> TunnelStatus {
        TunnelStatus {
            attachment: AttachmentId {
                container_id: "c1".into(),
                cni_if_name: "net1".into(),
                if_name: "tun".parse().unwrap(),
            },
            pod: Pod { namespace: "default".into(), name: "plumbr-a".into(), uid: String::new() },
            network: "ohio".into(),
            encap: Encap::Udp,
            encryption: Encryption::None,
            public_key: None,
            engine: Engine::Agent,
            underlay: Underlay::Pod,
            mtu_bytes: 1456,
            mtu_limit_bytes: 1456,
            local: "10.10.1.200:6090".parse().unwrap(),
            device: "net1".into(),
            addresses: vec!["10.4.0.1/32".parse().unwrap()],
            carried: true,
            reason: String::new(),
            peers: vec![PeerStatus {
                endpoint: Some("10.20.1.200:6090".parse().unwrap()),
                learned: false,
                public_key: None,
                preshared: false,
                cipher: None,
                allowed_ips: vec![],
                established: true,
                handshakes: 1,
                shortcut: false,
                rx_bytes: 1_536,
                rx_packets: 3,
                tx_bytes: 84,
                tx_packets: 1,
                last_seen_ms: Some(2_100),
                last_sent_ms: None,
                last_handshake_ms: None,
                health: None,
                recovery: None,
            }],
            traffic: None,
            offloads: vec!["tun-tcp".into(), "segmented-sends".into()],
            offload_refusal: None,
            drops: BTreeMap::new(),
        }
    }

    #[test]
    fn a_tunnel_is_one_line_a_peer() {
        let text = status(&[tunnel()]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        for expected in [
            "default/plumbr-a",
            "tun over net1",
            "up",
            "udp, encryption none",
            "1456",
            "10.20.1.200:6090",
            "1.5 KiB in 3",
            "84 B in 1",
            "2 s ago",
        ] {
            assert!(lines[1].contains(expected), "{expected} in {text}");
        }
    }

    #[test]
    fn keys_and_handshakes_are_told_where_a_tunnel_is_sealed() {
        let mut sealed = tunnel();
        (sealed.encryption, sealed.public_key) = (Encryption::Noise, Some(PublicKey::new([1; 32])));
        sealed.peers[0].endpoint = Some("192.0.2.7:41641".parse().unwrap());
        (sealed.peers[0].learned, sealed.peers[0].public_key) = (true, Some(PublicKey::new([2; 32])));
        (sealed.peers[0].cipher, sealed.peers[0].last_handshake_ms) = (Some("aes-256-gcm".into()), Some(61_000));
        let mut silent = sealed.peers[0].clone();
        (silent.endpoint, silent.cipher, silent.last_handshake_ms) = (None, None, None);
        sealed.peers.push(silent);
        let text = status(&[sealed, tunnel()]);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].ends_with("PEER'S KEY"), "{text}");
        let theirs = PublicKey::new([2; 32]).to_string();
        for expected in ["udp, encryption noise", "192.0.2.7:41641 learned", "61 s ago", "aes-256-gcm", &theirs] {
            assert!(lines[1].contains(expected), "{expected} in {text}");
        }
        assert!(lines[2].contains("not heard of yet") && lines[2].contains("never"), "{text}");
        assert!(!lines[3].contains(&theirs), "{text}");
        let ours = format!("default/plumbr-a tun: public key {}", PublicKey::new([1; 32]));
        assert!(lines.contains(&ours.as_str()), "{text}");
        assert!(!status(&[tunnel()]).contains("KEY"));
    }

    #[test]
    fn the_kernels_tunnel_counts_once_and_claims_nothing_about_its_peers() {
        let mut vxlan = tunnel();
        vxlan.encap = Encap::Vxlan;
        vxlan.engine = Engine::Kernel;
        vxlan.peers[0].established = false;
        vxlan.peers.push(vxlan.peers[0].clone());
        vxlan.traffic = Some(Traffic { rx_bytes: 2048, rx_packets: 9, tx_bytes: 84, tx_packets: 1 });
        let text = status(&[vxlan.clone()]);
        assert_eq!(text.matches("ready").count(), 2, "{text}");
        assert_eq!(text.matches("not asked").count(), 2, "{text}");
        assert_eq!(text.matches("2.0 KiB in 9").count(), 1, "{text}");
        vxlan.carried = false;
        assert_eq!(with_state(&vxlan)["state"], "down");
    }

    #[test]
    fn trouble_is_told_below_the_table() {
        let mut down = tunnel();
        down.carried = false;
        down.reason = "port 6090 is taken".into();
        down.drops.insert("wrong_source".into(), 7);
        let text = status(&[down]);
        assert!(text.contains("default/plumbr-a tun: not carried: port 6090 is taken"), "{text}");
        assert!(text.contains("default/plumbr-a tun: dropped: wrong_source 7"), "{text}");
    }

    #[test]
    fn json_has_the_state_in_one_word() {
        assert_eq!(with_state(&tunnel())["state"], "up");
        let peer = &with_state(&tunnel())["peers"][0];
        assert_eq!((&peer["rxBytes"], &peer["state"]), (&1536.into(), &"up".into()));
    }

    pub fn healthy() -> Health {
        Health {
            state: HealthState::Up,
            reason: String::new(),
            since_ms: 61_000,
            rtt: Some(RoundTrip { last_us: 900, min_us: 800, average_us: 1_250, p99_us: 4_000, jitter_us: 30 }),
            probes_sent: 10,
            probes_answered: 9,
            received: Delivery { packets: 999, lost: 1, recent_loss_ppm: 1_000, ..Delivery::default() },
            sent: Some(Delivery { packets: 500, ..Delivery::default() }),
            path_mtu_bytes: Some(1500),
        }
    }

    #[test]
    fn health_is_told_where_a_peer_is_probed() {
        let mut probed = tunnel();
        probed.peers[0].health = Some(healthy());
        let text = status(&[probed.clone(), tunnel()]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[0].contains("  ROUND TRIP  ") && lines[0].ends_with("  LOSS"), "{text}");
        assert!(lines[1].contains("1.25 ms, p99 4.00 ms") && lines[1].ends_with("in 0.1 %, out 0 %"), "{text}");
        assert!(lines[2].ends_with("2 s ago"), "{text}");

        let health = probed.peers[0].health.as_mut().unwrap();
        (health.state, health.rtt, health.sent) = (HealthState::Down, None, None);
        (health.reason, health.since_ms) = ("no answer; outer packets leave, none come back".into(), 3_200);
        (probed.mtu_bytes, probed.mtu_limit_bytes) = (1356, 1456);
        let text = status(&[probed]);
        for expected in [
            "  down  ",
            "1356 of 1456",
            "not measured",
            "in 0.1 %, out not told",
            "\ndefault/plumbr-a tun: 10.20.1.200:6090 down for 3 s: no answer; outer packets leave, none come back\n",
        ] {
            assert!(text.contains(expected), "{expected} in {text}");
        }
    }

    #[test]
    fn rates_stand_in_the_place_of_totals_and_unknown_ones_are_a_dash() {
        let [before, mut now] = [tunnel(), tunnel()];
        let mut rates = Rates::default();
        let start = Instant::now();
        rates.add(&[before], start);
        assert!(with_rates(&[now.clone()], &rates).contains(" -  "));
        now.peers[0].rx_bytes += 4096;
        now.peers[0].rx_packets += 8;
        rates.add(&[now.clone()], start + Duration::from_secs(2));
        let text = with_rates(&[now], &rates);
        assert!(text.contains("2.0 KiB/s in 4/s") && text.contains("0 B/s in 0/s"), "{text}");
    }
}
