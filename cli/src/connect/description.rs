//! A connection as a person describes it: two sides, each told once.

use std::{fmt, fs, io::Read as _, path::Path};

use adit_tunnel::{Encryption, PublicKey};
use ipnetwork::IpNetwork;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::manifests;

/// Two sides and the tunnel between them.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Connection {
    /// What the network is called in both clusters.
    pub name: String,
    /// Keys of the `tun` plugin that both ends have.
    #[serde(default)]
    pub tunnel: Map<String, Value>,
    /// Exactly two.
    pub sides: Vec<Side>,
}

/// One end, and the cluster that it is in.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Side {
    /// What it is called in what is printed.
    pub name: String,
    /// The kubeconfig's context of its cluster; its name when absent.
    pub context: Option<String>,
    /// Namespace of its pods.
    #[serde(default = "default_namespace")]
    pub namespace: String,
    /// `deployment/NAME`, `statefulset/NAME` or `pod/NAME`, whose pod gets the network.
    pub workload: Option<Workload>,
    /// The node of its pods. By default the one where the workload has its pod.
    pub node: Option<String>,
    /// The interface below the tunnel.
    pub net1: Below,
    /// Where the other end sends to, as `address[:port]`; the address below the tunnel when absent.
    pub endpoint: Option<String>,
    /// Its address on the tunnel.
    pub address: IpNetwork,
    /// What it reaches through the tunnel, beside the tunnel's own subnet.
    #[serde(default)]
    pub routes: Vec<IpNetwork>,
    /// Keys of the `tun` plugin that only this end has.
    #[serde(default)]
    pub tunnel: Map<String, Value>,
    /// Its public key, where it is known already.
    pub public_key: Option<PublicKey>,
}

/// The interface below the tunnel.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Below {
    /// The plugin that makes it, with its keys: `type: bridge` and `isGateway: true`, for example.
    pub plugin: Map<String, Value>,
    /// Its address, with its prefix.
    pub address: IpNetwork,
    /// Next hop of its routes; the plugin's own gateway when absent.
    pub gateway: Option<std::net::IpAddr>,
    /// Networks behind it: the other side's, at least.
    #[serde(default)]
    pub routes: Vec<IpNetwork>,
}

/// Something that has pods.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Workload {
    /// What it is.
    pub kind: WorkloadKind,
    /// Its name.
    pub name: String,
}

/// What has pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkloadKind {
    Deployment,
    StatefulSet,
    /// Which cannot be annotated any more: networks are attached when it is made.
    Pod,
}

impl WorkloadKind {
    /// As manifests write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Deployment => "Deployment",
            Self::StatefulSet => "StatefulSet",
            Self::Pod => "Pod",
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.name(), self.name)
    }
}

impl TryFrom<String> for Workload {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let remedy = "write deployment/NAME, statefulset/NAME or pod/NAME";
        let (kind, name) = text.split_once('/').ok_or_else(|| format!("{text:?} names no workload; {remedy}"))?;
        let kind = match kind {
            "deployment" => WorkloadKind::Deployment,
            "statefulset" => WorkloadKind::StatefulSet,
            "pod" => WorkloadKind::Pod,
            _ => return Err(format!("{kind:?} is no kind of workload; {remedy}")),
        };
        named("workload", name)?;
        Ok(Self { kind, name: name.to_owned() })
    }
}

/// A name as Kubernetes has them (RFC 1123), which no program takes for an option either.
fn named(key: &str, name: &str) -> Result<(), String> {
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
    let is_end = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    if name.len() <= 253 && bytes.iter().copied().all(is_inner) && is_end(bytes.first()) && is_end(bytes.last()) {
        return Ok(());
    }
    Err(format!("{key}: {name:?} is no name; write lower case letters, digits, '-' and '.'"))
}

/// Whatever a kubeconfig may call it, on one line.
fn told(key: &str, text: &str) -> Result<(), String> {
    if text.is_empty() || text.starts_with('-') || text.chars().any(char::is_control) {
        return Err(format!("{key}: {text:?} is no name"));
    }
    Ok(())
}

fn default_namespace() -> String {
    "default".into()
}

impl Side {
    /// The file of its private key.
    pub fn key_file(&self, connection: &Connection) -> String {
        match self.tunnel.get("privateKeyFile").and_then(Value::as_str) {
            Some(file) => file.to_owned(),
            None => format!("{}.key", connection.name),
        }
    }

    /// The context of its cluster.
    pub fn context(&self) -> &str {
        self.context.as_deref().unwrap_or(&self.name)
    }
}

impl Connection {
    /// Reads a description; `-` is stdin.
    ///
    /// # Errors
    /// It cannot be read, is none, or describes what cannot be.
    pub fn read(path: &Path) -> Result<Self, String> {
        let named = |problem: &dyn ToString| format!("{}: {}", path.display(), problem.to_string());
        let mut text = String::new();
        if path == Path::new("-") {
            std::io::stdin().read_to_string(&mut text).map_err(|error| named(&error))?;
        } else {
            text = fs::read_to_string(path).map_err(|error| named(&error))?;
        }
        Self::parse(&text).map_err(|problem| named(&problem))
    }

    /// The same from text.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn parse(text: &str) -> Result<Self, String> {
        let connection: Self = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        let [one, other] = connection.ends()?;
        if one.name == other.name {
            return Err(format!("sides: both are called {}", one.name));
        }
        if one.context() == other.context() && one.namespace == other.namespace {
            return Err(format!(
                "sides: {} and {} would have a network {} each in namespace {} of one cluster; give one side another context or namespace",
                one.name, other.name, connection.name, one.namespace
            ));
        }
        named("name", &connection.name)?;
        for side in [one, other] {
            told("sides[].name", &side.name)?;
            told("context", side.context())?;
            named("namespace", &side.namespace)?;
            side.node.as_deref().map_or(Ok(()), |node| named("node", node))?;
        }
        manifests::check(&connection)?;
        Ok(connection)
    }

    /// Both sides.
    ///
    /// # Errors
    /// There are not two.
    pub fn ends(&self) -> Result<[&Side; 2], String> {
        match self.sides.as_slice() {
            [one, other] => Ok([one, other]),
            sides => Err(format!("sides: there are {}, and a connection has two", sides.len())),
        }
    }

    /// Whether its ends know each other by their keys.
    ///
    /// # Errors
    /// The configuration is refused.
    pub fn is_sealed(&self) -> Result<bool, String> {
        Ok(manifests::check(self)? != Encryption::None)
    }
}
