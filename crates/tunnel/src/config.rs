//! The `tun` object of a network list as a user writes it, merged with what the pod's annotation may set.
//!
//! Every key is decoded, also those that this version cannot honour yet: a key with a meaning must never be dropped
//! silently. [`Config::validate`] turns the text into an [`Intent`](crate::Intent).

use std::collections::BTreeMap;

use adit_net::IfName;
use serde::Deserialize;
use serde_json::{Map, Value};

pub use peers::PeerConfig;
use peers::{everything, refuse_mixed_families, refuse_shared_networks};

use crate::{
    Encap, Encryption, Error, Intent, Result, parse,
    spec::{DEFAULT_UDP_PORT, IntentPeer},
};

mod peers;

/// The interface's name when none is written.
pub const DEFAULT_IF_NAME: &str = "tun";
/// Names that the pod's annotation uses for other things, so that no interface can have its settings there.
const RESERVED_IF_NAMES: [&str; 3] = ["ips", "mac", "labels"];
/// Keys that no annotation may ever set: they choose files of the node, or what annotations may set.
const NEVER_OVERRIDABLE: [&str; 9] =
    ["privateKeyFile", "presharedKeyFile", "overrides", "ifName", "type", "name", "cniVersion", "capabilities", "ipam"];
/// What an annotation may set when `overrides` is not written.
const DEFAULT_OVERRIDES: [&str; 1] = ["ips"];

/// The keys of the `tun` plugin, as written. Unknown keys are ignored.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct Config {
    /// Name of the interface in the pod; [`DEFAULT_IF_NAME`] when absent.
    pub if_name: Option<String>,
    /// What is on the wire; required.
    pub encap: Option<String>,
    /// Who carries the packets: `auto`, `kernel` or `agent`.
    pub engine: Option<String>,
    /// `noise` or `none`.
    pub encryption: Option<String>,
    /// Whose namespace holds the outer socket: `pod` or `host`.
    pub underlay: Option<String>,
    /// Outer interface in the pod; the chain's own when absent.
    pub device: Option<String>,
    /// Outer source `address[:port]`.
    pub local: Option<String>,
    /// Shorthand for one peer that gets everything routed to the interface.
    pub remote: Option<String>,
    /// Several peers.
    pub peers: Option<Vec<PeerConfig>>,
    /// The peer's public key (shorthand form).
    pub public_key: Option<String>,
    /// File with a preshared key (shorthand form).
    pub preshared_key_file: Option<String>,
    /// Interval of keepalives (shorthand form), such as `25s`.
    pub keepalive: Option<String>,
    /// File with this end's private key.
    pub private_key_file: Option<String>,
    /// The interface's MTU in bytes; computed when absent.
    pub mtu: Option<u32>,
    /// Network identifier of encapsulations that have one.
    pub vni: Option<u32>,
    /// Outer TTL where configurable.
    pub ttl: Option<u32>,
    /// Outer TOS where configurable.
    pub tos: Option<u32>,
    /// Loss recovery.
    pub fec: Option<Value>,
    /// Health probing.
    pub probe: Option<Value>,
    /// How long ADD waits for the peer.
    pub wait_ready: Option<String>,
    /// Whether CHECK asks for the peer too.
    pub check_peer: Option<bool>,
    /// Keys that the pod's annotation may set.
    pub overrides: Option<Vec<String>>,
    /// The address plugin of the tunnel's interface.
    pub ipam: Option<Ipam>,
    /// Capabilities that the runtime may fill.
    pub capabilities: Option<BTreeMap<String, bool>>,
}

/// The part of `ipam` that matters here: the rest belongs to the plugin that it names.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Ipam {
    /// The address plugin's name; empty means no addresses.
    #[serde(rename = "type")]
    pub plugin: Option<String>,
}

/// A configuration together with what the pod's annotation set for its interface.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Effective {
    /// The configuration with the annotation's keys merged in.
    pub config: Config,
    /// Addresses that the annotation asks for on the tunnel's interface.
    pub ips: Option<Vec<String>>,
}

impl Effective {
    /// The configuration alone, for taking back what a tunnel had whatever its annotation says.
    #[must_use]
    pub fn without_annotation(config: &Config) -> Self {
        Self { config: config.clone(), ips: None }
    }

