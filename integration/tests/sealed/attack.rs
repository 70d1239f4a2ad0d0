//! What whoever writes to the wire achieves: a count under a name, and nothing else.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use adit_integration::{
    sealed::{Format, KeyPair, SealedPair, install_key, sealed_tun, tunnel},
    trial,
    tunnels::{FIRST_POD, Family, Pair, annotation, list, net1, outer, tun, with},
};
use adit_lab::{Datagram, Node, Pod, Tap, eventually};
use libtest_mimic::{Failed, Trial};
use serde_json::{Value, json};

use crate::Outcome;

const SOON: Duration = Duration::from_secs(5);

pub fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for format in Format::ALL {
        for outside in [Family::V4, Family::V6] {
            let named = |what: &str| format!("{what}_by_{format:?}_over_{outside:?}").to_lowercase();
            trials.push(trial(named("altered_and_repeated_datagrams_are_dropped_by_name"), move || {
                altered(format, outside)
            }));
        }
        let named = |what: &str| format!("{what}_by_{format:?}").to_lowercase();
        trials.extend([
            trial(named("altered_and_repeated_handshakes_are_dropped_by_name"), move || handshakes(format)),
            trial(named("a_handshake_by_a_foreign_key_is_dropped_by_name"), move || foreign_key(format)),
            trial(named("a_handshake_for_a_foreign_key_is_dropped_by_name"), move || key_of_another(format)),
            trial(named("a_peer_is_held_to_its_own_addresses"), move || own_addresses(format)),
        ]);
    }
    trials.push(trial("a_plain_peer_gets_nothing_from_a_sealed_end", plain_peer));
    trials
}

/// A pair with Ohio's datagrams in the hand of an attacker in front of Mumbai: they come to its tap, and no further.
struct Held {
    pair: Pair,
    format: Format,
    tap: Tap,
    from: SocketAddr,
    to: SocketAddr,
    sender: UdpSocket,
    receiver: UdpSocket,
}

impl Held {
    fn up(format: Format, outside: Family) -> Result<Self, Failed> {
        let pair = SealedPair::new(format).over(outside, Family::V4).up()?;
        let address = |node: &Node| SocketAddr::new(outer(node, outside, FIRST_POD), format.port());
        let (from, to) = (address(pair.lab.ohio()), address(pair.lab.mumbai()));
        pair.ohio.ping("10.4.0.2")?.all_received()?;
        pair.mumbai.ping("10.4.0.1")?.all_received()?;
        let tap = pair.lab.router(2)?.tap("prev", move |packet| {
            packet.src == from.ip() && packet.dst == to.ip() && packet.dst_port == Some(to.port())
        })?;
        let family = outside.of(&["ip", "ip6"]);
        let rule = format!(
            "table inet held {{ chain forward {{ type filter hook forward priority 0; {family} daddr {} udp dport {} drop; }}; }}",
            to.ip(),
            to.port()
        );
        pair.lab.router(2)?.root(["nft", &rule])?.ok()?;
        let sender = pair.ohio.run_inside(|| UdpSocket::bind("10.4.0.1:0"))??;
        let receiver = pair.mumbai.run_inside(|| UdpSocket::bind("10.4.0.2:9000"))??;
        receiver.set_read_timeout(Some(SOON))?;
        Ok(Self { pair, format, tap, from, to, sender, receiver })
    }

    fn mumbai(&self) -> &Node {
        self.pair.lab.mumbai()
    }

    /// A datagram that carries `text`, and has not reached Mumbai.
    fn catch(&self, text: &str) -> Result<Vec<u8>, Failed> {
        let format = self.format;
        // Also what stands for nothing but a sign of life is data; ours is longer.
        let longest = move |tap: &Tap| {
            let data = tap.packets().into_iter().map(|packet| packet.payload);
            data.filter(|payload| format.is_data(payload) && payload.len() > 60).count()
        };
        let before = longest(&self.tap);
        self.sender.send_to(text.as_bytes(), "10.4.0.2:9000")?;
        Ok(eventually("the attacker to hold a datagram", SOON, || {
            let data = self.tap.packets().into_iter().map(|packet| packet.payload);
            Ok(data.filter(|payload| format.is_data(payload) && payload.len() > 60).nth(before))
        })?)
    }

