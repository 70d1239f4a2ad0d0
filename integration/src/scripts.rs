//! The workspace's scripts, as a person runs them.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use adit_lab::{Ran, Result, nad::in_workspace, run};

/// How long the optimised build may take where nothing is built yet.
pub const RELEASE_DEADLINE: Duration = Duration::from_secs(1800);

/// The workspace's root.
#[must_use]
pub fn root() -> PathBuf {
    in_workspace(Path::new(""))
}

/// Builds what `scripts/demo` runs, so that its own time is that of the demonstration.
///
/// # Errors
/// It does not build.
pub fn build_release() -> Result<()> {
    script("bash", &["-euc", ". scripts/lib.sh; find_cargo; build_release"], RELEASE_DEADLINE)?.ok().map(drop)
}

/// Runs a program at the workspace's root: `script("scripts/build", &[], RELEASE_DEADLINE)`.
///
/// # Errors
/// It cannot be started, or does not end in time.
pub fn script(program: &str, arguments: &[&str], deadline: Duration) -> Result<Ran> {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(root()).stdin(Stdio::null());
    run(command, None, deadline)
}
