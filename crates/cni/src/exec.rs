//! Running a plugin as a child process.

use std::io::{self, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::config;
use crate::env::{Command, Environment};
use crate::error::{Code, Error};

/// How long a plugin may be "text file busy" (it is being installed), as in libcni.
const BUSY_LIMIT: Duration = Duration::from_secs(5);

/// More than any result needs; a child that prints more gets a broken pipe.
const STDOUT_LIMIT_BYTES: u64 = 16 << 20;

/// Where a child's stderr goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stderr {
    /// To this process's.
    Inherit,
    /// Into the error's message when the child says nothing else, else to this process's.
    Capture,
}

/// One run of a plugin.
#[derive(Debug)]
pub(crate) struct Invocation<'a> {
    pub program: &'a Path,
    /// The whole environment, but for `CNI_COMMAND`.
    pub env: &'a Environment,
    pub command: Command,
    pub stdin: &'a [u8],
    pub timeout: Duration,
    pub stderr: Stderr,
}

impl Invocation<'_> {
    /// Runs the plugin to its end and returns its stdout.
    pub fn run(&self) -> Result<Vec<u8>, Error> {
        let deadline = Instant::now().checked_add(self.timeout);
        let mut child = self.spawn()?;
        let result = self.converse(&mut child, deadline);
        if result.is_err() {
            // Already gone in most cases; what matters is that nothing of it stays.
            let _ = child.kill();
            let _ = child.wait();
        }
        let (status, stdout, stderr) = result?;
        if !status.success() {
            return Err(self.failure(status, &stdout, &stderr));
        }
        if !stderr.is_empty() {
            let _ = io::stderr().write_all(&stderr);
        }
        Ok(stdout)
    }

    fn spawn(&self) -> Result<Child, Error> {
        let mut command = std::process::Command::new(self.program);
        command
            .env_clear()
            .envs(self.env.iter())
            .env("CNI_COMMAND", self.command.as_str())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(match self.stderr {
                Stderr::Inherit => Stdio::inherit(),
                Stderr::Capture => Stdio::piped(),
            });
        let started = Instant::now();
        let mut pause = Duration::from_millis(10);
        loop {
            match command.spawn() {
                Err(why) if why.kind() == io::ErrorKind::ExecutableFileBusy && started.elapsed() < BUSY_LIMIT => {
                    thread::sleep(pause);
                    pause = pause.saturating_mul(2).min(Duration::from_secs(1));
                }
                result => return result.map_err(|why| self.cannot("run it", &why)),
            }
        }
    }

    /// Feeds the child, reads it, and waits for its end.
    fn converse(&self, child: &mut Child, deadline: Option<Instant>) -> Result<(ExitStatus, Vec<u8>, Vec<u8>), Error> {
        if let Some(mut pipe) = child.stdin.take() {
            let stdin = self.stdin.to_vec();
            self.in_background(move || {
                // A child may end without reading its stdin.
                let _ = pipe.write_all(&stdin);
            })?;
        }
        let stdout = child.stdout.take().map(|pipe| self.collect(pipe));
        let stderr = child.stderr.take().map(|pipe| self.collect(pipe));
        let stdout = self.receive(stdout, deadline)?;
        let stderr = self.receive(stderr, deadline)?;
        let status = self.wait(child, deadline)?;
        Ok((status, stdout, stderr))
    }

    fn collect(&self, pipe: impl Read + Send + 'static) -> Result<mpsc::Receiver<io::Result<Vec<u8>>>, Error> {
        let (sender, receiver) = mpsc::channel();
        self.in_background(move || {
            let mut bytes = Vec::new();
            let result = pipe.take(STDOUT_LIMIT_BYTES).read_to_end(&mut bytes);
            let _ = sender.send(result.map(|_| bytes));
        })?;
        Ok(receiver)
    }

    fn receive(
        &self,
        receiver: Option<Result<mpsc::Receiver<io::Result<Vec<u8>>>, Error>>,
        deadline: Option<Instant>,
    ) -> Result<Vec<u8>, Error> {
        let Some(receiver) = receiver.transpose()? else {
            return Ok(Vec::new());
        };
        let received = match deadline {
            Some(deadline) => receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())),
            None => receiver.recv().map_err(Into::into),
        };
        match received {
            Ok(Ok(bytes)) => Ok(bytes),
            Ok(Err(why)) => Err(self.cannot("read its output", &why)),
            Err(_) => Err(self.too_slow()),
        }
    }

    /// The child has closed its output, so it is about to end: look closely at first, then seldom.
    fn wait(&self, child: &mut Child, deadline: Option<Instant>) -> Result<ExitStatus, Error> {
        let mut pause = Duration::from_micros(100);
        loop {
            if let Some(status) = child.try_wait().map_err(|why| self.cannot("wait for it", &why))? {
                return Ok(status);
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Err(self.too_slow());
            }
            thread::sleep(pause);
            pause = pause.saturating_mul(2).min(Duration::from_millis(50));
        }
    }

    fn in_background(&self, work: impl FnOnce() + Send + 'static) -> Result<(), Error> {
        thread::Builder::new().spawn(work).map(drop).map_err(|why| self.cannot("start a thread for it", &why))
    }

    fn cannot(&self, what: &str, why: &io::Error) -> Error {
        Error::new(Code::IO, format!("plugin {} ({}): cannot {what}: {why}", self.program.display(), self.command))
    }

    fn too_slow(&self) -> Error {
        Error::new(
            Code::INTERNAL,
            format!(
                "plugin {} ({}) did not end within {:?} and was killed",
                self.program.display(),
                self.command,
                self.timeout
            ),
        )
    }

    /// The child's own error, or what can be said in its place; the texts are libcni's.
    fn failure(&self, status: ExitStatus, stdout: &[u8], stderr: &[u8]) -> Error {
        let how = match (status.code(), status.signal()) {
            (Some(code), _) => format!("exit status {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => status.to_string(),
        };
        let said = String::from_utf8_lossy(stdout);
        let error = if !said.trim().is_empty() {
            match decode_error(stdout) {
                Ok(error) if error != Error::default() => return error,
                Ok(_) => Error::new(Code::INTERNAL, format!("netplugin failed with an empty error: {said:?}")),
                Err(why) => Error::new(
                    Code::INTERNAL,
                    format!("netplugin failed but error parsing its diagnostic message {said:?}: {why}"),
                ),
            }
        } else if !stderr.is_empty() {
            let text = String::from_utf8_lossy(stderr);
            Error::new(Code::INTERNAL, format!("netplugin failed: {text:?}"))
        } else {
            Error::new(Code::INTERNAL, format!("netplugin failed with no error message: {how}"))
        };
        error.with_details(format!("{} ({}): {how}", self.program.display(), self.command))
    }
}

