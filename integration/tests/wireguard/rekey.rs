//! Two minutes and more: new keys while packets go, and none of them lost. wireguard-go's timers are fixed.

use std::{thread, time::Duration};

use adit_integration::{sealed::peer, trial_within};
use adit_lab::Error;
use libtest_mimic::{Failed, Trial};

use crate::{
    Outcome,
    world::{Begins, Setup, World},
};

/// The initiator makes a new session when it sends with keys older than this (section 6.1 of the WireGuard paper).
const REKEY_AFTER: Duration = Duration::from_secs(120);
/// Beyond that, so that packets go before, while and after.
const STEADY: Duration = REKEY_AFTER.saturating_add(Duration::from_secs(5));
const PER_SECOND: u32 = 50;

pub fn trials() -> Vec<Trial> {
    vec![trial_within("new_keys_lose_no_packet_whoever_began", STEADY * 2, both)]
}

fn both() -> Outcome {
    thread::scope(|scope| {
        let runs = [Begins::Ours, Begins::Theirs].map(|begins| (begins, scope.spawn(move || steady(begins))));
        for (begins, run) in runs {
            let ended = run.join().map_err(|_| format!("{begins:?}: panicked"))?;
            ended.map_err(|error| format!("when {begins:?} began: {}", error.message().unwrap_or("failed")))?;
        }
        Ok(())
    })
}

/// Echo requests both ways. Only one end knows where the other one is, and only that one can begin anew.
fn steady(begins: Begins) -> Outcome {
    let world = World::up(&Setup { begins, ..Setup::default() })?;
    match begins {
        Begins::Ours => world.ohio.ping("10.4.0.2")?.all_received()?,
        _ => world.mumbai.ping("10.4.0.1")?.all_received()?,
    };
    let status = |key: &str| Ok::<_, Error>(peer(world.node())?[key].as_u64());
    let first = (status("handshakes")?, world.theirs.of_peer("latest-handshakes")?);
    let count = (u64::from(PER_SECOND) * STEADY.as_secs()).to_string();
    let interval = (1.0 / f64::from(PER_SECOND)).to_string();
    let ping = |pod: &adit_lab::Pod, to: &str| -> Result<String, Failed> {
        let line = ["ping", "-n", "-q", "-i", &interval, "-c", &count, "-W", "2", to];
        Ok(pod.run_for(STEADY + STEADY / 4, line)?.stdout)
    };
    let said = thread::scope(|scope| -> Result<Vec<String>, Failed> {
        let ours = scope.spawn(|| ping(&world.ohio, "10.4.0.2"));
        let theirs = scope.spawn(|| ping(&world.mumbai, "10.4.0.1"));
        [ours, theirs].into_iter().map(|ping| ping.join().map_err(|_| Failed::from("a ping panicked"))?).collect()
    })?;
    for said in &said {
        let all = format!("{count} packets transmitted, {count} received");
        assert!(said.contains(&all), "{said}\n{}", world.theirs.log());
    }
    let last = (status("handshakes")?, world.theirs.of_peer("latest-handshakes")?);
    assert!(last.0 > first.0 && last.1 > first.1, "{first:?} {last:?}");
    let age = status("lastHandshakeMs")?;
    assert!(age.is_some_and(|age| u128::from(age) < STEADY.as_millis()), "{age:?}");
    Ok(())
}
