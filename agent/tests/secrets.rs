//! What is in the agent's memory stays there. The case is a process of its own: this program again, told by a variable what to do.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and its child answers on stdout"
)]

use std::{env, fs, process::Command};

use caps::{CapSet, Capability};
use nix::sys::{
    prctl::get_dumpable,
    resource::{RLIM_INFINITY, Resource, getrlimit},
};

const ROLE: &str = "ADIT_TEST_ROLE";

fn is_locked() -> bool {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    let locked = status.lines().find_map(|line| line.strip_prefix("VmLck:")).unwrap();
    locked.trim() != "0 kB"
}

fn report() {
    let core = getrlimit(Resource::RLIMIT_CORE).unwrap();
    println!("dumpable {} core {} locked {}", get_dumpable().unwrap(), core.0.max(core.1), is_locked());
}

/// Where it is not, nothing may be locked: memory that is asked for later would count, and be refused.
fn may_be_locked() -> bool {
    getrlimit(Resource::RLIMIT_MEMLOCK).unwrap().1 == RLIM_INFINITY
        || caps::has_cap(None, CapSet::Effective, Capability::CAP_SYS_RESOURCE).unwrap()
}

#[test]
fn memory_is_kept_out_of_dumps_and_out_of_swap_where_that_is_allowed() {
    if env::var_os(ROLE).is_some() {
        report();
        adit_agent::privilege::keep_secrets().unwrap();
        report();
        // As much as the limit would be, where there is one.
        assert_eq!(vec![7_u8; 64 << 20].iter().filter(|byte| **byte == 7).count(), 64 << 20);
        return;
    }
    let may_be_locked = may_be_locked();
    if !may_be_locked {
        eprintln!("left out: that memory is locked (this process may not raise its limit of locked memory)");
    }
    let program = env::current_exe().unwrap();
    let test = "memory_is_kept_out_of_dumps_and_out_of_swap_where_that_is_allowed";
    let output = Command::new(program).args(["--exact", test, "--nocapture"]).env(ROLE, "1").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    let told: Vec<&str> = text.lines().filter_map(|line| line.get(line.find("dumpable ")?..)).collect();
    assert_eq!(told.len(), 2, "{text}");
    assert!(told[0].starts_with("dumpable true") && told[0].ends_with("locked false"), "{text}");
    assert_eq!(told[1], format!("dumpable false core 0 locked {may_be_locked}"), "{text}");
}
