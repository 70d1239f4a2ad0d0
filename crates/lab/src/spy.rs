//! Plugins that write down how they are called.

use std::{
    collections::BTreeMap,
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::{Error, Result};

/// A directory of plugins that record their calls, and then answer or hand over to the real plugin.
#[derive(Debug, Clone)]
pub struct Spies {
    directory: PathBuf,
}

/// One recorded call.
#[derive(Debug, Clone)]
pub struct SpiedCall {
    /// Name of the plugin.
    pub plugin: String,
    /// The environment: the variables whose names begin with `CNI_` or `ADIT_`.
    pub environment: BTreeMap<String, String>,
    /// What it read from stdin; null if that was no JSON.
    pub stdin: Value,
    /// Link to the network namespace it ran in: `net:[4026531840]`.
    pub netns: String,
}

impl SpiedCall {
    /// CNI_COMMAND.
    #[must_use]
    pub fn verb(&self) -> &str {
        self.variable("CNI_COMMAND")
    }

    /// A variable of the environment; empty where it is not set.
    #[must_use]
    pub fn variable(&self, name: &str) -> &str {
        self.environment.get(name).map_or("", String::as_str)
    }
}

impl Spies {
    /// Spies in this directory, none yet.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn in_directory(directory: impl Into<PathBuf>) -> Result<Self> {
        let directory = directory.into();
        let calls = directory.join("calls");
        fs::create_dir_all(&calls).map_err(Error::io(format!("create {}", calls.display())))?;
        Ok(Self { directory })
    }

    /// Where they are: an entry of the plugin path.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A plugin that answers ADD with this result.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn answering(&self, plugin: &str, result: &Value) -> Result<()> {
        self.write(plugin, &format!("[ \"$CNI_COMMAND\" = ADD ] && cat <<'END'\n{result}\nEND\nexit 0"))
    }

    /// A plugin that fails every ADD with this error; other verbs succeed.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn failing(&self, plugin: &str, code: u32, message: &str) -> Result<()> {
        let document = serde_json::json!({"cniVersion": "1.1.0", "code": code, "msg": message});
        self.write(plugin, &format!("[ \"$CNI_COMMAND\" = ADD ] || exit 0\ncat <<'END'\n{document}\nEND\nexit 1"))
    }

    /// A plugin that hands over to the real one.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn watching(&self, plugin: &str, real: &Path) -> Result<()> {
        self.write(plugin, &format!("exec '{}' <\"$call.stdin\"", real.display()))
    }

    /// The calls until now, in their order.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn calls(&self) -> Result<Vec<SpiedCall>> {
        let directory = self.directory.join("calls");
        let failed = || Error::io(format!("read {}", directory.display()));
        let mut stems: Vec<PathBuf> = fs::read_dir(&directory)
            .map_err(failed())?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|extension| extension == "environment"))
            .collect();
        stems.sort();
        stems.into_iter().map(|path| read_call(&path)).collect()
    }

    /// Forgets the calls until now.
    ///
    /// # Errors
    /// They cannot be removed.
    pub fn forget(&self) -> Result<()> {
        let calls = self.directory.join("calls");
        let failed = || Error::io(format!("empty {}", calls.display()));
        fs::remove_dir_all(&calls).map_err(failed())?;
        fs::create_dir_all(&calls).map_err(failed())
    }

    fn write(&self, plugin: &str, answer: &str) -> Result<()> {
        // %s%N keeps the order of calls that follow one another.
        let script = format!(
            "#!/bin/sh\ncall='{calls}'/$(date +%s%N)-{plugin}\ncat >\"$call.stdin\"\nreadlink /proc/self/ns/net >\"$call.netns\"\n\
             env | grep -E '^(CNI|ADIT)_' >\"$call.environment\"\n{answer}\n",
            calls = self.directory.join("calls").display()
        );
        let path = self.directory.join(plugin);
        let failed = || Error::io(format!("write {}", path.display()));
        // Renamed into place: a script that is open for writing cannot be executed.
        let new = path.with_extension("new");
        fs::write(&new, script).map_err(failed())?;
        fs::set_permissions(&new, Permissions::from_mode(0o755)).map_err(failed())?;
        fs::rename(&new, &path).map_err(failed())
    }
}

fn read_call(environment: &Path) -> Result<SpiedCall> {
    let read = |path: &Path| fs::read_to_string(path).map_err(Error::io(format!("read {}", path.display())));
    let stem = environment.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let pairs = read(environment)?;
    Ok(SpiedCall {
        plugin: stem.split_once('-').map_or(stem, |(_, plugin)| plugin).to_owned(),
        environment: pairs
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect(),
        stdin: serde_json::from_str(&read(&environment.with_extension("stdin"))?).unwrap_or(Value::Null),
        netns: read(&environment.with_extension("netns"))?.trim().to_owned(),
    })
}