    /// Sends it to Mumbai from right before it.
    fn send_from(&self, from: SocketAddr, payload: &[u8]) -> Outcome {
        Ok(self.pair.lab.router(3)?.inject(&Datagram::new(from, self.to, payload))?)
    }

    /// Sends something that is to be dropped for `reason`, `times` times: that is counted, and all else stays as it was.
    fn dropped(&self, what: &str, reason: &str, from: SocketAddr, payload: &[u8], times: u64) -> Outcome {
        let before = tunnel(self.mumbai())?;
        for _ in 0..times {
            self.send_from(from, payload)?;
        }
        let wanted = before["drops"][reason].as_u64().unwrap_or(0) + times;
        let counted = eventually(&format!("{what} to be counted as {reason}"), SOON, || {
            let now = tunnel(self.mumbai())?;
            let counted = now["drops"][reason].as_u64().unwrap_or(0);
            if counted < wanted {
                return Err(adit_lab::Error::Unexpected(format!("{:#}", now["drops"])));
            }
            Ok(Some(now))
        })?;
        let mut drops = before["drops"].clone();
        drops[reason] = json!(wanted);
        assert_eq!(counted["drops"], drops, "{what}");
        assert_eq!(lasting(&counted), lasting(&before), "{what}");
        Ok(())
    }

    /// No bit of the header, of those behind it, and of the tag can be another one.
    fn nothing_flips(&self, whole: &[u8]) -> Outcome {
        let before = tunnel(self.mumbai())?;
        // Answers that are due, and above a rate, are counted as well.
        let total = |tunnel: &Value| -> u64 {
            let drops = tunnel["drops"].as_object().into_iter().flatten();
            drops.filter(|(reason, _)| *reason != "rate_limited").filter_map(|(_, count)| count.as_u64()).sum()
        };
        let places: Vec<usize> = (0..24).chain(whole.len() - 16..whole.len()).collect();
        for bit in places.iter().flat_map(|at| (0..8).map(move |bit| at * 8 + bit)) {
            let mut copy = whole.to_vec();
            copy[bit / 8] ^= 1 << (bit % 8);
            self.send_from(self.from, &copy)?;
        }
        let wanted = total(&before) + 8 * u64::try_from(places.len())?;
        let after = eventually("every flipped bit to be counted", SOON, || {
            Ok(Some(tunnel(self.mumbai())?).filter(|now| total(now) >= wanted))
        })?;
        assert_eq!(total(&after), wanted, "{:#}", after["drops"]);
        assert_eq!(lasting(&after), lasting(&before));
        Ok(())
    }

    /// What Mumbai's pod has received; nothing may be left after that.
    fn received(&self, texts: &[&str]) -> Outcome {
        let mut buffer = [0; 2000];
        for text in texts {
            let (length, from) = self.receiver.recv_from(&mut buffer)?;
            assert_eq!((&buffer[..length], from), (text.as_bytes(), self.sender.local_addr()?));
        }
        self.receiver.set_nonblocking(true)?;
        let more = self.receiver.recv_from(&mut buffer);
        assert!(more.is_err(), "{more:?}");
        self.receiver.set_nonblocking(false)?;
        Ok(())
    }
}

/// What no attacker may change in a tunnel's state.
fn lasting(tunnel: &Value) -> Value {
    let peers = tunnel["peers"].as_array().cloned().unwrap_or_default();
    let of_peer = |peer: &Value| {
        ["endpoint", "publicKey", "allowedIPs", "established", "handshakes", "rxPackets", "rxBytes", "cipher"]
            .map(|key| peer[key].clone())
    };
    let peers: Vec<_> = peers.iter().map(of_peer).collect();
    json!([peers, tunnel["state"], tunnel["publicKey"], tunnel["local"], tunnel["addresses"], tunnel["mtuBytes"]])
}

