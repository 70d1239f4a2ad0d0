//! Runs a pod's networks like Multus in its thin form: delegates in order, each list through libcni's rules, a cache
//! of what was attached, and everything undone in reverse when one fails.
//!
//! Source: multus-cni 4.3.0 `pkg/multus/multus.go` (`CmdAdd`, `DelegateAdd`, `CmdDel`, `delPlugins`).

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use adit_cni::{
    Attachment, CniResult, ContainerId, IfName,
    list::{ListError, NetworkList, Runner, RuntimeConf},
};

use crate::{Delegate, Error, Namespace, NetworkStatus, PodIdentity, Result, status::network_status};

/// The runtime of a node: plugins run in the node's namespace.
#[derive(Debug, Clone)]
pub struct Runtime {
    pub(crate) node: Namespace,
    pub(crate) plugin_path: Vec<PathBuf>,
    pub(crate) cache: PathBuf,
    pub(crate) environment: Vec<(String, String)>,
}

/// A network that is attached.
#[derive(Debug, Clone)]
pub struct Attached {
    /// The network, as it was handed to its plugins.
    pub delegate: Delegate,
    /// The last plugin's result.
    pub result: CniResult,
}

impl Attached {
    /// Its entries in the pod's network status.
    #[must_use]
    pub fn status(&self) -> Vec<NetworkStatus> {
        network_status(&self.delegate.name, self.delegate.default, &self.result)
    }
}

impl Runtime {
    /// Attaches the networks in order. When one fails it and the earlier ones are detached, last first.
    ///
    /// # Errors
    /// [`Error::Attach`] with the plugin's error, or with Multus' where the interface's name is taken.
    pub fn add(&self, pod: &PodIdentity, netns: &Namespace, delegates: &[Delegate]) -> Result<Vec<Attached>> {
        self.remember(pod, delegates)?;
        let mut attached = Vec::new();
        for (delegate, count) in delegates.iter().zip(1_usize..) {
            match self.add_one(pod, netns, delegate) {
                Ok(result) => attached.push(Attached { delegate: delegate.clone(), result }),
                Err(error) => {
                    let started = delegates.get(..count).unwrap_or(delegates);
                    let undo = self.del_each(pod, Some(netns.path()), started);
                    self.forget(pod)?;
                    return Err(Error::Attach {
                        network: delegate.name.clone(),
                        ifname: delegate.ifname.clone(),
                        pod: format!("{}/{}", pod.namespace, pod.name),
                        error,
                        undo,
                    });
                }
            }
        }
        Ok(attached)
    }

    /// Detaches what the cache says is attached, last network first, each with the configuration of its ADD. Without
    /// a cache no plugin is called. `netns` is `None` when the namespace is gone.
    ///
    /// # Errors
    /// [`Error::Verb`] with what each network answered; all were asked, and the cache is gone.
    pub fn del(&self, pod: &PodIdentity, netns: Option<&Path>) -> Result<()> {
        let Some(delegates) = self.remembered(pod)? else { return Ok(()) };
        let failures = self.del_each(pod, netns, &delegates);
        self.forget(pod)?;
        verb_result("DEL", &pod.name, failures)
    }

    /// DEL of these networks, the last first, whether or not the runtime remembers them: what Multus does for a pod that
    /// is still known when its own cache is lost.
    ///
    /// # Errors
    /// [`Error::Verb`] with what each network answered.
    pub fn del_delegates(&self, pod: &PodIdentity, netns: Option<&Path>, delegates: &[Delegate]) -> Result<()> {
        verb_result("DEL", &pod.name, self.del_each(pod, netns, delegates))
    }

    /// Checks every attached network. (Multus itself asks only the cluster's networks; CRI-O and others ask all.)
    ///
    /// # Errors
    /// [`Error::Verb`] with what each network answered.
    pub fn check(&self, pod: &PodIdentity, netns: &Namespace) -> Result<()> {
        let delegates = self.remembered(pod)?.unwrap_or_default();
        let failures = self.each(&delegates, |runner, list, delegate| {
            runner.check(list, &self.conf(pod, Some(netns.path()), delegate, false)?).map_err(Into::into)
        });
        verb_result("CHECK", &pod.name, failures)
    }

    /// GC of a network with these attachments as the valid ones.
    ///
    /// # Errors
    /// [`Error::Verb`] with the plugins' answer.
    pub fn gc(&self, network: &Delegate, valid: &[Attachment]) -> Result<()> {
        let only = std::slice::from_ref(network);
        let failures = self.each(only, |runner, list, _| runner.gc(list, valid).map_err(Into::into));
        verb_result("GC", self.node.netns_name(), failures)
    }

    /// STATUS of a network.
    ///
    /// # Errors
    /// [`Error::Verb`] with the plugins' answer.
    pub fn status(&self, network: &Delegate) -> Result<()> {
        let only = std::slice::from_ref(network);
        let failures = self.each(only, |runner, list, _| runner.status(list).map_err(Into::into));
        verb_result("STATUS", self.node.netns_name(), failures)
    }

