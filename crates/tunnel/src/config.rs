//! The `tun` object of a network list as a user writes it, merged with what the pod's annotation may set.
//!
//! Every key is decoded, also those that this version cannot honour yet: a key with a meaning must never be dropped
//! silently. [`Config::validate`] turns the text into an [`Intent`](crate::Intent).

use std::collections::BTreeMap;

use adit_net::IfName;
use serde::Deserialize;
use serde_json::{Map, Value};

pub use peers::PeerConfig;
use peers::{everything, refuse_mixed_families, refuse_shared};
use wire::Wire;

use crate::{Encap, Encryption, Error, Intent, Result, parse, spec::IntentPeer};

mod fec;
mod peers;
mod place;
mod probe;
mod wire;

/// The interface's name when none is written.
pub const DEFAULT_IF_NAME: &str = "tun";
/// Names that the pod's annotation uses for other things, so that no interface can have its settings there.
const RESERVED_IF_NAMES: [&str; 3] = ["ips", "mac", "labels"];
/// Keys that no annotation may ever set: they choose files of the node, its network, or what annotations may set.
const NEVER_OVERRIDABLE: [&str; 11] = [
    "privateKeyFile",
    "presharedKeyFile",
    "engine",
    "underlay",
    "overrides",
    "ifName",
    "type",
    "name",
    "cniVersion",
    "capabilities",
    "ipam",
];
/// Keys of the plugin's object that are no settings of the tunnel.
const OF_THE_CALL: [&str; 6] = ["args", "cniVersion", "name", "prevResult", "runtimeConfig", "type"];
const ENCAPSULATIONS: &str = "write \"udp\", \"wireguard\" or \"vxlan\"";
const IN_THE_CLEAR: &str = "write \"encryption\": \"none\" if the network between the pods may be trusted";
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
    /// Outer TOS where configurable: a number, or `inherit`.
    pub tos: Option<Value>,
    /// Whether packets may go straight to the TUN of a peer whose tunnel the same agent carries and that allows it too.
    pub shortcut: Option<bool>,
    /// Loss recovery: `mode`, `maxOverhead`, `target`, `maxRecoveryDelay`; `redundancy` and `window` of `fixed`.
    pub fec: Option<Value>,
    /// Health probing: `interval`, `timeout`, `mtu`.
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
    /// The keys that somebody wrote: those of the plugin's object as they are, those of the annotation with the way to them
    /// (`cni-args.tun.mtu`).
    pub written: Vec<String>,
}

impl Effective {
    /// The configuration alone, for taking back what a tunnel had whatever its annotation says.
    #[must_use]
    pub fn without_annotation(config: &Config) -> Self {
        Self { config: config.clone(), ips: None, written: Vec::new() }
    }

    /// Reads the plugin's object `raw` and the annotation's settings below `args.cni.<ifName>` in it.
    ///
    /// # Errors
    /// The object does not decode, or the annotation sets a key that `overrides` does not list.
    pub fn read(raw: &Map<String, Value>) -> Result<Self> {
        Self::read_with(raw, |value| {
            serde_path_to_error::deserialize(value).map_err(|error| format!("{}: {}", error.path(), error.inner()))
        })
    }

