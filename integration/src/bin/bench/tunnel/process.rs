//! Long-lived programs: in a namespace, in a control group, and gone with this process whatever ends it.

use std::{
    ffi::OsStr,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use adit_lab::eventually;

use crate::{Outcome, tunnel::account::Group};

/// A running program; dropping it ends it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

/// A command that runs in the named namespace and, if one is given, in the group. It dies with the thread that starts it.
pub fn command(namespace: &str, group: Option<&Group>, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("sh");
    // The shell becomes the program, so that its pid is the program's.
    command.args(["-c", r#"[ "$0" = - ] || echo $$ >"$0" || exit; exec "$@""#]);
    command.arg(group.map_or_else(|| PathBuf::from("-"), Group::members));
    command.args(["setpriv", "--pdeathsig", "KILL", "nsenter"]).arg(format!("--net=/run/netns/{namespace}"));
    command.arg("--").arg(program);
    command
}

/// A command that runs in the caller's own namespace, and dies with the thread that starts it.
pub fn command_here(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

impl Process {
    /// Starts it; what it says goes to `log`.
    pub fn start(mut command: Command, log: &Path) -> Outcome<Self> {
        let file = File::create(log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        Ok(Self { child: command.spawn()?, log: log.to_owned() })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `ready` gives a value; not longer than the program lives.
    pub fn until<T>(&mut self, what: &str, limit: Duration, mut ready: impl FnMut(u32) -> Option<T>) -> Outcome<T> {
        let pid = self.pid();
        let child = &mut self.child;
        let found = eventually(what, limit, || match ready(pid) {
            Some(value) => Ok(Some(Ok(value))),
            None => Ok(child.try_wait().ok().flatten().map(Err)),
        });
        match found {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(status)) => Err(format!("it ended with {status}: {}", self.said()).into()),
            Err(error) => Err(format!("{error}: {}", self.said()).into()),
        }
    }

    /// The end of what it has said.
    pub fn said(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(5)..].join(" / ")
    }

    /// Memory that it has now (VmRSS), in KiB.
    pub fn resident_kib(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).ok()?;
        status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().trim_end_matches(" kB").parse().ok()
    }

    pub fn is_running(&mut self) -> Outcome<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Ends it as `kill -9` does.
    pub fn kill(&mut self) -> Outcome {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.kill();
    }
}
