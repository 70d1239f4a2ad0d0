//! Packets that the kernel leaves in one piece, and takes in one piece: the kernel itself says whether they were cut and joined right.
//! Its counters of damaged packets stay at zero, and every byte arrives.

use std::{
    collections::BTreeMap,
    fs, io,
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::{AsRawFd as _, OwnedFd},
    time::Duration,
};

use adit_integration::{
    trial, trial_within,
    tunnels::{FIRST_POD, Family, Pair, inner_pair, outer, tunnels},
};
use adit_lab::{Attachment, Namespace, Pod, TappedPacket};
use libtest_mimic::Failed;
use nix::{
    libc,
    sys::socket::{setsockopt, sockopt},
};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use serde_json::json;

type Outcome<T = ()> = Result<T, Failed>;

const LIMIT: Duration = Duration::from_secs(20);
/// What is exchanged over TCP, each way.
const STREAM_BYTES: usize = 8 << 20;
const MTU_OUTSIDE: usize = 1500;

fn main() {
    let mut trials = Vec::new();
    for outside in [Family::V4, Family::V6] {
        for inside in [Family::V4, Family::V6] {
            let named = |what: &str| format!("{what}_with_{outside:?}_outside_and_{inside:?}_inside").to_lowercase();
            trials.extend([
                trial_within(named("streams_pass_whole"), Duration::from_secs(120), move || {
                    streams_pass(outside, inside)
                }),
                trial_within(named("datagrams_pass_as_they_are"), Duration::from_secs(120), move || {
                    datagrams_pass(outside, inside)
                }),
            ]);
        }
    }
    trials.extend([
        trial("a_tunnel_whose_kernel_cuts_no_datagrams_passes_packets_one_by_one", kernel_refuses_to_cut),
        trial("a_pod_may_forward_what_came_in_one_piece", forwarded),
        trial("a_tunnel_within_the_tunnel_works", tunnel_in_tunnel),
    ]);
    adit_integration::main(trials);
}

fn streams_pass(outside: Family, inside: Family) -> Outcome {
    let pair = up(outside, inside)?;
    for pod in [&pair.ohio, &pair.mumbai] {
        pod.sysctl("net/ipv4/tcp_ecn", "1")?;
    }
    for condition in [Condition::Defaults, Condition::Wire] {
        set(condition, &pair)?;
        let (largest, before) = (tap_outer(&pair, outside)?, Passed::of(&pair.mumbai)?);
        exchange_stream(&pair, inside)?;
        let passed = Passed::of(&pair.mumbai)?.since(&before);
        assert!(together(passed.entering) && together(passed.leaving), "{condition:?}: {passed:?}");
        let largest = largest.stop();
        match condition {
            Condition::Defaults => assert!(largest > 4 * MTU_OUTSIDE, "{largest} bytes left the pod as one"),
            Condition::Wire => assert!(largest <= MTU_OUTSIDE, "{largest} bytes are on the wire"),
        }
        undamaged(&pair)?;
    }
    for pod in [&pair.ohio, &pair.mumbai] {
        let counters = counters(pod)?;
        let marked = if inside == Family::V4 { counters["IpExt InECT0Pkts"] } else { counters["Ip6InECT0Pkts"] };
        assert!(marked > 100, "ECN was not agreed upon: {marked} packets marked");
    }
    Ok(())
}

