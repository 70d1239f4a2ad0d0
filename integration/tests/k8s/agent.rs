//! The agent of a node, whose pods live on while it does not.

use adit_lab::{COMMAND_DEADLINE, eventually};

use crate::{
    Outcome, Test,
    cluster::{MUMBAI, OHIO},
    networks::{both_reach, pair},
};

pub const TESTS: &[Test] = &[("tunnels_work_again_after_the_agent_was_killed", killed)];

fn killed() -> Outcome {
    let stage = pair("killed", "bridge-tun")?;
    both_reach(&stage)?;
    let pid = || Ok::<_, adit_lab::Error>(OHIO.node(&["pidof", "aditd"])?.ok()?.stdout.trim().to_owned());
    let before = pid()?;
    OHIO.node(&["kill", "-KILL", &before])?.ok()?;
    eventually("another agent", COMMAND_DEADLINE, || Ok(Some(pid()?).filter(|now| *now != before)))?;
    // The interface has stayed, with its address and its route.
    let address = stage.run(OHIO, "ip -oneline address show dev tun")?.ok()?.stdout;
    assert!(address.contains("10.4.0.1/30"), "{address}");
    stage.reaches(OHIO, MUMBAI.inner)?;
    Ok(())
}
