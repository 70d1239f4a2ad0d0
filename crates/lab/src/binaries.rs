//! The workspace's programs, built once for all tests of a process.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::Duration,
};

use crate::{Error, Result, command::run};

const PACKAGES: [&str; 6] = ["adit-bridge", "adit-macvlan", "adit-tun", "adit-static", "adit-agent", "adit-cli"];
const BUILD_DEADLINE: Duration = Duration::from_secs(1800);

/// A directory with `bridge`, `macvlan`, `tun`, `static`, `aditd` and `adit`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    directory: PathBuf,
}

impl Binaries {
    /// The directory that `ADIT_BIN_DIR` names; else what `cargo build` makes of the workspace with the profile of
    /// the running test. Built at most once a process.
    ///
    /// # Errors
    /// The workspace does not build, or the directory is not there.
    pub fn get() -> Result<&'static Self> {
        static BUILT: OnceLock<std::result::Result<Binaries, (PathBuf, String)>> = OnceLock::new();
        let built = BUILT.get_or_init(|| match env::var_os("ADIT_BIN_DIR") {
            Some(directory) => Self::in_directory(PathBuf::from(directory)),
            None => Self::build(),
        });
        built.as_ref().map_err(|(directory, why)| Error::Binaries { directory: directory.clone(), why: why.clone() })
    }

    /// The directory itself: CNI_PATH of a node.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The path of a program: `"aditd"`.
    ///
    /// # Errors
    /// There is no such file.
    pub fn program(&self, name: &str) -> Result<PathBuf> {
        let path = self.directory.join(name);
        if path.is_file() {
            return Ok(path);
        }
        Err(Error::Binaries { directory: self.directory.clone(), why: format!("{name} is not there") })
    }

    fn in_directory(directory: PathBuf) -> std::result::Result<Self, (PathBuf, String)> {
        match directory.canonicalize() {
            Ok(directory) => Ok(Self { directory }),
            Err(error) => Err((directory, format!("ADIT_BIN_DIR: {error}"))),
        }
    }

    fn build() -> std::result::Result<Self, (PathBuf, String)> {
        let own = env::current_exe().map_err(|error| (PathBuf::new(), error.to_string()))?;
        // …/<target directory>/<profile>/deps/<test>; examples and programs are one level up.
        let profile_directory = own
            .ancestors()
            .skip(1)
            .find(|path| !matches!(path.file_name().and_then(|n| n.to_str()), Some("deps" | "examples")))
            .unwrap_or(Path::new("target/debug"));
        let failed = |why: String| (profile_directory.to_owned(), why);
        let (Some(target), Some(name)) =
            (profile_directory.parent(), profile_directory.file_name().and_then(|name| name.to_str()))
        else {
            return Err(failed("the test is in no target directory; set ADIT_BIN_DIR".to_owned()));
        };
        let profile = if name == "debug" { "dev" } else { name };

        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--bins", "--profile", profile, "--target-dir"]).arg(target);
        cargo.args(PACKAGES.map(|package| format!("--package={package}")));
        cargo.current_dir(crate::nad::in_workspace(Path::new("")));
        match run(cargo, None, BUILD_DEADLINE).and_then(crate::Ran::ok) {
            Ok(_) => Ok(Self { directory: profile_directory.to_owned() }),
            Err(error) => Err(failed(error.to_string())),
        }
    }
}
