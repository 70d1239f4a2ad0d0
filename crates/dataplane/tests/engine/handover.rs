//! A tunnel goes from one engine to another while packets pass.

use crate::ends::{DEADLINE, End, message, peer, read, socket, tun, wait_for, write};
use adit_dataplane::{
    Engine, Error, FecPolicy, Identity, Parcel, PeerKeys, Probing, Secret, Security, TunnelConfig, TunnelId, wire,
};
use std::{
    net::{SocketAddr, UdpSocket},
    os::fd::OwnedFd,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};
use zeroize::Zeroizing;

const PACKETS: u32 = 20_000;
/// On the way at a time: what the smallest of the queues has room for.
const WINDOW: usize = 64;
const HANDOVERS: usize = 30;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Plain,
    Noise,
    WireGuard,
}

impl Format {
    const ALL: [Self; 3] = [Self::Plain, Self::Noise, Self::WireGuard];

    fn config(self, own: usize, local: SocketAddr, remote: SocketAddr) -> TunnelConfig {
        let secret = |number: usize| Secret::new([number as u8 + 1; 32]);
        let identity = Identity { private: secret(own), also: None };
        let keys = PeerKeys { public: secret(1 - own).public_key(), also: None, preshared: None };
        let peer = peer(remote, 1 - own);
        let peer = adit_dataplane::PeerConfig { keys: (self != Self::Plain).then_some(keys), ..peer };
        let security = match self {
            Self::Plain => Security::Plain,
            Self::Noise => Security::Noise(identity),
            Self::WireGuard => Security::WireGuard(identity),
        };
        TunnelConfig {
            local,
            mtu_bytes: 1440,
            epoch: 7,
            shortcut: false,
            security,
            probing: Probing::default(),
            fec: FecPolicy::default(),
            peers: vec![peer],
        }
    }
}

/// What passes between the two ends passes through her hands.
struct Eve {
    /// What Alice takes for Bob, and what Bob takes for Alice.
    fronts: [UdpSocket; 2],
    ends: [SocketAddr; 2],
    seen: Mutex<Vec<(usize, Vec<u8>)>>,
}

impl Eve {
    fn carry(&self, from: usize, done: &AtomicBool) {
        self.fronts[from].set_read_timeout(Some(Duration::from_millis(10))).unwrap();
        let mut bytes = [0; 2000];
        while !done.load(Relaxed) {
            let Ok((length, _)) = self.fronts[from].recv_from(&mut bytes) else { continue };
            self.seen.lock().unwrap().push((from, bytes[..length].to_vec()));
            self.fronts[1 - from].send_to(&bytes[..length], self.ends[1 - from]).unwrap();
        }
    }
}

/// Lets her go, whatever happens.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// As it is in another process: copies of the descriptors and of the bytes.
fn sent_across(parcel: Parcel) -> Parcel {
    let [tun, udp] = parcel.descriptors().map(|fd| fd.try_clone_to_owned().unwrap());
    Parcel::new(tun, udp, Zeroizing::new(parcel.state().to_vec()))
}

fn numbered(from: usize, number: u32) -> Vec<u8> {
    message(from, &[&number.to_be_bytes()[..], &[7; 100]].concat())
}

/// Sends every number once, never more than a window ahead of what has arrived.
fn send_all(pod: &OwnedFd, from: usize, arrived: &AtomicUsize) {
    for number in 0..PACKETS {
        let start = Instant::now();
        while number as usize >= arrived.load(Relaxed) + WINDOW || !write(pod, &numbered(from, number)) {
            assert!(start.elapsed() < DEADLINE, "packet {number} of end {from} cannot leave");
            thread::yield_now();
        }
    }
}

fn receive_all(pod: &OwnedFd, from: usize, arrived: &AtomicUsize) {
    for number in 0..PACKETS {
        assert_eq!(read(pod), Some(numbered(from, number)), "each once, and in their order");
        arrived.fetch_add(1, Relaxed);
    }
}

