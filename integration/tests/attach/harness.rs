//! A node and its pods out of namespaces, and plugins that run on the node.

use std::cell::{Cell, RefCell};
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Whether the process may make namespaces.
pub fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

/// The directory with the plugins, built once with the profile of this test.
pub fn plugins() -> &'static Path {
    adit_lab::Binaries::get().unwrap().directory()
}

/// Debian's reference plugins (package containernetworking-plugins).
pub const DEBIAN: &str = "/usr/lib/cni";

/// The newest reference plugins, where `scripts/reference` has built them.
pub fn newest_reference() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
    Some(cache.join("adit-tools/reference-1.9.1")).filter(|directory| directory.join("macvlan").is_file())
}

/// The same, in trials that run only where they are.
pub fn newest() -> PathBuf {
    newest_reference().unwrap()
}

/// Where the plugins look for other programs.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A node with pods. Dropping it removes every namespace and file.
pub struct Bench {
    prefix: String,
    namespaces: RefCell<Vec<String>>,
    directory: PathBuf,
    pods: Cell<u32>,
    path: RefCell<String>,
}

/// A plugin's configuration for one attachment.
#[derive(Clone)]
pub struct Attachment {
    pub config: Value,
    pub container: String,
    pub ifname: String,
    /// `None`: `CNI_NETNS` is empty.
    pub netns: Option<PathBuf>,
    pub args: String,
}

/// What a plugin did.
#[derive(Debug)]
pub struct Ran {
    pub ok: bool,
    pub stdout: String,
    #[expect(dead_code, reason = "printed when a test fails")]
    pub stderr: String,
}

impl Bench {
    /// A node with its loopback up.
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("adit-t{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let directory = std::env::temp_dir().join(&prefix);
        fs::create_dir_all(&directory).unwrap();
        let bench = Self {
            prefix,
            namespaces: RefCell::default(),
            directory,
            pods: Cell::new(0),
            path: RefCell::new(PATH.into()),
        };
        let node = bench.namespace("node");
        ip(&format!("-n {node} link set lo up"));
        bench
    }

    /// A namespace; returns its name.
    pub fn namespace(&self, name: &str) -> String {
        let name = format!("{}-{name}", self.prefix);
        ip(&format!("netns add {name}"));
        self.namespaces.borrow_mut().push(name.clone());
        name
    }

    /// The node's namespace.
    pub fn node(&self) -> String {
        format!("{}-node", self.prefix)
    }

    /// A pod that is to be attached by `config`.
    pub fn pod(&self, config: &Value) -> Attachment {
        let number = self.pods.get() + 1;
        self.pods.set(number);
        let name = self.namespace(&format!("pod{number}"));
        Attachment {
            config: config.clone(),
            container: format!("container{number}"),
            ifname: "net1".into(),
            netns: Some(Path::new("/run/netns").join(name)),
            args: "IgnoreUnknown=1".into(),
        }
    }

    /// Removes a namespace before the bench is dropped.
    pub fn remove(&self, namespace: &str) {
        ip(&format!("netns del {namespace}"));
        self.namespaces.borrow_mut().retain(|name| name != namespace);
    }

    /// The run directory of our plugins.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Programs that the plugins find before others: `(name, target)`.
    pub fn use_programs(&self, programs: &[(&str, &str)]) {
        let folder = self.directory.join("programs");
        fs::create_dir_all(&folder).unwrap();
        for (name, target) in programs {
            std::os::unix::fs::symlink(target, folder.join(name)).unwrap();
        }
        self.path.replace(format!("{}:{PATH}", folder.display()));
    }

