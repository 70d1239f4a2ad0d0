//! Files that only root may read, in folders whose content nobody else chooses.

use std::{
    fmt,
    fs::{DirBuilder, File},
    io::{self, Read as _, Write as _},
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt as _, MetadataExt as _},
    },
    path::{Path, PathBuf},
    str::FromStr,
};

use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, linkat, openat, openat2, renameat, unlinkat},
    io::Errno,
    process::geteuid,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use zeroize::Zeroizing;

use super::SecretKey;
use crate::Error;

/// No key is longer, with whatever ends its line.
const MAX_BYTES: usize = 64;
/// The longest name of a file (limits.h, `NAME_MAX`).
const NAME_BYTES: usize = 255;
/// Bits of a mode that let somebody else in, or mean something special.
const NOT_OWNERS: u32 = 0o7777 & !0o600;

/// The name of a key's file: one step, no way out of its folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFile(String);

impl KeyFile {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for KeyFile {
    /// What is wrong with the text, to stand behind it.
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if is_plain_name(text) { Ok(Self(text.to_owned())) } else { Err("is no plain file name") }
    }
}

impl fmt::Display for KeyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for KeyFile {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for KeyFile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// Whether this is one step of a path. A name that begins with a dot is nobody's: writers leave such files.
pub(super) fn is_plain_name(text: &str) -> bool {
    (1..=NAME_BYTES).contains(&text.len())
        && !text.starts_with('.')
        && !text.chars().any(|char| char == '/' || char.is_control())
}

/// Why a key's file cannot be used.
pub(super) enum Unusable {
    Missing,
    /// In words, with what to do.
    Wrong(String, &'static str),
    Kernel(io::Error),
}

impl Unusable {
    /// The error of the key that names the file; `make` says how to get a missing one.
    pub(super) fn of(self, key: &str, path: PathBuf, make: impl FnOnce() -> String) -> Error {
        let (problem, remedy) = match self {
            Self::Missing => ("does not exist".into(), make()),
            Self::Wrong(problem, remedy) => (problem, remedy.into()),
            Self::Kernel(source) => {
                (format!("cannot be read: {source}"), "see to it that the agent can read it".into())
            }
        };
        Error::Key { key: key.into(), path, problem, remedy }
    }
}

impl From<Errno> for Unusable {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::NOENT => Self::Missing,
            // Not beneath the folder, or through a link.
            Errno::LOOP | Errno::XDEV => {
                Self::Wrong("is a symbolic link, or lies behind one".into(), "put the key itself there")
            }
            other => Self::Kernel(other.into()),
        }
    }
}

/// What was read of a file.
pub(super) struct Content {
    buffer: Zeroizing<[u8; MAX_BYTES]>,
    length: usize,
}

impl Content {
    /// As a key in base64.
    pub(super) fn text(&self) -> Result<SecretKey, Unusable> {
        SecretKey::from_text(self.buffer.get(..self.length).unwrap_or_default())
            .map_err(|problem| Unusable::Wrong(problem.into(), "write it as `wg genkey` does"))
    }

    /// As 32 bytes.
    pub(super) fn bytes(&self) -> Result<Zeroizing<[u8; 32]>, Unusable> {
        match self.buffer.first_chunk() {
            Some(bytes) if self.length == bytes.len() => Ok(Zeroizing::new(*bytes)),
            _ => Err(Unusable::Wrong(
                format!("has {} bytes, not 32", self.length),
                "restore it; without it every derived key of this node is another one",
            )),
        }
    }
}

/// Reads a file that must be root's alone, at `relative` beneath `directory`, without following any link.
pub(super) fn read(directory: &Path, relative: &str) -> Result<Content, Unusable> {
    let directory = open_folder(directory)?;
    // A pipe would keep the reader waiting for its other end.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let mut file = File::from(openat2(&directory, relative, flags, Mode::empty(), beneath())?);
    let metadata = file.metadata().map_err(Unusable::Kernel)?;
    if !metadata.is_file() {
        return Err(Unusable::Wrong("is no regular file".into(), "put the key itself there"));
    }
    if metadata.uid() != 0 && metadata.uid() != geteuid().as_raw() {
        let problem = format!("belongs to user {}, not to root", metadata.uid());
        return Err(Unusable::Wrong(problem, "give it to root (chown root), if you trust whoever wrote it"));
    }
    if metadata.mode() & NOT_OWNERS != 0 {
        let problem = format!("has mode {:04o}, not 0600", metadata.mode() & 0o7777);
        return Err(Unusable::Wrong(problem, "make a new key if others may have read it, then chmod 0600"));
    }
    let mut buffer = Zeroizing::new([0; MAX_BYTES]);
    let mut length = 0_usize;
    while let Some(rest) = buffer.get_mut(length..).filter(|rest| !rest.is_empty()) {
        match file.read(rest) {
            Ok(0) => return Ok(Content { buffer, length }),
            Ok(read) => length = length.saturating_add(read),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Unusable::Kernel(error)),
        }
    }
    Err(Unusable::Wrong("is longer than a key".into(), "write nothing but the key there"))
}

/// Makes a folder where there is none.
pub(super) fn make_folder(path: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(mode).create(path)
}

/// What became of a file that was to be made.
#[derive(PartialEq, Eq)]
pub(super) enum Made {
    New,
    /// There is one, and it stays as it is.
    Already,
}

/// Makes a file for root alone in the folder at `relative` beneath `directory`. It gets its name when it is complete.
pub(super) fn create(directory: &Path, relative: &str, name: &str, content: &[u8]) -> io::Result<Made> {
    let folder = folder_beneath(directory, relative)?;
    let temporary = format!(".{name}.{}.{}", std::process::id(), getrandom::u32().map_err(io::Error::from)?);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(openat(&folder, &temporary, flags, Mode::RUSR | Mode::WUSR)?);
    let made = file.write_all(content).and_then(|()| file.sync_all()).and_then(|()| {
        match linkat(&folder, &temporary, &folder, name, AtFlags::empty()) {
            Err(Errno::EXIST) => Ok(Made::Already),
            linked => Ok(linked.map(|()| Made::New)?),
        }
    });
    unlinkat(&folder, &temporary, AtFlags::empty())?;
    File::from(folder).sync_all()?;
    made
}

/// Gives a file of the folder at `relative` beneath `directory` the name of another, which goes.
pub(super) fn rename(directory: &Path, relative: &str, from: &str, to: &str) -> io::Result<()> {
    let folder = folder_beneath(directory, relative)?;
    renameat(&folder, from, &folder, to)?;
    File::from(folder).sync_all()
}

/// Removes a file of the folder at `relative` beneath `directory`, if it is there.
pub(super) fn remove(directory: &Path, relative: &str, name: &str) -> io::Result<()> {
    let folder = match folder_beneath(directory, relative) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        folder => folder?,
    };
    match unlinkat(&folder, name, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        removed => {
            removed?;
            File::from(folder).sync_all()
        }
    }
}

fn folder_beneath(directory: &Path, relative: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat2(open_folder(directory)?, relative, flags, Mode::empty(), beneath())?)
}

fn open_folder(path: &Path) -> rustix::io::Result<OwnedFd> {
    openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Nothing outside, no link anywhere (openat2(2), since Linux 5.6).
fn beneath() -> ResolveFlags {
    ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS
}
