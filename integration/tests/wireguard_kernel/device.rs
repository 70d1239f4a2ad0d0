//! Devices of the kernel through `crates/net`, with `wg` as the witness.

use std::{
    collections::BTreeSet,
    io::Write as _,
    net::{SocketAddr, UdpSocket},
    process::{Command, Stdio},
    time::SystemTime,
};

use adit_net::{
    Error, LinkKind, Wireguard, WireguardSpec,
    wireguard::{Device, DeviceChange, Peer, PeerAction, PeerChange, PublicKey, Secret},
};
use ipnetwork::IpNetwork;

use crate::{
    Outcome,
    space::{Space, connect, eventually, run},
};

pub type Test = (&'static str, fn() -> Outcome);

pub const WITH_WIREGUARD: &[Test] = &[
    ("a_device_says_what_it_was_told_and_wg_agrees", says_what_it_was_told),
    ("a_change_touches_what_it_names_and_nothing_else", touches_what_it_names),
    ("more_peers_and_networks_than_a_message_holds_arrive", many_peers),
    ("two_namespaces_talk_through_two_devices", two_namespaces),
    ("a_device_made_for_a_pod_sends_from_where_it_was_made", made_for_a_pod),
    ("what_the_kernel_refuses_is_said_in_words", refusals),
];

pub const WITHOUT: &[Test] = &[("a_kernel_without_wireguard_is_told_in_words", without_wireguard)];

/// A key as bytes, and as `wg` writes it.
#[derive(Clone)]
struct Key {
    bytes: [u8; 32],
    text: String,
}

impl Key {
    fn from_text(text: &str) -> Self {
        let text = text.trim().to_owned();
        let digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut bits = text
            .bytes()
            .filter_map(|digit| digits.find(char::from(digit)))
            .flat_map(|value| (0..6).rev().map(move |bit| u8::from(value >> bit & 1 == 1)));
        let bytes = std::array::from_fn(|_| (0..8).fold(0, |byte, _| byte << 1 | bits.next().unwrap()));
        Self { bytes, text }
    }

    fn private() -> Self {
        Self::from_text(&run("wg", &["genkey"]))
    }

    fn public(&self) -> Self {
        let mut wg = Command::new("wg").arg("pubkey").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        wg.stdin.take().unwrap().write_all(self.text.as_bytes()).unwrap();
        let output = wg.wait_with_output().unwrap();
        assert!(output.status.success());
        Self::from_text(&String::from_utf8(output.stdout).unwrap())
    }

    fn secret(&self) -> Option<Option<Secret<'_>>> {
        Some(Some(Secret::new(&self.bytes)))
    }
}

fn networks(texts: &[&str]) -> Vec<IpNetwork> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// A peer that has never been heard of.
fn silent(public_key: PublicKey, allowed_ips: &[IpNetwork]) -> Peer {
    Peer {
        public_key,
        has_preshared_key: false,
        endpoint: None,
        keepalive_seconds: 0,
        last_handshake: None,
        rx_bytes: 0,
        tx_bytes: 0,
        allowed_ips: allowed_ips.to_vec(),
    }
}

fn inside(space: &Space, line: &str) -> String {
    let mut all = vec!["netns", "exec", &space.name];
    all.extend(line.split_whitespace());
    run("ip", &all)
}

/// The lines of `wg show wg0 dump`.
fn dump(space: &Space) -> Vec<Vec<String>> {
    let said = inside(space, "wg show wg0 dump");
    said.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect()
}

fn make(space: &Space) -> Wireguard {
    space.netlink().add_wireguard(&WireguardSpec { name: "wg0", mtu: None, netns: None }).unwrap();
    Wireguard::open_in(&space.netns).unwrap()
}

fn read(wireguard: &Wireguard) -> Device {
    wireguard.device("wg0").unwrap().unwrap()
}