fn datagrams_pass(outside: Family, inside: Family) -> Outcome {
    let pair = up(outside, inside)?;
    let there: IpAddr = bare(inner_pair(inside)[1]).parse()?;
    let mtu = pair.ohio.interface("tun")?.mtu_bytes as usize;
    let header_bytes = if inside == Family::V4 { 28 } else { 48 };
    let largest = mtu - header_bytes;
    let every = |from: usize| (0..=largest).map(move |length| (length * 7 + from) % (largest + 1)).collect::<Vec<_>>();
    for condition in [Condition::Defaults, Condition::Wire] {
        set(condition, &pair)?;
        // Alone, in every length; and in bursts, so that some of one length come together.
        let link = Link::between(&pair.ohio, &pair.mumbai, there)?;
        link.pass(&every(0))?;
        link.pass(&(0..500).map(|number| [900, 900, 900, 40][number / 5 % 4]).collect::<Vec<_>>())?;
        link.pass(&(0..500).map(|number| 800 + number / 2).collect::<Vec<_>>())?;
        link.pass(&random(1000).map(|number| number as usize % (largest + 1)).collect::<Vec<_>>())?;
        // Fragments.
        link.pass(&[10_000, 30_000, largest + 1, 2000])?;

        // From a socket that leaves the cutting to the kernel, to one that takes datagrams one by one, and to one that takes several.
        let pass_segmented = |counts: &[usize]| {
            for segment_bytes in [largest, 1000, 500, 100] {
                for count in counts {
                    let bytes = (count * segment_bytes).min(60_000) - 1;
                    link.pass_segmented(bytes, segment_bytes, false)?;
                    link.pass_segmented(bytes, segment_bytes, true)?;
                }
            }
            Outcome::Ok(())
        };
        // More than the tun takes as one.
        pass_segmented(&[63])?;
        let before = Passed::of(&pair.ohio)?;
        pass_segmented(&[2, 40])?;
        let passed = Passed::of(&pair.ohio)?.since(&before);
        // Something else may have left as well.
        assert!(passed.leaving.0 <= 2 * 4 * 2 + 8, "{condition:?}: {passed:?}");
        assert!(passed.leaving.1 >= 2 * 4 * (2 + 40), "{condition:?}: {passed:?}");

        let size = (mtu - header_bytes).to_string();
        pair.ohio.ping_with(there, &["-c", "3", "-i", "0.2", "-M", "do", "-s", &size])?.all_received()?;
        pair.mumbai.ping_with(bare(inner_pair(inside)[0]), &["-c", "1", "-M", "do", "-s", "0"])?.all_received()?;
        undamaged(&pair)?;
    }
    Ok(())
}

/// The outer path becomes narrower than the tunnel, and the agent's socket may fragment: then the kernel takes each datagram alone, and
/// refuses several as one (EINVAL, net/ipv4/udp.c).
fn kernel_refuses_to_cut() -> Outcome {
    let pair = up(Family::V4, Family::V4)?;
    let largest = tap_outer(&pair, Family::V4)?;
    exchange_stream(&pair, Family::V4)?;
    assert!(largest.stop() > 4 * MTU_OUTSIDE);

    let to = outer(pair.lab.mumbai(), Family::V4, FIRST_POD).to_string();
    let via = pair.lab.ohio().number().gateway()[0].to_string();
    pair.ohio.root(["ip", "route", "add", &to, "via", &via, "mtu", "1400"])?.ok()?;
    for socket in agent_sockets(&pair)? {
        let value: libc::c_int = libc::IP_PMTUDISC_DONT;
        // SAFETY: the descriptor is open, and the value is an int of the size that is told.
        let done = unsafe {
            libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, (&raw const value).cast(), 4)
        };
        assert_eq!(done, 0, "{}", io::Error::last_os_error());
    }
    // Once it was refused, even what the kernel would take leaves one by one.
    exchange_stream(&pair, Family::V4)?;
    pair.ohio.root(["ip", "route", "delete", &to, "via", &via, "mtu", "1400"])?.ok()?;
    let largest = tap_outer(&pair, Family::V4)?;
    exchange_stream(&pair, Family::V4)?;
    let largest = largest.stop();
    assert!(largest > 1400 && largest <= MTU_OUTSIDE, "{largest} bytes left the pod as one");
    undamaged(&pair)
}

