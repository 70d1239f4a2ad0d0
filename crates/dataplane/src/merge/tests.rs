//! Whatever is pushed comes out as it was, in its order, once what was joined is cut again as the kernel does. The model knows nothing
//! of this crate.
#![allow(clippy::arithmetic_side_effects, reason = "a test that panics has failed, as it should")]

#[path = "../../tests/offload/generate.rs"]
#[allow(dead_code, reason = "shared with the tests of cutting")]
mod generate;
#[path = "../../tests/offload/model.rs"]
#[allow(dead_code, reason = "shared with the tests of cutting")]
mod model;

use super::*;
use model::{ACK, CWR, ECE, FIN, Headers, PSH, RST, SYN, Seen, UDP, URG, payload, put_u16, same, take_apart};
use proptest::{collection::vec, prelude::*};

const BOTH: Mergeable = Mergeable { tcp: true, udp: true };

/// A packet from the network, and what its checksum field holds.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Packet {
    bytes: Vec<u8>,
    checksum: Checksum,
}

impl Packet {
    fn partial(headers: &Headers, payload: &[u8]) -> Self {
        Self { bytes: headers.partial(payload), checksum: Checksum::Partial }
    }

    fn seen(&self) -> Vec<u8> {
        model::seen(&self.bytes, self.checksum == Checksum::Partial)
    }
}

fn is_joined(written: &[u8]) -> bool {
    written[1] != 0
}

/// Pushes all packets as the shell does; `accepts` says what the kernel says to each write. Returns what it took, and what became of all.
fn push_all(
    packets: &[Packet],
    mergeable: Mergeable,
    mut accepts: impl FnMut(&[u8]) -> bool,
) -> (Vec<Vec<u8>>, Vec<Flushed<()>>) {
    let (mut written, mut outcomes) = (Vec::new(), Vec::new());
    let mut with_room: Vec<Vec<u8>> =
        packets.iter().map(|packet| [&[0xee; HEADER_BYTES][..], &packet.bytes].concat()).collect();
    let mut merger = Merger::new(mergeable);
    let mut flush = |merger: &mut Merger<'_>| {
        outcomes.push(merger.flush(|pieces| {
            let bytes: Vec<u8> = pieces.iter().flat_map(|piece| piece.to_vec()).collect();
            let accepted = accepts(&bytes);
            if accepted {
                written.push(bytes);
            }
            accepted.then_some(()).ok_or(())
        }));
        assert!(merger.is_empty());
    };
    for (packet, bytes) in packets.iter().zip(&mut with_room) {
        if let Err(bytes) = merger.push(bytes, packet.checksum) {
            flush(&mut merger);
            assert!(merger.push(bytes, packet.checksum).is_ok());
        }
    }
    flush(&mut merger);
    (written, outcomes)
}

fn all_apart(written: &[Vec<u8>]) -> Vec<Seen> {
    written.iter().flat_map(|written| take_apart(written)).collect()
}

/// What happens to a flow between two of its packets.
#[derive(Debug, Clone)]
enum Event {
    Next,
    /// Packets from now on have this much payload.
    Length(usize),
    /// One packet with this much.
    Once(usize),
    /// One packet with these flags.
    Flags(u8),
    /// All packets from now on.
    FlagsFromNow(u8),
    /// The sequence jumps, ahead or back.
    Sequence(i32),
    Acknowledged(u32),
    Window(u16),
    Urgent(u16),
    Options(Vec<u8>),
    IpOptions(Vec<u8>),
    Tos(u8),
    Ttl(u8),
    Label(u32),
    Identification(u16),
    IdentificationStays,
    Fragment(u16),
    Ports(u16, u16),
    Hosts(u8, u8),
    /// One packet whose checksum is complete.
    Complete,
    /// One whose checksum is wrong, in that it looks like a partial one.
    LooksPartial,
    /// One of UDP without a checksum.
    NoChecksum,
    /// One with bytes behind what UDP says is its end.
    Trailing(usize),
    /// One whose partial checksum is another one.
    OtherPartial(u16),
    /// One whose IP header is damaged.
    DamagedHeader,
    /// One of ICMP.
    Icmp,
}

