//! A named network namespace of a lab, and what can be done in one.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use adit_net::Netns;

use crate::{
    Datagram, Result, Snapshot, Tap, TappedPacket,
    command::{COMMAND_DEADLINE, Ran, run},
    inject,
    ledger::Ledger,
};

/// A network namespace below /run/netns. Nodes, routers and pods are such.
#[derive(Debug, Clone)]
pub struct Namespace {
    name: String,
    path: PathBuf,
}

impl Namespace {
    pub(crate) fn create(ledger: &Arc<Ledger>, name: &str) -> Result<Self> {
        let name = ledger.add_namespace(name)?;
        let path = Path::new("/run/netns").join(&name);
        Ok(Self { name, path })
    }

    /// Its name below /run/netns.
    #[must_use]
    pub fn netns_name(&self) -> &str {
        &self.name
    }

    /// Its path, as a plugin gets it in CNI_NETNS.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens it. Hold the value no longer than needed: it keeps the namespace alive.
    ///
    /// # Errors
    /// The namespace is gone.
    pub fn open(&self) -> Result<Netns> {
        Ok(Netns::open(&self.path)?)
    }

    /// A command that will run in the namespace as root: `nsenter --net=… -- program`.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path.display())).arg("--").arg(program);
        command
    }

    /// Runs a command as root in the namespace, to observe or to disturb: `root(["ip", "addr"])`.
    ///
    /// # Errors
    /// The list is empty, the command cannot be started, or it does not end in time. A command that fails is a
    /// result ([`Ran::ok`]).
    pub fn root<S: AsRef<OsStr>>(&self, line: impl IntoIterator<Item = S>) -> Result<Ran> {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path.display())).arg("--").args(line);
        run(command, None, COMMAND_DEADLINE)
    }

    /// Runs `ip -batch` in the namespace with these lines (without the leading `ip`).
    ///
    /// # Errors
    /// A line is refused: the error has iproute2's words.
    pub fn ip_batch(&self, lines: &[String]) -> Result<()> {
        let mut command = self.command("ip");
        command.args(["-batch", "-"]);
        run(command, Some(lines.join("\n").as_bytes()), COMMAND_DEADLINE)?.ok().map(drop)
    }

    /// Runs `f` on a thread that has entered the namespace.
    ///
    /// # Errors
    /// The namespace is gone.
    pub fn run_inside<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T> {
        Ok(self.open()?.run_on_thread(f)?)
    }

    /// Sets a sysctl of the namespace: `("net/ipv4/ip_forward", "1")`.
    ///
    /// # Errors
    /// There is no such sysctl, or it takes no such value.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        self.run_inside(|| adit_net::sysctl::set(key, value))??;
        Ok(())
    }

    /// Makes an interface send each packet by itself and with all its checksums, as a wire has them.
    ///
    /// # Errors
    /// There is no such interface, or the program `ethtool` is not there.
    pub fn send_one_by_one(&self, interface: &str) -> Result<()> {
        self.root(["ethtool", "-K", interface, "tso", "off", "gso", "off", "tx-udp-segmentation", "off", "tx", "off"])?
            .ok()?;
        Ok(())
    }

    /// Its links, addresses and routes, to be compared with a later look.
    ///
    /// # Errors
    /// `ip` cannot list them.
    pub fn network_snapshot(&self) -> Result<Snapshot> {
        Snapshot::of_namespace(self)
    }

    /// Captures packets on an interface from now on: those for which `filter` is true.
    ///
    /// A packet that is handed over as one segmentation-offload unit is seen as the one large packet that it is.
    ///
    /// # Errors
    /// There is no such interface, or no socket can be opened.
    pub fn tap(&self, interface: &str, filter: impl Fn(&TappedPacket) -> bool + Send + 'static) -> Result<Tap> {
        Tap::start(self, interface, Box::new(filter))
    }

    /// Sends a datagram with any source address from here, routed by the namespace's routes.
    ///
    /// # Errors
    /// The kernel does not take it (no route, mixed families).
    pub fn inject(&self, datagram: &Datagram) -> Result<()> {
        inject::send(self, datagram)
    }
}
