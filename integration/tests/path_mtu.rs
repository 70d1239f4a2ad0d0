//! A path that takes less than it did, and does not say so: what becomes of a running transfer, and what the status says.

use std::{
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    os::fd::AsRawFd as _,
    thread,
    time::{Duration, Instant},
};

use adit_integration::{
    sealed::{Format, SealedPair, peer},
    trial, trial_within,
    tunnels::{Family, Pair, tunnels},
};
use adit_lab::{Attachment, IperfOptions, Node, Pod, eventually};
use adit_tunnel::{
    Encap, Encryption,
    mtu::{FLOOR_WITH_IPV6_BYTES, overhead_bytes},
};
use libtest_mimic::Failed;
use nix::{errno::Errno, libc};
use serde_json::{Value, json};

type Outcome<T = ()> = Result<T, Failed>;

/// What is promised.
const GOES_ON_WITHIN: Duration = Duration::from_secs(3);
const TRANSFER: Duration = Duration::from_secs(9);
const LOOK: Duration = Duration::from_millis(20);
/// So many bytes more have arrived: it goes on.
const PROGRESS_BYTES: u64 = 100_000;

#[derive(Debug, Clone, Copy)]
enum Inside {
    V4,
    V6,
    Both,
}

/// What routers say of packets that are too large for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Routers {
    Silent,
    Tell,
}

fn main() {
    use Encryption::{Noise, None};
    use Family::{V4, V6};
    let told = |name: &str, seal, outside, inside, path, routers| {
        trial(name, move || shrinks(seal, outside, inside, path, routers))
    };
    let case = |name: &str, seal, outside, inside, path| told(name, seal, outside, inside, path, Routers::Silent);
    adit_integration::main(vec![
        case("a_sealed_transfer_of_both_families_goes_on_when_the_path_shrinks_to_1400", Noise, V4, Inside::Both, 1400),
        case("a_sealed_transfer_goes_on_when_the_path_shrinks_to_1296", Noise, V4, Inside::V4, 1296),
        case("a_plain_transfer_goes_on_when_the_path_shrinks_to_1296", None, V4, Inside::V4, 1296),
        case("a_plain_ipv6_transfer_over_ipv6_goes_on_when_the_path_shrinks_to_1400", None, V6, Inside::V6, 1400),
        case("ipv6_passes_a_path_of_1296_sealed_in_fragments", Noise, V4, Inside::Both, 1296),
        case("both_families_pass_an_ipv6_path_of_1296_sealed_in_fragments", Noise, V6, Inside::Both, 1296),
        told("fragments_pass_where_routers_tell_what_is_too_large", Noise, V6, Inside::Both, 1296, Routers::Tell),
        trial("a_path_whose_mtu_is_fixed_is_left_alone", fixed),
        trial("who_sends_more_than_passes_is_told_how_much_does", senders_are_told),
        trial_within("the_mtu_is_what_it_was_when_the_path_is", Duration::from_secs(150), heals),
    ]);
}

fn pair(seal: Encryption, outside: Family, inside: Inside, changes: &Value) -> Outcome<Pair> {
    let changed = |host: u8| {
        let mut changes = changes.clone();
        if let Inside::Both = inside {
            let addresses = [format!("10.4.0.{host}/30"), format!("fd04::{host}/64")];
            let addresses = addresses.map(|address| json!({ "address": address }));
            changes["ipam"] = json!({ "type": "static", "addresses": addresses });
        }
        changes
    };
    let family = if let Inside::V6 = inside { Family::V6 } else { Family::V4 };
    Ok(match seal {
        Encryption::None => Pair::with_tun(Attachment::Bridge, outside, family, changes)?,
        _ => SealedPair::new(Format::Noise).over(outside, family).with(changed(1), changed(2)).up()?,
    })
}

/// The links of the router between take packets up to this size from now on, at either end.
fn resize(pair: &Pair, bytes: u16) -> Outcome {
    let bytes = bytes.to_string();
    for (number, links) in [(1, &["next"][..]), (2, &["prev", "next"]), (3, &["prev"])] {
        for link in links {
            pair.lab.router(number)?.root(["ip", "link", "set", link, "mtu", &bytes])?.ok()?;
        }
    }
    Ok(())
}

/// The same, and nobody is told.
fn shrink(pair: &Pair, bytes: u16) -> Outcome {
    for number in 1..=3 {
        let rules = "add table inet silence; add chain inet silence output { type filter hook output priority 0; }; \
                     add rule inet silence output icmp type destination-unreachable drop; \
                     add rule inet silence output icmpv6 type packet-too-big drop";
        pair.lab.router(number)?.root(["nft", rules])?.ok()?;
    }
    resize(pair, bytes)
}

fn received(node: &Node) -> Outcome<u64> {
    Ok(peer(node)?["rxBytes"].as_u64().unwrap_or_default())
}

