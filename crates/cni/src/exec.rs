//! Running a plugin as a child process.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ioctl_fionbio};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
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
        let pipes = Pipes::of(child, self.stdin).map_err(|why| self.cannot("talk to it", &why))?;
        let said = pipes.run(deadline).map_err(|why| self.cannot("talk to it", &why))?;
        let (stdout, stderr) = said.ok_or_else(|| self.too_slow())?;
        // It has closed its output, so it is about to end.
        let end = pidfd_open(Pid::from_child(child), PidfdFlags::empty());
        let end = end.map_err(|why| self.cannot("wait for it", &why.into()))?;
        let mut ended = [PollFd::new(&end, PollFlags::IN)];
        if !wait(&mut ended, deadline).map_err(|why| self.cannot("wait for it", &why))? {
            return Err(self.too_slow());
        }
        let status = child.wait().map_err(|why| self.cannot("wait for it", &why))?;
        Ok((status, stdout, stderr))
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

/// The pipes to a child. None of them blocks, for the child may wait for another one.
struct Pipes<'a> {
    stdin: Option<ChildStdin>,
    unsent: &'a [u8],
    stdout: Output<ChildStdout>,
    stderr: Output<ChildStderr>,
}

impl<'a> Pipes<'a> {
    fn of(child: &mut Child, unsent: &'a [u8]) -> io::Result<Self> {
        let stdin = child.stdin.take();
        if let Some(pipe) = &stdin {
            ioctl_fionbio(pipe, true)?;
        }
        let (stdout, stderr) = (Output::of(child.stdout.take())?, Output::of(child.stderr.take())?);
        Ok(Self { stdin, unsent, stdout, stderr })
    }

    /// What the child says until it has closed both; `None` when that is not before the deadline.
    fn run(mut self, deadline: Option<Instant>) -> io::Result<Option<(Vec<u8>, Vec<u8>)>> {
        loop {
            self.feed();
            self.stdout.collect()?;
            self.stderr.collect()?;
            let stdin = self.stdin.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::OUT));
            let stdout = self.stdout.pipe.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN));
            let stderr = self.stderr.pipe.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN));
            if stdout.is_none() && stderr.is_none() {
                return Ok(Some((self.stdout.said, self.stderr.said)));
            }
            let mut open: Vec<PollFd<'_>> = [stdin, stdout, stderr].into_iter().flatten().collect();
            if !wait(&mut open, deadline)? {
                return Ok(None);
            }
        }
    }

    /// Writes what there is room for. A child may end without reading its stdin.
    fn feed(&mut self) {
        let Some(pipe) = &mut self.stdin else { return };
        while !self.unsent.is_empty() {
            match pipe.write(self.unsent) {
                Ok(count) => self.unsent = self.unsent.get(count..).unwrap_or_default(),
                Err(why) if why.kind() == io::ErrorKind::WouldBlock => return,
                Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        self.stdin = None;
    }
}

/// One of a child's outputs.
struct Output<P> {
    /// `None`: closed.
    pipe: Option<P>,
    said: Vec<u8>,
}

impl<P: Read + AsFd> Output<P> {
    fn of(pipe: Option<P>) -> io::Result<Self> {
        if let Some(pipe) = &pipe {
            ioctl_fionbio(pipe, true)?;
        }
        Ok(Self { pipe, said: Vec::new() })
    }

    /// Reads what has come.
    fn collect(&mut self) -> io::Result<()> {
        let Some(pipe) = &mut self.pipe else { return Ok(()) };
        let room = STDOUT_LIMIT_BYTES.saturating_sub(self.said.len() as u64);
        match pipe.take(room).read_to_end(&mut self.said) {
            Ok(_) => self.pipe = None,
            Err(why) if why.kind() == io::ErrorKind::WouldBlock => {}
            Err(why) => return Err(why),
        }
        Ok(())
    }
}

/// Waits until something can be done with one of `descriptors`; `false`: not before the deadline.
fn wait(descriptors: &mut [PollFd<'_>], deadline: Option<Instant>) -> io::Result<bool> {
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(descriptors, timeout.as_ref()) {
            Ok(0) if left.is_some_and(|left| left.is_zero()) => return Ok(false),
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return Ok(true),
            Err(why) => return Err(why.into()),
        }
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
