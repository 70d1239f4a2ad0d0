//! A long-lived command in a pod.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use crate::{Error, Result, command::command_line, ledger::Ledger, process::ProcessMark};

/// A running command. It is ended when this value is dropped.
#[derive(Debug)]
pub struct Background {
    ledger: Arc<Ledger>,
    process: ProcessMark,
    log: PathBuf,
}

impl Background {
    pub(crate) fn start(ledger: &Arc<Ledger>, mut command: Command, owner: &str) -> Result<Self> {
        static COUNTER: AtomicU32 = AtomicU32::new(1);
        let name = format!("{owner}-{}.log", COUNTER.fetch_add(1, Ordering::Relaxed));
        let log = ledger.directory("logs")?.join(name);
        let failed = || Error::io(format!("write {}", log.display()));
        let file = File::create(&log).map_err(failed())?;
        let line = command_line(&command);
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().map_err(failed())?)
            .stderr(file)
            .process_group(0)
            .spawn()
            .map_err(|source| Error::Start { command: line.clone(), source })?;
        let process = ledger.add_process(child, &line)?;
        Ok(Self { ledger: ledger.clone(), process, log })
    }

    /// Its pid.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.process.pid
    }

    /// Whether it lives.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.process.is_alive()
    }

    /// What it has said until now, output and error output together.
    #[must_use]
    pub fn output(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Ends it and returns what it said.
    ///
    /// # Errors
    /// It does not end.
    pub fn stop(self) -> Result<String> {
        self.ledger.end_process(self.process, Duration::from_secs(2))?;
        Ok(self.output())
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // Ended already, or recorded as left over: the lab's teardown looks again.
        let _ = self.ledger.end_process(self.process, Duration::from_secs(1));
    }
}
