//! The agent of a node, as a process.

use std::{
    fs::{self, OpenOptions},
    os::unix::{net::UnixStream, process::CommandExt as _},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use crate::{Error, Result, command::command_line, eventually, ledger::Ledger, process::ProcessMark};

const START_DEADLINE: Duration = Duration::from_secs(10);
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// What an agent has open, counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AgentDescriptors {
    /// Open `/dev/net/tun` that are attached to a device.
    pub tun: usize,
    /// UDP sockets, of either family.
    pub udp: usize,
    /// All descriptors.
    pub all: usize,
}

/// At most one running agent.
#[derive(Debug, Default)]
pub(crate) struct Agent {
    process: Option<ProcessMark>,
}

impl Agent {
    pub(crate) fn start(
        &mut self,
        ledger: &Arc<Ledger>,
        command: Command,
        node: &str,
        run_dir: &Path,
        log: &Path,
    ) -> Result<()> {
        if self.pid().is_some() {
            return Err(Error::Unexpected(format!("the agent of {node} is running already")));
        }
        let child = spawn(command, log)?;
        let process = ledger.add_process(child, &format!("aditd of {node}"))?;
        self.process = Some(process);
        let socket = run_dir.join("agent.sock");
        let answers = || {
            if !process.is_alive() {
                return Ok(Some(false));
            }
            Ok(UnixStream::connect(&socket).is_ok().then_some(true))
        };
        match eventually(&format!("the agent of {node} to listen"), START_DEADLINE, answers) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::Unexpected(format!("the agent of {node} ended at once: {}", tail(log)))),
            Err(error) => Err(Error::Unexpected(format!("{error}; its log ends with: {}", tail(log)))),
        }
    }

    /// Starts another agent, which takes everything over, and waits until the one before has ended by itself.
    pub(crate) fn upgrade(&mut self, ledger: &Arc<Ledger>, command: Command, node: &str, log: &Path) -> Result<()> {
        let before = self.running()?;
        let child = spawn(command, log)?;
        let process = ledger.add_process(child, &format!("next aditd of {node}"))?;
        let ended = || Ok((!before.is_alive()).then_some(()));
        eventually(&format!("the agent of {node} to give way"), START_DEADLINE, ended)
            .map_err(|error| Error::Unexpected(format!("{error}; its log ends with: {}", tail(log))))?;
        self.process = Some(process);
        // Reaped.
        ledger.end_process(before, STOP_DEADLINE)?;
        self.running().map(drop)
    }

    pub(crate) fn kill(&mut self, ledger: &Ledger) -> Result<()> {
        let process = self.running()?;
        if let Some(pid) = rustix::process::Pid::from_raw(process.pid) {
            rustix::process::kill_process(pid, rustix::process::Signal::KILL)
                .map_err(|errno| Error::io(format!("kill process {}", process.pid))(errno.into()))?;
        }
        self.end(ledger, process)
    }

    pub(crate) fn stop(&mut self, ledger: &Ledger) -> Result<()> {
        let process = self.running()?;
        self.end(ledger, process)
    }

    pub(crate) fn pid(&self) -> Option<i32> {
        self.process.filter(|process| process.is_alive()).map(|process| process.pid)
    }

    pub(crate) fn descriptors(&self) -> Result<AgentDescriptors> {
        let process = self.running()?;
        let directory = format!("/proc/{}/fd", process.pid);
        let mut counts = AgentDescriptors::default();
        for entry in fs::read_dir(&directory).map_err(Error::io(format!("list {directory}")))?.flatten() {
            let target = fs::read_link(entry.path()).unwrap_or_default();
            counts.all = counts.all.saturating_add(1);
            if target == Path::new("/dev/net/tun") {
                counts.tun = counts.tun.saturating_add(1);
            } else if is_udp(&entry.path()) {
                counts.udp = counts.udp.saturating_add(1);
            }
        }
        Ok(counts)
    }

    fn end(&mut self, ledger: &Ledger, process: ProcessMark) -> Result<()> {
        self.process = None;
        ledger.end_process(process, STOP_DEADLINE)
    }

    fn running(&self) -> Result<ProcessMark> {
        let running = self.process.filter(|process| process.is_alive());
        running.ok_or_else(|| Error::Unexpected("the agent is not running".to_owned()))
    }
}

/// The kernel names a socket's protocol in this attribute (net/socket.c, `sockfs_xattr_get`), whatever namespace the
/// socket is in.
fn is_udp(descriptor: &Path) -> bool {
    let mut name = [0_u8; 16];
    let length = rustix::fs::getxattr(descriptor, "system.sockprotoname", name.as_mut_slice()).unwrap_or(0);
    matches!(name.get(..length), Some(b"UDP\0" | b"UDPv6\0" | b"UDP" | b"UDPv6"))
}

/// Starts an agent that writes to `log`.
fn spawn(mut command: Command, log: &Path) -> Result<Child> {
    let failed = || Error::io(format!("open {}", log.display()));
    let file = OpenOptions::new().create(true).append(true).open(log).map_err(failed())?;
    let line = command_line(&command);
    command
        .stdin(Stdio::null())
        .stdout(file.try_clone().map_err(failed())?)
        .stderr(file)
        .process_group(0)
        .spawn()
        .map_err(|source| Error::Start { command: line, source })
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(10)..).unwrap_or_default().join("\n")
}
