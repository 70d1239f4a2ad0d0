//! Plugins as small shell scripts in a folder that goes away.

#![allow(dead_code, reason = "each test program uses what it needs")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of tests")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// A folder of plugins, and of what they recorded.
pub struct Plugins {
    dir: tempfile::TempDir,
}

impl Plugins {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("bin")).unwrap();
        fs::create_dir(dir.path().join("log")).unwrap();
        Self { dir }
    }

    /// A plugin that runs `script`.
    pub fn script(&self, name: &str, script: &str) -> &Self {
        let file = self.bin().join(name);
        fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        self
    }

    /// A plugin that records verb, environment and stdin, and then runs `script`. `$stdin` is the file
    /// with what it read.
    pub fn recorder(&self, name: &str, script: &str) -> &Self {
        let log = self.log();
        self.script(
            name,
            &format!(
                "log={}\nn=$(ls $log | grep -c stdin)\nstdin=$log/$n.stdin\ncat >$stdin\n\
                 env | grep ^CNI_ >$log/$n.env\necho \"{name} $CNI_COMMAND\" >>$log/calls\n{script}",
                log.display()
            ),
        )
    }

    pub fn bin(&self) -> PathBuf {
        self.dir.path().join("bin")
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// `"<plugin> <verb>"` of every call since the last look.
    pub fn calls(&self) -> Vec<String> {
        let calls = fs::read_to_string(self.log().join("calls")).unwrap_or_default();
        let _ = fs::remove_file(self.log().join("calls"));
        calls.lines().map(str::to_owned).collect()
    }

    /// What the n-th call of all read, from 0.
    pub fn stdin(&self, n: usize) -> Value {
        let text = fs::read(self.log().join(format!("{n}.stdin"))).unwrap();
        serde_json::from_slice(&text).unwrap()
    }

    /// The exact bytes of the same.
    pub fn stdin_bytes(&self, n: usize) -> Vec<u8> {
        fs::read(self.log().join(format!("{n}.stdin"))).unwrap()
    }

    /// A `CNI_*` variable of the n-th call.
    pub fn env(&self, n: usize, name: &str) -> Option<String> {
        let env = fs::read_to_string(self.log().join(format!("{n}.env"))).unwrap();
        let prefix = format!("{name}=");
        env.lines().find_map(|line| line.strip_prefix(&prefix)).map(str::to_owned)
    }
}
