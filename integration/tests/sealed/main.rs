//! Sealed tunnels, in both formats, as users and as attackers see them.

mod attack;
mod exchange;
mod flood;
mod host;
mod keys;
mod refusals;
mod roaming;
mod tenants;
mod traffic;
mod wire;

use libtest_mimic::Failed;

type Outcome = Result<(), Failed>;

fn main() {
    let parts = [
        traffic::trials(),
        keys::trials(),
        wire::trials(),
        attack::trials(),
        flood::trials(),
        roaming::trials(),
        refusals::trials(),
        tenants::trials(),
        exchange::trials(),
        host::trials(),
    ];
    adit_integration::main(parts.into_iter().flatten().collect());
}
