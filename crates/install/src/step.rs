//! The steps of a plan: what each does, and how it is undone.

use std::{
    fmt, fs,
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, symlink},
    path::Path,
};

use crate::{Content, Digest, Error, Folder, Manifest, Result};

/// A step in one folder. Each is whole or has not happened, for whoever looks at the folder's programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Where.
    pub folder: Folder,
    /// What.
    pub action: Action,
}

/// What a step does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Make the folder, so many directories of whose path are missing, and those of this room in it.
    MakeDirectories(usize),
    /// Write a program beside its place.
    Write {
        /// Its name.
        name: String,
        /// Its content.
        content: Content,
        /// What the content was when the plan was made.
        digest: Digest,
        /// Permissions.
        mode: u32,
    },
    /// Remember what stands in a place until all steps are done.
    Save(String),
    /// Keep what stands in a place, for somebody else.
    Keep(String),
    /// Write down what is ours; with what was written down before.
    Record(Manifest, Option<Manifest>),
    /// Put what was written into its place.
    Place(String),
    /// Put back what was kept.
    Restore(String),
    /// Remove what is ours.
    Remove(String),
    /// Forget what was written down.
    Forget(Manifest),
    /// Remove what only the steps needed.
    Tidy,
    /// Remove the folder and its parents, at most so many and only empty ones.
    RemoveDirectories(usize),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { folder, action } = self;
        let place = |name: &str| folder.place(name).display().to_string();
        match action {
            Action::MakeDirectories(_) => write!(f, "make {}", folder.own().display()),
            Action::Write { name, content, .. } => write!(f, "write {} beside {}", content, place(name)),
            Action::Save(name) => write!(f, "remember {} until all is done", place(name)),
            Action::Keep(name) => write!(f, "keep {} as {}", place(name), folder.kept().join(name).display()),
            Action::Record(..) => write!(f, "write down what is installed in {}", folder.manifest_path().display()),
            Action::Place(name) => write!(f, "put it in place as {}", place(name)),
            Action::Restore(name) => write!(f, "put back what was kept as {}", place(name)),
            Action::Remove(name) => write!(f, "remove {}", place(name)),
            Action::Forget(_) => write!(f, "remove {}", folder.manifest_path().display()),
            Action::Tidy => write!(f, "remove what is left over in {}", folder.own().display()),
            Action::RemoveDirectories(_) => write!(f, "remove {} if it is empty", folder.path().display()),
        }
    }
}

impl Step {
    /// Whether everything that matters is done when this comes.
    #[must_use]
    pub const fn is_cleanup(&self) -> bool {
        matches!(self.action, Action::Tidy | Action::RemoveDirectories(_))
    }

    /// Does it.
    ///
    /// # Errors
    /// The kernel's; nothing of the step is to be seen in a place then.
    pub fn perform(&self) -> Result<()> {
        let folder = &self.folder;
        match &self.action {
            Action::MakeDirectories(_) => make_directories(folder),
            Action::Write { name, content, digest, mode } => {
                write_whole(&folder.new_files().join(name), content, digest, *mode)
            }
            Action::Save(name) => {
                let saved = folder.before().join(name);
                remove(&saved)?;
                link(&folder.place(name), &saved)
            }
            Action::Keep(name) => keep(folder, name),
            Action::Record(manifest, _) => record(folder, manifest),
            Action::Place(name) => rename(&folder.new_files().join(name), &folder.place(name)),
            Action::Restore(name) => rename(&folder.kept().join(name), &folder.place(name)),
            Action::Remove(name) => {
                remove(&folder.place(name))?;
                sync(folder.path())
            }
            Action::Forget(_) => {
                remove(&folder.manifest_path())?;
                sync(&folder.own())
            }
            Action::Tidy => tidy(folder),
            Action::RemoveDirectories(count) => remove_directories(folder, *count),
        }
    }

    /// Undoes it, also where it has not happened.
    ///
    /// # Errors
    /// The kernel's.
    pub fn undo(&self) -> Result<()> {
        let folder = &self.folder;
        match &self.action {
            Action::MakeDirectories(made) => {
                tidy(folder)?;
                remove_directories(folder, *made)
            }
            Action::Write { name, .. } => remove(&folder.new_files().join(name)),
            Action::Record(_, Some(before)) | Action::Forget(before) => record(folder, before),
            Action::Record(_, None) => remove(&folder.manifest_path()),
            Action::Place(name) | Action::Remove(name) => put_back(folder, name),
            Action::Restore(name) if folder.kept().join(name).symlink_metadata().is_err() => {
                keep(folder, name)?;
                put_back(folder, name)
            }
            // It did not happen; or what it made goes with the directories.
            Action::Restore(_) | Action::Save(_) | Action::Keep(_) | Action::Tidy | Action::RemoveDirectories(_) => {
                Ok(())
            }
        }
    }
}

