//! A private key gives way to another without a moment in which peers know neither.
//!
//! Beside the key in use there may lie the next one, which is accepted already, or the old one, which is accepted still:
//!
//! ```text
//! /etc/adit/keys/<namespace>/<name>            in use
//! /etc/adit/keys/<namespace>/.<name>.next      made by [`Rotation::Prepare`]
//! /etc/adit/keys/<namespace>/.<name>.old       left by [`Rotation::Use`], removed by [`Rotation::Finish`]
//! ```
//!
//! A derived key has no file until it is changed for the first time; its name then is `.derived-` and a hash of its owner. No
//! configuration can name a file that begins with a dot.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{
    KeyNames, KeyStore, Keys, Owner, PublicKey, SecretKey,
    file::{self, Unusable},
    folder,
};
use crate::{Error, Result};

/// The steps, in their order; peers are told the new public key between the first and the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Rotation {
    /// Make the next key, and accept it beside the one in use.
    Prepare,
    /// Use the next key; the old one is accepted still.
    Use,
    /// Accept the old key no more.
    Finish,
}

/// Where a private key and its companions are.
struct Place<'a> {
    folder: &'a str,
    name: String,
    is_derived: bool,
}

impl Place<'_> {
    fn of(names: &KeyNames) -> Result<Place<'_>> {
        let folder = folder("privateKeyFile", &names.owner.namespace)?;
        let is_derived = names.private_key_file.is_none();
        let name = names.private_key_file.as_ref().map_or_else(|| derived_name(&names.owner), ToString::to_string);
        Ok(Place { folder, name, is_derived })
    }

    fn companion(&self, what: &str) -> String {
        let dot = if self.is_derived { "" } else { "." };
        format!("{dot}{}.{what}", self.name)
    }
}

fn derived_name(owner: &Owner) -> String {
    let hash: [u8; 32] = Sha256::digest(owner.info()).into();
    let hex: String = hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!(".derived-{hex}")
}

impl KeyStore {
    /// The private key in use, where it was changed; of a key that is derived and never was, nothing.
    pub(super) fn changed(&self, owner: &Owner) -> Result<Option<SecretKey>> {
        let names = KeyNames { owner: owner.clone(), ..KeyNames::default() };
        let place = Place::of(&names)?;
        self.companion(&place, &place.name)
    }

    /// The other private key that is accepted: the next one, or the old one.
    pub(super) fn also(&self, names: &KeyNames) -> Result<Option<SecretKey>> {
        let place = Place::of(names)?;
        match self.companion(&place, &place.companion("next"))? {
            Some(next) => Ok(Some(next)),
            None => self.companion(&place, &place.companion("old")),
        }
    }

    /// Takes a step of changing the private key that `names` names. Returns the public key that peers are to know it by.
    ///
    /// # Errors
    /// A step was left out, or a key cannot be read or written; a step that fails can be taken again.
    pub fn rotate(&self, names: &KeyNames, step: Rotation) -> Result<PublicKey> {
        let place = Place::of(names)?;
        let Keys { private, public, .. } = self.load(&KeyNames { peers: Vec::new(), ..names.clone() })?;
        let [next, old] = ["next", "old"].map(|what| place.companion(what));
        match step {
            Rotation::Prepare => {
                if let Some(made) = self.companion(&place, &next)? {
                    return Ok(made.public());
                }
                let made = SecretKey::generate()?;
                self.put(&place, &next, &made)?;
                // One companion at a time is accepted.
                self.remove(&place, &old)?;
                // Somebody else may have been first.
                Ok(self.companion(&place, &next)?.unwrap_or(made).public())
            }
            Rotation::Use => {
                let Some(used) = self.companion(&place, &next)? else {
                    if self.companion(&place, &old)?.is_some() {
                        return Ok(public);
                    }
                    return Err(Error::Key {
                        key: "the next private key".into(),
                        path: self.beneath(&place, &next),
                        problem: "does not exist".into(),
                        remedy: "prepare it first: adit key rotate, without --use".into(),
                    });
                };
                self.remove(&place, &old)?;
                self.put(&place, &old, &private)?;
                file::rename(&self.directory, &format!("keys/{}", place.folder), &next, &place.name).map_err(
                    |source| Error::Storage { action: "replace", path: self.beneath(&place, &place.name), source },
                )?;
                Ok(used.public())
            }
            Rotation::Finish => {
                if self.companion(&place, &next)?.is_some() {
                    return Err(Error::Key {
                        key: "the next private key".into(),
                        path: self.beneath(&place, &next),
                        problem: "is not used yet".into(),
                        remedy: "use it first: adit key rotate --use".into(),
                    });
                }
                self.remove(&place, &old)?;
                Ok(public)
            }
        }
    }

    fn beneath(&self, place: &Place<'_>, name: &str) -> std::path::PathBuf {
        self.directory.join("keys").join(place.folder).join(name)
    }

    fn companion(&self, place: &Place<'_>, name: &str) -> Result<Option<SecretKey>> {
        match file::read(&self.directory, &format!("keys/{}/{name}", place.folder)).and_then(|content| content.text()) {
            Ok(key) => Ok(Some(key)),
            Err(Unusable::Missing) => Ok(None),
            Err(unusable) => Err(unusable.of("private key", self.beneath(place, name), String::new)),
        }
    }

    fn put(&self, place: &Place<'_>, name: &str, key: &SecretKey) -> Result<()> {
        self.write(place.folder, name, key).map(drop)
    }

    fn remove(&self, place: &Place<'_>, name: &str) -> Result<()> {
        file::remove(&self.directory, &format!("keys/{}", place.folder), name).map_err(|source| Error::Storage {
            action: "remove",
            path: self.beneath(place, name),
            source,
        })
    }
}
