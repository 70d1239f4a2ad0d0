//! What the node's kernel can do. What is a module that is not loaded is looked up, and not asked for: that would load it.

use std::{collections::HashSet, fs};

use adit_net::{Netlink, Nftables, feature};

use super::{Line, Verdict};

const SUBJECT: &str = "kernel";

/// Where the modules of the node are, as its first process sees it, and as a container does.
const MODULES: [&str; 2] = ["/proc/1/root/lib/modules", "/lib/modules"];

/// One feature: the module that has it, how the kernel is asked for it, what is impossible without.
struct Feature {
    module: &'static str,
    ask: fn(&Netlink) -> adit_net::Result<()>,
    without: &'static str,
}

const FEATURES: [Feature; 5] = [
    Feature {
        module: "bridge",
        ask: |kernel| kernel.require_link_kind("bridge"),
        without: "networks of the type bridge are impossible here",
    },
    Feature {
        module: "macvlan",
        ask: |kernel| kernel.require_link_kind("macvlan"),
        without: "networks of the type macvlan are impossible here",
    },
    Feature { module: "vxlan", ask: Netlink::require_vxlan, without: "encap vxlan is impossible here" },
    Feature {
        module: "wireguard",
        ask: Netlink::require_wireguard,
        without: "encap wireguard is the agent's here, engine kernel is impossible",
    },
    Feature {
        module: "nf_tables",
        ask: |_| Nftables::open()?.generation().map(drop),
        without: "ipMasq of a bridge needs the backend iptables here",
    },
];

/// What is there, what can be loaded, and what is impossible without the rest.
pub fn features(release: &str) -> Vec<Line> {
    // That netlink does not answer is said elsewhere.
    let Ok(kernel) = Netlink::open() else { return Vec::new() };
    let on_disk = loadable(release);
    let (mut here, mut later, mut lines) = (Vec::new(), Vec::new(), Vec::new());
    for Feature { module, ask, without } in FEATURES {
        let is_loaded = fs::exists(format!("/sys/module/{module}")).unwrap_or_default();
        if on_disk.contains(module) && !is_loaded {
            later.push(module);
            continue;
        }
        match ask(&kernel) {
            Ok(()) => here.push(module),
            Err(error) => lines.push(Line::new(Verdict::Note, SUBJECT, error.to_string(), without)),
        }
    }
    match feature::require_udp_offload() {
        Ok(()) => here.push("UDP segmentation and merging"),
        Err(error) => lines.push(Line::new(Verdict::Note, SUBJECT, error.to_string(), "tunnels are slower without")),
    }
    for (names, what) in [(later, "can be loaded when needed"), (here, "there")] {
        if !names.is_empty() {
            lines.insert(0, Line::ok(SUBJECT, format!("{what}: {}", names.join(", "))));
        }
    }
    lines
}

/// The names of the modules that are not built in.
fn loadable(release: &str) -> HashSet<String> {
    let lists = MODULES.iter().filter_map(|root| fs::read_to_string(format!("{root}/{release}/modules.dep")).ok());
    lists.take(1).flat_map(|list| list.lines().filter_map(name).collect::<Vec<_>>()).collect()
}

/// Of a line of modules.dep: `kernel/net/bridge/bridge.ko.xz: kernel/net/802/stp.ko.xz`.
fn name(line: &str) -> Option<String> {
    let (path, _) = line.split_once(':')?;
    let (name, _) = path.rsplit('/').next()?.split_once(".ko")?;
    Some(name.replace('-', "_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_found_in_the_list_of_the_kernel() {
        let line = "kernel/net/bridge/bridge.ko.xz: kernel/net/802/stp.ko.xz kernel/net/llc/llc.ko.xz";
        assert_eq!(name(line).as_deref(), Some("bridge"));
        assert_eq!(name("kernel/net/nf-tables.ko:").as_deref(), Some("nf_tables"));
        assert_eq!(name("nonsense"), None);
    }

    #[test]
    fn every_feature_is_told_of_once() {
        let said: String = features("none").iter().map(|line| format!("{line}\n")).collect();
        for feature in FEATURES {
            let name = if feature.module == "nf_tables" { "nf" } else { feature.module };
            assert!(said.contains(name), "{name}: {said}");
        }
    }
}
