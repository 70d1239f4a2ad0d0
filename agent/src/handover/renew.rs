//! The agent is asked to make way for the program that is installed now (SIGHUP, `systemctl reload`): it starts that one, which takes over.

use std::{
    env,
    ffi::OsString,
    io,
    os::unix::net::UnixStream,
    path::PathBuf,
    process::{Child, Command},
    thread,
};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

/// Options that say how to begin, which is always the same here.
const BEGINNINGS: [&str; 2] = ["--standby", "--take-over"];

/// Starts the program that is where this one was, with the same options. Returns its pid.
///
/// # Errors
/// It cannot be started.
pub fn start_next() -> io::Result<u32> {
    let mut arguments = env::args_os();
    // A name alone was found in PATH; what runs now is what is known for sure.
    let program = arguments.next().map(PathBuf::from).filter(|path| path.is_absolute());
    let program = program.map_or_else(env::current_exe, Ok)?;
    let kept: Vec<OsString> =
        arguments.filter(|argument| !BEGINNINGS.iter().any(|beginning| argument == beginning)).collect();
    let child = Command::new(&program).args(kept).arg("--take-over").spawn()?;
    let pid = child.id();
    thread::Builder::new().name("adit-next".into()).spawn(move || watch(child))?;
    Ok(pid)
}

/// It ends only when it could not take over.
fn watch(mut child: Child) {
    match child.wait() {
        Ok(status) => tracing::warn!("the next agent has ended ({status}); this one carries on"),
        Err(error) => tracing::warn!("cannot wait for the next agent: {error}"),
    }
}

/// Tells the service manager that the process at the other end is the service from now on, if this one started it.
pub fn announce(heir: &UnixStream, started: Option<u32>) {
    let pid = getsockopt(heir, PeerCredentials).ok().and_then(|peer| u32::try_from(peer.pid()).ok());
    if let Some(pid) = pid.filter(|pid| started == Some(*pid)) {
        // Without a service manager there is nobody to notify.
        let _ = sd_notify::notify(&[sd_notify::NotifyState::MainPid(pid)]);
    }
}