    /// What the cache says is attached to a pod; `None` where there is no cache.
    ///
    /// # Errors
    /// The cache cannot be read.
    pub fn remembered(&self, pod: &PodIdentity) -> Result<Option<Vec<Delegate>>> {
        let path = self.delegates_file(pod);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            text => text.map_err(Error::io(format!("read {}", path.display())))?,
        };
        serde_json::from_slice(&text).map(Some).map_err(|error| Error::manifest(&path.display().to_string(), error))
    }

    /// Removes Multus' cache of a pod, as a reboot does: the next DEL calls no plugin.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn forget(&self, pod: &PodIdentity) -> Result<()> {
        let path = self.delegates_file(pod);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(Error::io(format!("remove {}", path.display()))(error))
            }
            _ => Ok(()),
        }
    }

    /// The identity of one attachment, for GC's list of valid ones.
    ///
    /// # Errors
    /// The identifiers do not follow the CNI specification.
    pub fn attachment(pod: &PodIdentity, delegate: &Delegate) -> Result<Attachment> {
        identity(pod, delegate).map_err(|error| Error::Unexpected(error.to_string()))
    }

    fn add_one(&self, pod: &PodIdentity, netns: &Namespace, delegate: &Delegate) -> PluginResult<CniResult> {
        let taken = netns.run_inside(|| nix::net::if_::if_nametoindex(delegate.ifname.as_str()).is_ok())?;
        if taken {
            // Multus' own words; no plugin is run.
            return Err(format!("validateIfName: interface name {} already exists", delegate.ifname).into());
        }
        let conf = self.conf(pod, Some(netns.path()), delegate, true)?;
        let list = network_list(delegate)?;
        Ok(self.on_node(|runner| runner.add(&list, &conf))??)
    }

    fn del_each(&self, pod: &PodIdentity, netns: Option<&Path>, delegates: &[Delegate]) -> Vec<String> {
        let last_first: Vec<Delegate> = delegates.iter().rev().cloned().collect();
        self.each(&last_first, |runner, list, delegate| {
            runner.del(list, &self.conf(pod, netns, delegate, false)?).map_err(Into::into)
        })
    }

    /// Runs `verb` for every network and collects the failures.
    fn each(
        &self,
        delegates: &[Delegate],
        verb: impl Fn(&Runner, &NetworkList, &Delegate) -> PluginResult<()> + Sync,
    ) -> Vec<String> {
        let one = |delegate: &Delegate| -> PluginResult<()> {
            let list = network_list(delegate)?;
            self.on_node(|runner| verb(runner, &list, delegate))?
        };
        delegates
            .iter()
            .filter_map(|delegate| {
                one(delegate).err().map(|error| format!("{} ({}): {error}", delegate.name, delegate.ifname))
            })
            .collect()
    }

    fn on_node<T: Send>(&self, f: impl FnOnce(&Runner) -> T + Send) -> Result<T> {
        let runner =
            Runner { path: self.plugin_path.clone(), cache_dir: self.cache.clone(), env: self.environment.clone() };
        self.node.run_inside(|| f(&runner))
    }

    fn conf(
        &self,
        pod: &PodIdentity,
        netns: Option<&Path>,
        delegate: &Delegate,
        is_add: bool,
    ) -> PluginResult<RuntimeConf> {
        let Attachment { container_id, ifname } = identity(pod, delegate)?;
        Ok(RuntimeConf {
            container_id,
            netns: netns.map(Path::to_owned),
            ifname,
            args: delegate.arguments(pod, is_add),
            capability_args: delegate.capability_arguments(),
        })
    }

    fn remember(&self, pod: &PodIdentity, delegates: &[Delegate]) -> Result<()> {
        let path = self.delegates_file(pod);
        let failed = || Error::io(format!("write {}", path.display()));
        let text = serde_json::to_vec(delegates).map_err(|error| failed()(error.into()))?;
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(failed())?;
        }
        fs::write(&path, text).map_err(failed())
    }

    fn delegates_file(&self, pod: &PodIdentity) -> PathBuf {
        self.cache.join("multus").join(&pod.container_id)
    }
}

type PluginResult<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn network_list(delegate: &Delegate) -> std::result::Result<NetworkList, ListError> {
    let text = delegate.config.to_string();
    if delegate.is_list() { NetworkList::parse(text.as_bytes()) } else { NetworkList::from_conf(text.as_bytes()) }
}

fn identity(pod: &PodIdentity, delegate: &Delegate) -> PluginResult<Attachment> {
    let container_id: ContainerId = pod.container_id.parse()?;
    let ifname: IfName = delegate.ifname.parse()?;
    Ok(Attachment { container_id, ifname })
}

fn verb_result(verb: &'static str, subject: &str, failures: Vec<String>) -> Result<()> {
    if failures.is_empty() { Ok(()) } else { Err(Error::Verb { verb, subject: subject.to_owned(), failures }) }
}
