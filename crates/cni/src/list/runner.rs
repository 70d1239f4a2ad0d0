//! The verbs over a list (libcni `api.go`).

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value};

use super::cache::{Cache, CachedAttachment};
use super::{ListError, NetworkList, RuntimeConf};
use crate::config::{self, member};
use crate::env::{Attachment, Command, Environment};
use crate::error::{Code, Error};
use crate::exec::{self, Invocation, Stderr};
use crate::result::CniResult;
use crate::version::Version;

/// libcni has no limit of its own; runtimes do.
const TIMEOUT: Duration = Duration::from_secs(300);

/// Runs lists of plugins.
///
/// Plugins are started by the calling thread and so run in its namespaces: a thread that has entered a
/// node's network namespace runs the plugins on that node.
#[derive(Debug, Clone, Default)]
pub struct Runner {
    /// Where plugins are found, and `CNI_PATH`.
    pub path: Vec<PathBuf>,
    /// Results are kept in `results` below it (libcni: `/var/lib/cni`).
    pub cache_dir: PathBuf,
    /// Variables that plugins get on top of this process's own.
    pub env: Vec<(String, String)>,
}

impl Runner {
    /// ADD: every plugin in order, each with the result of the one before. The last result is kept in
    /// the cache.
    ///
    /// # Errors
    /// The first plugin's that failed; those before it keep what they made until DEL.
    pub fn add(&self, list: &NetworkList, conf: &RuntimeConf) -> Result<CniResult, ListError> {
        let mut last = Printed::nothing(list.version);
        for (index, plugin) in list.plugins.iter().enumerate() {
            let prev_result = (index > 0).then(|| last.document.clone());
            let stdin = config_for(list, plugin, prev_result, Some(conf));
            let failed = |source| failure(plugin, Command::Add, source);
            let stdout = self.run(plugin, Command::Add, &stdin, Some(conf))?;
            last = exec::decode_result(plugin_type(plugin), &stdout)
                .and_then(|value| Printed::read(value, list.version))
                .map_err(failed)?;
        }
        Cache::of(&self.cache_dir).store(list, conf, last.document)?;
        Ok(last.result)
    }

    /// CHECK: every plugin in order, each with the final result of ADD.
    ///
    /// # Errors
    /// The first plugin's that failed; [`ListError::Unsupported`] before 0.4.0.
    pub fn check(&self, list: &NetworkList, conf: &RuntimeConf) -> Result<(), ListError> {
        if list.version < Version::V0_4_0 {
            return Err(ListError::Unsupported { version: list.version, command: Command::Check });
        }
        if list.disable_check {
            return Ok(());
        }
        let cache = Cache::of(&self.cache_dir);
        let prev_result = cache.result(&list.name, &conf.attachment(), list.version)?;
        for plugin in &list.plugins {
            let stdin = config_for(list, plugin, prev_result.clone(), Some(conf));
            self.run(plugin, Command::Check, &stdin, Some(conf))?;
        }
        Ok(())
    }

    /// DEL: every plugin in reverse order, each with the final result of ADD (since 0.4.0, if it is
    /// still there). The result is forgotten when all have succeeded.
    ///
    /// # Errors
    /// The first plugin's that failed; the ones that stand before it in the list are not called.
    pub fn del(&self, list: &NetworkList, conf: &RuntimeConf) -> Result<(), ListError> {
        let cache = Cache::of(&self.cache_dir);
        let attachment = conf.attachment();
        let prev_result = if list.version >= Version::V0_4_0 {
            // An unreadable result must not keep an attachment alive.
            cache.result(&list.name, &attachment, list.version).unwrap_or_else(|_| {
                cache.remove(&list.name, &attachment);
                None
            })
        } else {
            None
        };
        for plugin in list.plugins.iter().rev() {
            let stdin = config_for(list, plugin, prev_result.clone(), Some(conf));
            self.run(plugin, Command::Del, &stdin, Some(conf))?;
        }
        cache.remove(&list.name, &attachment);
        Ok(())
    }