/// With `crossing` handshakes both ends begin at once, and sessions may still change while packets pass.
fn handed_to_and_fro(format: Format, crossing: bool) {
    let engines = [Engine::start(1).unwrap(), Engine::start(1).unwrap()];
    let far = Engine::start(1).unwrap();
    let ((udp_a, alice), (udp_b, bob)) = (socket(), socket());
    let ((tun_a, pod_a), (tun_b, pod_b)) = (tun(), tun());
    let fronts = [UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap()];
    let seen_as = fronts.each_ref().map(|front| front.local_addr().unwrap());
    let eve = Eve { fronts, ends: [alice, bob], seen: Mutex::default() };
    let config = format.config(0, alice, seen_as[0]);
    let done = AtomicBool::new(false);
    let arrived = [AtomicUsize::new(0), AtomicUsize::new(0)];

    let mut near = engines[0].add(config.clone(), tun_a, udp_a).unwrap();
    let mut of_bob = format.config(1, bob, seen_as[1]);
    if format != Format::Plain && !crossing {
        // One handshake, by Alice.
        of_bob.peers[0].endpoint = None;
    }
    let id = far.add(of_bob, tun_b, udp_b).unwrap();
    let far_end = End { id, pod: pod_b, udp: bob };

    thread::scope(|scope| {
        let _end = Ending(&done);
        for from in [0, 1] {
            let (eve, done) = (&eve, &done);
            scope.spawn(move || eve.carry(from, done));
        }
        wait_for(&far, &far_end, |stats| stats.peers[0].established);
        let start = Instant::now();
        while !engines[0].stats(near).unwrap().peers[0].established {
            assert!(start.elapsed() < DEADLINE);
        }
        let before = engines[0].stats(near).unwrap();

        let (pod_a, pod_b, arrived) = (&pod_a, &far_end.pod, &arrived);
        let flows = [
            scope.spawn(move || send_all(pod_a, 0, &arrived[1])),
            scope.spawn(move || send_all(pod_b, 1, &arrived[0])),
            scope.spawn(move || receive_all(pod_b, 0, &arrived[1])),
            scope.spawn(move || receive_all(pod_a, 1, &arrived[0])),
        ];
        let mut handovers = 0;
        for number in 1..=HANDOVERS {
            // Spread over the whole run.
            while arrived[0].load(Relaxed) < PACKETS as usize * number / (HANDOVERS + 1) {
                if flows.iter().any(|flow| flow.is_finished()) {
                    break;
                }
                thread::yield_now();
            }
            let [from, to] = [&engines[(number + 1) % 2], &engines[number % 2]];
            let parcel = sent_across(from.release(near).unwrap());
            assert_eq!(from.stats(near), Err(Error::UnknownTunnel(near)));
            near = to.adopt(TunnelConfig { epoch: 99, ..config.clone() }, parcel).unwrap();
            handovers += 1;
        }
        let outcomes = flows.map(|flow| flow.join().is_ok());
        let [one, other, far_stats] = [engines[0].stats(near), engines[1].stats(near), far.stats(id)];
        assert_eq!(outcomes, [true; 4], "{format:?}: {one:#?}, {other:#?}, {far_stats:#?}");
        assert_eq!(handovers, HANDOVERS);

        let after = engines[HANDOVERS % 2].stats(near).unwrap();
        let (old, new) = (&before.peers[0], &after.peers[0]);
        assert_eq!(new.tx_packets - old.tx_packets, u64::from(PACKETS));
        assert_eq!(new.rx_packets - old.rx_packets, u64::from(PACKETS));
        if !crossing {
            assert_eq!((new.handshakes, new.remote_epoch), (old.handshakes, old.remote_epoch), "the same session");
            assert_eq!(after.drops, before.drops);
            assert_eq!(far.stats(id).unwrap().peers[0].handshakes, 1);
        }

        if format != Format::Plain {
            replays_are_refused(&eve, &engines[HANDOVERS % 2], near, &far, id);
        }
    });
}

/// Everything that Eve has seen, once more to both: nothing of it is new to anybody.
fn replays_are_refused(eve: &Eve, near: &Engine, near_id: TunnelId, far: &Engine, far_id: TunnelId) {
    let is_data = |bytes: &[u8]| bytes[0] >> 4 == 0 && bytes.len() > wire::HEADER_BYTES;
    let seen = eve.seen.lock().unwrap().clone();
    let count = |engine: &Engine, id| {
        let drops = engine.stats(id).unwrap().drops;
        drops.into_iter().find(|(name, _)| *name == "replayed").map_or(0, |(_, count)| count)
    };
    // Alice's packets are replayed to Bob's end, which stayed; Bob's to Alice's, which was handed over so often.
    for (to, engine, id) in [(0, near, near_id), (1, far, far_id)] {
        let of_other = seen.iter().filter(|(from, bytes)| *from == 1 - to && (is_data(bytes) || bytes[0] == 4));
        let mut sent = 0;
        for (_, bytes) in of_other.rev().take(2000) {
            eve.fronts[to].send_to(bytes, eve.ends[to]).unwrap();
            sent += 1;
            let start = Instant::now();
            while sent % 50 == 0 && count(engine, id) < sent {
                assert!(start.elapsed() < DEADLINE, "{} of {sent} replays are refused at {to}", count(engine, id));
            }
        }
        assert_eq!(sent, 2000);
    }
    for (number, peer) in [near.stats(near_id), far.stats(far_id)].into_iter().enumerate() {
        assert_eq!(peer.unwrap().peers[0].rx_packets, u64::from(PACKETS), "at {number}");
    }
}

