//! The clusters of `scripts/k8s`, as their users have them: by `kubectl`.

use std::{path::Path, process::Command, thread, time::Duration};

use adit_integration::scripts::root;
use adit_lab::{COMMAND_DEADLINE, Error, Ran, Result, eventually, nad::in_workspace, run};
use serde_json::Value;

/// How long pods may take to become ready, in a cluster that has nothing else to do.
pub const READY: Duration = Duration::from_secs(60);
/// Both clusters from nothing: 20 s alone, more beside other builds.
const UP: Duration = Duration::from_secs(400);

/// `scripts/k8s ARGUMENT…`.
pub fn k8s(arguments: &[&str], input: Option<&str>, deadline: Duration) -> Result<Ran> {
    let mut command = Command::new(root().join("scripts/k8s"));
    command.args(arguments).current_dir(root());
    run(command, input.map(str::as_bytes), deadline)
}

/// Both clusters as `scripts/k8s up OPTION…` starts them, with the programs in a directory. At once when they are up.
pub fn up(programs: &Path, options: &[&str]) -> Result<()> {
    let mut command = Command::new(root().join("scripts/k8s"));
    command.arg("up").args(options).env("ADIT_BIN_DIR", programs);
    run(command, None, UP)?.ok().map(drop)
}

/// A cluster, and its one node of the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cluster {
    pub name: &'static str,
    /// `net1` of the pod that the other cluster's tunnel leads to, as its annotation says it.
    pub net1: &'static str,
    /// The address of its end of the tunnel.
    pub inner: &'static str,
    pub pod: &'static str,
}

pub const OHIO: Cluster = Cluster { name: "ohio", net1: "10.10.1.200/24", inner: "10.4.0.1", pod: "plumbr-a" };
pub const MUMBAI: Cluster = Cluster { name: "mumbai", net1: "10.20.1.200/24", inner: "10.4.0.2", pod: "plumbr-b" };
pub const BOTH: [Cluster; 2] = [OHIO, MUMBAI];

/// Does the same in both clusters at once.
pub fn in_both(f: impl Fn(Cluster) -> Result<()> + Sync) -> Result<()> {
    let done = thread::scope(|scope| {
        BOTH.map(|cluster| {
            scope.spawn({
                let f = &f;
                move || f(cluster)
            })
        })
        .map(|one| one.join())
    });
    done.into_iter().try_for_each(|one| one.unwrap_or_else(|_| Err(Error::Unexpected("a thread panicked".to_owned()))))
}

impl Cluster {
    pub fn outer(self) -> &'static str {
        self.net1.trim_end_matches("/24")
    }

    /// `kubectl ARGUMENT…`, whatever becomes of it.
    pub fn kubectl(self, line: &str) -> Result<Ran> {
        let arguments: Vec<&str> = ["kubectl", self.name].into_iter().chain(line.split(' ')).collect();
        k8s(&arguments, None, READY + COMMAND_DEADLINE)
    }

    pub fn apply(self, namespace: &str, manifest: &str) -> Result<()> {
        let arguments = ["kubectl", self.name, "--namespace", namespace, "apply", "--filename", "-"];
        k8s(&arguments, Some(manifest), COMMAND_DEADLINE)?.ok().map(drop)
    }

    /// A command on the node.
    pub fn node(self, line: &[&str]) -> Result<Ran> {
        let arguments: Vec<&str> = ["exec", self.name].iter().chain(line).copied().collect();
        k8s(&arguments, None, COMMAND_DEADLINE)
    }

    /// The tunnels that the node's agent carries.
    pub fn tunnels(self) -> Result<Vec<Value>> {
        let status = self.node(&["adit", "status", "--json"])?.json()?;
        let tunnels = status.get("tunnels").and_then(Value::as_array).cloned();
        tunnels.ok_or_else(|| Error::Unexpected(format!("no tunnels in {status}")))
    }
}

/// A file of `conf/`.
pub fn conf(path: &str) -> Result<String> {
    let path = in_workspace(&Path::new("conf").join(path));
    std::fs::read_to_string(&path).map_err(|error| Error::Unexpected(format!("{}: {error}", path.display())))
}

