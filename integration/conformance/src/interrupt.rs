//! Ctrl-C: no plugin outlives the harness. Namespaces and files go by themselves.

use std::{
    collections::BTreeSet,
    process,
    sync::{Mutex, PoisonError},
    thread,
};

use nix::{
    sys::signal::{SigSet, Signal, killpg},
    unistd::Pid,
};

/// The process groups of the plugins that are at work.
static RUNNING: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// Waits for a signal to end, on a thread of its own; called before any other thread is there, so that all of them
/// leave the signals to it.
pub fn watch() {
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
    if signals.thread_block().is_err() {
        return;
    }
    thread::spawn(move || {
        let Ok(signal) = signals.wait() else { return };
        for group in RUNNING.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            if let Ok(group) = i32::try_from(*group) {
                // It may have ended this moment.
                let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
            }
        }
        process::exit(128_i32.saturating_add(signal as i32));
    });
}

/// A plugin runs, in a process group of its own.
pub fn began(group: u32) {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner).insert(group);
}

/// A plugin has ended and was waited for.
pub fn ended(group: u32) {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner).remove(&group);
}
