//! Running lists of plugins as libcni does: what a container runtime, and Multus, do with a `.conflist`.
//!
//! ```no_run
//! use adit_cni::list::{NetworkList, Runner, RuntimeConf};
//!
//! let list = NetworkList::parse(&std::fs::read("net.conflist")?)?;
//! let runner = Runner {
//!     path: vec!["/opt/cni/bin".into()],
//!     cache_dir: "/var/lib/cni".into(),
//!     env: vec![],
//! };
//! let conf = RuntimeConf::new("c1".parse()?, Some("/run/netns/c1".into()), "net1".parse()?);
//! let result = runner.add(&list, &conf)?;
//! runner.del(&list, &conf)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod cache;
mod conflist;
mod runner;

use std::path::PathBuf;

use serde_json::{Map, Value};

pub use self::cache::CachedAttachment;
pub use self::runner::Runner;
use crate::env::{Attachment, Command, ContainerId, IfName, NetworkName};
use crate::error::Error;
use crate::version::Version;

/// A network: plugins that are called one after the other.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkList {
    /// The network's name, part of an attachment's identity and of the cache's file names.
    pub name: NetworkName,
    /// The highest of `cniVersion` and `cniVersions` that is spoken.
    pub version: Version,
    /// CHECK does nothing.
    pub disable_check: bool,
    /// GC does nothing.
    pub disable_gc: bool,
    /// The plugins' objects, each with a `type`.
    pub plugins: Vec<Map<String, Value>>,
    /// The document as it was read; it is kept in the cache.
    pub source: Vec<u8>,
}

/// What a runtime adds to a list for one attachment.
#[derive(Debug, Clone, PartialEq)]
pub struct RuntimeConf {
    /// `CNI_CONTAINERID`.
    pub container_id: ContainerId,
    /// `CNI_NETNS`; `None` is sent as an empty value.
    pub netns: Option<PathBuf>,
    /// `CNI_IFNAME`.
    pub ifname: IfName,
    /// `CNI_ARGS`, pair by pair.
    pub args: Vec<(String, String)>,
    /// What the runtime offers by capability. A plugin gets those that its `capabilities` declare, as
    /// `runtimeConfig`.
    pub capability_args: Map<String, Value>,
}

impl RuntimeConf {
    /// An attachment without `CNI_ARGS` and capabilities.
    pub fn new(container_id: ContainerId, netns: Option<PathBuf>, ifname: IfName) -> Self {
        Self { container_id, netns, ifname, args: Vec::new(), capability_args: Map::new() }
    }

    /// Container and interface.
    pub fn attachment(&self) -> Attachment {
        Attachment { container_id: self.container_id.clone(), ifname: self.ifname.clone() }
    }
}

/// Why a list could not be read or run.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ListError {
    /// The document is not a network configuration list.
    #[error("error parsing configuration list: {0}")]
    Parse(String),

    /// A file could not be read.
    #[error("error reading {}: {why}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The kernel's words.
        why: String,
    },

    /// A plugin failed. ADD leaves the plugins before it as they are: the caller runs DEL.
    #[error("plugin type={plugin:?} failed ({}): {source}", verb_word(*.command))]
    Plugin {
        /// The plugin's `type`.
        plugin: String,
        /// What it was asked.
        command: Command,
        /// Its own error: code, message, details.
        source: Error,
    },

    /// The version is older than the verb.
    #[error("configuration version {version:?} does not support the {command} command", version = .version.as_str())]
    Unsupported {
        /// The list's version.
        version: Version,
        /// The verb.
        command: Command,
    },

    /// The result of ADD could not be kept or read back.
    #[error("network {network:?} cached result {}: {why}", path.display(), network = .network.as_str())]
    Cache {
        /// The network.
        network: NetworkName,
        /// The cache's file.
        path: PathBuf,
        /// Why.
        why: String,
    },

    /// GC: everything that failed; the rest was done.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Several(Vec<ListError>),
}

impl ListError {
    /// The plugin's own error, if it was a plugin that failed (the first one, of several).
    pub fn plugin_error(&self) -> Option<&Error> {
        match self {
            Self::Plugin { source, .. } => Some(source),
            Self::Several(errors) => errors.iter().find_map(Self::plugin_error),
            _ => None,
        }
    }
}

/// The verbs as libcni names them in its errors.
fn verb_word(command: Command) -> &'static str {
    match command {
        Command::Add => "add",
        Command::Check => "check",
        Command::Del => "delete",
        Command::Gc => "gc",
        Command::Status => "status",
        Command::Version => "version",
    }
}
