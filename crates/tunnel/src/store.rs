//! The records' directory.
//!
//! A record gets its name when it is complete, so that a reader sees a whole one or none and a killed writer leaves
//! nothing. Where it replaces another, or the file system has no nameless files, it is written beside its place and renamed
//! into it: what a killed writer left then begins with a dot, is no record to anybody, and goes with the attachment.

use std::{
    env, fs, io,
    io::Write,
    os::{
        fd::AsRawFd,
        unix::fs::{DirBuilderExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::{AtFlags, CWD, OFlags, linkat};

use crate::{AttachmentId, Error, Record, Result, record::RECORD_VERSION};

/// Where the agent's socket and the records live unless `ADIT_RUN_DIR` says otherwise.
pub const DEFAULT_RUN_DIR: &str = "/run/adit";

/// `$ADIT_RUN_DIR`, or [`DEFAULT_RUN_DIR`] when it is unset or empty.
#[must_use]
pub fn run_dir() -> PathBuf {
    env::var_os("ADIT_RUN_DIR")
        .filter(|value| !value.is_empty())
        .map_or_else(|| PathBuf::from(DEFAULT_RUN_DIR), PathBuf::from)
}

/// The attachment records below one run directory.
#[derive(Debug, Clone)]
pub struct Store {
    directory: PathBuf,
}

impl Store {
    /// The records below `run_dir`; nothing is made until the first write.
    #[must_use]
    pub fn new(run_dir: &Path) -> Self {
        Self { directory: run_dir.join("attachments") }
    }

    /// Where the records are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The file of one record, whether or not it exists.
    #[must_use]
    pub fn path(&self, attachment: &AttachmentId) -> PathBuf {
        self.directory.join(attachment.file_name())
    }

    /// Whether there is a file for this attachment, readable or not. Yes, too, when that cannot be told.
    #[must_use]
    pub fn has(&self, attachment: &AttachmentId) -> bool {
        !matches!(self.path(attachment).symlink_metadata(), Err(error) if error.kind() == io::ErrorKind::NotFound)
    }

    /// Makes the directory, for root alone.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn prepare(&self) -> Result<()> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.directory)
            .map_err(|source| storage("create", &self.directory, source))
    }

    /// Writes or replaces a record as a whole.
    ///
    /// # Errors
    /// The directory cannot be made, or the file cannot be written.
    pub fn write(&self, record: &Record) -> Result<()> {
        self.prepare()?;
        // A name that is taken would be found out too late.
        if !self.has(&record.attachment)
            && create_whole(&self.directory, &self.path(&record.attachment), record).is_ok()
        {
            return Ok(());
        }
        let temporary = self.directory.join(format!(".{}.{}", record.attachment.file_name(), std::process::id()));
        let written =
            write_whole(&temporary, record).and_then(|()| fs::rename(&temporary, self.path(&record.attachment)));
        written.map_err(|source| {
            let _ = fs::remove_file(&temporary);
            storage("write", &self.path(&record.attachment), source)
        })
    }

    /// The epoch above which every tunnel's next incarnation must be, whatever its record says. 0 where nobody has raised it, or its file cannot
    /// be read.
    #[must_use]
    pub fn epoch_floor(&self) -> u64 {
        fs::read_to_string(self.epoch_file()).ok().and_then(|text| text.trim().parse().ok()).unwrap_or_default()
    }

    /// Raises it: one write in place of one for each tunnel that begins a new incarnation at the same time.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn raise_epoch_floor(&self, floor: u64) -> Result<()> {
        let file = self.epoch_file();
        let temporary = file.with_extension(std::process::id().to_string());
        let written = fs::write(&temporary, format!("{floor}\n")).and_then(|()| fs::rename(&temporary, &file));
        written.map_err(|source| {
            let _ = fs::remove_file(&temporary);
            storage("write", &file, source)
        })
    }

    /// Beside the records' directory, for it is no record.
    fn epoch_file(&self) -> PathBuf {
        self.directory.with_file_name("epoch")
    }

    /// Reads one record; `None` when there is none.
    ///
    /// # Errors
    /// The file cannot be read, or is no record of this version.
    pub fn read(&self, attachment: &AttachmentId) -> Result<Option<Record>> {
        read_file(&self.path(attachment))
    }

    /// Every record, or why a file could not be read as one; in the order of their names.
    ///
    /// # Errors
    /// The directory exists but cannot be listed.
    pub fn list(&self) -> Result<Vec<Result<Record>>> {
        let paths = self.files(|name| !name.starts_with('.'))?;
        Ok(paths.iter().filter_map(|path| read_file(path).transpose()).collect())
    }

    /// Every record of one `CNI_CONTAINERID` and `CNI_IFNAME`, readable or not.
    ///
    /// # Errors
    /// The directory exists but cannot be listed.
    pub fn of_interface(&self, container_id: &str, cni_if_name: &str) -> Result<Vec<Result<Record>>> {
        let prefix = format!("{container_id}:{cni_if_name}:");
        let paths = self.files(|name| name.starts_with(&prefix))?;
        Ok(paths.iter().filter_map(|path| read_file(path).transpose()).collect())
    }

    /// Removes one record and what a killed writer left of it; gone already is fine.
    ///
    /// # Errors
    /// A file exists but cannot be removed.
    pub fn remove(&self, attachment: &AttachmentId) -> Result<()> {
        let leftover = format!(".{}.", attachment.file_name());
        for path in self.files(|name| name.starts_with(&leftover))? {
            remove_file(&path)?;
        }
        remove_file(&self.path(attachment))
    }

    /// Removes every file of one `CNI_CONTAINERID` and `CNI_IFNAME`, also those that cannot be read.
    ///
    /// # Errors
    /// A file exists but cannot be removed.
    pub fn remove_interface(&self, container_id: &str, cni_if_name: &str) -> Result<()> {
        let prefix = format!("{container_id}:{cni_if_name}:");
        let hidden = format!(".{prefix}");
        for path in self.files(|name| name.starts_with(&prefix) || name.starts_with(&hidden))? {
            remove_file(&path)?;
        }
        Ok(())
    }

    /// Removes what writers left that were killed longer than `age` ago; returns what stood in the way.
    #[must_use]
    pub fn sweep(&self, age: Duration) -> Vec<Error> {
        let is_old = |path: &PathBuf| {
            let written = fs::symlink_metadata(path).and_then(|metadata| metadata.modified()).ok();
            written.and_then(|at| at.elapsed().ok()).is_some_and(|since| since > age)
        };
        match self.files(|name| name.starts_with('.')) {
            Ok(paths) => paths.iter().filter(|path| is_old(path)).filter_map(|path| remove_file(path).err()).collect(),
            Err(error) => vec![error],
        }
    }

    /// The directory's entries with a `wanted` name. A hidden directory is nobody's: writers leave files.
    fn files(&self, wanted: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>> {
        let entries = match fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(storage("list", &self.directory, source)),
        };
        let mut paths = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|source| storage("list", &self.directory, source))?;
            let name = entry.file_name();
            let is_hidden_directory =
                || name.as_encoded_bytes().starts_with(b".") && entry.file_type().is_ok_and(|kind| kind.is_dir());
            if name.to_str().is_some_and(&wanted) && !is_hidden_directory() {
                paths.push(entry.path());
            }
        }
        paths.sort();
        Ok(paths)
    }
}

