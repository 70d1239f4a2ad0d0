//! What the plugins' own parsers and checks say of a network.

use adit_cni::{CniArgs, Version, config::from_value};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use adit_tunnel::{Config, Effective, Error, Intent, PublicKey};

use crate::{
    finding::{Code, Findings, Place},
    network::{Network, Plugin, PluginKind},
    node::{self, Kind, Member, Node, Step},
};

/// More mistakes than these in one object are told after the first are mended.
const MOST_IN_ONE: usize = 20;
/// What stands for a public key that is still to be written, so that the rest can be checked.
const SOME_KEY: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
/// Keys whose wrong value changes the meaning of no other: the parser is asked again without them, for it stops at the first mistake.
const ALONE: [&str; 14] = [
    "device",
    "mtu",
    "engine",
    "underlay",
    "shortcut",
    "fec",
    "probe",
    "waitReady",
    "checkPeer",
    "keepalive",
    "ttl",
    "tos",
    "ifName",
    "capabilities",
];

/// What is known of a tunnel once its object is sound.
#[derive(Debug, Clone)]
pub(crate) struct Tunnel {
    pub intent: Intent,
    pub effective: Effective,
}

/// Checks each plugin's object by itself.
pub(crate) fn check(network: &Network, findings: &mut Findings) {
    for plugin in &network.plugins {
        key_material(&plugin.node, network.file, findings);
        match plugin.kind {
            PluginKind::Bridge => {
                if let Some(config) = decode::<adit_bridge::Config>(plugin, network, findings) {
                    report(config.validate(&CniArgs::default(), network.version), plugin, network, findings);
                }
            }
            PluginKind::Macvlan => {
                if let Some(config) = decode::<adit_macvlan::Config>(plugin, network, findings) {
                    report(config.validate(&CniArgs::default(), network.version), plugin, network, findings);
                }
            }
            PluginKind::Tun => {
                placeholders(plugin, network, findings);
                if decode::<Config>(plugin, network, findings).is_some() {
                    tun(plugin, network, findings);
                }
            }
            PluginKind::Other(_) => {}
        }
        if plugin.ipam_type() == Some("static")
            && let Some(config) = decode::<adit_static::Config>(plugin, network, findings)
        {
            report(adit_static::answer(&config, &CniArgs::default(), network.version), plugin, network, findings);
        }
    }
}

/// The tunnel of a plugin's object, when the parser takes it.
pub(crate) fn tunnel(raw: &Map<String, Value>) -> Result<Tunnel, Error> {
    let effective = effective(raw)?;
    let intent = effective.config.validate()?;
    Ok(Tunnel { intent, effective })
}

fn effective(raw: &Map<String, Value>) -> Result<Effective, Error> {
    Effective::read_with(raw, |value| from_value(value).map_err(|error| error.msg))
}

/// The plugin's object with keys that are still to be written replaced by some key.
pub(crate) fn filled(raw: &Map<String, Value>) -> Map<String, Value> {
    let mut raw = raw.clone();
    let fill = |object: &mut Map<String, Value>| {
        if object.get("publicKey").and_then(Value::as_str).is_some_and(is_placeholder) {
            object.insert("publicKey".into(), json!(SOME_KEY));
        }
    };
    fill(&mut raw);
    let peers = raw.get_mut("peers").and_then(Value::as_array_mut).into_iter().flatten();
    for (index, peer) in peers.enumerate() {
        if let Some(peer) = peer.as_object_mut()
            && peer.get("publicKey").and_then(Value::as_str).is_some_and(is_placeholder)
        {
            // Different ones: two peers with one key would be a mistake.
            let byte = u8::try_from(index).unwrap_or_default().saturating_add(2);
            peer.insert("publicKey".into(), json!(PublicKey::new([byte; 32]).to_string()));
        }
    }
    raw
}

/// `(the key of Ohio)`, `<public key>`, `${KEY}`: what a reader is to replace.
pub(crate) fn is_placeholder(text: &str) -> bool {
    let pairs = [("(", ")"), ("<", ">"), ("${", "}"), ("{{", "}}"), ("$(", ")")];
    pairs.iter().any(|(open, close)| text.len() > 2 && text.starts_with(open) && text.ends_with(close))
}

fn placeholders(plugin: &Plugin, network: &Network, findings: &mut Findings) {
    let peers = plugin.node.get_any_case("peers").map(Node::items).unwrap_or_default();
    for object in std::iter::once(&plugin.node).chain(peers) {
        let Some(node) = object.get_any_case("publicKey") else { continue };
        if node.text().is_some_and(is_placeholder) {
            findings.note(
                network.place(node.at),
                Code::Placeholder,
                "publicKey is still to be written",
                "`adit key show` on the peer's node prints it",
            );
        }
    }
}

