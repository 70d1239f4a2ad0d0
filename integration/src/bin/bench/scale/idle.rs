//! What an agent does that has nothing to do.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use crate::{Outcome, tunnel::account::thread_time};

/// CPU time and context switches of all threads of a process, while it was watched.
#[derive(Debug, Clone, Copy)]
pub struct Idle {
    pub cpu_percent: f64,
    /// Voluntary and involuntary.
    pub wake_ups_per_second: f64,
}

impl Idle {
    pub fn watch(pid: u32, time: Duration) -> Outcome<Self> {
        let (begun, before) = (Instant::now(), Look::at(pid)?);
        thread::sleep(time);
        let (seconds, after) = (begun.elapsed().as_secs_f64(), Look::at(pid)?);
        // A thread that came meanwhile counts from its start; one that went is not seen, and the agent's do not go so soon.
        let (mut cpu, mut switches) = (0.0, 0.0);
        for (thread, (time, count)) in &after.threads {
            let (time_before, count_before) = before.threads.get(thread).copied().unwrap_or_default();
            cpu += time.saturating_sub(time_before).as_secs_f64();
            switches += count.saturating_sub(count_before) as f64;
        }
        Ok(Self { cpu_percent: cpu / seconds * 100.0, wake_ups_per_second: switches / seconds })
    }
}

/// Threads with their CPU time and context switches.
struct Look {
    threads: BTreeMap<PathBuf, (Duration, u64)>,
}

impl Look {
    fn at(pid: u32) -> Outcome<Self> {
        let mut threads = BTreeMap::new();
        for entry in fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
            let status = fs::read_to_string(entry.path().join("status"))?;
            let count = |name: &str| -> u64 {
                let line = status.lines().find_map(|line| line.strip_prefix(name));
                line.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
            };
            let switches = count("voluntary_ctxt_switches:") + count("nonvoluntary_ctxt_switches:");
            threads.insert(entry.path(), (thread_time(&entry.path())?, switches));
        }
        Ok(Self { threads })
    }
}