    /// The same with another decoder, which has Go's habits or has decoded a `Config` before. It says which key is wrong.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_with(
        raw: &Map<String, Value>,
        decode: impl Fn(&Value) -> std::result::Result<Config, String>,
    ) -> Result<Self> {
        let decode = |raw: Map<String, Value>| decode(&Value::Object(raw)).map_err(|problem| Error::Decode { problem });
        let written: Config = decode(raw.clone())?;
        let mut keys: Vec<String> = raw.keys().filter(|key| !OF_THE_CALL.contains(&key.as_str())).cloned().collect();
        let name = written.if_name.as_deref().unwrap_or(DEFAULT_IF_NAME);
        let Some(settings) = annotation_settings(raw, name)? else {
            return Ok(Self { config: written, ips: None, written: keys });
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
            if written.underlay.as_deref() == Some("host") && place::OUTER.contains(&key.as_str()) {
                return Err(Error::invalid(
                    path,
                    value,
                    "cannot be set by a pod's annotation with \"underlay\": \"host\"",
                    "set it in the NetworkAttachmentDefinition: packets to it leave from the node",
                ));
            }
            if key == "peers" {
                refuse_files_in_peers(&path, value)?;
            }
            if key == "ips" {
                ips = Some(string_list(&path, value)?);
            } else {
                merged.insert(key.clone(), value.clone());
            }
            keys.push(path);
        }
        Ok(Self { config: decode(merged)?, ips, written: keys })
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
        let encryption = self.encryption(encap)?;
        let (engine, underlay) = (self.carrier(encap)?, self.underlay(encryption)?);
        self.refuse_unsupported(encap)?;
        let (probe, fec, wait_ready) = (self.probe(encap)?, self.recovery(encap)?, self.wait(encap)?);
        let vxlan = (encap == Encap::Vxlan).then(|| wire::vxlan(self)).transpose()?;
        let device = self.device.as_deref().map(|text| interface("device", text)).transpose()?;
        let port = encap.default_port();
        let local = self.local.as_deref().map(|text| parse::local_endpoint("local", text, port)).transpose()?;
        let wire = Wire::new(encap, engine, encryption, local);
        let private_key_file = wire.key_file("privateKeyFile", self.private_key_file.as_deref())?;
        let peers = self.peer_list(wire)?;
        refuse_mixed_families(&peers)?;
        refuse_shared(&peers, encryption)?;
        let (mtu_bytes, shortcut) = (self.mtu, self.shortcut.unwrap_or(false));
        Ok(Intent {
            if_name,
            encap,
            engine,
            encryption,
            underlay,
            device,
            local,
            mtu_bytes,
            shortcut,
            probe,
            fec,
            wait_ready,
            vxlan,
            private_key_file,
            peers,
        })
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
                remedy: "say what is on the wire: \"encap\": \"udp\" (or \"wireguard\", \"vxlan\")".into(),
            }),
            Some("udp") => Ok(Encap::Udp),
            Some("wireguard") => Ok(Encap::Wireguard),
            Some("vxlan") => Ok(Encap::Vxlan),
            Some(other @ ("geneve" | "gre" | "ipip")) => {
                Err(Error::invalid("encap", other, "is not supported by this version", ENCAPSULATIONS))
            }
            Some(other) => Err(Error::invalid("encap", other, "is no encapsulation", ENCAPSULATIONS)),
        }
    }

    fn encryption(&self, encap: Encap) -> Result<Encryption> {
        match (encap, self.encryption.as_deref()) {
            (Encap::Udp | Encap::Wireguard, None | Some("" | "noise")) => Ok(Encryption::Noise),
            (Encap::Udp | Encap::Vxlan, Some("none")) => Ok(Encryption::None),
            (Encap::Vxlan, None | Some("")) => {
                Err(Error::Missing { key: "encryption".into(), remedy: format!("vxlan has none: {IN_THE_CLEAR}") })
            }
            (Encap::Vxlan, Some("noise")) => {
                Err(Error::invalid("encryption", "noise", "is nothing that vxlan has", IN_THE_CLEAR))
            }
            (Encap::Wireguard, Some(other)) => Err(Error::invalid(
                "encryption",
                other,
                "is nothing that wireguard has: it always encrypts, and in one way",
                "leave encryption out",
            )),
            (_, Some(other)) => Err(Error::invalid(
                "encryption",
                other,
                "is no kind of encryption",
                "write \"noise\", or \"none\" if the network between the pods may be trusted",
            )),
        }
    }

    /// Keys whose meaning this version cannot honour, and values that contradict `encap`.
    fn refuse_unsupported(&self, encap: Encap) -> Result<()> {
        let number = |value: Option<u32>| value.map(|value| value.to_string());
        let of_vxlan =
            [("vni", number(self.vni)), ("ttl", number(self.ttl)), ("tos", self.tos.as_ref().map(Value::to_string))];
        if encap != Encap::Vxlan
            && let Some((key, value)) = of_vxlan.into_iter().find_map(|(key, value)| value.map(|v| (key, v)))
        {
            return Err(wire::meaningless(key, value, encap));
        }
        if encap != Encap::Udp && self.shortcut == Some(true) {
            return Err(wire::meaningless("shortcut", true, encap));
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

    fn peer_list(&self, wire: Wire) -> Result<Vec<IntentPeer>> {
        match (self.remote.as_deref(), self.peers.as_deref()) {
            (Some(remote), Some(_)) => Err(Error::invalid(
                "remote",
                remote,
                "stands beside \"peers\"",
                "write either \"remote\" for one peer or \"peers\" for several",
            )),
            (Some(remote), None) => Ok(vec![self.only_peer(remote, wire)?]),
            (None, Some(peers)) if !peers.is_empty() => {
                let of_one = [
                    ("keepalive", &self.keepalive),
                    ("publicKey", &self.public_key),
                    ("presharedKeyFile", &self.preshared_key_file),
                ];
                if let Some((key, text)) = of_one.into_iter().find_map(|(key, text)| Some((key, text.as_ref()?))) {
                    return Err(Error::invalid(
                        key,
                        text,
                        "stands beside \"peers\"",
                        "write it into each peer that needs it",
                    ));
                }
                peers.iter().enumerate().map(|(index, peer)| peer.validate(index, peers.len() == 1, wire)).collect()
            }
            _ => Err(Error::Missing {
                key: "remote".into(),
                remedy: match wire.is_sealed() {
                    true => "write the outer address of the peer; or a list of \"peers\", in which one without an \"endpoint\" is learned",
                    false => "write the outer address of the peer, or a list of \"peers\"",
                }
                .into(),
            }),
        }
    }

    /// The one peer that the keys without a list describe.
    fn only_peer(&self, remote: &str, wire: Wire) -> Result<IntentPeer> {
        Ok(IntentPeer {
            endpoint: Some(wire.endpoint("remote", remote)?),
            public_key: wire.public_key("publicKey", self.public_key.as_deref())?,
            preshared_key_file: wire.key_file("presharedKeyFile", self.preshared_key_file.as_deref())?,
            allowed_ips: everything()?,
            keepalive: wire.keepalive("keepalive", self.keepalive.as_deref())?,
            key: "remote".into(),
        })
    }
}

/// Where an annotation may set the peers, their key files still are not its choice.
fn refuse_files_in_peers(path: &str, peers: &Value) -> Result<()> {
    let files = peers.as_array().into_iter().flatten().enumerate();
    match files.into_iter().find_map(|(index, peer)| Some((index, peer.get("presharedKeyFile")?))) {
        Some((index, file)) => Err(Error::invalid(
            format!("{path}[{index}].presharedKeyFile"),
            file,
            "cannot be set by a pod's annotation",
            "set it in the NetworkAttachmentDefinition",
        )),
        None => Ok(()),
    }
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

fn keys_without_encryption(key: impl Into<String>, value: &str) -> Error {
    Error::invalid(key, value, "has no use with \"encryption\": \"none\"", "leave it out")
}

#[cfg(test)]
mod tests;
