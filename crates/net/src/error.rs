//! The one error of this crate.

use std::{io, net::IpAddr, net::SocketAddr, path::PathBuf, time::Duration};

use nix::errno::Errno;

/// What was attempted on which object, what the kernel said, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel refused a request.
    #[error("{action} {object}: {}", Words { errno: *errno, message: message.as_deref(), remedy: *remedy })]
    Kernel {
        /// What was attempted, as a verb phrase: "create veth pair".
        action: &'static str,
        /// On what: "eth0", "route 10.0.0.0/8".
        object: String,
        /// The kernel's error number.
        errno: Errno,
        /// The text of the extended acknowledgement, with the offending attribute's offset if one
        /// was named.
        message: Option<String>,
        /// What to do next, where that is known.
        remedy: Option<&'static str>,
    },

    /// A namespace's path does not exist (any more).
    #[error("network namespace {path} does not exist: {errno}", path = path.display(), errno = errno.desc())]
    NetnsMissing {
        /// The path as it was given.
        path: PathBuf,
        /// ENOENT or ENOTDIR.
        errno: Errno,
    },

    /// A path exists but is no network namespace.
    #[error("{path} is not a network namespace: {found}", path = path.display())]
    NotANetns {
        /// The path as it was given.
        path: PathBuf,
        /// What is there instead.
        found: &'static str,
    },

    /// Another socket is bound to the address and port already.
    #[error(
        "bind UDP socket {socket}: port taken: another process in this network namespace \
         holds UDP port {port}; stop it or choose another port",
        port = local.port()
    )]
    PortTaken {
        /// The address and port that were asked for.
        local: SocketAddr,
        /// The same, with the interface where the socket was to be bound to one.
        socket: String,
    },

    /// Another process has the TUN device open.
    #[error(
        "attach to TUN device {name}: another process holds it (Device or resource busy); \
         only one process can carry its packets: stop the other one"
    )]
    TunBusy {
        /// The interface's name.
        name: String,
    },

    /// IPv6 duplicate address detection found the address in use on the link (RFC 4862 5.4.5).
    #[error(
        "address {address} on {device}: duplicate address detection failed: another host on the \
         link uses it; give one of the two another address"
    )]
    DuplicateAddress {
        /// The address nobody may use now.
        address: IpAddr,
        /// The interface it is on.
        device: String,
    },

    /// Something did not happen in time.
    #[error("wait for {what}: not so after {after:?} ({state})")]
    TimedOut {
        /// What was waited for.
        what: String,
        /// How long.
        after: Duration,
        /// The last state seen.
        state: String,
    },

    /// The kernel's answer makes no sense to this program.
    #[error("{action} {object}: the kernel's answer cannot be used: {detail}")]
    Answer {
        /// What was attempted.
        action: &'static str,
        /// On what.
        object: String,
        /// What is wrong with the answer.
        detail: String,
    },

    /// A request makes no sense, or the kernel has no room for it; nothing was sent.
    #[error("{action} {object}: {reason}")]
    InvalidRequest {
        /// What was attempted.
        action: &'static str,
        /// On what.
        object: String,
        /// What is wrong with it, and what would be right.
        reason: String,
    },

    /// A text is no interface name.
    #[error("`{text}` is not an interface name: {rule}")]
    InvalidName {
        /// The text as it was given.
        text: String,
        /// The rule it breaks.
        rule: &'static str,
    },

    /// A text is no Ethernet address.
    #[error("`{text}` is not a MAC address: write six hexadecimal bytes as aa:bb:cc:dd:ee:ff")]
    InvalidMac {
        /// The text as it was given.
        text: String,
    },

    /// A text is no macvlan mode.
    #[error("`{text}` is not a macvlan mode: it is one of bridge, private, vepa, passthru")]
    InvalidMode {
        /// The text as it was given.
        text: String,
    },

    /// A text is no sysctl key, or the kernel has no such key in this namespace.
    #[error("sysctl {key}: {reason}")]
    Sysctl {
        /// The key as it was given.
        key: String,
        /// What is wrong with it.
        reason: &'static str,
    },

    /// A system call outside of netlink failed.
    #[error("{action} {object}: {source}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On what.
        object: String,
        /// The system's words.
        source: io::Error,
    },
}