    /// GC: DEL for every attachment of this network that the cache has and `valid` has not, then GC of
    /// every plugin (since 1.1.0). No failure stops it.
    ///
    /// # Errors
    /// [`ListError::Several`].
    pub fn gc(&self, list: &NetworkList, valid: &[Attachment]) -> Result<(), ListError> {
        if list.disable_gc {
            return Ok(());
        }
        let mut errors = Vec::new();
        for cached in self.cached_attachments() {
            if cached.network == list.name && !valid.contains(&cached.conf.attachment()) {
                errors.extend(self.del(list, &cached.conf).err());
            }
        }
        if list.version >= Version::V1_1_0 {
            let valid: Value = valid.iter().map(gc_entry).collect();
            for plugin in &list.plugins {
                let mut stdin = config_for(list, plugin, None, None);
                // The second name is the specification's first, mistaken one; libcni sends both.
                stdin.insert("cni.dev/valid-attachments".to_owned(), valid.clone());
                stdin.insert("cni.dev/attachments".to_owned(), valid.clone());
                errors.extend(self.run(plugin, Command::Gc, &stdin, None).err());
            }
        }
        if errors.is_empty() { Ok(()) } else { Err(ListError::Several(errors)) }
    }

    /// STATUS of every plugin in order; before 1.1.0 nothing is asked.
    ///
    /// # Errors
    /// The first plugin's that is not ready, with its own code.
    pub fn status(&self, list: &NetworkList) -> Result<(), ListError> {
        if list.version < Version::V1_1_0 {
            return Ok(());
        }
        for plugin in &list.plugins {
            let stdin = config_for(list, plugin, None, None);
            self.run(plugin, Command::Status, &stdin, None)?;
        }
        Ok(())
    }

    /// VERSION: the versions that a plugin says it speaks, as it writes them.
    ///
    /// # Errors
    /// When it cannot be run or understood.
    pub fn version(&self, plugin: &str) -> Result<Vec<String>, ListError> {
        let mut conf = Map::new();
        conf.insert("type".to_owned(), plugin.into());
        let mut stdin = Map::new();
        stdin.insert("cniVersion".to_owned(), Version::LATEST.as_str().into());
        let stdout = match self.run(&conf, Command::Version, &stdin, None) {
            Ok(stdout) => stdout,
            Err(ListError::Plugin { source, .. }) if source.msg == "unknown CNI_COMMAND: VERSION" => {
                return Ok(vec![Version::V0_1_0.to_string()]);
            }
            Err(error) => return Err(error),
        };
        supported_versions(&stdout).map_err(|source| failure(&conf, Command::Version, source))
    }

    /// Every attachment that the cache remembers, of all networks.
    pub fn cached_attachments(&self) -> Vec<CachedAttachment> {
        Cache::of(&self.cache_dir).attachments()
    }

    fn run(
        &self,
        plugin: &Map<String, Value>,
        command: Command,
        stdin: &Map<String, Value>,
        conf: Option<&RuntimeConf>,
    ) -> Result<Vec<u8>, ListError> {
        exec::find_in_path(plugin_type(plugin), &self.path)
            .and_then(|program| {
                Invocation {
                    program: &program,
                    env: &self.environment(conf)?,
                    command,
                    stdin: Value::Object(stdin.clone()).to_string().as_bytes(),
                    timeout: TIMEOUT,
                    stderr: Stderr::Capture,
                }
                .run()
            })
            .map_err(|source| failure(plugin, command, source))
    }

