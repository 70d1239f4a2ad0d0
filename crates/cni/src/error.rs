//! What a plugin reports when it cannot do what it was asked.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A CNI error: the document that a plugin prints on stdout before it exits with status 1
/// (CNI specification, "Error").
///
/// `Display` is what libcni shows a user: `msg`, or `msg; details`.
#[derive(Debug, Clone, Default, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{msg}{}{details}", if details.is_empty() { "" } else { "; " })]
pub struct Error {
    /// The error's number.
    #[serde(default)]
    pub code: Code,
    /// What was attempted, on what, and why it did not work: one line.
    #[serde(default)]
    pub msg: String,
    /// What else helps to mend it; empty when there is nothing to add.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub details: String,
}

impl Error {
    /// An error without details.
    pub fn new(code: Code, msg: impl Into<String>) -> Self {
        Self { code, msg: msg.into(), details: String::new() }
    }

    /// The same error with `details`.
    #[must_use]
    pub fn with_details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }

    /// The same error with `context: ` before its message; code and details survive.
    #[must_use]
    pub fn in_context(mut self, context: impl fmt::Display) -> Self {
        self.msg = format!("{context}: {}", self.msg);
        self
    }
}

/// The number of an [`Error`]. 0 to 99 belong to the specification ("Well-known Error Codes"),
/// 100 and above to the plugin; 999 is what the Go library uses for everything without a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Code(pub u32);

impl Code {
    /// The configuration's CNI version is not one that the plugin speaks.
    pub const INCOMPATIBLE_VERSION: Self = Self(1);
    /// The configuration asks for something that the plugin does not support.
    pub const UNSUPPORTED_FIELD: Self = Self(2);
    /// The container is unknown or does not exist; the runtime need not clean up.
    pub const UNKNOWN_CONTAINER: Self = Self(3);
    /// An environment variable is missing or invalid.
    pub const BAD_ENVIRONMENT: Self = Self(4);
    /// Reading stdin, writing stdout or running another plugin failed.
    pub const IO: Self = Self(5);
    /// The configuration or another document is not JSON, or not of the expected shape.
    pub const DECODE: Self = Self(6);
    /// The configuration is readable, and wrong.
    pub const INVALID_CONFIG: Self = Self(7);
    /// The network namespace cannot be used. Not in the specification's table, but in the reference.
    pub const INVALID_NETNS: Self = Self(8);
    /// The plugin cannot do it now; a later attempt may succeed.
    pub const TRY_AGAIN_LATER: Self = Self(11);
    /// STATUS: the plugin cannot serve ADD.
    pub const NOT_AVAILABLE: Self = Self(50);
    /// STATUS: the plugin cannot serve ADD, and existing containers may have limited connectivity.
    pub const LIMITED_CONNECTIVITY: Self = Self(51);
    /// Anything else (the Go library's "internal").
    pub const INTERNAL: Self = Self(999);
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn displays_details_after_a_semicolon_and_only_when_there_are_some() {
        let plain = Error::new(Code::IO, "no stdin");
        assert_eq!(plain.to_string(), "no stdin");
        assert_eq!(plain.with_details("EBADF").to_string(), "no stdin; EBADF");
    }

    #[test]
    fn an_error_document_without_a_code_is_code_zero() {
        let error: Error = serde_json::from_str(r#"{"msg":"m"}"#).unwrap();
        assert_eq!(error, Error::new(Code(0), "m"));
    }
}
