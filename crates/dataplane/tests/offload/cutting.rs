use crate::{
    generate::headers,
    model::{self, Headers, TCP, UDP, complete, cut, payload},
    tunnel::{MTU_BYTES, Tunnel, numbers, seen, vnet},
};
use adit_dataplane::{Checksum, Gso, GsoKind, Vnet};
use proptest::{collection::vec, prelude::*};

/// Lengths of segments, how many there are, and the last one's length, that the kernel may hand over behind headers of `header_bytes`.
fn lengths(header_bytes: usize) -> impl Strategy<Value = (usize, usize)> {
    let longest = usize::from(MTU_BYTES) - header_bytes;
    let segment = prop_oneof![1..=longest, 1..=16_usize, Just(longest), Just(longest - 12)];
    (segment, prop_oneof![1..=64_usize, 1..=4_usize], any::<u16>()).prop_map(move |(segment, count, last)| {
        let whole = (count - 1) * segment + 1 + usize::from(last) % segment;
        (segment, whole.min(65_535 - header_bytes))
    })
}

/// A packet that stands for several: its headers, the length of its segments, its payload.
fn several() -> impl Strategy<Value = (Headers, usize, Vec<u8>)> {
    (headers(), any::<u32>()).prop_flat_map(|(headers, seed)| {
        lengths(headers.bytes()).prop_map(move |(segment, bytes)| (headers.clone(), segment, payload(bytes, seed)))
    })
}

/// One behind extension headers, among them routing headers: whose pseudo header has the address at the route's end.
fn several_behind_extensions() -> impl Strategy<Value = (Headers, usize, Vec<u8>)> {
    let extension = (prop_oneof![Just(0_u8), Just(60), Just(43)], 1..=4_usize, any::<u8>());
    (several(), extension).prop_map(|((headers, segment, payload), (kind, words, host))| {
        let mut bytes = vec![0; words * 8];
        (bytes[0], bytes[1]) = (headers.protocol, words as u8 - 1);
        let (identification, fragment, ip_options) = (7, 0, vec![]);
        let final_host = (kind == 43).then_some(host);
        let tcp_options = headers.tcp_options[..headers.tcp_options.len().min(20)].to_vec();
        let extensions = Some((kind, bytes));
        let is_v6 = true;
        let headers =
            Headers { is_v6, identification, fragment, ip_options, extensions, final_host, tcp_options, ..headers };
        let segment = segment.min(usize::from(MTU_BYTES) - headers.bytes());
        let payload = payload[..payload.len().min(65_000).min(segment * 64)].to_vec();
        (headers, segment, payload)
    })
}

/// A packet that is one: as the TUN hands it over, what it says of it, and as it is seen on the other side.
fn single() -> impl Strategy<Value = (Vec<u8>, Vnet, Vec<u8>)> {
    let lengths = prop_oneof![0..=10_usize, 0..=1000_usize, Just(usize::from(MTU_BYTES))];
    (headers(), lengths, any::<u32>(), 0..6_u8).prop_map(|(mut headers, length, seed, kind)| {
        let payload = payload(length.min(usize::from(MTU_BYTES) - headers.bytes()), seed);
        let complete = headers.complete(&payload);
        let unchanged = |packet: Vec<u8>| (packet.clone(), Vnet::default(), packet);
        match kind {
            0 | 1 => (headers.partial(&payload), vnet(&headers, None), complete),
            2 => unchanged(complete),
            // A fragment, whose TCP or UDP header is none.
            3 => {
                headers.fragment = 0x2000 | seed as u16 & 0x1fff;
                unchanged(headers.complete(&payload))
            }
            // Something else (ICMP), or UDP without a checksum, or with a wrong one.
            4 => {
                let mut packet = complete;
                let at = if headers.is_v6 { 6 } else { 9 };
                packet[at] = if headers.is_v6 { 58 } else { 1 };
                if !headers.is_v6 {
                    model::write_ip_checksum(&mut packet, headers.ip_bytes());
                }
                unchanged(packet)
            }
            _ => {
                let mut packet = complete;
                let (start, offset) = headers.checksum_place();
                model::put_u16(&mut packet, start + offset, seed as u16 & 0x0f0f);
                unchanged(packet)
            }
        }
    })
}

