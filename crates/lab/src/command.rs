//! Running programs with a deadline.

use std::{
    fmt::Write as _,
    io::{Read, Write as _},
    os::unix::process::CommandExt as _,
    process::{Child, Command, ExitStatus, Stdio},
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::sys::signal::{Signal, killpg};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};

use crate::{Error, Result};

/// How long a command may take where nothing else is said.
pub const COMMAND_DEADLINE: Duration = Duration::from_secs(30);

/// A command that ran to its end.
#[derive(Debug, Clone)]
pub struct Ran {
    /// The command line, as a person would type it.
    pub command: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Its output.
    pub stdout: String,
    /// Its error output.
    pub stderr: String,
}

impl Ran {
    /// Whether it ended with status 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.status.success()
    }

    /// The command must have succeeded.
    ///
    /// # Errors
    /// It did not: the error carries what it said.
    pub fn ok(self) -> Result<Self> {
        if self.success() { Ok(self) } else { Err(self.unexpected_end()) }
    }

    /// The command must have failed.
    ///
    /// # Errors
    /// It succeeded.
    pub fn fails(self) -> Result<Self> {
        if self.success() { Err(self.unexpected_end()) } else { Ok(self) }
    }

    /// Its output as JSON.
    ///
    /// # Errors
    /// It failed, or its output is no JSON.
    pub fn json(self) -> Result<serde_json::Value> {
        let ran = self.ok()?;
        if ran.stdout.trim().is_empty() {
            return Ok(serde_json::Value::Array(Vec::new()));
        }
        serde_json::from_str(&ran.stdout)
            .map_err(|error| Error::Unexpected(format!("`{}` printed no JSON: {error}: {}", ran.command, ran.stdout)))
    }

    fn unexpected_end(self) -> Error {
        let said = if self.stderr.trim().is_empty() { self.stdout } else { self.stderr };
        Error::Command { command: self.command, status: self.status, said: said.trim().to_owned() }
    }
}

/// Runs `command` to its end; kills its process group at the deadline.
///
/// # Errors
/// It cannot be started, or the deadline passed. A failing command is a result ([`Ran::ok`]).
pub fn run(mut command: Command, input: Option<&[u8]>, deadline: Duration) -> Result<Ran> {
    let line = command_line(&command);
    let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
    let mut child = command
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|source| Error::Start { command: line.clone(), source })?;

    let (stdout, stderr) = (collect(child.stdout.take()), collect(child.stderr.take()));
    let feeder = child.stdin.take().zip(input.map(<[u8]>::to_vec)).map(|(mut pipe, bytes)| {
        // A program that does not read its input is no error.
        thread::spawn(move || drop(pipe.write_all(&bytes)))
    });
    let ended = wait(&mut child, deadline)?;
    if ended.is_none() {
        kill_group(&child);
    }
    let status = child.wait().map_err(Error::io(format!("wait for `{line}`")))?;
    // Descendants may hold the pipes longer than the command itself lives.
    kill_group(&child);
    if let Some(feeder) = feeder {
        let _ = feeder.join();
    }
    let (stdout, stderr) = (text(stdout), text(stderr));
    if ended.is_none() {
        return Err(Error::Deadline { command: line, deadline, said: format!("{stdout}{stderr}").trim().to_owned() });
    }
    Ok(Ran { command: line, status, stdout, stderr })
}

/// Waits until the child has ended; `None` when the time is over first.
pub(crate) fn wait(child: &mut Child, deadline: Duration) -> Result<Option<ExitStatus>> {
    let id = child.id();
    let failed = |what: &str| Error::io(format!("{what} process {id}"));
    if let Some(status) = child.try_wait().map_err(failed("look at"))? {
        return Ok(Some(status));
    }
    let handle = pidfd_open(Pid::from_child(child), PidfdFlags::empty()).map_err(|e| failed("watch")(e.into()))?;
    let timeout = Timespec::try_from(deadline).ok();
    poll(&mut [PollFd::new(&handle, PollFlags::IN)], timeout.as_ref()).map_err(|e| failed("wait for")(e.into()))?;
    child.try_wait().map_err(failed("look at"))
}

/// The command line as a person would type it.
pub(crate) fn command_line(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args().map(|argument| argument.to_string_lossy()) {
        let plain = argument.chars().all(|c| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c));
        // Writing to a String cannot fail.
        let _ = if plain && !argument.is_empty() { write!(line, " {argument}") } else { write!(line, " '{argument}'") };
    }
    line
}

fn kill_group(child: &Child) {
    if let Ok(pid) = i32::try_from(child.id()) {
        // The group may have ended by itself.
        let _ = killpg(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL);
    }
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What was read before an error is still worth showing.
            drop(pipe.read_to_end(&mut bytes));
        }
        bytes
    })
}

fn text(collected: JoinHandle<Vec<u8>>) -> String {
    String::from_utf8_lossy(&collected.join().unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn output_error_output_and_status_are_kept_apart() {
        let ran = run(sh("echo out; echo err >&2; exit 3"), None, COMMAND_DEADLINE).unwrap();
        assert_eq!((ran.stdout.as_str(), ran.stderr.as_str(), ran.status.code()), ("out\n", "err\n", Some(3)));
        assert!(ran.ok().unwrap_err().to_string().contains("err"));
    }

    #[test]
    fn a_command_that_does_not_end_is_killed_with_its_children() {
        let error = run(sh("echo started; sleep 60 & wait"), None, Duration::from_millis(200)).unwrap_err();
        assert!(matches!(&error, Error::Deadline { said, .. } if said == "started"), "{error}");
    }

    #[test]
    fn input_reaches_the_command() {
        assert_eq!(run(sh("cat"), Some(b"hello"), COMMAND_DEADLINE).unwrap().stdout, "hello");
    }
}