fn says_what_it_was_told() -> Outcome {
    let home = Space::new("home");
    home.netlink().add_wireguard(&WireguardSpec { name: "wg0", mtu: Some(1400), netns: None })?;
    let link = home.link("wg0");
    assert_eq!((&link.kind, link.mtu, link.up), (&LinkKind::Wireguard, 1400, false));
    let wireguard = Wireguard::open_in(&home.netns)?;
    assert!(wireguard.is_supported()?);
    home.netlink().require_wireguard()?;
    assert_eq!(home.netlink().link("adit-probe")?, None);
    let empty = Device {
        index: link.index,
        name: "wg0".into(),
        public_key: None,
        listen_port: 0,
        fwmark: 0,
        peers: Vec::new(),
    };
    assert_eq!(read(&wireguard), empty);

    let (private, preshared) = (Key::private(), Key::private());
    let [first, second] = [Key::private().public(), Key::private().public()];
    let (all, some) = (networks(&["0.0.0.0/0", "::/0"]), networks(&["10.4.0.0/24", "fd04::/64", "10.5.0.9/32"]));
    let endpoints: [SocketAddr; 2] = ["192.0.2.1:51821".parse()?, "[2001:db8::1]:51822".parse()?];
    let change = DeviceChange {
        private_key: private.secret(),
        listen_port: Some(51820),
        fwmark: Some(0x1234),
        replace_peers: true,
        peers: vec![
            PeerChange {
                preshared_key: preshared.secret(),
                endpoint: Some(endpoints[0]),
                keepalive_seconds: Some(25),
                replace_allowed_ips: true,
                allowed_ips: &all,
                ..PeerChange::new(first.bytes)
            },
            PeerChange { endpoint: Some(endpoints[1]), allowed_ips: &some, ..PeerChange::new(second.bytes) },
        ],
    };
    wireguard.set("wg0", &change)?;
    let expected = Device {
        public_key: Some(private.public().bytes),
        listen_port: 51820,
        fwmark: 0x1234,
        peers: vec![
            Peer {
                has_preshared_key: true,
                endpoint: Some(endpoints[0]),
                keepalive_seconds: 25,
                ..silent(first.bytes, &all)
            },
            Peer { endpoint: Some(endpoints[1]), ..silent(second.bytes, &some) },
        ],
        ..empty.clone()
    };
    assert_eq!(read(&wireguard), expected);

    let lines = dump(&home);
    assert_eq!(lines[0], [&private.text, &private.public().text, "51820", "0x1234"]);
    let rest = ["0", "0", "0"];
    let one = [&first.text, &preshared.text, "192.0.2.1:51821", "0.0.0.0/0,::/0"];
    assert_eq!(lines[1], [&one[..], &rest, &["25"]].concat());
    let other = [&second.text, "(none)", "[2001:db8::1]:51822", "10.4.0.0/24,fd04::/64,10.5.0.9/32"];
    assert_eq!(lines[2], [&other[..], &rest, &["off"]].concat());

    // Everything can be taken back.
    let nothing = DeviceChange {
        private_key: Some(None),
        listen_port: Some(0),
        fwmark: Some(0),
        replace_peers: true,
        peers: Vec::new(),
    };
    wireguard.set("wg0", &nothing)?;
    assert_eq!(read(&wireguard), empty);
    Ok(())
}

