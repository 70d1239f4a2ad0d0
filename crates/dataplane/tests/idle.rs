//! An idle engine costs nothing. Alone in its process, because it counts what all packet threads do.
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

use adit_dataplane::Engine;
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
