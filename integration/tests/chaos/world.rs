//! The model: what there should be, beside the lab in which it is.

use std::{fmt::Write as _, net::IpAddr};

use adit_integration::{
    disk::SmallDisk,
    sealed::{Format, KeyPair, install_key, sealed_tun},
    tunnels::{Family, annotation, list, net1, outer, tun, with},
};
use adit_lab::{Attachment, Lab, LabSpec, Nad, Node, Pod};
use serde_json::json;

use crate::{Outcome, ear::Ear};

/// Pairs of pods, one in each cluster.
pub const PAIRS: usize = 3;
/// The pair whose tunnel is sealed; the others' are plain.
pub const SEALED: usize = 1;
/// Both ends' inner addresses, in every pair.
pub const INSIDE: [&str; 2] = ["10.4.0.1", "10.4.0.2"];
const FIRST_HOST: u8 = 200;

/// A pod that is there.
pub struct End {
    // Goes before the pod does.
    pub ear: Ear,
    pub pod: Pod,
    /// How often its link should have lost or got its carrier.
    pub carrier_changes: u64,
}

/// Why packets of some pairs do not pass. Pairs are numbered from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// The router between drops everything.
    All,
    /// The link between two routers is down.
    Link,
    /// The router between drops what this pair sends to each other.
    Pair(usize),
    /// It drops what this pair's pod in Ohio sends.
    ToMumbai(usize),
    /// It drops what this pair's pod in Mumbai sends.
    ToOhio(usize),
}

pub struct World {
    /// By pair, then by node.
    pub ends: [[Option<End>; 2]; PAIRS],
    /// Which node's agent runs.
    pub agents: [bool; 2],
    pub cut: Option<Cut>,
    /// Which node's run directory has no room.
    pub full: [bool; 2],
    /// Host number behind which the sealed pair's pod in Ohio appears.
    pub mapped: Option<u8>,
    /// IPv4 routes that go with the link, while it is down.
    pub lost_routes: Vec<String>,
    /// Messages that deleted pods have heard.
    pub heard_before: u64,
    keys: [KeyPair; 2],
    // Before the lab: it is mounted in its directories.
    pub disks: [SmallDisk; 2],
    pub lab: Lab,
}

impl World {
    /// Everything is there and works.
    pub fn up() -> Outcome<Self> {
        let lab = Lab::build(&LabSpec::two_clusters(Attachment::Bridge))?;
        let keys = [KeyPair::new()?, KeyPair::new()?];
        let nodes = [lab.ohio(), lab.mumbai()];
        for (node, key) in nodes.iter().zip(&keys) {
            install_key(node, "default", "tunnel.key", &key.private)?;
        }
        let disks = [SmallDisk::over(nodes[0].run_dir())?, SmallDisk::over(nodes[1].run_dir())?];
        for node in nodes {
            node.start_agent()?;
        }
        let mut world = Self {
            ends: Default::default(),
            agents: [true; 2],
            cut: None,
            full: [false; 2],
            mapped: None,
            lost_routes: Vec::new(),
            heard_before: 0,
            keys,
            disks,
            lab,
        };
        for pair in 0..PAIRS {
            for side in 0..2 {
                let pod = world.attach(pair, side)?;
                world.put(pair, side, pod)?;
            }
        }
        Ok(world)
    }

    pub fn node(&self, side: usize) -> &Node {
        if side == 0 { self.lab.ohio() } else { self.lab.mumbai() }
    }

    pub fn host(pair: usize) -> u8 {
        FIRST_HOST + u8::try_from(pair).unwrap_or_default()
    }

    pub fn outside(&self, pair: usize, side: usize) -> IpAddr {
        outer(self.node(side), Family::V4, Self::host(pair))
    }

    /// ADD of this end, by a runtime, with nothing written down.
    pub fn attach(&self, pair: usize, side: usize) -> adit_lab::Result<Pod> {
        let (network, node) = (format!("pair-{pair}"), self.node(side));
        let networks = annotation(&network, node, Self::host(pair));
        node.pod(&format!("{}-{pair}", node.cluster())).attach(self.definition(&network, pair, side), &networks)
    }

    fn definition(&self, network: &str, pair: usize, side: usize) -> Nad {
        let (remote, inner) = (self.outside(pair, 1 - side), format!("{}/30", INSIDE[side]));
        let own = if pair == SEALED {
            let sealed = sealed_tun(Format::Noise, Family::V4, Some(remote), &self.keys[1 - side].public, &inner);
            with(sealed, &json!({ "privateKeyFile": "tunnel.key" }))
        } else {
            tun(remote, &inner)
        };
        list(network, &[net1(&self.lab, self.node(side)), own])
    }

    /// Writes down that this end is there.
    pub fn put(&mut self, pair: usize, side: usize, pod: Pod) -> Outcome {
        let name = |side: usize| format!("{} {pair}", ["ohio", "mumbai"][side]);
        let ear = Ear::open(&pod, name(side), name(1 - side), INSIDE[1 - side])?;
        let carrier_changes = carrier_changes(&pod)?;
        self.ends[pair][side] = Some(End { ear, pod, carrier_changes });
        Ok(())
    }

    /// An agent came or went: each of its pods' links got or lost its carrier.
    pub fn agent_is(&mut self, side: usize, runs: bool) {
        self.agents[side] = runs;
        for end in self.ends.iter_mut().filter_map(|pair| pair[side].as_mut()) {
            end.carrier_changes += 1;
        }
    }

    pub fn pods_of(&self, side: usize) -> usize {
        self.ends.iter().filter(|pair| pair[side].is_some()).count()
    }

    /// Whether packets of this pair can pass both ways.
    pub fn can_be_up(&self, pair: usize) -> bool {
        let cut = match self.cut {
            None => false,
            Some(Cut::All | Cut::Link) => true,
            Some(Cut::Pair(of) | Cut::ToMumbai(of) | Cut::ToOhio(of)) => of == pair,
        };
        !cut && self.agents == [true; 2] && self.ends[pair].iter().all(Option::is_some)
    }

    pub fn heard_in_all(&self) -> u64 {
        self.ends.iter().flatten().flatten().map(|end| end.ear.heard()).sum::<u64>() + self.heard_before
    }

    /// For whoever reads a failure.
    pub fn describe(&self) -> String {
        let there: Vec<[bool; 2]> = self.ends.iter().map(|pair| [pair[0].is_some(), pair[1].is_some()]).collect();
        let mut text = format!(
            "pods {there:?}, agents {:?}, cut {:?}, full {:?}, mapped to {:?}",
            self.agents, self.cut, self.full, self.mapped
        );
        for side in 0..2 {
            let node = self.node(side);
            let log = node.agent_log();
            let lines: Vec<&str> = log.lines().collect();
            let last = lines.get(lines.len().saturating_sub(12)..).unwrap_or_default().join("\n");
            let _ = write!(text, "\n{}'s log ends with:\n{last}", node.name());
        }
        text
    }
}

/// How often the link of this pod has lost or got its carrier.
pub fn carrier_changes(pod: &Pod) -> Outcome<u64> {
    // A view of /sys shows the devices of the namespace that it was mounted in.
    let look = "mount -t sysfs none /sys && cat /sys/class/net/tun/carrier_changes";
    Ok(pod.root(["unshare", "--mount", "sh", "-c", look])?.ok()?.stdout.trim().parse()?)
}
