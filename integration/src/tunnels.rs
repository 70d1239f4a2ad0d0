//! The words of the tunnel tests: networks with a tunnel on top, and two pods that it joins.

use std::{
    fmt::Display,
    net::IpAddr,
    path::{Path, PathBuf},
};

use adit_cni::Version;
use adit_lab::{
    AgentDescriptors, Attachment, Binaries, COMMAND_DEADLINE, Error, Host, Lab, LabSpec, Nad, Node, Pod, PodBuilder,
    Ran, Result, Snapshot, eventually, run,
};
use serde_json::{Value, json};

/// An IP version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The one of `both` (IPv4 first) that is of this version.
    pub fn of<T: Clone>(self, both: &[T; 2]) -> T {
        let [four, six] = both.clone();
        match self {
            Self::V4 => four,
            Self::V6 => six,
        }
    }
}

/// Host number of the first pod of a test in its node's network, as in the documented example: 10.10.1.200.
pub const FIRST_POD: u8 = 200;

/// The outer address of a node's pod.
#[must_use]
pub fn outer(node: &Node, family: Family, host: u8) -> IpAddr {
    family.of(&node.number().pods(Host(host))).ip()
}

/// The first plugin of a list: `net1` of a node's pods, with routes to every other pod network of the lab.
#[must_use]
pub fn net1(lab: &Lab, node: &Node) -> Value {
    let others = lab.nodes().iter().filter(|other| other.name() != node.name());
    let gateways = node.number().gateway();
    let routes: Vec<Value> = others
        .flat_map(|other| other.number().pods(Host(0)))
        .map(|network| {
            let gateway = if network.is_ipv4() { gateways[0] } else { gateways[1] };
            json!({ "dst": network.to_string(), "gw": gateway.to_string() })
        })
        .collect();
    let mut plugin = match lab.attachment() {
        Attachment::Bridge => json!({ "type": "bridge", "isGateway": true }),
        Attachment::Macvlan => json!({ "type": "macvlan", "master": "up0" }),
    };
    plugin["capabilities"] = json!({ "ips": true });
    plugin["ipam"] = json!({ "type": "static", "routes": routes });
    plugin
}

/// A `tun` object with one peer and one inner address.
#[must_use]
pub fn tun(remote: IpAddr, inner: &str) -> Value {
    json!({
        "type": "tun", "encap": "udp", "encryption": "none", "remote": remote.to_string(),
        "ipam": { "type": "static", "addresses": [{ "address": inner }] },
    })
}

/// `base` with `changes` merged into it; `null` removes a key.
#[must_use]
pub fn with(mut base: Value, changes: &Value) -> Value {
    for (key, value) in changes.as_object().into_iter().flatten() {
        if value.is_null() {
            base.as_object_mut().map(|map| map.remove(key));
        } else {
            base[key] = value.clone();
        }
    }
    base
}

/// A definition of a list of plugins.
#[must_use]
pub fn list(name: &str, plugins: &[Value]) -> Nad {
    Nad::new(name, json!({ "cniVersion": "1.1.0", "plugins": plugins }))
}

/// The annotation that attaches a pod with host number `host` to a network, with both its outer addresses.
#[must_use]
pub fn annotation(network: &str, node: &Node, host: u8) -> String {
    let ips: Vec<String> = node.number().pods(Host(host)).iter().map(ToString::to_string).collect();
    json!([{ "name": network, "ips": ips }]).to_string()
}

/// Inner addresses of the two ends of a tunnel.
#[must_use]
pub fn inner_pair(family: Family) -> [&'static str; 2] {
    match family {
        Family::V4 => ["10.4.0.1/30", "10.4.0.2/30"],
        Family::V6 => ["fd04::1/64", "fd04::2/64"],
    }
}

/// Two clusters with an agent each.
///
/// # Errors
/// The lab cannot be built, or an agent does not start.
pub fn lab_with_agents(spec: &LabSpec) -> Result<Lab> {
    let lab = Lab::build(spec)?;
    for node in lab.nodes() {
        node.start_agent()?;
    }
    Ok(lab)
}

/// A pod in Ohio and one in Mumbai with a tunnel between them.
pub struct Pair {
    /// Ohio's pod.
    pub ohio: Pod,
    /// Mumbai's pod.
    pub mumbai: Pod,
    /// The lab around them; it goes last.
    pub lab: Lab,
}

