//! `kubectl` speaks to the clusters: whoever works with two of them has it, with the credentials, proxies and plugins that
//! reaching them takes. A client library would be a hundred crates more, for a handful of requests.

use std::{
    env,
    ffi::{OsStr, OsString},
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;

/// How long one request may take.
const REQUEST_TIMEOUT: &str = "--request-timeout=30s";

/// The program, and the kubeconfigs that it reads.
#[derive(Debug)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: Option<OsString>,
}

impl Kubectl {
    /// With these kubeconfigs, or those of the environment when there are none.
    ///
    /// # Errors
    /// A path has a `:` in it, which separates the others from it.
    pub fn new(program: &Path, kubeconfigs: &[PathBuf]) -> Result<Self, String> {
        let joined = (!kubeconfigs.is_empty()).then(|| env::join_paths(kubeconfigs)).transpose();
        let kubeconfig = joined.map_err(|error| format!("--kubeconfig: {error}"))?;
        Ok(Self { program: program.to_owned(), kubeconfig })
    }

    /// What it prints, run in `context` with `arguments`, after it has read `input`.
    ///
    /// # Errors
    /// It cannot be run, or its own words why it failed.
    pub fn run<S: AsRef<OsStr>>(
        &self,
        context: &str,
        arguments: impl IntoIterator<Item = S>,
        input: &str,
    ) -> Result<String, String> {
        let mut command = Command::new(&self.program);
        command.args(["--context", context, REQUEST_TIMEOUT]).args(arguments);
        if let Some(kubeconfig) = &self.kubeconfig {
            command.env("KUBECONFIG", kubeconfig);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let unusable = |error: io::Error| {
            format!("cannot run {}: {error}; install kubectl, or name it by --kubectl", self.program.display())
        };
        let mut child = command.spawn().map_err(unusable)?;
        if let Some(mut stdin) = child.stdin.take() {
            match stdin.write_all(input.as_bytes()) {
                // It has ended, and says why.
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(unusable(error)),
                _ => {}
            }
        }
        let output = child.wait_with_output().map_err(unusable)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let words = String::from_utf8_lossy(&output.stderr);
        Err(if words.trim().is_empty() { format!("kubectl ended with {}", output.status) } else { words.trim().into() })
    }

    /// The same, where it prints JSON.
    ///
    /// # Errors
    /// As [`Self::run`]; or it prints none.
    pub fn json<S: AsRef<OsStr>>(
        &self,
        context: &str,
        arguments: impl IntoIterator<Item = S>,
    ) -> Result<Value, String> {
        let text = self.run(context, arguments, "")?;
        serde_json::from_str(&text).map_err(|error| format!("kubectl printed no JSON: {error}"))
    }
}
