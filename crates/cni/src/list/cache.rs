//! The results of ADD on disk, in libcni's format (`cniCacheV1`): DEL and CHECK get them as
//! `prevResult`, GC learns from them what was added.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{ListError, NetworkList, RuntimeConf};
use crate::env::{Attachment, ContainerId, IfName, NetworkName};
use crate::result::CniResult;
use crate::version::Version;

const KIND: &str = "cniCacheV1";

/// An attachment as the cache remembers it.
#[derive(Debug, Clone, PartialEq)]
pub struct CachedAttachment {
    /// The network it belongs to.
    pub network: NetworkName,
    /// What it was added with.
    pub conf: RuntimeConf,
}

/// A file of the cache.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    kind: String,
    container_id: String,
    /// The list's document in base64.
    #[serde(default)]
    config: String,
    if_name: String,
    network_name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    netns: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    cni_args: Vec<(String, String)>,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    capability_args: Map<String, Value>,
    #[serde(default, skip_serializing_if = "Value::is_null")]
    result: Value,
}

/// The folder of results.
pub(super) struct Cache {
    folder: PathBuf,
}

impl Cache {
    pub fn of(cache_dir: &Path) -> Self {
        Self { folder: cache_dir.join("results") }
    }

    /// Keeps the final result of ADD.
    pub fn store(&self, list: &NetworkList, conf: &RuntimeConf, result: Value) -> Result<(), ListError> {
        let entry = Entry {
            kind: KIND.to_owned(),
            container_id: conf.container_id.to_string(),
            config: BASE64_STANDARD.encode(&list.source),
            if_name: conf.ifname.to_string(),
            network_name: list.name.to_string(),
            netns: conf.netns.as_ref().map(|path| path.to_string_lossy().into_owned()).unwrap_or_default(),
            cni_args: conf.args.clone(),
            capability_args: conf.capability_args.clone(),
            result,
        };
        let path = self.path(&list.name, &conf.attachment());
        let write = || -> io::Result<()> {
            DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
            file.write_all(&serde_json::to_vec(&entry)?)
        };
        write().map_err(|why| self.failure(&list.name, &path, &why))
    }

    /// The final result of ADD, or `None` when it is not there.
    pub fn result(
        &self,
        network: &NetworkName,
        attachment: &Attachment,
        version: Version,
    ) -> Result<Option<Value>, ListError> {
        let path = self.path(network, attachment);
        let Ok(bytes) = fs::read(&path) else {
            return Ok(None);
        };
        let failure = |why: &dyn std::fmt::Display| self.failure(network, &path, why);
        let value: Value = serde_json::from_slice(&bytes).map_err(|why| failure(&why))?;
        // Before cniCacheV1 the file was the result itself.
        let result = match value.get("kind").and_then(Value::as_str) {
            Some(KIND) => value.get("result").unwrap_or(&Value::Null),
            _ => &value,
        };
        CniResult::parse(result, Version::V0_1_0)
            .and_then(|result| result.render(version))
            .map(Some)
            .map_err(|why| failure(&why))
    }

    /// Forgets an attachment; one that is not there is none.
    pub fn remove(&self, network: &NetworkName, attachment: &Attachment) {
        let _ = fs::remove_file(self.path(network, attachment));
    }

    /// Every attachment, in the order of the file names; what cannot be read is left out, as in libcni.
    pub fn attachments(&self) -> Vec<CachedAttachment> {
        let Ok(entries) = fs::read_dir(&self.folder) else {
            return Vec::new();
        };
        let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        files.sort();
        files.iter().filter_map(|file| read(file)).collect()
    }

    fn path(&self, network: &NetworkName, attachment: &Attachment) -> PathBuf {
        self.folder.join(format!("{network}-{}-{}", attachment.container_id, attachment.ifname))
    }

    fn failure(&self, network: &NetworkName, path: &Path, why: &dyn std::fmt::Display) -> ListError {
        ListError::Cache { network: network.clone(), path: path.to_owned(), why: why.to_string() }
    }
}

fn read(file: &Path) -> Option<CachedAttachment> {
    let entry: Entry = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
    if entry.kind != KIND {
        return None;
    }
    let container_id: ContainerId = entry.container_id.try_into().ok()?;
    let ifname: IfName = entry.if_name.try_into().ok()?;
    Some(CachedAttachment {
        network: entry.network_name.try_into().ok()?,
        conf: RuntimeConf {
            container_id,
            netns: Some(entry.netns).filter(|netns| !netns.is_empty()).map(PathBuf::from),
            ifname,
            args: entry.cni_args,
            capability_args: entry.capability_args,
        },
    })
}
