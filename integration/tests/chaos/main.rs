//! Everything that may happen to two nodes and their tunnels, in an order that a seed decides, and what must hold after each step.
//!
//! | variable | meaning | where nothing is said |
//! |---|---|---|
//! | `ADIT_CHAOS_SECONDS` | how long steps are taken | 60 |
//! | `ADIT_CHAOS_SEED` | decides the steps | another one each time; it is printed |

mod ear;
mod invariants;
mod steps;
mod world;

use std::{
    env, process,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use adit_integration::{trial, trial_within};
use libtest_mimic::Failed;

use crate::{steps::Choice, world::World};

type Outcome<T = ()> = Result<T, Failed>;

const USUAL_SECONDS: u64 = 60;
/// Every step has a bound of its own; this is for one that was begun at the end, and for the lab.
const BEHIND_THE_END: Duration = Duration::from_secs(240);
/// Seeds that once found a fault, and after how many steps.
const PAST: &[(u64, u32)] = &[];

fn main() {
    let seconds = number("ADIT_CHAOS_SECONDS").unwrap_or(USUAL_SECONDS);
    let seed = number("ADIT_CHAOS_SEED").unwrap_or_else(another_seed);
    let span = Duration::from_secs(seconds);
    let mut trials = vec![
        trial_within(
            "whatever_happens_nothing_leaks_nothing_strays_and_what_can_be_up_is_up",
            span + BEHIND_THE_END,
            move || run(seed, |_, since| since.elapsed() < span),
        ),
        trial("the_same_seed_takes_the_same_steps", || {
            let numbers = |seed| {
                let mut choice = Choice::new(seed);
                (0..100).map(|_| choice.below(1000)).collect::<Vec<_>>()
            };
            assert_eq!(numbers(7), numbers(7));
            assert_ne!(numbers(7), numbers(8));
            Ok(())
        }),
    ];
    trials.extend(PAST.iter().map(|&(seed, steps)| {
        let name = format!("what_seed_{seed}_once_broke_holds_for_{steps}_steps");
        trial_within(name, Duration::from_secs(60 + 10 * u64::from(steps)), move || run(seed, |step, _| step <= steps))
    }));
    adit_integration::main(trials);
}

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok()?.parse().ok()
}

fn another_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::from(now.subsec_micros()) + u64::from(process::id()) * 1_000_000
}

/// Takes steps as long as `goes_on` says of the next one's number and of the time of the first one.
fn run(seed: u64, goes_on: impl Fn(u32, Instant) -> bool) -> Outcome {
    println!("seed {seed}");
    let mut choice = Choice::new(seed);
    let mut world = World::up()?;
    let first = Instant::now();
    let failed = |step: u32, what: &str, error: &Failed, world: &World| {
        let said = error.message().unwrap_or_default();
        Failed::from(format!("seed {seed}, step {step} ({what}): {said}\n{}", world.describe()))
    };
    invariants::hold(&world).map_err(|error| failed(0, "all pods were added", &error, &world))?;
    let (mut step, mut slowest) = (1, (Duration::ZERO, 0));
    while goes_on(step, first) {
        let chosen = steps::choose(&world, &mut choice);
        let what = format!("{chosen:?}");
        println!("{:8.1} s, step {step}: {what}", first.elapsed().as_secs_f64());
        let begin = Instant::now();
        steps::take(&mut world, chosen)
            .and_then(|()| invariants::hold(&world))
            .map_err(|error| failed(step, &what, &error, &world))?;
        slowest = slowest.max((begin.elapsed(), step));
        step += 1;
    }
    println!(
        "seed {seed}: {} steps in {:?}, {} messages arrived where they belong; the slowest step was {} with {:?}",
        step - 1,
        first.elapsed(),
        world.heard_in_all(),
        slowest.1,
        slowest.0
    );
    Ok(())
}