proptest! {
    #[test]
    fn packet_for_several_arrives_as_the_kernel_would_cut_it((headers, segment, payload) in several()) {
        let packet = headers.partial(&payload);
        let expected = cut(&packet, headers.protocol, headers.checksum_place(), segment);
        for mut tunnel in Tunnel::each_up() {
            let arrived = tunnel.pass(&packet, vnet(&headers, Some(segment)));
            prop_assert!(arrived.iter().all(|(_, checksum)| *checksum == Checksum::Partial));
            prop_assert_eq!(arrived.len(), payload.len().div_ceil(segment));
            for (number, (arrived, expected)) in arrived.into_iter().map(seen).zip(&expected).enumerate() {
                prop_assert_eq!(&arrived, expected, "packet {}", number);
            }
            prop_assert_eq!(tunnel.drops(), []);
        }
    }

    #[test]
    fn packet_for_several_behind_extension_headers_arrives_complete(
        (headers, segment, payload) in several_behind_extensions(),
    ) {
        let packet = headers.partial(&payload);
        let expected = cut(&packet, headers.protocol, headers.checksum_place(), segment);
        for mut tunnel in Tunnel::each_up() {
            let arrived = tunnel.pass(&packet, vnet(&headers, Some(segment)));
            prop_assert!(arrived.iter().all(|(_, checksum)| *checksum == Checksum::Complete));
            let arrived: Vec<_> = arrived.into_iter().map(|(packet, _)| packet).collect();
            prop_assert_eq!(arrived, expected.clone());
        }
    }

    #[test]
    fn packet_that_is_one_arrives_as_it_is((packet, header, expected) in single()) {
        for mut tunnel in Tunnel::each_up() {
            let arrived: Vec<_> = tunnel.pass(&packet, header).into_iter().map(seen).collect();
            prop_assert_eq!(arrived, [expected.clone()]);
        }
    }

    #[test]
    fn packets_of_all_kinds_arrive_in_order_with_consecutive_numbers(
        all in vec(prop_oneof![several().prop_map(Ok), single().prop_map(Err)], 1..10),
    ) {
        let mut tunnel = Tunnel::up();
        let (mut expected, mut arrived, mut all_numbers) = (Vec::new(), Vec::new(), Vec::new());
        for one in all {
            let (packet, header, packets) = match one {
                Ok((headers, segment, payload)) => {
                    let packet = headers.partial(&payload);
                    let packets = cut(&packet, headers.protocol, headers.checksum_place(), segment);
                    (packet, vnet(&headers, Some(segment)), packets)
                }
                Err((packet, header, packets)) => (packet, header, vec![packets]),
            };
            expected.extend(packets);
            let mut observed = Tunnel { now: tunnel.now, ..Tunnel::up() };
            std::mem::swap(&mut observed.alice, &mut tunnel.alice);
            let said = observed.send(&packet, header);
            std::mem::swap(&mut observed.alice, &mut tunnel.alice);
            all_numbers.extend(said.datagrams.iter().map(|datagram| numbers(datagram)));
            let partial = |datagram: &Vec<u8>| datagram[1] & 0b1000 != 0;
            arrived.extend(said.datagrams.iter().map(|datagram| {
                seen((datagram[16..].to_vec(), if partial(datagram) { Checksum::Partial } else { Checksum::Complete }))
            }));
        }
        prop_assert_eq!(arrived, expected);
        for pair in all_numbers.windows(2) {
            prop_assert_eq!(pair[1], (pair[0].0.wrapping_add(1), pair[0].1.wrapping_add(1)));
        }
        let stats = tunnel.alice.stats(tunnel.now);
        prop_assert_eq!(stats.peers[0].tx_packets, all_numbers.len() as u64);
    }

    #[test]
    fn packets_that_waited_for_the_peer_arrive_complete((headers, segment, payload) in several()) {
        let mut tunnel = Tunnel::down();
        let packet = headers.partial(&payload);
        let expected = cut(&packet, headers.protocol, headers.checksum_place(), segment);
        prop_assert!(tunnel.send(&packet, vnet(&headers, Some(segment))).datagrams.is_empty());
        let arrived = tunnel.shake_hands();
        // The newest ones, as many as may wait.
        let waited = expected[expected.len().saturating_sub(16)..].to_vec();
        prop_assert!(arrived.iter().all(|(_, checksum)| *checksum == Checksum::Complete));
        prop_assert_eq!(arrived.into_iter().map(|(packet, _)| packet).collect::<Vec<_>>(), waited);
        let lost = expected.len().saturating_sub(16) as u64;
        let drops = if lost == 0 { vec![] } else { vec![("queue_full", lost)] };
        prop_assert_eq!(tunnel.drops(), drops);
    }
}

