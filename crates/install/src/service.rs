//! The agent as a service of the node: its unit, and what systemd is told.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use crate::{Error, Result};

/// The unit's name.
pub const UNIT_NAME: &str = "aditd.service";
/// The unit.
pub const UNIT: &str = include_str!("../../../conf/systemd/aditd.service");
/// Where an administrator's units are.
pub const UNIT_DIRECTORY: &str = "/etc/systemd/system";
/// Where the unit looks for the agent.
pub const PROGRAM_DIRECTORY: &str = "/usr/local/bin";

/// Who manages the services of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manager {
    /// A systemd that runs.
    Running,
    /// A systemd that will run some day, when what lies below this directory is started.
    Later,
    /// Nobody.
    None,
}

impl Manager {
    /// Of the node whose files are below `root`.
    #[must_use]
    pub fn of(root: &Path) -> Self {
        if root != Path::new("/") {
            return if has_systemctl() { Self::Later } else { Self::None };
        }
        // sd_booted(3).
        if Path::new("/run/systemd/system").is_dir() { Self::Running } else { Self::None }
    }

    /// What `systemctl` is told once the agent's files are in place. An agent that runs already is started anew only if it is
    /// `changed`.
    #[must_use]
    pub fn after_install(self, root: &Path, changed: bool) -> Vec<Vec<String>> {
        let start = if changed { "restart" } else { "start" };
        match self {
            Self::Running => lines(&[&["daemon-reload"], &["enable", UNIT_NAME], &[start, UNIT_NAME]]),
            Self::Later => lines(&[&["--root", &root.display().to_string(), "enable", UNIT_NAME]]),
            Self::None => Vec::new(),
        }
    }

    /// What it is told before they are removed.
    #[must_use]
    pub fn before_uninstall(self, root: &Path) -> Vec<Vec<String>> {
        match self {
            Self::Running => lines(&[&["disable", "--now", UNIT_NAME]]),
            Self::Later => lines(&[&["--root", &root.display().to_string(), "disable", UNIT_NAME]]),
            Self::None => Vec::new(),
        }
    }

    /// What it is told after that.
    #[must_use]
    pub fn after_uninstall(self) -> Vec<Vec<String>> {
        if self == Self::Running { lines(&[&["daemon-reload"]]) } else { Vec::new() }
    }
}

/// Tells `systemctl` one thing.
///
/// # Errors
/// It cannot be run, or refuses.
pub fn systemctl(arguments: &[String]) -> Result<()> {
    let failed = |said: String| Error::Service { command: format!("systemctl {}", arguments.join(" ")), said };
    let ran = Command::new("systemctl").args(arguments).stdin(Stdio::null()).output();
    let ran = ran.map_err(|error| failed(error.to_string()))?;
    if ran.status.success() {
        return Ok(());
    }
    Err(failed(String::from_utf8_lossy(&ran.stderr).trim().to_owned()))
}

fn has_systemctl() -> bool {
    let version = Command::new("systemctl").arg("--version").stdin(Stdio::null()).output();
    version.is_ok_and(|ran| ran.status.success())
}

fn lines(lines: &[&[&str]]) -> Vec<Vec<String>> {
    lines.iter().map(|line| line.iter().map(|word| (*word).to_owned()).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_starts_the_program_that_is_installed() {
        let program = format!("ExecStart={PROGRAM_DIRECTORY}/aditd");
        assert!(UNIT.lines().any(|line| line == program));
    }

    #[test]
    fn an_agent_that_has_not_changed_is_not_started_anew() {
        let said = |manager: Manager, changed| -> Vec<String> {
            let lines = manager.after_install(Path::new("/mnt"), changed);
            lines.iter().map(|line| line.join(" ")).collect()
        };
        let enabled = ["daemon-reload", "enable aditd.service"];
        assert_eq!(said(Manager::Running, true), [enabled.as_slice(), &["restart aditd.service"]].concat());
        assert_eq!(said(Manager::Running, false), [enabled.as_slice(), &["start aditd.service"]].concat());
        assert_eq!(said(Manager::Later, true), ["--root /mnt enable aditd.service"]);
        assert!(said(Manager::None, true).is_empty());
    }

    #[test]
    fn a_directory_of_files_is_no_running_system() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(directory.path().join("run/systemd/system")).unwrap();
        assert_ne!(Manager::of(directory.path()), Manager::Running);
    }
}
