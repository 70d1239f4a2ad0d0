//! Threads that have to act at a certain time on a busy machine.

use std::{
    num::NonZeroU64,
    process::{Command, Stdio},
};

/// Realtime priority: above every ordinary process, below the kernel's own.
const PRIORITY: &str = "5";
/// What timers may be rounded by where there is no realtime priority.
const TIMER_SLACK: NonZeroU64 = NonZeroU64::MIN;

/// Gives the calling thread timers that are not rounded, and a realtime priority.
///
/// # Errors
/// Why it has no realtime priority, in words. Its timers are exact all the same.
pub fn become_punctual() -> Result<(), String> {
    // Without it timers of ordinary threads are up to 50 us late: no failure.
    let _ = rustix::thread::set_current_timer_slack(Some(TIMER_SLACK));
    let own = rustix::thread::gettid().as_raw_nonzero().to_string();
    let mut command = Command::new("chrt");
    command.args(["--fifo", "--pid", PRIORITY, &own]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let output = command.output().map_err(|error| format!("start chrt (package util-linux): {error}"))?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()) }
}
