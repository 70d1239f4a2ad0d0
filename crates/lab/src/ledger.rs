//! What a lab has made on this machine, written down before it is made, so that another process can remove it.

use std::{
    collections::HashMap,
    fs::{self, DirBuilder, File},
    io::{ErrorKind, Write as _},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    process::Child,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use adit_net::Netns;
use netns_rs::NetNs;
use serde::{Deserialize, Serialize};

use crate::{
    Error, Result,
    process::{ProcessMark, end_all},
};

/// Where the labs' state files and directories are.
pub const STATE_DIRECTORY: &str = "/run/adit-lab";
const NETNS_DIRECTORY: &str = "/run/netns";
/// How long a process may take to end after SIGTERM.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is written to `/run/adit-lab/<prefix>.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct State {
    /// Begin of every name of this lab.
    pub prefix: String,
    /// The process that built it.
    pub owner: ProcessMark,
    /// Whether it stays when its owner ends.
    pub kept: bool,
    /// The directory with the nodes' files.
    pub directory: PathBuf,
    /// Names below /run/netns.
    pub namespaces: Vec<String>,
    /// Long-lived processes.
    pub processes: Vec<Recorded>,
}

/// A long-lived process of a lab.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Recorded {
    /// Which process.
    pub process: ProcessMark,
    /// What it is: "pod plumbr-a", "aditd of ohio-1".
    pub what: String,
}

/// The state of a lab that this process owns, and the processes that it must reap.
#[derive(Debug)]
pub(crate) struct Ledger {
    state: Mutex<State>,
    children: Mutex<HashMap<i32, Child>>,
    gone: AtomicBool,
}

impl Ledger {
    /// A new lab with this prefix, or with one that nobody uses.
    pub(crate) fn open(name: Option<&str>) -> Result<Self> {
        make_directory(Path::new(STATE_DIRECTORY))?;
        let owner = ProcessMark::own().ok_or_else(|| Error::Spec("/proc does not show this process".to_owned()))?;
        let prefix = name.map_or_else(|| free_prefix(owner), str::to_owned);
        if let Some(state) = labs()?.into_iter().find(|state| state.prefix == prefix) {
            if state.kept || state.owner.is_alive() {
                return Err(Error::Spec(format!("lab {prefix} stands already (process {})", state.owner.pid)));
            }
            tear_down(&state)?;
        }
        let directory = Path::new(STATE_DIRECTORY).join(&prefix);
        let state = State { prefix, owner, kept: false, directory, namespaces: Vec::new(), processes: Vec::new() };
        // Of two at the same time one gets the name.
        let path = state_path(&state.prefix);
        File::create_new(&path).map_err(Error::io(format!("claim {}", path.display())))?;
        write_state(&state)?;
        make_directory(&state.directory)?;
        Ok(Self { state: Mutex::new(state), children: Mutex::default(), gone: AtomicBool::new(false) })
    }

    pub(crate) fn state(&self) -> State {
        lock(&self.state).clone()
    }

    pub(crate) fn prefix(&self) -> String {
        lock(&self.state).prefix.clone()
    }

    /// A directory of the lab, made with its parents.
    pub(crate) fn directory(&self, below: impl AsRef<Path>) -> Result<PathBuf> {
        let directory = lock(&self.state).directory.join(below);
        make_directory(&directory)?;
        Ok(directory)
    }

    /// Makes the namespace `<prefix>-<name>`; with a number at its end where that name is taken.
    pub(crate) fn add_namespace(&self, name: &str) -> Result<String> {
        if self.gone.load(Ordering::Relaxed) {
            return Err(Error::Unexpected(format!("lab {} is down; there can be no {name}", self.prefix())));
        }
        let full = self.change(|state| {
            let base = format!("{}-{name}", state.prefix);
            let mut full = base.clone();
            let mut number = 1_u32;
            while state.namespaces.contains(&full) {
                number = number.saturating_add(1);
                full = format!("{base}-{number}");
            }
            state.namespaces.push(full.clone());
            full
        })?;
        let _lock = netns_lock()?;
        match NetNs::new(&full) {
            Ok(_) => Ok(full),
            Err(error) => Err(Error::Namespace { action: "create", name: full, why: error.to_string() }),
        }
    }

