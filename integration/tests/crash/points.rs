//! Where plugins are killed.

use std::{
    sync::mpsc::{Receiver, channel},
    time::Instant,
};

use adit_integration::trace::{At, Next, Stop};
use libtest_mimic::Failed;
use nix::unistd::Pid;

use crate::{
    scenario::{Scenario, Verb},
    site::Site,
    syscall::SystemCall,
};

/// A trial gives up after so many leaks: each costs a new lab.
const LEAKS_MAX: usize = 12;
/// Of the calls that change nothing, every so many is tried; no multiple of anything that repeats in a plugin.
const STRIDE: usize = 17;

/// Which calls are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Calls {
    /// Those that may change something.
    Changing,
    /// The others.
    Quiet,
    /// Of any kind that may change something, while a child lives; only the plugin is killed then.
    BesideChild,
}

/// One call.
#[derive(Debug, Clone, Copy)]
pub struct Aim {
    pub calls: Calls,
    /// From 1.
    pub number: usize,
    /// Before or after its effect.
    pub at: At,
}

impl Aim {
    /// What to do at each stop, and where the call that was hit is described.
    pub fn watch(self) -> (impl FnMut(&Stop) -> Next + Send + 'static, Receiver<String>) {
        let (tell, hit) = channel();
        let mut count = 0;
        let mut leaving: Option<Pid> = None;
        let fate = if self.calls == Calls::BesideChild { Next::KillFirst } else { Next::KillAll };
        let watch = move |stop: &Stop| {
            if stop.at == At::Exit && leaving == Some(stop.thread) {
                return fate;
            }
            if stop.at != At::Entry || leaving.is_some() || (self.calls == Calls::BesideChild && stop.processes < 2) {
                return Next::GoOn;
            }
            let Some(call) = SystemCall::of(stop.thread) else { return Next::GoOn };
            if call.changes() == (self.calls == Calls::Quiet) {
                return Next::GoOn;
            }
            count += 1;
            if count != self.number {
                return Next::GoOn;
            }
            // Somebody listens, or the trial is over.
            let _ = tell.send(call.describe());
            if self.at == At::Entry {
                return fate;
            }
            leaving = Some(stop.thread);
            Next::GoOn
        };
        (watch, hit)
    }
}

/// Which calls, on which side, each how-manieth.
fn passes(scenario: &Scenario, exhaustive: bool) -> Vec<(Calls, At, usize)> {
    if exhaustive {
        return vec![
            (Calls::Changing, At::Entry, 1),
            (Calls::Changing, At::Exit, 1),
            (Calls::BesideChild, At::Entry, 1),
            (Calls::Quiet, At::Entry, 1),
            (Calls::Quiet, At::Exit, 1),
        ];
    }
    vec![
        (Calls::Changing, At::Entry, scenario.stride),
        (Calls::Changing, At::Exit, scenario.stride),
        (Calls::BesideChild, At::Entry, 3 * scenario.stride),
        (Calls::Quiet, At::Entry, STRIDE * scenario.stride * scenario.stride),
    ]
}

/// Kills `verb` everywhere.
pub fn run(scenario: &'static Scenario, verb: Verb, exhaustive: bool) -> Result<(), Failed> {
    let start = Instant::now();
    let mut site = Site::new(scenario)?;
    let mut leaks = Vec::new();
    let mut tried = 0;
    for (calls, at, stride) in passes(scenario, exhaustive) {
        for number in (1..).step_by(stride) {
            let recovery = scenario.recoveries[tried % scenario.recoveries.len()];
            site.prepare(verb)?;
            let (hit, tracing) = site.kill(verb, Aim { calls, number, at })?;
            let Some(call) = hit else {
                tracing.all()?;
                // The plugin came through: there are no more such calls.
                site.recover(recovery)?;
                break;
            };
            tried += 1;
            let recovered = site.recover(recovery);
            tracing.all()?;
            if let Err(error) = recovered.and_then(|()| site.is_back(verb, recovery)) {
                let side = if at == At::Entry { "before" } else { "after" };
                let verb = verb.name();
                leaks.push(format!("{verb} killed {side} {calls:?} call {number}: {call}; {recovery:?}: {error}"));
                // At once: what hangs later must not hide it.
                eprintln!("{} {}", scenario.name, leaks[leaks.len() - 1]);
                if leaks.len() >= LEAKS_MAX {
                    return Err(Failed::from(leaks.join("\n")));
                }
                site = Site::new(scenario)?;
            }
        }
    }
    eprintln!(
        "{} {}: {tried} points, {} leaks, {:.1} s",
        scenario.name,
        verb.name(),
        leaks.len(),
        start.elapsed().as_secs_f64()
    );
    if leaks.is_empty() { Ok(()) } else { Err(Failed::from(leaks.join("\n"))) }
}