/// Another pod behind the first, on a link that takes nothing in one piece: the kernel cuts what the agent has joined.
fn forwarded() -> Outcome {
    let pair = up(Family::V4, Family::V4)?;
    let behind = pair.lab.mumbai().pod("behind").bare()?;
    let link = format!("link add down0 type veth peer name up0 netns {}", behind.netns_name());
    let ip =
        |space: &Namespace, lines: &[&str]| space.ip_batch(&lines.iter().map(ToString::to_string).collect::<Vec<_>>());
    ip(&pair.mumbai, &[&link, "address add 10.9.0.1/24 dev down0", "link set down0 up"])?;
    ip(&behind, &["address add 10.9.0.2/24 dev up0", "link set up0 up", "route add default via 10.9.0.1"])?;
    ip(&pair.ohio, &["route add 10.9.0.0/24 dev tun"])?;
    pair.mumbai.sysctl("net/ipv4/conf/all/forwarding", "1")?;
    // Checksums too are completed by the kernel, from what it was told of them.
    let off = ["tso", "off", "gso", "off", "gro", "off", "tx-udp-segmentation", "off", "tx", "off", "rx", "off"];
    for (space, name) in [(&*pair.mumbai, "down0"), (&*behind, "up0")] {
        space.root(["ethtool", "-K", name].into_iter().chain(off))?.ok()?;
    }

    let before = Passed::of(&pair.mumbai)?;
    let seen = behind.tap("up0", |packet| packet.protocol == 6)?;
    let server = behind.tcp_echo("10.9.0.2:7".parse()?)?;
    let bytes = stream_bytes();
    let back = pair.ohio.tcp_exchange(server.address(), &bytes, LIMIT)?;
    assert!(back == bytes, "{} of {} bytes came back", back.len(), bytes.len());
    assert!(seen.stop().iter().all(|packet| packet.length <= 1456));
    let passed = Passed::of(&pair.mumbai)?.since(&before);
    assert!(together(passed.entering), "{passed:?}");

    let link = Link::between(&pair.ohio, &behind, "10.9.0.2".parse()?)?;
    for segment_bytes in [1400, 700, 99] {
        link.pass_segmented(30 * segment_bytes - 1, segment_bytes, false)?;
    }
    no_damage(&counters(&behind)?)?;
    undamaged(&pair)
}

/// VXLAN between the pods, over their tunnel: packets whose payload has headers and checksums of its own.
fn tunnel_in_tunnel() -> Outcome {
    let pair = up(Family::V4, Family::V4)?;
    for checksums in ["udpcsum", "noudpcsum"] {
        for (pod, local, remote, own) in
            [(&pair.ohio, "10.4.0.1", "10.4.0.2", "10.8.0.1/24"), (&pair.mumbai, "10.4.0.2", "10.4.0.1", "10.8.0.2/24")]
        {
            let kind = format!("type vxlan id 7 dstport 4789 local {local} remote {remote} {checksums}");
            pod.ip_batch(&[
                format!("link add inner0 mtu 1406 {kind}"),
                format!("address add {own} dev inner0"),
                "link set inner0 up".to_owned(),
            ])?;
        }
        let server = pair.mumbai.tcp_echo("10.8.0.2:7".parse()?)?;
        let bytes = stream_bytes();
        let back = pair.ohio.tcp_exchange(server.address(), &bytes, LIMIT)?;
        assert!(back == bytes, "{checksums}: {} of {} bytes came back", back.len(), bytes.len());
        undamaged(&pair)?;
        for pod in [&pair.ohio, &pair.mumbai] {
            pod.root(["ip", "link", "delete", "inner0"])?.ok()?;
        }
    }
    Ok(())
}

/// Two pods whose tunnel is up: nothing has to wait for it any more. Without repairs, which on a path of which nothing is known yet stand
/// between packets that would be joined.
fn up(outside: Family, inside: Family) -> Outcome<Pair> {
    let pair = Pair::with_tun(Attachment::Bridge, outside, inside, &json!({ "fec": { "mode": "off" } }))?;
    pair.ohio.ping(bare(inner_pair(inside)[1]))?.all_received()?;
    Ok(pair)
}

