//! `bridge`, `macvlan` and `static` as a runtime calls them, on real namespaces.

mod bridge;
mod bridge_host;
mod harness;
mod lifecycle;
mod macvlan;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    let root = harness::is_root();
    let mut trials = Vec::new();
    for (name, body) in [bridge::TESTS, bridge_host::TESTS, lifecycle::TESTS, macvlan::TESTS].concat() {
        let trial = Trial::test(name, move || {
            body();
            Ok(())
        });
        trials.push(trial.with_ignored_flag(!root));
    }
    if root {
        harness::plugins();
    } else {
        eprintln!("{} tests left out: they make network namespaces, which needs root", trials.len());
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// A test's name and body.
type Test = (&'static str, fn());