impl Pair {
    /// Two pods whose tunnel uses `outside` below and `inside` within.
    ///
    /// # Errors
    /// Anything on the way.
    pub fn up(attachment: Attachment, outside: Family, inside: Family) -> Result<Self> {
        Self::with_tun(attachment, outside, inside, &json!({}))
    }

    /// The same, with `changes` merged into both `tun` objects.
    ///
    /// # Errors
    /// Anything on the way.
    pub fn with_tun(attachment: Attachment, outside: Family, inside: Family, changes: &Value) -> Result<Self> {
        let lab = lab_with_agents(&LabSpec::two_clusters(attachment))?;
        let [here, there] = inner_pair(inside);
        let ohio = Self::pod(&lab, lab.ohio(), lab.mumbai(), outside, here, changes)?;
        let mumbai = Self::pod(&lab, lab.mumbai(), lab.ohio(), outside, there, changes)?;
        Ok(Self { ohio, mumbai, lab })
    }

    /// The usual pair: bridge, IPv4 outside and inside.
    ///
    /// # Errors
    /// Anything on the way.
    pub fn usual() -> Result<Self> {
        Self::up(Attachment::Bridge, Family::V4, Family::V4)
    }

    fn pod(lab: &Lab, node: &Node, peer: &Node, outside: Family, inner: &str, changes: &Value) -> Result<Pod> {
        let tun = with(tun(outer(peer, outside, FIRST_POD), inner), changes);
        let nad = list("tunnelled", &[net1(lab, node), tun]);
        node.pod(&format!("{}-a", node.cluster())).attach(nad, &annotation("tunnelled", node, FIRST_POD))
    }
}

/// The tunnels of a node as `adit status --json` tells them.
///
/// # Errors
/// The command fails.
pub fn tunnels(node: &Node) -> Result<Vec<Value>> {
    let document = node.adit(["status", "--json"])?.json()?;
    Ok(document["tunnels"].as_array().cloned().unwrap_or_default())
}

/// How many datagrams a node's tunnels dropped for `reason`.
///
/// # Errors
/// The command fails.
pub fn dropped(node: &Node, reason: &str) -> Result<u64> {
    Ok(tunnels(node)?.iter().filter_map(|tunnel| tunnel["drops"][reason].as_u64()).sum())
}

/// A plugin called by hand: as a runtime would call it, with nothing before or after it.
#[derive(Debug, Clone)]
pub struct Call {
    node: Node,
    plugin: String,
    container: String,
    netns: PathBuf,
    path: Vec<PathBuf>,
    wrapper: Vec<String>,
    arguments: String,
}

impl Call {
    /// A plugin on a node, for a container that has no other name, with the node's own namespace as CNI_NETNS.
    ///
    /// # Errors
    /// The plugins cannot be built.
    pub fn on(node: &Node, plugin: &str) -> Result<Self> {
        Ok(Self {
            node: node.clone(),
            plugin: plugin.to_owned(),
            container: "by-hand".to_owned(),
            netns: node.path().to_owned(),
            path: vec![Binaries::get()?.directory().to_owned()],
            wrapper: Vec::new(),
            arguments: String::new(),
        })
    }

    /// `tun` on a pod's net1.
    ///
    /// # Errors
    /// The plugins cannot be built.
    pub fn tun(pod: &Pod) -> Result<Self> {
        let call = Self::on(pod.node(), "tun")?;
        Ok(Self { container: pod.identity().container_id.clone(), ..call }.in_netns(pod.path()))
    }

    /// With another CNI_NETNS; an empty one is what a runtime gives when the namespace is gone.
    #[must_use]
    pub fn in_netns(mut self, netns: impl AsRef<Path>) -> Self {
        netns.as_ref().clone_into(&mut self.netns);
        self
    }

    /// With plugins of this directory before the workspace's own.
    #[must_use]
    pub fn with_plugins_of(mut self, directory: &Path) -> Self {
        self.path.insert(0, directory.to_owned());
        self
    }

    /// With these CNI_ARGS: `K8S_POD_NAMESPACE=a;K8S_POD_NAME=b`.
    #[must_use]
    pub fn with_arguments(mut self, arguments: &str) -> Self {
        arguments.clone_into(&mut self.arguments);
        self
    }