/// What the links below do for the pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Condition {
    /// What veth does by itself: nothing is cut on the whole way.
    Defaults,
    /// As on a wire: everything is cut where it leaves.
    Wire,
}

fn set(condition: Condition, pair: &Pair) -> Outcome {
    let state = if condition == Condition::Wire { "off" } else { "on" };
    let options = ["tso", state, "gso", state, "tx-udp-segmentation", state, "gro", "on"];
    let spaces: Vec<&Namespace> = [&*pair.ohio, &*pair.mumbai]
        .into_iter()
        .chain(pair.lab.nodes().iter().map(|node| &**node))
        .chain(pair.lab.routers().iter().map(|router| &**router))
        .collect();
    for space in spaces {
        let mut ends = 0;
        for interface in space.interfaces()? {
            if interface.kind == "veth" {
                space.root(["ethtool", "-K", &interface.name].into_iter().chain(options))?.ok()?;
                ends += 1;
            }
        }
        assert!(ends > 0, "no link in {}", space.netns_name());
    }
    Ok(())
}

/// Bytes of which no two places look alike.
fn stream_bytes() -> Vec<u8> {
    (0..STREAM_BYTES as u32 / 4).flat_map(|number| number.wrapping_mul(2_654_435_761).to_be_bytes()).collect()
}

/// Both ways at once, and everything must come back.
fn exchange_stream(pair: &Pair, inside: Family) -> Outcome {
    let there: IpAddr = bare(inner_pair(inside)[1]).parse()?;
    let server = pair.mumbai.tcp_echo((there, 7).into())?;
    let bytes = stream_bytes();
    let back = pair.ohio.tcp_exchange(server.address(), &bytes, LIMIT)?;
    assert!(back == bytes, "{} of {} bytes came back", back.len(), bytes.len());
    Ok(())
}

/// A sender and a receiver of datagrams.
struct Link {
    sender: UdpSocket,
    receiver: UdpSocket,
}

impl Link {
    fn between(from: &Namespace, to: &Namespace, address: IpAddr) -> Outcome<Self> {
        let any: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
        let sender = from.run_inside(|| UdpSocket::bind((any, 0)))??;
        let receiver = to.run_inside(|| UdpSocket::bind((address, 0)))??;
        for socket in [&sender, &receiver] {
            setsockopt(socket, sockopt::RcvBufForce, &(8 << 20))?;
            setsockopt(socket, sockopt::SndBufForce, &(8 << 20))?;
        }
        receiver.set_read_timeout(Some(Duration::from_secs(5)))?;
        sender.connect(SocketAddr::from((address, receiver.local_addr()?.port())))?;
        Ok(Self { sender, receiver })
    }

    /// Each datagram arrives as it was sent, in its order.
    fn pass(&self, lengths: &[usize]) -> Outcome {
        let mut buffer = vec![0; 1 << 16];
        for (number, burst) in lengths.chunks(25).enumerate() {
            let datagrams: Vec<_> = burst.iter().map(|length| datagram(*length, number)).collect();
            for datagram in &datagrams {
                again(|| self.sender.send(datagram))?;
            }
            for (place, datagram) in datagrams.iter().enumerate() {
                let length = again(|| self.receiver.recv(&mut buffer))?;
                let same = buffer[..length] == datagram[..];
                assert!(same, "{length} bytes came for {} (burst {number}, place {place})", datagram.len());
            }
        }
        Ok(())
    }

