//! Loss recovery between two cores, over paths that lose, delay, mark and turn around.

use crate::world::{ALICE, BOB, BOB_INSIDE, Datagram, World, packet, peer, to_bob, tunnel};
use adit_dataplane::{
    FecMode, FecPolicy, Identity, PeerConfig, PeerKeys, Probing, RecoveryStats, Secret, Security, TunnelConfig,
    wire::{FLAG_PROTECTED, HEADER_BYTES},
};
use std::{collections::HashSet, time::Duration};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const DATA: u8 = 0;
const REPAIR: u8 = 1;
const REPORT: u8 = 2;

fn pair(fec: FecPolicy, is_sealed: bool) -> Vec<TunnelConfig> {
    let ends = [(ALICE, BOB, "10.0.0.2/32", 1_u8, 2_u8), (BOB, ALICE, "10.0.0.1/32", 2, 1)];
    let config = |(own, other, allowed, secret, others): (&str, &str, &str, u8, u8)| {
        let mut config = tunnel(own, 100, &[peer(1, other, &[allowed])]);
        (config.fec, config.probing) = (fec, Probing { path_mtu: false, ..Probing::default() });
        if is_sealed {
            let public = Secret::new([others; 32]).public_key();
            let keys = PeerKeys { public, also: None, preshared: None };
            config.peers = vec![PeerConfig { keys: Some(keys), ..config.peers[0].clone() }];
            config.security = Security::Noise(Identity { private: Secret::new([secret; 32]), also: None });
        }
        config
    };
    ends.map(config).to_vec()
}

fn world(fec: FecPolicy, is_sealed: bool) -> World {
    let mut world = World::new(pair(fec, is_sealed));
    world.run(SECOND);
    assert!(world.established());
    world.sent.clear();
    world
}

/// Numbers without a pattern: splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % most
    }
}

/// So many of a million are lost each way, each for itself.
fn loses(per_million: u64) -> impl FnMut(&Datagram) -> bool {
    let mut random = Random(7);
    move |_| random.below(1_000_000) < per_million
}

fn kind(datagram: &Datagram) -> u8 {
    datagram.bytes[0] >> 4
}

/// The packet with this number, of a length between 928 and 1028 bytes: repairs are as long as the longest.
fn numbered(number: u32) -> Vec<u8> {
    let mut payload = number.to_be_bytes().to_vec();
    payload.resize(900 + (number as usize * 7919) % 100, number as u8);
    to_bob(&payload)
}

fn number_of(packet: &[u8]) -> u32 {
    u32::from_be_bytes(packet[28..32].try_into().unwrap())
}

/// Alice sends 1,000 packets a second.
fn stream(world: &mut World, numbers: std::ops::Range<u32>) {
    for number in numbers {
        world.send(0, &numbered(number));
        world.run(MS);
    }
}

/// The numbers of the packets that reached Bob's pod, each as it was sent, none twice.
fn arrived(world: &World) -> HashSet<u32> {
    let mut arrived = HashSet::new();
    for packet in &world.nodes[1].received {
        let number = number_of(packet);
        assert_eq!(*packet, numbered(number));
        assert!(arrived.insert(number), "{number} was delivered twice");
    }
    arrived
}

fn recovery(world: &World, node: usize) -> RecoveryStats {
    world.stats(node).peers[0].recovery.clone().unwrap()
}

fn sent_bytes(world: &World, kinds: &[u8]) -> usize {
    let from_alice = world.sent.iter().filter(|(_, datagram)| datagram.from == ALICE.parse().unwrap());
    from_alice.filter(|(_, datagram)| kinds.contains(&kind(datagram))).map(|(_, datagram)| datagram.bytes.len()).sum()
}

#[test]
fn what_is_lost_comes_out_of_repairs() {
    for is_sealed in [false, true] {
        for (loss, most_overhead) in [(10_000, 0.08), (20_000, 0.12), (50_000, 0.21)] {
            let mut world = world(FecPolicy::default(), is_sealed);
            world.latency = MS * 25;
            world.lose = Box::new(loses(loss));
            stream(&mut world, 0..2_000);
            world.sent.clear();
            stream(&mut world, 2_000..22_000);
            world.run(SECOND);
            let arrived = arrived(&world);
            let lost = (2_000..22_000).filter(|number| !arrived.contains(number)).count();
            let told = recovery(&world, 1);
            assert!(lost <= if loss > 20_000 { 4 } else { 1 }, "{loss}: {lost} of 20000 are missing, {told:?}");
            let overhead = sent_bytes(&world, &[REPAIR]) as f64 / sent_bytes(&world, &[DATA]) as f64;
            println!("{loss}: {lost} of 20000 are missing, repairs are {overhead:.4} of the bytes");
            assert!(overhead <= most_overhead, "{loss}: {overhead}");
            let expected = 22 * loss / 1_000;
            assert!(told.lost.abs_diff(expected) <= expected / 5, "{told:?}");
            assert!(told.recovered > 0 && recovery(&world, 0).repairs_sent > 0);
        }
    }
}

