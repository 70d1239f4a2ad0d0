//! What was put into a directory.

use std::{collections::BTreeMap, fs, io, path::Path};

use serde::{Deserialize, Serialize};

use crate::{Digest, Error, Result};

const FORMAT: u32 = 1;

/// What an installation has put into a directory, or is about to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Manifest {
    /// Of this file: 1.
    pub(crate) format: u32,
    /// How many directories of the path had to be made, counted from its end.
    pub made_directories: usize,
    /// By name.
    pub files: BTreeMap<String, Entry>,
}

/// One file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Entry {
    /// What may stand there that is ours: what is wanted, then what it replaces.
    pub ours: Vec<Digest>,
    /// What stood there before and is kept.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub kept: Option<Digest>,
}

impl Default for Manifest {
    fn default() -> Self {
        Self { format: FORMAT, made_directories: 0, files: BTreeMap::new() }
    }
}

impl Manifest {
    /// Reads one; `None` when there is none.
    ///
    /// # Errors
    /// It cannot be read, or is none of this format.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::path("read", path, source)),
        };
        let unusable = |problem: String| Error::Manifest { path: path.to_owned(), problem };
        let manifest: Self = serde_json::from_slice(&text).map_err(|error| unusable(error.to_string()))?;
        if manifest.format != FORMAT {
            return Err(unusable(format!("its format is {}, not {FORMAT}", manifest.format)));
        }
        match manifest.files.keys().find(|name| name.is_empty() || name.starts_with('.') || name.contains('/')) {
            Some(name) => Err(unusable(format!("{name:?} is no file's name"))),
            None => Ok(Some(manifest)),
        }
    }

    /// As a file holds it.
    #[must_use]
    pub fn to_text(&self) -> String {
        // A map of strings has no key that JSON lacks.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_and_other_formats_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("manifest.json");
        assert_eq!(Manifest::read(&path).unwrap(), None);
        let mut manifest = Manifest::default();
        manifest.files.insert("tun".into(), Entry { ours: vec![Digest::of(b"tun")], kept: Some(Digest::of(b"")) });
        fs::write(&path, manifest.to_text()).unwrap();
        assert_eq!(Manifest::read(&path).unwrap(), Some(manifest.clone()));
        for name in ["../passwd", "", ".adit", "/etc/passwd"] {
            let mut other = manifest.clone();
            other.files.insert(name.into(), Entry::default());
            fs::write(&path, other.to_text()).unwrap();
            assert!(matches!(Manifest::read(&path), Err(Error::Manifest { .. })), "{name:?}");
        }
        for text in ["", "{}", r#"{"format": 2, "madeDirectories": 0, "files": {}}"#] {
            fs::write(&path, text).unwrap();
            assert!(matches!(Manifest::read(&path), Err(Error::Manifest { .. })), "{text}");
        }
    }
}
