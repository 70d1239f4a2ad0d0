//! An agent whose packets stand still ends, so that the next one carries its tunnels. Each case is a process of its own:
//! this program again, told by a variable what to do.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    env, io,
    os::unix::process::ExitStatusExt as _,
    process::{Command, Output},
    thread,
    time::Duration,
};

use adit_dataplane::Engine;
use nix::{libc, sys::signal::Signal};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

const ROLE: &str = "ADIT_TEST_ROLE";

fn is_child() -> bool {
    let is_child = env::var_os(ROLE).is_some();
    if is_child {
        tracing_subscriber::fmt().with_writer(io::stderr).with_ansi(false).init();
        adit_agent::abort_on_panic();
    }
    is_child
}

fn run_as_child(test: &str) -> Output {
    let program = env::current_exe().unwrap();
    Command::new(program).args(["--exact", test, "--nocapture"]).env(ROLE, "1").output().unwrap()
}

fn aborted(output: &Output, word: &str) {
    assert_eq!(output.status.signal(), Some(Signal::SIGABRT as i32), "{output:?}");
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(log.contains("ERROR") && log.contains(word), "{log}");
}

#[test]
fn a_panic_of_any_thread_ends_the_process_with_a_line_in_the_log() {
    if is_child() {
        let _ = thread::Builder::new().name("adit-packets-7".into()).spawn(|| panic!("on purpose")).unwrap().join();
        return;
    }
    let output = run_as_child("a_panic_of_any_thread_ends_the_process_with_a_line_in_the_log");
    aborted(&output, "on purpose");
    aborted(&output, "adit-packets-7");
}

#[test]
fn a_packet_thread_that_cannot_wait_ends_the_process() {
    if is_child() {
        let confine = || {
            let refused = [libc::SYS_epoll_wait, libc::SYS_epoll_pwait, libc::SYS_epoll_pwait2];
            let filter = SeccompFilter::new(
                refused.map(|call| (call, Vec::new())).into(),
                SeccompAction::Allow,
                SeccompAction::Errno(libc::EPERM.unsigned_abs()),
                env::consts::ARCH.try_into().unwrap(),
            );
            apply_filter(&BpfProgram::try_from(filter.unwrap()).unwrap())
                .map_err(|error| io::Error::other(error.to_string()))
        };
        let _engine = Engine::start_confined(1, confine, std::sync::Arc::new(|| {}), std::sync::Arc::new(|_, _| {}));
        thread::sleep(Duration::from_secs(10));
        return;
    }
    aborted(&run_as_child("a_packet_thread_that_cannot_wait_ends_the_process"), "epoll refuses to wait");
}