#[test]
fn a_clean_path_costs_nothing() {
    for is_sealed in [false, true] {
        let mut world = world(FecPolicy::default(), is_sealed);
        // Until it has shown to be clean.
        stream(&mut world, 0..1_000);
        world.sent.clear();
        stream(&mut world, 1_000..15_000);
        world.run(SECOND);
        assert_eq!(arrived(&world).len(), 15_000);
        let kinds: HashSet<_> = world.sent.iter().map(|(_, datagram)| kind(datagram)).collect();
        assert!(!kinds.contains(&REPAIR) && !kinds.contains(&REPORT), "{kinds:?}");
        let is_protected = |datagram: &Datagram| kind(datagram) == DATA && datagram.bytes[1] & FLAG_PROTECTED != 0;
        assert!(!world.sent.iter().any(|(_, datagram)| is_protected(datagram)));
    }
}

#[test]
fn repairs_end_ten_seconds_after_the_last_loss() {
    let mut world = world(FecPolicy::default(), true);
    world.lose = Box::new(loses(20_000));
    stream(&mut world, 0..5_000);
    assert!(recovery(&world, 0).redundancy_ppm > 0);
    world.lose = Box::new(|_| false);
    stream(&mut world, 5_000..17_000);
    assert_eq!(recovery(&world, 0).redundancy_ppm, 0);
    world.sent.clear();
    stream(&mut world, 17_000..18_000);
    assert_eq!(sent_bytes(&world, &[REPAIR]), 0);
}

#[test]
fn silence_makes_no_path_clean() {
    let mut world = world(FecPolicy::default(), false);
    world.lose = Box::new(loses(20_000));
    stream(&mut world, 0..3_000);
    world.run(SECOND * 60);
    assert!(recovery(&world, 0).redundancy_ppm > 0);
}

#[test]
fn reports_take_a_hundredth_of_what_they_report_on() {
    let mut world = world(FecPolicy::default(), true);
    world.lose = Box::new(loses(20_000));
    stream(&mut world, 0..20_000);
    let from_bob = world.sent.iter().filter(|(_, datagram)| datagram.from == BOB.parse().unwrap());
    let reports: usize = from_bob.filter(|(_, sent)| kind(sent) == REPORT).map(|(_, sent)| sent.bytes.len() + 28).sum();
    let data = sent_bytes(&world, &[DATA, REPAIR]);
    assert!(reports > 0 && reports <= data / 95, "{reports} of {data}");
}

#[test]
fn who_is_told_not_to_neither_sends_nor_gets_repairs() {
    let off = FecPolicy { mode: FecMode::Off, ..FecPolicy::default() };
    for who in 0..2 {
        let mut configs = pair(FecPolicy::default(), true);
        configs[who].fec = off;
        let mut world = World::new(configs);
        world.run(SECOND);
        world.sent.clear();
        world.lose = Box::new(loses(50_000));
        stream(&mut world, 0..3_000);
        assert_eq!(sent_bytes(&world, &[REPAIR, REPORT]), 0);
        assert_eq!([0, 1].map(|node| world.stats(node).peers[0].recovery.clone()), [None, None]);
        assert!(arrived(&world).len() > 2_500);
    }
}

#[test]
fn a_fixed_redundancy_is_what_was_asked_for() {
    let mode = FecMode::Fixed { redundancy_ppm: 200_000, window: 64 };
    let mut world = world(FecPolicy { mode, ..FecPolicy::default() }, false);
    stream(&mut world, 0..1_000);
    let repairs = world.sent.iter().filter(|(_, datagram)| kind(datagram) == REPAIR).count();
    assert!((200..=201).contains(&repairs), "{repairs}");
}

#[test]
fn the_last_packets_before_a_silence_are_recovered_too() {
    let mut world = world(FecPolicy::default(), false);
    world.lose = Box::new(loses(50_000));
    stream(&mut world, 0..3_000);
    // Only DATA is lost, and always the last of ten.
    world.lose = Box::new(|datagram| kind(datagram) == DATA && number_of(&datagram.bytes[HEADER_BYTES..]) % 10 == 9);
    for burst in 300..400 {
        for number in burst * 10..burst * 10 + 10 {
            world.send(0, &numbered(number));
        }
        world.run(MS * 200);
    }
    world.run(SECOND);
    let arrived = arrived(&world);
    let missing: Vec<_> = (3_010..4_000).filter(|number| !arrived.contains(number)).collect();
    assert_eq!(missing, []);
}

