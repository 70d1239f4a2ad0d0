//! The node: its kernel, the agent, the keys.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
};

use adit_net::Netlink;
use adit_tunnel::{Error, Record, protocol::TunnelStatus};

use super::{Line, Verdict, features::features};

/// What no tunnel can do without, and what some need.
pub fn kernel() -> Vec<Line> {
    const SUBJECT: &str = "kernel";
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    let mut lines = vec![if is_at_least(release, (5, 10)) {
        Line::ok(SUBJECT, format!("Linux {release}"))
    } else {
        Line::new(Verdict::Warn, SUBJECT, format!("Linux {release}"), "tried with 5.10 and later: update it")
    }];
    lines.push(if Path::new("/dev/net/tun").exists() {
        Line::ok(SUBJECT, "/dev/net/tun is there")
    } else {
        Line::new(Verdict::Fail, SUBJECT, "there is no /dev/net/tun", "modprobe tun; in a container, mount the device")
    });
    lines.push(match Netlink::open().and_then(|netlink| netlink.links()) {
        Ok(_) => Line::ok(SUBJECT, "netlink answers"),
        Err(error) => {
            Line::new(Verdict::Fail, SUBJECT, error.to_string(), "run this as root, in the node's own namespace")
        }
    });
    let filters = fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default();
    lines.push(if filters.contains("errno") {
        Line::ok(SUBJECT, "seccomp filters are there")
    } else {
        let remedy = "the agent does not start without: a kernel with CONFIG_SECCOMP_FILTER";
        Line::new(Verdict::Fail, SUBJECT, "there are no seccomp filters", remedy)
    });
    lines.extend(features(release));
    lines
}

fn is_at_least(release: &str, wanted: (u32, u32)) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    matches!((numbers.next(), numbers.next()), (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= wanted)
}

/// Whether it answers, where it is needed.
pub fn agent(answer: &Result<Vec<TunnelStatus>, Error>, records: &[Record]) -> Line {
    match answer {
        Ok(tunnels) => Line::ok("agent", format!("answers for {} tunnels", tunnels.len())),
        Err(error) if records.iter().any(|record| record.spec.needs_agent()) => {
            // The error says what to do itself.
            Line::new(Verdict::Fail, "agent", error.to_string(), "")
        }
        Err(error) => Line::new(Verdict::Note, "agent", error.to_string(), "no tunnel of this node needs it so far"),
    }
}

/// Keys that the agent will refuse. Nothing of what is in them is read.
pub fn keys(config_dir: &Path) -> Vec<Line> {
    let directory = config_dir.join("keys");
    let namespaces = fs::read_dir(&directory).into_iter().flatten().flatten();
    let files = namespaces.flat_map(|namespace| fs::read_dir(namespace.path()).into_iter().flatten().flatten());
    let mut count: usize = 0;
    let mut lines = Vec::new();
    for file in files {
        let Ok(metadata) = file.metadata() else { continue };
        count = count.saturating_add(1);
        let mode = metadata.permissions().mode() & 0o7777;
        if !metadata.is_file() || metadata.uid() != 0 || mode & 0o077 != 0 {
            let path = file.path();
            let what = format!("{} has mode {mode:o} and belongs to user {}", path.display(), metadata.uid());
            let remedy = format!("chown root {0} && chmod 0600 {0}", path.display());
            lines.push(Line::new(Verdict::Fail, "keys", what, remedy));
        }
    }
    if lines.is_empty() {
        lines.push(Line::ok("keys", format!("{count} files in {}, all of them root's alone", directory.display())));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_compared_by_number() {
        let found =
            ["5.10.0-30-amd64", "6.1.0", "10.0", "5.9.16", "4.18.0-553.el8", ""].map(|it| is_at_least(it, (5, 10)));
        assert_eq!(found, [true, true, true, false, false, false]);
    }

    #[test]
    fn a_key_that_others_may_read_is_named_with_its_remedy() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("keys/default/ohio.key");
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, "secret").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        let [line] = <[Line; 1]>::try_from(keys(directory.path())).unwrap();
        assert_eq!(line.verdict, Verdict::Fail);
        assert!(line.to_string().contains("mode 644") && line.to_string().contains("chmod 0600"), "{line}");
        assert!(!line.to_string().contains("secret"));
    }
}