    /// Reads the plugin's object `raw` and the annotation's settings below `args.cni.<ifName>` in it.
    ///
    /// # Errors
    /// The object does not decode, or the annotation sets a key that `overrides` does not list.
    pub fn read(raw: &Map<String, Value>) -> Result<Self> {
        let written: Config = decode(raw)?;
        let name = written.if_name.as_deref().unwrap_or(DEFAULT_IF_NAME);
        let Some(settings) = annotation_settings(raw, name)? else {
            return Ok(Self { config: written, ips: None });
        };

        let allowed: Vec<&str> = written
            .overrides
            .as_ref()
            .map_or_else(|| DEFAULT_OVERRIDES.to_vec(), |keys| keys.iter().map(String::as_str).collect());
        let mut merged = raw.clone();
        let mut ips = None;
        for (key, value) in settings {
            let path = format!("cni-args.{name}.{key}");
            if NEVER_OVERRIDABLE.contains(&key.as_str()) {
                return Err(Error::invalid(
                    path,
                    value,
                    "cannot be set by a pod's annotation",
                    "set it in the NetworkAttachmentDefinition",
                ));
            }
            if !allowed.contains(&key.as_str()) {
                return Err(Error::invalid(
                    path,
                    value,
                    format!("is not among the keys that a pod may set here ({})", allowed.join(", ")),
                    "remove it, or add the key to \"overrides\" in the NetworkAttachmentDefinition",
                ));
            }
            if key == "ips" {
                ips = Some(string_list(&path, value)?);
            } else {
                merged.insert(key.clone(), value.clone());
            }
        }
        Ok(Self { config: decode(&merged)?, ips })
    }
}

impl Config {
    /// Checks everything that needs no knowledge of the pod.
    ///
    /// # Errors
    /// The first key that is missing, impossible or not supported, by name, with the value and the remedy.
    pub fn validate(&self) -> Result<Intent> {
        let if_name = self.interface_name()?;
        let encap = self.encapsulation()?;
        let encryption = self.encryption()?;
        self.refuse_unsupported()?;
        let device = self.device.as_deref().map(|text| interface("device", text)).transpose()?;
        let local =
            self.local.as_deref().map(|text| parse::local_endpoint("local", text, DEFAULT_UDP_PORT)).transpose()?;
        let peers = self.peer_list()?;
        refuse_mixed_families(&peers)?;
        refuse_shared_networks(&peers)?;
        Ok(Intent { if_name, encap, encryption, device, local, mtu_bytes: self.mtu, peers })
    }

    /// The address plugin to call for the tunnel's interface, when there is one.
    #[must_use]
    pub fn ipam_plugin(&self) -> Option<&str> {
        self.ipam.as_ref().and_then(|ipam| ipam.plugin.as_deref()).filter(|name| !name.is_empty())
    }

    /// The interface's name.
    ///
    /// # Errors
    /// The name is none that the kernel takes, or one that the annotation uses for other things.
    pub fn interface_name(&self) -> Result<IfName> {
        let text = self.if_name.as_deref().unwrap_or(DEFAULT_IF_NAME);
        if RESERVED_IF_NAMES.contains(&text) {
            return Err(Error::invalid(
                "ifName",
                text,
                "is a key of the pod's annotation, so the interface's settings could not be found there",
                "choose another name, such as \"tun\"",
            ));
        }
        interface("ifName", text)
    }

    fn encapsulation(&self) -> Result<Encap> {
        match self.encap.as_deref() {
            None | Some("") => Err(Error::Missing {
                key: "encap".into(),
                remedy: "say what is on the wire: \"encap\": \"udp\"".into(),
            }),
            Some("udp") => Ok(Encap::Udp),
            Some(other @ ("wireguard" | "vxlan" | "geneve" | "gre" | "ipip")) => {
                Err(Error::invalid("encap", other, "is not supported by this version", "write \"udp\""))
            }
            Some(other) => Err(Error::invalid("encap", other, "is no encapsulation", "write \"udp\"")),
        }
    }

    fn encryption(&self) -> Result<Encryption> {
        match self.encryption.as_deref() {
            Some("none") => Ok(Encryption::None),
            None | Some("" | "noise") => Err(Error::invalid(
                "encryption",
                self.encryption.as_deref().unwrap_or("noise (the default)"),
                "is not supported by this version, and nothing is sent in the clear unasked",
                "write \"encryption\": \"none\" if the network between the pods may be trusted",
            )),
            Some(other) => Err(Error::invalid("encryption", other, "is no kind of encryption", "write \"none\"")),
        }
    }

