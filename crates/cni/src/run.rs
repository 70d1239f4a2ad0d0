//! From environment and stdin to one document on stdout.

use std::any::Any;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::args::CniArgs;
use crate::config;
use crate::delegate::Delegate;
use crate::env::{Attachment, Command, Environment, NetworkName, Request};
use crate::error::{Code, Error};
use crate::plugin::{Call, DelCall, GcCall, Plugin, StatusCall};
use crate::result::{CniResult, indented};
use crate::version::{self, Version};

/// A plugin's whole `main`: reads environment and stdin, calls the verb, prints one document.
///
/// An error is printed on stdout as a document, with exit status 1. Without `CNI_COMMAND` the plugin
/// says on stderr what it is.
pub fn main<P: Plugin>(plugin: &P) -> ExitCode {
    let env = Environment::of_process();
    // Not io::stdout(): that one takes a closed descriptor for a written document.
    let stdout = match io::stdout().as_fd().try_clone_to_owned() {
        Ok(stdout) => File::from(stdout),
        Err(why) => {
            let _ = writeln!(io::stderr(), "cannot write to stdout: {why}");
            return ExitCode::FAILURE;
        }
    };
    run_with(plugin, &env, io::stdin(), stdout, io::stderr()).into()
}

/// [`main`] with everything handed in; returns the exit status.
pub fn run_with<P: Plugin>(
    plugin: &P,
    env: &Environment,
    stdin: impl Read,
    mut stdout: impl Write,
    mut stderr: impl Write,
) -> u8 {
    let outcome = panic::catch_unwind(AssertUnwindSafe(|| serve(plugin, env, stdin)))
        .unwrap_or_else(|cause| Err(panicked::<P>(cause.as_ref())));
    let (document, status) = match outcome {
        Ok(Answer::Nothing) => return 0,
        Ok(Answer::About(text)) => {
            let _ = stderr.write_all(text.as_bytes());
            return 0;
        }
        Ok(Answer::Document(document)) => (document, 0),
        Err(error) => (error_document(&error), 1),
    };
    match stdout.write_all(document.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => status,
        Err(why) => {
            let _ = writeln!(stderr, "cannot write to stdout: {why}: {document}");
            1
        }
    }
}

/// What a successful call prints.
enum Answer {
    Nothing,
    About(String),
    Document(String),
}

fn serve<P: Plugin>(plugin: &P, env: &Environment, stdin: impl Read) -> Result<Answer, Error> {
    let Some(request) = Request::read(env)? else {
        return Ok(Answer::About(about::<P>()));
    };
    if request.command == Command::Version.as_str() {
        return version_document().map(Answer::Document);
    }
    // The reference tells an unknown verb only after it has seen a sound configuration.
    let command: Result<Command, Error> = request.command.parse();
    let input = Input::read(stdin);
    if let (Ok(Command::Del), Some(attachment)) = (&command, &request.attachment) {
        return del(plugin, env, &request, attachment, input).map(|()| Answer::Nothing);
    }
    let input = input?;
    match (command?, request.attachment) {
        (Command::Add, Some(attachment)) => {
            let version = input.version()?;
            let netns = request.netns.unwrap_or_default();
            let call = call::<P>(env, input, version, attachment, netns, request.args)?;
            refuse_own_netns(env, Some(&call.netns))?;
            let result = plugin.add(&call)?;
            result.to_json(version).map(Answer::Document)
        }
        (Command::Check, Some(attachment)) => {
            let version = input.version_for(Command::Check, Version::V0_4_0)?;
            let netns = request.netns.unwrap_or_default();
            let call = call::<P>(env, input, version, attachment, netns, request.args)?;
            plugin.check(&call).map(|()| Answer::Nothing)
        }
        (Command::Gc, _) => {
            let version = input.version_for(Command::Gc, Version::V1_1_0)?;
            let call = GcCall {
                valid: valid_attachments(&input.raw)?,
                config: config::decode(&input.bytes)?,
                network: input.network,
                version,
                raw: input.raw,
                delegate: Delegate::new(env.clone(), input.bytes),
            };
            plugin.gc(&call).map(|()| Answer::Nothing)
        }
        (Command::Status, _) => {
            let version = input.version_for(Command::Status, Version::V1_1_0)?;
            let call = StatusCall {
                config: config::decode(&input.bytes)?,
                network: input.network,
                version,
                raw: input.raw,
                delegate: Delegate::new(env.clone(), input.bytes),
            };
            plugin.status(&call).map(|()| Answer::Nothing)
        }
        (command, _) => Err(Error::new(Code::BAD_ENVIRONMENT, format!("{command} without an attachment"))),
    }
}

