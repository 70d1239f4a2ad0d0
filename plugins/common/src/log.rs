//! What a plugin says beside its result: on stderr, which runtimes keep in their log.

use std::process::ExitCode;

use adit_cni::Plugin;
use tracing_subscriber::EnvFilter;

/// Runs a plugin whose steps and warnings are logged to stderr, as far as `ADIT_LOG` wants them (`warn` by default).
pub fn main<P: Plugin>(plugin: &P) -> ExitCode {
    let filter = EnvFilter::try_from_env("ADIT_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false)
        .init();
    adit_cni::main(plugin)
}
