//! The agent's process: what it may have, and what it has.

use std::{fs, os::unix::net::UnixStream, path::Path};

use adit_tunnel::protocol::SOCKET_NAME;
use rustix::net::sockopt::socket_peercred;

use super::{Line, Verdict};

/// Two descriptors a tunnel, and some of its own: room for a hundred tunnels more.
const COMFORTABLE_ROOM: u64 = 200;

/// Its limits; nothing where no agent answers, or where it is in a room that cannot be seen from here.
pub fn limits(run_dir: &Path) -> Vec<Line> {
    let owner = UnixStream::connect(run_dir.join(SOCKET_NAME)).ok().and_then(|socket| socket_peercred(&socket).ok());
    let Some(owner) = owner else { return Vec::new() };
    let process = Path::new("/proc").join(owner.pid.as_raw_nonzero().to_string());
    let read = |file: &str| fs::read_to_string(process.join(file)).unwrap_or_default();
    if read("comm").trim() != "aditd" {
        return Vec::new();
    }
    let open = fs::read_dir(process.join("fd")).map(|entries| u64::try_from(entries.count()).unwrap_or(u64::MAX)).ok();
    let limit = soft_limit(&read("limits"), "Max open files");
    let descriptors = open.zip(limit).map(|(open, limit)| descriptors(open, limit));
    let is_swapping = fs::read_to_string("/proc/swaps").unwrap_or_default().lines().count() > 1;
    let memory = locked_kib(&read("status")).map(|locked| memory(locked, is_swapping));
    descriptors.into_iter().chain(memory).collect()
}

fn descriptors(open: u64, limit: u64) -> Line {
    let what = format!("{open} of {limit} descriptors are open");
    if limit.saturating_sub(open) >= COMFORTABLE_ROOM {
        return Line::ok("agent", what);
    }
    Line::new(Verdict::Warn, "agent", what, "two a tunnel: raise LimitNOFILE of its service")
}

fn memory(locked_kib: u64, is_swapping: bool) -> Line {
    if locked_kib > 0 {
        return Line::ok("agent", format!("{locked_kib} KiB of its memory are locked: no key is swapped to disk"));
    }
    let remedy = "set LimitMEMLOCK=infinity for its service, or have no swap";
    match is_swapping {
        true => Line::new(Verdict::Warn, "agent", "its memory may be swapped to disk, with keys in it", remedy),
        false => Line::ok("agent", "its memory is not locked, and the node has no swap"),
    }
}

/// Of /proc/PID/limits: name, soft limit, hard limit, unit, in columns.
fn soft_limit(limits: &str, name: &str) -> Option<u64> {
    limits.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

/// Of /proc/PID/status.
fn locked_kib(status: &str) -> Option<u64> {
    status.lines().find_map(|line| line.strip_prefix("VmLck:"))?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_as_the_kernel_writes_them() {
        let limits = fs::read_to_string("/proc/self/limits").unwrap();
        assert!(soft_limit(&limits, "Max open files").is_some_and(|limit| limit > 0), "{limits}");
        assert_eq!(soft_limit(&limits, "Max nothing"), None);
        assert!(locked_kib(&fs::read_to_string("/proc/self/status").unwrap()).is_some());
    }

    #[test]
    fn an_agent_at_its_limit_and_keys_on_a_disk_are_warned_of() {
        assert_eq!(descriptors(20, 1024).verdict, Verdict::Ok);
        assert_eq!(descriptors(1000, 1024).verdict, Verdict::Warn);
        let verdicts =
            [(8, true), (8, false), (0, true), (0, false)].map(|(locked, swap)| memory(locked, swap).verdict);
        assert_eq!(verdicts, [Verdict::Ok, Verdict::Ok, Verdict::Warn, Verdict::Ok]);
    }
}