#[test]
fn flags_sequence_and_identification_are_those_of_rfc_9293_and_3168() {
    let flags = model::FIN | model::PSH | model::ACK | model::CWR | model::ECE;
    let headers = Headers { flags, sequence: u32::MAX - 50, identification: 0xfffe, ..Headers::plain(TCP, false) };
    let mut tunnel = Tunnel::up();
    let arrived = tunnel.pass(&headers.partial(&payload(250, 1)), vnet(&headers, Some(100)));
    let fields: Vec<_> = arrived
        .into_iter()
        .map(seen)
        .map(|packet| (packet.len(), model::u16_at(&packet, 4), model::u32_at(&packet, 24), packet[33]))
        .collect();
    let (ack, ece, cwr, end) = (model::ACK, model::ECE, model::CWR, model::FIN | model::PSH);
    let expected =
        [(140, 0xfffe, u32::MAX - 50, ack | ece | cwr), (140, 0xffff, 49, ack | ece), (90, 0, 149, ack | ece | end)];
    assert_eq!(fields, expected);
}

#[test]
fn udp_of_unequal_last_length_is_cut_into_datagrams() {
    let headers = Headers::plain(UDP, true);
    let mut tunnel = Tunnel::up();
    let arrived = tunnel.pass(&headers.partial(&payload(2500, 1)), vnet(&headers, Some(1200)));
    let whole: Vec<u8> = arrived.iter().flat_map(|(packet, _)| packet[48..].to_vec()).collect();
    assert_eq!(whole, payload(2500, 1));
    let lengths: Vec<_> = arrived.iter().map(|(packet, _)| (packet.len(), model::u16_at(packet, 44))).collect();
    assert_eq!(lengths, [(1248, 1208), (1248, 1208), (148, 108)]);
}

#[test]
fn checksum_counts_the_address_at_the_end_of_a_route() {
    let extensions = Some((43, vec![TCP, 1, 4, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]));
    let headers = Headers { extensions, final_host: Some(99), ..Headers::plain(TCP, true) };
    let packet = headers.partial(&payload(1000, 1));
    let arrived: Vec<_> =
        Tunnel::up().pass(&packet, vnet(&headers, Some(600))).into_iter().map(|(packet, _)| packet).collect();
    let second = Headers { sequence: headers.sequence + 600, ..headers.clone() };
    let all = payload(1000, 1);
    assert_eq!(arrived, [headers.complete(&all[..600]), second.complete(&all[600..])]);
}

#[test]
fn mtu_is_kept_by_what_is_cut() {
    let headers = Headers::plain(TCP, false);
    let segment = usize::from(MTU_BYTES) - 40;
    let mut tunnel = Tunnel::up();
    let packet = headers.partial(&payload(3 * segment, 1));
    assert_eq!(tunnel.pass(&packet, vnet(&headers, Some(segment))).len(), 3);
    assert_eq!(tunnel.pass(&packet, vnet(&headers, Some(segment + 1))).len(), 0);
    assert_eq!(tunnel.drops(), [("too_big", 1)]);
}

#[test]
fn offload_that_does_not_fit_the_packet_is_dropped_and_counted() {
    let tcp4 = Headers::plain(TCP, false);
    let fits = vnet(&tcp4, Some(100));
    let gso = fits.segments.unwrap();
    let refused = |packet: &[u8], gso: Gso| {
        let mut tunnel = Tunnel::up();
        let sent = tunnel.send(packet, Vnet { segments: Some(gso), ..fits });
        sent.datagrams.is_empty() && tunnel.drops() == [("bad_segmentation", 1)]
    };
    let packet = tcp4.partial(&payload(1000, 1));
    assert!(!refused(&packet, gso));
    assert!(refused(&packet, Gso { kind: GsoKind::Tcp6, ..gso }));
    assert!(refused(&packet, Gso { kind: GsoKind::Udp, ..gso }));
    assert!(refused(&packet, Gso { segment_bytes: 0, ..gso }));
    assert!(refused(&tcp4.partial(&[]), gso));
    let mut fragment = packet.clone();
    fragment[6] = 0x20;
    assert!(refused(&fragment, gso));
    let mut long_header = packet;
    long_header[32] = 0xf0;
    assert!(!refused(&long_header, gso));
    let short = Headers { tcp_options: vec![0; 40], ..tcp4 }.partial(&[]);
    let mut lying = short[..50].to_vec();
    model::put_u16(&mut lying, 2, 50);
    complete(&mut lying, (20, 16));
    assert!(refused(&lying, gso));
}