    /// Sends `bytes` as datagrams of one length in one call. The receiver has them one by one, or takes what comes as one.
    fn pass_segmented(&self, bytes: usize, segment_bytes: usize, taken_as_one: bool) -> Outcome {
        let payload = datagram(bytes, segment_bytes);
        setsockopt(&self.receiver, sockopt::UdpGroSegment, &taken_as_one)?;
        setsockopt(&self.sender, sockopt::UdpGsoSegment, &libc::c_int::try_from(segment_bytes)?)?;
        again(|| self.sender.send(&payload))?;
        setsockopt(&self.sender, sockopt::UdpGsoSegment, &0)?;
        let (mut received, mut buffer, mut longest) = (Vec::new(), vec![0; 1 << 16], 0);
        while received.len() < bytes {
            let length = again(|| self.receiver.recv(&mut buffer))?;
            if !taken_as_one {
                assert_eq!(length, segment_bytes.min(bytes - received.len()), "after {} bytes", received.len());
            }
            received.extend_from_slice(&buffer[..length]);
            longest = longest.max(length);
        }
        assert!(received == payload, "{bytes} bytes in segments of {segment_bytes}");
        if taken_as_one {
            setsockopt(&self.receiver, sockopt::UdpGroSegment, &false)?;
            assert!(longest > segment_bytes, "nothing of {bytes} bytes in segments of {segment_bytes} was joined");
        }
        Ok(())
    }
}

/// A child's end may interrupt any call.
fn again<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

fn datagram(length: usize, seed: usize) -> Vec<u8> {
    let words = (0_u32..).map(|word| (word ^ (seed as u32) << 16).wrapping_mul(2_654_435_761) ^ length as u32);
    words.flat_map(u32::to_be_bytes).take(length).collect()
}

/// The same numbers in every run (xorshift).
fn random(count: usize) -> impl Iterator<Item = u32> {
    let mut state = 0x2545_f491_u32;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state
    })
    .take(count)
}

/// What has passed a pod's tun each way: pieces as the tun counts them, however many packets one stands for, and packets as the agent
/// counts them.
#[derive(Debug, Clone, Copy)]
struct Passed {
    entering: (u64, u64),
    leaving: (u64, u64),
}

impl Passed {
    fn of(pod: &Pod) -> Outcome<Self> {
        let link = pod.ip_json(["-s", "link", "show", "dev", "tun"])?;
        let tunnels = tunnels(pod.node())?;
        let [tunnel] = &tunnels[..] else { return Err("a node has one tunnel here".into()) };
        let count = |way: &str, packets: &str| {
            let pieces = link[0]["stats64"][way]["packets"].as_u64();
            pieces.zip(tunnel["peers"][0][packets].as_u64()).ok_or("something is not counted")
        };
        // What the tun receives is what the agent writes to it.
        Ok(Self { entering: count("rx", "rxPackets")?, leaving: count("tx", "txPackets")? })
    }

    fn since(&self, before: &Self) -> Self {
        let less = |now: (u64, u64), then: (u64, u64)| (now.0 - then.0, now.1 - then.1);
        Self { entering: less(self.entering, before.entering), leaving: less(self.leaving, before.leaving) }
    }
}

/// Whether packets passed together: acknowledgements always pass alone, and without offloads everything does.
fn together((pieces, packets): (u64, u64)) -> bool {
    packets > 1000 && pieces < packets - packets / 10
}

/// The largest outer packet of the tunnel that leaves Ohio's pod.
struct Largest(adit_lab::Tap);

impl Largest {
    fn stop(self) -> usize {
        self.0.stop().iter().map(|packet| packet.length).max().unwrap_or_default()
    }
}

fn tap_outer(pair: &Pair, outside: Family) -> Outcome<Largest> {
    let own = outer(pair.lab.ohio(), outside, FIRST_POD);
    let is_ours = move |packet: &TappedPacket| packet.src == own && packet.outgoing && packet.has_port(6090);
    Ok(Largest(pair.ohio.tap("net1", is_ours)?))
}

