//! The `bridge` plugin's program.

use std::process::ExitCode;

fn main() -> ExitCode {
    adit_plugin::main(&adit_bridge::Bridge)
}