    /// Through a program that executes it: `["timeout", "0.1"]`.
    #[must_use]
    pub fn under(mut self, wrapper: &[&str]) -> Self {
        self.wrapper = wrapper.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// Runs it with `stdin`, JSON or not.
    ///
    /// # Errors
    /// It cannot be started, or does not end in time.
    pub fn run(&self, verb: &str, stdin: &(impl Display + ?Sized)) -> Result<Ran> {
        let mut command = self.node.command("env");
        command.args(&self.wrapper).arg(Binaries::get()?.program(&self.plugin)?);
        command.envs([("CNI_COMMAND", verb), ("CNI_CONTAINERID", &self.container), ("CNI_IFNAME", "net1")]);
        let path: Vec<String> = self.path.iter().map(|directory| directory.display().to_string()).collect();
        command.env("CNI_PATH", path.join(":")).env("CNI_NETNS", &self.netns);
        command.env("CNI_ARGS", &self.arguments).env("ADIT_RUN_DIR", self.node.run_dir());
        run(command, Some(stdin.to_string().as_bytes()), COMMAND_DEADLINE)
    }

    /// Runs it; it must fail, and its error must have this code and contain all of `words`.
    ///
    /// # Errors
    /// It succeeds, or fails with something else.
    pub fn fails(&self, verb: &str, stdin: &Value, code: u64, words: &[&str]) -> Result<()> {
        let said = self.run(verb, stdin)?.fails()?.stdout;
        let error: Value = serde_json::from_str(&said)
            .map_err(|problem| Error::Unexpected(format!("{} printed no error: {problem}: {said}", self.plugin)))?;
        let text = format!("{}; {}", error["msg"].as_str().unwrap_or(""), error["details"].as_str().unwrap_or(""));
        match words.iter().find(|word| !text.contains(**word)) {
            Some(word) => Err(Error::Unexpected(format!("{word:?} is missing in: {text}"))),
            None if error["code"] != code => {
                Err(Error::Unexpected(format!("code {}, not {code}: {text}", error["code"])))
            }
            None => Ok(()),
        }
    }
}

/// A pod with net1, and what the next plugin of its chain is given.
#[derive(Debug)]
pub struct Below {
    /// The pod.
    pub pod: Pod,
    /// The result of the plugin that made net1.
    pub result: Value,
}

impl Below {
    /// A pod on `node` with net1 at the usual address, and with routes to all other nodes.
    ///
    /// # Errors
    /// Anything on the way.
    pub fn usual(lab: &Lab, node: &Node, name: &str) -> Result<Self> {
        Self::of(node.pod(name), &net1(lab, node), &annotation("below", node, FIRST_POD))
    }

    /// A pod whose net1 is made by this plugin, of a network that the annotation names `below`.
    ///
    /// # Errors
    /// Anything on the way.
    pub fn of(builder: PodBuilder, plugin: &Value, annotation: &str) -> Result<Self> {
        let pod = builder.attach(list("below", std::slice::from_ref(plugin)), annotation)?;
        // When duplicate address detection ends the kernel adds a route: who compares the pod with how it was must not see that.
        eventually("net1's addresses to be more than tentative", COMMAND_DEADLINE, || {
            let tentative = pod.root(["ip", "-6", "address", "show", "dev", "net1", "tentative"])?.ok()?.stdout;
            Ok(tentative.trim().is_empty().then_some(()))
        })?;
        let last = pod.attached().last().ok_or_else(|| Error::Unexpected("nothing is attached".to_owned()))?;
        let result = last.result.render(Version::LATEST).map_err(|error| Error::Unexpected(error.to_string()))?;
        Ok(Self { pod, result })
    }

    /// What `tun` reads from stdin.
    #[must_use]
    pub fn stdin(&self, tun: &Value) -> Value {
        with(json!({ "cniVersion": "1.1.0", "name": "by-hand", "prevResult": self.result }), tun)
    }

    /// ADD of this `tun` object.
    ///
    /// # Errors
    /// It fails.
    pub fn add(&self, tun: &Value) -> Result<()> {
        Call::tun(&self.pod)?.run("ADD", &self.stdin(tun))?.ok().map(drop)
    }

