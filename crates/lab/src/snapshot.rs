//! A picture of a namespace and of directories, to show that nothing has changed.

use std::{collections::BTreeSet, fmt, fs, path::Path};

use serde_json::Value;

use crate::{Error, Namespace, Result, observe::ip_json};

/// Links (name, kind, up, MTU, master), addresses, routes of all tables and rules; and the files of directories.
/// Left out is what changes by itself: neighbours, interface numbers, hardware addresses, counters, life times, and
/// IPv6 addresses and routes of scope link.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    lines: BTreeSet<String>,
}

/// What is in one snapshot and not in the other. Prints one line each, `- ` gone and `+ ` new.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Only in the earlier one.
    pub gone: Vec<String>,
    /// Only in the later one.
    pub new: Vec<String>,
}

impl Snapshot {
    pub(crate) fn of_namespace(namespace: &Namespace) -> Result<Self> {
        let mut lines = BTreeSet::new();
        for link in namespace.interfaces()? {
            let up = if link.has("UP") { "up" } else { "down" };
            let master = link.master.map(|master| format!(" master {master}")).unwrap_or_default();
            lines.insert(format!(
                "link {} kind {} {up} mtu {}{master}",
                link.name,
                or_none(&link.kind),
                link.mtu_bytes
            ));
        }
        for link in list(ip_json(namespace, ["address", "show"])?) {
            let device = text(&link, "ifname");
            for info in list(link.get("addr_info").cloned().unwrap_or_default()) {
                if text(&info, "scope") != "link" || text(&info, "family") == "inet" {
                    lines.insert(format!("address {}/{} dev {device}", text(&info, "local"), text(&info, "prefixlen")));
                }
            }
        }
        for family in ["-4", "-6"] {
            for route in list(ip_json(namespace, [family, "route", "show", "table", "all"])?) {
                let destination = text(&route, "dst");
                if destination.starts_with("fe80:") || destination.starts_with("ff00:") {
                    continue;
                }
                lines.insert(route_line(family, &route));
            }
            for rule in list(ip_json(namespace, [family, "rule", "show"])?) {
                lines.insert(format!("rule {family} {rule}"));
            }
        }
        Ok(Self { lines })
    }

    /// The same, with the names of all files below `directory` (and their sizes, not their times).
    ///
    /// # Errors
    /// The directory cannot be read. One that is not there has no files.
    pub fn with_files(mut self, directory: &Path) -> Result<Self> {
        files(directory, directory, &mut self.lines)?;
        Ok(self)
    }

    /// What has changed from this snapshot to a later one.
    #[must_use]
    pub fn difference(&self, later: &Self) -> Difference {
        Difference {
            gone: self.lines.difference(&later.lines).cloned().collect(),
            new: later.lines.difference(&self.lines).cloned().collect(),
        }
    }

    /// Nothing must have changed from this snapshot to a later one.
    ///
    /// # Errors
    /// Something has: the error has a line for each difference.
    pub fn unchanged(&self, later: &Self) -> Result<()> {
        let difference = self.difference(later);
        if difference.is_empty() {
            Ok(())
        } else {
            Err(Error::Unexpected(format!("something has changed:\n{difference}")))
        }
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

impl Difference {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.gone.is_empty() && self.new.is_empty()
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.gone.iter().try_for_each(|line| writeln!(f, "- {line}"))?;
        self.new.iter().try_for_each(|line| writeln!(f, "+ {line}"))
    }
}

fn route_line(family: &str, route: &Value) -> String {
    let mut line = format!("route {family}");
    for key in ["type", "dst", "gateway", "dev", "table", "prefsrc", "scope", "metric", "metrics", "encap", "nexthops"]
    {
        match route.get(key) {
            None => (),
            Some(Value::String(value)) => line.push_str(&format!(" {key} {value}")),
            Some(value) => line.push_str(&format!(" {key} {value}")),
        }
    }
    line
}

fn files(root: &Path, directory: &Path, lines: &mut BTreeSet<String>) -> Result<()> {
    if !directory.exists() {
        return Ok(());
    }
    let failed = || Error::io(format!("list {}", directory.display()));
    for entry in fs::read_dir(directory).map_err(failed())? {
        let path = entry.map_err(failed())?.path();
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
        if metadata.is_dir() {
            lines.insert(format!("file {name}/"));
            files(root, &path, lines)?;
        } else {
            lines.insert(format!("file {name}, {} bytes", metadata.len()));
        }
    }
    Ok(())
}

fn list(value: Value) -> Vec<Value> {
    match value {
        Value::Array(items) => items,
        _ => Vec::new(),
    }
}

fn text(value: &Value, key: &str) -> String {
    match value.get(key) {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => String::new(),
    }
}

fn or_none(kind: &str) -> &str {
    if kind.is_empty() { "none" } else { kind }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_reads_like_a_patch() {
        let of = |lines: &[&str]| Snapshot { lines: lines.iter().map(|line| (*line).to_owned()).collect() };
        let (before, after) = (of(&["link lo", "link veth0"]), of(&["link lo", "link cni0"]));
        assert_eq!(before.difference(&after).to_string(), "- link veth0\n+ link cni0\n");
        assert!(before.unchanged(&after).unwrap_err().to_string().contains("+ link cni0"));
        before.unchanged(&before).unwrap();
    }
}