fn decode_error(stdout: &[u8]) -> Result<Error, String> {
    let value: Value = serde_json::from_slice(stdout).map_err(|why| why.to_string())?;
    config::from_value(&value).map_err(|why| why.msg)
}

/// The first regular file named `plugin` in `folders`; the texts are libcni's (`invoke.FindInPath`).
pub(crate) fn find_in_path(plugin: &str, folders: &[PathBuf]) -> Result<PathBuf, Error> {
    if plugin.is_empty() {
        return Err(Error::new(Code::INVALID_CONFIG, "no plugin name provided"));
    }
    if plugin.contains('/') {
        return Err(Error::new(Code::INVALID_CONFIG, format!("invalid plugin name: {plugin}")));
    }
    if folders.is_empty() {
        return Err(Error::new(Code::BAD_ENVIRONMENT, "no paths provided").with_details("CNI_PATH is empty"));
    }
    folders.iter().map(|folder| folder.join(plugin)).find(|file| file.is_file()).ok_or_else(|| {
        let folders: Vec<String> = folders.iter().map(|f| f.display().to_string()).collect();
        Error::new(Code::INTERNAL, format!("failed to find plugin {plugin:?} in path [{}]", folders.join(" ")))
    })
}

/// What a plugin printed for ADD, as JSON.
pub(crate) fn decode_result(plugin: &str, stdout: &[u8]) -> Result<Value, Error> {
    let printed = String::from_utf8_lossy(stdout);
    if printed.trim().is_empty() {
        return Err(Error::new(Code::DECODE, format!("plugin {plugin:?} (ADD) succeeded, but printed no result")));
    }
    serde_json::from_slice(stdout).map_err(|why| {
        Error::new(
            Code::DECODE,
            format!("plugin {plugin:?} (ADD) succeeded, but its result is not one JSON document: {why}"),
        )
        .with_details(printed)
    })
}
