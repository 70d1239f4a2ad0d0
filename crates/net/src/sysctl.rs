//! Kernel parameters below `/proc/sys`, read before they are written.
//!
//! Keys are written with slashes, `net/ipv4/conf/eth0.100/rp_filter`: an interface's name may hold
//! dots. Everything below `net/` is that of the *calling thread's* network namespace.

use std::{fs, io, path::PathBuf};

use crate::{Error, Result};

/// The value of `key` without surrounding white space; `None` when the kernel has no such key.
///
/// # Errors
/// When `key` is malformed or cannot be read.
pub fn get(key: &str) -> Result<Option<String>> {
    match fs::read_to_string(path(key)?) {
        Ok(value) => Ok(Some(value.trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("read sysctl", key, error)),
    }
}

/// Gives `key` the value, unless it has it. `Ok(false)` when it had it already.
///
/// # Errors
/// When there is no such key ([`Error::is_not_found`]), or it cannot be read or written.
pub fn set(key: &str, value: &str) -> Result<bool> {
    let Some(current) = get(key)? else {
        return Err(Error::Sysctl {
            key: key.to_owned(),
            reason: "the kernel has no such key in this network namespace",
        });
    };
    if same(&current, value) {
        return Ok(false);
    }
    fs::write(path(key)?, value).map_err(|e| Error::io("write sysctl", key, e))?;
    Ok(true)
}

/// As [`set`], but `Ok(false)` when the kernel has no such key (IPv6 switched off, no bridge
/// netfilter).
///
/// # Errors
/// When the key exists and cannot be read or written.
pub fn set_if_present(key: &str, value: &str) -> Result<bool> {
    match set(key, value) {
        Err(Error::Sysctl { .. }) if get(key)?.is_none() => Ok(false),
        other => other,
    }
}

fn path(key: &str) -> Result<PathBuf> {
    let malformed = key.contains('\0') || key.split('/').any(|part| part.is_empty() || part == "." || part == "..");
    if malformed {
        return Err(Error::Sysctl {
            key: key.to_owned(),
            reason: "a key is written with slashes, relative to /proc/sys: net/ipv4/ip_forward",
        });
    }
    Ok(PathBuf::from("/proc/sys").join(key))
}

/// Values of several numbers are separated by tabs when read and may be by spaces when written.
fn same(a: &str, b: &str) -> bool {
    a.split_whitespace().eq(b.split_whitespace())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_stays_below_proc_sys() {
        for bad in ["", "/etc/passwd", "net/../kernel", "net//ipv4", "net/ipv4/", "./net", "a\0b"] {
            assert!(matches!(get(bad), Err(Error::Sysctl { .. })), "{bad:?}");
            assert!(matches!(set_if_present(bad, "1"), Err(Error::Sysctl { .. })), "{bad:?}");
        }
        assert_eq!(
            path("net/ipv4/conf/eth0.100/rp_filter").unwrap(),
            PathBuf::from("/proc/sys/net/ipv4/conf/eth0.100/rp_filter")
        );
    }

    #[test]
    fn a_missing_key_reads_as_none_and_fails_to_be_set() {
        assert_eq!(get("net/ipv4/no_such_key").unwrap(), None);
        assert!(set("net/ipv4/no_such_key", "1").unwrap_err().is_not_found());
        assert!(!set_if_present("net/ipv4/no_such_key", "1").unwrap());
    }

    #[test]
    fn a_value_that_is_there_is_not_written() {
        let key = "kernel/ostype";
        let current = get(key).unwrap().unwrap();
        assert!(!set(key, &current).unwrap());
    }

    #[test]
    fn white_space_does_not_make_values_differ() {
        assert!(same("32768\t60999", "32768 60999"));
        assert!(!same("1", "11"));
    }
}
