//! A node and its pods: namespaces of the calling thread, which end with it and have no trace on the machine.

use std::{
    collections::BTreeMap,
    fs::{self, File, Permissions},
    os::{fd::AsRawFd as _, unix::fs::PermissionsExt as _},
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    net::if_::if_nametoindex,
    sched::{CloneFlags, setns, unshare},
};

use crate::{Error, Result, run};

/// Where the plugins under test are, for every implementation: paths in texts are then equal.
pub const PLUGINS: &str = "/run/conformance/plugins";
/// Where the programs of `--also` are.
pub const ALSO: &str = "/run/conformance/also";
/// `${dir}`: the case's own files.
pub const FILES: &str = "/run/conformance/files";
const NETNS: &str = "/run/netns";
const OWN: &str = "/proc/thread-self/ns/net";

/// A script that another thread's new process still has open for writing cannot be executed.
static FORK: Mutex<()> = Mutex::new(());

/// Held while a file is written that is executed later, and while a process is started.
pub fn fork_lock() -> MutexGuard<'static, ()> {
    FORK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The namespaces of one case. The thread that makes it lives on the node and must not be used for anything else.
#[derive(Debug)]
pub struct World {
    node: File,
    pods: BTreeMap<String, File>,
}

impl World {
    /// Moves the calling thread into mount and network namespaces of its own, with `/run` and `/var/lib` empty but for
    /// `plugins` and `files`, and makes the pods.
    pub fn make(plugins: &Path, also: Option<&Path>, files: &BTreeMap<String, String>, pods: u32) -> Result<Self> {
        let failed = |what: &'static str| move |errno: nix::Error| Error::World { what, source: errno.into() };
        let io = |what: &'static str| move |source: std::io::Error| Error::World { what, source };
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).map_err(failed("make namespaces"))?;
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).map_err(failed("make mounts private"))?;
        // Opened before /run is covered; the mounts below go through the descriptors.
        let opened = [(PLUGINS, Some(plugins)), (ALSO, also)].map(|(target, source)| (target, source.map(File::open)));
        for covered in ["/run", "/var/lib"] {
            mount(Some("tmpfs"), covered, Some("tmpfs"), MsFlags::empty(), none).map_err(failed("mount a tmpfs"))?;
        }
        // A container may not be allowed to; plugins that look into /sys/class/net then see the wrong links.
        let _ = mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none);
        for made in [PLUGINS, ALSO, FILES, NETNS] {
            fs::create_dir_all(made).map_err(io("make directories"))?;
        }
        for (target, file) in opened.into_iter().filter_map(|(target, file)| Some((target, file?))) {
            let file = file.map_err(io("open a directory of plugins"))?;
            let source = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
            mount(Some(&source), target, none, MsFlags::MS_BIND, none).map_err(failed("mount the plugins"))?;
        }
        {
            let _lock = fork_lock();
            for (name, text) in files {
                let path = Path::new(FILES).join(name);
                if let Some(parent) = path.parent() {
                    fs::create_dir_all(parent).map_err(io("make a directory of the case"))?;
                }
                fs::write(&path, text).map_err(io("write a file of the case"))?;
                let mode = if text.starts_with("#!") { 0o755 } else { 0o644 };
                fs::set_permissions(&path, Permissions::from_mode(mode)).map_err(io("write a file of the case"))?;
            }
        }
        let node = pin("node")?;
        let mut world = Self { node, pods: BTreeMap::new() };
        for number in 1..=pods {
            unshare(CloneFlags::CLONE_NEWNET).map_err(failed("make a pod's namespace"))?;
            let name = format!("pod{number}");
            let pod = pin(&name)?;
            world.pods.insert(name, pod);
        }
        world.enter("node")?;
        Ok(world)
    }

    /// The names of the namespaces: `node`, and the pods that still have one.
    pub fn places(&self) -> impl Iterator<Item = &str> {
        std::iter::once("node").chain(self.pods.keys().map(String::as_str))
    }

    /// Runs `f` in a namespace.
    pub fn inside<T>(&self, place: &str, f: impl FnOnce() -> T) -> Result<T> {
        if place == "node" {
            return Ok(f());
        }
        self.enter(place)?;
        let result = f();
        self.enter("node")?;
        Ok(result)
    }

    /// Whether a link exists: `pod1/net1`.
    pub fn has_link(&self, link: &str) -> bool {
        let Some((place, name)) = link.split_once('/') else { return false };
        self.inside(place, || if_nametoindex(name).is_ok()).unwrap_or(false)
    }

    /// Ends a pod's namespace; its path stays as `CNI_NETNS`, with nothing there. The kernel clears up a moment later:
    /// when a link of ours is gone, those of the plugin are.
    pub fn remove(&mut self, pod: &str) -> Result<()> {
        let witness = "ip link add witness0 type veth peer name witness1 netns";
        self.shell(&format!("{witness} {}", netns_path(pod).display()))?;
        self.pods.remove(pod).ok_or_else(|| Error::NoSuchPlace(pod.to_owned()))?;
        let path = netns_path(pod);
        umount2(&path, MntFlags::MNT_DETACH)
            .map_err(|errno| Error::World { what: "unmount a pod's namespace", source: errno.into() })?;
        fs::remove_file(path).map_err(|source| Error::World { what: "remove a pod's namespace", source })?;
        // Who holds the namespace, holds it longer.
        let deadline = Instant::now().checked_add(Duration::from_secs(3));
        while self.has_link("node/witness0") && deadline.is_some_and(|deadline| Instant::now() < deadline) {
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Runs a shell command, on the node or (`pod1: …`) in a pod; what it prints.
    pub fn shell(&self, command: &str) -> Result<String> {
        let (place, line) = match command.split_once(": ") {
            Some((place, line)) if self.places().any(|known| known == place) => (place, line),
            _ => ("node", command),
        };
        self.output(place, "sh", &["-ec", line])
    }

    /// Runs a program in a namespace; what it prints.
    pub fn output(&self, place: &str, program: &str, arguments: &[&str]) -> Result<String> {
        // By its path: a search in a PATH of ours would cost a fork of the whole process.
        let found =
            run::PATH.split(':').map(|directory| Path::new(directory).join(program)).find(|path| path.is_file());
        let mut command = Command::new(found.unwrap_or_else(|| PathBuf::from(program)));
        command.args(arguments);
        let shown = format!("{command:?}");
        let child = self.inside(place, || {
            let _lock = fork_lock();
            command
                .env("PATH", run::PATH)
                .stdin(std::process::Stdio::null())
                .stdout(std::process::Stdio::piped())
                .stderr(std::process::Stdio::piped())
                .spawn()
        })?;
        let output = child
            .and_then(std::process::Child::wait_with_output)
            .map_err(|source| Error::Program { program: shown.clone(), source })?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(Error::CommandFailed { place: place.to_owned(), command: shown, said })
    }

    fn enter(&self, place: &str) -> Result<()> {
        let file = if place == "node" { Some(&self.node) } else { self.pods.get(place) };
        let file = file.ok_or_else(|| Error::NoSuchPlace(place.to_owned()))?;
        setns(file, CloneFlags::CLONE_NEWNET)
            .map_err(|errno| Error::World { what: "enter a namespace", source: errno.into() })
    }
}

/// Where a pod's namespace is found.
pub fn netns_path(place: &str) -> PathBuf {
    Path::new(NETNS).join(place)
}

/// Gives the thread's namespace a path, as a container runtime does.
fn pin(place: &str) -> Result<File> {
    let path = netns_path(place);
    File::create(&path).map_err(|source| Error::World { what: "make a namespace's file", source })?;
    let none: Option<&str> = None;
    mount(Some(OWN), &path, none, MsFlags::MS_BIND, none)
        .map_err(|errno| Error::World { what: "mount a namespace", source: errno.into() })?;
    File::open(&path).map_err(|source| Error::World { what: "open a namespace", source })
}
