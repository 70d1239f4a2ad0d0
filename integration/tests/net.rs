//! `crates/net` against the running kernel, each test in network namespaces of its own.

#[path = "net/addresses.rs"]
mod addresses;
#[path = "net/bridges.rs"]
mod bridges;
#[path = "net/descriptors.rs"]
mod descriptors;
#[path = "net/links.rs"]
mod links;
#[path = "net/namespaces.rs"]
mod namespaces;
#[path = "net/nftables.rs"]
mod nftables;
#[path = "net/routes.rs"]
mod routes;
#[path = "net/space.rs"]
mod space;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

use space::Space;

/// A test gets the namespace its thread is in.
type Test = (&'static str, fn(&Space));

fn main() -> ExitCode {
    if descriptors::is_child() {
        return descriptors::child();
    }
    let root = nix::unistd::geteuid().is_root();
    let trials: Vec<Trial> = [
        namespaces::TESTS,
        links::TESTS,
        bridges::TESTS,
        addresses::TESTS,
        routes::TESTS,
        descriptors::TESTS,
        nftables::TESTS,
    ]
    .concat()
    .into_iter()
    .map(|(name, test)| {
        Trial::test(name, move || {
            let space = Space::new("home");
            space.netns.run_on_thread(|| test(&space))?;
            Ok(())
        })
        .with_ignored_flag(!root)
    })
    .collect();
    if !root {
        eprintln!("left out {} tests: they need root", trials.len());
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}