fn event() -> impl Strategy<Value = Event> {
    let flags = prop_oneof![
        Just(ACK | PSH),
        Just(ACK | FIN),
        Just(ACK | PSH | FIN),
        Just(ACK | ECE),
        Just(ACK | CWR),
        Just(ACK | URG),
        Just(SYN),
        Just(SYN | ACK),
        Just(RST),
        Just(RST | ACK),
        Just(0),
        Just(ACK),
        any::<u8>(),
    ];
    let length = prop_oneof![Just(0_usize), Just(1), Just(8), Just(100), Just(1000), Just(1404), 0..1404_usize];
    let from_now = prop_oneof![Just(ACK), Just(ACK | ECE), Just(ACK | CWR), any::<u8>()];
    let rare = prop_oneof![
        3 => length.clone().prop_map(Event::Once),
        3 => flags.prop_map(Event::Flags),
        1 => from_now.prop_map(Event::FlagsFromNow),
        2 => prop_oneof![Just(-1000), Just(1000), Just(1), Just(-1), any::<i32>()].prop_map(Event::Sequence),
        1 => any::<u32>().prop_map(Event::Acknowledged),
        1 => any::<u16>().prop_map(Event::Window),
        1 => any::<u16>().prop_map(Event::Urgent),
        2 => generate::tcp_options().prop_map(Event::Options),
        1 => (0..=2_usize).prop_flat_map(|words| vec(any::<u8>(), words * 4)).prop_map(Event::IpOptions),
        1 => any::<u8>().prop_map(Event::Tos),
        1 => (1..=255_u8).prop_map(Event::Ttl),
        1 => (0..1_u32 << 20).prop_map(Event::Label),
        2 => any::<u16>().prop_map(Event::Identification),
        1 => Just(Event::IdentificationStays),
        2 => prop_oneof![Just(0), Just(0x4000), Just(0x2000), Just(0x8000), any::<u16>()].prop_map(Event::Fragment),
        1 => (4000..4002_u16, 5000..5002_u16).prop_map(|(from, to)| Event::Ports(from, to)),
        1 => (1..3_u8, 1..3_u8).prop_map(|(from, to)| Event::Hosts(from, to)),
        2 => Just(Event::Complete),
        1 => Just(Event::LooksPartial),
        1 => Just(Event::NoChecksum),
        1 => (1..200_usize).prop_map(Event::Trailing),
        1 => any::<u16>().prop_map(Event::OtherPartial),
        1 => Just(Event::DamagedHeader),
        1 => Just(Event::Icmp),
    ];
    prop_oneof![30 => Just(Event::Next), 1 => length.prop_map(Event::Length), 6 => rare]
}

/// A flow, of which packets come one by one.
#[derive(Debug, Clone)]
struct Stream {
    headers: Headers,
    length: usize,
    identification_stays: bool,
}

impl Stream {
    fn packet(&mut self, event: &Event, seed: u32) -> Packet {
        let headers = &mut self.headers;
        let mut length = self.length;
        match event {
            Event::Length(bytes) => (self.length, length) = (*bytes, *bytes),
            Event::Once(bytes) => length = *bytes,
            Event::FlagsFromNow(flags) => headers.flags = *flags,
            Event::Sequence(by) => headers.sequence = headers.sequence.wrapping_add_signed(*by),
            Event::Acknowledged(number) => headers.acknowledged = *number,
            Event::Window(window) => headers.window = *window,
            Event::Urgent(urgent) => headers.urgent = *urgent,
            Event::Options(options) if headers.protocol != UDP => headers.tcp_options.clone_from(options),
            Event::IpOptions(options) if !headers.is_v6 => headers.ip_options.clone_from(options),
            Event::Tos(tos) => headers.tos = *tos,
            Event::Ttl(ttl) => headers.ttl = *ttl,
            Event::Label(label) => headers.label = *label,
            Event::Identification(number) => headers.identification = *number,
            Event::IdentificationStays => self.identification_stays = true,
            Event::Fragment(fragment) => headers.fragment = *fragment,
            Event::Ports(from, to) => headers.ports = (*from, *to),
            Event::Hosts(from, to) => headers.hosts = (*from, *to),
            _ => {}
        }
        let mut packet = headers.clone();
        if let Event::Flags(flags) = event {
            packet.flags = *flags;
        }
        let payload = payload(length, seed);
        headers.sequence = headers.sequence.wrapping_add(length as u32);
        if !self.identification_stays {
            headers.identification = headers.identification.wrapping_add(1);
        }
        let (start, offset) = packet.checksum_place();
        let mut made = Packet::partial(&packet, &payload);
        match event {
            Event::Complete => made = Packet { bytes: packet.complete(&payload), checksum: Checksum::Complete },
            Event::LooksPartial => made.checksum = Checksum::Complete,
            Event::NoChecksum if packet.protocol == UDP => {
                put_u16(&mut made.bytes, start + offset, 0);
                made.checksum = Checksum::Complete;
            }
            Event::Trailing(bytes) if packet.protocol == UDP => {
                put_u16(&mut made.bytes, start + 4, (8 + length - (bytes % (length + 1))) as u16);
            }
            Event::OtherPartial(sum) => put_u16(&mut made.bytes, start + offset, *sum),
            Event::DamagedHeader if !packet.is_v6 => made.bytes[10] ^= 0x55,
            Event::Icmp => {
                let (at, number) = if packet.is_v6 { (6, 58) } else { (9, 1) };
                made = Packet { bytes: packet.complete(&payload), checksum: Checksum::Complete };
                made.bytes[at] = number;
                if !packet.is_v6 {
                    model::write_ip_checksum(&mut made.bytes, start);
                }
            }
            _ => {}
        }
        // Core passes on no partial checksum that is not TCP's or UDP's.
        if made.checksum == Checksum::Partial && Transport::of(&made.bytes).is_none() {
            made = Packet { bytes: made.bytes, checksum: Checksum::Complete };
        }
        made
    }
}