/// Writes a file that has no name yet, and names it `path`, which must be free (open(2), `O_TMPFILE`).
fn create_whole(directory: &Path, path: &Path, record: &Record) -> io::Result<()> {
    let nameless = OFlags::TMPFILE.bits().cast_signed();
    let file = fs::OpenOptions::new().write(true).custom_flags(nameless).mode(0o600).open(directory)?;
    write_record(&file, record)?;
    let source = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(linkat(CWD, source, CWD, path, AtFlags::SYMLINK_FOLLOW)?)
}

fn write_whole(path: &Path, record: &Record) -> io::Result<()> {
    write_record(&fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?, record)
}

fn write_record(mut file: &fs::File, record: &Record) -> io::Result<()> {
    let mut bytes = serde_json::to_vec_pretty(record)?;
    bytes.push(b'\n');
    file.write_all(&bytes)?;
    file.sync_all()
}

fn read_file(path: &Path) -> Result<Option<Record>> {
    let bad = |problem: String| Error::BadRecord { path: path.to_owned(), problem };
    let bytes = match read_regular(path) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Err(bad("it is no regular file".into())),
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(storage("read", path, source)),
    };
    let record: Record = serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
    if record.version != RECORD_VERSION {
        return Err(bad(format!("version {} is not {RECORD_VERSION}", record.version)));
    }
    if path.file_name().and_then(|name| name.to_str()) != Some(&record.attachment.file_name()) {
        return Err(bad(format!("it describes {}", record.attachment)));
    }
    Ok(Some(record))
}

/// The bytes of a regular file; `None` for anything else, which could keep the reader waiting for ever.
fn read_regular(path: &Path) -> io::Result<Option<Vec<u8>>> {
    if fs::metadata(path)?.is_file() { fs::read(path).map(Some) } else { Ok(None) }
}

fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(storage("remove", path, source)),
    }
}

