//! Whose the CPU time was: a control group for each tunnel, with both its ends and both ends of the traffic.
//!
//! The kernel's own work is charged to whoever runs when it happens. What it puts off goes to `ksoftirqd`, which therefore
//! counts with the tunnel that is measured.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use adit_lab::ProcessMark;

use crate::Outcome;

const PREFIX: &str = "adit-bench";
/// Of the times in /proc/stat, on every architecture (proc(5), USER_HZ).
const TICKS_PER_SECOND: f64 = 100.0;

/// Where groups are made, and how their time is read.
#[derive(Debug, Clone)]
pub struct Accounting {
    root: PathBuf,
    version: Version,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    /// `cpuacct.usage`, in nanoseconds.
    One,
    /// `usage_usec` of `cpu.stat`, which every group of this hierarchy has.
    Two,
}

impl Accounting {
    /// The hierarchy of this machine in which groups can be made. Groups that dead runs left are removed.
    pub fn find() -> Outcome<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let mut refusals = Vec::new();
        for (version, wanted) in [(Version::Two, "cgroup2"), (Version::One, "cgroup")] {
            for mount in mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()) {
                let [_, root, kind, options, ..] = mount[..] else { continue };
                if kind != wanted || version == Version::One && !options.split(',').any(|word| word == "cpuacct") {
                    continue;
                }
                let found = Self { root: PathBuf::from(root), version };
                match found.group("trial").and_then(|group| group.usage()) {
                    Ok(_) => {
                        found.sweep();
                        return Ok(found);
                    }
                    Err(error) => refusals.push(format!("{root}: {error}")),
                }
            }
        }
        Err(format!("no control group can be made ({}), so CPU time is not measured", refusals.join("; ")).into())
    }

    /// A new group. It goes when the value is dropped.
    pub fn group(&self, name: &str) -> Outcome<Group> {
        let directory = self.root.join(format!("{PREFIX}-{}-{name}", std::process::id()));
        match fs::create_dir(&directory) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error.into()),
            _ => Ok(Group { directory, version: self.version }),
        }
    }

    /// How the report calls it.
    pub fn name(&self) -> &'static str {
        match self.version {
            Version::One => "cgroup v1, cpuacct.usage",
            Version::Two => "cgroup v2, usage_usec of cpu.stat",
        }
    }

    fn sweep(&self) {
        for entry in fs::read_dir(&self.root).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let owner =
                name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.trim_start_matches('-').split('-').next());
            if owner.and_then(|pid| pid.parse().ok()).is_some_and(|pid| ProcessMark::of(pid).is_none()) {
                // One with processes in it stays.
                let _ = fs::remove_dir(entry.path());
            }
        }
    }
}

/// A control group.
#[derive(Debug)]
pub struct Group {
    directory: PathBuf,
    version: Version,
}

impl Group {
    /// The file that takes pids.
    pub fn members(&self) -> PathBuf {
        self.directory.join("cgroup.procs")
    }

    /// Puts a process into it.
    pub fn take(&self, pid: u32) -> Outcome {
        Ok(fs::write(self.members(), pid.to_string())?)
    }

    /// CPU time of everything that was ever in it.
    pub fn usage(&self) -> Outcome<Duration> {
        if self.version == Version::One {
            let text = fs::read_to_string(self.directory.join("cpuacct.usage"))?;
            return Ok(Duration::from_nanos(text.trim().parse()?));
        }
        let text = fs::read_to_string(self.directory.join("cpu.stat"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("usage_usec "));
        Ok(Duration::from_micros(line.ok_or("cpu.stat has no usage_usec")?.trim().parse()?))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // A group whose last process has not been reaped yet goes with the next run.
        let _ = fs::remove_dir(&self.directory);
    }
}

/// The machine's times at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    at: Instant,
    busy: Duration,
    ksoftirqd: Duration,
    group: Option<Duration>,
}

/// What was spent between two moments.
#[derive(Debug, Clone, Copy)]
pub struct Spent {
    /// By the group and `ksoftirqd`; `None` where groups cannot be had.
    pub own: Option<Duration>,
    /// By everybody else, as a share of all CPUs; the hypervisor's other guests count.
    pub other: f64,
}

impl Moment {
    pub fn now(group: Option<&Group>) -> Outcome<Self> {
        let group = group.map(Group::usage).transpose()?;
        Ok(Self { at: Instant::now(), busy: busy()?, ksoftirqd: ksoftirqd()?, group })
    }

    pub fn until(&self, later: &Self) -> Outcome<Spent> {
        let softirq = later.ksoftirqd.saturating_sub(self.ksoftirqd);
        let own = self.group.zip(later.group).map(|(before, after)| after.saturating_sub(before) + softirq);
        let busy = later.busy.saturating_sub(self.busy).as_secs_f64();
        let cpus = std::thread::available_parallelism()?.get() as f64;
        let wall = later.at.duration_since(self.at).as_secs_f64().max(1e-9);
        let other = (busy - own.unwrap_or_default().as_secs_f64()) / (wall * cpus);
        Ok(Spent { own, other: if own.is_some() { other.clamp(0.0, 1.0) } else { f64::NAN } })
    }
}

/// All CPUs' time that was not idle.
fn busy() -> Outcome<Duration> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().unwrap_or_default();
    let ticks: Vec<f64> = line.split_ascii_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; guest times are in the first two already.
    let busy: f64 = ticks.iter().take(8).enumerate().filter(|(index, _)| !matches!(index, 3 | 4)).map(|(_, t)| t).sum();
    Ok(Duration::from_secs_f64(busy / TICKS_PER_SECOND))
}

fn ksoftirqd() -> Outcome<Duration> {
    static PIDS: std::sync::OnceLock<Vec<PathBuf>> = std::sync::OnceLock::new();
    let processes = PIDS.get_or_init(|| {
        let all = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
        all.filter(|path| fs::read_to_string(path.join("comm")).is_ok_and(|name| name.starts_with("ksoftirqd/")))
            .collect()
    });
    processes.iter().map(|path| thread_time(path)).sum()
}

/// CPU time of a thread (/proc/PID or /proc/PID/task/TID), from the scheduler's own counter.
pub fn thread_time(directory: &Path) -> Outcome<Duration> {
    let text = fs::read_to_string(directory.join("schedstat"))?;
    Ok(Duration::from_nanos(text.split(' ').next().unwrap_or_default().parse()?))
}
