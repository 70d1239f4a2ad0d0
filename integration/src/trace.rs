//! Programs under ptrace(2), with everything that they start: each stop is shown to a closure, which decides who lives on.
//!
//! A program that traces must call [`serve`] first in `main`: it starts itself again as the one that asks to be traced
//! and then becomes the program, which is how this needs no unsafe code.

use std::{
    collections::HashMap,
    env,
    ffi::OsStr,
    fs, io,
    os::unix::process::CommandExt as _,
    process::{Command, exit},
    sync::mpsc::{Receiver, Sender, channel},
    thread::{self, JoinHandle},
};

use adit_net::Netns;
use nix::{
    errno::Errno,
    libc,
    sys::{
        ptrace::{self, Options},
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

const AS_TRACEE: &str = "--as-tracee";

/// Becomes the traced program where this process was started by [`command`]; else returns at once.
pub fn serve() {
    let mut arguments = env::args_os().skip(1);
    if arguments.next().as_deref() != Some(OsStr::new(AS_TRACEE)) {
        return;
    }
    let program = arguments.next().unwrap_or_default();
    let why = match ptrace::traceme() {
        Ok(()) => Command::new(&program).args(arguments).exec(),
        Err(errno) => errno.into(),
    };
    eprintln!("cannot trace {}: {why}", program.display());
    exit(127);
}

/// A command that can be traced.
///
/// # Errors
/// The running program's path is unknown.
pub fn command(program: impl AsRef<OsStr>) -> io::Result<Command> {
    let mut command = Command::new(env::current_exe()?);
    command.arg(AS_TRACEE).arg(program);
    Ok(command)
}

/// Where a process has stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// Before a system call takes effect.
    Entry,
    /// After it.
    Exit,
    /// Before the process is taken apart; its memory is still there.
    End,
}

/// A stop of one thread.
#[derive(Debug, Clone, Copy)]
pub struct Stop {
    /// The thread.
    pub thread: Pid,
    /// Its process.
    pub process: Pid,
    /// How many processes of the tree live.
    pub processes: usize,
    /// Where it stands.
    pub at: At,
}

/// What becomes of the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Everybody goes on.
    GoOn,
    /// Everybody is killed, before anybody makes another step.
    KillAll,
    /// The first process is killed; its children live on, untraced.
    KillFirst,
}

/// How the first process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this status.
    Exited(i32),
    /// By a signal.
    Killed,
}

/// A traced program under way.
#[derive(Debug)]
pub struct Tracing {
    first: Receiver<io::Result<Ended>>,
    tracer: JoinHandle<io::Result<()>>,
}

impl Tracing {
    /// Starts `command` (made by [`command`]) in `netns` and shows every stop to `watch`.
    #[must_use]
    pub fn start(netns: Netns, mut command: Command, mut watch: impl FnMut(&Stop) -> Next + Send + 'static) -> Self {
        let (tell, first) = channel();
        // A tracee belongs to the thread that started it, and that one waits for no other child of this process.
        let tracer = thread::spawn(move || {
            let started = netns.run(|| command.spawn()).map_err(io::Error::other).and_then(|spawned| spawned);
            match started.and_then(|child| Tracer::seize(Pid::from_raw(child.id().try_into().unwrap_or(0)))) {
                Ok(tracer) => tracer.follow(&mut watch, &tell),
                Err(error) => {
                    // Nobody listens only when nobody wants to know.
                    let _ = tell.send(Err(error));
                    Ok(())
                }
            }
        });
        Self { first, tracer }
    }

    /// Waits for the first process's end. Its children may live on.
    ///
    /// # Errors
    /// It could not be started, or not be traced.
    pub fn first(&self) -> io::Result<Ended> {
        self.first.recv().unwrap_or_else(|_| Err(io::Error::other("the tracer ended before its program")))
    }

