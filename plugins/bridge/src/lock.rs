//! One process at a time makes or changes what attachments share; the rest of each runs in parallel.

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use adit_cni::{Code, Error};

const RUN_DIR: &str = "/run/adit";

/// Holds a bridge's lock until it is dropped, also by the death of the process.
#[derive(Debug)]
pub(crate) struct BridgeLock {
    _file: File,
}

/// Holds the lock of the node's rules, by nftables or iptables, until it is dropped. Taken last: who holds it waits for no
/// other lock of ours.
#[derive(Debug)]
pub(crate) struct RulesLock {
    _file: File,
}

impl BridgeLock {
    /// Waits for the lock of the bridge called `name`: the file `$ADIT_RUN_DIR/bridge-<name>.lock`.
    ///
    /// # Errors
    /// [`Code::IO`] when the file cannot be made or locked.
    pub(crate) fn take(name: &str) -> Result<Self, Error> {
        take(&format!("bridge-{name}.lock"), format_args!("bridge {name}")).map(|file| Self { _file: file })
    }
}

impl RulesLock {
    /// Waits for the lock of the rules: the file `$ADIT_RUN_DIR/nftables.lock`.
    ///
    /// # Errors
    /// [`Code::IO`] when the file cannot be made or locked.
    pub(crate) fn take() -> Result<Self, Error> {
        take("nftables.lock", format_args!("the node's rules")).map(|file| Self { _file: file })
    }
}

fn take(file: &str, what: std::fmt::Arguments<'_>) -> Result<File, Error> {
    let dir = std::env::var_os("ADIT_RUN_DIR").map_or_else(|| PathBuf::from(RUN_DIR), PathBuf::from);
    let path = dir.join(file);
    open(&dir, &path).map_err(|error| {
        Error::new(Code::IO, format!("lock {what}: {}: {error}", path.display()))
            .with_details("ADIT_RUN_DIR must be a directory that root may write to")
    })
}

fn open(dir: &Path, path: &Path) -> std::io::Result<File> {
    DirBuilder::new().recursive(true).mode(0o755).create(dir)?;
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    file.lock()?;
    Ok(file)
}
