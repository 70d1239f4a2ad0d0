//! A node: the namespace where plugins and the agent run.

use std::{
    ops::Deref,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use adit_cni::Attachment;
use serde_json::json;

use crate::{
    Binaries, Delegate, Manifests, Namespace, NodeNumber, Pod, PodBuilder, Result, Runtime, Snapshot,
    agent::Agent,
    annotation::Selection,
    ledger::Ledger,
    nad::{IntoNads, Store},
    topology::NodePlan,
};

/// A node of a cluster. It is a [`Namespace`] with the interface `up0`; it has a run directory, a CNI cache, plugins
/// and at most one agent of its own. Clones are the same node.
#[derive(Debug, Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    ledger: Arc<Ledger>,
    namespace: Namespace,
    name: String,
    cluster: String,
    number: NodeNumber,
    run_dir: PathBuf,
    config_dir: PathBuf,
    cache: PathBuf,
    log: PathBuf,
    store: Arc<Mutex<Store>>,
    plugin_path: Mutex<Option<Vec<PathBuf>>>,
    agent: Mutex<Agent>,
    default_addresses: AtomicU32,
}

impl Node {
    pub(crate) fn new(
        ledger: &Arc<Ledger>,
        namespace: Namespace,
        plan: &NodePlan,
        store: Arc<Mutex<Store>>,
    ) -> Result<Self> {
        let directory = ledger.directory(&plan.name)?;
        let inner = Inner {
            ledger: ledger.clone(),
            namespace,
            name: plan.name.clone(),
            cluster: plan.cluster.clone(),
            number: plan.number,
            run_dir: ledger.directory(Path::new(&plan.name).join("run"))?,
            config_dir: ledger.directory(Path::new(&plan.name).join("config"))?,
            cache: ledger.directory(Path::new(&plan.name).join("cni"))?,
            log: directory.join("aditd.log"),
            store,
            plugin_path: Mutex::default(),
            agent: Mutex::default(),
            default_addresses: AtomicU32::new(2),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// `ohio-1`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// `ohio`.
    #[must_use]
    pub fn cluster(&self) -> &str {
        &self.inner.cluster
    }

    /// Its place in the numbering: which networks its pods have.
    #[must_use]
    pub fn number(&self) -> NodeNumber {
        self.inner.number
    }

    /// ADIT_RUN_DIR of this node's plugins and agent.
    #[must_use]
    pub fn run_dir(&self) -> &Path {
        &self.inner.run_dir
    }

    /// ADIT_CONFIG_DIR of this node's agent and command line: keys, and the node's secret.
    #[must_use]
    pub fn config_dir(&self) -> &Path {
        &self.inner.config_dir
    }

    /// Directory of the runtime's caches: libcni's results, and Multus' delegates in `multus`.
    #[must_use]
    pub fn cache_dir(&self) -> &Path {
        &self.inner.cache
    }

    /// A pod on this node, to be completed by [`PodBuilder`].
    #[must_use]
    pub fn pod(&self, name: &str) -> PodBuilder {
        PodBuilder::new(self.clone(), name)
    }

    /// What `kubectl apply -f` would do: stores the definitions, and makes the pods on this node with the networks
    /// that they name. A relative path is taken from the workspace's root.
    ///
    /// # Errors
    /// The file cannot be used, or a network cannot be attached.
    pub fn apply(&self, path: impl AsRef<Path>) -> Result<Vec<Pod>> {
        let Manifests { nads, pods } = Manifests::read(path)?;
        self.store().apply(nads);
        pods.into_iter()
            .map(|pod| {
                let builder = self.pod(&pod.name).in_namespace(&pod.namespace);
                pod.networks
                    .as_deref()
                    .map_or_else(|| builder.clone().bare(), |networks| builder.clone().annotated(networks))
            })
            .collect()
    }

    /// Stores network attachment definitions in the node's cluster: a path, a [`crate::Nad`], or several.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn define(&self, nads: impl IntoNads) -> Result<()> {
        self.store().apply(nads.into_nads()?);
        Ok(())
    }

    /// Uses plugins of these directories, the first first, instead of the workspace's alone.
    pub fn set_plugin_path(&self, directories: &[&Path]) {
        *lock(&self.inner.plugin_path) = Some(directories.iter().map(|path| (*path).to_owned()).collect());
    }

    /// The runtime as it stands, to call verbs in an order that no kubelet would.
    ///
    /// # Errors
    /// The plugins cannot be built.
    pub fn runtime(&self) -> Result<Runtime> {
        let set = lock(&self.inner.plugin_path).clone();
        let plugin_path = match set {
            Some(path) => path,
            None => vec![Binaries::get()?.directory().to_owned()],
        };
        Ok(Runtime {
            node: self.inner.namespace.clone(),
            plugin_path,
            cache: self.inner.cache.clone(),
            environment: self.environment(),
        })
    }

    /// GC of a network on this node: every other attachment of it is stale.
    ///
    /// # Errors
    /// [`crate::Error::Verb`] with the plugins' answer.
    pub fn gc(&self, network: &str, valid: &[Attachment]) -> Result<()> {
        self.runtime()?.gc(&self.delegate(network)?, valid)
    }

    /// STATUS of a network on this node.
    ///
    /// # Errors
    /// [`crate::Error::Verb`] with the plugins' answer.
    pub fn network_status(&self, network: &str) -> Result<()> {
        self.runtime()?.status(&self.delegate(network)?)
    }

    /// Links, addresses and routes of the node, and the files of its run directory and of its configuration.
    ///
    /// # Errors
    /// They cannot be listed.
    pub fn snapshot(&self) -> Result<Snapshot> {
        self.network_snapshot()?.with_files(&self.inner.run_dir)?.with_files(&self.inner.config_dir)
    }

    /// Starts `aditd` in the node's namespace and waits until it answers on its socket.
    ///
    /// # Errors
    /// It is running already, it ends at once, or it does not listen in time; the error has the end of its log.
    pub fn start_agent(&self) -> Result<()> {
        self.start_agent_under(&[])
    }

    /// [`Node::start_agent`] through a program that executes it: `["setpriv", "--no-new-privs"]`.
    ///
    /// # Errors
    /// As [`Node::start_agent`].
    pub fn start_agent_under(&self, wrapper: &[&str]) -> Result<()> {
        let program = Binaries::get()?.program("aditd")?;
        let mut command = self.inner.namespace.command("env");
        command.args(self.environment().iter().map(|(key, value)| format!("{key}={value}")));
        command.args(wrapper).arg(program);
        let mut agent = lock(&self.inner.agent);
        agent.start(&self.inner.ledger, command, &self.inner.name, &self.inner.run_dir, &self.inner.log)
    }

    /// Starts another agent (`aditd --take-over`), and waits until the one before has given it everything and has ended.
    ///
    /// # Errors
    /// None runs, the other one cannot be started, or nobody gives way.
    pub fn upgrade_agent(&self) -> Result<()> {
        let program = Binaries::get()?.program("aditd")?;
        let mut command = self.inner.namespace.command("env");
        command.args(self.environment().iter().map(|(key, value)| format!("{key}={value}")));
        command.arg(program).arg("--take-over");
        lock(&self.inner.agent).upgrade(&self.inner.ledger, command, &self.inner.name, &self.inner.log)
    }

    /// Kills the agent (SIGKILL).
    ///
    /// # Errors
    /// It is not running, or does not end.
    pub fn kill_agent(&self) -> Result<()> {
        lock(&self.inner.agent).kill(&self.inner.ledger)
    }

    /// Stops the agent (SIGTERM; SIGKILL after 5 s).
    ///
    /// # Errors
    /// It is not running, or does not end.
    pub fn stop_agent(&self) -> Result<()> {
        lock(&self.inner.agent).stop(&self.inner.ledger)
    }

    /// Stops the agent and starts it again.
    ///
    /// # Errors
    /// As [`Node::stop_agent`] and [`Node::start_agent`].
    pub fn restart_agent(&self) -> Result<()> {
        self.stop_agent()?;
        self.start_agent()
    }

    /// The agent's pid, if it runs.
    #[must_use]
    pub fn agent_pid(&self) -> Option<i32> {
        lock(&self.inner.agent).pid()
    }

    /// What the agent has open.
    ///
    /// # Errors
    /// It is not running.
    pub fn agent_fds(&self) -> Result<crate::AgentDescriptors> {
        lock(&self.inner.agent).descriptors()
    }

    /// What the agent has logged since the lab was built.
    #[must_use]
    pub fn agent_log(&self) -> String {
        std::fs::read_to_string(&self.inner.log).unwrap_or_default()
    }

    /// Runs `adit` on the node, with its directories: `adit(["status"])`.
    ///
    /// # Errors
    /// It is not built, or does not end in time.
    pub fn adit<S: AsRef<std::ffi::OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Result<crate::Ran> {
        let mut command = self.inner.namespace.command(Binaries::get()?.program("adit")?);
        command.args(arguments).envs(self.environment());
        crate::command::run(command, None, crate::COMMAND_DEADLINE)
    }

    pub(crate) fn store(&self) -> MutexGuard<'_, Store> {
        lock(&self.inner.store)
    }

