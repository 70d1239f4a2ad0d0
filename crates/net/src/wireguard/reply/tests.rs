use proptest::prelude::*;

use super::*;
use crate::{
    attribute::Attributes,
    fuzz,
    request::Request,
    wireguard::{DeviceChange, PeerAction, PeerChange, Secret},
};

const FAMILY: u16 = 0x1f;
const KEY: PublicKey = [7; KEY_BYTES];

/// A message about a device, with these attributes.
fn about(fill: impl FnOnce(&mut Attributes)) -> Vec<u8> {
    let mut body = Attributes::new();
    body.header(&[0, 1, 0, 0]);
    fill(&mut body);
    Request::new(FAMILY, body).write(1, 0)
}

/// What the kernel says first.
fn head(body: &mut Attributes) {
    body.bytes(WGDEVICE_A_LISTEN_PORT, &51820_u16.to_ne_bytes()).native_u32(WGDEVICE_A_FWMARK, 9);
    body.native_u32(WGDEVICE_A_IFINDEX, 5).text(WGDEVICE_A_IFNAME, "wg0");
    body.bytes(3, &[0xab; KEY_BYTES]).bytes(WGDEVICE_A_PUBLIC_KEY, &[8; KEY_BYTES]);
}

/// A device whose peer has all that a peer can have.
fn whole() -> Vec<u8> {
    about(|body| {
        head(body);
        body.nested(WGDEVICE_A_PEERS, |peers| {
            peers.nested(0, |peer| {
                peer.bytes(WGPEER_A_PUBLIC_KEY, &KEY).bytes(WGPEER_A_PRESHARED_KEY, &[0xab; KEY_BYTES]);
                let time = [1_795_000_000_i64.to_ne_bytes(), 500_i64.to_ne_bytes()].concat();
                peer.bytes(WGPEER_A_LAST_HANDSHAKE_TIME, &time);
                peer.bytes(WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL, &25_u16.to_ne_bytes());
                peer.bytes(WGPEER_A_TX_BYTES, &148_u64.to_ne_bytes());
                // What the kernel fills up with, so that eight bytes stand at a multiple of eight.
                peer.bytes(0, &[]).bytes(WGPEER_A_RX_BYTES, &92_u64.to_ne_bytes());
                peer.native_u32(10, 1); // WGPEER_A_PROTOCOL_VERSION
                let mut endpoint = [10_u16.to_ne_bytes(), 51820_u16.to_be_bytes(), [0; 2], [0; 2]].concat();
                endpoint.extend("fe80::1".parse::<std::net::Ipv6Addr>().unwrap().octets());
                endpoint.extend(3_u32.to_ne_bytes());
                peer.bytes(WGPEER_A_ENDPOINT, &endpoint);
                peer.nested(WGPEER_A_ALLOWEDIPS, |list| {
                    list.nested(0, |network| {
                        network.u8(WGALLOWEDIP_A_CIDR_MASK, 24);
                        network.bytes(WGALLOWEDIP_A_FAMILY, &2_u16.to_ne_bytes());
                        network.bytes(WGALLOWEDIP_A_IPADDR, &[10, 4, 0, 0]);
                    });
                });
            });
        });
    })
}

fn read(messages: &[Vec<u8>]) -> Result<Device, String> {
    device(messages.iter().map(|message| part(message, FAMILY)).collect())
}

#[test]
fn all_that_the_kernel_says_but_secrets_is_read() {
    let device = read(&[whole()]).unwrap();
    let handshake = SystemTime::UNIX_EPOCH + Duration::new(1_795_000_000, 500);
    let peer = Peer {
        public_key: KEY,
        has_preshared_key: true,
        endpoint: Some("[fe80::1%3]:51820".parse().unwrap()),
        keepalive_seconds: 25,
        last_handshake: Some(handshake),
        rx_bytes: 92,
        tx_bytes: 148,
        allowed_ips: vec!["10.4.0.0/24".parse().unwrap()],
    };
    let expected = Device {
        index: 5,
        name: "wg0".into(),
        public_key: Some([8; KEY_BYTES]),
        listen_port: 51820,
        fwmark: 9,
        peers: vec![peer],
    };
    assert_eq!(device, expected);
    assert!(!format!("{device:?}").contains("171"));
}

