//! What a runtime says through the environment: the verb, the attachment, the namespace.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Code, Error};

/// The verb of `CNI_COMMAND`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each variant is its verb")]
pub enum Command {
    Add,
    Check,
    Del,
    Gc,
    Status,
    Version,
}

impl Command {
    /// The verb as it is written in `CNI_COMMAND`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Check => "CHECK",
            Self::Del => "DEL",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Command {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Ok(match text {
            "ADD" => Self::Add,
            "CHECK" => Self::Check,
            "DEL" => Self::Del,
            "GC" => Self::Gc,
            "STATUS" => Self::Status,
            "VERSION" => Self::Version,
            _ => {
                return Err(Error::new(Code::BAD_ENVIRONMENT, format!("unknown CNI_COMMAND: {text}")));
            }
        })
    }
}

/// One interface of one container: what a runtime adds, checks, deletes and lists for GC.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Attachment {
    /// `CNI_CONTAINERID`.
    #[serde(rename = "containerID")]
    pub container_id: ContainerId,
    /// `CNI_IFNAME`.
    pub ifname: IfName,
}

impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.container_id, self.ifname)
    }
}

/// A string that its rule has accepted.
macro_rules! checked_name {
    ($(#[$doc:meta])* $name:ident, $rule:path) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as a runtime wrote it.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self, Error> {
                Self::try_from(text.to_owned())
            }
        }

        impl TryFrom<&str> for $name {
            type Error = Error;

            fn try_from(text: &str) -> Result<Self, Error> {
                Self::try_from(text.to_owned())
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;

            fn try_from(text: String) -> Result<Self, Error> {
                $rule(&text)?;
                Ok(Self(text))
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }
    };
}

checked_name! {
    /// A container's id: a letter or digit, then letters, digits, `_`, `.` and `-`
    /// (CNI specification, "Parameters").
    ContainerId, check_container_id
}

checked_name! {
    /// An interface name as the specification allows it: 1 to 15 bytes, not `.` or `..`, without `/`,
    /// `:` and whitespace (CNI specification, "Parameters"; Linux `dev_valid_name`).
    IfName, check_ifname
}

checked_name! {
    /// A network's name: a letter or digit, then letters, digits, `_`, `.` and `-`
    /// (CNI specification, "Configuration format").
    NetworkName, check_network_name
}

/// An environment as a value, so that a plugin can be run without touching the process's own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment(BTreeMap<OsString, OsString>);

impl Environment {
    /// The environment of this process.
    pub fn of_process() -> Self {
        std::env::vars_os().collect()
    }

    /// A variable's value; an unset one and an empty one are the same (as in the reference).
    pub fn get_os(&self, name: &str) -> Option<&OsStr> {
        let value = self.0.get(OsStr::new(name))?;
        (!value.is_empty()).then_some(value.as_os_str())
    }

    /// A variable's text.
    ///
    /// # Errors
    /// [`Code::BAD_ENVIRONMENT`] when it is not UTF-8.
    pub fn get(&self, name: &str) -> Result<Option<&str>, Error> {
        match self.get_os(name) {
            None => Ok(None),
            Some(value) => value.to_str().map(Some).ok_or_else(|| {
                Error::new(Code::BAD_ENVIRONMENT, format!("{name} is not valid UTF-8"))
                    .with_details(value.to_string_lossy())
            }),
        }
    }

    /// Sets a variable.
    pub fn set(&mut self, name: impl Into<OsString>, value: impl Into<OsString>) {
        self.0.insert(name.into(), value.into());
    }

    /// Every variable, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&OsStr, &OsStr)> {
        self.0.iter().map(|(k, v)| (k.as_os_str(), v.as_os_str()))
    }

    /// The folders of `CNI_PATH`. Empty ones are skipped: they would mean the working directory.
    pub fn plugin_path(&self) -> Vec<PathBuf> {
        self.get_os("CNI_PATH")
            .map(|path| std::env::split_paths(path).filter(|dir| !dir.as_os_str().is_empty()).collect())
            .unwrap_or_default()
    }

    /// `CNI_NETNS_OVERRIDE`: the plugin may act on its own namespace (1 or true in any case).
    pub(crate) fn netns_override(&self) -> bool {
        self.get_os("CNI_NETNS_OVERRIDE").is_some_and(|value| value == "1" || value.eq_ignore_ascii_case("true"))
    }
}

