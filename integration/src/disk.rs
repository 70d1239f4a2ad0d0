//! A directory that can be full.

use std::{
    fs,
    path::{Path, PathBuf},
};

use adit_lab::{Error, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

const SIZE_BYTES: usize = 256 * 1024;

/// A file system of 256 KiB in place of a directory's contents, which are in it as well; gone when dropped.
#[derive(Debug)]
pub struct SmallDisk {
    directory: PathBuf,
}

impl SmallDisk {
    /// Covers `directory`, whose files are copied.
    ///
    /// # Errors
    /// The file system cannot be mounted, or a file cannot be copied.
    pub fn over(directory: &Path) -> Result<Self> {
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            Error::Unexpected(format!("cannot {what} {}: {error}", directory.display()))
        };
        let files = fs::read_dir(directory).map_err(|error| failed("list", &error))?;
        let contents: Vec<_> =
            files.flatten().filter_map(|file| Some((file.file_name(), fs::read(file.path()).ok()?))).collect();
        let options = format!("size={SIZE_BYTES},mode=0700");
        mount(Some("adit-small"), directory, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))
            .map_err(|errno| failed("mount a tmpfs on", &errno))?;
        let disk = Self { directory: directory.to_owned() };
        for (name, content) in contents {
            fs::write(directory.join(name), content).map_err(|error| failed("copy into", &error))?;
        }
        Ok(disk)
    }

    /// Leaves no byte free.
    ///
    /// # Errors
    /// It does not get full.
    pub fn fill(&self) -> Result<()> {
        match fs::write(self.filler(), vec![0; 2 * SIZE_BYTES]) {
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => Ok(()),
            other => Err(Error::Unexpected(format!("{} does not get full: {other:?}", self.directory.display()))),
        }
    }

    /// Makes room again.
    ///
    /// # Errors
    /// What filled it cannot be removed.
    pub fn free(&self) -> Result<()> {
        fs::remove_file(self.filler()).map_err(|error| Error::Unexpected(format!("cannot make room: {error}")))
    }

    fn filler(&self) -> PathBuf {
        // No record: those end otherwise.
        self.directory.join(".filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Whoever still has a file open there must not keep it in place.
        let _ = umount2(&self.directory, MntFlags::MNT_DETACH);
    }
}
