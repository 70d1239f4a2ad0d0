//! The configurations that are killed.

use adit_integration::tunnels::{FIRST_POD, Family, lab_with_agents, outer, tun, with};
use adit_lab::{Attachment, Lab, LabSpec, Result};
use serde_json::{Value, json};

/// The bridge of the bridge scenarios.
pub const BRIDGE: &str = "crash0";

/// What is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Add,
    Del,
}

impl Verb {
    pub fn name(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
        }
    }
}

/// How an attachment is found again when it must go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovery {
    /// DEL as it is usual.
    Del,
    /// DEL with an empty CNI_NETNS while the namespace lives.
    DelWithoutNetns,
    /// The namespace goes, then DEL with its path.
    VanishThenDel,
    /// GC with an empty list.
    Gc,
    /// GC with an empty list, which cannot see into pods, then DEL.
    GcThenDel,
    /// ADD at once. It succeeds or asks for DEL; DEL then.
    Add,
}

/// A plugin with a configuration.
#[derive(Debug)]
pub struct Scenario {
    pub name: &'static str,
    /// The plugin's object in a list.
    pub plugin: fn(&Lab) -> Value,
    /// Whether the node's bridge is to be made by every ADD.
    pub fresh_bridge: bool,
    pub recoveries: &'static [Recovery],
    /// Of the calls that may change something, every so many is tried unless all are asked for. Above 1 where programs
    /// of others make most of them.
    pub stride: usize,
}

const ON_THE_HOST: &[Recovery] =
    &[Recovery::Del, Recovery::DelWithoutNetns, Recovery::Gc, Recovery::VanishThenDel, Recovery::Add];
const IN_THE_POD: &[Recovery] = &[Recovery::Del, Recovery::GcThenDel, Recovery::VanishThenDel, Recovery::Add];

/// The usual run's.
pub const SCENARIOS: &[Scenario] = &[
    scenario("bridge", bridge, ON_THE_HOST),
    scenario("masquerade_and_spoof_check", guarded, ON_THE_HOST),
    Scenario { fresh_bridge: true, ..scenario("fresh_bridge_masquerade_and_spoof_check", guarded, ON_THE_HOST) },
    Scenario { stride: 11, ..scenario("masquerade_by_iptables", by_iptables, ON_THE_HOST) },
    scenario("macvlan", macvlan, IN_THE_POD),
    scenario("tun", tunnel, ON_THE_HOST),
    scenario("vxlan", vxlan, ON_THE_HOST),
    scenario("static", addresses_alone, ON_THE_HOST),
];

/// Those whose calls are among the others', for the exhaustive run.
pub const FURTHER: &[Scenario] = &[
    scenario("bridge_gateway", gateway, ON_THE_HOST),
    Scenario { fresh_bridge: true, ..scenario("fresh_bridge_gateway", gateway, ON_THE_HOST) },
];

const fn scenario(name: &'static str, plugin: fn(&Lab) -> Value, recoveries: &'static [Recovery]) -> Scenario {
    Scenario { name, plugin, fresh_bridge: false, recoveries, stride: 1 }
}

impl Scenario {
    /// A node for it.
    pub fn lab(&self) -> Result<Lab> {
        match self.name {
            "tun" => lab_with_agents(&LabSpec::two_clusters(Attachment::Bridge)),
            _ => Lab::two_clusters(Attachment::Bridge),
        }
    }

    /// Whether it stands on an interface that another plugin made.
    pub fn is_chained(&self) -> bool {
        matches!(self.name, "tun" | "vxlan")
    }
}

fn ipam() -> Value {
    json!({ "type": "static", "addresses": [{ "address": "10.77.0.2/24" }, { "address": "fd77::2/64" }] })
}

fn bridge(_: &Lab) -> Value {
    json!({ "type": "bridge", "bridge": BRIDGE, "ipam": ipam() })
}

fn gateway(lab: &Lab) -> Value {
    with(bridge(lab), &json!({ "isDefaultGateway": true }))
}

fn guarded(lab: &Lab) -> Value {
    with(gateway(lab), &json!({ "ipMasq": true, "macspoofchk": true }))
}

fn by_iptables(lab: &Lab) -> Value {
    with(gateway(lab), &json!({ "ipMasq": true, "ipMasqBackend": "iptables" }))
}

fn macvlan(_: &Lab) -> Value {
    json!({ "type": "macvlan", "master": "up0", "ipam": ipam() })
}

fn addresses_alone(_: &Lab) -> Value {
    json!({ "type": "static", "ipam": ipam() })
}

fn tunnel(lab: &Lab) -> Value {
    tun(outer(lab.mumbai(), Family::V4, FIRST_POD), "10.4.0.1/30")
}

/// No agent runs: what is left is the plugin's alone to find.
fn vxlan(lab: &Lab) -> Value {
    with(tunnel(lab), &json!({ "encap": "vxlan", "vni": 7 }))
}