    /// Keys whose meaning this version cannot honour, and values that contradict `encap: udp` without encryption.
    fn refuse_unsupported(&self) -> Result<()> {
        match self.engine.as_deref() {
            None | Some("" | "auto" | "agent") => {}
            Some(other) => {
                return Err(Error::invalid(
                    "engine",
                    other,
                    "cannot carry encap \"udp\"",
                    "write \"agent\", or leave engine out",
                ));
            }
        }
        match self.underlay.as_deref() {
            None | Some("" | "pod") => {}
            Some(other) => {
                return Err(Error::invalid(
                    "underlay",
                    other,
                    "is not supported by this version (\"host\" needs encryption)",
                    "write \"pod\", or leave underlay out",
                ));
            }
        }
        let key_material = [
            ("publicKey", &self.public_key),
            ("presharedKeyFile", &self.preshared_key_file),
            ("privateKeyFile", &self.private_key_file),
        ];
        if let Some((key, value)) = key_material.into_iter().find_map(|(key, value)| value.as_ref().map(|v| (key, v))) {
            return Err(keys_without_encryption(key, value));
        }
        let meaningless = [("vni", self.vni), ("ttl", self.ttl), ("tos", self.tos)];
        if let Some((key, value)) = meaningless.into_iter().find_map(|(key, value)| value.map(|v| (key, v))) {
            return Err(Error::invalid(key, value, "has no meaning for encap \"udp\"", "leave it out"));
        }
        let later = [
            ("fec", self.fec.as_ref().map(Value::to_string)),
            ("probe", self.probe.as_ref().map(Value::to_string)),
            ("waitReady", self.wait_ready.clone()),
            ("checkPeer", self.check_peer.filter(|wanted| *wanted).map(|wanted| wanted.to_string())),
        ];
        if let Some((key, value)) = later.into_iter().find_map(|(key, value)| value.map(|v| (key, v))) {
            return Err(Error::invalid(key, value, "is not supported by this version", "leave it out"));
        }
        if self.capabilities.as_ref().and_then(|c| c.get("ips")).copied().unwrap_or(false) {
            return Err(Error::invalid(
                "capabilities.ips",
                true,
                "would give the tunnel the addresses of the interface below it",
                format!(
                    "remove it here and give the tunnel's address in the annotation as \"cni-args\": {{\"{}\": {{\"ips\": [..]}}}}",
                    self.if_name.as_deref().unwrap_or(DEFAULT_IF_NAME)
                ),
            ));
        }
        Ok(())
    }

    fn peer_list(&self) -> Result<Vec<IntentPeer>> {
        match (self.remote.as_deref(), self.peers.as_deref()) {
            (Some(remote), Some(_)) => Err(Error::invalid(
                "remote",
                remote,
                "stands beside \"peers\"",
                "write either \"remote\" for one peer or \"peers\" for several",
            )),
            (Some(remote), None) => Ok(vec![IntentPeer {
                endpoint: parse::remote_endpoint("remote", remote, DEFAULT_UDP_PORT)?,
                allowed_ips: everything()?,
                keepalive: optional_duration("keepalive", self.keepalive.as_deref())?,
                key: "remote".into(),
            }]),
            (None, Some(peers)) if !peers.is_empty() => {
                if let Some(text) = self.keepalive.as_deref() {
                    return Err(Error::invalid(
                        "keepalive",
                        text,
                        "stands beside \"peers\"",
                        "write it into each peer that needs it",
                    ));
                }
                peers.iter().enumerate().map(|(index, peer)| peer.validate(index, peers.len() == 1)).collect()
            }
            _ => Err(Error::Missing {
                key: "remote".into(),
                remedy: "write the outer address of the peer, or a list of \"peers\"".into(),
            }),
        }
    }
}

fn decode(raw: &Map<String, Value>) -> Result<Config> {
    serde_path_to_error::deserialize(Value::Object(raw.clone()))
        .map_err(|error| Error::Decode { path: error.path().to_string(), problem: error.into_inner().to_string() })
}

fn annotation_settings<'a>(raw: &'a Map<String, Value>, name: &str) -> Result<Option<&'a Map<String, Value>>> {
    let settings = raw.get("args").and_then(|args| args.get("cni")).and_then(|cni| cni.get(name));
    match settings {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(map)) => Ok(Some(map)),
        Some(other) => Err(Error::invalid(
            format!("cni-args.{name}"),
            other,
            "is not an object",
            format!("write \"cni-args\": {{\"{name}\": {{\"ips\": [\"10.4.0.1/32\"]}}}}"),
        )),
    }
}

fn string_list(key: &str, value: &Value) -> Result<Vec<String>> {
    let wrong = || Error::invalid(key, value, "is not a list of addresses", "write it as [\"10.4.0.1/32\"]");
    value.as_array().ok_or_else(wrong)?.iter().map(|item| item.as_str().map(str::to_owned).ok_or_else(wrong)).collect()
}

fn interface(key: &str, text: &str) -> Result<IfName> {
    text.parse::<IfName>().map_err(|problem| {
        Error::invalid(
            key,
            format!("{text:?}"),
            format!("is no interface name ({problem})"),
            "write 1 to 15 characters without '/', ':' or blanks",
        )
    })
}

fn optional_duration(key: &str, text: Option<&str>) -> Result<Option<std::time::Duration>> {
    text.map(|text| parse::duration(key, text)).transpose()
}

fn keys_without_encryption(key: impl Into<String>, value: &str) -> Error {
    Error::invalid(key, value, "has no use with \"encryption\": \"none\"", "leave it out")
}

#[cfg(test)]
mod tests;
