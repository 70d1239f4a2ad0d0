//! Processes by pid and start time, so that a pid that was used again is never mistaken for the one that was meant.

use std::{
    fs,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use serde::{Deserialize, Serialize};

/// A process: its pid, and when it started (clock ticks since boot, proc(5) `stat` field 22).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessMark {
    /// Process id.
    pub pid: i32,
    /// Start time in clock ticks.
    pub start_ticks: u64,
}

impl ProcessMark {
    /// The process that has this pid now; `None` if there is none, or only its zombie.
    #[must_use]
    pub fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field is the program's name in parentheses and may contain anything.
        let mut fields = stat.get(stat.rfind(')')?..)?.split_ascii_whitespace().skip(1);
        if matches!(fields.next()?, "Z" | "X") {
            return None;
        }
        let start_ticks = fields.nth(18)?.parse().ok()?;
        Some(Self { pid, start_ticks })
    }

    /// The calling process.
    #[must_use]
    pub fn own() -> Option<Self> {
        Self::of(i32::try_from(std::process::id()).ok()?)
    }

    /// Whether it lives.
    #[must_use]
    pub fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    fn handle(self) -> Option<OwnedFd> {
        let handle = pidfd_open(Pid::from_raw(self.pid)?, PidfdFlags::empty()).ok()?;
        // The descriptor is of this very process only if the start time still fits after it was opened.
        self.is_alive().then_some(handle)
    }
}

/// Ends processes: SIGTERM first, SIGKILL for what is left after `patience`. Returns those that live on.
pub(crate) fn end_all(processes: &[ProcessMark], patience: Duration) -> Vec<ProcessMark> {
    for (signal, patience) in [(Signal::TERM, patience), (Signal::KILL, Duration::from_secs(3))] {
        let handles: Vec<OwnedFd> = processes.iter().filter_map(|process| process.handle()).collect();
        for handle in &handles {
            // It may have ended meanwhile.
            let _ = pidfd_send_signal(handle, signal);
        }
        let deadline = Instant::now().checked_add(patience);
        for handle in &handles {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())).unwrap_or_default();
            // Interrupted or not: whoever still lives gets the next signal.
            let _ = poll(&mut [PollFd::new(handle, PollFlags::IN)], Timespec::try_from(left).ok().as_ref());
        }
    }
    processes.iter().copied().filter(|process| process.is_alive()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_process_is_known_by_pid_and_start_time() {
        let own = ProcessMark::own().unwrap();
        assert!(own.is_alive());
        assert!(!ProcessMark { start_ticks: own.start_ticks + 1, ..own }.is_alive());
    }

    #[test]
    fn a_process_that_ignores_sigterm_is_killed() {
        let mut child = Command::new("sh").args(["-c", "trap '' TERM; while :; do sleep 1; done"]).spawn().unwrap();
        let mark = ProcessMark::of(i32::try_from(child.id()).unwrap()).unwrap();
        assert!(end_all(&[mark], Duration::from_millis(100)).is_empty());
        child.wait().unwrap();
    }
}
