//! A directory that programs are put into.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::{Digest, Error, Manifest, Result};

/// A directory that programs are put into, and where in it things are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folder {
    path: PathBuf,
}

/// The right to change a folder, until it is dropped.
#[derive(Debug)]
pub struct Lock {
    _directory: fs::File,
}

impl Folder {
    /// The directory at `path`, which need not exist.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where a program is to be.
    #[must_use]
    pub fn place(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// What this room keeps there.
    #[must_use]
    pub fn own(&self) -> PathBuf {
        self.path.join(".adit")
    }

    pub(crate) fn manifest_path(&self) -> PathBuf {
        self.own().join("manifest.json")
    }

    pub(crate) fn new_files(&self) -> PathBuf {
        self.own().join("new")
    }

    pub(crate) fn before(&self) -> PathBuf {
        self.own().join("before")
    }

    pub(crate) fn kept(&self) -> PathBuf {
        self.own().join("kept")
    }

    /// What was installed; `None` when nothing was.
    ///
    /// # Errors
    /// The manifest cannot be read.
    pub fn manifest(&self) -> Result<Option<Manifest>> {
        Manifest::read(&self.manifest_path())
    }

    /// How many directories of the path are missing, counted from its end.
    #[must_use]
    pub fn missing_directories(&self) -> usize {
        self.path.ancestors().take_while(|path| matches!(path.try_exists(), Ok(false))).count()
    }

    /// Waits until nobody else changes the folder. `None` when there is no such directory, which nobody can change then.
    ///
    /// # Errors
    /// The directory cannot be opened.
    pub fn lock(&self) -> Result<Option<Lock>> {
        let directory = match fs::File::open(&self.path) {
            Ok(directory) => directory,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::path("open", &self.path, source)),
        };
        directory.lock().map_err(|source| Error::path("lock", &self.path, source))?;
        Ok(Some(Lock { _directory: directory }))
    }

    /// What is not as it was installed, one sentence each.
    ///
    /// # Errors
    /// The manifest or a file cannot be read.
    pub fn differences(&self) -> Result<Vec<String>> {
        let Some(manifest) = self.manifest()? else {
            return Ok(vec![format!("nothing is installed in {}", self.path.display())]);
        };
        let mut found = Vec::new();
        for (name, entry) in &manifest.files {
            let place = self.place(name);
            let now = Digest::at(&place)?;
            if now.is_none() {
                found.push(format!("{} is gone", place.display()));
            } else if now.as_ref() != entry.ours.first() {
                found.push(format!("{} is not what was installed", place.display()));
            }
        }
        if self.new_files().exists() {
            found.push(format!("an installation in {} was interrupted: install again", self.path.display()));
        }
        Ok(found)
    }
}
