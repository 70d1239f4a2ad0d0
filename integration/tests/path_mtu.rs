//! A path that takes less than it did, and does not say so: what becomes of a running transfer, and what the status says.

use std::{
    thread,
    time::{Duration, Instant},
};

use adit_integration::{
    sealed::{Format, SealedPair, peer},
    trial,
    tunnels::{Family, Pair, tunnels},
};
use adit_lab::{Attachment, IperfOptions, Node, eventually};
use adit_tunnel::{
    Encap, Encryption,
    mtu::{FLOOR_WITH_IPV6_BYTES, overhead_bytes},
};
use libtest_mimic::Failed;
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

fn main() {
    use Encryption::{Noise, None};
    use Family::{V4, V6};
    let case = |name: &str, seal, outside, inside, path| trial(name, move || shrinks(seal, outside, inside, path));
    adit_integration::main(vec![
        case("a_sealed_transfer_of_both_families_goes_on_when_the_path_shrinks_to_1400", Noise, V4, Inside::Both, 1400),
        case("a_sealed_transfer_goes_on_when_the_path_shrinks_to_1296", Noise, V4, Inside::V4, 1296),
        case("a_plain_transfer_goes_on_when_the_path_shrinks_to_1296", None, V4, Inside::V4, 1296),
        case("a_plain_ipv6_transfer_over_ipv6_goes_on_when_the_path_shrinks_to_1400", None, V6, Inside::V6, 1400),
        case("ipv6_passes_a_path_of_1296_sealed_in_fragments", Noise, V4, Inside::Both, 1296),
        trial("a_path_whose_mtu_is_fixed_is_left_alone", fixed),
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

/// The links of the router between take no larger packets any more, at either end, and nobody is told.
fn shrink(pair: &Pair, bytes: u16) -> Outcome {
    let bytes = bytes.to_string();
    for (number, links) in [(1, &["next"][..]), (2, &["prev", "next"]), (3, &["prev"])] {
        let router = pair.lab.router(number)?;
        router
            .root([
                "nft",
                "add table inet silence; add chain inet silence output { type filter hook output priority 0; }; \
                 add rule inet silence output icmp type destination-unreachable drop; \
                 add rule inet silence output icmpv6 type packet-too-big drop",
            ])?
            .ok()?;
        for link in links {
            router.root(["ip", "link", "set", link, "mtu", &bytes])?.ok()?;
        }
    }
    Ok(())
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

fn shrinks(seal: Encryption, outside: Family, inside: Inside, path: u16) -> Outcome {
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
        shrink(&pair, path)?;
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
