//! What the agent tells of a peer's health, beside what was really done to its packets. `ADIT_SOAK_SECONDS` says for how long a live
//! tunnel on a busy machine is watched (20 by default; `scripts/soak` asks for 1800).

use std::{
    env, thread,
    time::{Duration, Instant},
};

use adit_integration::{
    sealed::{Format, SealedPair, peer},
    trial, trial_within,
    tunnels::{FIRST_POD, Family, Pair, outer},
};
use adit_lab::{Attachment, Background, IperfOptions, Node, eventually};
use libtest_mimic::Failed;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

type Outcome<T = ()> = Result<T, Failed>;

/// What the issue promises.
const NOTICED_WITHIN: Duration = Duration::from_secs(1);
/// A busy machine may hide it: how often it is tried.
const TRIES: usize = 3;
const USUAL_SOAK_SECONDS: u64 = 20;
const LOOK: Duration = Duration::from_millis(20);

fn main() {
    let seconds = env::var("ADIT_SOAK_SECONDS").ok().and_then(|text| text.parse().ok());
    let soak = Duration::from_secs(seconds.unwrap_or(USUAL_SOAK_SECONDS));
    adit_integration::main(vec![
        trial("loss_of_a_plain_tunnel_is_what_the_dropper_counted", || loss(&plain(&json!({}))?)),
        trial("loss_of_a_sealed_tunnel_is_what_the_dropper_counted", || loss(&SealedPair::new(Format::Noise).up()?)),
        trial("a_killed_agent_is_noticed_while_traffic_flows", || {
            noticed(|| plain(&json!({})), true, |pair| Ok(pair.lab.mumbai().kill_agent()?))
        }),
        trial("a_killed_agent_is_noticed_by_probes_each_200_ms", || {
            let settings = json!({ "probe": { "interval": "200ms" } });
            noticed(|| plain(&settings), false, |pair| Ok(pair.lab.mumbai().kill_agent()?))
        }),
        trial("a_cut_cable_is_noticed_while_sealed_traffic_flows", || {
            noticed(|| Ok(SealedPair::new(Format::Noise).up()?), true, |pair| dropper(pair, "", "udp dport 6090"))
        }),
        trial("an_own_agent_that_stood_still_calls_nobody_down", stopped),
        trial_within("a_live_tunnel_on_a_busy_machine_is_never_down", soak + Duration::from_secs(60), move || {
            busy(soak)
        }),
    ]);
}

fn plain(settings: &Value) -> Outcome<Pair> {
    Ok(Pair::with_tun(Attachment::Bridge, Family::V4, Family::V4, settings)?)
}

fn health(node: &Node) -> Outcome<Value> {
    Ok(peer(node)?["health"].clone())
}

fn up(pair: &Pair) -> Outcome {
    for node in [pair.lab.ohio(), pair.lab.mumbai()] {
        eventually("an answered probe", Duration::from_secs(10), || {
            let health = peer(node)?["health"].clone();
            Ok((health["state"] == "up" && health["probesAnswered"] != 0).then_some(()))
        })?;
    }
    Ok(())
}

/// A rule of the router between that drops, and counts what it drops, of what matches; `limit` is which of those.
fn dropper(pair: &Pair, limit: &str, matching: &str) -> Outcome {
    let rules = format!(
        "add table inet dropper; \
         add chain inet dropper forward {{ type filter hook forward priority 0; }}; \
         add rule inet dropper forward {matching} {limit} counter drop"
    );
    pair.lab.router(2)?.root(["nft", &rules])?.ok()?;
    Ok(())
}

fn dropped(pair: &Pair) -> adit_lab::Result<u64> {
    let said = pair.lab.router(2)?.root(["nft", "-j", "list", "table", "inet", "dropper"])?.json()?;
    let rules = said["nftables"].as_array().into_iter().flatten();
    let expressions = rules.filter_map(|object| object["rule"]["expr"].as_array()).flatten();
    Ok(expressions.filter_map(|expression| expression["counter"]["packets"].as_u64()).sum())
}

fn count(health: &Value, direction: &str, what: &str) -> u64 {
    health[direction][what].as_u64().unwrap_or_default()
}

