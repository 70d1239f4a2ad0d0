//! A pod: a namespace with a process in it that has no privilege at all.

use std::{
    env,
    ffi::OsStr,
    fs,
    ops::Deref,
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use serde_json::Value;

use crate::{
    Attached, Capabilities, Delegate, Error, Namespace, NetworkStatus, Node, PodIdentity, Ran, Result, Runtime,
    annotation, capabilities,
    command::{COMMAND_DEADLINE, command_line, run},
    eventually,
    nad::{DEFAULT_NAMESPACE, IntoNads},
    process::ProcessMark,
};

/// Becomes nobody: no user, no group, no capability in any set, and no way to get one back by executing something.
const UNPRIVILEGED: [&str; 9] = [
    "setpriv",
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
    "--inh-caps=-all",
    "--ambient-caps=-all",
    "--bounding-set=-all",
    "--no-new-privs",
    "--",
];

/// A pod on a node. It is a [`Namespace`]; [`Pod::run`] runs commands in it without any privilege.
///
/// Dropping the value leaves the pod; it goes with the lab, or by [`Pod::delete`].
#[derive(Debug)]
pub struct Pod {
    node: Node,
    identity: PodIdentity,
    namespace: Namespace,
    process: ProcessMark,
    default_network: Option<Delegate>,
    attached: Vec<Attached>,
}

/// A pod that is about to be made.
#[derive(Debug, Clone)]
pub struct PodBuilder {
    node: Node,
    name: String,
    namespace: String,
    default_network: bool,
}

impl PodBuilder {
    pub(crate) fn new(node: Node, name: &str) -> Self {
        Self { node, name: name.to_owned(), namespace: DEFAULT_NAMESPACE.to_owned(), default_network: false }
    }

    /// Its Kubernetes namespace; `default` where nothing is said.
    #[must_use]
    pub fn in_namespace(mut self, namespace: &str) -> Self {
        namespace.clone_into(&mut self.namespace);
        self
    }

    /// With an `eth0` in the cluster's default network (10.128.n.0/24, MTU 8901), which has the default route.
    #[must_use]
    pub fn with_default_network(mut self) -> Self {
        self.default_network = true;
        self
    }

    /// Defines networks in the cluster and makes the pod with this annotation. When a network cannot be attached
    /// the pod is removed again.
    ///
    /// # Errors
    /// [`Error::Attach`] with the plugin's answer; or the definitions or the annotation cannot be read.
    pub fn attach(self, nads: impl IntoNads, networks: &str) -> Result<Pod> {
        self.node.define(nads)?;
        self.annotated(networks)
    }

    /// Makes the pod with this annotation, of networks that are defined already.
    ///
    /// # Errors
    /// As [`PodBuilder::attach`].
    pub fn annotated(self, networks: &str) -> Result<Pod> {
        let mut pod = self.bare()?;
        match pod.attach_defined(networks) {
            Ok(()) => Ok(pod),
            Err(error) => {
                // The first error is the one that counts; what is left goes with the lab.
                let _ = pod.delete();
                Err(error)
            }
        }
    }

    /// Makes the pod without any network; [`Pod::attach`] may follow.
    ///
    /// # Errors
    /// The namespace or its process cannot be made.
    pub fn bare(self) -> Result<Pod> {
        let number = next_number();
        let ledger = self.node.ledger();
        let namespace = Namespace::create(ledger, &self.name)?;
        namespace.ip_batch(&["link set lo up".to_owned()])?;
        // As container runtimes set it: ping without a capability.
        namespace.sysctl("net/ipv4/ping_group_range", "0 2147483647")?;

        let mut command = unprivileged(&self.node, &namespace, ["sleep", "infinity"])?;
        let line = command_line(&command);
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(|source| Error::Start { command: line, source })?;
        let process = ledger.add_process(child, &format!("pod {}", self.name))?;
        eventually(&format!("pod {} to run", self.name), COMMAND_DEADLINE, || {
            let comm = fs::read_to_string(format!("/proc/{}/comm", process.pid))
                .map_err(Error::io(format!("look at the process of pod {}", self.name)))?;
            Ok((comm.trim() == "sleep").then_some(()))
        })?;
        let identity = PodIdentity {
            container_id: format!("{}-{}-{number}", ledger.prefix(), self.name),
            uid: format!("00000000-0000-4000-8000-{number:012x}"),
            name: self.name,
            namespace: self.namespace,
        };
        let default_network = self.default_network.then(|| self.node.default_network());
        Ok(Pod { node: self.node, identity, namespace, process, default_network, attached: Vec::new() })
    }
}

impl Pod {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.identity.name
    }

    /// Name, namespace, UID and CNI_CONTAINERID.
    #[must_use]
    pub fn identity(&self) -> &PodIdentity {
        &self.identity
    }

    /// Its node.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// The pid of its process.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.process.pid
    }

    /// Runs a command as the pod's own user: uid and gid 65534, no capability, no new privileges.
    ///
    /// # Errors
    /// It cannot be started, or does not end in time. A command that fails is a result ([`Ran::ok`]).
    pub fn run<S: AsRef<OsStr>>(&self, line: impl IntoIterator<Item = S>) -> Result<Ran> {
        self.run_for(COMMAND_DEADLINE, line)
    }

    /// [`Pod::run`] with another deadline than 30 s.
    ///
    /// # Errors
    /// As [`Pod::run`].
    pub fn run_for<S: AsRef<OsStr>>(&self, deadline: Duration, line: impl IntoIterator<Item = S>) -> Result<Ran> {
        run(unprivileged(&self.node, &self.namespace, line)?, None, deadline)
    }

    /// Starts a long-lived command as the pod's own user; it ends with the returned value.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn<S: AsRef<OsStr>>(&self, line: impl IntoIterator<Item = S>) -> Result<crate::Background> {
        crate::Background::start(self.node.ledger(), unprivileged(&self.node, &self.namespace, line)?, self.name())
    }

    /// Starts a long-lived command as root in the pod's network, as a neighbour with every right would; it ends with the
    /// returned value.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn_as_root<S: AsRef<OsStr>>(&self, line: impl IntoIterator<Item = S>) -> Result<crate::Background> {
        let mut command = self.namespace.command("env");
        command.args(line);
        crate::Background::start(self.node.ledger(), command, self.name())
    }

    /// User, capability sets and `no_new_privs` of the pod's process, as the kernel sees them.
    ///
    /// # Errors
    /// The process has ended.
    pub fn capabilities(&self) -> Result<Capabilities> {
        capabilities::of(self.process.pid)
    }

    /// Defines networks in the cluster and attaches those of the annotation, after the default network if the pod
    /// has one.
    ///
    /// # Errors
    /// [`Error::Attach`]: the pod has no network then; or the definitions or the annotation cannot be read.
    pub fn attach(&mut self, nads: impl IntoNads, networks: &str) -> Result<()> {
        self.node.define(nads)?;
        self.attach_defined(networks)
    }

    /// [`Pod::attach`] with networks that are defined already.
    ///
    /// # Errors
    /// As [`Pod::attach`].
    pub fn attach_defined(&mut self, networks: &str) -> Result<()> {
        let delegates = self.delegates(networks)?;
        self.attached = self.runtime()?.add(&self.identity, &self.namespace, &delegates)?;
        Ok(())
    }

    /// The networks of an annotation as they would be handed to plugins, for calls through [`Pod::runtime`].
    ///
    /// # Errors
    /// The annotation cannot be read, or names an unknown network.
    pub fn delegates(&self, networks: &str) -> Result<Vec<Delegate>> {
        let selections = annotation::parse(networks)?;
        Delegate::select(&selections, self.default_network.clone(), &self.identity.namespace, &self.node.store())
    }

    /// The runtime of the pod's node.
    ///
    /// # Errors
    /// The plugins cannot be built.
    pub fn runtime(&self) -> Result<Runtime> {
        self.node.runtime()
    }

    /// The attached networks with their results.
    #[must_use]
    pub fn attached(&self) -> &[Attached] {
        &self.attached
    }

    /// The annotation `k8s.v1.cni.cncf.io/network-status`.
    #[must_use]
    pub fn network_status(&self) -> Vec<NetworkStatus> {
        self.attached.iter().flat_map(Attached::status).collect()
    }

    /// CHECK of every attached network.
    ///
    /// # Errors
    /// [`Error::Verb`] with the plugins' answers.
    pub fn check(&self) -> Result<()> {
        self.runtime()?.check(&self.identity, &self.namespace)
    }

    /// DEL of every attached network; the pod stays. Calling it again calls no plugin (the cache is gone).
    ///
    /// # Errors
    /// [`Error::Verb`] with the plugins' answers.
    pub fn detach(&mut self) -> Result<()> {
        self.attached.clear();
        self.runtime()?.del(&self.identity, Some(self.namespace.path()))
    }

    /// Deletes the pod as a kubelet does: DEL, then its process, then its namespace.
    ///
    /// # Errors
    /// The first part that fails; the later parts are done all the same.
    pub fn delete(mut self) -> Result<()> {
        let detached = if self.has_cache()? { self.detach() } else { Ok(()) };
        let gone = self.vanish();
        detached.and(gone)
    }

    /// The pod's process and the name of its namespace go without any DEL: what holds a descriptor into the
    /// namespace keeps it alive.
    ///
    /// # Errors
    /// The process does not end, or the name cannot be removed.
    pub fn vanish(&self) -> Result<()> {
        let ledger = self.node.ledger();
        let ended = ledger.end_process(self.process, Duration::from_secs(2));
        ended.and(ledger.remove_namespace(self.namespace.netns_name()))
    }

    /// Removes Multus' cache of this pod: the next DEL calls no plugin.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn forget_cache(&self) -> Result<()> {
        self.runtime()?.forget(&self.identity)
    }

    /// Output of `ip -j …` in the pod: `ip_json(["addr", "show", "tun"])`.
    ///
    /// # Errors
    /// `ip` fails.
    pub fn ip_json<S: AsRef<str>>(&self, arguments: impl IntoIterator<Item = S>) -> Result<Value> {
        crate::observe::ip_json(&self.namespace, arguments)
    }

    fn has_cache(&self) -> Result<bool> {
        Ok(self.node.cache_dir().join("multus").join(&self.identity.container_id).exists())
    }
}

