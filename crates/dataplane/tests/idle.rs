//! An idle engine that asks nobody costs nothing, and one that asks as much as docs/health.md says. Alone in its process, because it counts what all packet threads do.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    missing_docs,
    reason = "a test that panics has failed, as it should; the pods of the engine's tests are used in part"
)]

#[path = "engine/ends.rs"]
mod ends;

use adit_dataplane::{Engine, Probing};
use std::{fs, thread, time::Duration};

/// How often packet threads have waited for something since they were started.
fn waits() -> u64 {
    let tasks = fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
    let packet_threads =
        tasks.filter(|task| fs::read_to_string(task.join("comm")).unwrap().starts_with("adit-packets-"));
    let waits = packet_threads.map(|task| {
        let status = fs::read_to_string(task.join("status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        line.unwrap().trim().parse::<u64>().unwrap()
    });
    waits.sum()
}

#[test]
fn established_idle_tunnels_wake_nobody() {
    let engine = Engine::start(2).unwrap();
    let tunnels: Vec<_> = (0..20).map(|_| ends::tunnel(&engine)).collect();
    ends::passes(&tunnels[0]);
    thread::sleep(Duration::from_millis(200));
    let before = waits();
    assert!(before > 0);
    thread::sleep(Duration::from_secs(1));
    assert_eq!(waits(), before);
    ends::passes(&tunnels[0]);
}

/// What packet threads have used of the CPU, in ticks of 10 ms.
fn cpu_ticks() -> u64 {
    let tasks = fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
    let stats = tasks.map(|task| fs::read_to_string(task.join("stat")).unwrap());
    let packet_threads = stats.filter(|stat| stat.contains("(adit-packets-"));
    let used = packet_threads.map(|stat| {
        let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    });
    used.sum()
}

/// `cargo test --release -p adit-dataplane --test idle -- --ignored --nocapture`
#[test]
#[ignore = "a measurement: prints what 1,000 idle ends cost"]
fn cost_of_a_thousand_idle_ends() {
    let engine = Engine::start(1).unwrap();
    let tunnels: Vec<_> = (0..500).map(|_| ends::tunnel_that_asks(&engine, Probing::default())).collect();
    thread::sleep(Duration::from_secs(12));
    let asked = || {
        let of = |id| engine.stats(id).unwrap().peers[0].health.probes_sent;
        tunnels.iter().flatten().map(|end| of(end.id)).sum::<u64>()
    };
    let (waits_before, ticks_before, asked_before) = (waits(), cpu_ticks(), asked());
    thread::sleep(Duration::from_secs(60));
    let (ticks, requests) = (cpu_ticks() - ticks_before, asked() - asked_before);
    println!("1,000 idle ends, 60 s: {requests} requests, {} waits, {} ms of CPU", waits() - waits_before, ticks * 10);
    assert!((5_000..7_500).contains(&requests), "{requests}");
}