impl Error {
    /// The kernel's error number, where one is behind this error.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Kernel { errno, .. } | Self::NetnsMissing { errno, .. } => Some(*errno),
            Self::PortTaken { .. } => Some(Errno::EADDRINUSE),
            Self::TunBusy { .. } => Some(Errno::EBUSY),
            Self::TimedOut { .. } => Some(Errno::ETIMEDOUT),
            Self::Io { source, .. } => source.raw_os_error().map(Errno::from_raw),
            Self::NotANetns { .. }
            | Self::DuplicateAddress { .. }
            | Self::Answer { .. }
            | Self::InvalidRequest { .. }
            | Self::InvalidName { .. }
            | Self::InvalidMac { .. }
            | Self::InvalidMode { .. }
            | Self::Sysctl { .. } => None,
        }
    }

    /// Whether the object of the request does not exist: a device, an address, a route, a
    /// namespace or a sysctl key.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Sysctl { .. })
            || matches!(
                self.errno(),
                Some(
                    Errno::ENOENT | Errno::ENODEV | Errno::ESRCH | Errno::ENXIO | Errno::EADDRNOTAVAIL | Errno::ENOTDIR
                )
            )
    }

    /// Whether the request was to create something that exists already.
    #[must_use]
    pub fn is_exists(&self) -> bool {
        self.errno() == Some(Errno::EEXIST)
    }

    /// Whether a socket's port, or the device's own, is taken.
    #[must_use]
    pub fn is_address_in_use(&self) -> bool {
        self.errno() == Some(Errno::EADDRINUSE)
    }

    /// Whether there is no route to the destination (including routes that forbid it).
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(self.errno(), Some(Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::EACCES))
    }

    /// Whether a transaction was refused because somebody has changed the ruleset since it was read: read it again.
    #[must_use]
    pub fn is_outdated(&self) -> bool {
        self.errno() == Some(Errno::ERESTART)
    }

    pub(crate) fn kernel(action: &'static str, object: impl Into<String>, errno: Errno) -> Self {
        Self::Kernel { action, object: object.into(), errno, message: None, remedy: remedy(errno) }
    }

    /// Names what helps against the refusal `number` in this case.
    pub(crate) fn with_remedy(mut self, number: Errno, text: &'static str) -> Self {
        if let Self::Kernel { errno, remedy, .. } = &mut self
            && *errno == number
        {
            *remedy = Some(text);
        }
        self
    }

    pub(crate) fn io(action: &'static str, object: impl Into<String>, source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(raw) => Self::kernel(action, object, Errno::from_raw(raw)),
            None => Self::Io { action, object: object.into(), source },
        }
    }

    pub(crate) fn answer(action: &'static str, object: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Answer { action, object: object.into(), detail: detail.into() }
    }
}

/// What helps against an error number, whatever the request was.
pub(crate) fn remedy(errno: Errno) -> Option<&'static str> {
    match errno {
        Errno::EPERM => Some("it needs root with CAP_NET_ADMIN and CAP_SYS_ADMIN"),
        Errno::EOPNOTSUPP => Some("the running kernel was built without it or lacks the module"),
        Errno::EMFILE | Errno::ENFILE => Some("raise the limit of open files (RLIMIT_NOFILE)"),
        Errno::EROFS => Some("mount /proc/sys read-write for this process"),
        _ => None,
    }
}

/// The tail of a kernel error: words, symbol, extended text, remedy.
struct Words<'a> {
    errno: Errno,
    message: Option<&'a str>,
    remedy: Option<&'a str>,
}

impl std::fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({:?})", self.errno.desc(), self.errno)?;
        if let Some(message) = self.message {
            write!(f, ": {message}")?;
        }
        if let Some(remedy) = self.remedy {
            write!(f, "; {remedy}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_error_says_attempt_object_words_extended_text_and_remedy() {
        let error = Error::Kernel {
            action: "create veth pair",
            object: "eth0".into(),
            errno: Errno::EPERM,
            message: Some("Invalid handle".into()),
            remedy: remedy(Errno::EPERM),
        };
        assert_eq!(
            error.to_string(),
            "create veth pair eth0: Operation not permitted (EPERM): Invalid handle; \
             it needs root with CAP_NET_ADMIN and CAP_SYS_ADMIN"
        );
    }

    #[test]
    fn kinds_of_errors_are_told_apart_by_number() {
        assert!(Error::kernel("create bridge", "br0", Errno::EEXIST).is_exists());
        assert!(Error::kernel("look up link", "br0", Errno::ENODEV).is_not_found());
        assert!(Error::kernel("look up route to", "10.0.0.1", Errno::ENETUNREACH).is_unreachable());
        let taken =
            Error::PortTaken { local: "10.0.0.1:6090".parse().unwrap(), socket: "10.0.0.1:6090 on net1".into() };
        assert_eq!(taken.errno(), Some(Errno::EADDRINUSE));
        assert!(taken.to_string().contains("10.0.0.1:6090 on net1"));
    }

    #[test]
    fn an_io_error_with_a_number_becomes_a_kernel_error() {
        let error = Error::io("open", "/dev/net/tun", io::Error::from_raw_os_error(2));
        assert!(error.is_not_found());
        assert_eq!(error.to_string(), "open /dev/net/tun: No such file or directory (ENOENT)");
    }
}