    /// `call`'s ADD must fail with this code and all of these words, and nothing of pod, node and agent may have changed
    /// when it has: no DEL follows.
    ///
    /// # Errors
    /// It is otherwise.
    pub fn refuses(&self, call: &Call, stdin: &Value, code: u64, words: &[&str]) -> Result<()> {
        let before = Sight::of(&self.pod)?;
        call.fails("ADD", stdin, code, words)?;
        before.unchanged(&Sight::of(&self.pod)?)
    }
}

/// All that an attachment may touch: the pod's network, the node's network and run directory, the agent's descriptors.
#[derive(Debug)]
pub struct Sight {
    pod: Snapshot,
    node: Snapshot,
    agent: Option<AgentDescriptors>,
}

impl Sight {
    /// A look at a pod and its node.
    ///
    /// # Errors
    /// Something cannot be listed.
    pub fn of(pod: &Pod) -> Result<Self> {
        let node = pod.node();
        let agent = node.agent_pid().map(|_| node.agent_fds()).transpose()?;
        Ok(Self { pod: pod.network_snapshot()?, node: node.snapshot()?, agent })
    }

    /// Nothing must have changed from this look to a later one.
    ///
    /// # Errors
    /// Something has.
    pub fn unchanged(&self, later: &Self) -> Result<()> {
        self.pod.unchanged(&later.pod)?;
        self.node.unchanged(&later.node)?;
        // Of all descriptors only these are the tunnels'; connections come and go.
        let tunnels = |sight: &Self| sight.agent.map(|open| (open.tun, open.udp));
        if tunnels(self) == tunnels(later) {
            return Ok(());
        }
        Err(Error::Unexpected(format!("the agent had {:?} open, and has {:?}", self.agent, later.agent)))
    }
}

/// A pod whose tunnel has three peers, each in a cluster of its own.
pub struct Star {
    /// Its peers, in the order of [`Star::INNER`].
    pub leaves: Vec<Pod>,
    /// The pod with three peers, 10.4.0.1.
    pub centre: Pod,
    /// Where they live.
    pub lab: Lab,
}

impl Star {
    /// The leaves' inner addresses. The last leaf owns the whole network, the others a host or a part of it: the longest prefix
    /// must win.
    pub const INNER: [&str; 3] = ["10.4.0.2/24", "10.4.0.5/24", "10.4.0.200/24"];

    /// Builds the lab and attaches the pods; `tunnel` is the `tun` object for a peer and an inner address.
    ///
    /// # Errors
    /// The lab's, or an ADD's.
    pub fn up(build: fn(&LabSpec) -> Result<Lab>, tunnel: fn(IpAddr, &str) -> Value) -> Result<Self> {
        let spec = LabSpec::new(Attachment::Bridge)
            .cluster("hub", 1)
            .cluster("east", 1)
            .cluster("south", 1)
            .cluster("west", 1);
        let lab = build(&spec)?;
        let hub = lab.node("hub-1")?;
        let nodes = [lab.node("east-1")?, lab.node("south-1")?, lab.node("west-1")?];
        let allowed = [json!(["10.4.0.2/32"]), json!(["10.4.0.4/30"]), json!(["10.4.0.0/24", "fd04::/64"])];
        let peer = |(node, allowed): (&&Node, &Value)| json!({ "endpoint": outer(node, Family::V4, FIRST_POD).to_string(), "allowedIPs": allowed });
        let peers: Vec<Value> = nodes.iter().zip(&allowed).map(peer).collect();
        let own = with(tunnel(outer(hub, Family::V4, 1), "10.4.0.1/24"), &json!({ "remote": null, "peers": peers }));
        let nad = list("star", &[net1(&lab, hub), own]);
        let centre = hub.pod("centre").attach(nad, &annotation("star", hub, FIRST_POD))?;
        let mut leaves = Vec::new();
        for (node, inner) in nodes.into_iter().zip(Self::INNER) {
            let nad = list("star", &[net1(&lab, node), tunnel(outer(hub, Family::V4, FIRST_POD), inner)]);
            leaves.push(node.pod("leaf").attach(nad, &annotation("star", node, FIRST_POD))?);
        }
        Ok(Self { lab, centre, leaves })
    }

    /// The node of the centre.
    ///
    /// # Errors
    /// There is none.
    pub fn hub(&self) -> Result<&Node> {
        self.lab.node("hub-1")
    }

    /// The centre reaches each leaf, and each leaf the centre.
    ///
    /// # Errors
    /// A ping is not answered.
    pub fn all_talk(&self) -> Result<()> {
        for inner in Self::INNER {
            self.centre.ping(inner.split('/').next().unwrap_or_default())?.all_received()?;
        }
        for leaf in &self.leaves {
            leaf.ping("10.4.0.1")?.all_received()?;
        }
        Ok(())
    }
}
