//! `adit support-bundle`: what somebody who is asked for help wants to see, in one file, without any secret.

use std::{
    error::Error,
    fmt::Write as _,
    fs,
    io::{self, Write},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use adit_net::{Netlink, Netns};
use adit_tunnel::{Record, Store};
use flate2::{Compression, write::GzEncoder};

use crate::{Said, doctor::Doctor, status};

/// What somebody who is asked for help wants to see, in one file: version, what the doctor says, status, records, interfaces and routes of
/// the node and of the pods with tunnels, names and modes of key files. Nothing of what is in a key file
#[derive(Debug, clap::Args)]
pub struct Bundle {
    /// The file to write; it must not exist
    #[arg(short, long, default_value = "adit-support.tar.gz")]
    output: PathBuf,
}

/// A file of the bundle.
type Part = (String, String);

impl Bundle {
    pub fn run(&self, run_dir: &Path, config_dir: &Path) -> Said {
        let parts = parts(run_dir, config_dir);
        let failed = |error: io::Error| format!("cannot write {}: {error}", self.output.display());
        // Names of pods and addresses are nobody else's business, either.
        let file =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.output).map_err(failed)?;
        pack(file, &parts).and_then(|file| file.sync_all()).map_err(failed)?;
        Ok(format!("{} files in {}\n", parts.len(), self.output.display()))
    }
}

fn pack<W: Write>(output: W, parts: &[Part]) -> io::Result<W> {
    let mut archive = tar::Builder::new(GzEncoder::new(output, Compression::default()));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    for (name, text) in parts {
        let mut header = tar::Header::new_gnu();
        header.set_size(u64::try_from(text.len()).unwrap_or(u64::MAX));
        header.set_mode(0o600);
        header.set_mtime(now);
        archive.append_data(&mut header, format!("adit-support/{name}"), text.as_bytes())?;
    }
    archive.into_inner()?.finish()
}

/// Whatever cannot be had is a part that says why.
fn parts(run_dir: &Path, config_dir: &Path) -> Vec<Part> {
    let said = |result: Result<String, Box<dyn Error>>| result.unwrap_or_else(|error| format!("{error}\n"));
    let doctor = Doctor::default().run(run_dir, config_dir).map(|(text, _)| text);
    let status = status::status(run_dir, true).map(|told| told.text);
    let mut parts = vec![
        ("version.txt".into(), concat!("adit ", env!("CARGO_PKG_VERSION"), "\n").into()),
        ("doctor.txt".into(), said(doctor)),
        ("status.json".into(), said(status)),
        ("keys.txt".into(), keys(config_dir)),
        ("node.txt".into(), Netlink::open().map_or_else(|error| error.to_string(), |node| network(&node))),
    ];
    for path in ["/proc/version", "/proc/self/limits", "/proc/meminfo", "/proc/net/snmp", "/proc/net/softnet_stat"] {
        let text = fs::read_to_string(path).unwrap_or_else(|error| format!("{error}\n"));
        parts.push((format!("kernel{}.txt", path.replace('/', "-")), text));
    }
    let records = Store::new(run_dir).list().unwrap_or_else(|error| vec![Err(error)]);
    for (index, record) in records.into_iter().enumerate() {
        match record {
            Ok(record) => parts.extend(of_tunnel(&record)),
            Err(error) => parts.push((format!("records/unreadable-{index}.txt"), format!("{error}\n"))),
        }
    }
    parts
}

fn of_tunnel(record: &Record) -> [Part; 2] {
    let text = serde_json::to_string_pretty(record).unwrap_or_else(|error| error.to_string());
    let pod = Netns::open(&record.netns.path).and_then(|pod| Netlink::open_in(&pod));
    let pod = pod.map_or_else(|error| error.to_string(), |pod| network(&pod));
    let name = &record.attachment;
    [(format!("records/{name}.json"), text + "\n"), (format!("pods/{name}.txt"), pod)]
}

/// Interfaces, addresses and routes of one namespace.
fn network(namespace: &Netlink) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let links = namespace.links().unwrap_or_else(|error| {
        let _ = writeln!(text, "{error}");
        Vec::new()
    });
    for link in links {
        let _ = writeln!(text, "{link:?}");
        for address in namespace.addresses(link.index).into_iter().flatten() {
            let _ = writeln!(text, "    {address:?}");
        }
    }
    let routes = namespace.all_routes().unwrap_or_else(|error| {
        let _ = writeln!(text, "{error}");
        Vec::new()
    });
    for route in routes {
        let _ = writeln!(text, "{route:?}");
    }
    text
}

/// Names, owners and modes.
fn keys(config_dir: &Path) -> String {
    let mut text = String::new();
    let mut directories = vec![config_dir.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let (path, Ok(metadata)) = (entry.path(), entry.metadata()) else { continue };
            let mode = metadata.permissions().mode();
            let _ = writeln!(text, "{mode:o} {} {} {}", metadata.uid(), metadata.gid(), path.display());
            if metadata.is_dir() {
                directories.push(path);
            }
        }
    }
    text
}