fn make_directories(folder: &Folder) -> Result<()> {
    fs::create_dir_all(folder.path()).map_err(|source| Error::path("create", folder.path(), source))?;
    for directory in [folder.own(), folder.new_files(), folder.before(), folder.kept()] {
        match fs::create_dir(&directory) {
            Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Error::path("create", &directory, source));
            }
            _ => {}
        }
    }
    let private = fs::Permissions::from_mode(0o700);
    fs::set_permissions(folder.own(), private)
        .map_err(|source| Error::path("change the mode of", &folder.own(), source))
}

fn write_whole(path: &Path, content: &Content, digest: &Digest, mode: u32) -> Result<()> {
    // Nobody runs it under this name, and if somebody did, he would keep what he runs.
    remove(path)?;
    let written = create(path).and_then(|mut file| {
        content.copy_to(&mut file)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()
    });
    written.map_err(|source| Error::path("write", path, source))?;
    match Digest::at(path)? {
        Some(found) if found == *digest => Ok(()),
        _ => Err(Error::path("write", path, io::Error::other(format!("{content} was changed meanwhile; try again")))),
    }
}

fn create(path: &Path) -> io::Result<fs::File> {
    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

fn keep(folder: &Folder, name: &str) -> Result<()> {
    let (kept, beside) = (folder.kept().join(name), folder.kept().join(format!(".{name}")));
    remove(&beside)?;
    link(&folder.place(name), &beside)?;
    // Where both are one file already, a rename changes nothing, and what is beside goes with the leftovers.
    rename(&beside, &kept)
}

fn put_back(folder: &Folder, name: &str) -> Result<()> {
    let (saved, place) = (folder.before().join(name), folder.place(name));
    if saved.symlink_metadata().is_ok() { rename(&saved, &place) } else { remove(&place) }
}

fn record(folder: &Folder, manifest: &Manifest) -> Result<()> {
    let (path, beside) = (folder.manifest_path(), folder.own().join(".manifest.json"));
    remove(&beside)?;
    let written = create(&beside).and_then(|mut file| {
        file.write_all(manifest.to_text().as_bytes())?;
        file.sync_all()
    });
    written.map_err(|source| Error::path("write", &beside, source))?;
    rename(&beside, &path)
}

/// Another name of the same file, which nobody can change in place any more once one of its names is another file; a copy where
/// there can be no second name.
fn link(from: &Path, to: &Path) -> Result<()> {
    if fs::hard_link(from, to).is_ok() {
        return Ok(());
    }
    let failed = |source| Error::path("keep", from, source);
    if from.is_symlink() {
        return fs::read_link(from).and_then(|target| symlink(target, to)).map_err(failed);
    }
    fs::copy(from, to).and_then(|_| fs::File::open(to)?.sync_all()).map_err(failed)
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(|source| Error::path("put in place", to, source))?;
    to.parent().map_or(Ok(()), sync)
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error::path("remove", path, source)),
        _ => Ok(()),
    }
}

/// Makes sure that what came to or left a directory stays so when the power fails.
fn sync(directory: &Path) -> Result<()> {
    let synced = fs::File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(|source| Error::path("sync", directory, source))
}

fn tidy(folder: &Folder) -> Result<()> {
    let gone = |path: &Path| match fs::remove_dir_all(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error::path("remove", path, source)),
        _ => Ok(()),
    };
    let Some(manifest) = folder.manifest()? else { return gone(&folder.own()) };
    for directory in [folder.new_files(), folder.before()] {
        gone(&directory)?;
    }
    remove(&folder.own().join(".manifest.json"))?;
    for entry in fs::read_dir(folder.kept()).into_iter().flatten().flatten() {
        let is_kept = |name: &str| manifest.files.get(name).is_some_and(|entry| entry.kept.is_some());
        if !entry.file_name().to_str().is_some_and(is_kept) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

fn remove_directories(folder: &Folder, count: usize) -> Result<()> {
    for directory in folder.path().ancestors().take(count) {
        match fs::remove_dir(directory) {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::ResourceBusy) => {
                break;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(Error::path("remove", directory, source)),
        }
    }
    Ok(())
}
