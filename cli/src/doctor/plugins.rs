//! The plugins that the runtime starts: there, as they were installed, of the same version as this program.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use adit_install::Folder;

use super::{Line, Verdict};

/// Where runtimes look, unless they are told otherwise.
pub const DIRECTORY: &str = "/opt/cni/bin";

const SUBJECT: &str = "plugins";
const INSTALL: &str = "run adit install";
/// A plugin that is asked for nothing says what it is, at once.
const PATIENCE: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(2);

/// What is in `directory`.
pub fn plugins(directory: &Path) -> Vec<Line> {
    let folder = Folder::new(directory);
    let nowhere = |what: &Path| {
        let remedy = "name the runtime's directory of plugins with --cni-bin";
        vec![Line::new(Verdict::Note, SUBJECT, format!("there is no {}", what.display()), remedy)]
    };
    if !directory.is_dir() {
        return nowhere(directory);
    }
    let names: Vec<String> = match folder.manifest() {
        Ok(Some(manifest)) => manifest.files.into_keys().collect(),
        Ok(None) if !directory.join("tun").exists() => return nowhere(&directory.join("tun")),
        // Put there by other means.
        Ok(None) => vec!["tun".into()],
        Err(error) => return vec![Line::new(Verdict::Warn, SUBJECT, error.to_string(), INSTALL)],
    };
    let mut lines = Vec::new();
    let mut good = Vec::new();
    for name in names {
        match asked(&directory.join(&name)) {
            Ok(()) => good.push(name),
            Err(line) => lines.push(line),
        }
    }
    if !good.is_empty() {
        let what = format!("{} in {}, version {}", good.join(", "), directory.display(), env!("CARGO_PKG_VERSION"));
        lines.insert(0, Line::ok(SUBJECT, what));
    }
    if folder.manifest().is_ok_and(|manifest| manifest.is_some()) {
        let differences = folder.differences().unwrap_or_default();
        lines.extend(differences.into_iter().map(|what| Line::new(Verdict::Warn, SUBJECT, what, INSTALL)));
    }
    lines
}

/// Whether the program says that it is ours, of this version.
fn asked(program: &Path) -> Result<(), Line> {
    if !program.exists() {
        let what = format!("there is no {}", program.display());
        return Err(Line::new(Verdict::Fail, SUBJECT, what, format!("no network with it can be attached: {INSTALL}")));
    }
    let Some(said) = about(program.to_owned()) else {
        let what = format!("{} does not say what it is", program.display());
        return Err(Line::new(Verdict::Warn, SUBJECT, what, INSTALL));
    };
    let expected = format!(" plugin v{}", env!("CARGO_PKG_VERSION"));
    let first = said.lines().next().unwrap_or_default();
    if first.ends_with(&expected) {
        return Ok(());
    }
    let what = format!("{} says {first:?}, this program is {}", program.display(), env!("CARGO_PKG_VERSION"));
    Err(Line::new(Verdict::Warn, SUBJECT, what, format!("install both from one release: {INSTALL}")))
}

/// What a plugin says to somebody who starts it by hand.
fn about(program: PathBuf) -> Option<String> {
    let mut command = Command::new(program);
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut process = command.spawn().ok()?;
    let started = Instant::now();
    while process.try_wait().ok()?.is_none() {
        if started.elapsed() > PATIENCE {
            let _ = process.kill();
            let _ = process.wait();
            return None;
        }
        thread::sleep(LOOK);
    }
    let mut said = [0; 512];
    let mut pipe = process.stderr.take()?;
    // The pipe holds all that it has said; a child that it left behind may keep it open.
    rustix::io::ioctl_fionbio(&pipe, true).ok()?;
    let length = pipe.read(&mut said).ok()?;
    said.get(..length).map(|said| String::from_utf8_lossy(said).into_owned())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    fn told(script: &str) -> String {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("tun");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        plugins(directory.path()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_plugin_of_another_version_is_warned_of() {
        let version = env!("CARGO_PKG_VERSION");
        assert!(told(&format!("echo CNI tun plugin v{version} >&2")).starts_with("ok"));
        let other = told("echo CNI tun plugin v9.9.9 >&2");
        assert!(other.starts_with("warn") && other.contains("v9.9.9"), "{other}");
        let silent = told("exec sleep 60");
        assert!(silent.starts_with("warn") && silent.contains("does not say"), "{silent}");
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(plugins(directory.path())[0].verdict, Verdict::Note);
        assert_eq!(plugins(&directory.path().join("nowhere"))[0].verdict, Verdict::Note);
    }
}