/// How long it takes until so much more has arrived.
fn progress(node: &Node, limit: Duration) -> Outcome<Duration> {
    let (start, before) = (Instant::now(), received(node)?);
    while received(node)? < before + PROGRESS_BYTES {
        if start.elapsed() > limit {
            return Err(format!("no {PROGRESS_BYTES} bytes have arrived in {limit:?}").into());
        }
        thread::sleep(LOOK);
    }
    Ok(start.elapsed())
}

fn shrinks(seal: Encryption, outside: Family, inside: Inside, path: u16, routers: Routers) -> Outcome {
    let pair = pair(seal, outside, inside, &json!({}))?;
    let overhead = overhead_bytes(Encap::Udp, outside == Family::V6, seal);
    let (room, usual) = (path - overhead, 1500 - overhead);
    let floor = if let Inside::V4 = inside { 0 } else { FLOOR_WITH_IPV6_BYTES };
    let wanted = room.max(floor);
    let targets: &[&str] = match inside {
        Inside::V4 => &["10.4.0.2"],
        Inside::V6 => &["fd04::2"],
        Inside::Both => &["10.4.0.2", "fd04::2"],
    };
    for target in targets {
        pair.ohio.ping(target)?.all_received()?;
    }
    let (ohio, mumbai) = (pair.lab.ohio(), pair.lab.mumbai());
    assert_eq!(tunnels(ohio)?[0]["mtuBytes"], usual);

    // What runs while it happens.
    let to = targets.last().copied().unwrap_or_default().parse()?;
    let options = IperfOptions { duration: TRANSFER, ..IperfOptions::default() };
    thread::scope(|scope| -> Outcome {
        let transfer = scope.spawn(|| pair.ohio.iperf3(&pair.mumbai, to, &options).map_err(|error| error.to_string()));
        progress(mumbai, Duration::from_secs(8))?;
        match routers {
            Routers::Silent => shrink(&pair, path)?,
            Routers::Tell => resize(&pair, path)?,
        }
        let gap = progress(mumbai, TRANSFER)?;
        println!("a path of {path}: {gap:?}");
        assert!(gap < GOES_ON_WITHIN, "{gap:?}");
        let report = transfer.join().map_err(|_| "the transfer panicked")??;
        println!("{:.0} Mbit/s in all", report.bits_per_second / 1e6);
        Ok(())
    })?;

    let mut told = Value::Null;
    eventually("the new MTU in the status and on the interface", Duration::from_secs(5), || {
        told = tunnels(ohio)?[0].clone();
        let has = pair.ohio.interface("tun")?.mtu_bytes;
        Ok((told["mtuBytes"] == wanted && has == u32::from(wanted)).then_some(()))
    })
    .map_err(|error| format!("{error}: {told:#}"))?;
    assert_eq!(told["mtuLimitBytes"], usual);
    let health = peer(ohio)?["health"].clone();
    assert_eq!(health["pathMtuBytes"], path, "{health:#}");
    if room < floor {
        assert_eq!(health["state"], "degraded", "{health:#}");
        assert!(health["reason"].as_str().is_some_and(|words| words.contains("leave in fragments")), "{health:#}");
    }
    pair.ohio.check()?;

    // The other end finds out as soon as it sends.
    let back = IperfOptions { duration: Duration::from_secs(4), reverse: true, ..IperfOptions::default() };
    pair.ohio.iperf3(&pair.mumbai, to, &back)?;
    assert_eq!(tunnels(mumbai)?[0]["mtuBytes"], wanted);
    for target in targets {
        let header = if target.contains(':') { 48 } else { 28 };
        let size = |bytes: u16| (bytes - header).to_string();
        let ping = pair.ohio.ping_with(target, &["-c", "2", "-M", "do", "-s", &size(wanted)])?;
        ping.all_received().map_err(|error| format!("{error}: {:#?}", [tunnels(ohio), tunnels(mumbai)]))?;
        pair.ohio.ping_with(target, &["-c", "2", "-W", "1", "-M", "do", "-s", &size(wanted + 1)])?.none_received()?;
    }
    Ok(())
}

fn fixed() -> Outcome {
    let pair = pair(Encryption::None, Family::V4, Inside::V4, &json!({ "probe": { "mtu": false } }))?;
    pair.ohio.ping("10.4.0.2")?.all_received()?;
    shrink(&pair, 1296)?;
    pair.ohio
        .ping_with("10.4.0.2", &["-c", "20", "-i", "0.1", "-W", "1", "-M", "do", "-s", "1428"])?
        .none_received()?;
    assert_eq!(tunnels(pair.lab.ohio())?[0]["mtuBytes"], 1456);
    pair.ohio.ping("10.4.0.2")?.all_received()?;
    Ok(())
}

/// Large packets leave until the tunnel has found out what passes.
fn finds_out(pod: &Pod, node: &Node, to: &str, bytes: u16) -> Outcome {
    eventually("the tunnel's MTU", Duration::from_secs(10), || {
        pod.ping_with(to, &["-c", "5", "-i", "0.1", "-s", "1300"])?;
        let has = pod.interface("tun")?.mtu_bytes;
        Ok((tunnels(node)?[0]["mtuBytes"] == bytes && has == u32::from(bytes)).then_some(()))
    })?;
    Ok(())
}