impl Deref for Pod {
    type Target = Namespace;

    fn deref(&self) -> &Namespace {
        &self.namespace
    }
}

fn unprivileged<S: AsRef<OsStr>>(
    node: &Node,
    namespace: &Namespace,
    line: impl IntoIterator<Item = S>,
) -> Result<Command> {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", namespace.path().display())).arg("--").args(UNPRIVILEGED).args(line);
    let programs = programs(node)?;
    let path = env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{}:{path}", programs.display()));
    // The lab's files are none of the pod's business.
    command.current_dir("/");
    Ok(command)
}

/// A directory with the programs that the system gives file capabilities: the kernel refuses to execute those when
/// the bounding set lacks the capability (capabilities(7), "Capability-dumb binaries"). Copies have none, as in the
/// image of a container.
fn programs(node: &Node) -> Result<PathBuf> {
    let directory = node.ledger().directory("bin")?;
    let copy = directory.join("ping");
    if !copy.exists() {
        let path = env::var("PATH").unwrap_or_default();
        let ping = env::split_paths(&path).map(|directory| directory.join("ping")).find(|ping| ping.is_file());
        let ping = ping
            .ok_or_else(|| Error::Start { command: "ping".to_owned(), source: std::io::ErrorKind::NotFound.into() })?;
        // Renamed into place: two pods may be made at the same time.
        let new = directory.join(format!("ping-{}", next_number()));
        let failed = || Error::io(format!("copy {} to {}", ping.display(), copy.display()));
        fs::copy(&ping, &new).map_err(failed())?;
        fs::rename(&new, &copy).map_err(failed())?;
    }
    Ok(directory)
}

fn next_number() -> u32 {
    static COUNTER: AtomicU32 = AtomicU32::new(1);
    COUNTER.fetch_add(1, Ordering::Relaxed)
}