#[test]
fn a_device_without_key_and_peers_is_read() {
    let message = about(|body| {
        body.bytes(WGDEVICE_A_LISTEN_PORT, &[0; 2]).native_u32(WGDEVICE_A_FWMARK, 0);
        body.native_u32(WGDEVICE_A_IFINDEX, 5).text(WGDEVICE_A_IFNAME, "wg0").nested(WGDEVICE_A_PEERS, |_| {});
    });
    let device = read(&[message]).unwrap();
    assert_eq!((device.public_key, device.listen_port, device.peers.len()), (None, 0, 0));
}

#[test]
fn an_answer_that_is_damaged_says_so() {
    let mut outside = Attributes::new();
    outside.nested(0, |network| {
        network.bytes(WGALLOWEDIP_A_FAMILY, &2_u16.to_ne_bytes());
        network.bytes(WGALLOWEDIP_A_IPADDR, &[10, 4, 0, 0]).u8(WGALLOWEDIP_A_CIDR_MASK, 33);
    });
    let outside = outside.finish().unwrap();
    let damages: [(u16, &[u8]); 5] = [
        (WGPEER_A_ENDPOINT, &[2, 0, 1, 1, 10]),
        (WGPEER_A_ENDPOINT, &[7; 28]),
        (WGPEER_A_LAST_HANDSHAKE_TIME, &[0xff; 16]),
        (WGPEER_A_RX_BYTES, &[0; 4]),
        (WGPEER_A_ALLOWEDIPS, &outside),
    ];
    for (kind, value) in damages {
        let message = about(|body| {
            head(body);
            body.nested(WGDEVICE_A_PEERS, |peers| {
                peers.nested(0, |peer| {
                    peer.bytes(WGPEER_A_PUBLIC_KEY, &KEY).bytes(kind, value);
                });
            });
        });
        assert_eq!(read(&[message]).unwrap_err(), "what it says of a peer is damaged");
    }
    assert_eq!(read(&[]).unwrap_err(), "it names no device");
    assert_eq!(part(&whole(), FAMILY + 1).unwrap_err(), "message type 31 where 32 was expected");
    assert_eq!(family(&whole()).unwrap_err(), "message type 31 where 16 was expected");
}