fn touches_what_it_names() -> Outcome {
    let home = Space::new("home");
    let wireguard = make(&home);
    let (private, preshared) = (Key::private(), Key::private());
    let [first, second, third] = [(); 3].map(|()| Key::private().public());
    let both = networks(&["10.4.0.1/32", "10.4.0.2/32"]);
    let full = |key: &Key| PeerChange { preshared_key: preshared.secret(), ..PeerChange::new(key.bytes) };
    let told = DeviceChange {
        private_key: private.secret(),
        listen_port: Some(51820),
        peers: vec![PeerChange { allowed_ips: &both, keepalive_seconds: Some(9), ..full(&first) }, full(&second)],
        ..DeviceChange::default()
    };
    wireguard.set("wg0", &told)?;
    let mut expected = read(&wireguard);
    let mut change = |peer: PeerChange<'_>, expect: &dyn Fn(&mut Vec<Peer>)| {
        wireguard.set("wg0", &DeviceChange { peers: vec![peer], ..DeviceChange::default() }).unwrap();
        expect(&mut expected.peers);
        assert_eq!(read(&wireguard), expected);
    };
    change(PeerChange { keepalive_seconds: Some(3), ..PeerChange::new(first.bytes) }, &|peers| {
        peers[0].keepalive_seconds = 3;
    });
    // A network has one owner.
    let moved = networks(&["10.4.0.2/32", "10.4.7.9/24"]);
    change(PeerChange { allowed_ips: &moved, ..PeerChange::new(second.bytes) }, &|peers| {
        peers[0].allowed_ips = networks(&["10.4.0.1/32"]);
        peers[1].allowed_ips = networks(&["10.4.0.2/32", "10.4.7.0/24"]);
    });
    let only = networks(&["fd04::/64"]);
    let replaced = PeerChange { replace_allowed_ips: true, allowed_ips: &only, ..PeerChange::new(second.bytes) };
    change(replaced, &|peers| peers[1].allowed_ips = networks(&["fd04::/64"]));
    change(PeerChange { preshared_key: Some(None), ..PeerChange::new(second.bytes) }, &|peers| {
        peers[1].has_preshared_key = false;
    });
    change(PeerChange { action: PeerAction::Update, ..PeerChange::new(third.bytes) }, &|_| {});
    let updated = PeerChange {
        action: PeerAction::Update,
        endpoint: Some("192.0.2.1:1".parse()?),
        ..PeerChange::new(second.bytes)
    };
    change(updated, &|peers| peers[1].endpoint = Some("192.0.2.1:1".parse().unwrap()));
    for _ in 0..2 {
        change(PeerChange { action: PeerAction::Remove, ..PeerChange::new(first.bytes) }, &|peers| {
            peers.retain(|peer| peer.public_key != first.bytes);
        });
    }
    change(PeerChange::new(third.bytes), &|peers| peers.push(silent(third.bytes, &[])));
    // Itself it does not take for a peer.
    change(PeerChange::new(private.public().bytes), &|_| {});
    Ok(())
}

fn many_peers() -> Outcome {
    let home = Space::new("home");
    let wireguard = make(&home);
    let key = |number: u32| -> PublicKey {
        let mut key = [1; 32];
        key[..4].copy_from_slice(&number.to_be_bytes());
        key
    };
    let of = |peer: u32, count: u32| -> Vec<IpNetwork> {
        let network = |n: u32| IpNetwork::new((0x0a00_0000 | peer << 12 | n).to_be_bytes().into(), 32).unwrap();
        (0..count).map(network).collect()
    };
    let all: Vec<(PublicKey, Vec<IpNetwork>)> =
        (0..400).map(|peer| (key(peer), of(peer, if peer % 100 == 7 { 2000 } else { peer % 5 }))).collect();
    let change = DeviceChange {
        replace_peers: true,
        peers: all.iter().map(|(key, own)| PeerChange { allowed_ips: own, ..PeerChange::new(*key) }).collect(),
        ..DeviceChange::default()
    };
    for _ in 0..2 {
        wireguard.set("wg0", &change)?;
        let found = read(&wireguard).peers;
        assert_eq!(found.len(), all.len());
        for (peer, (key, own)) in found.iter().zip(&all) {
            assert_eq!((&peer.public_key, peer.allowed_ips.len()), (key, own.len()));
            assert_eq!(peer.allowed_ips.iter().collect::<BTreeSet<_>>(), own.iter().collect());
        }
    }
    let lines = dump(&home);
    assert_eq!(lines.len(), 1 + all.len());
    assert_eq!(lines[8][3].split(',').count(), 2000);
    Ok(())
}