impl<K: Into<OsString>, V: Into<OsString>> FromIterator<(K, V)> for Environment {
    fn from_iter<T: IntoIterator<Item = (K, V)>>(variables: T) -> Self {
        Self(variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

/// The environment of one call, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request<'a> {
    /// The verb's text; only after stdin was read is an unknown one an error.
    pub command: &'a str,
    /// Present where the verb requires it: ADD, CHECK, DEL.
    pub attachment: Option<Attachment>,
    /// `CNI_NETNS`, never empty.
    pub netns: Option<PathBuf>,
    /// `CNI_ARGS`, not parsed.
    pub args: &'a str,
}

impl<'a> Request<'a> {
    /// Reads and checks the variables in the reference's order (`pkg/skel`, `getCmdArgsFromEnv`): a
    /// variable that is present and required is validated at once, then the missing ones are listed.
    /// `None` when `CNI_COMMAND` is unset.
    pub fn read(env: &'a Environment) -> Result<Option<Self>, Error> {
        let Some(command) = env.get("CNI_COMMAND")? else {
            return Ok(None);
        };
        let per_attachment = matches!(command, "ADD" | "CHECK" | "DEL");
        let mut missing = Vec::new();
        let mut container_id = None;
        let mut ifname = None;

        if per_attachment {
            container_id = required(env, "CNI_CONTAINERID", &mut missing)?.map(ContainerId::try_from).transpose()?;
        }
        let netns = env.get_os("CNI_NETNS").map(PathBuf::from);
        if netns.is_none() && matches!(command, "ADD" | "CHECK") {
            missing.push("CNI_NETNS");
        }
        if per_attachment {
            ifname = required(env, "CNI_IFNAME", &mut missing)?.map(IfName::try_from).transpose()?;
        }
        let args = env.get("CNI_ARGS")?.unwrap_or_default();
        let needs_path = per_attachment || matches!(command, "GC" | "STATUS");
        if needs_path && env.get_os("CNI_PATH").is_none() {
            missing.push("CNI_PATH");
        }
        if !missing.is_empty() {
            return Err(Error::new(
                Code::BAD_ENVIRONMENT,
                format!("required env variables [{}] missing", missing.join(",")),
            ));
        }
        Ok(Some(Self {
            command,
            attachment: container_id.zip(ifname).map(|(container_id, ifname)| Attachment { container_id, ifname }),
            netns,
            args,
        }))
    }
}

fn required<'a>(
    env: &'a Environment,
    name: &'static str,
    missing: &mut Vec<&'static str>,
) -> Result<Option<&'a str>, Error> {
    let value = env.get(name)?;
    if value.is_none() {
        missing.push(name);
    }
    Ok(value)
}

