//! The `static` IPAM plugin's program.

use std::process::ExitCode;

fn main() -> ExitCode {
    adit_cni::main(&adit_static::Static)
}
