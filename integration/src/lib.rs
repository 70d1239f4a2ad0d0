//! How the scenarios are run: as root only, each with a deadline, and with nothing left behind.
//!
//! ```no_run
//! use adit_integration::trial;
//! use adit_lab::{Attachment, Lab};
//!
//! fn main() {
//!     adit_integration::main(vec![trial("routers_forward", || {
//!         let lab = Lab::two_clusters(Attachment::Bridge)?;
//!         lab.ohio().root(["ping", "-c", "1", "100.66.1.2"])?.ok()?;
//!         Ok(())
//!     })]);
//! }
//! ```
#![forbid(unsafe_code)]

pub mod disk;
pub mod foreign;
pub mod scripts;
pub mod sealed;
pub mod second;
pub mod trace;
pub mod tunnels;

use std::{
    process,
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc::{RecvTimeoutError, channel},
    },
    thread,
    time::Duration,
};

use adit_lab::Binaries;
use libtest_mimic::{Arguments, Failed, Trial};

/// How long a trial may take where nothing else is said.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Sum of the deadlines of all trials, in seconds.
static ALL_SECONDS: AtomicU64 = AtomicU64::new(0);

/// A trial with the usual deadline.
pub fn trial(name: impl Into<String>, test: impl FnOnce() -> Result<(), Failed> + Send + 'static) -> Trial {
    trial_within(name, DEADLINE, test)
}

/// A trial with a deadline of its own. A trial that passes it ends the whole run: what hangs cannot be ended alone.
pub fn trial_within(
    name: impl Into<String>,
    deadline: Duration,
    test: impl FnOnce() -> Result<(), Failed> + Send + 'static,
) -> Trial {
    let name = name.into();
    ALL_SECONDS.fetch_add(deadline.as_secs(), Ordering::Relaxed);
    Trial::test(name.clone(), move || {
        let (ended, watch) = channel::<()>();
        thread::spawn(move || {
            // The sender goes when the trial returns or panics.
            if watch.recv_timeout(deadline) == Err(RecvTimeoutError::Timeout) {
                abort(&format!("{name} has not ended within {deadline:?}"));
            }
        });
        let result = test();
        drop(ended);
        result
    })
}

/// Runs the trials as `cargo test` expects it, and ends the process. Labs of dead processes are removed first.
pub fn main(trials: Vec<Trial>) -> ! {
    let arguments = Arguments::from_args();
    let root = rustix::process::geteuid().is_root();
    let count = u32::try_from(trials.len()).unwrap_or(u32::MAX);
    let trials = trials.into_iter().map(|trial| {
        let ignored = trial.has_ignored_flag() || !root;
        trial.with_ignored_flag(ignored)
    });
    let trials = trials.collect();
    if arguments.list {
        libtest_mimic::run(&arguments, trials).exit();
    }
    if !root {
        say(&format!("left out {count} tests: they need root (run scripts/test as root)"));
    } else {
        if let Err(error) = adit_lab::janitor() {
            say(&format!("an earlier run has left something behind: {error}"));
        }
        // Before the deadlines begin. What does not build fails the trials that need it, with the compiler's words.
        let _ = Binaries::get();
    }
    // For trials that were not made by `trial`.
    let all = Duration::from_secs(ALL_SECONDS.load(Ordering::Relaxed)).max(DEADLINE.saturating_mul(count.max(10)));
    thread::spawn(move || {
        thread::sleep(all);
        abort(&format!("the run has not ended within {all:?}"));
    });
    libtest_mimic::run(&arguments, trials).exit();
}

fn abort(why: &str) -> ! {
    say(&format!("{why}; what stands:\n{}", adit_lab::describe_own()));
    adit_lab::tear_down_own();
    process::exit(101);
}

fn say(text: &str) {
    eprintln!("{text}");
}