#[test]
fn tunnel_goes_to_and_fro_under_traffic_and_every_packet_arrives_once() {
    for format in Format::ALL {
        for crossing in [false, true] {
            handed_to_and_fro(format, crossing);
        }
    }
}

#[test]
fn packets_that_wait_for_a_session_wait_on_at_the_next_carrier() {
    for format in Format::ALL {
        let (one, other) = (Engine::start(1).unwrap(), Engine::start(1).unwrap());
        let ((udp_a, a), (udp_b, b)) = (socket(), socket());
        let ((tun_a, pod_a), (tun_b, pod_b)) = (tun(), tun());
        let id = one.add(format.config(0, a, b), tun_a, udp_a).unwrap();
        for number in 0..5 {
            assert!(write(&pod_a, &numbered(0, number)));
        }
        // They are read when the queue is empty.
        let start = Instant::now();
        while one.stats(id).unwrap().peers[0].last_tx_age.is_none() {
            assert!(start.elapsed() < DEADLINE);
        }
        let parcel = sent_across(one.release(id).unwrap());
        other.adopt(format.config(0, a, b), parcel).unwrap();
        one.add(format.config(1, b, a), tun_b, udp_b).unwrap();
        for number in 0..5 {
            assert_eq!(read(&pod_b), Some(numbered(0, number)), "{format:?}");
        }
    }
}

#[test]
fn what_another_release_wrote_is_refused_and_its_descriptors_are_good() {
    let engine = Engine::start(1).unwrap();
    let ((udp_a, a), (udp_b, b)) = (socket(), socket());
    let ((tun_a, pod_a), (tun_b, pod_b)) = (tun(), tun());
    let config = Format::Noise.config(0, a, b);
    engine.add(Format::Noise.config(1, b, a), tun_b, udp_b).unwrap();
    let id = engine.add(config.clone(), tun_a, udp_a).unwrap();
    assert!(write(&pod_a, &numbered(0, 0)));
    assert_eq!(read(&pod_b), Some(numbered(0, 0)));
    let mut parcel = engine.release(id).unwrap();
    let whole = parcel.state().to_vec();
    let longer = [&whole[..], &[0]].concat();
    let newer = [&[0xff], &whole[1..]].concat();
    for wrong in [&whole[..whole.len() - 1], &longer, &newer, &whole[..1], &[]] {
        let (tun, udp) = parcel.into_descriptors();
        let refused = engine.adopt(config.clone(), Parcel::new(tun, udp, Zeroizing::new(wrong.to_vec())));
        let Err((Error::ForeignParcel, Some(back))) = refused else { panic!("{refused:?}") };
        parcel = back;
    }
    let (tun, udp) = parcel.into_descriptors();
    // Another tunnel's.
    let parcel = Parcel::new(tun, udp, Zeroizing::new(whole));
    let refused = engine.adopt(Format::Plain.config(0, a, b), parcel);
    let Err((Error::ForeignParcel, Some(parcel))) = refused else { panic!("{refused:?}") };
    assert!(!format!("{parcel:?}").contains("state"));
    let (tun, udp) = parcel.into_descriptors();
    assert!(write(&pod_a, &numbered(0, 1)));
    engine.add(TunnelConfig { epoch: 8, ..config }, tun, udp).unwrap();
    assert_eq!(read(&pod_b), Some(numbered(0, 1)));
}

#[test]
fn broken_tunnel_is_not_given_away() {
    let engine = Engine::start(1).unwrap();
    let ((udp, a), (tun, pod)) = (socket(), tun());
    let id = engine.add(Format::Plain.config(0, a, "127.0.0.1:9".parse().unwrap()), tun, udp).unwrap();
    drop(pod);
    let start = Instant::now();
    while engine.broken().is_empty() {
        assert!(start.elapsed() < DEADLINE);
    }
    assert!(matches!(engine.release(id), Err(Error::Broken { tunnel, .. }) if tunnel == id));
    assert_eq!(engine.broken(), [id]);
}
