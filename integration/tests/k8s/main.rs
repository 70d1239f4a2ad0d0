//! Adit on two real Kubernetes clusters (`scripts/k8s`), with networks and pods as a user writes them.
//!
//! The clusters stand for all trials, which run one after the other, each in a namespace of its own under Pod Security
//! `restricted`. They are taken down at the end; with `ADIT_K8S_KEEP` set they stay, for the next run or for a person. Programs
//! for the DaemonSet's image are those of `ADIT_DIST_DIR`, else `scripts/build` makes them.

mod agent;
mod cluster;
mod connect;
mod failure;
mod install;
mod networks;

use std::{env, fs::File, path::PathBuf, time::Duration};

use adit_integration::{scripts::script, trial_within};
use adit_lab::Binaries;
use cluster::{k8s, up};
use libtest_mimic::{Arguments, Failed, Trial};

type Outcome = Result<(), Failed>;
type Test = (&'static str, fn() -> Outcome);

/// Starting the clusters, and building what ships, is part of the trial that finds them missing.
const DEADLINE: Duration = Duration::from_secs(2700);
const DOWN: Duration = Duration::from_secs(60);

fn main() {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let built = || Ok(Binaries::get()?.directory().to_owned());
    let thin = [networks::TESTS, failure::TESTS, agent::TESTS].into_iter().flatten();
    let thin = thin.map(|test| trial(*test, built, &[]));
    let thick = networks::TESTS_OF_THICK.iter().map(|test| trial(*test, built, &["--multus", "thick"]));
    let installed = [connect::TESTS, install::TESTS].into_iter().flatten();
    let installed = installed.map(|test| trial(*test, install::shipped, &["--install"]));
    let trials: Vec<Trial> = thin.chain(thick).chain(installed).collect();
    if arguments.list {
        libtest_mimic::run(&arguments, trials).exit();
    }
    if let Err(why) = possible() {
        eprintln!("left out {} tests on real Kubernetes clusters: {why}", trials.len());
        return;
    }
    // There is one pair of clusters on a machine: another run waits for this one.
    let alone = File::create(env::temp_dir().join("adit-k8s-tests.lock")).and_then(|file| file.lock().map(|()| file));
    let conclusion = libtest_mimic::run(&arguments, trials);
    if env::var_os("ADIT_K8S_KEEP").is_none()
        && let Err(error) = k8s(&["down"], None, DOWN).and_then(adit_lab::Ran::ok)
    {
        eprintln!("{error}");
    }
    drop(alone);
    conclusion.exit();
}

/// A trial on clusters that `scripts/k8s up OPTION…` starts with the programs in a directory.
fn trial(
    (name, test): Test,
    programs: impl FnOnce() -> adit_lab::Result<PathBuf> + Send + 'static,
    options: &'static [&str],
) -> Trial {
    trial_within(name, DEADLINE, move || {
        up(&programs()?, options)?;
        test()
    })
}

/// Why no cluster can be had here.
fn possible() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("they need root (run scripts/test as root)".to_owned());
    }
    let checked = script("scripts/k8s-tools", &["--check"], DOWN).and_then(adit_lab::Ran::ok);
    checked.map(drop).map_err(|_| "their parts are not built (scripts/test k8s builds them)".to_owned())
}
