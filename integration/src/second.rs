//! Another agent in a node's run directory.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Stdio},
    time::Duration,
};

use adit_lab::{Binaries, Node, eventually};
use libtest_mimic::Failed;

/// An agent beside the lab's own; it ends with this value.
#[derive(Debug)]
pub struct Second {
    /// Its process.
    pub process: Child,
    /// Where it writes.
    pub log: PathBuf,
}

impl Second {
    /// Starts one in the node's directories, which writes to `log`.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(node: &Node, log: PathBuf, arguments: &[&str]) -> Result<Self, Failed> {
        let file = fs::File::create(&log)?;
        let mut command = node.command(Binaries::get()?.program("aditd")?);
        command.args(arguments).arg("--run-dir").arg(node.run_dir()).arg("--config-dir").arg(node.config_dir());
        let process = command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).spawn()?;
        Ok(Self { process, log })
    }

    /// Waits until its log has these words.
    ///
    /// # Errors
    /// It does not say them.
    pub fn says(&self, words: &str) -> Result<(), Failed> {
        let said = || fs::read_to_string(&self.log).unwrap_or_default();
        let waited = eventually(words, Duration::from_secs(10), || {
            Ok(said().lines().any(|line| line.contains(words)).then_some(()))
        });
        Ok(waited.map_err(|error| format!("{error}: {}", said()))?)
    }
}

impl Drop for Second {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