    /// Waits for the end of every process.
    ///
    /// # Errors
    /// They could not be traced.
    pub fn all(self) -> io::Result<()> {
        self.tracer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

struct Tracer {
    first: Pid,
    /// Process of each thread that lives.
    threads: HashMap<Pid, Pid>,
    fate: Next,
}

impl Tracer {
    /// Takes over a child that asked for it and stands at its `execve`.
    fn seize(first: Pid) -> io::Result<Self> {
        match waitpid(first, Some(WaitPidFlag::__WALL))? {
            WaitStatus::Stopped(_, Signal::SIGTRAP) => (),
            status => return Err(io::Error::other(format!("the traced program did not start: {status:?}"))),
        }
        let options = Options::PTRACE_O_TRACESYSGOOD
            | Options::PTRACE_O_EXITKILL
            | Options::PTRACE_O_TRACECLONE
            | Options::PTRACE_O_TRACEFORK
            | Options::PTRACE_O_TRACEVFORK
            | Options::PTRACE_O_TRACEEXEC
            | Options::PTRACE_O_TRACEEXIT;
        ptrace::setoptions(first, options)?;
        ptrace::syscall(first, None)?;
        Ok(Self { first, threads: HashMap::from([(first, first)]), fate: Next::GoOn })
    }

    fn follow(mut self, watch: &mut impl FnMut(&Stop) -> Next, tell: &Sender<io::Result<Ended>>) -> io::Result<()> {
        loop {
            let status = match waitpid(None, Some(WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD)) {
                Ok(status) => status,
                Err(Errno::EINTR) => continue,
                Err(Errno::ECHILD) => return Ok(()),
                Err(errno) => return Err(errno.into()),
            };
            let ended = match status {
                WaitStatus::Exited(_, status) => Ended::Exited(status),
                WaitStatus::Signaled(..) => Ended::Killed,
                stopped => {
                    self.stopped(stopped, watch)?;
                    continue;
                }
            };
            let thread = status.pid().unwrap_or(self.first);
            self.threads.remove(&thread);
            if thread == self.first {
                let _ = tell.send(Ok(ended));
            }
        }
    }

    fn stopped(&mut self, status: WaitStatus, watch: &mut impl FnMut(&Stop) -> Next) -> io::Result<()> {
        let Some(thread) = status.pid() else { return Ok(()) };
        let is_new = !self.threads.contains_key(&thread);
        let process = *self.threads.entry(thread).or_insert_with(|| process_of(thread).unwrap_or(thread));
        if self.fate == Next::KillAll {
            // Somebody who was being born when the others were killed.
            return unless_gone(kill(process, Signal::SIGKILL).and_then(|()| ptrace::cont(thread, None)));
        }
        let mut signal = None;
        let at = match status {
            WaitStatus::PtraceSyscall(_) => match ptrace::syscall_info(thread) {
                Ok(info) if info.op == libc::PTRACE_SYSCALL_INFO_ENTRY => Some(At::Entry),
                Ok(_) => Some(At::Exit),
                Err(_) => None,
            },
            WaitStatus::PtraceEvent(_, _, libc::PTRACE_EVENT_EXIT) if thread == process => Some(At::End),
            // The stop that every traced newcomer begins with.
            WaitStatus::Stopped(_, Signal::SIGSTOP) if is_new => None,
            WaitStatus::Stopped(_, other) => {
                signal = Some(other);
                None
            }
            _ => None,
        };
        if let (Next::GoOn, Some(at)) = (self.fate, at) {
            self.fate = watch(&Stop { thread, process, processes: self.processes(), at });
            match self.fate {
                Next::GoOn => (),
                Next::KillFirst => unless_gone(kill(self.first, Signal::SIGKILL))?,
                Next::KillAll => {
                    self.threads.values().try_for_each(|process| unless_gone(kill(*process, Signal::SIGKILL)))?
                }
            }
        }
        match self.fate {
            Next::GoOn => unless_gone(ptrace::syscall(thread, signal)),
            _ => unless_gone(ptrace::cont(thread, signal)),
        }
    }

    fn processes(&self) -> usize {
        self.threads.iter().filter(|(thread, process)| thread == process).count()
    }
}

fn process_of(thread: Pid) -> Option<Pid> {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Tgid:"))?;
    line.trim().parse().ok().map(Pid::from_raw)
}

/// Whoever was killed meanwhile needs nothing more.
fn unless_gone(result: nix::Result<()>) -> io::Result<()> {
    match result {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