    /// As libcni, every variable is set for every verb, if need be to nothing.
    fn environment(&self, conf: Option<&RuntimeConf>) -> Result<Environment, Error> {
        let mut env = Environment::of_process();
        for (name, value) in &self.env {
            env.set(name, value);
        }
        let path = std::env::join_paths(&self.path)
            .map_err(|why| Error::new(Code::BAD_ENVIRONMENT, format!("CNI_PATH: {why}")))?;
        env.set("CNI_PATH", path);
        env.set("CNI_CONTAINERID", conf.map_or("", |c| c.container_id.as_str()));
        env.set("CNI_IFNAME", conf.map_or("", |c| c.ifname.as_str()));
        env.set("CNI_NETNS", conf.and_then(|c| c.netns.clone()).unwrap_or_default());
        let args: Vec<String> = conf
            .map(|c| c.args.as_slice())
            .unwrap_or_default()
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        env.set("CNI_ARGS", args.join(";"));
        Ok(env)
    }
}

/// What a plugin printed for ADD.
struct Printed {
    result: CniResult,
    /// The same as a document, in the version in which it was printed.
    document: Value,
}

impl Printed {
    fn nothing(version: Version) -> Self {
        let result = CniResult::default();
        Self { document: result.render(version).unwrap_or_default(), result }
    }

    fn read(value: Value, default: Version) -> Result<Self, Error> {
        let (result, version) = CniResult::parse_versioned(&value, default)?;
        // Only 0.1.0 and 0.2.0 cannot write every result; what was printed in them is as good.
        let document = result.render(version).unwrap_or(value);
        Ok(Self { result, document })
    }
}

/// A plugin's stdin: its object with the network's name and version, and what the runtime adds.
fn config_for(
    list: &NetworkList,
    plugin: &Map<String, Value>,
    prev_result: Option<Value>,
    conf: Option<&RuntimeConf>,
) -> Map<String, Value> {
    let mut stdin = plugin.clone();
    stdin.insert("name".to_owned(), list.name.as_str().into());
    stdin.insert("cniVersion".to_owned(), list.version.as_str().into());
    if let Some(prev_result) = prev_result {
        stdin.insert("prevResult".to_owned(), prev_result);
    }
    let offered = conf.map(|conf| &conf.capability_args);
    let declared = member(plugin, "capabilities").and_then(Value::as_object);
    if let (Some(offered), Some(declared)) = (offered, declared) {
        let granted: Map<String, Value> = offered
            .iter()
            .filter(|(name, _)| declared.get(*name) == Some(&Value::Bool(true)))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        if !granted.is_empty() {
            stdin.insert("runtimeConfig".to_owned(), granted.into());
        }
    }
    stdin
}

fn gc_entry(attachment: &Attachment) -> Value {
    serde_json::json!({
        "containerID": attachment.container_id,
        "ifname": attachment.ifname,
    })
}

fn supported_versions(stdout: &[u8]) -> Result<Vec<String>, Error> {
    #[derive(serde::Deserialize)]
    struct Answer {
        #[serde(default, rename = "cniVersion")]
        version: String,
        #[serde(default, rename = "supportedVersions")]
        supported: Vec<String>,
    }
    let undecodable = |why: String| Error::new(Code::DECODE, format!("decoding version info: {why}"));
    let value = serde_json::from_slice(stdout).map_err(|why| undecodable(why.to_string()))?;
    let answer: Answer = config::from_value(&value).map_err(|why| undecodable(why.msg))?;
    match (answer.version.as_str(), answer.supported.is_empty()) {
        ("", _) => Err(undecodable("missing field cniVersion".to_owned())),
        ("0.2.0", true) => Ok(vec!["0.1.0".to_owned(), "0.2.0".to_owned()]),
        (_, true) => Err(undecodable("missing field supportedVersions".to_owned())),
        (_, false) => Ok(answer.supported),
    }
}

fn plugin_type(plugin: &Map<String, Value>) -> &str {
    member(plugin, "type").and_then(Value::as_str).unwrap_or_default()
}

fn failure(plugin: &Map<String, Value>, command: Command, source: Error) -> ListError {
    ListError::Plugin { plugin: plugin_type(plugin).to_owned(), command, source }
}
