//! When the agent has a reason to look around: something came or went in the directories that it depends on, or a tunnel broke. An agent
//! whose tunnels are all well then costs next to nothing.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use nix::{
    errno::Errno,
    sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor},
};
use tokio::sync::Notify;

/// Tells of changes in directories (inotify(7)). Its thread sleeps until there is one.
pub struct Watch {
    inotify: Arc<Inotify>,
    changed: Arc<Notify>,
    watched: HashMap<PathBuf, WatchDescriptor>,
}

impl Watch {
    /// Watches nothing yet.
    ///
    /// # Errors
    /// The kernel's: there are too many already.
    pub fn new() -> io::Result<Self> {
        let inotify = Arc::new(Inotify::init(InitFlags::IN_CLOEXEC)?);
        let changed = Arc::new(Notify::new());
        let thread = thread::Builder::new().name("adit-watch".into());
        let (events, tell) = (Arc::clone(&inotify), Arc::clone(&changed));
        // What has happened does not matter, nor does an overflow of events: all of it is looked at.
        thread.spawn(move || {
            while !matches!(events.read_events(), Err(errno) if errno != Errno::EINTR) {
                tell.notify_one();
            }
        })?;
        Ok(Self { inotify, changed, watched: HashMap::new() })
    }

    /// Watches exactly these directories from now on. Whether all of them were watched before, so that nothing can have changed
    /// unnoticed since; a directory that cannot be watched never is.
    pub fn covers<'a>(&mut self, directories: impl IntoIterator<Item = &'a Path>) -> bool {
        let events = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        let (mut before, mut covered) = (std::mem::take(&mut self.watched), true);
        for directory in directories {
            // A directory that was deleted and made again has another descriptor.
            match self.inotify.add_watch(directory, events) {
                Ok(watch) => {
                    covered &= before.remove(directory) == Some(watch);
                    self.watched.insert(directory.to_owned(), watch);
                }
                Err(errno) => {
                    tracing::debug!("cannot watch {}: {errno}", directory.display());
                    covered = false;
                }
            }
        }
        for watch in before.into_values() {
            // It may be gone, or be known by another path.
            if !self.watched.values().any(|used| *used == watch) {
                let _ = self.inotify.rm_watch(watch);
            }
        }
        covered
    }

    /// Returns once something has changed since the last time.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use super::*;

    async fn is_told(watch: &Watch) -> bool {
        tokio::time::timeout(Duration::from_secs(5), watch.changed()).await.is_ok()
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_comes_and_goes_is_told_and_silence_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let mut watch = Watch::new().unwrap();
        assert!(!watch.covers([path]), "it was not watched before");
        assert!(watch.covers([path]));
        let file = path.join("netns");
        fs::write(&file, "").unwrap();
        assert!(is_told(&watch).await);
        fs::remove_file(&file).unwrap();
        assert!(is_told(&watch).await);
        fs::read_dir(path).unwrap();
        while tokio::time::timeout(Duration::from_millis(100), watch.changed()).await.is_ok() {}
    }

    #[tokio::test(flavor = "current_thread")]
    async fn directory_that_is_not_there_or_new_is_not_covered() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run");
        let mut watch = Watch::new().unwrap();
        assert!(!watch.covers([path.as_path()]) && !watch.covers([path.as_path()]));
        fs::create_dir(&path).unwrap();
        assert!(!watch.covers([path.as_path()]) && watch.covers([path.as_path()]));
        fs::remove_dir(&path).unwrap();
        assert!(is_told(&watch).await);
        fs::create_dir(&path).unwrap();
        assert!(!watch.covers([path.as_path()]), "another directory");
        assert!(watch.covers([]) && watch.watched.is_empty());
    }
}
