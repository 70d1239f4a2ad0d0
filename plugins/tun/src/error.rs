//! One place decides which CNI code an error of a tunnel gets.

use adit_cni::{Code, Error};
use adit_tunnel::Error as TunnelError;

/// 7 for what the user wrote, 11 (try again later) for an agent that is not there, 5 for the records, else 999.
pub fn tunnel_error(error: TunnelError) -> Error {
    let code = match &error {
        TunnelError::Invalid { .. } | TunnelError::Missing { .. } | TunnelError::Decode { .. } => Code::INVALID_CONFIG,
        TunnelError::AgentUnreachable { .. } => Code::TRY_AGAIN_LATER,
        TunnelError::Storage { .. } | TunnelError::BadRecord { .. } => Code::IO,
        _ => Code::INTERNAL,
    };
    Error::new(code, error.to_string())
}
