//! What can be wrong with a tunnel's configuration, its record or its agent.

use std::{io, path::PathBuf};

/// The result of everything in this room.
pub type Result<T> = std::result::Result<T, Error>;

/// An error says what was attempted, on what, what is wrong, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A key of the configuration (or of the pod's annotation) has a value that cannot work.
    #[error("{key}: {value} {problem}; {remedy}")]
    Invalid {
        /// The key as the user wrote it, with the path to it: `peers[1].endpoint`.
        key: String,
        /// The value as the user wrote it.
        value: String,
        /// What is wrong with it.
        problem: String,
        /// What to write instead.
        remedy: String,
    },
    /// A key that must be there is not.
    #[error("{key} is missing: {remedy}")]
    Missing {
        /// The key's name.
        key: String,
        /// What to write.
        remedy: String,
    },
    /// A key's file cannot be used.
    #[error("{key}: {} {problem}; {remedy}", path.display())]
    Key {
        /// The key of the configuration that names it.
        key: String,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
        /// What to do.
        remedy: String,
    },
    /// The kernel gave no random numbers.
    #[error("cannot make a key: {source}")]
    Random {
        /// The kernel's words.
        source: io::Error,
    },
    /// JSON that does not have the shape of a tunnel's configuration.
    #[error("cannot read the tunnel's configuration: {problem}")]
    Decode {
        /// The decoder's words, with the path of the key within the object.
        problem: String,
    },
    /// The agent did not answer at all.
    #[error("cannot reach the agent at {}: {source}; {}", socket.display(), remedy(source))]
    AgentUnreachable {
        /// The socket that was tried.
        socket: PathBuf,
        /// The kernel's words.
        source: io::Error,
    },
    /// The agent answered with something that this version does not understand.
    #[error("the agent at {} sent an answer that cannot be read: {problem}; plugin and agent must be of one version", socket.display())]
    AgentAnswer {
        /// The socket that was used.
        socket: PathBuf,
        /// What is wrong with the answer.
        problem: String,
    },
    /// The agent understood and refused.
    #[error("the agent refused to {action}: {message}")]
    AgentRefused {
        /// What was asked of it.
        action: String,
        /// Its words.
        message: String,
    },
    /// A record or its directory cannot be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Storage {
        /// What was attempted.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// The kernel's words.
        source: io::Error,
    },
    /// A record that exists but does not parse.
    #[error("{} is not a readable attachment record: {problem}; delete the file once the pod is gone", path.display())]
    BadRecord {
        /// The record's file.
        path: PathBuf,
        /// The decoder's words.
        problem: String,
    },
}

fn remedy(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => "only root may speak to it: run this as root",
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            "it did not answer in time: look into its log (journalctl -u aditd), then try again"
        }
        _ => {
            "start it (systemctl start aditd), or set ADIT_RUN_DIR to the run directory of the one that runs, then try again"
        }
    }
}

impl Error {
    /// Whether trying again later, with the agent up, may succeed.
    #[must_use]
    pub const fn is_agent_unreachable(&self) -> bool {
        matches!(self, Self::AgentUnreachable { .. })
    }

    pub(crate) fn invalid(
        key: impl Into<String>,
        value: impl std::fmt::Display,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::Invalid { key: key.into(), value: value.to_string(), problem: problem.into(), remedy: remedy.into() }
    }
}