#[test]
fn what_comes_after_it_was_recovered_is_not_delivered_again() {
    let mut world = world(FecPolicy::default(), true);
    world.lose = Box::new(loses(20_000));
    stream(&mut world, 0..3_000);
    // Eve holds packets back, and lets them go when they were recovered.
    let mut held = Vec::new();
    let mut random = Random(5);
    for number in 3_000..6_000 {
        let before = world.sent.len();
        let holds = random.below(50) == 0;
        world.lose =
            Box::new(move |datagram| holds && kind(datagram) == DATA && datagram.from == ALICE.parse().unwrap());
        world.send(0, &numbered(number));
        world.lose = Box::new(|_| false);
        if holds {
            held.push(world.sent[before].1.clone());
        }
        world.run(MS);
        if number % 200 == 199 {
            for datagram in held.drain(..) {
                world.inject(ALICE, BOB, &datagram.bytes);
            }
        }
    }
    world.run(SECOND);
    let all = arrived(&world);
    assert!((3_000..6_000).all(|number| all.contains(&number)));
    let late = world.drops(1).into_iter().find(|(name, _)| *name == "recovered").unwrap().1;
    assert!(late >= 30, "{late}");
}

#[test]
fn a_checksum_that_was_left_to_be_completed_is_right_after_recovery() {
    let mode = FecMode::Fixed { redundancy_ppm: 1_000_000, window: 4 };
    let mut world = world(FecPolicy { mode, ..FecPolicy::default() }, false);
    let mut sent = to_bob(&[7; 100]);
    // A checksum that is not the right one, as it is while it covers the pseudo header alone.
    sent[26..28].copy_from_slice(&[0x12, 0x34]);
    world.lose = Box::new(|datagram| kind(datagram) == DATA);
    world.send(0, &sent);
    world.run(SECOND);
    let [received] = &world.nodes[1].received[..] else { panic!("nothing came") };
    // Addresses, protocol and length, in ones' complement (RFC 768).
    let words = [0x0a00, 0x0001, 0x0a00, 0x0002, 17, 108];
    let sum = words.iter().sum::<u32>();
    let folded = (sum & 0xffff) + (sum >> 16);
    assert_eq!(received[26..28], (folded as u16).to_be_bytes());
    assert_eq!(received[28..], sent[28..]);
    assert_eq!(world.nodes[1].checksums, [adit_dataplane::Checksum::Partial]);
}

#[test]
fn a_packet_from_an_address_that_is_not_the_peers_is_not_delivered_by_way_of_repairs() {
    let mode = FecMode::Fixed { redundancy_ppm: 1_000_000, window: 4 };
    let mut world = world(FecPolicy { mode, ..FecPolicy::default() }, true);
    world.lose = Box::new(|datagram| kind(datagram) == DATA);
    world.send(0, &packet("10.9.9.9", BOB_INSIDE, b"whose is this"));
    world.run(SECOND);
    assert_eq!(world.nodes[1].received, Vec::<Vec<u8>>::new());
    assert!(world.drops(1).contains(&("source_not_allowed", 1)), "{:?}", world.drops(1));
}

#[test]
fn losses_of_a_full_queue_raise_nothing() {
    let mut world = world(FecPolicy::default(), true);
    // A queue that fills in a second, drops one of ten for half a second, and is empty then.
    for round in 0..8_u32 {
        for step in 0..1_500_u32 {
            let delay = Duration::from_micros(u64::from(step.min(1_000)) * 100);
            world.latency = crate::world::LATENCY + delay;
            world.lose = Box::new(move |_| step > 1_000 && step % 10 == 0);
            world.send(0, &numbered(round * 1_500 + step));
            world.run(MS);
        }
        world.latency = crate::world::LATENCY;
        world.lose = Box::new(|_| false);
        world.run(SECOND);
    }
    let (told, heard) = (recovery(&world, 1), recovery(&world, 0));
    assert!(told.lost_to_congestion > 300, "{told:?}");
    assert!(told.lost <= told.lost_to_congestion / 20, "{told:?}");
    assert!(heard.redundancy_ppm <= 50_000, "{heard:?}");
}

#[test]
fn recovery_goes_on_over_renewed_keys_and_a_peer_that_begins_anew() {
    let mut world = world(FecPolicy::default(), true);
    world.lose = Box::new(loses(20_000));
    // Two changes of keys.
    for number in 0..26_000 {
        world.send(0, &numbered(number));
        world.run(MS * 10);
    }
    world.run(SECOND);
    assert!(world.stats(0).peers[0].handshakes >= 3);
    let all = arrived(&world);
    // At 100 packets a second reports, which cost a hundredth, are few.
    let missing = (2_000..26_000).filter(|number| !all.contains(number)).count();
    assert!(missing <= 24, "{missing}");

    let bob = TunnelConfig { epoch: 300, ..pair(FecPolicy::default(), true).remove(1) };
    world.restart(1, bob);
    world.run(SECOND * 20);
    stream(&mut world, 26_000..30_000);
    world.run(SECOND);
    let all = arrived(&world);
    let missing = (28_000..30_000).filter(|number| !all.contains(number)).count();
    assert!(missing <= 1, "{missing}");
    assert_eq!(recovery(&world, 1).unrecoverable, 0);
}