    pub(crate) fn ledger(&self) -> &Arc<Ledger> {
        &self.inner.ledger
    }

    /// The cluster's default network for one more pod: eth0 on a bridge of its own, as the documented pods have it.
    pub(crate) fn default_network(&self) -> Delegate {
        let host = self.inner.default_addresses.fetch_add(1, Ordering::Relaxed);
        let config = json!({
            "cniVersion": "1.0.0", "name": "cluster", "type": "bridge", "bridge": "cluster0",
            "isDefaultGateway": true, "mtu": 8901,
            "ipam": {"type": "static",
                     "addresses": [{"address": format!("10.128.{}.{host}/24", self.inner.number.node)}]}
        });
        Delegate { name: "cluster".into(), config, ifname: "eth0".into(), ips: Vec::new(), mac: None, default: true }
    }

    fn delegate(&self, network: &str) -> Result<Delegate> {
        let (namespace, name) = network.split_once('/').unwrap_or((crate::nad::DEFAULT_NAMESPACE, network));
        let selection = Selection { name: name.to_owned(), ..Selection::default() };
        let mut found = Delegate::select(&[selection], None, namespace, &self.store())?;
        found.pop().ok_or_else(|| crate::Error::Unexpected(format!("network {network} gives no delegate")))
    }

    fn environment(&self) -> Vec<(String, String)> {
        let inner = &self.inner;
        [("ADIT_RUN_DIR", &inner.run_dir), ("ADIT_CONFIG_DIR", &inner.config_dir)]
            .map(|(key, directory)| (key.to_owned(), directory.display().to_string()))
            .into()
    }
}

impl Deref for Node {
    type Target = Namespace;

    fn deref(&self) -> &Namespace {
        &self.inner.namespace
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
