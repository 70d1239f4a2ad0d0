//! A foreign peer: wireguard-go (Debian's package) in a pod's network, set up by `wg` and `ip` as people do it.

use std::process::Command;

use adit_lab::{Background, COMMAND_DEADLINE, Error, Pod, Ran, Result, eventually, run};

/// A running wireguard-go with its interface `wg0`. It ends with this value.
#[derive(Debug)]
pub struct WireguardGo {
    process: Background,
}

impl WireguardGo {
    /// The name of its interface.
    pub const INTERFACE: &'static str = "wg0";

    /// In a pod's network, with a configuration for `wg setconf`, one inner address with its prefix, and an MTU.
    ///
    /// # Errors
    /// Something of it fails; the error has its words.
    pub fn start(pod: &Pod, configuration: &str, address: &str, mtu_bytes: u16) -> Result<Self> {
        // `wg` finds it by the path of its socket, which has no namespace of its own but that of mounts.
        let script = "mount -t tmpfs none /run && exec wireguard-go --foreground wg0";
        let line = ["LOG_LEVEL=verbose", "unshare", "--mount", "sh", "-ec", script];
        let started = Self { process: pod.spawn_as_root(line)? };
        eventually("wireguard-go to listen", COMMAND_DEADLINE, || {
            if !started.process.is_running() {
                return Err(Error::Unexpected(started.process.output()));
            }
            Ok(started.wg(["show", Self::INTERFACE])?.success().then_some(()))
        })?;
        started.configure(configuration)?;
        pod.ip_batch(&[
            format!("address add {address} dev {} nodad", Self::INTERFACE),
            format!("link set {} mtu {mtu_bytes} up", Self::INTERFACE),
        ])?;
        Ok(started)
    }

    /// Replaces its configuration.
    ///
    /// # Errors
    /// `wg` does not take it.
    pub fn configure(&self, configuration: &str) -> Result<()> {
        let mut command = self.command("wg");
        command.args(["setconf", Self::INTERFACE, "/dev/stdin"]);
        run(command, Some(configuration.as_bytes()), COMMAND_DEADLINE)?.ok().map(drop)
    }

    /// Runs `wg`.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn wg<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Result<Ran> {
        let mut command = self.command("wg");
        command.args(arguments);
        run(command, None, COMMAND_DEADLINE)
    }

    /// The second word of the first line of `wg show wg0 WHAT`: what it is for its only peer.
    ///
    /// # Errors
    /// `wg` fails, or there is no peer.
    pub fn of_peer(&self, what: &str) -> Result<String> {
        let said = self.wg(["show", Self::INTERFACE, what])?.ok()?.stdout;
        let words = said.lines().next().and_then(|line| line.split_once(char::is_whitespace));
        words
            .map(|(_, value)| value.trim().to_owned())
            .ok_or_else(|| Error::Unexpected(format!("`wg show wg0 {what}` has no peer: {said:?}")))
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.output()
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.process.pid().to_string(), "--mount", "--net", "--", program]);
        command
    }
}