    /// Runs a program on the node, with arguments separated by blanks; what it prints.
    pub fn on_node(&self, line: &str) -> String {
        let output = self.tried_on_node(line);
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// As [`Bench::on_node`], for what may fail.
    pub fn tried_on_node(&self, line: &str) -> Output {
        Command::new("nsenter").arg(format!("--net=/run/netns/{}", self.node())).args(line.split(' ')).output().unwrap()
    }

    /// Runs `ip` on the node.
    pub fn ip(&self, arguments: &str) -> String {
        ip(&format!("-n {} {arguments}", self.node()))
    }

    pub fn add(&self, attachment: &Attachment) -> Ran {
        self.run("ADD", attachment, &attachment.config)
    }

    /// ADD that must succeed; its result.
    pub fn added(&self, attachment: &Attachment) -> Value {
        let ran = self.add(attachment);
        assert!(ran.ok, "ADD failed: {ran:?}");
        serde_json::from_str(&ran.stdout).unwrap()
    }

    /// ADD that must fail; its error.
    pub fn refused(&self, attachment: &Attachment) -> Value {
        let ran = self.add(attachment);
        assert!(!ran.ok, "ADD succeeded: {ran:?}");
        serde_json::from_str(&ran.stdout).unwrap()
    }

    pub fn check(&self, attachment: &Attachment, previous: &Value) -> Ran {
        self.run("CHECK", attachment, &with_previous(&attachment.config, previous))
    }

    pub fn del(&self, attachment: &Attachment) {
        let ran = self.run("DEL", attachment, &attachment.config);
        assert!(ran.ok && ran.stdout.is_empty(), "DEL failed: {ran:?}");
    }

    pub fn run(&self, verb: &str, attachment: &Attachment, config: &Value) -> Ran {
        finished(self.start(verb, attachment, config))
    }

    /// Runs a plugin that is not ours, with its IPAM plugins.
    pub fn run_from(&self, directory: &Path, verb: &str, attachment: &Attachment, config: &Value) -> Ran {
        finished(self.start_from(directory, verb, attachment, config))
    }

    /// Starts a plugin on the node and gives it its configuration.
    pub fn start(&self, verb: &str, attachment: &Attachment, config: &Value) -> Child {
        self.start_from(plugins(), verb, attachment, config)
    }

    fn start_from(&self, directory: &Path, verb: &str, attachment: &Attachment, config: &Value) -> Child {
        let plugin = directory.join(config["type"].as_str().unwrap());
        let mut child = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", self.node()))
            .arg(plugin)
            .env_clear()
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", &attachment.container)
            .env("CNI_NETNS", attachment.netns.as_deref().unwrap_or(Path::new("")))
            .env("CNI_IFNAME", &attachment.ifname)
            .env("CNI_ARGS", &attachment.args)
            .env("CNI_PATH", directory)
            .env("PATH", &*self.path.borrow())
            .env("ADIT_RUN_DIR", &self.directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A plugin that was killed reads nothing.
        let _ = child.stdin.take().unwrap().write_all(config.to_string().as_bytes());
        child
    }

    /// Links, addresses, routes and forwarding of the node and of `pods`, to show that nothing has changed.
    pub fn snapshot(&self, pods: &[&Attachment]) -> String {
        let mut text = picture(&self.node());
        for pod in pods {
            text.push_str(&picture(pod.namespace()));
        }
        text
    }

    /// Waits until everything is as it was: the kernel frees a dead namespace's links later.
    pub fn unchanged_since(&self, before: &str, pods: &[&Attachment]) {
        eventually(|| {
            let now = self.snapshot(pods);
            if now == before { Ok(()) } else { Err(format!("before:\n{before}\nnow:\n{now}")) }
        });
    }

    /// Names of the host's ends on the node.
    pub fn veths(&self) -> Vec<String> {
        names(&self.ip("-j link show type veth"))
    }

    /// Waits until the node has no host end.
    pub fn no_veths(&self) {
        eventually(|| {
            let veths = self.veths();
            if veths.is_empty() { Ok(()) } else { Err(format!("left: {veths:?}")) }
        });
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        for name in self.namespaces.take() {
            let _ = Command::new("ip").args(["netns", "del", &name]).output();
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

impl Attachment {
    /// The pod's namespace, by name.
    pub fn namespace(&self) -> &str {
        self.netns.as_ref().unwrap().file_name().unwrap().to_str().unwrap()
    }

    /// Runs `ip` in the pod.
    pub fn ip(&self, arguments: &str) -> String {
        ip(&format!("-n {} {arguments}", self.namespace()))
    }

    /// The same attachment with another configuration.
    pub fn with_config(&self, config: &Value) -> Self {
        Self { config: config.clone(), ..self.clone() }
    }

    /// The same attachment with something in `CNI_ARGS`.
    pub fn with_args(&self, args: &str) -> Self {
        Self { args: format!("IgnoreUnknown=1;{args}"), ..self.clone() }
    }

    /// The same attachment as a runtime calls DEL when the namespace is gone.
    pub fn without_netns(&self) -> Self {
        Self { netns: None, ..self.clone() }
    }

    /// Two echo requests from the pod, both answered.
    pub fn pings(&self, address: &str) {
        let output = self.ping(address, 2);
        assert!(output.status.success(), "{} does not reach {address}: {output:?}", self.container);
    }

    /// Two echo requests from the pod, none answered within the seconds that are given.
    pub fn does_not_reach(&self, address: &str) {
        let output = self.ping(address, 1);
        assert!(!output.status.success(), "{} reaches {address}: {output:?}", self.container);
    }

    fn ping(&self, address: &str, seconds: u8) -> Output {
        Command::new("nsenter")
            .arg(format!("--net={}", self.netns.as_ref().unwrap().display()))
            .args(["ping", "-c", "2", "-i", "0.05", "-W", &seconds.to_string(), address])
            .output()
            .unwrap()
    }
}

/// The configuration with `key` set.
pub fn with(config: &Value, key: &str, value: Value) -> Value {
    let mut config = config.clone();
    config[key] = value;
    config
}

/// The configuration with `prevResult`.
pub fn with_previous(config: &Value, previous: &Value) -> Value {
    with(config, "prevResult", previous.clone())
}

/// `ipam` with one address each.
pub fn addresses(addresses: &[&str]) -> Value {
    let list: Vec<Value> = addresses.iter().map(|address| json!({"address": address})).collect();
    json!({"type": "static", "addresses": list})
}

/// Waits for a plugin.
pub fn finished(child: Child) -> Ran {
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    Ran {
        ok: status.success(),
        stdout: String::from_utf8(stdout).unwrap(),
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
    }
}

/// Runs `ip` with arguments separated by blanks.
pub fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Asks until the answer is yes, at most five seconds.
pub fn eventually(mut ask: impl FnMut() -> Result<(), String>) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while let Err(why) = ask() {
        assert!(Instant::now() < deadline, "{why}");
        sleep(Duration::from_millis(20));
    }
}

/// The error's text and code.
pub fn says(error: &Value, code: u64, parts: &[&str]) {
    assert_eq!(error["code"], code, "{error}");
    let text = format!("{} {}", error["msg"].as_str().unwrap(), error["details"].as_str().unwrap_or_default());
    for part in parts {
        assert!(text.contains(part), "{text:?} lacks {part:?}");
    }
}

fn names(links: &str) -> Vec<String> {
    let links: Value = serde_json::from_str(links).unwrap_or_default();
    let name = |link: &Value| link["ifname"].as_str().unwrap_or_default().to_owned();
    links.as_array().map(|links| links.iter().map(name).collect()).unwrap_or_default()
}

/// Link-local addresses and carrier come and go by themselves.
fn picture(namespace: &str) -> String {
    let mut lines = Vec::new();
    for arguments in ["-o link show", "-o addr show", "-4 route show table all", "-6 route show table all"] {
        let text = ip(&format!("-n {namespace} {arguments}"));
        let stable =
            text.lines().filter(|line| !["fe80:", "ff00::/8", "anycast"].iter().any(|part| line.contains(part)));
        lines.extend(stable.map(|line| {
            ["NO-CARRIER,", ",LOWER_UP", " linkdown", "state UP ", "state DOWN ", "state LOWERLAYERDOWN "]
                .iter()
                .fold(line.to_owned(), |line, part| line.replace(part, ""))
        }));
    }
    let forwarding = Command::new("nsenter")
        .arg(format!("--net=/run/netns/{namespace}"))
        .args(["cat", "/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"])
        .output()
        .unwrap();
    format!("{namespace}\n{}\n{}", lines.join("\n"), String::from_utf8_lossy(&forwarding.stdout))
}
