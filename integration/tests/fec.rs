//! What a path loses between two pods, and what their tunnel makes of it.

use std::{
    thread,
    time::{Duration, Instant},
};

use adit_integration::{
    sealed::{Format, SealedPair, peer},
    trial,
    tunnels::{Family, Pair},
};
use adit_lab::{Attachment, IperfOptions, Pod, eventually};
use libtest_mimic::Failed;
use serde_json::{Value, json};

type Outcome<T = ()> = Result<T, Failed>;

const PACKETS_PER_SECOND: u64 = 1000;
/// What comes during a hand-over must fit into the socket's buffer, also on a busy machine.
const FEW_PACKETS_PER_SECOND: u64 = 200;
const PAYLOAD_BYTES: u64 = 1000;
/// Of a thousand, each way, each for itself.
const LOST_OF_THOUSAND: u64 = 20;

fn main() {
    adit_integration::main(vec![
        trial("what_a_path_loses_of_a_plain_tunnel_is_recovered", || recovered(&plain(&json!({}))?)),
        trial("what_a_path_loses_of_a_sealed_tunnel_is_recovered", || recovered(&SealedPair::new(Format::Noise).up()?)),
        trial("without_repairs_it_stays_lost", || stays_lost(&plain(&json!({ "fec": { "mode": "off" } }))?)),
        trial("a_clean_path_carries_no_repairs", || clean(&plain(&json!({}))?)),
        trial("an_upgrade_of_either_agent_loses_nothing_that_is_being_recovered", upgraded),
    ]);
}

fn plain(settings: &Value) -> Outcome<Pair> {
    Ok(Pair::with_tun(Attachment::Bridge, Family::V4, Family::V4, settings)?)
}

/// The router between loses outer packets from so many bytes on, each for itself; what a pod sends as one would be lost as one.
fn lossy(pair: &Pair, least_bytes: u64) -> Outcome {
    for pod in [&pair.ohio, &pair.mumbai] {
        pod.root(["ethtool", "-K", "net1", "tx-udp-segmentation", "off"])?.ok()?;
    }
    let rules = format!(
        "add table inet lossy; \
         add chain inet lossy forward {{ type filter hook forward priority 0; }}; \
         add rule inet lossy forward udp dport 6090 udp length >= {least_bytes} numgen random mod 1000 < {LOST_OF_THOUSAND} counter drop"
    );
    pair.lab.router(2)?.root(["nft", &rules])?.ok()?;
    Ok(())
}

/// Packets that arrived in the pod, and that their program was too late for.
fn came_too_soon(pod: &Pod) -> Outcome<u64> {
    let table = pod.root(["cat", "/proc/net/snmp"])?.ok()?.stdout;
    let mut lines = table.lines().filter(|line| line.starts_with("Udp:"));
    let (names, values) = lines.next().zip(lines.next()).ok_or("no counters of UDP")?;
    let counter = names.split_whitespace().zip(values.split_whitespace()).find(|(name, _)| *name == "RcvbufErrors");
    Ok(counter.ok_or("no RcvbufErrors")?.1.parse()?)
}

/// A stream of UDP from Ohio to Mumbai: how many packets it had, and how many did not arrive.
fn stream(pair: &Pair, packets_per_second: u64, seconds: u64) -> Outcome<(u64, u64)> {
    let options = IperfOptions {
        duration: Duration::from_secs(seconds),
        udp_bits_per_second: Some(packets_per_second * PAYLOAD_BYTES * 8),
        more: ["--length", "1000"].map(Into::into).to_vec(),
        ..IperfOptions::default()
    };
    let before = came_too_soon(&pair.mumbai)?;
    let said = pair.ohio.iperf3(&pair.mumbai, "10.4.0.2".parse()?, &options)?.json;
    let count = |key: &str| said["end"]["sum"][key].as_u64().ok_or(format!("no {key}: {said:#}"));
    let too_soon = came_too_soon(&pair.mumbai)?.saturating_sub(before);
    Ok((count("packets")?, count("lost_packets")?.saturating_sub(too_soon)))
}

/// Until the path's losses are known.
fn warmed_up(pair: &Pair) -> Outcome {
    stream(pair, PACKETS_PER_SECOND, 2)?;
    eventually("repairs", Duration::from_secs(10), || {
        let redundancy = peer(pair.lab.ohio())?["recovery"]["redundancyPpm"].as_u64();
        Ok((redundancy > Some(0)).then_some(()))
    })?;
    Ok(())
}