/// Both ends of a veth pair with an address of each version.
fn connected() -> (Space, Space) {
    let (here, there) = (Space::new("here"), Space::new("there"));
    connect(&here, &there);
    for (space, link, end) in [(&here, "near", 1), (&there, "far", 2)] {
        space.ip(&format!("addr add 192.0.2.{end}/24 dev {link}"));
        space.ip(&format!("addr add 2001:db8::{end}/64 dev {link} nodad"));
    }
    (here, there)
}

fn up(space: &Space, addresses: &[&str]) {
    for address in addresses {
        space.ip(&format!("addr add {address} dev wg0"));
    }
    space.ip("link set wg0 up");
}

fn answers(space: &Space, address: &str) -> bool {
    let line = ["netns", "exec", &space.name, "ping", "-n", "-c", "1", "-W", "1", address];
    Command::new("ip").args(line).output().unwrap().status.success()
}

fn two_namespaces() -> Outcome {
    for outside in ["192.0.2.2", "2001:db8::2"] {
        let (here, there) = connected();
        let (one, other, preshared) = (Key::private(), Key::private(), Key::private());
        let allowed = networks(&["10.4.0.0/24", "fd04::/64"]);
        let endpoint = SocketAddr::new(outside.parse()?, 51820);
        let tell = |wireguard: &Wireguard, own: &Key, peer: &Key, endpoint, preshared_key| {
            let peer = PeerChange {
                preshared_key,
                endpoint,
                replace_allowed_ips: true,
                allowed_ips: &allowed,
                ..PeerChange::new(peer.public().bytes)
            };
            let change = DeviceChange {
                private_key: own.secret(),
                listen_port: Some(51820),
                peers: vec![peer],
                ..DeviceChange::default()
            };
            wireguard.set("wg0", &change).unwrap();
        };
        let (near, far) = (make(&here), make(&there));
        tell(&near, &one, &other, Some(endpoint), preshared.secret());
        tell(&far, &other, &one, None, None);
        up(&here, &["10.4.0.1/24", "fd04::1/64"]);
        up(&there, &["10.4.0.2/24", "fd04::2/64"]);
        // One end knows the preshared key only.
        assert!(!answers(&here, "10.4.0.2"));
        assert_eq!(read(&near).peers[0].last_handshake, None);
        tell(&far, &other, &one, None, preshared.secret());
        eventually("an answer", || answers(&here, "10.4.0.2"));
        eventually("an answer over IPv6", || answers(&there, "fd04::1"));

        // Told the same once more, the session goes on.
        let since = read(&near).peers[0].last_handshake;
        tell(&near, &one, &other, Some(endpoint), preshared.secret());
        tell(&far, &other, &one, None, preshared.secret());
        assert!(answers(&here, "10.4.0.2"));
        assert_eq!(read(&near).peers[0].last_handshake, since);

        let (near, far) = (read(&near), read(&far));
        assert_eq!(near.peers[0].endpoint, Some(endpoint));
        let learned = if outside.contains(':') { "[2001:db8::1]:51820" } else { "192.0.2.1:51820" };
        assert_eq!(far.peers[0].endpoint, Some(learned.parse()?));
        for device in [near, far] {
            let peer = &device.peers[0];
            assert!(peer.last_handshake.is_some_and(|then| then <= SystemTime::now()), "{peer:?}");
            assert!(peer.rx_bytes > 148 && peer.tx_bytes > 148, "{peer:?}");
        }
    }
    Ok(())
}

