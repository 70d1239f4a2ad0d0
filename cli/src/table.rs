//! The tunnels as a table for people, and as JSON for programs.

use adit_tunnel::{
    Encryption,
    protocol::{PeerStatus, TunnelStatus},
};
use comfy_table::{ContentArrangement, Table, presets};
use serde_json::Value;

const HEADINGS: [&str; 9] = ["POD", "INTERFACE", "STATE", "ENCAP", "MTU", "PEER", "RECEIVED", "SENT", "LAST SEEN"];
/// What only sealed tunnels have to tell, shown where there is one.
const SEALED_HEADINGS: [&str; 3] = ["HANDSHAKE", "CIPHER", "PEER'S KEY"];

/// One row a peer, then what is wrong with each tunnel that is not carried and what was dropped.
pub fn status(tunnels: &[TunnelStatus]) -> String {
    if tunnels.is_empty() {
        return "no tunnels on this node\n".into();
    }
    let mut table = Table::new();
    let of_sealed =
        SEALED_HEADINGS.iter().filter(|_| tunnels.iter().any(|tunnel| tunnel.encryption != Encryption::None));
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(HEADINGS.iter().chain(of_sealed));
    for tunnel in tunnels {
        for (index, peer) in tunnel.peers.iter().enumerate() {
            let mut cells = row(tunnel, peer, index == 0);
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

/// A tunnel as JSON, with its state in one word as the table shows it.
pub fn with_state(tunnel: &TunnelStatus) -> Value {
    let mut value = serde_json::to_value(tunnel).unwrap_or_default();
    if let Value::Object(map) = &mut value {
        map.insert("state".into(), tunnel.state().into());
    }
    value
}

fn row(tunnel: &TunnelStatus, peer: &PeerStatus, first: bool) -> Vec<String> {
    let once = |text: String| if first { text } else { String::new() };
    let [received, sent, seen] = match tunnel.traffic {
        // The kernel counts by interface, and asks no peer whether it is there.
        Some(all) => [
            once(traffic(all.rx_bytes, all.rx_packets)),
            once(traffic(all.tx_bytes, all.tx_packets)),
            "not asked".into(),
        ],
        None => {
            [traffic(peer.rx_bytes, peer.rx_packets), traffic(peer.tx_bytes, peer.tx_packets), ago(peer.last_seen_ms)]
        }
    };
    vec![
        once(owner(tunnel)),
        once(format!("{} over {}", tunnel.attachment.if_name, tunnel.device)),
        tunnel.peer_state(peer).into(),
        once(format!("{}, encryption {}", tunnel.encap, tunnel.encryption)),
        once(tunnel.mtu_bytes.to_string()),
        endpoint(peer),
        received,
        sent,
        seen,
    ]
}

fn endpoint(peer: &PeerStatus) -> String {
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

fn ago(age_ms: Option<u64>) -> String {
    age_ms.map_or_else(|| "never".into(), |age| format!("{} ago", duration(age)))
}

fn owner(tunnel: &TunnelStatus) -> String {
    if tunnel.pod.name.is_empty() { tunnel.attachment.container_id.clone() } else { tunnel.pod.to_string() }
}

fn notes(tunnel: &TunnelStatus) -> Vec<String> {
    let name = format!("{} {}", owner(tunnel), tunnel.attachment.if_name);
    let mut notes = Vec::new();
    if !tunnel.carried {
        notes.push(format!("{name}: not carried: {}", tunnel.reason));
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

fn traffic(bytes: u64, packets: u64) -> String {
    format!("{} in {packets}", size(bytes))
}

/// Bytes with a binary unit, three digits.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut rest = bytes;
    let mut tenths = 0;
    let mut unit = 0_usize;
    while rest >= 1024 && unit < UNITS.len().saturating_sub(1) {
        tenths = rest.wrapping_rem(1024).saturating_mul(10).wrapping_div(1024);
        rest = rest.wrapping_div(1024);
        unit = unit.saturating_add(1);
    }
    let name = UNITS.get(unit).copied().unwrap_or_default();
    if unit == 0 || rest >= 100 { format!("{rest} {name}") } else { format!("{rest}.{tenths} {name}") }
}

/// Milliseconds in the largest unit that fits.
fn duration(milliseconds: u64) -> String {
    let seconds = milliseconds.wrapping_div(1000);
    match seconds {
        0 => format!("{milliseconds} ms"),
        1..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds.wrapping_div(60)),
        _ => format!("{} h", seconds.wrapping_div(3600)),
    }
}

#[cfg(test)]
pub mod tests {
    use std::collections::BTreeMap;

    use adit_tunnel::{AttachmentId, Encap, Engine, Pod, PublicKey, Underlay, protocol::Traffic};

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
        assert_eq!(with_state(&tunnel())["peers"][0]["rxBytes"], 1536);
    }

    #[test]
    fn sizes_and_durations_are_short() {
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(10 << 30), "10.0 GiB");
        assert_eq!(duration(999), "999 ms");
        assert_eq!(duration(7_200_000), "2 h");
    }
}
