//! Running another plugin on behalf of this one (CNI specification, section 4).

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::args::CniArgs;
use crate::config;
use crate::env::{Command, Environment, IfName};
use crate::error::{Code, Error};
use crate::exec::{self, Invocation, Stderr};
use crate::result::CniResult;
use crate::version::Version;

/// How long another plugin may take before it is killed.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Runs other plugins with the environment and the configuration of a call.
///
/// The child inherits the whole environment, with `CNI_COMMAND` replaced, and reads the identical
/// bytes. Its stderr is this process's. It is started by the calling thread, so it runs in that
/// thread's namespaces: leave the container's namespace first.
///
/// Every method that runs a plugin fails with the child's own code and message when the child printed
/// an error document.
#[derive(Debug, Clone)]
pub struct Delegate {
    env: Environment,
    stdin: Vec<u8>,
    timeout: Duration,
}

impl Delegate {
    /// A delegate with an environment (`CNI_PATH` in it says where plugins are) and a configuration.
    pub fn new(env: Environment, stdin: impl Into<Vec<u8>>) -> Self {
        Self { env, stdin: stdin.into(), timeout: TIMEOUT }
    }

    /// The same with another `CNI_IFNAME`.
    #[must_use]
    pub fn with_ifname(&self, ifname: &IfName) -> Self {
        self.with_env("CNI_IFNAME", ifname.as_str())
    }

    /// The same with other `CNI_ARGS`.
    #[must_use]
    pub fn with_args(&self, args: &CniArgs) -> Self {
        self.with_env("CNI_ARGS", &args.to_string())
    }

    /// The same with another configuration.
    #[must_use]
    pub fn with_stdin(&self, config: Map<String, Value>) -> Self {
        Self { stdin: Value::Object(config).to_string().into_bytes(), ..self.clone() }
    }

    /// The same with another limit than 120 s.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self { timeout, ..self.clone() }
    }

    /// The same with another environment variable.
    #[must_use]
    pub fn with_env(&self, name: &str, value: &str) -> Self {
        let mut other = self.clone();
        other.env.set(name, value);
        other
    }

    /// The configuration that the child reads.
    pub fn stdin(&self) -> &[u8] {
        &self.stdin
    }

    /// The first regular file named `plugin` in the folders of `CNI_PATH`.
    ///
    /// # Errors
    /// When there is none, or `plugin` is not a name.
    pub fn find(&self, plugin: &str) -> Result<PathBuf, Error> {
        exec::find_in_path(plugin, &self.env.plugin_path())
    }

    /// Runs ADD. A result without `cniVersion` has the configuration's.
    ///
    /// # Errors
    /// The child's own, or why it could not be run or understood.
    pub fn add(&self, plugin: &str) -> Result<CniResult, Error> {
        let stdout = self.run(plugin, Command::Add)?;
        let default = configured_version(&self.stdin)?;
        let value = exec::decode_result(plugin, &stdout)?;
        CniResult::parse(&value, default).map_err(|error| error.in_context(format_args!("plugin {plugin:?} (ADD)")))
    }

    /// Runs CHECK.
    ///
    /// # Errors
    /// The child's own, or why it could not be run.
    pub fn check(&self, plugin: &str) -> Result<(), Error> {
        self.run(plugin, Command::Check).map(drop)
    }

    /// Runs DEL.
    ///
    /// # Errors
    /// The child's own, or why it could not be run.
    pub fn del(&self, plugin: &str) -> Result<(), Error> {
        self.run(plugin, Command::Del).map(drop)
    }

    /// Runs GC.
    ///
    /// # Errors
    /// The child's own, or why it could not be run.
    pub fn gc(&self, plugin: &str) -> Result<(), Error> {
        self.run(plugin, Command::Gc).map(drop)
    }

    /// Runs STATUS.
    ///
    /// # Errors
    /// The child's own, or why it could not be run.
    pub fn status(&self, plugin: &str) -> Result<(), Error> {
        self.run(plugin, Command::Status).map(drop)
    }

    fn run(&self, plugin: &str, command: Command) -> Result<Vec<u8>, Error> {
        Invocation {
            program: &self.find(plugin)?,
            env: &self.env,
            command,
            stdin: &self.stdin,
            timeout: self.timeout,
            stderr: Stderr::Inherit,
        }
        .run()
    }
}

/// The version of a configuration document.
fn configured_version(document: &[u8]) -> Result<Version, Error> {
    let config: Map<String, Value> = serde_json::from_slice(document).map_err(config::not_json)?;
    match config::member(&config, "cniVersion") {
        None => Ok(Version::V0_1_0),
        Some(Value::String(text)) => text.parse(),
        Some(other) => {
            Err(Error::new(Code::DECODE, format!("decoding version from network config: {other} is not a string")))
        }
    }
}