/// `^[a-zA-Z0-9][a-zA-Z0-9_.\-]*$`
fn has_valid_name_characters(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

fn check_container_id(text: &str) -> Result<(), Error> {
    if text.is_empty() {
        return Err(Error::new(Code::UNKNOWN_CONTAINER, "missing containerID"));
    }
    if !has_valid_name_characters(text) {
        return Err(Error::new(Code::BAD_ENVIRONMENT, "invalid characters in containerID").with_details(text));
    }
    Ok(())
}

fn check_network_name(text: &str) -> Result<(), Error> {
    if text.is_empty() {
        return Err(Error::new(Code::INVALID_CONFIG, "missing network name"));
    }
    if !has_valid_name_characters(text) {
        return Err(Error::new(Code::INVALID_CONFIG, "invalid characters found in network name").with_details(text));
    }
    Ok(())
}

fn check_ifname(text: &str) -> Result<(), Error> {
    let wrong = |msg: &str| Err(Error::new(Code::BAD_ENVIRONMENT, msg));
    if text.is_empty() {
        return wrong("interface name is empty");
    }
    if text.len() > 15 {
        return Err(Error::new(Code::BAD_ENVIRONMENT, "interface name is too long")
            .with_details("interface name should be less than 16 characters"));
    }
    if text == "." || text == ".." {
        return wrong("interface name is . or ..");
    }
    if text.contains(|c: char| c == '/' || c == ':' || c.is_whitespace()) {
        return wrong("interface name contains / or : or whitespace characters");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A complete environment, with changes; an empty value unsets.
    fn env(changes: &[(&str, &str)]) -> Environment {
        let mut env = Environment::from_iter([
            ("CNI_COMMAND", "ADD"),
            ("CNI_CONTAINERID", "c1"),
            ("CNI_NETNS", "/run/netns/p"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_PATH", "/opt/cni/bin"),
        ]);
        for (name, value) in changes {
            env.set(*name, *value);
        }
        env
    }

    #[test]
    fn the_references_texts_for_a_wrong_environment() {
        let long_details = "interface name should be less than 16 characters";
        type Changes = &'static [(&'static str, &'static str)];
        let table: &[(Changes, &str, &str)] = &[
            (
                &[("CNI_CONTAINERID", ""), ("CNI_NETNS", ""), ("CNI_IFNAME", "")],
                "required env variables [CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME] missing",
                "",
            ),
            (&[("CNI_COMMAND", "GC"), ("CNI_PATH", "")], "required env variables [CNI_PATH] missing", ""),
            (&[("CNI_COMMAND", "STATUS"), ("CNI_PATH", "")], "required env variables [CNI_PATH] missing", ""),
            (&[("CNI_COMMAND", "CHECK"), ("CNI_NETNS", "")], "required env variables [CNI_NETNS] missing", ""),
            // The invalid id is reported before the missing path.
            (&[("CNI_CONTAINERID", "-a/b"), ("CNI_PATH", "")], "invalid characters in containerID", "-a/b"),
            (&[("CNI_CONTAINERID", "a\n")], "invalid characters in containerID", "a\n"),
            // The missing id does not hide the invalid interface name.
            (&[("CNI_CONTAINERID", ""), ("CNI_IFNAME", "..")], "interface name is . or ..", ""),
            (&[("CNI_IFNAME", "sixteen-bytes-xx")], "interface name is too long", long_details),
            (&[("CNI_IFNAME", "a:b")], "interface name contains / or : or whitespace characters", ""),
            (&[("CNI_IFNAME", "a\u{2003}b")], "interface name contains / or : or whitespace characters", ""),
        ];
        for (changes, msg, details) in table {
            let env = env(changes);
            let error = Request::read(&env).unwrap_err();
            assert_eq!(error.msg, *msg, "{changes:?}");
            assert_eq!(error.details, *details, "{changes:?}");
            assert_eq!(error.code, Code::BAD_ENVIRONMENT, "{changes:?}");
        }
    }

    #[test]
    fn each_verb_requires_only_its_own_variables() {
        for verb in ["GC", "STATUS"] {
            let env = env(&[
                ("CNI_COMMAND", verb),
                ("CNI_CONTAINERID", "-not/checked"),
                ("CNI_NETNS", ""),
                ("CNI_IFNAME", "not:checked"),
            ]);
            let request = Request::read(&env).unwrap().unwrap();
            assert_eq!(request.attachment, None);
        }
        let env = Environment::from_iter([("CNI_COMMAND", "VERSION")]);
        assert_eq!(Request::read(&env).unwrap().unwrap().command, "VERSION");
    }

    #[test]
    fn del_accepts_an_empty_namespace() {
        let env = env(&[("CNI_COMMAND", "DEL"), ("CNI_NETNS", "")]);
        let request = Request::read(&env).unwrap().unwrap();
        assert_eq!(request.netns, None);
        assert_eq!(request.attachment.unwrap().to_string(), "c1:eth0");
    }

    #[test]
    fn an_unset_command_is_no_request() {
        assert_eq!(Request::read(&env(&[("CNI_COMMAND", "")])).unwrap(), None);
    }

    #[test]
    fn names_keep_their_rules_when_decoded() {
        assert!(serde_json::from_str::<IfName>(r#""a/b""#).is_err());
        assert!(serde_json::from_str::<ContainerId>(r#""""#).is_err());
        assert_eq!(serde_json::from_str::<NetworkName>(r#""net.1_a-b""#).unwrap().as_str(), "net.1_a-b");
    }

    #[test]
    fn empty_folders_of_the_plugin_path_are_skipped() {
        let env = Environment::from_iter([("CNI_PATH", ":/a::/b:")]);
        assert_eq!(env.plugin_path(), [PathBuf::from("/a"), PathBuf::from("/b")]);
    }
}
