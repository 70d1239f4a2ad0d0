//! Why something could not be installed or removed.

use std::{
    io,
    path::{Path, PathBuf},
};

/// The result of everything in this room.
pub type Result<T> = std::result::Result<T, Error>;

/// An error says what was attempted, on what, what the kernel said, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or directory cannot be used.
    #[error("cannot {action} {}: {source}{}", path.display(), advice(source))]
    Path {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's words.
        source: io::Error,
    },
    /// A program that is to be installed is not there.
    #[error("there is no {name} in {}: name the directory of the programs with --source", directory.display())]
    NoSource {
        /// Its name.
        name: String,
        /// Where it was looked for.
        directory: PathBuf,
    },
    /// Where a program is to go there is something that is none.
    #[error("{} is a directory: remove it, or install elsewhere with --bin-dir", .0.display())]
    Occupied(PathBuf),
    /// What was installed here is not known any more.
    #[error(
        "cannot read {}: {problem}; what was installed there is not known without it. Remove the file, and install again",
        path.display()
    )]
    Manifest {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A step failed, and not everything could be put back.
    #[error("{source}; moreover, what had been done could not all be undone: {}", .problems.join("; "))]
    NotUndone {
        /// Why it had to be undone.
        source: Box<Error>,
        /// What could not be.
        problems: Vec<String>,
    },
    /// The service manager refused.
    #[error("`{command}` failed: {said}; the files are in place, `journalctl -u aditd` may say more")]
    Service {
        /// What was run.
        command: String,
        /// What it said.
        said: String,
    },
}

impl Error {
    pub(crate) fn path(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Path { action, path: path.to_owned(), source }
    }
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "; run it as root",
        io::ErrorKind::ReadOnlyFilesystem => {
            "; the directory is read-only here: install into another one with --bin-dir, where the runtime looks, too"
        }
        _ => "",
    }
}
