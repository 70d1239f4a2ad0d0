//! One place decides which CNI code an error of the kernel's network gets.

use adit_cni::{Code, Error};
use adit_net::Error as NetError;

/// Another host on the link has an address that the pod was to get. The plugins' own: 100 and above.
pub const ADDRESS_CONFLICT: Code = Code(100);

/// The CNI error for a failure of the kernel's network: 8 for a namespace that cannot be opened, 100 for a duplicate address, 11 (try again later) where
/// the same call may succeed in a moment, else 999 as the reference plugins use it.
#[must_use]
pub fn net_error(error: NetError) -> Error {
    let code = match &error {
        NetError::NetnsMissing { .. } | NetError::NotANetns { .. } => Code::INVALID_NETNS,
        NetError::DuplicateAddress { .. } => ADDRESS_CONFLICT,
        NetError::TimedOut { .. } => Code::TRY_AGAIN_LATER,
        _ => Code::INTERNAL,
    };
    Error::new(code, error.to_string())
}
