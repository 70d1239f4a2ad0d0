//! The `macvlan` plugin's program.

use std::process::ExitCode;

fn main() -> ExitCode {
    adit_plugin::main(&adit_macvlan::Macvlan)
}