fn altered(format: Format, outside: Family) -> Outcome {
    let held = Held::up(format, outside)?;
    let network = (held.pair.mumbai.network_snapshot()?, held.pair.ohio.network_snapshot()?);
    let stranger = SocketAddr::new(outer(held.pair.lab.ohio(), outside, 66), 4444);

    let whole = held.catch(&"the first one, long enough to be cut at many places".repeat(4))?;
    let flipped = |at: usize| {
        let mut copy = whole.clone();
        copy[at] ^= 0x10;
        copy
    };
    let last = whole.len() - 1;
    held.dropped("a flipped bit of the tag", "bad_tag", held.from, &flipped(last), 2)?;
    held.dropped("a flipped bit of the inside", "bad_tag", held.from, &flipped(last - 40), 2)?;
    held.dropped("a flipped bit of the counter", "bad_tag", held.from, &flipped(8), 1)?;
    held.dropped("a flipped bit of the index", "unknown_index", held.from, &flipped(format.index_at()), 2)?;
    held.dropped("a flipped bit from a stranger", "bad_tag", stranger, &flipped(last), 2)?;
    held.dropped("a datagram without its last byte", "bad_tag", held.from, &whole[..last], 2)?;
    held.dropped("a datagram without its second half", "bad_tag", held.from, &whole[..whole.len() / 2], 2)?;
    held.dropped("a datagram without a whole header", "runt", held.from, &whole[..12], 2)?;
    held.dropped("a header alone", "bad_tag", held.from, &whole[..16], 2)?;
    let foreign: Vec<u8> = whole[..16].iter().copied().chain((16..whole.len()).map(|n| n as u8 ^ 0x5a)).collect();
    held.dropped("what another key has sealed", "bad_tag", held.from, &foreign, 2)?;
    held.nothing_flips(&whole)?;
    held.received(&[])?;

    // Untouched it is what it was, once.
    held.send_from(held.from, &whole)?;
    let text = "the first one, long enough to be cut at many places".repeat(4);
    held.received(&[&text])?;
    held.dropped("a repetition", "replayed", held.from, &whole, 3)?;
    held.dropped("a repetition from a stranger", "replayed", stranger, &whole, 2)?;
    held.received(&[])?;

    // Others of the same session still arrive, in any order.
    let (second, third) =
        (held.catch("the second one, also long enough")?, held.catch("the third one, also long enough")?);
    held.send_from(held.from, &third)?;
    held.received(&["the third one, also long enough"])?;
    held.send_from(held.from, &second)?;
    held.received(&["the second one, also long enough"])?;
    held.dropped("a repetition of what came late", "replayed", held.from, &second, 1)?;

    // What is authentic and comes late, by another way, does not say where the peer is now.
    let (early, late) = (held.catch("a newer one, also long enough")?, held.catch("the newest one, also long enough")?);
    held.send_from(held.from, &late)?;
    held.received(&["the newest one, also long enough"])?;
    let before = tunnel(held.mumbai())?;
    held.send_from(stranger, &early)?;
    held.received(&["a newer one, also long enough"])?;
    assert_eq!(tunnel(held.mumbai())?["peers"][0]["endpoint"], before["peers"][0]["endpoint"]);

    held.pair.lab.router(2)?.root(["nft", "delete table inet held"])?.ok()?;
    held.pair.ohio.ping("10.4.0.2")?.all_received()?;
    held.pair.mumbai.ping("10.4.0.1")?.all_received()?;
    network.0.unchanged(&held.pair.mumbai.network_snapshot()?)?;
    network.1.unchanged(&held.pair.ohio.network_snapshot()?)?;
    Ok(())
}

