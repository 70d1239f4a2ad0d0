//! Network namespaces: opened, identified, entered and found.

use std::{
    collections::HashSet,
    fs::{self, File, OpenOptions},
    io,
    marker::PhantomData,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    thread,
};

use nix::{
    errno::Errno,
    libc,
    sched::{CloneFlags, setns},
    sys::statfs::fstatfs,
};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

const SELF_PATH: &str = "/proc/thread-self/ns/net";

mod ioctl {
    // NSIO 0xb7, include/uapi/linux/nsfs.h
    nix::ioctl_none!(ns_get_nstype, 0xb7, 3);
}

/// What identifies a network namespace for as long as it lives: its inode on the nsfs file system.
///
/// The kernel gives the number of a dead namespace to a new one, often at once. Who must know for certain compares the
/// [cookie](crate::Netlink::netns_cookie) too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NetnsId {
    /// Device number of nsfs.
    pub dev: u64,
    /// Inode number.
    pub inode: u64,
}

/// An open network namespace. It lives at least as long as this value does.
#[derive(Debug)]
pub struct Netns {
    file: File,
    path: PathBuf,
    id: NetnsId,
}

impl Netns {
    /// Opens the namespace at `path`.
    ///
    /// # Errors
    /// [`Error::NetnsMissing`] when there is nothing at `path`, [`Error::NotANetns`] when there is
    /// something else.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        // O_NONBLOCK: a FIFO at this path must not stop the caller.
        let file =
            OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(|e| open_error(path, e))?;
        check_kind(&file, path)?;
        let metadata =
            file.metadata().map_err(|e| Error::io("stat network namespace", path.display().to_string(), e))?;
        let id = NetnsId { dev: metadata.dev(), inode: metadata.ino() };
        Ok(Self { file, path: path.to_owned(), id })
    }

    /// The calling thread's namespace.
    ///
    /// # Errors
    /// When `/proc` is not mounted.
    pub fn current() -> Result<Self> {
        Self::open(SELF_PATH)
    }

    /// Device and inode of the namespace.
    #[must_use]
    pub fn id(&self) -> NetnsId {
        self.id
    }

    /// The path it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A second descriptor of the same namespace.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn try_clone(&self) -> Result<Self> {
        let file = self.file.try_clone().map_err(|e| Error::io("duplicate network namespace", self.object(), e))?;
        Ok(Self { file, path: self.path.clone(), id: self.id })
    }

    /// Moves the calling thread into the namespace until the guard is dropped.
    ///
    /// Everything the thread creates meanwhile (sockets, TUN descriptors) belongs to the namespace
    /// for good. Never hold the guard across an `.await`.
    ///
    /// # Errors
    /// When the thread may not enter (CAP_SYS_ADMIN in both user namespaces).
    pub fn enter(&self) -> Result<NetnsGuard> {
        let home = Self::current()?;
        setns(&self.file, CloneFlags::CLONE_NEWNET)
            .map_err(|e| Error::kernel("enter network namespace", self.object(), e))?;
        Ok(NetnsGuard { home, not_send: PhantomData })
    }

    /// Runs `f` in the namespace on the calling thread, which is back home afterwards, also when
    /// `f` panics. For one-shot programs; a long-lived one uses [`Netns::run_on_thread`].
    ///
    /// # Errors
    /// As [`Netns::enter`].
    pub fn run<T>(&self, f: impl FnOnce() -> T) -> Result<T> {
        let _guard = self.enter()?;
        Ok(f())
    }

    /// Runs `f` in the namespace on a thread of its own that ends with it. A panic of `f` goes on
    /// in the caller.
    ///
    /// # Errors
    /// As [`Netns::enter`], or when no thread can be started.
    pub fn run_on_thread<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T> {
        thread::scope(|scope| {
            let worker = thread::Builder::new()
                .name("netns".into())
                .spawn_scoped(scope, || self.run(f))
                .map_err(|e| Error::io("start a thread for network namespace", self.object(), e))?;
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// The processes whose (first thread's) namespace is `id`.
    ///
    /// Processes that end during the scan, or that may not be looked at, are left out.
    ///
    /// # Errors
    /// When `/proc` cannot be listed.
    pub fn holders(id: NetnsId) -> Result<Vec<i32>> {
        let mut pids: Vec<i32> = processes()?.filter(|pid| id_at(&proc_path(*pid)) == Some(id)).collect();
        pids.sort_unstable();
        Ok(pids)
    }

    /// Every namespace that some process's (first thread) lives in.
    ///
    /// Processes that end during the scan, or that may not be looked at, are left out.
    ///
    /// # Errors
    /// When `/proc` cannot be listed.
    pub fn inhabited() -> Result<HashSet<NetnsId>> {
        Ok(processes()?.filter_map(|pid| id_at(&proc_path(pid))).collect())
    }

    /// Opens the namespace `id` through a process that lives in it; `None` when there is none.
    ///
    /// # Errors
    /// When `/proc` cannot be listed.
    pub fn find(id: NetnsId) -> Result<Option<Self>> {
        Ok(processes()?
            .map(proc_path)
            .filter(|path| id_at(path) == Some(id))
            // The process may have ended, and its number been taken, since the look.
            .find_map(|path| Self::open(path).ok().filter(|netns| netns.id == id)))
    }

    fn object(&self) -> String {
        self.path.display().to_string()
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Brings the thread that made it home when dropped.
///
/// A thread that cannot return would go on in somebody else's namespace: the process is aborted
/// then.
#[derive(Debug)]
#[must_use = "the thread is home again as soon as the guard is dropped"]
pub struct NetnsGuard {
    home: Netns,
    // Namespaces belong to threads: the guard may not leave the one it moved.
    not_send: PhantomData<*const ()>,
}

impl Drop for NetnsGuard {
    fn drop(&mut self) {
        if let Err(errno) = setns(&self.home.file, CloneFlags::CLONE_NEWNET) {
            tracing::error!(%errno, "cannot return to the network namespace of this process");
            std::process::abort();
        }
    }
}

fn open_error(path: &Path, error: io::Error) -> Error {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(errno @ (Errno::ENOENT | Errno::ENOTDIR)) => Error::NetnsMissing { path: path.to_owned(), errno },
        _ => Error::io("open network namespace", path.display().to_string(), error),
    }
}

fn check_kind(file: &File, path: &Path) -> Result<()> {
    let not = |found| Err(Error::NotANetns { path: path.to_owned(), found });
    let statfs = fstatfs(file).map_err(|e| Error::kernel("stat network namespace", path.display().to_string(), e))?;
    if statfs.filesystem_type().0 != libc::NSFS_MAGIC {
        return not("an ordinary file (no namespace is mounted there)");
    }
    // SAFETY: NS_GET_NSTYPE takes no argument and touches no memory; the descriptor is open.
    match unsafe { ioctl::ns_get_nstype(file.as_raw_fd()) } {
        Ok(libc::CLONE_NEWNET) => Ok(()),
        Ok(_) => not("a namespace of another kind"),
        Err(errno) => Err(Error::kernel("ask the kind of namespace", path.display().to_string(), errno)),
    }
}

fn processes() -> Result<impl Iterator<Item = i32>> {
    let entries = fs::read_dir("/proc").map_err(|e| Error::io("list", "/proc", e))?;
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()))
}

fn proc_path(pid: i32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/ns/net"))
}

fn id_at(path: &Path) -> Option<NetnsId> {
    let metadata = fs::metadata(path).ok()?;
    Some(NetnsId { dev: metadata.dev(), inode: metadata.ino() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_path_is_told_from_one_that_is_no_namespace() {
        for missing in ["/proc/self/ns/no-such", "/proc/self/status/below-a-file"] {
            let error = Netns::open(missing).unwrap_err();
            assert!(matches!(error, Error::NetnsMissing { .. }), "{error}");
            assert!(error.is_not_found());
        }
        for other in ["/proc/self/status", "/", "/proc/self/ns/mnt"] {
            let error = Netns::open(other).unwrap_err();
            assert!(matches!(error, Error::NotANetns { .. }), "{error}");
        }
    }

    #[test]
    fn the_own_namespace_is_held_by_this_process_and_can_be_found() {
        let own = Netns::current().unwrap();
        let pid = i32::try_from(std::process::id()).unwrap();
        assert!(Netns::holders(own.id()).unwrap().contains(&pid));
        assert_eq!(Netns::find(own.id()).unwrap().unwrap().id(), own.id());
        assert_eq!(own.try_clone().unwrap().id(), own.id());
    }

    #[test]
    fn nobody_holds_a_namespace_that_does_not_exist() {
        let id = NetnsId { dev: Netns::current().unwrap().id().dev, inode: 1 };
        assert!(Netns::holders(id).unwrap().is_empty());
        assert!(Netns::find(id).unwrap().is_none());
    }
}