/// A namespace in both clusters, of a trial's own, in which only pods under Pod Security `restricted` are admitted. Its
/// pods and itself are gone when it is dropped.
pub struct Stage {
    pub namespace: String,
}

impl Stage {
    pub fn new(namespace: &str) -> Result<Self> {
        let stage = Self { namespace: namespace.to_owned() };
        in_both(|cluster| {
            // Of an earlier run, whose clusters were kept.
            cluster.kubectl(&format!("delete namespace {namespace} --ignore-not-found --timeout=60s"))?.ok()?;
            cluster.kubectl(&format!("create namespace {namespace}"))?.ok()?;
            let label = "pod-security.kubernetes.io/enforce=restricted";
            cluster.kubectl(&format!("label namespace {namespace} {label}"))?.ok()?;
            // Pods are admitted from when their namespace has its account.
            eventually("the account of the namespace", COMMAND_DEADLINE, || {
                stage.kubectl(cluster, "get serviceaccount default")?.ok().map(|_| Some(()))
            })
        })?;
        Ok(stage)
    }

    pub fn kubectl(&self, cluster: Cluster, line: &str) -> Result<Ran> {
        cluster.kubectl(&format!("--namespace {} {line}", self.namespace))
    }

    pub fn apply(&self, cluster: Cluster, manifest: &str) -> Result<()> {
        cluster.apply(&self.namespace, manifest)
    }

    /// Applies the pod that a cluster has in `conf/`, attached to `network`.
    pub fn apply_pod(&self, cluster: Cluster, network: &str) -> Result<()> {
        self.apply_pod_with(cluster, network, cluster.net1)
    }

    /// The same with another address of `net1`.
    pub fn apply_pod_with(&self, cluster: Cluster, network: &str, net1: &str) -> Result<()> {
        let text = conf(&format!("pods/{}.yaml", cluster.pod))?;
        let text = text.replace(&format!("{}-bridge-tun", cluster.name), network);
        self.apply(cluster, &text.replace(cluster.net1, net1))
    }

    pub fn ready(&self, cluster: Cluster, what: &str) -> Result<()> {
        let line = format!("wait --for=condition=Ready --timeout={}s {what}", READY.as_secs());
        let ran = self.kubectl(cluster, &line)?;
        if !ran.success() {
            let events = self.kubectl(cluster, "get events")?.stdout;
            return Err(Error::Unexpected(format!("{}: {}\n{events}", cluster.name, ran.stderr)));
        }
        Ok(())
    }

    /// Runs a command in a pod, as its user.
    pub fn run(&self, cluster: Cluster, line: &str) -> Result<Ran> {
        self.kubectl(cluster, &format!("exec {} -- {line}", cluster.pod))
    }

    /// A pod's `net1` or tunnel answers. A first packet may be lost while a peer that has just come is looked for.
    pub fn reaches(&self, cluster: Cluster, address: &str) -> Result<()> {
        eventually(&format!("{address} from {}", cluster.name), Duration::from_secs(20), || {
            self.run(cluster, &format!("ping -c 3 -i 0.2 -W 2 {address}"))?.ok().map(Some)
        })
        .map(drop)
    }

    /// What Multus says of the pod's interfaces.
    pub fn network_status(&self, cluster: Cluster) -> Result<Vec<Value>> {
        let pod = self.kubectl(cluster, &format!("get pod {} --output json", cluster.pod))?.json()?;
        let text = pod["metadata"]["annotations"]["k8s.v1.cni.cncf.io/network-status"].as_str().unwrap_or_default();
        serde_json::from_str(text).map_err(|error| Error::Unexpected(format!("no network-status: {error}: {text}")))
    }

    /// Deletes every pod and waits until it is gone from its node.
    pub fn clear(&self) -> Result<()> {
        in_both(|cluster| {
            // What makes pods goes first.
            self.kubectl(cluster, "delete deployments --all --cascade=foreground --wait=false")?.ok()?;
            self.kubectl(cluster, "delete pods --all --grace-period=1 --timeout=60s")?.ok().map(drop)
        })
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Err(error) = self.clear() {
            eprintln!("{error}");
        }
        for cluster in BOTH {
            if let Err(error) = cluster.kubectl(&format!("delete namespace {} --wait=false", self.namespace)) {
                eprintln!("{error}");
            }
        }
    }
}