    pub(crate) fn remove_namespace(&self, full: &str) -> Result<()> {
        remove_namespace(full)?;
        self.change(|state| state.namespaces.retain(|name| name != full))
    }

    pub(crate) fn add_process(&self, child: Child, what: &str) -> Result<ProcessMark> {
        let pid = i32::try_from(child.id()).unwrap_or_default();
        lock(&self.children).insert(pid, child);
        let process =
            ProcessMark::of(pid).ok_or_else(|| Error::Unexpected(format!("{what} ended as soon as it was started")))?;
        self.change(|state| state.processes.push(Recorded { process, what: what.to_owned() }))?;
        Ok(process)
    }

    /// Ends one process and reaps it. With `patience` zero it is killed at once.
    pub(crate) fn end_process(&self, process: ProcessMark, patience: Duration) -> Result<()> {
        let left = end_all(&[process], patience);
        if let Some(mut child) = lock(&self.children).remove(&process.pid)
            && left.is_empty()
        {
            child.wait().map_err(Error::io(format!("reap process {}", process.pid)))?;
        }
        self.change(|state| state.processes.retain(|recorded| recorded.process != process))?;
        if left.is_empty() {
            Ok(())
        } else {
            Err(Error::Unexpected(format!("process {} does not end, not even by SIGKILL", process.pid)))
        }
    }

    /// From now on the lab stays when its owner ends.
    pub(crate) fn keep(&self) -> Result<State> {
        self.change(|state| {
            state.kept = true;
            state.clone()
        })
    }

    /// Removes everything; what cannot be removed stays in the state file.
    pub(crate) fn tear_down(&self) -> Result<()> {
        self.gone.store(true, Ordering::Relaxed);
        let result = tear_down(&self.state());
        for (_, mut child) in lock(&self.children).drain() {
            // Ended above; whatever still lives is in the result already.
            let _ = child.try_wait();
        }
        result
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> Result<T> {
        let mut state = lock(&self.state);
        let value = change(&mut state);
        // A background command may outlive its lab's value by a moment; the file must not come back for it.
        if !self.gone.load(Ordering::Relaxed) {
            write_state(&state)?;
        }
        Ok(value)
    }
}

/// The labs on this machine.
///
/// # Errors
/// The directory or a state file cannot be read.
pub fn labs() -> Result<Vec<State>> {
    let entries = match fs::read_dir(STATE_DIRECTORY) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(Error::io(format!("list {STATE_DIRECTORY}")))?,
    };
    let mut labs: Vec<State> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        // A lab that was taken down meanwhile is no lab any more.
        .filter_map(|path| serde_json::from_slice(&fs::read(path).ok()?).ok())
        .collect();
    labs.sort_by(|a, b| a.prefix.cmp(&b.prefix));
    Ok(labs)
}

/// Removes everything that `state` lists: processes, then namespaces, then files.
///
/// # Errors
/// [`Error::Teardown`] with what is left; the state file stays then.
pub fn tear_down(state: &State) -> Result<()> {
    let mut failures = Vec::new();
    let own = std::process::id();
    let mut processes: Vec<ProcessMark> = state.processes.iter().map(|recorded| recorded.process).collect();
    for name in &state.namespaces {
        // Whoever lives in a namespace of the lab was started for it: a plugin's child, an agent's successor.
        let Ok(netns) = Netns::open(Path::new(NETNS_DIRECTORY).join(name)) else { continue };
        let holders = Netns::holders(netns.id()).unwrap_or_default();
        processes.extend(holders.into_iter().filter(|pid| pid.unsigned_abs() != own).filter_map(ProcessMark::of));
    }
    for process in end_all(&processes, PATIENCE) {
        failures.push(format!("process {} does not end", process.pid));
    }
    for name in &state.namespaces {
        if let Err(error) = remove_namespace(name) {
            failures.push(error.to_string());
        }
    }
    if let Err(error) = remove_tree(&state.directory) {
        failures.push(error.to_string());
    }
    if failures.is_empty()
        && let Err(error) = remove_file(&state_path(&state.prefix))
    {
        failures.push(error.to_string());
    }
    if failures.is_empty() { Ok(()) } else { Err(Error::Teardown { prefix: state.prefix.clone(), failures }) }
}