/// The kernel's counters of a pod: `Tcp InErrs`, `Udp6InCsumErrors`, `IpExt InECT0Pkts`, … (proc(5) `net/snmp`, `net/snmp6`).
fn counters(pod: &Pod) -> Outcome<BTreeMap<String, u64>> {
    let read = |file: &str| fs::read_to_string(format!("/proc/{}/net/{file}", pod.pid()));
    let mut counters = BTreeMap::new();
    let (two_lines, one_line) = (read("snmp")? + &read("netstat")?, read("snmp6")?);
    let lines: Vec<_> = two_lines.lines().collect();
    for pair in lines.chunks(2) {
        let [names, values] = pair else { continue };
        let group = names.split(':').next().unwrap_or_default();
        for (name, value) in names.split_whitespace().zip(values.split_whitespace()).skip(1) {
            // Some may be negative: they are no counters.
            counters.insert(format!("{group} {name}"), value.parse().unwrap_or_default());
        }
    }
    for line in one_line.lines() {
        if let Some((name, value)) = line.split_once(char::is_whitespace) {
            counters.insert(name.to_owned(), value.trim().parse()?);
        }
    }
    Ok(counters)
}

/// What counts packets that arrived damaged.
const DAMAGE: [&str; 14] = [
    "Ip InHdrErrors",
    "Ip ReasmFails",
    "Icmp InCsumErrors",
    "Tcp InCsumErrors",
    "Udp InErrors",
    "Udp InCsumErrors",
    "IpExt InTruncatedPkts",
    "IpExt InCsumErrors",
    "Ip6InHdrErrors",
    "Ip6ReasmFails",
    "Ip6InTruncatedPkts",
    "Icmp6InCsumErrors",
    "Udp6InErrors",
    "Udp6InCsumErrors",
];

/// Nothing that arrived was damaged.
fn no_damage(counters: &BTreeMap<String, u64>) -> Outcome {
    if let Some(missing) = DAMAGE.iter().find(|name| !counters.contains_key(**name)) {
        return Err(format!("the kernel has no counter {missing}").into());
    }
    let damage: Vec<_> = DAMAGE.iter().filter(|name| counters[**name] > 0).collect();
    // A SYN that was sent again because its answer was late is counted too.
    let damaged_segments = counters["Tcp InErrs"] - counters["TcpExt TCPSYNChallenge"];
    if damage.is_empty() && damaged_segments == 0 {
        return Ok(());
    }
    let all: Vec<_> = counters.iter().filter(|(_, count)| **count > 0).collect();
    Err(format!("{damaged_segments} damaged segments, and {damage:?} are not zero, among {all:?}").into())
}

/// Nothing that either pod received was damaged, and neither agent dropped anything.
fn undamaged(pair: &Pair) -> Outcome {
    for pod in [&pair.ohio, &pair.mumbai] {
        no_damage(&counters(pod)?).map_err(|why| format!("{}: {why:?}", pod.name()))?;
    }
    for node in pair.lab.nodes() {
        for tunnel in tunnels(node)? {
            let drops = tunnel["drops"].as_object().map_or(0, serde_json::Map::len);
            assert!(tunnel["drops"].is_object() && drops == 0, "{}: {tunnel:#}", node.name());
        }
    }
    Ok(())
}

/// The UDP sockets of the agent of Ohio's node.
fn agent_sockets(pair: &Pair) -> Outcome<Vec<OwnedFd>> {
    let pid = pair.lab.ohio().agent_pid().ok_or("the agent does not run")?;
    let agent = pidfd_open(Pid::from_raw(pid).ok_or("no process has this number")?, PidfdFlags::empty())?;
    let mut sockets = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let number = entry?.file_name().to_string_lossy().parse()?;
        // One may have been closed meanwhile.
        let Ok(descriptor) = pidfd_getfd(&agent, number, PidfdGetfdFlags::empty()) else { continue };
        let is_udp =
            nix::sys::socket::getsockopt(&descriptor, sockopt::SockType) == Ok(nix::sys::socket::SockType::Datagram);
        let is_ip = nix::sys::socket::getsockname::<nix::sys::socket::SockaddrIn>(descriptor.as_raw_fd()).is_ok();
        if is_udp && is_ip {
            sockets.push(descriptor);
        }
    }
    assert_eq!(sockets.len(), 1, "a tunnel has one socket");
    Ok(sockets)
}

fn bare(prefix: &str) -> &str {
    prefix.split('/').next().unwrap_or_default()
}
