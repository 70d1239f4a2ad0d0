//! Keys: what they are called everywhere, and where the agent, and nobody else, finds them.
//!
//! Configuration, record, protocol and status hold public keys and the names of files ([`KeyNames`]). A file's name means a
//! file in the folder of the pod's own namespace:
//!
//! ```text
//! /etc/adit/node.secret                 32 random bytes, made on first use
//! /etc/adit/keys/<namespace>/<name>     a private or preshared key, as `wg genkey` writes it
//! ```
//!
//! Who names no file gets a private key of its own, derived from the node's secret (RFC 5869) and the [`Owner`]. How a private key is
//! changed is in [`rotation`].

mod file;
mod public;
mod rotation;
mod secret;

use std::{
    env, io,
    path::{Path, PathBuf},
};

use hkdf::Hkdf;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::{Error, Pod, Record, Result};
pub use file::KeyFile;
use file::{Made, Unusable};
pub use public::PublicKey;
pub use rotation::Rotation;
pub use secret::SecretKey;

/// Where key files and the node's secret are unless `ADIT_CONFIG_DIR` says otherwise.
pub const DEFAULT_CONFIG_DIR: &str = "/etc/adit";
/// Stands for the namespace where the runtime names none; none in Kubernetes is called so.
pub const NO_NAMESPACE: &str = "_";
const NODE_SECRET: &str = "node.secret";
/// What else may ever be derived from the node's secret gets another one.
const PURPOSE: &[u8] = b"adit: private key of a tunnel, 1";

/// `$ADIT_CONFIG_DIR`, or [`DEFAULT_CONFIG_DIR`] when it is unset or empty.
#[must_use]
pub fn config_dir() -> PathBuf {
    env::var_os("ADIT_CONFIG_DIR")
        .filter(|value| !value.is_empty())
        .map_or_else(|| PathBuf::from(DEFAULT_CONFIG_DIR), PathBuf::from)
}

/// Whose key it is. No two tunnels of a node share all of this.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Owner {
    /// The pod's namespace; empty where the runtime names none.
    pub namespace: String,
    /// The pod's name; empty where the runtime names none.
    pub pod: String,
    /// `CNI_CONTAINERID` where there is no pod's name; else empty, so that a pod made anew keeps its key.
    pub container_id: String,
    /// The network's name in its list.
    pub network: String,
    /// The tunnel's interface.
    pub if_name: String,
}

impl Owner {
    /// Unambiguous: each part after its length.
    fn info(&self) -> Vec<u8> {
        let parts = [&self.namespace, &self.pod, &self.container_id, &self.network, &self.if_name];
        let mut info = Vec::new();
        for part in parts {
            info.extend(u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
            info.extend(part.as_bytes());
        }
        info
    }
}

/// What a tunnel's keys are found by. Nothing in it is secret.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyNames {
    /// Whose they are.
    pub owner: Owner,
    /// The file of the private key; without one it is derived.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub private_key_file: Option<KeyFile>,
    /// Of each peer.
    #[serde(default)]
    pub peers: Vec<PeerKeyNames>,
}

/// How a peer is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerKeyNames {
    /// Its public key.
    pub public_key: PublicKey,
    /// The file of the key that was agreed beforehand.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub preshared_key_file: Option<KeyFile>,
    /// What stands before the names of its keys in the configuration, for messages: `peers[1].`, or nothing.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub place: String,
}

impl KeyNames {
    /// Of a recorded tunnel. A plain one has none.
    #[must_use]
    pub fn of(record: &Record) -> Self {
        let Record { attachment, network, pod, spec, .. } = record;
        let peers = spec.peers.iter().filter_map(|peer| {
            let preshared_key_file = peer.preshared_key_file.clone();
            Some(PeerKeyNames { public_key: peer.public_key?, preshared_key_file, place: String::new() })
        });
        Self {
            owner: owner(pod, &attachment.container_id, network, attachment.if_name.as_str()),
            private_key_file: spec.private_key_file.clone(),
            peers: peers.collect(),
        }
    }
}

fn owner(pod: &Pod, container_id: &str, network: &str, if_name: &str) -> Owner {
    Owner {
        namespace: pod.namespace.clone(),
        pod: pod.name.clone(),
        container_id: if pod.name.is_empty() { container_id.to_owned() } else { String::new() },
        network: network.to_owned(),
        if_name: if_name.to_owned(),
    }
}

/// The keys of one tunnel.
#[derive(Debug)]
pub struct Keys {
    /// This end's.
    pub private: SecretKey,
    /// What peers know this end by.
    pub public: PublicKey,
    /// Another private key that peers may address, while one gives way to the other.
    pub also: Option<SecretKey>,
    /// The preshared key of each peer, in their order.
    pub preshared: Vec<Option<SecretKey>>,
}

/// The keys below one configuration directory.
#[derive(Debug, Clone)]
pub struct KeyStore {
    directory: PathBuf,
}

impl KeyStore {
    /// The keys below `config_dir`; nothing is read or made yet.
    #[must_use]
    pub fn new(config_dir: &Path) -> Self {
        Self { directory: config_dir.to_owned() }
    }

