//! Not planned: the agent is killed, and another one opens everything again from the records.

use std::{
    thread,
    time::{Duration, Instant},
};

use adit_integration::trial;
use libtest_mimic::Trial;

use crate::{
    Outcome,
    upgrade::beside_a_stream,
    words::{Wire, all_up, carrier_changes},
};

pub fn trials() -> Vec<Trial> {
    let killed = Wire::ALL.map(|wire| {
        let name = format!("a_tcp_connection_through_a_{}_tunnel_outlives_a_killed_agent", wire.name());
        trial(name, move || stream_outlives(wire))
    });
    Vec::from(killed)
}

/// The gap is what the sender's retransmissions make of the time without an agent: printed, not judged.
fn stream_outlives(wire: Wire) -> Outcome {
    let pair = wire.pair()?;
    let ohio = pair.lab.ohio();
    let changes = carrier_changes(&pair.ohio)?;
    let mut without = Duration::ZERO;
    let (bytes, silence) = beside_a_stream(&pair, || {
        for _ in 0..2 {
            let start = Instant::now();
            ohio.kill_agent()?;
            ohio.start_agent()?;
            without = without.max(start.elapsed());
            all_up(ohio, 1)?;
            thread::sleep(Duration::from_secs(1));
        }
        Ok(())
    })?;
    println!(
        "{}: {bytes} bytes came back; the longest silence was {silence:?}, the longest time until another agent listened {without:?}",
        wire.name()
    );
    // Lost with each agent, and back with the next one.
    assert_eq!(carrier_changes(&pair.ohio)?, changes + 4);
    pair.ohio.ping("10.4.0.2")?.all_received()?;
    Ok(())
}