#[test]
fn a_change_is_written_byte_by_byte() {
    let (private, networks) = ([1; KEY_BYTES], ["10.4.0.7/24".parse().unwrap()]);
    let change = DeviceChange {
        private_key: Some(Some(Secret::new(&private))),
        listen_port: Some(51820),
        fwmark: Some(1),
        replace_peers: true,
        peers: vec![
            PeerChange {
                preshared_key: Some(None),
                endpoint: Some("192.0.2.1:51821".parse().unwrap()),
                keepalive_seconds: Some(25),
                replace_allowed_ips: true,
                allowed_ips: &networks,
                ..PeerChange::new(KEY)
            },
            PeerChange { action: PeerAction::Remove, allowed_ips: &networks, ..PeerChange::new([9; KEY_BYTES]) },
        ],
    };
    let mut parts = set(FAMILY, "wg0", &change);
    assert_eq!(parts.len(), 1);

    let mut expected = Vec::new();
    expected.extend([1, 1, 0, 0]); // WG_CMD_SET_DEVICE, version 1
    expected.extend([8, 0, 2, 0, b'w', b'g', b'0', 0]);
    expected.extend([36, 0, 3, 0].into_iter().chain([1; 32]));
    expected.extend([8, 0, 5, 0, 1, 0, 0, 0]); // WGDEVICE_F_REPLACE_PEERS
    expected.extend([6, 0, 6, 0, 0x6c, 0xca, 0, 0]);
    expected.extend([8, 0, 7, 0, 1, 0, 0, 0]);
    expected.extend([196, 0, 8, 0x80]);
    expected.extend([144, 0, 0, 0x80]);
    expected.extend([36, 0, 1, 0].into_iter().chain(KEY));
    expected.extend([8, 0, 3, 0, 2, 0, 0, 0]); // WGPEER_F_REPLACE_ALLOWEDIPS
    expected.extend([36, 0, 2, 0].into_iter().chain([0; 32]));
    expected.extend([20, 0, 4, 0, 2, 0, 0xca, 0x6d, 192, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    expected.extend([6, 0, 5, 0, 25, 0, 0, 0]);
    expected.extend([32, 0, 9, 0x80, 28, 0, 0, 0x80]);
    expected.extend([6, 0, 1, 0, 2, 0, 0, 0, 8, 0, 2, 0, 10, 4, 0, 0, 5, 0, 3, 0, 24, 0, 0, 0]);
    expected.extend([48, 0, 0, 0x80]);
    expected.extend([36, 0, 1, 0].into_iter().chain([9; 32]));
    expected.extend([8, 0, 3, 0, 1, 0, 0, 0]); // WGPEER_F_REMOVE_ME
    let mut header = u32::try_from(expected.len() + 16).unwrap().to_ne_bytes().to_vec();
    header.extend([0x1f, 0, 5, 0, 7, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(parts[0].numbered(7, 4), [header, expected].concat());
}

fn networks(most: usize) -> impl Strategy<Value = Vec<IpNetwork>> {
    let four = (any::<[u8; 4]>(), 0..=32_u8).prop_map(|(ip, prefix)| IpNetwork::new(ip.into(), prefix).unwrap());
    let six = (any::<[u8; 16]>(), 0..=128_u8).prop_map(|(ip, prefix)| IpNetwork::new(ip.into(), prefix).unwrap());
    prop::collection::vec(prop_oneof![four, six], 0..most)
}

type Described = ([u8; KEY_BYTES], Option<[u8; KEY_BYTES]>, Option<SocketAddr>, u16, Vec<IpNetwork>);

/// Peers of which several fill a message, and some more than one.
fn peers() -> impl Strategy<Value = Vec<Described>> {
    let four = (any::<[u8; 4]>(), any::<u16>()).prop_map(SocketAddr::from);
    let six = (any::<[u8; 16]>(), any::<u16>(), any::<u32>())
        .prop_map(|(ip, port, scope)| SocketAddrV6::new(ip.into(), port, 0, scope).into());
    let endpoint = prop::option::of(prop_oneof![four, six]);
    let secret = prop::option::of(any::<[u8; KEY_BYTES]>().prop_filter("zero is none", |key| *key != [0; KEY_BYTES]));
    let networks = prop_oneof![9 => networks(8), 1 => networks(1500)];
    let peer = (any::<[u8; KEY_BYTES]>(), secret, endpoint, any::<u16>(), networks);
    prop::collection::vec(peer, 0..200)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A change has the form of what is reported.
    #[test]
    fn what_is_told_is_read_back_from_however_many_messages(peers in peers()) {
        let change = DeviceChange {
            peers: peers.iter().map(|(key, secret, endpoint, seconds, networks)| PeerChange {
                preshared_key: Some(secret.as_ref().map(Secret::new)),
                endpoint: *endpoint,
                keepalive_seconds: Some(*seconds),
                allowed_ips: networks,
                ..PeerChange::new(*key)
            }).collect(),
            ..DeviceChange::default()
        };
        let mut messages = vec![about(head)];
        for mut part in set(FAMILY, "wg0", &change) {
            let bytes = part.numbered(1, 0).to_vec();
            prop_assert!(bytes.len() <= LIMIT_BYTES);
            // It was never moved, so nothing of it lies elsewhere.
            prop_assert_eq!(part.capacity(), LIMIT_BYTES);
            messages.push(bytes);
        }
        // Every one but the last is as good as full.
        prop_assert!(messages.iter().skip(1).rev().skip(1).all(|message| message.len() > LIMIT_BYTES.saturating_sub(192)));
        let expected: Vec<Peer> = peers.into_iter().map(|(public_key, secret, endpoint, keepalive_seconds, networks)| Peer {
            public_key,
            has_preshared_key: secret.is_some(),
            endpoint,
            keepalive_seconds,
            last_handshake: None,
            rx_bytes: 0,
            tx_bytes: 0,
            allowed_ips: networks.into_iter().map(|n| IpNetwork::new(n.network(), n.prefix()).unwrap()).collect(),
        }).collect();
        prop_assert_eq!(read(&messages).unwrap().peers, expected);
    }

    #[test]
    fn no_answer_makes_the_reader_panic(bytes: Vec<u8>) {
        fuzz::wireguard(&bytes);
    }

    #[test]
    fn no_damage_to_an_answer_makes_the_reader_panic(
        changes in prop::collection::vec((0..whole().len(), any::<u8>()), 0..6),
        cut in prop::option::of(0..whole().len()),
    ) {
        let mut bytes = whole();
        for (place, value) in changes {
            bytes[place] = value;
        }
        bytes.truncate(cut.unwrap_or(bytes.len()));
        fuzz::wireguard(&bytes);
    }
}