/// The pods' interfaces are set back by hand, so that the kernel beside them knows no better than one that is further away would.
fn senders_are_told() -> Outcome {
    const PATH: u16 = 1400;
    const INSIDE: u16 = 1340;
    let pair = pair(Encryption::Noise, Family::V4, Inside::Both, &json!({}))?;
    pair.ohio.ping("10.4.0.2")?.all_received()?;
    shrink(&pair, PATH)?;
    finds_out(&pair.ohio, pair.lab.ohio(), "10.4.0.2", INSIDE)?;
    finds_out(&pair.mumbai, pair.lab.mumbai(), "10.4.0.1", INSIDE)?;
    for pod in [&pair.ohio, &pair.mumbai] {
        pod.root(["ip", "link", "set", "tun", "mtu", "1440"])?.ok()?;
        let rules = "add table inet look; add counter inet look four; add counter inet look six; \
                     add chain inet look input { type filter hook input priority 0; }; \
                     add rule inet look input meta nfproto ipv4 tcp option maxseg size 1300 counter name four; \
                     add rule inet look input meta nfproto ipv6 tcp option maxseg size 1280 counter name six";
        pod.root(["nft", rules])?.ok()?;
    }
    for (to, header, counter) in [("10.4.0.2", 28, "four"), ("fd04::2", 48, "six")] {
        datagrams_are_refused(&pair, to.parse()?, INSIDE - header, 1440 - header)?;

        // What SYN and SYN-ACK announce.
        let server = pair.mumbai.tcp_echo(SocketAddr::new(to.parse()?, 0))?;
        drop(pair.ohio.run_inside(|| TcpStream::connect(server.address()))??);
        for pod in [&pair.ohio, &pair.mumbai] {
            let counted = pod.root(["nft", "list", "counter", "inet", "look", counter])?.ok()?.stdout;
            assert!(counted.contains("packets 1 "), "{counted}");
        }
    }
    Ok(())
}

/// UDP that may not be fragmented passes up to this many bytes of content, and the sender is told so when it tries more.
fn datagrams_are_refused(pair: &Pair, to: IpAddr, passes: u16, too_many: u16) -> Outcome {
    let receiver = pair.mumbai.run_inside(|| UdpSocket::bind((to, 0)))??;
    receiver.set_read_timeout(Some(Duration::from_secs(5)))?;
    let sender = pair.ohio.run_inside(|| UdpSocket::bind(if to.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" }))??;
    sender.connect(receiver.local_addr()?)?;
    never_fragment(&sender, to)?;
    let send = |bytes: u16| sender.send(&vec![7; bytes.into()]).map_err(|error| error.raw_os_error());
    let refused = Err(Some(Errno::EMSGSIZE as i32));
    assert_eq!(send(too_many), Ok(too_many.into()), "nobody knows yet");
    eventually("the answer", Duration::from_secs(5), || Ok((send(too_many) == refused).then_some(())))?;
    assert_eq!(send(passes + 1), refused);
    // What the answer has left behind beside the size.
    sender.take_error()?;
    assert_eq!(send(passes), Ok(passes.into()));
    assert_eq!(receiver.recv(&mut [0; 2000])?, usize::from(passes));
    Ok(())
}

/// Datagrams of this socket leave with DF set, and are refused where they are known not to pass (ip(7), ipv6(7)).
fn never_fragment(socket: &UdpSocket, to: IpAddr) -> Outcome {
    let (level, option, value) = match to {
        IpAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO),
        IpAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO),
    };
    let length = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the descriptor is open, and pointer and length are those of a live int.
    let outcome = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), length) };
    Ok(Errno::result(outcome).map(drop)?)
}

fn heals() -> Outcome {
    let pair = pair(Encryption::None, Family::V4, Inside::V4, &json!({}))?;
    pair.ohio.ping("10.4.0.2")?.all_received()?;
    shrink(&pair, 1400)?;
    finds_out(&pair.ohio, pair.lab.ohio(), "10.4.0.2", 1356)?;
    resize(&pair, 1500)?;
    let _traffic = pair.ohio.spawn(["ping", "-n", "-i", "0.2", "-s", "1300", "10.4.0.2"])?;
    let start = Instant::now();
    eventually("the old MTU on the interface", Duration::from_secs(100), || {
        Ok((pair.ohio.interface("tun")?.mtu_bytes == 1456).then_some(()))
    })?;
    println!("as it was after {:?}", start.elapsed());
    assert_eq!(tunnels(pair.lab.ohio())?[0]["mtuBytes"], 1456);
    pair.ohio.ping_with("10.4.0.2", &["-c", "2", "-M", "do", "-s", "1428"])?.all_received()?;
    Ok(())
}
