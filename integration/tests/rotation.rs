//! Keys change while packets go, and none of them is lost. `ADIT_ROTATION_SECONDS` says for how long (30 by default; the documented
//! run is 120), every five seconds a change, in turn of each end.

use std::{
    env,
    net::IpAddr,
    thread,
    time::{Duration, Instant},
};

use adit_integration::{
    sealed::{Format, SealedPair, peer, tunnel},
    trial_within,
    tunnels::Pair,
};
use adit_lab::{IperfOptions, Node};
use libtest_mimic::Failed;

const INTERVAL: Duration = Duration::from_secs(5);
const USUAL_SECONDS: u64 = 30;
/// Far below a fifth of what the tunnels carry (docs/performance.md).
const BITS_PER_SECOND: u64 = 20_000_000;
/// How often a run is repeated whose control, a tunnel whose keys stay, lost packets: the machine was too busy to tell.
const TRIES: usize = 3;

type Outcome = Result<(), Failed>;

fn main() {
    let seconds = env::var("ADIT_ROTATION_SECONDS").ok().and_then(|text| text.parse().ok());
    let duration = Duration::from_secs(seconds.unwrap_or(USUAL_SECONDS));
    let deadline = (duration + Duration::from_secs(60)) * u32::try_from(TRIES).unwrap_or(1);
    let trials = Format::ALL.map(|format| {
        let name = format!("{}_keys_change_without_a_lost_packet", format.encap());
        trial_within(name, deadline, move || changed_under_traffic(format, duration))
    });
    adit_integration::main(trials.into());
}

fn changed_under_traffic(format: Format, duration: Duration) -> Outcome {
    let (rotated, control) = (SealedPair::new(format).up()?, SealedPair::new(format).up()?);
    for pair in [&rotated, &control] {
        pair.ohio.ping("10.4.0.2")?.all_received()?;
    }
    for _ in 0..TRIES {
        let before = handshakes(&rotated)?;
        let [lost, lost_of_control, changes] = thread::scope(|scope| {
            let runs = [&rotated, &control].map(|pair| scope.spawn(move || lost_packets(pair, duration)));
            let changes = change_keys(&rotated, duration);
            let [lost, of_control] = runs.map(|run| run.join().map_err(|_| Failed::from("iperf3 panicked")));
            Ok::<_, Failed>([lost??, of_control??, changes?])
        })?;
        assert!(changes >= duration.as_secs() / INTERVAL.as_secs() - 1, "{changes} changes");
        assert!(handshakes(&rotated)? >= before + changes, "{}", tunnel(rotated.lab.ohio())?);
        if lost_of_control == 0 {
            assert_eq!(lost, 0, "packets were lost while keys changed {changes} times, and none beside it");
            return Ok(());
        }
    }
    Err(format!("even a tunnel whose keys stay lost packets, {TRIES} times: this machine is too busy to tell").into())
}

fn handshakes(pair: &Pair) -> Result<u64, Failed> {
    Ok(peer(pair.lab.ohio())?["handshakes"].as_u64().ok_or("no handshakes are told")?)
}

fn lost_packets(pair: &Pair, duration: Duration) -> Result<u64, Failed> {
    let options = IperfOptions {
        duration,
        udp_bits_per_second: Some(BITS_PER_SECOND),
        more: ["--length", "1200"].map(Into::into).to_vec(),
        ..IperfOptions::default()
    };
    let report = pair.ohio.iperf3(&pair.mumbai, "10.4.0.2".parse::<IpAddr>()?, &options)?;
    let of = |key: &str| report.json["end"]["sum"][key].as_u64().ok_or_else(|| format!("iperf3 tells no {key}"));
    let (lost, packets) = (of("lost_packets")?, of("packets")?);
    // What was not sent cannot be lost.
    assert!(packets as f64 * 1200.0 * 8.0 > 0.9 * BITS_PER_SECOND as f64 * duration.as_secs_f64(), "{packets} packets");
    Ok(lost)
}

/// Each end in its turn, as an administrator does it. Returns how often.
fn change_keys(pair: &Pair, duration: Duration) -> Result<u64, Failed> {
    let start = Instant::now();
    let mut ends = [pair.lab.ohio(), pair.lab.mumbai()];
    let mut changes = 0;
    loop {
        let next = INTERVAL * u32::try_from(changes + 1)?;
        if next >= duration {
            return Ok(changes);
        }
        thread::sleep(next.saturating_sub(start.elapsed()));
        let [own, other] = ends;
        change_key(own, other)?;
        changes += 1;
        ends.reverse();
    }
}

fn change_key(own: &Node, other: &Node) -> Outcome {
    let name = |node: &Node| -> Result<String, Failed> {
        let attachment = &tunnel(node)?["attachment"];
        let part = |key: &str| attachment[key].as_str().unwrap_or_default().to_owned();
        Ok([part("containerId"), part("cniIfName"), part("ifName")].join(":"))
    };
    let (ours, theirs) = (name(own)?, name(other)?);
    let old = tunnel(own)?["publicKey"].clone();
    let new = own.adit(["key", "rotate", &ours])?.ok()?.stdout.trim().to_owned();
    assert_ne!(old, new.as_str());
    other.adit(["peer", "rekey", &theirs, &new])?.ok()?;
    let used = own.adit(["key", "rotate", &ours, "--use"])?.ok()?.stdout.trim().to_owned();
    assert_eq!((used.as_str(), &tunnel(own)?["publicKey"]), (new.as_str(), &used.clone().into()));
    // Once packets have left under the new key, nobody needs the old one.
    thread::sleep(INTERVAL / 2);
    other.adit(["peer", "rekey", &theirs, &new, "--forget-old"])?.ok()?;
    own.adit(["key", "rotate", &ours, "--finish"])?.ok()?;
    assert_eq!(peer(other)?["publicKey"], new.as_str());
    Ok(())
}