fn loss(pair: &Pair) -> Outcome {
    up(pair)?;
    // A pair would carry several datagrams as one, which a dropper counts as one.
    for pod in [&pair.ohio, &pair.mumbai] {
        pod.root(["ethtool", "-K", "net1", "tx-udp-segmentation", "off"])?.ok()?;
    }
    let (ohio, mumbai) = (pair.lab.ohio(), pair.lab.mumbai());
    let before = [health(ohio)?, health(mumbai)?];
    let from = outer(ohio, Family::V4, FIRST_POD);
    dropper(pair, "numgen inc mod 37 == 5", &format!("ip saddr {from} udp dport 6090"))?;
    let options = IperfOptions {
        duration: Duration::from_secs(4),
        udp_bits_per_second: Some(30_000_000),
        more: ["--length", "1200"].map(Into::into).to_vec(),
        ..IperfOptions::default()
    };
    pair.ohio.iperf3(&pair.mumbai, "10.4.0.2".parse()?, &options)?;
    let while_lossy = [health(ohio)?, health(mumbai)?];
    let packets = count(&while_lossy[1], "received", "packets");
    assert!(packets > 5_000, "{while_lossy:#?}");
    for (health, words) in while_lossy.iter().zip(["of what is sent to it is lost", "of what it sends is lost"]) {
        assert_eq!(health["state"], "degraded", "{health:#}");
        assert!(health["reason"].as_str().is_some_and(|reason| reason.contains(words)), "{health:#}");
    }
    // What was lost last shows when something comes behind it.
    let mut last = String::new();
    let settled = eventually("the loss to be told as it was", Duration::from_secs(25), || {
        let (told, counted) = (peer(mumbai)?["health"].clone(), dropped(pair)?);
        let of_ohio = peer(ohio)?["health"].clone();
        let lost = count(&told, "received", "lost") - count(&before[1], "received", "lost");
        let lost_there = count(&of_ohio, "sent", "lost") - count(&before[0], "sent", "lost");
        last = format!("{lost} and {lost_there} lost, {counted} dropped, of {packets}");
        let allowed = packets / 10_000;
        let agrees = |lost: u64| counted > 0 && lost.abs_diff(counted) <= allowed;
        Ok((agrees(lost) && agrees(lost_there)).then_some(()))
    });
    println!("{last}");
    settled.map_err(|error| format!("{error}: {last}"))?;
    for (node, direction) in [(ohio, "received"), (mumbai, "sent")] {
        let health = health(node)?;
        assert_eq!(count(&health, direction, "lost"), 0, "{health:#}");
    }
    Ok(())
}

/// A ping each 10 ms, as long as it lives.
fn traffic(pair: &Pair) -> Outcome<Background> {
    Ok(pair.ohio.spawn_as_root(["ping", "-q", "-i", "0.01", "10.4.0.2"])?)
}

fn noticed(make: impl Fn() -> Outcome<Pair>, with_traffic: bool, end: impl Fn(&Pair) -> Outcome) -> Outcome {
    let mut last = Duration::MAX;
    for _ in 0..TRIES {
        let pair = make()?;
        up(&pair)?;
        let running = with_traffic.then(|| traffic(&pair)).transpose()?;
        if with_traffic {
            let before = peer(pair.lab.ohio())?["rxPackets"].as_u64();
            eventually("traffic", Duration::from_secs(5), || {
                Ok((peer(pair.lab.ohio())?["rxPackets"].as_u64() > before.map(|before| before + 20)).then_some(()))
            })?;
        }
        let start = Instant::now();
        end(&pair)?;
        let (time, health) = eventually("the peer to be down", Duration::from_secs(10), || {
            let health = peer(pair.lab.ohio())?["health"].clone();
            Ok((health["state"] == "down").then(|| (start.elapsed(), health)))
        })?;
        drop(running);
        println!("down after {time:?}: {}", health["reason"]);
        let reason = health["reason"].as_str().unwrap_or_default();
        assert!(
            reason.starts_with("no answer since ") && reason.contains("outer packets leave, none come back"),
            "{health:#}"
        );
        last = time;
        if time <= NOTICED_WITHIN {
            return Ok(());
        }
    }
    Err(format!("it took {last:?}, {TRIES} times more than {NOTICED_WITHIN:?}").into())
}

/// Looks at both ends until `end`; neither may be down for a moment.
fn never_down(pair: &Pair, end: Instant) -> Outcome<u64> {
    let mut looks = 0;
    while Instant::now() < end {
        for node in [pair.lab.ohio(), pair.lab.mumbai()] {
            let health = health(node)?;
            assert!(health["state"] == "up" || health["state"] == "degraded", "{health:#}");
        }
        looks += 1;
        thread::sleep(LOOK);
    }
    Ok(looks)
}

fn stopped() -> Outcome {
    let pair = plain(&json!({ "probe": { "interval": "200ms" } }))?;
    up(&pair)?;
    let _running = traffic(&pair)?;
    let ohio = pair.lab.ohio();
    let pid = Pid::from_raw(ohio.agent_pid().ok_or("no agent runs")?);
    let before = health(ohio)?["sinceMs"].as_u64();
    let stopped_at = Instant::now();
    kill(pid, Signal::SIGSTOP)?;
    thread::sleep(Duration::from_secs(5));
    kill(pid, Signal::SIGCONT)?;
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        let health = health(ohio)?;
        assert_eq!(health["state"], "up", "{health:#}");
        thread::sleep(LOOK);
    }
    // It has not been anything else in between either.
    let since = health(ohio)?["sinceMs"].as_u64();
    let passed = u64::try_from(stopped_at.elapsed().as_millis())?;
    assert!(since >= before.map(|before| before + passed - 500), "{before:?}, {since:?}, {passed}");
    Ok(())
}

fn busy(time: Duration) -> Outcome {
    let pair = plain(&json!({ "probe": { "interval": "200ms" } }))?;
    up(&pair)?;
    let _running = traffic(&pair)?;
    let niceness = env::var("ADIT_SOAK_NICENESS").unwrap_or_else(|_| "0".into());
    let hog = ["nice", "-n", &niceness, "sh", "-c", "while :; do :; done"];
    let hogs = (0..8).map(|_| pair.ohio.spawn(hog)).collect::<adit_lab::Result<Vec<_>>>()?;
    let looks = never_down(&pair, Instant::now() + time)?;
    for (name, node) in [("ohio", pair.lab.ohio()), ("mumbai", pair.lab.mumbai())] {
        println!("{name}: {looks} looks in {time:?}, never down: {}", health(node)?);
    }
    drop(hogs);
    Ok(())
}
