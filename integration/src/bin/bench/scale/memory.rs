//! What tunnels take, in the agent and in the kernel.

use std::fs;

use crate::{Outcome, tunnel::process::Process};

/// Memory at one moment, in KiB.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// Of each agent.
    pub resident_kib: [f64; 2],
    /// What neither a program nor a cache has: all of the kernel's, and some of what other programs make it keep.
    unaccounted_kib: f64,
    /// Slab that cannot be given back, and per-CPU memory.
    slab_kib: f64,
}

/// What each end of a tunnel took.
#[derive(Debug, Clone, Copy)]
pub struct Grown {
    pub user_kib: f64,
    pub slab_kib: f64,
    pub unaccounted_kib: f64,
}

impl Memory {
    pub fn now(agents: &[Process; 2]) -> Outcome<Self> {
        let resident = |agent: &Process| agent.resident_kib().map(|kib| kib as f64).ok_or("an agent has ended");
        let text = fs::read_to_string("/proc/meminfo")?;
        let line = |name: &str| -> Outcome<f64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            Ok(line.ok_or_else(|| format!("/proc/meminfo has no {name}"))?.trim().trim_end_matches(" kB").parse()?)
        };
        // Other programs' own memory and files come and go without moving this.
        let others = ["MemFree", "Buffers", "Cached", "SwapCached", "AnonPages", "SReclaimable"];
        let known: f64 = others.iter().map(|name| line(name)).sum::<Outcome<f64>>()?;
        Ok(Self {
            resident_kib: [resident(&agents[0])?, resident(&agents[1])?],
            unaccounted_kib: line("MemTotal")? - known,
            slab_kib: line("SUnreclaim")? + line("Percpu")?,
        })
    }

    /// By how much it has grown since `before`, for each end of so many tunnels.
    pub fn since(&self, before: &Self, tunnels: usize) -> Grown {
        let ends = 2.0 * tunnels as f64;
        let sum = |memory: &Self| memory.resident_kib.iter().sum::<f64>();
        Grown {
            user_kib: (sum(self) - sum(before)) / ends,
            slab_kib: (self.slab_kib - before.slab_kib) / ends,
            unaccounted_kib: (self.unaccounted_kib - before.unaccounted_kib) / ends,
        }
    }
}