/// Removes the labs whose owner is dead and that were not kept. Returns their prefixes.
///
/// # Errors
/// The first lab that cannot be removed; the others are removed all the same.
pub fn janitor() -> Result<Vec<String>> {
    make_directory(Path::new(STATE_DIRECTORY))?;
    let _lock = file_lock(".janitor.lock")?;
    let mut removed = Vec::new();
    let mut first_error = None;
    for state in labs()?.into_iter().filter(|state| !state.kept && !state.owner.is_alive()) {
        match tear_down(&state) {
            Ok(()) => removed.push(state.prefix),
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    first_error.map_or(Ok(removed), Err)
}

fn free_prefix(owner: ProcessMark) -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    loop {
        let prefix = format!("adit-{:x}-{}", owner.pid, COUNTER.fetch_add(1, Ordering::Relaxed));
        // A kept lab of an earlier process with the same pid may have it.
        if !state_path(&prefix).exists() {
            return prefix;
        }
    }
}

fn state_path(prefix: &str) -> PathBuf {
    Path::new(STATE_DIRECTORY).join(format!("{prefix}.json"))
}

fn write_state(state: &State) -> Result<()> {
    let path = state_path(&state.prefix);
    let new = path.with_extension("new");
    let failed = || Error::io(format!("write {}", path.display()));
    let text = serde_json::to_vec_pretty(state).map_err(|error| failed()(error.into()))?;
    let mut file = File::create(&new).map_err(failed())?;
    file.write_all(&text).map_err(failed())?;
    fs::rename(&new, &path).map_err(failed())
}

fn remove_namespace(name: &str) -> Result<()> {
    let path = Path::new(NETNS_DIRECTORY).join(name);
    if !path.exists() {
        return Ok(());
    }
    let _lock = netns_lock()?;
    let removed = NetNs::get(name).and_then(NetNs::remove);
    match removed {
        Ok(()) if !path.exists() => Ok(()),
        // The name was made, the namespace was not mounted on it: a process was killed in between.
        _ if fs::remove_file(&path).is_ok() => Ok(()),
        Ok(()) => Err(Error::Namespace { action: "remove", name: name.to_owned(), why: "its name stays".to_owned() }),
        Err(error) => Err(Error::Namespace { action: "remove", name: name.to_owned(), why: error.to_string() }),
    }
}

/// `netns-rs` makes /run/netns a shared mount where it is none; two at a time would stack two mounts.
fn netns_lock() -> Result<File> {
    file_lock(".netns.lock")
}

fn file_lock(name: &str) -> Result<File> {
    let path = Path::new(STATE_DIRECTORY).join(name);
    let failed = || Error::io(format!("lock {}", path.display()));
    let file = File::create(&path).map_err(failed())?;
    file.lock().map_err(failed())?;
    Ok(file)
}

fn make_directory(path: &Path) -> Result<()> {
    // 0755: commands of a pod run unprivileged and may read what is shown to them; keys have their own modes.
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
        .map_err(Error::io(format!("create directory {}", path.display())))
}

fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(Error::io(format!("remove {}", path.display()))(error))
        }
        _ => Ok(()),
    }
}

fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(Error::io(format!("remove {}", path.display()))(error))
        }
        _ => Ok(()),
    }
}

/// A panic in another thread does not make the list of what must be removed any less true.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