fn stream() -> impl Strategy<Value = Stream> {
    let length = prop_oneof![Just(1_usize), Just(30), Just(500), Just(1404)];
    let df = prop_oneof![Just(0), Just(0x4000)];
    (any::<bool>(), any::<bool>(), length, df, generate::tcp_options(), any::<(u32, u16)>()).prop_map(
        |(is_tcp, is_v6, length, fragment, tcp_options, (sequence, identification))| {
            let protocol = if is_tcp { TCP } else { UDP };
            let tcp_options = if is_tcp { tcp_options } else { vec![] };
            let fragment = if is_v6 { 0 } else { fragment };
            let headers =
                Headers { fragment, tcp_options, sequence, identification, ..Headers::plain(protocol, is_v6) };
            Stream { headers, length, identification_stays: false }
        },
    )
}

/// Packets of some flows, mostly several of one behind each other.
fn traffic() -> impl Strategy<Value = Vec<Packet>> {
    let turn = prop_oneof![12 => Just(None), 1 => (0..3_usize).prop_map(Some)];
    (vec(stream(), 3), vec((turn, event()), 1..150)).prop_map(|(mut streams, events)| {
        let mut current = 0;
        let packet = |(number, (turn, event)): (usize, (Option<usize>, Event))| {
            current = turn.unwrap_or(current);
            streams[current].packet(&event, number as u32)
        };
        events.into_iter().enumerate().map(packet).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn what_was_joined_is_cut_into_the_same_packets_in_the_same_order(packets in traffic()) {
        let (written, outcomes) = push_all(&packets, BOTH, |_| true);
        let seen = all_apart(&written);
        prop_assert_eq!(seen.len(), packets.len());
        for (number, (seen, packet)) in seen.iter().zip(&packets).enumerate() {
            prop_assert!(same(seen, &packet.seen()), "packet {number}: {:02x?}\n is {:02x?}", packet.bytes, seen);
        }
        prop_assert!(outcomes.iter().all(|outcome| outcome.lost == 0 && outcome.refused_joined.is_none()));
    }

    #[test]
    fn refused_joined_packet_is_written_as_its_packets_unharmed(packets in traffic(), which: u64) {
        let (mut refusals, mut number) = (0, 0);
        let (written, outcomes) = push_all(&packets, BOTH, |written| {
            let refuse = is_joined(written) && which >> (number % 64) & 1 == 1;
            number += 1;
            refusals += u64::from(refuse);
            !refuse
        });
        let seen = all_apart(&written);
        prop_assert_eq!(seen.len(), packets.len());
        for (seen, packet) in seen.iter().zip(&packets) {
            prop_assert!(same(seen, &packet.seen()));
        }
        prop_assert!(outcomes.iter().all(|outcome| outcome.refused.is_none() && outcome.lost == 0));
        prop_assert_eq!(outcomes.iter().filter(|outcome| outcome.refused_joined.is_some()).count() as u64, refusals);
    }

    #[test]
    fn where_nothing_may_be_joined_every_byte_is_kept(packets in traffic()) {
        let (written, _) = push_all(&packets, Mergeable { tcp: false, udp: false }, |_| true);
        prop_assert_eq!(written.len(), packets.len());
        for (written, packet) in written.iter().zip(&packets) {
            prop_assert!(!is_joined(written));
            prop_assert_eq!(&written[12..], &packet.bytes);
        }
    }

    #[test]
    fn one_by_one_after_a_refusal_every_byte_is_kept(packets in traffic()) {
        let (written, _) = push_all(&packets, BOTH, |written| !is_joined(written));
        let written: Vec<_> = written.iter().map(|written| written[12..].to_vec()).collect();
        prop_assert_eq!(written, packets.into_iter().map(|packet| packet.bytes).collect::<Vec<_>>());
    }

    #[test]
    fn everything_that_is_refused_is_counted(packets in traffic()) {
        let (written, outcomes) = push_all(&packets, BOTH, |_| false);
        prop_assert!(written.is_empty());
        prop_assert_eq!(outcomes.iter().map(|outcome| outcome.lost).sum::<u64>(), packets.len() as u64);
        prop_assert!(outcomes.iter().all(|outcome| outcome.refused.is_some()));
    }

    #[test]
    fn nothing_is_joined_for_a_tun_that_does_not_take_it(packets in traffic(), tcp: bool, udp: bool) {
        let (written, _) = push_all(&packets, Mergeable { tcp, udp }, |_| true);
        for written in written.iter().filter(|written| is_joined(written)) {
            let is_taken = if written[1] == 5 { udp } else { tcp };
            prop_assert!(is_taken);
        }
    }

    #[test]
    fn steady_stream_is_joined_as_far_as_one_packet_goes(mut stream in stream(), count in 1..200_usize) {
        stream.headers.flags = ACK;
        let packets: Vec<_> = (0..count).map(|number| stream.packet(&Event::Next, number as u32)).collect();
        let (written, _) = push_all(&packets, BOTH, |_| true);
        let most = ((65_535 - stream.headers.bytes()) / stream.length).min(64);
        prop_assert_eq!(written.len(), count.div_ceil(most));
    }

    /// An independent reading of what the kernel is told: tun-rs cuts as wireguard-go does.
    #[test]
    fn what_was_joined_is_cut_by_tun_rs_into_the_same_packets(packets in traffic()) {
        let (written, _) = push_all(&packets, BOTH, |_| true);
        let mut originals = packets.iter();
        for written in &written {
            if !is_joined(written) {
                originals.next();
                continue;
            }
            for (number, mut packet) in tun_rs_cut(written).into_iter().enumerate() {
                let mut original = originals.next().unwrap().seen();
                for packet in [&mut packet, &mut original] {
                    let start = if packet[0] >> 4 == 4 { usize::from(packet[0] & 15) * 4 } else { 40 };
                    // Its own sum of the addresses: with another partial sum only that differs. 0 and 0xffff are one number in TCP.
                    put_u16(packet, start + if written[1] == 5 { 6 } else { 16 }, 0);
                }
                prop_assert!(same(&(packet, number), &original));
            }
        }
        prop_assert_eq!(originals.next(), None);
    }

    #[test]
    fn any_bytes_are_written_as_they_are(
        all in vec((vec(any::<u8>(), 0..80), prop_oneof![Just(Checksum::Complete), Just(Checksum::Partial)]), 1..20),
    ) {
        let packets: Vec<_> = all.into_iter().map(|(bytes, checksum)| Packet { bytes, checksum }).collect();
        let (written, outcomes) = push_all(&packets, BOTH, |written| !is_joined(written));
        let bytes: Vec<_> = written.iter().map(|written| written[12..].to_vec()).collect();
        prop_assert_eq!(bytes, packets.into_iter().map(|packet| packet.bytes).collect::<Vec<_>>());
        prop_assert!(outcomes.iter().all(|outcome| outcome.lost == 0));
    }
}

fn tun_rs_cut(written: &[u8]) -> Vec<Vec<u8>> {
    let field = |at: usize| u16::from_ne_bytes([written[at], written[at + 1]]);
    let header = tun_rs::VirtioNetHdr {
        flags: written[0],
        gso_type: written[1],
        hdr_len: field(2),
        gso_size: field(4),
        csum_start: field(6),
        csum_offset: field(8),
    };
    let mut packet = written[12..].to_vec();
    let is_v6 = packet[0] >> 4 == 6;
    let mut places = vec![vec![0; 2000]; 64];
    let mut sizes = vec![0; places.len()];
    let count = tun_rs::gso_split(&mut packet, header, &mut places, &mut sizes, 0, is_v6).unwrap();
    places.iter().zip(sizes).take(count).map(|(place, size)| place[..size].to_vec()).collect()
}

/// How many packets each write holds.
fn joined(packets: &[Packet]) -> Vec<usize> {
    let (written, _) = push_all(packets, BOTH, |_| true);
    written.iter().map(|written| take_apart(written).len()).collect()
}

/// Packets of a plain flow with an event before each.
fn flow(protocol: u8, length: usize, events: &[Event]) -> Vec<Packet> {
    let mut stream = Stream { headers: Headers::plain(protocol, false), length, identification_stays: false };
    events.iter().enumerate().map(|(number, event)| stream.packet(event, number as u32)).collect()
}

#[test]
fn tcp_is_joined_up_to_what_ends_it() {
    use Event::{Complete, Flags, Next, Once, Sequence};
    for (events, expected) in [
        (vec![Next, Next, Next], vec![3]),
        // PSH and FIN end what they belong to, and begin nothing.
        (vec![Next, Flags(ACK | PSH), Next], vec![2, 1]),
        (vec![Next, Flags(ACK | FIN), Next], vec![2, 1]),
        (vec![Flags(ACK | PSH), Next, Next], vec![1, 2]),
        // So does a shorter packet; a longer one or none begins anew.
        (vec![Next, Next, Once(50), Next], vec![3, 1]),
        (vec![Next, Once(101), Next], vec![1, 2]),
        (vec![Next, Once(0), Next, Next], vec![1, 1, 2]),
        (vec![Next, Sequence(1), Next], vec![1, 2]),
        (vec![Next, Sequence(-100), Next], vec![1, 2]),
        (vec![Next, Complete, Next], vec![1, 1, 1]),
        (vec![Next, Event::LooksPartial, Next], vec![1, 1, 1]),
        // Every other flag stands alone.
        (vec![Next, Flags(ACK | CWR), Next], vec![1, 1, 1]),
        (vec![Next, Flags(ACK | URG), Next], vec![1, 1, 1]),
        (vec![Next, Flags(SYN | ACK), Next], vec![1, 1, 1]),
        (vec![Next, Flags(RST | ACK), Next], vec![1, 1, 1]),
        (vec![Next, Event::FlagsFromNow(ACK | ECE), Next], vec![1, 2]),
    ] {
        assert_eq!(joined(&flow(TCP, 100, &events)), expected, "{events:?}");
    }
}

#[test]
fn whatever_else_differs_parts_a_flow() {
    use Event::{Hosts, Identification, Ports, Tos, Ttl};
    for protocol in [TCP, UDP] {
        for event in [Tos(1), Ttl(63), Ports(4001, 5000), Ports(4000, 5001), Hosts(1, 3), Identification(999)] {
            let parted = [1, 2];
            assert_eq!(joined(&flow(protocol, 100, &[Event::Next, event.clone(), Event::Next])), parted, "{event:?}");
        }
    }
    for event in [Event::Acknowledged(78), Event::Window(501), Event::Urgent(1), Event::Options(vec![1; 4])] {
        assert_eq!(joined(&flow(TCP, 100, &[Event::Next, event.clone(), Event::Next])), [1, 2], "{event:?}");
    }
    for event in [Event::OtherPartial(0x1234), Event::DamagedHeader] {
        for protocol in [TCP, UDP] {
            let events = [Event::Next, event.clone(), Event::Next];
            assert_eq!(joined(&flow(protocol, 100, &events)), [1, 1, 1], "{event:?}");
        }
    }
    assert_eq!(joined(&flow(UDP, 100, &[Event::Next, Event::Trailing(7), Event::Next])), [1, 1, 1]);
    assert_eq!(joined(&flow(UDP, 100, &[Event::Next, Event::NoChecksum, Event::Next])), [1, 1, 1]);
}

#[test]
fn flows_that_take_turns_are_not_joined() {
    let (one, other) = (flow(UDP, 100, &[Event::Next, Event::Next]), flow(TCP, 100, &[Event::Next, Event::Next]));
    let turns: Vec<_> = one.into_iter().zip(other).flat_map(|(one, other)| [one, other]).collect();
    assert_eq!(joined(&turns), [1, 1, 1, 1]);
}

#[test]
fn packets_that_may_not_be_fragmented_need_no_identification() {
    let events = [Event::Fragment(0x4000), Event::Identification(9), Event::IdentificationStays, Event::Next];
    assert_eq!(joined(&flow(UDP, 100, &events)), [4]);
}
