//! What a case needs and this machine, or this implementation, may not have.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Mutex, PoisonError},
};

use crate::{
    case::{Case, Instance},
    run::{self, Settings},
    world::World,
};

/// The versions of the protocol, in order.
pub const VERSIONS: [&str; 7] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// A kernel feature and the command that succeeds where it is.
const FEATURES: [(&str, &str); 9] = [
    ("bridge", "ip link add type bridge"),
    ("vlan-filtering", "ip link add type bridge vlan_filtering 1"),
    ("macvlan", "ip link add m0 type veth && ip link add link m0 type macvlan"),
    ("ipvlan", "ip link add m0 type veth && ip link add link m0 type ipvlan"),
    ("vlan", "ip link add m0 type veth && ip link add link m0 type vlan id 5"),
    ("dummy", "ip link add type dummy"),
    ("vrf", "ip link add type vrf table 5"),
    ("nft", "nft add table inet probe"),
    ("iptables", "iptables -w -t nat -S"),
];

/// Answers that were found already; every one is asked for once.
#[derive(Debug, Default)]
pub struct Needs {
    features: Mutex<BTreeMap<String, bool>>,
    versions: Mutex<BTreeMap<(String, String), Vec<String>>>,
}

impl Needs {
    /// Why a case says nothing about the plugins of this directory; `None` when it does.
    pub fn missing(&self, case: &Case, plugins: &Path, settings: &Settings) -> Option<String> {
        let is_there = |program: &&str| {
            plugins.join(program).is_file() || settings.also.as_ref().is_some_and(|also| also.join(program).is_file())
        };
        if !plugins.join(&case.plugin).is_file() {
            return Some(format!("no plugin {}", case.plugin));
        }
        if let Some(program) = case.programs().into_iter().find(|program| !is_there(program)) {
            return Some(format!("no plugin {program}"));
        }
        for version in
            case.needs.iter().filter_map(|need| need.strip_prefix("cni:")).map(str::to_owned).chain(case.versions())
        {
            let supported = || self.versions(&case.plugin, plugins, settings);
            if VERSIONS.contains(&version.as_str()) && !supported().contains(&version) {
                return Some(format!("{} does not speak CNI {version}", case.plugin));
            }
        }
        let features = case.needs.iter().filter(|need| !need.contains(':'));
        features
            .filter(|feature| !self.has(feature, plugins))
            .map(|feature| format!("no {feature} on this machine"))
            .next()
    }

    fn has(&self, feature: &str, plugins: &Path) -> bool {
        let mut known = self.features.lock().unwrap_or_else(PoisonError::into_inner);
        *known.entry(feature.to_owned()).or_insert_with(|| {
            let Some((_, probe)) = FEATURES.iter().find(|(name, _)| *name == feature) else { return false };
            let probe =
                || World::make(plugins, None, &BTreeMap::new(), 0).is_ok_and(|world| world.shell(probe).is_ok());
            std::thread::scope(|scope| scope.spawn(probe).join().unwrap_or(false))
        })
    }

    /// What VERSION says; a plugin that says nothing is tried with every version.
    fn versions(&self, plugin: &str, plugins: &Path, settings: &Settings) -> Vec<String> {
        let key = (plugins.display().to_string(), plugin.to_owned());
        if let Some(known) = self.versions.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return known.clone();
        }
        let said = ask_version(plugin, plugins, settings).unwrap_or_else(|| VERSIONS.map(str::to_owned).to_vec());
        self.versions.lock().unwrap_or_else(PoisonError::into_inner).insert(key, said.clone());
        said
    }
}

fn ask_version(plugin: &str, plugins: &Path, settings: &Settings) -> Option<Vec<String>> {
    let case = serde_json::json!({
        "description": "", "spec": "", "plugin": plugin, "pods": 0, "steps": [{"verb": "VERSION"}]
    });
    let case: Case = serde_json::from_value(case).ok()?;
    let record =
        run::case(&Instance { name: "version".to_owned(), case, source: String::new() }, plugins, settings).ok()?;
    let document = record.steps.first()?.answer.document.clone()?;
    let versions = document.get("supportedVersions")?.as_array()?.clone();
    versions.iter().map(|version| version.as_str().map(str::to_owned)).collect::<Option<Vec<String>>>()
}

/// The needs that this harness can look up; a test holds every case to them.
#[cfg(test)]
pub fn is_known(need: &str) -> bool {
    let version = need.strip_prefix("cni:").is_some_and(|version| VERSIONS.contains(&version));
    version || need.starts_with("plugin:") || FEATURES.iter().any(|(name, _)| *name == need)
}