fn recovered(pair: &Pair) -> Outcome {
    lossy(pair, 0)?;
    warmed_up(pair)?;
    let bytes_before = peer(pair.lab.ohio())?["recovery"]["repairBytes"].as_u64().unwrap_or_default();
    let (packets, lost) = stream(pair, PACKETS_PER_SECOND, 6)?;
    let [sender, receiver] =
        [pair.lab.ohio(), pair.lab.mumbai()].map(|node| Ok::<_, Failed>(peer(node)?["recovery"].clone()));
    let (sender, receiver) = (sender?, receiver?);
    println!("{lost} of {packets} stayed lost; sender {sender}; receiver {receiver}");
    assert!(packets >= 5_900 && lost <= 2, "{lost} of {packets} are missing: {receiver:#}");
    let told = |who: &Value, key: &str| who[key].as_u64().unwrap_or_default();
    // Where the machine itself holds packets up, some losses look like a queue's.
    let lost_of_all = told(&receiver, "lost") + told(&receiver, "lostToCongestion");
    assert!(lost_of_all > 80 && told(&receiver, "recovered") > 60, "{receiver:#}");
    assert!(told(&sender, "repairsSent") > 0, "{sender:#}");
    assert!((10_000..35_000).contains(&told(&sender, "sentLossPpm")), "{sender:#}");
    // Of this stream alone: before it the path was unknown, which takes more.
    let share = (told(&sender, "repairBytes") - bytes_before) as f64 / (packets * (PAYLOAD_BYTES + 28)) as f64;
    assert!(share > 0.0 && share < 0.15, "repairs took {share}: {sender:#}");
    assert!(told(&sender, "overheadPpm") > 0, "{sender:#}");
    let words = pair.lab.ohio().adit(["status"])?.ok()?.stdout;
    assert!(words.contains("repairs over "), "{words}");
    Ok(())
}

fn stays_lost(pair: &Pair) -> Outcome {
    // A stream begins with one small packet each way, and waits for ever if one is lost.
    lossy(pair, PAYLOAD_BYTES)?;
    let (packets, lost) = stream(pair, PACKETS_PER_SECOND, 4)?;
    assert!(lost > packets / 100, "{lost} of {packets}");
    assert_eq!(peer(pair.lab.ohio())?["recovery"], Value::Null);
    Ok(())
}

fn clean(pair: &Pair) -> Outcome {
    // Until it has shown to be clean.
    stream(pair, PACKETS_PER_SECOND, 2)?;
    let before = peer(pair.lab.ohio())?["recovery"].clone();
    let (packets, lost) = stream(pair, PACKETS_PER_SECOND, 3)?;
    assert!(lost == 0 && packets > 2_900, "{lost} of {packets}");
    let after = peer(pair.lab.ohio())?["recovery"].clone();
    assert_eq!((&after["repairsSent"], &after["redundancyPpm"]), (&before["repairsSent"], &json!(0)), "{after:#}");
    Ok(())
}

fn upgraded() -> Outcome {
    let pair = SealedPair::new(Format::Noise).up()?;
    lossy(&pair, 0)?;
    warmed_up(&pair)?;
    let before = peer(pair.lab.mumbai())?["recovery"]["recovered"].as_u64();
    let (packets, lost) = thread::scope(|scope| {
        let upgrades = scope.spawn(|| {
            let start = Instant::now();
            for (number, node) in
                [pair.lab.ohio(), pair.lab.mumbai(), pair.lab.ohio(), pair.lab.mumbai()].into_iter().enumerate()
            {
                // Spread over the stream.
                let at = Duration::from_secs(2) * (u32::try_from(number).unwrap_or_default() + 1);
                thread::sleep(at.saturating_sub(start.elapsed()));
                node.upgrade_agent()?;
            }
            adit_lab::Result::Ok(())
        });
        let streamed = stream(&pair, FEW_PACKETS_PER_SECOND, 10);
        upgrades.join().map_err(|_| "the upgrades ended badly")??;
        streamed
    })?;
    println!("{lost} of {packets} stayed lost across four upgrades");
    assert!(packets >= 1_900 && lost <= 2, "{lost} of {packets} are missing");
    let after = peer(pair.lab.mumbai())?["recovery"]["recovered"].as_u64();
    assert!(after > before.map(|before| before + 15), "{before:?}, {after:?}");
    Ok(())
}
