//! Tunnels that come and go, many times: what is left of them is nothing. `ADIT_CYCLES` says how often (60 by default;
//! `scripts/cycles` asks for 10,000), half of them plain, half sealed, at the same time.

use std::{env, fs, time::Duration};

use adit_integration::{
    sealed::{Format, SealedPair},
    trial_within,
    tunnels::{FIRST_POD, Pair, Sight, annotation},
};
use adit_lab::{COMMAND_DEADLINE, Error, Node, Pod, Result, eventually};
use libtest_mimic::Failed;

type Outcome = std::result::Result<(), Failed>;

const USUAL_CYCLES: u32 = 60;
/// So many come first: what is allocated once is allocated then.
const WARM_UP: u32 = 20;
/// A machine that does other things as well.
const LONGEST_CYCLE: Duration = Duration::from_secs(3);
/// What the allocator may hold more at the end than after the warm-up, whatever the number of cycles.
const SLACK_KIB: u64 = 2048;

fn main() {
    let cycles = env::var("ADIT_CYCLES").ok().and_then(|text| text.parse().ok()).unwrap_or(USUAL_CYCLES);
    let patience = Duration::from_secs(120) + LONGEST_CYCLE * (WARM_UP + cycles);
    let half = cycles / 2;
    adit_integration::main(vec![
        trial_within("plain_tunnels_that_come_and_go_leave_nothing", patience, move || {
            come_and_go("plain", Pair::usual()?, half)
        }),
        trial_within("sealed_tunnels_that_come_and_go_leave_nothing", patience, move || {
            come_and_go("sealed", SealedPair::new(Format::Noise).derived().up()?, half)
        }),
    ]);
}

/// All that could grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held {
    /// Open descriptors of the agent.
    descriptors: usize,
    records: usize,
    /// UDP sockets that the kernel has in the pod's namespace, of IPv4.
    sockets: u64,
}

fn come_and_go(name: &str, mut pair: Pair, cycles: u32) -> Outcome {
    let networks = annotation("tunnelled", pair.lab.ohio(), FIRST_POD);
    let cycle = |pod: &mut Pod| -> Result<()> {
        pod.detach()?;
        pod.attach_defined(&networks)
    };
    for _ in 0..WARM_UP {
        cycle(&mut pair.ohio)?;
    }
    let (sight, before, first_kib) = (Sight::of(&pair.ohio)?, held(&pair.ohio)?, resident_kib(pair.lab.ohio())?);
    for number in 1..=cycles {
        cycle(&mut pair.ohio)?;
        if number % (cycles / 10).max(1) == 0 {
            println!("{name}: {number} cycles, {} KiB, {:?}", resident_kib(pair.lab.ohio())?, held(&pair.ohio)?);
        }
    }
    // The last client's connection may be on its way to its end.
    eventually("descriptors, records and sockets to be as before", COMMAND_DEADLINE, || {
        Ok((held(&pair.ohio)? == before).then_some(()))
    })?;
    sight.unchanged(&Sight::of(&pair.ohio)?)?;
    let last_kib = resident_kib(pair.lab.ohio())?;
    println!(
        "{name}: {cycles} ADD and DEL of the whole list: {first_kib} KiB before, {last_kib} KiB after, {before:?} both times"
    );
    assert!(last_kib <= first_kib + SLACK_KIB, "the agent has grown from {first_kib} to {last_kib} KiB");
    pair.ohio.ping("10.4.0.2")?.all_received()?;
    pair.ohio.detach()?;
    let left = held(&pair.ohio)?;
    assert_eq!((left.records, pair.lab.ohio().agent_fds()?.tun, pair.lab.ohio().agent_fds()?.udp), (0, 0, 0));
    Ok(())
}

fn held(pod: &Pod) -> Result<Held> {
    let node = pod.node();
    let records = fs::read_dir(node.run_dir().join("attachments")).map_err(|error| unexpected(&error))?.count();
    let sockets = pod.root(["cat", "/proc/net/sockstat"])?.ok()?.stdout;
    let udp = sockets.lines().find_map(|line| line.strip_prefix("UDP: inuse ")?.split(' ').next()?.parse().ok());
    Ok(Held {
        descriptors: node.agent_fds()?.all,
        records,
        sockets: udp.ok_or_else(|| unexpected(&format!("no UDP in {sockets}")))?,
    })
}

/// The agent's memory.
fn resident_kib(node: &Node) -> Result<u64> {
    let pid = node.agent_pid().ok_or_else(|| unexpected(&"no agent"))?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).map_err(|error| unexpected(&error))?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = resident.and_then(|text| text.split_whitespace().next()?.parse().ok());
    kib.ok_or_else(|| unexpected(&"no VmRSS"))
}

fn unexpected(error: &impl ToString) -> Error {
    Error::Unexpected(error.to_string())
}
