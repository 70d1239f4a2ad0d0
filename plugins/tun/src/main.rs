//! The `tun` CNI plugin: environment and stdin in, one document out.

use std::process::ExitCode;

use adit_tun::Tun;

fn main() -> ExitCode {
    adit_plugin::main(&Tun::from_environment())
}
