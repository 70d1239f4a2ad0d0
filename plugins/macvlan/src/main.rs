//! The `macvlan` plugin's program.

use std::process::ExitCode;

fn main() -> ExitCode {
    adit_cni::main(&adit_macvlan::Macvlan)
}
