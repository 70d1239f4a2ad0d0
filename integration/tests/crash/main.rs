//! SIGKILL at any system call of ADD or DEL: what is left goes with DEL, GC or the next ADD, and the next ADD works.
//!
//! Each trial runs one verb of one configuration again and again, kills it at one call after the other (see
//! [`points::passes`]), recovers in one of several ways, and compares everything that an attachment may touch with how it
//! was before. `ADIT_CRASH_EXHAUSTIVE=1` leaves no call out; it takes
//! the better part of an hour.

mod picture;
mod points;
mod scenario;
mod site;
mod syscall;

use std::time::Duration;

use adit_integration::{trace, trial_within};
use scenario::{FURTHER, SCENARIOS, Verb};

fn main() {
    trace::serve();
    let exhaustive = std::env::var("ADIT_CRASH_EXHAUSTIVE").is_ok_and(|value| value == "1");
    let deadline = Duration::from_secs(if exhaustive { 7200 } else { 600 });
    let mut trials = Vec::new();
    for scenario in SCENARIOS.iter().chain(FURTHER.iter().filter(|_| exhaustive)) {
        for verb in [Verb::Add, Verb::Del] {
            let name = format!("{}_killed_in_{}_leaves_nothing_for_long", scenario.name, verb.name().to_lowercase());
            trials.push(trial_within(name, deadline, move || points::run(scenario, verb, exhaustive)));
        }
    }
    adit_integration::main(trials);
}