/// Decodes the object as the plugin does, and reports each value of a wrong type.
fn decode<T: DeserializeOwned>(plugin: &Plugin, network: &Network, findings: &mut Findings) -> Option<T> {
    let mut value = Value::Object(plugin.raw.clone());
    let mut cleared: Vec<Vec<Step>> = Vec::new();
    for _ in 0..MOST_IN_ONE {
        let error = match from_value::<T>(&value) {
            Ok(config) => return Some(config).filter(|_| cleared.is_empty()),
            Err(error) => error,
        };
        let text = error.msg.strip_prefix("failed to load netconf: ").unwrap_or(&error.msg);
        let (path, why) = match text.split_once(": ") {
            Some((path, why)) if !path.contains(' ') => (path, why),
            _ => ("", text),
        };
        let steps = node::path(path);
        // What is missing since it was cleared was told as what it is.
        let is_consequence =
            why.starts_with("missing field") && cleared.iter().any(|earlier| earlier.starts_with(&steps));
        if !is_consequence {
            let found = plugin.node.follow(&steps);
            let message = if path.is_empty() { why.to_owned() } else { format!("{path}: {why}") };
            findings.error(network.place(found.at), Code::Value, message, wanted(why));
        }
        if !clear(&mut value, &steps) {
            return None;
        }
        cleared.push(steps);
    }
    None
}

/// What to write, by what the parser expected.
fn wanted(why: &str) -> &'static str {
    let expected = why.rsplit("expected ").next().unwrap_or_default();
    match expected {
        _ if why.starts_with("missing field") => "add it",
        _ if why.starts_with("invalid CIDR") => "write an address and its prefix length, such as 10.20.0.0/16",
        _ if why.starts_with("invalid IP") => "write an address without prefix length, such as 10.10.1.1",
        "a boolean" => "write true or false, without quotes",
        "a string" => "write one text, in quotes",
        "a sequence" => "write a list, in [ ]",
        "a map" => "write an object, in { }",
        _ if expected.starts_with("struct") => "write an object, in { }",
        "u8" | "u16" | "u32" | "u64" => "write a whole number that is not negative, without quotes",
        "i8" | "i16" | "i32" | "i64" => "write a whole number, without quotes",
        _ => "write a value that the key can have",
    }
}

/// Sets what is at the path to null, which is as good as absent. An element of a list goes.
fn clear(value: &mut Value, path: &[Step]) -> bool {
    let Some((last, before)) = path.split_last() else { return false };
    let mut value = value;
    for step in before {
        let next = match step {
            Step::Key(key) => value.as_object_mut().and_then(|object| {
                let name = object
                    .keys()
                    .find(|name| *name == key)
                    .or_else(|| object.keys().find(|name| name.eq_ignore_ascii_case(key)))?;
                let name = name.clone();
                object.get_mut(&name)
            }),
            Step::Index(index) => value.get_mut(index),
        };
        let Some(next) = next else { return false };
        value = next;
    }
    match (last, value) {
        (Step::Key(key), Value::Object(object)) => {
            let before = object.len();
            object.retain(|name, _| !name.eq_ignore_ascii_case(key));
            object.len() < before
        }
        (Step::Index(index), Value::Array(items)) if *index < items.len() => {
            items.remove(*index);
            true
        }
        _ => false,
    }
}

fn tun(plugin: &Plugin, network: &Network, findings: &mut Findings) {
    let mut raw = filled(&plugin.raw);
    for _ in 0..MOST_IN_ONE {
        let Err(error) = tunnel(&raw) else { return };
        let Some(key) = tun_error(&error, &plugin.node, &|at| network.place(at), findings) else { return };
        if !set_right(&mut raw, &key) {
            return;
        }
    }
}

/// Puts something sound in the place of a wrong value, or nothing, where that changes the meaning of no other key: the parser
/// stops at the first mistake.
fn set_right(raw: &mut Map<String, Value>, key: &str) -> bool {
    let is_below = |alone: &str| key.strip_prefix(alone).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    let sound = match key {
        "vni" => json!(1),
        "remote" => json!("192.0.2.1"),
        "publicKey" => json!(SOME_KEY),
        _ if ALONE.into_iter().any(is_below) => Value::Null,
        _ => return false,
    };
    let name = key.split('.').next().unwrap_or_default();
    let Some(value) = raw.iter_mut().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value) else {
        return false;
    };
    let is_new = *value != sound;
    *value = sound;
    is_new
}

/// Reports an error of the tunnel's parser at the key that it names; returns the key.
pub(crate) fn tun_error(
    error: &Error,
    node: &Node,
    place: &dyn Fn(usize) -> Place,
    findings: &mut Findings,
) -> Option<String> {
    match error {
        Error::Invalid { key, value, problem, remedy } => {
            let found = node.follow(&node::path(key));
            // What holds key material is reported as that, and its text never.
            if findings.has_error_at(place(found.at)) {
                return Some(key.clone());
            }
            let code = if key == "mtu" { Code::Mtu } else { Code::Value };
            findings.error(place(found.at), code, format!("{key}: {} {problem}", shown(key, value)), remedy.clone());
            Some(key.clone())
        }
        Error::Missing { key, remedy } => {
            let found = node.follow(&node::path(key));
            findings.error(place(found.at), Code::Missing, format!("{key} is missing"), remedy.clone());
            None
        }
        other => {
            findings.error(place(node.at), Code::Value, other.to_string(), "mend it");
            None
        }
    }
}

