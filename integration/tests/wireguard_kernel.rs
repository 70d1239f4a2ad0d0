//! The kernel's WireGuard: made and told by `crates/net`, and as the other end of a tunnel of ours. It needs a kernel that has it: on
//! others `scripts/vm-test` runs these.

#[path = "wireguard_kernel/device.rs"]
mod device;
#[path = "wireguard_kernel/engine.rs"]
mod engine;
#[path = "wireguard_kernel/interop.rs"]
mod interop;
#[allow(dead_code, reason = "these tests use a part of it")]
#[path = "net/space.rs"]
mod space;

use std::{process::Command, time::Duration};

use adit_integration::trial_within;
use libtest_mimic::{Failed, Trial};

type Outcome = Result<(), Failed>;

/// In a virtual machine without hardware's help everything takes its time.
const DEADLINE: Duration = Duration::from_secs(300);

fn main() {
    let has = kernel_has_wireguard();
    let trials = |tests: &[device::Test]| -> Vec<Trial> {
        tests.iter().map(|&(name, test)| trial_within(name, DEADLINE, test)).collect()
    };
    let with: Vec<Trial> =
        interop::trials().into_iter().chain(engine::trials()).chain(trials(device::WITH_WIREGUARD)).collect();
    if !has {
        eprintln!("{} tests left out: this kernel has no WireGuard (scripts/vm-test boots one that has)", with.len());
    }
    let with = with.into_iter().map(|trial| trial.with_ignored_flag(!has));
    let without = trials(device::WITHOUT).into_iter().map(|trial| trial.with_ignored_flag(has));
    adit_integration::main(with.chain(without).collect());
}

/// By another program than what is tested.
fn kernel_has_wireguard() -> bool {
    let made = Command::new("unshare").args(["--net", "ip", "link", "add", "wg0", "type", "wireguard"]).output();
    made.is_ok_and(|output| output.status.success())
}
