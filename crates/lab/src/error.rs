//! The one error of this crate.

use adit_cni::list::ListError;
use std::{io, path::PathBuf, process::ExitStatus, time::Duration};

/// What was attempted on which object, what was answered, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file, directory or socket could not be used.
    #[error("{action}: {source}")]
    Io {
        /// What was attempted on what: "create /run/adit-lab/x".
        action: String,
        /// The system's words.
        source: io::Error,
    },

    /// A program could not be started.
    #[error(
        "start `{command}`: {source}; the lab needs ip, nsenter, setpriv, ping and iperf3 (packages iproute2, util-linux, iputils-ping, iperf3)"
    )]
    Start {
        /// The command line.
        command: String,
        /// The system's words.
        source: io::Error,
    },

    /// A program ended differently from what was expected.
    #[error("`{command}` ended with {status}: {said}")]
    Command {
        /// The command line.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// Its error output, or its output where that is empty.
        said: String,
    },

    /// A program did not end in time and was killed.
    #[error("`{command}` was killed after {deadline:?}; it had said: {said}")]
    Deadline {
        /// The command line.
        command: String,
        /// How long it was given.
        deadline: Duration,
        /// Its output so far.
        said: String,
    },

    /// Something did not become true in time.
    #[error("waited {waited:?} for {what}: {last}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// For how long.
        waited: Duration,
        /// What was seen at the last look.
        last: String,
    },

    /// The kernel's network refused something.
    #[error(transparent)]
    Net(#[from] adit_net::Error),

    /// A named network namespace could not be made or removed.
    #[error("{action} network namespace {name}: {why}")]
    Namespace {
        /// "create" or "remove".
        action: &'static str,
        /// The name below /run/netns.
        name: String,
        /// The system's words.
        why: String,
    },

    /// A lab cannot be built like this.
    #[error("build the lab: {0}")]
    Spec(String),

    /// A link cannot be impaired like this.
    #[error("impair a link: {0}")]
    Impairment(String),

    /// A manifest (network attachment definition or pod) cannot be used.
    #[error("{origin}: {why}")]
    Manifest {
        /// The file, or what the text is.
        origin: String,
        /// What is wrong with it.
        why: String,
    },

    /// A pod's network annotation cannot be used.
    #[error("annotation k8s.v1.cni.cncf.io/networks `{text}`: {why}")]
    Annotation {
        /// The annotation's value.
        text: String,
        /// What is wrong with it.
        why: String,
    },

    /// A network could not be attached; it and the earlier ones were detached again.
    #[error("attach {network} as {ifname} to pod {pod}: {error}{}", undo_text(.undo))]
    Attach {
        /// `namespace/name` of the network.
        network: String,
        /// The interface's name in the pod.
        ifname: String,
        /// `namespace/name` of the pod.
        pod: String,
        /// What the plugin, or the runner, answered.
        error: Box<dyn std::error::Error + Send + Sync>,
        /// What went wrong while the earlier networks were detached again.
        undo: Vec<String>,
    },

    /// A verb other than ADD failed; every network was asked all the same.
    #[error("{verb} of {subject}: {}", .failures.join("; "))]
    Verb {
        /// "DEL", "CHECK", "GC" or "STATUS".
        verb: &'static str,
        /// The pod or node.
        subject: String,
        /// What each network answered.
        failures: Vec<String>,
    },

    /// Something is not as the test expects it.
    #[error("{0}")]
    Unexpected(String),

    /// There is nothing of that name.
    #[error("there is no {what}; there are: {}", .known.join(", "))]
    Unknown {
        /// What was looked for.
        what: String,
        /// What there is.
        known: Vec<String>,
    },

    /// The workspace's binaries could not be built or found.
    #[error("plugins and agent in {directory}: {why}", directory = .directory.display())]
    Binaries {
        /// Where they should be.
        directory: PathBuf,
        /// Why they are not there.
        why: String,
    },

    /// Parts of a lab are still there.
    #[error("take lab {prefix} down: {}", .failures.join("; "))]
    Teardown {
        /// The lab's prefix.
        prefix: String,
        /// What could not be removed, and why.
        failures: Vec<String>,
    },
}

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The CNI error (code, message, details) of the plugin that refused to attach a network.
    #[must_use]
    pub fn cni(&self) -> Option<&adit_cni::Error> {
        let Self::Attach { error, .. } = self else { return None };
        match error.downcast_ref::<ListError>()? {
            ListError::Plugin { source, .. } => Some(source),
            _ => None,
        }
    }

    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }

    pub(crate) fn errno(action: impl Into<String>) -> impl FnOnce(nix::errno::Errno) -> Self {
        let action = action.into();
        move |errno| Self::Io { action, source: errno.into() }
    }

    pub(crate) fn manifest(origin: &str, why: impl ToString) -> Self {
        Self::Manifest { origin: origin.to_owned(), why: why.to_string() }
    }
}

fn undo_text(undo: &[String]) -> String {
    if undo.is_empty() { String::new() } else { format!(" (and detaching again: {})", undo.join("; ")) }
}
