//! What a file is, so that it can be told from another.

use std::{
    fmt, fs,
    io::{self, Read as _},
    os::unix::ffi::OsStrExt as _,
    path::Path,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{Error, Result};

const CHUNK_BYTES: usize = 1 << 16;

/// The SHA-256 of a file's content; of a symbolic link, that of where it leads to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Digest(String);

impl Digest {
    /// Of these bytes, as a file would hold them.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self::finish(Sha256::new_with_prefix(bytes), "sha256")
    }

    /// Of what is at `path` itself; `None` when nothing is there.
    ///
    /// # Errors
    /// It cannot be read, or is a directory.
    pub fn at(path: &Path) -> Result<Option<Self>> {
        match look(path) {
            Ok(digest) => Ok(Some(digest)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => Err(Error::Occupied(path.to_owned())),
            Err(source) => Err(Error::path("read", path, source)),
        }
    }

    fn finish(hash: Sha256, kind: &str) -> Self {
        let hex: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Self(format!("{kind}:{hex}"))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn look(path: &Path) -> io::Result<Digest> {
    if path.symlink_metadata()?.is_symlink() {
        let target = fs::read_link(path)?;
        return Ok(Digest::finish(Sha256::new_with_prefix(target.as_os_str().as_bytes()), "link"));
    }
    let (mut file, mut hash, mut chunk) = (fs::File::open(path)?, Sha256::new(), vec![0; CHUNK_BYTES]);
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(Digest::finish(hash, "sha256")),
            count => hash.update(chunk.get(..count).unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_known_by_its_content_and_a_link_by_its_target() {
        let directory = tempfile::tempdir().unwrap();
        let (file, link) = (directory.path().join("file"), directory.path().join("link"));
        assert_eq!(Digest::at(&file).unwrap(), None);
        let long = vec![7; CHUNK_BYTES + 1];
        fs::write(&file, &long).unwrap();
        assert_eq!(Digest::at(&file).unwrap(), Some(Digest::of(&long)));
        // The example of FIPS 180-4.
        assert_eq!(
            Digest::of(b"abc").to_string(),
            "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        std::os::unix::fs::symlink("file", &link).unwrap();
        assert_ne!(Digest::at(&link).unwrap(), Digest::at(&file).unwrap());
        let dangling = Digest::at(&link).unwrap();
        fs::remove_file(&file).unwrap();
        assert_eq!(Digest::at(&link).unwrap(), dangling);
        assert!(matches!(Digest::at(directory.path()), Err(Error::Occupied(_))));
    }
}