fn storage(action: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Storage { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use adit_net::NetnsId;

    use super::*;
    use crate::{Encap, Encryption, Engine, Fec, Peer, Pod, Spec, State, Underlay, record::NetnsRef};

    fn record(container_id: &str, if_name: &str) -> Record {
        Record {
            version: RECORD_VERSION,
            attachment: AttachmentId {
                container_id: container_id.into(),
                cni_if_name: "net1".into(),
                if_name: if_name.parse().unwrap(),
            },
            created_ns: 1,
            network: "n".into(),
            pod: Pod::default(),
            state: State::Attached,
            netns: NetnsRef { path: "/run/netns/x".into(), id: NetnsId { dev: 4, inode: 5 }, cookie: Some(6) },
            spec: Spec {
                if_name: if_name.parse().unwrap(),
                encap: Encap::Udp,
                engine: Engine::Agent,
                underlay: Underlay::Pod,
                encryption: Encryption::None,
                device: "net1".parse().unwrap(),
                local: "10.10.1.200:6090".parse().unwrap(),
                mtu_bytes: 1456,
                shortcut: false,
                probe_interval_ms: None,
                probe_timeout_ms: None,
                fixed_mtu: false,
                fec: Fec::default(),
                vxlan: None,
                private_key_file: None,
                public_key: None,
                peers: vec![Peer {
                    endpoint: Some("10.20.1.200:6090".parse().unwrap()),
                    public_key: None,
                    preshared_key_file: None,
                    allowed_ips: vec!["0.0.0.0/0".parse().unwrap()],
                    keepalive_ms: None,
                }],
            },
            written: vec![],
            addresses: vec!["10.4.0.1/32".parse().unwrap()],
            routes: vec![],
            epoch_floor: 0,
            learned: BTreeMap::new(),
            also: BTreeMap::new(),
        }
    }

    #[test]
    fn a_record_is_found_by_each_of_its_names() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path());
        assert!(store.list().unwrap().is_empty());
        let (one, two) = (record("c1", "tun"), record("c1", "tun1"));
        store.write(&one).unwrap();
        store.write(&two).unwrap();
        store.write(&record("c10", "tun")).unwrap();
        assert_eq!(store.read(&one.attachment).unwrap().unwrap(), one);
        assert_eq!(store.of_interface("c1", "net1").unwrap().len(), 2);
        assert_eq!(store.of_interface("c1", "net").unwrap().len(), 0);
        assert_eq!(store.list().unwrap().len(), 3);
        store.remove(&one.attachment).unwrap();
        store.remove(&one.attachment).unwrap();
        assert!(store.read(&one.attachment).unwrap().is_none());
        store.remove_interface("c1", "net1").unwrap();
        assert_eq!(store.list().unwrap().len(), 1);
    }

    #[test]
    fn a_record_replaces_an_earlier_one_as_a_whole() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path());
        let first = record("c1", "tun");
        let second = Record { epoch_floor: 7, ..first.clone() };
        for written in [&first, &second] {
            store.write(written).unwrap();
            assert_eq!(store.read(&first.attachment).unwrap().as_ref(), Some(written));
            assert_eq!(fs::read_dir(store.directory()).unwrap().count(), 1);
        }
    }

    #[test]
    fn the_nodes_epoch_floor_is_kept_beside_the_records() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path());
        assert_eq!(store.epoch_floor(), 0);
        for floor in [7, u64::MAX] {
            store.raise_epoch_floor(floor).unwrap();
            assert_eq!(Store::new(directory.path()).epoch_floor(), floor);
        }
        fs::write(directory.path().join("epoch"), "torn").unwrap();
        assert_eq!(store.epoch_floor(), 0);
        assert!(store.list().unwrap().is_empty());
    }

    #[test]
    fn a_torn_or_foreign_file_is_reported_and_removable() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path());
        let whole = record("c1", "tun");
        store.write(&whole).unwrap();
        fs::write(store.path(&whole.attachment), "{\"version\":1,").unwrap();
        let killed = store.directory().join(".c1:net1:tun.json.77");
        fs::write(&killed, "half").unwrap();
        assert!(store.sweep(Duration::from_secs(3600)).is_empty());
        assert!(killed.exists(), "its writer may still be at work");
        assert!(store.sweep(Duration::ZERO).is_empty());
        assert!(!killed.exists());
        fs::write(&killed, "half").unwrap();
        assert!(matches!(store.list().unwrap()[0], Err(Error::BadRecord { .. })));
        store.remove(&whole.attachment).unwrap();
        assert_eq!(fs::read_dir(store.directory()).unwrap().count(), 0);

        store.write(&whole).unwrap();
        fs::rename(store.path(&whole.attachment), store.directory().join("c9:net1:tun.json")).unwrap();
        assert!(store.list().unwrap()[0].as_ref().unwrap_err().to_string().contains("it describes c1:net1:tun"));
        store.remove_interface("c9", "net1").unwrap();
        assert!(store.list().unwrap().is_empty());
    }

    #[test]
    fn only_regular_files_are_read_and_hidden_directories_are_nobodys() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path());
        let whole = record("c1", "tun");
        store.write(&whole).unwrap();
        let fifo = store.directory().join("c0:net1:tun.json");
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        fs::create_dir(store.directory().join("c2:net1:tun.json")).unwrap();
        let hidden = store.directory().join(".c1:net1:tun.json.77");
        fs::create_dir(&hidden).unwrap();
        let listed = store.list().unwrap();
        assert_eq!(listed.iter().flatten().collect::<Vec<_>>(), [&whole]);
        for read in [&listed[0], &listed[2]] {
            assert!(read.as_ref().unwrap_err().to_string().contains("it is no regular file"), "{read:?}");
        }
        assert!(store.sweep(Duration::ZERO).is_empty());
        assert!(store.has(&whole.attachment) && hidden.exists());
        store.remove(&whole.attachment).unwrap();
        assert!(!store.has(&whole.attachment) && hidden.exists());
        store.remove_interface("c0", "net1").unwrap();
        assert!(!fifo.exists());
    }
}