/// Reports what a plugin says of its whole object, at what it speaks of.
pub(crate) fn report<T>(
    result: Result<T, adit_cni::Error>,
    plugin: &Plugin,
    network: &Network,
    findings: &mut Findings,
) -> Option<T> {
    result
        .map_err(|error| {
            let at = spoken_of(&plugin.node, &format!("{} {}", error.msg, error.details));
            let remedy = if error.details.is_empty() { "mend it".to_owned() } else { error.details };
            findings.error(network.place(at), Code::Value, error.msg, remedy);
        })
        .ok()
}

/// The place of what a message speaks of: a value that it quotes, else a key that it names, the earliest of several.
pub(crate) fn spoken_of(node: &Node, message: &str) -> usize {
    let mut found = Vec::new();
    collect(node, message, &mut found);
    found.into_iter().min_by_key(|(rank, _)| *rank).map_or(node.at, |(_, at)| at)
}

/// What a message tells better than by position: the rank is lower for a value with its key, then for a value, then for a key.
fn collect(node: &Node, message: &str, found: &mut Vec<((u8, usize), usize)>) {
    for member in node.members() {
        if ["type", "cniVersion", "name"].contains(&member.key.as_str()) {
            continue;
        }
        let key = position(&plain(message), &plain(&member.key));
        let value = match &member.value.kind {
            Kind::Text(text) if text.value.len() > 1 => position(message, &text.value),
            Kind::Number(number) => position(message, &number.to_string()),
            _ => None,
        };
        match (key, value) {
            (Some(at), Some(_)) => found.push(((0, at), member.value.at)),
            (None, Some(at)) => found.push(((1, at), member.value.at)),
            (Some(at), None) if !member.value.is_map() => found.push(((2, at), member.value.at)),
            _ => {}
        }
        collect(&member.value, message, found);
    }
    for item in node.items() {
        if let Some(at) = item.text().filter(|text| text.len() > 1).and_then(|text| position(message, text)) {
            found.push(((1, at), item.at));
        }
        collect(item, message, found);
    }
}

/// Where `word` stands in `text` as a word of its own.
fn position(text: &str, word: &str) -> Option<usize> {
    text.match_indices(word).map(|(at, _)| at).find(|at| {
        let is_inside = |char: Option<char>| char.is_some_and(|char| char.is_alphanumeric());
        let before = text.get(..*at).and_then(|before| before.chars().next_back());
        let after = text.get(at.saturating_add(word.len())..).and_then(|after| after.chars().next());
        !is_inside(before) && !is_inside(after)
    })
}

/// In small letters.
fn plain(text: &str) -> String {
    text.to_ascii_lowercase()
}

/// Keys of tunnels have no place in a definition, whoever may read it.
fn key_material(node: &Node, file: usize, findings: &mut Findings) {
    for member in node.members() {
        let name = plain(&member.key);
        let is_private =
            (name.contains("private") || name.contains("preshared") || name.contains("secret") || name == "psk")
                && !name.contains("public");
        if is_private && member.value.text().is_some_and(|text| text.trim().parse::<PublicKey>().is_ok()) {
            findings.error(
                Place { file, at: member.value.at },
                Code::KeyMaterial,
                format!("{:?} holds a key itself, which everybody can read who may read the definition", member.key),
                "make another one in a file on the node (`adit key generate`) and name the file: \"privateKeyFile\" or \"presharedKeyFile\"",
            );
        }
        key_material(&member.value, file, findings);
    }
    node.items().iter().for_each(|item| key_material(item, file, findings));
}

/// A value of an error, unless it might be a secret: whatever looks like a key where no public key belongs.
pub(crate) fn shown<'a>(key: &str, value: &'a str) -> &'a str {
    let is_secret = !key.ends_with("publicKey") && value.trim_matches('"').parse::<PublicKey>().is_ok();
    if is_secret { "(a key)" } else { value }
}

/// Whether the value is a secret, by its name and by what it looks like.
pub(crate) fn is_key_material(member: &Member) -> bool {
    let name = plain(&member.key);
    let is_private = name == "psk" || ["private", "preshared", "secret"].iter().any(|word| name.contains(word));
    is_private && member.value.text().is_some_and(|text| text.trim().parse::<PublicKey>().is_ok())
}

/// The version that a list speaks, in which results name interfaces.
pub(crate) const fn has_interfaces(version: Version) -> bool {
    !version.single_address_per_family()
}