/// The first datagram of a handshake, as Ohio's agent sends it when it has forgotten its sessions.
fn handshakes(format: Format) -> Outcome {
    let held = Held::up(format, Family::V4)?;
    let stranger = SocketAddr::new(outer(held.pair.lab.ohio(), Family::V4, 66), 4444);
    held.pair.lab.ohio().kill_agent()?;
    held.pair.lab.ohio().start_agent()?;
    held.sender.send_to(b"a reason to begin", "10.4.0.2:9000")?;
    let first = eventually("the attacker to hold a handshake", SOON * 2, || {
        let payloads = held.tap.packets().into_iter().map(|packet| packet.payload);
        Ok(payloads.filter(|payload| format.is_handshake(payload)).find(|payload| payload.len() > 100))
    })?;
    let flipped = |at: usize| {
        let mut copy = first.clone();
        copy[at] ^= 0x10;
        copy
    };
    let middle = first.len() / 2;
    held.dropped("a flipped bit of the last code", "bad_mac", held.from, &flipped(first.len() - 20), 2)?;
    held.dropped("a flipped bit of the inside", "bad_mac", held.from, &flipped(middle), 2)?;
    held.dropped("a handshake without its last byte", "runt", held.from, &first[..first.len() - 1], 2)?;
    held.received(&[])?;

    // Untouched it is answered, once: a repetition is not newer than what was seen last, whoever sends it.
    let (from, to) = (held.from.ip(), held.to.ip());
    let answers =
        held.pair.lab.router(3)?.tap("prev", move |packet| {
            packet.src == to && packet.dst == from && format.is_handshake(&packet.payload)
        })?;
    held.send_from(held.from, &first)?;
    answers.wait_for(1, SOON)?;
    held.dropped("a repeated handshake", "replayed_hello", held.from, &first, 2)?;
    held.dropped("a repeated handshake from a stranger", "replayed_hello", stranger, &first, 2)?;
    assert_eq!(answers.stop().len(), 1);
    Ok(())
}

/// A pod of Ohio's beside the first one, whose tunnel leads to Mumbai's pod.
fn another_pod(pair: &Pair, host: u8, tunnel: Value) -> Result<Pod, Failed> {
    let node = pair.lab.ohio();
    let nad = list("another", &[net1(&pair.lab, node), tunnel]);
    Ok(node.pod("another").attach(nad, &annotation("another", node, host))?)
}

/// Mumbai's pod sends nothing to `stranger` while its tunnel `tries`, its state stays, and `reason` is counted.
fn refused_stranger(pair: &Pair, stranger: IpAddr, reason: &str, tries: impl FnOnce() -> Outcome) -> Outcome {
    let mumbai = pair.lab.mumbai();
    let before = tunnel(mumbai)?;
    let tap = pair.lab.router(2)?.tap("next", move |packet| packet.dst == stranger)?;
    tries()?;
    let after = eventually(&format!("a handshake to be counted as {reason}"), SOON * 2, || {
        let now = tunnel(mumbai)?;
        if now["drops"][reason].is_null() {
            return Err(adit_lab::Error::Unexpected(format!("{:#}", now["drops"])));
        }
        Ok(Some(now))
    })?;
    assert_eq!(
        after["drops"].as_object().map(|drops| drops.keys().cloned().collect::<Vec<_>>()),
        Some(vec![reason.to_owned()])
    );
    assert_eq!(lasting(&after), lasting(&before));
    let answers = tap.stop();
    assert!(answers.is_empty(), "{answers:?}");
    pair.ohio.ping("10.4.0.2")?.all_received()?;
    Ok(())
}