fn call<P: Plugin>(
    env: &Environment,
    input: Input,
    version: Version,
    attachment: Attachment,
    netns: std::path::PathBuf,
    args: &str,
) -> Result<Call<P::Config>, Error> {
    Ok(Call {
        config: config::decode(&input.bytes)?,
        args: CniArgs::parse(args)?,
        prev_result: prev_result(&input.raw, version)?,
        attachment,
        netns,
        network: input.network,
        version,
        raw: input.raw,
        delegate: Delegate::new(env.clone(), input.bytes),
    })
}

/// DEL goes on where ADD would stop: without a readable configuration the plugin still learns which
/// attachment is to go.
fn del<P: Plugin>(
    plugin: &P,
    env: &Environment,
    request: &Request<'_>,
    attachment: &Attachment,
    input: Result<Input, Error>,
) -> Result<(), Error> {
    let netns = request.netns.as_deref();
    let unreadable = |why: Error| {
        refuse_own_netns(env, netns)?;
        plugin.del_unreadable(attachment, netns, why)
    };
    let input = match input {
        Ok(input) => input,
        Err(why) => return unreadable(why),
    };
    // What was made under a version that this plugin knew must go also when it no longer does.
    let version = match input.version() {
        Ok(version) => version,
        Err(why) => return unreadable(why),
    };
    let config = match config::decode(&input.bytes) {
        Ok(config) => config,
        Err(why) => return unreadable(why),
    };
    refuse_own_netns(env, netns)?;
    plugin.del(&DelCall {
        attachment: attachment.clone(),
        netns: request.netns.clone(),
        args: CniArgs::parse_lossy(request.args),
        config,
        prev_result: prev_result(&input.raw, version).unwrap_or_default(),
        network: input.network,
        version,
        raw: input.raw,
        delegate: Delegate::new(env.clone(), input.bytes),
    })
}

/// What came on stdin, as far as the protocol itself understands it.
struct Input {
    bytes: Vec<u8>,
    raw: Map<String, Value>,
    network: NetworkName,
    /// `cniVersion`; empty when absent.
    version: String,
}

impl Input {
    fn read(mut stdin: impl Read) -> Result<Self, Error> {
        let mut bytes = Vec::new();
        stdin
            .read_to_end(&mut bytes)
            .map_err(|why| Error::new(Code::IO, format!("error reading from stdin: {why}")))?;
        let raw = match serde_json::from_slice(&bytes).map_err(config::not_json)? {
            Value::Object(raw) => raw,
            Value::Null => Map::new(),
            _ => {
                return Err(Error::new(Code::DECODE, "error unmarshall network config: it is not a JSON object"));
            }
        };
        let network = text_member(&raw, "name", "error unmarshall network config")?.try_into()?;
        let version = text_member(&raw, "cniVersion", "decoding version from network config")?;
        Ok(Self { version: version.to_owned(), network, raw, bytes })
    }

    fn version(&self) -> Result<Version, Error> {
        self.version.parse()
    }