    /// Loads what `names` names, and makes the node's secret where that is needed for the first time.
    ///
    /// # Errors
    /// A file is missing, not root's alone, or no key; or the peers' list holds this end's own public key.
    pub fn load(&self, names: &KeyNames) -> Result<Keys> {
        let namespace = &names.owner.namespace;
        // Before the node's secret may have to be made: what cannot succeed changes nothing.
        let preshared = names.peers.iter().map(|PeerKeyNames { preshared_key_file, place, .. }| {
            let file = preshared_key_file.as_ref();
            file.map(|file| self.read(&format!("{place}presharedKeyFile"), namespace, file)).transpose()
        });
        let preshared = preshared.collect::<Result<_>>()?;
        let private = match &names.private_key_file {
            Some(file) => self.read("privateKeyFile", namespace, file)?,
            None => match self.changed(&names.owner)? {
                Some(changed) => changed,
                None => self.derive(&names.owner)?,
            },
        };
        let public = private.public();
        if let Some(own) = names.peers.iter().find(|peer| peer.public_key == public) {
            return Err(Error::invalid(
                format!("{}publicKey", own.place),
                public,
                "is this tunnel's own public key",
                "write the other end's, which `adit key show` prints on its node",
            ));
        }
        let also = self.also(names)?;
        Ok(Keys { private, public, also, preshared })
    }

    /// Makes a private key in a file of its own, and says what its public key is.
    ///
    /// # Errors
    /// There is such a file already, or it cannot be made.
    pub fn generate(&self, namespace: &str, file: &KeyFile) -> Result<PublicKey> {
        let key = SecretKey::generate()?;
        self.keep(namespace, file, &key)?;
        Ok(key.public())
    }

    /// Writes a key to a file of its own.
    ///
    /// # Errors
    /// There is such a file already, or it cannot be made.
    pub fn keep(&self, namespace: &str, file: &KeyFile, key: &SecretKey) -> Result<()> {
        let folder = folder("--namespace", namespace)?;
        match self.write(folder, file.as_str(), key)? {
            Made::New => Ok(()),
            Made::Already => Err(Error::Key {
                key: "--file".into(),
                path: self.path(folder, file),
                problem: "exists already".into(),
                remedy: "choose another name, or move the old key away".into(),
            }),
        }
    }

    /// Writes a key to a file of this folder, unless there is one.
    fn write(&self, folder: &str, name: &str, key: &SecretKey) -> Result<Made> {
        let keys = self.directory.join("keys");
        let path = keys.join(folder).join(name);
        let failed = |source| Error::Storage { action: "write", path: path.clone(), source };
        file::make_folder(&self.directory, 0o755).map_err(failed)?;
        file::make_folder(&keys, 0o700).map_err(failed)?;
        file::make_folder(&keys.join(folder), 0o700).map_err(failed)?;
        file::create(&self.directory, &format!("keys/{folder}"), name, key.to_text().as_bytes()).map_err(failed)
    }

    fn path(&self, folder: &str, file: &KeyFile) -> PathBuf {
        self.directory.join("keys").join(folder).join(file.as_str())
    }

    fn read(&self, key: &str, namespace: &str, file: &KeyFile) -> Result<SecretKey> {
        let folder = folder(key, namespace)?;
        let read = file::read(&self.directory, &format!("keys/{folder}/{file}"));
        read.and_then(|content| content.text()).map_err(|unusable| {
            let make = || match key {
                "privateKeyFile" => format!("make it with: adit key generate --namespace {folder} --file {file}"),
                _ => "put the key there that both ends share, as `wg genpsk` writes it".into(),
            };
            unusable.of(key, self.path(folder, file), make)
        })
    }

    fn derive(&self, owner: &Owner) -> Result<SecretKey> {
        folder("privateKeyFile (which is not written)", &owner.namespace)?;
        let secret = self.node_secret()?;
        let mut key = Zeroizing::new([0; 32]);
        Hkdf::<Sha256>::new(Some(PURPOSE), secret.as_slice())
            .expand(&owner.info(), key.as_mut_slice())
            // Only for keys of many hashes' length.
            .map_err(|problem| Error::Random { source: io::Error::other(problem.to_string()) })?;
        Ok(SecretKey::new(key))
    }

    fn node_secret(&self) -> Result<Zeroizing<[u8; 32]>> {
        let path = || self.directory.join(NODE_SECRET);
        let failed = |source| Error::Storage { action: "make", path: path(), source };
        for _ in 0..2 {
            match file::read(&self.directory, NODE_SECRET).and_then(|content| content.bytes()) {
                Err(Unusable::Missing) => {}
                read => return read.map_err(|unusable| unusable.of("the node's secret", path(), String::new)),
            }
            file::make_folder(&self.directory, 0o755).map_err(failed)?;
            // Whoever was first made the one that counts.
            file::create(&self.directory, ".", NODE_SECRET, secret::random()?.as_slice()).map_err(failed)?;
        }
        Err(failed(io::ErrorKind::NotFound.into()))
    }
}

/// The folder of a namespace: one step below `keys`, whatever the namespace is called.
fn folder<'a>(key: &str, namespace: &'a str) -> Result<&'a str> {
    if namespace.is_empty() {
        return Ok(NO_NAMESPACE);
    }
    if file::is_plain_name(namespace) {
        return Ok(namespace);
    }
    Err(Error::invalid(
        key,
        format!("the pod's namespace {namespace:?}"),
        "is no folder's name",
        "CNI_ARGS have to give it as K8S_POD_NAMESPACE",
    ))
}

#[cfg(test)]
mod tests;