fn foreign_key(format: Format) -> Outcome {
    let pair = SealedPair::new(format).up()?;
    pair.ohio.ping("10.4.0.2")?.all_received()?;
    let (ohio, mumbai) = (pair.lab.ohio(), pair.lab.mumbai());
    install_key(ohio, "default", "foreign.key", &KeyPair::new()?.private)?;
    let to = tunnel(mumbai)?["publicKey"].as_str().unwrap_or_default().to_owned();
    let own = sealed_tun(format, Family::V4, Some(outer(mumbai, Family::V4, FIRST_POD)), &to, "10.4.0.1/30");
    let own = with(own, &json!({ "privateKeyFile": "foreign.key" }));
    refused_stranger(&pair, outer(ohio, Family::V4, FIRST_POD + 1), "unknown_key", || {
        let pod = another_pod(&pair, FIRST_POD + 1, own)?;
        pod.ping_with("10.4.0.2", &["-c", "2", "-W", "1"])?.none_received()?;
        Ok(())
    })
}

fn key_of_another(format: Format) -> Outcome {
    let pair = SealedPair::new(format).up()?;
    pair.ohio.ping("10.4.0.2")?.all_received()?;
    let (ohio, mumbai) = (pair.lab.ohio(), pair.lab.mumbai());
    let to = KeyPair::new()?.public;
    let own = sealed_tun(format, Family::V4, Some(outer(mumbai, Family::V4, FIRST_POD)), &to, "10.4.0.1/30");
    refused_stranger(&pair, outer(ohio, Family::V4, FIRST_POD + 1), "bad_mac", || {
        let pod = another_pod(&pair, FIRST_POD + 1, own)?;
        pod.ping_with("10.4.0.2", &["-c", "2", "-W", "1"])?.none_received()?;
        Ok(())
    })
}

/// A peer with a good key uses an address that is not its own.
fn own_addresses(format: Format) -> Outcome {
    let pair = SealedPair::new(format).mumbai_allows(&["10.4.0.1/32"]).up()?;
    pair.ohio.ping("10.4.0.2")?.all_received()?;
    pair.ohio.root(["ip", "address", "add", "10.4.0.5/32", "dev", "tun"])?.ok()?;
    pair.ohio.ping_with("10.4.0.2", &["-c", "2", "-W", "1", "-I", "10.4.0.5"])?.none_received()?;
    assert_eq!(tunnel(pair.lab.mumbai())?["drops"], json!({ "source_not_allowed": 2 }));
    pair.ohio.ping_with("10.4.0.2", &["-c", "2", "-I", "10.4.0.1"])?.all_received()?;
    Ok(())
}

/// No downgrade: an end that speaks plainly at the very address of the peer is no peer.
fn plain_peer() -> Outcome {
    let sealed = SealedPair::new(Format::Noise).up()?;
    let Pair { ohio, mumbai, lab } = sealed;
    ohio.ping("10.4.0.2")?.all_received()?;
    ohio.delete()?;
    let tap = lab.router(2)?.tap("next", |packet| packet.has_port(6090))?;
    let node = lab.ohio();
    let nad = list("plain", &[net1(&lab, node), tun(outer(lab.mumbai(), Family::V4, FIRST_POD), "10.4.0.1/30")]);
    let plain = node.pod("plain").attach(nad, &annotation("plain", node, FIRST_POD))?;
    let before = tunnel(lab.mumbai())?;
    plain.ping_with("10.4.0.2", &["-c", "3", "-W", "1"])?.none_received()?;
    mumbai.ping_with("10.4.0.1", &["-c", "2", "-W", "1"])?.none_received()?;
    let after = tunnel(lab.mumbai())?;
    assert_eq!(after["peers"][0]["rxPackets"], before["peers"][0]["rxPackets"]);
    assert_eq!(after["peers"][0]["handshakes"], before["peers"][0]["handshakes"]);
    assert!(after["drops"]["unknown_type"].as_u64() > Some(0), "{after:#}");
    assert_eq!(tunnel(node)?["state"], "waiting");
    for packet in tap.stop() {
        let shown = packet.payload.windows(8).any(|bytes| {
            [[10, 4, 0, 1, 10, 4, 0, 2], [10, 4, 0, 2, 10, 4, 0, 1]].contains(&bytes.try_into().unwrap_or_default())
        });
        assert!(!shown, "{packet:?}");
    }
    Ok(())
}
