//! The agent ends, by plan or by violence, and another one goes on: what of it a pod can see.
//!
//! `ADIT_SURVIVAL_SECONDS` says for how long packets are sent across upgrades (10 by default; the documented run is 60).

mod crowd;
mod killed;
mod upgrade;
mod words;

use libtest_mimic::Failed;

type Outcome = Result<(), Failed>;

fn main() {
    let trials = [upgrade::trials(), killed::trials(), crowd::trials()];
    adit_integration::main(trials.into_iter().flatten().collect());
}
