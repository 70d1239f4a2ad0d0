//! Everything that an attachment may touch, as lines that can be compared.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use adit_lab::{COMMAND_DEADLINE, Namespace, Node, Result, run};
use adit_net::sysctl;

/// What `ip` lists.
const LISTS: [(&str, &str); 2] =
    [("-o", "link show\naddress show\nroute show table all\nrule show\n"), ("-6", "route show table all\nrule show\n")];
/// What comes and goes by itself.
const PASSING: [&str; 5] = ["fe80:", "ff00::/8", "anycast", "multicast", " 224."];
const STATES: [&str; 9] = [
    "NO-CARRIER,",
    ",LOWER_UP",
    "LOWER_UP",
    " linkdown",
    "state UP ",
    "state DOWN ",
    "state UNKNOWN ",
    "state LOWERLAYERDOWN ",
    " tentative",
];
const NODE_SYSCTLS: [&str; 2] = ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"];
const LINK_SYSCTLS: [&str; 6] = [
    "net/ipv6/conf/{}/accept_ra",
    "net/ipv6/conf/{}/accept_dad",
    "net/ipv6/conf/{}/disable_ipv6",
    "net/ipv6/conf/{}/addr_gen_mode",
    "net/ipv4/conf/{}/arp_notify",
    "net/ipv4/conf/{}/route_localnet",
];

/// Links with their aliases, addresses, routes, rules, kernel parameters, packet filters of node and pod; files of the
/// run directory; descriptors of the agent. Interface numbers and hardware addresses are left out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Picture {
    lines: BTreeSet<String>,
}

impl Picture {
    /// A look at a node and one of its pods. Kernel parameters are those of `links` and the namespace's own.
    pub fn of(node: &Node, pod: &Namespace, links: &[&str]) -> Result<Self> {
        let mut lines = BTreeSet::new();
        network("node", node, links, &mut lines)?;
        network("pod", pod, &["lo", "default"], &mut lines)?;
        files(node.run_dir(), node.run_dir(), &mut lines);
        if node.agent_pid().is_some() {
            let open = node.agent_fds()?;
            lines.insert(format!("agent has {} tun, {} udp", open.tun, open.udp));
        }
        Ok(Self { lines })
    }

    /// Only the lines that `keep` likes.
    pub fn only(&self, keep: impl Fn(&str) -> bool) -> Self {
        Self { lines: self.lines.iter().filter(|line| keep(line)).cloned().collect() }
    }

    /// What is different in `later`; `None` when nothing is.
    pub fn difference(&self, later: &Self) -> Option<String> {
        let gone = self.lines.difference(&later.lines).map(|line| format!("    - {line}"));
        let new = later.lines.difference(&self.lines).map(|line| format!("    + {line}"));
        let all: Vec<String> = gone.chain(new).collect();
        (!all.is_empty()).then(|| all.join("\n"))
    }
}

fn network(place: &str, namespace: &Namespace, links: &[&str], lines: &mut BTreeSet<String>) -> Result<()> {
    namespace.run_inside(|| {
        for (option, list) in LISTS {
            let mut ip = Command::new("ip");
            ip.args([option, "-batch", "-"]);
            let listed = run(ip, Some(list.as_bytes()), COMMAND_DEADLINE)?.ok()?.stdout;
            let lasting = listed.lines().filter(|line| !PASSING.iter().any(|part| line.contains(part)));
            lines.extend(lasting.map(|line| format!("{place}: {}", stable(line))));
        }
        let keys = NODE_SYSCTLS.map(str::to_owned).into_iter();
        let keys = keys.chain(links.iter().flat_map(|link| LINK_SYSCTLS.map(|key| key.replace("{}", link))));
        for key in keys {
            if let Ok(Some(value)) = sysctl::get(&key) {
                lines.insert(format!("{place}: {key} = {value}"));
            }
        }
        let mut nft = Command::new("nft");
        nft.args(["--stateless", "list", "ruleset"]);
        let mut context = Vec::new();
        for line in run(nft, None, COMMAND_DEADLINE)?.ok()?.stdout.lines().map(str::trim) {
            // Elements in one line each: what is left shows as that one.
            for part in line.split(", ") {
                lines.insert(format!("{place}: nft {} {part}", context.join(" ")));
            }
            if line.ends_with('{') && !line.contains("elements") {
                context.push(line.trim_end_matches(" {").to_owned());
            } else if line == "}" {
                context.pop();
            }
        }
        if fs::read_to_string("/proc/self/net/ip_tables_names").is_ok_and(|names| names.contains("nat")) {
            let save = run(Command::new("iptables-legacy-save"), None, COMMAND_DEADLINE)?.ok()?.stdout;
            lines.extend(
                save.lines().filter(|line| line.starts_with('-')).map(|line| format!("{place}: iptables {line}")),
            );
        }
        Ok(())
    })?
}

/// Without interface number, hardware address, and what follows the carrier.
fn stable(line: &str) -> String {
    let line = line.split_once(": ").filter(|(number, _)| number.parse::<u32>().is_ok()).map_or(line, |(_, rest)| rest);
    let line = STATES.iter().fold(line.replace('\\', " "), |line, state| line.replace(state, ""));
    let mut words: Vec<&str> = line.split_whitespace().collect();
    if let Some(kind) = words.iter().position(|word| *word == "link/ether") {
        words.drain(kind..(kind + 2).min(words.len()));
    }
    words.join(" ")
}

fn files(root: &Path, directory: &Path, lines: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
        if path.is_dir() {
            files(root, &path, lines);
        } else if !name.ends_with(".lock") {
            lines.insert(format!("file {name}"));
        }
    }
}