    /// The version, for a verb that exists since `since`.
    fn version_for(&self, verb: Command, since: Version) -> Result<Version, Error> {
        let numbers = version::parse_numbers(&self.version)?;
        let incompatible =
            |who: &str| Error::new(Code::INCOMPATIBLE_VERSION, format!("{who} version does not allow {verb}"));
        if numbers < version::parse_numbers(since.as_str())? {
            return Err(incompatible("config"));
        }
        if numbers > version::parse_numbers(Version::LATEST.as_str())? {
            return Err(incompatible("plugin"));
        }
        self.version()
    }
}

/// A text of the configuration; absent and `null` are empty.
fn text_member<'a>(object: &'a Map<String, Value>, key: &str, attempt: &str) -> Result<&'a str, Error> {
    match config::member(object, key) {
        None => Ok(""),
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(Error::new(Code::DECODE, format!("{attempt}: {key}: {other} is not a string"))),
    }
}

fn prev_result(raw: &Map<String, Value>, version: Version) -> Result<Option<CniResult>, Error> {
    config::member(raw, "prevResult")
        .map(|value| CniResult::parse(value, version))
        .transpose()
        .map_err(|error| error.in_context("could not parse prevResult"))
}

/// The list of GC under its name in the specification, else under the one that libcni also sends.
/// `null` says as little as no list.
fn valid_attachments(raw: &Map<String, Value>) -> Result<Option<Vec<Attachment>>, Error> {
    for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
        if let Some(list) = config::member(raw, key) {
            return config::from_value(list).map(Some).map_err(|error| error.in_context(key));
        }
    }
    Ok(None)
}

/// Refuses a namespace that is the plugin's own: an attachment would be made on the node itself.
fn refuse_own_netns(env: &Environment, netns: Option<&Path>) -> Result<(), Error> {
    let Some(theirs) = netns.and_then(|path| fs::metadata(path).ok()) else {
        return Ok(());
    };
    if env.netns_override() {
        return Ok(());
    }
    let ours = fs::metadata("/proc/thread-self/ns/net").map_err(|why| {
        Error::new(Code::INVALID_NETNS, "get plugin's netns failed")
            .with_details(format!("/proc/thread-self/ns/net: {why}"))
    })?;
    if (ours.dev(), ours.ino()) == (theirs.dev(), theirs.ino()) {
        return Err(Error::new(Code::INVALID_NETNS, "plugin's netns and netns from CNI_NETNS should not be the same"));
    }
    Ok(())
}

fn about<P: Plugin>() -> String {
    let versions: Vec<&str> = Version::SUPPORTED.iter().map(|v| v.as_str()).collect();
    format!("CNI {} plugin v{}\nCNI protocol versions supported: {}\n", P::NAME, P::VERSION, versions.join(", "))
}

/// The answer to VERSION, on one line, as the Go library prints it.
fn version_document() -> Result<String, Error> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Document {
        cni_version: &'static str,
        supported_versions: [&'static str; Version::SUPPORTED.len()],
    }
    serde_json::to_string(&Document {
        cni_version: Version::LATEST.as_str(),
        supported_versions: Version::SUPPORTED.map(Version::as_str),
    })
    .map(|document| document + "\n")
    .map_err(|why| Error::new(Code::INTERNAL, format!("cannot encode the versions: {why}")))
}

fn error_document(error: &Error) -> String {
    let mut document = Vec::new();
    match error.serialize(&mut indented(&mut document)) {
        Ok(()) => String::from_utf8_lossy(&document).into_owned(),
        // Three plain members cannot fail to encode; if they do, the code must still arrive.
        Err(_) => format!("{{\"code\": {}, \"msg\": \"\"}}", error.code),
    }
}

fn panicked<P: Plugin>(cause: &(dyn Any + Send)) -> Error {
    let text = cause
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| cause.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "unknown cause".to_owned());
    Error::new(Code::INTERNAL, format!("plugin {} panicked: {text}", P::NAME))
        .with_details("this is a defect of the plugin; stderr says where")
}
