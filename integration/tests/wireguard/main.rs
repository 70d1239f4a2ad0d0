//! `encap: wireguard` against another implementation: wireguard-go, set up by wireguard-tools.

mod exchange;
mod interop;
mod rekey;
mod world;

use libtest_mimic::Failed;

type Outcome = Result<(), Failed>;

fn main() {
    // The long one first: the others run beside it.
    let parts = [rekey::trials(), interop::trials(), exchange::trials()];
    adit_integration::main(parts.into_iter().flatten().collect());
}
