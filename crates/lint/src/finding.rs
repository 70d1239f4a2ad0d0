//! What lint says about a place in a file.

use std::{collections::BTreeSet, fmt};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It cannot work as it stands.
    Error,
    /// It does something, but hardly what was meant.
    Warning,
    /// Worth knowing.
    Note,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        })
    }
}

macro_rules! codes {
    ($($name:ident = $text:literal),* $(,)?) => {
        /// The kind of a finding: stable, in brackets behind its text, each explained in `docs/lint.md`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        #[allow(missing_docs, reason = "docs/lint.md explains each")]
        #[non_exhaustive]
        pub enum Code { $($name),* }

        impl Code {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The code as it is printed.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }
        }
    };
}

codes! {
    Yaml = "yaml",
    Json = "json",
    DuplicateKey = "duplicate-key",
    Manifest = "manifest",
    DuplicateObject = "duplicate-object",
    List = "list",
    UnknownKey = "unknown-key",
    UnknownType = "unknown-type",
    Value = "value",
    Missing = "missing",
    KeyMaterial = "key-material",
    Placeholder = "placeholder",
    Chain = "chain",
    TunnelClash = "tunnel-clash",
    Mtu = "mtu",
    RouteLoop = "route-loop",
    UnreachablePeer = "unreachable-peer",
    Annotation = "annotation",
    AnnotationPlace = "annotation-place",
    UnknownNetwork = "unknown-network",
    UnknownInterface = "unknown-interface",
    InterfaceName = "interface-name",
    Prefix = "prefix",
    IpsUnused = "ips-unused",
    IpsTwice = "ips-twice",
    IpsAdded = "ips-added",
    DefaultRoute = "default-route",
    IpamClaim = "ipam-claim",
    SharedAddress = "shared-address",
    AddressCollision = "address-collision",
    MacCollision = "mac-collision",
    Ends = "ends",
    NeedlessPrivilege = "needless-privilege",
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A mistake, or what is worth knowing, at a place in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The file as it was named.
    pub path: String,
    /// Counted from 1.
    pub line: usize,
    /// Counted from 1, in characters.
    pub column: usize,
    /// How bad it is.
    pub severity: Severity,
    /// Its kind.
    pub code: Code,
    /// What is wrong.
    pub message: String,
    /// What was meant, or what to do.
    pub remedy: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, line, column, severity, code, message, remedy } = self;
        write!(f, "{path}:{line}:{column}: {severity}: {message}; {remedy} [{code}]")
    }
}

/// A place in one of the files: its number, and the offset in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Place {
    pub file: usize,
    pub at: usize,
}

/// A finding before its line is counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Raw {
    pub place: Place,
    pub severity: Severity,
    pub code: Code,
    pub message: String,
    pub remedy: String,
}

/// Where checks leave what they find.
#[derive(Debug, Clone, Default)]
pub(crate) struct Findings {
    all: Vec<Raw>,
    said: BTreeSet<(Place, Code, String)>,
    wrong: BTreeSet<Place>,
}

impl Findings {
    pub fn error(&mut self, place: Place, code: Code, message: impl Into<String>, remedy: impl Into<String>) {
        self.add(place, Severity::Error, code, message.into(), remedy.into());
    }

    pub fn warning(&mut self, place: Place, code: Code, message: impl Into<String>, remedy: impl Into<String>) {
        self.add(place, Severity::Warning, code, message.into(), remedy.into());
    }

    pub fn note(&mut self, place: Place, code: Code, message: impl Into<String>, remedy: impl Into<String>) {
        self.add(place, Severity::Note, code, message.into(), remedy.into());
    }

    fn add(&mut self, place: Place, severity: Severity, code: Code, message: String, remedy: String) {
        self.push(Raw { place, severity, code, message, remedy });
    }

    /// Keeps it, unless the same was said of the same place.
    pub fn push(&mut self, raw: Raw) {
        if !self.said.insert((raw.place, raw.code, raw.message.clone())) {
            return;
        }
        if raw.severity == Severity::Error {
            self.wrong.insert(raw.place);
        }
        self.all.push(raw);
    }

    pub fn has_error_at(&self, place: Place) -> bool {
        self.wrong.contains(&place)
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// What came after the first `count`.
    pub fn since(&self, count: usize) -> &[Raw] {
        self.all.get(count..).unwrap_or_default()
    }

    pub fn into_vec(self) -> Vec<Raw> {
        self.all
    }
}