fn made_for_a_pod() -> Outcome {
    let (node, outside) = connected();
    let pod = Space::new("pod");
    node.netlink().add_wireguard(&WireguardSpec { name: "wg0", mtu: Some(1380), netns: Some(&pod.netns) })?;
    assert_eq!(pod.link("wg0").mtu, 1380);
    assert!(node.netlink().link("wg0")?.is_none());
    let far = make(&outside);
    let (one, other, allowed) = (Key::private(), Key::private(), networks(&["10.4.0.0/24"]));
    let tell = |wireguard: &Wireguard, own: &Key, peer: &Key, port, endpoint| {
        let peer = PeerChange { endpoint, allowed_ips: &allowed, ..PeerChange::new(peer.public().bytes) };
        let change = DeviceChange {
            private_key: own.secret(),
            listen_port: Some(port),
            peers: vec![peer],
            ..DeviceChange::default()
        };
        wireguard.set("wg0", &change)
    };
    let near = Wireguard::open_in(&pod.netns)?;
    tell(&near, &one, &other, 51820, Some("192.0.2.2:51830".parse()?))?;
    tell(&far, &other, &one, 51830, None)?;
    up(&pod, &["10.4.0.1/24"]);
    up(&outside, &["10.4.0.2/24"]);
    let listens = |space: &Space, port: u16| inside(space, "ss -Hnul").contains(&format!(":{port} "));
    assert!(listens(&node, 51820) && !listens(&pod, 51820));
    eventually("an answer", || answers(&pod, "10.4.0.2"));
    // The pod has nothing but loopback and its device.
    assert_eq!(pod.netlink().links()?.len(), 2);

    // Told from the pod, it still opens its port where it was made.
    tell(&near, &one, &other, 51821, None)?;
    assert!(listens(&node, 51821) && !listens(&node, 51820) && !listens(&pod, 51821));
    eventually("an answer from the other port", || answers(&pod, "10.4.0.2"));
    assert_eq!(read(&far).peers[0].endpoint, Some("192.0.2.1:51821".parse()?));
    Ok(())
}

fn refusals() -> Outcome {
    let home = Space::new("home");
    let wireguard = make(&home);
    let nothing = DeviceChange::default();
    let error = wireguard.device("lo").unwrap_err();
    assert_eq!(
        error.to_string(),
        "read wireguard device lo: Operation not supported on transport endpoint (EOPNOTSUPP); the link is no WireGuard \
         device"
    );
    assert_eq!(wireguard.device("wg1")?, None);
    let error = wireguard.set("wg1", &nothing).unwrap_err();
    assert!(error.is_not_found() && error.to_string().starts_with("configure wireguard device wg1: "), "{error}");
    let again = home.netlink().add_wireguard(&WireguardSpec { name: "wg0", mtu: None, netns: None }).unwrap_err();
    assert!(again.is_exists(), "{again}");

    let taken = home.netns.run_on_thread(|| UdpSocket::bind("0.0.0.0:51820"))??;
    home.up("wg0");
    let error = wireguard.set("wg0", &DeviceChange { listen_port: Some(51820), ..nothing.clone() }).unwrap_err();
    assert!(error.is_address_in_use() && error.to_string().contains("another socket has this UDP port"), "{error}");
    drop(taken);
    wireguard.set("wg0", &DeviceChange { listen_port: Some(51820), ..nothing })?;
    assert_eq!(read(&wireguard).listen_port, 51820);
    Ok(())
}

fn without_wireguard() -> Outcome {
    let home = Space::new("home");
    let wireguard = Wireguard::open_in(&home.netns)?;
    assert!(!wireguard.is_supported()?);
    let told = |error: Error, attempt: &str| {
        let text = error.to_string();
        assert!(text.starts_with(attempt) && text.contains("this kernel has no WireGuard"), "{text}");
        assert!(!error.is_not_found(), "{text}");
    };
    told(wireguard.device("wg0").unwrap_err(), "read wireguard device wg0: ");
    told(wireguard.set("wg0", &DeviceChange::default()).unwrap_err(), "configure wireguard device wg0: ");
    let made = home.netlink().add_wireguard(&WireguardSpec { name: "wg0", mtu: None, netns: None });
    told(made.unwrap_err(), "create wireguard wg0: ");
    told(home.netlink().require_wireguard().unwrap_err(), "create wireguard adit-probe: ");
    Ok(())
}
