//! One place decides which CNI code an error of a tunnel gets.

use adit_cni::{Code, Error};
use adit_tunnel::Error as TunnelError;

/// As [`tunnel_error`]; but what the agent says of a key is a matter of the configuration.
pub fn key_error(error: TunnelError) -> Error {
    match error {
        TunnelError::AgentRefused { .. } => Error::new(Code::INVALID_CONFIG, error.to_string()),
        other => tunnel_error(other),
    }
}

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
