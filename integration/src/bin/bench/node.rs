//! Namespaces for the measurements.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use adit_lab::{COMMAND_DEADLINE, ProcessMark, eventually, run};
use adit_net::{Netlink, Netns};

use crate::Outcome;

const PREFIX: &str = "adit-bench";
const NETNS_DIRECTORY: &str = "/run/netns";

/// A node with `up0`, a directory, and pods that were made beforehand. Dropping it removes all of them.
#[derive(Debug)]
pub struct Node {
    name: String,
    pods: usize,
    directory: PathBuf,
}

impl Node {
    pub fn new(pods: usize) -> Outcome<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{PREFIX}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let directory = Path::new("/run").join(&name);
        fs::create_dir_all(&directory)?;
        let node = Self { name, pods, directory };
        let add: Vec<String> = node.namespaces().map(|name| format!("netns add {name}")).collect();
        ip(&[], &add)?;
        let lines = ["link set lo up", "link add up0 type veth peer name up1", "link set up0 up", "link set up1 up"];
        ip(&["-n", &node.name], &lines.map(str::to_owned))?;
        Ok(node)
    }

    pub fn open(&self) -> Outcome<Netns> {
        Ok(Netns::open(Path::new(NETNS_DIRECTORY).join(&self.name))?)
    }

    /// Name of a pod's container.
    pub fn container(&self, pod: usize) -> String {
        format!("{}-pod{pod}", self.name)
    }

    /// CNI_NETNS of a pod.
    pub fn netns(&self, pod: usize) -> PathBuf {
        Path::new(NETNS_DIRECTORY).join(self.container(pod))
    }

    /// Where plugins may leave their files.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    fn namespaces(&self) -> impl Iterator<Item = String> {
        std::iter::once(self.name.clone()).chain((0..self.pods).map(|pod| self.container(pod)))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // The next run removes what could not be removed.
        let _ = ip(&["-force"], &self.namespaces().map(|name| format!("netns del {name}")).collect::<Vec<_>>());
        let _ = fs::remove_dir_all(&self.directory);
        let _ = settle();
    }
}

/// Removes what runs left that were killed.
pub fn sweep() -> Outcome {
    let names = fs::read_dir(NETNS_DIRECTORY).into_iter().flatten().flatten();
    let names = names.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| is_stale(name));
    ip(&["-force"], &names.map(|name| format!("netns del {name}")).collect::<Vec<_>>())?;
    for entry in fs::read_dir("/run")?.flatten() {
        if entry.file_name().to_str().is_some_and(is_stale) {
            unmount(&entry.path());
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// A file system in memory on a directory, as `/run` is on a node: a record that is synced to a disk would measure the disk.
/// Dropping it takes it away.
#[derive(Debug)]
pub struct InMemory(PathBuf);

impl InMemory {
    pub fn on(directory: &Path) -> Outcome<Self> {
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", "mode=0700", "adit-bench"]).arg(directory);
        run(command, None, COMMAND_DEADLINE)?.ok()?;
        Ok(Self(directory.to_owned()))
    }
}

impl Drop for InMemory {
    fn drop(&mut self) {
        unmount(&self.0);
    }
}

/// Nothing may be mounted there.
fn unmount(directory: &Path) {
    let mut command = Command::new("umount");
    command.arg("--lazy").arg(directory);
    let _ = run(command, None, COMMAND_DEADLINE);
}

fn is_stale(name: &str) -> bool {
    let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.trim_start_matches('-').split('-').next());
    pid.and_then(|pid| pid.parse().ok()).is_some_and(|pid| ProcessMark::of(pid).is_none())
}

/// Waits until the kernel has taken dead namespaces apart: it does so in one queue, in which an end of a pair is put last.
fn settle() -> Outcome {
    let name = format!("{PREFIX}-{}-last", std::process::id());
    let end = "bench-last";
    ip(&[], &[format!("netns add {name}")])?;
    let marker = Netns::open(Path::new(NETNS_DIRECTORY).join(&name))?;
    let home = format!("{name}-home");
    ip(&[], &[format!("netns add {home}")])?;
    ip(&["-n", &home], &[format!("link add {end} type veth peer name {end} netns {name}")])?;
    let netlink = Netlink::open_in(&Netns::open(Path::new(NETNS_DIRECTORY).join(&home))?)?;
    drop(marker);
    ip(&[], &[format!("netns del {name}")])?;
    let gone =
        eventually("dead namespaces to go", Duration::from_secs(60), || Ok(netlink.link(end)?.is_none().then_some(())));
    ip(&[], &[format!("netns del {home}")])?;
    Ok(gone?)
}

fn ip(options: &[&str], lines: &[String]) -> Outcome {
    let mut command = Command::new("ip");
    command.args(options).args(["-batch", "-"]);
    run(command, Some(lines.join("\n").as_bytes()), COMMAND_DEADLINE)?.ok()?;
    Ok(())
}
