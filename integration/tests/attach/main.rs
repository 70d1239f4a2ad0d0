//! `bridge`, `macvlan` and `static` as a runtime calls them, on real namespaces.

mod bridge;
mod bridge_host;
mod harness;
mod lifecycle;
mod macvlan;
mod masquerade;
mod migration;
mod pod_conflict;
mod pod_ipv6;
mod pod_peers;
mod pod_routes;
mod spoof;
mod static_;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    let root = harness::is_root();
    let mut trials = Vec::new();
    for (name, body) in [bridge::TESTS, bridge_host::TESTS, lifecycle::TESTS, macvlan::TESTS].concat() {
        trials.push(trial(name, body).with_ignored_flag(!root));
    }
    let other = [
        masquerade::TESTS,
        migration::TESTS,
        spoof::TESTS,
        pod_conflict::TESTS,
        pod_ipv6::TESTS,
        pod_peers::TESTS,
        pod_routes::TESTS,
        static_::TESTS,
    ];
    for (name, body) in other.concat() {
        trials.push(trial(name, body).with_ignored_flag(!root));
    }
    let reference = harness::newest_reference().is_some();
    let beside = [
        migration::REFERENCE_TESTS,
        pod_ipv6::REFERENCE_TESTS,
        pod_peers::REFERENCE_TESTS,
        pod_routes::REFERENCE_TESTS,
        static_::REFERENCE_TESTS,
    ];
    let beside = beside.concat();
    if !reference {
        eprintln!("{} tests left out: they need the newest reference plugins (scripts/reference)", beside.len());
    }
    for (name, body) in beside {
        trials.push(trial(name, body).with_ignored_flag(!root || !reference));
    }
    if root {
        harness::plugins();
    } else {
        eprintln!("{} tests left out: they make network namespaces, which needs root", trials.len());
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn trial(name: &'static str, body: fn()) -> Trial {
    Trial::test(name, move || {
        body();
        Ok(())
    })
}

/// A test's name and body.
type Test = (&'static str, fn());
