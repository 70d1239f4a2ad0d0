//! `adit install` and `adit uninstall`: the programs of a node, and the agent as its service.

use std::{
    collections::BTreeSet,
    error::Error,
    fs, io,
    path::{Path, PathBuf},
    thread,
};

use adit_install::{
    Content, Folder, Lock, Plan, Wanted,
    service::{self, Manager, PROGRAM_DIRECTORY, UNIT, UNIT_DIRECTORY, UNIT_NAME},
    used::{self, CACHES},
};
use adit_tunnel::Store;
use clap::Args;

use crate::Said;

/// Plugins that take the place of others of that name, and so get a prefix.
const DROP_IN: [&str; 3] = ["bridge", "macvlan", "static"];
/// Plugins whose name nobody else has.
const OWN: [&str; 1] = ["tun"];
/// Programs of the agent's.
const PROGRAMS: [&str; 2] = ["aditd", "adit"];

/// What is to be where.
type Placement = Vec<(Folder, Vec<Wanted>)>;

/// Where things go.
#[derive(Debug, Args)]
pub struct Target {
    /// Directory of the node's CNI plugins
    #[arg(long, default_value = "/opt/cni/bin")]
    bin_dir: PathBuf,
    /// The plugins alone, as in Kubernetes, where the agent is a pod
    #[arg(long)]
    plugins_only: bool,
    /// Directory below which the node's files are
    #[arg(long, default_value = "/")]
    root: PathBuf,
    /// Print what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
pub struct Install {
    #[command(flatten)]
    target: Target,
    /// What stands before the names of bridge, macvlan and static; with --prefix= they take the place of what has these names, until
    /// `adit uninstall` puts that back
    #[arg(long, default_value = "adit-", value_parser = prefix)]
    prefix: String,
    /// As --prefix=, for good: nothing is kept of what is replaced
    #[arg(long, conflicts_with = "prefix")]
    replace: bool,
    /// Directory of the programs [default: the one of this program]
    #[arg(long)]
    source: Option<PathBuf>,
    /// Only say whether what was installed is there, by the exit code, too
    #[arg(long, conflicts_with_all = ["dry_run", "prefix", "replace", "source"])]
    check: bool,
}

#[derive(Debug, Args)]
pub struct Uninstall {
    #[command(flatten)]
    target: Target,
    /// Also while containers or tunnels need the plugins, which nobody can remove properly afterwards
    #[arg(long)]
    force: bool,
    /// Also the keys of this node: tunnels without a key file get another key when Adit is installed again
    #[arg(long)]
    purge: bool,
    /// Stay when all is done, until this program is ended: a DaemonSet's container must not end
    #[arg(long)]
    stay: bool,
}

/// Directories of the agent.
pub struct AgentDirectories<'a> {
    pub run: &'a Path,
    pub config: &'a Path,
}

impl Target {
    fn at(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    fn plugins(&self) -> Folder {
        Folder::new(self.at(&self.bin_dir))
    }

    fn programs(&self) -> Folder {
        Folder::new(self.at(Path::new(PROGRAM_DIRECTORY)))
    }

    fn units(&self) -> Folder {
        Folder::new(self.at(Path::new(UNIT_DIRECTORY)))
    }

    fn folders(&self) -> Vec<Folder> {
        let agents = if self.plugins_only { Vec::new() } else { vec![self.programs(), self.units()] };
        [vec![self.plugins()], agents].concat()
    }

    fn manager(&self) -> Manager {
        if self.plugins_only { Manager::None } else { Manager::of(&self.root) }
    }

    /// The right to change the folders; none of them while nothing is to be done.
    fn lock(&self) -> adit_install::Result<Vec<Lock>> {
        if self.dry_run {
            return Ok(Vec::new());
        }
        let locks: Vec<_> = self.folders().iter().map(Folder::lock).collect::<adit_install::Result<_>>()?;
        Ok(locks.into_iter().flatten().collect())
    }
}

impl Install {
    pub fn run(self) -> Said {
        if self.check {
            return self.checked();
        }
        let _locks = self.target.lock()?;
        let plan = Plan::install(&self.wanted()?, !self.replace)?;
        let touches = |folder: &Folder| plan.steps.iter().any(|step| step.folder == *folder);
        let changed = touches(&self.target.programs()) || touches(&self.target.units());
        let manager = self.target.manager();
        let commands = manager.after_install(&self.target.root, changed);
        let mut said = text(&plan.notes);
        let plugins = self.target.plugins();
        if plugins.missing_directories() > 0 {
            let path = plugins.path().display();
            said +=
                &format!("{path} is made: if the runtime has another directory of plugins, name it with --bin-dir\n");
        }
        if self.target.dry_run {
            return Ok(said + &plan.to_string() + &systemctl_lines(&commands));
        }
        plan.apply()?;
        commands.iter().try_for_each(|arguments| service::systemctl(arguments))?;
        if !self.target.plugins_only && manager == Manager::None {
            said += "no systemd here: start /usr/local/bin/aditd by other means\n";
        }
        let folders = self.target.folders();
        Ok(said + &text(&folders.iter().map(installed).collect::<adit_install::Result<Vec<_>>>()?))
    }

    fn checked(&self) -> Said {
        let found: Vec<String> =
            self.target.folders().iter().map(Folder::differences).collect::<adit_install::Result<Vec<_>>>()?.concat();
        if found.is_empty() { Ok(String::new()) } else { Err(found.join("\nadit: ").into()) }
    }

    fn wanted(&self) -> Result<Placement, Box<dyn Error>> {
        let source = match &self.source {
            Some(source) => source.clone(),
            None => std::env::current_exe()?.parent().unwrap_or(Path::new("/")).to_owned(),
        };
        let prefix = if self.replace { "" } else { &self.prefix };
        let program = |name: &str, prefix: &str| Wanted {
            name: format!("{prefix}{name}"),
            content: Content::File(source.join(name)),
            mode: 0o755,
        };
        let plugins = DROP_IN.iter().map(|name| program(name, prefix)).chain(OWN.iter().map(|name| program(name, "")));
        let mut wanted = vec![(self.target.plugins(), plugins.collect())];
        if !self.target.plugins_only {
            wanted.push((self.target.programs(), PROGRAMS.iter().map(|name| program(name, "")).collect()));
            let unit = Wanted { name: UNIT_NAME.into(), content: Content::Text(UNIT), mode: 0o644 };
            wanted.push((self.target.units(), vec![unit]));
        }
        Ok(wanted)
    }
}

impl Uninstall {
    pub fn run(self, directories: &AgentDirectories<'_>) -> Said {
        let locks = self.target.lock()?;
        let folders = self.target.folders();
        let plan = Plan::uninstall(&folders)?;
        let run = self.target.at(directories.run);
        if !self.force {
            self.refuse_while_needed(&run)?;
        }
        let manager = if self.has_unit()? { self.target.manager() } else { Manager::None };
        let (first, last) = (manager.before_uninstall(&self.target.root), manager.after_uninstall());
        let mut said = text(&plan.notes);
        if self.target.dry_run {
            return Ok(said + &systemctl_lines(&first) + &plan.to_string() + &systemctl_lines(&last));
        }
        first.iter().try_for_each(|arguments| service::systemctl(arguments))?;
        if let Err(error) = plan.apply() {
            // Everything is there again, so the agent may be, too.
            let _ =
                manager.after_install(&self.target.root, false).iter().try_for_each(|line| service::systemctl(line));
            return Err(error.into());
        }
        last.iter().try_for_each(|arguments| service::systemctl(arguments))?;
        let keys = self.target.at(directories.config);
        if self.purge && keys.exists() {
            fs::remove_dir_all(&keys).map_err(|error| format!("cannot remove {}: {error}", keys.display()))?;
        } else if keys.exists() {
            said += &format!("{} keeps the keys of this node (--purge removes them)\n", keys.display());
        }
        forget_run_directory(&run);
        if self.stay {
            drop(locks);
            crate::print(&(said + "uninstalled\n"))?;
            loop {
                thread::park();
            }
        }
        Ok(said)
    }

    /// Whether the unit that is there is ours to stop.
    fn has_unit(&self) -> adit_install::Result<bool> {
        Ok(!self.target.plugins_only && self.target.units().manifest()?.is_some())
    }

    /// A container that was attached by a plugin which is gone cannot be removed any more.
    fn refuse_while_needed(&self, run: &Path) -> Result<(), Box<dyn Error>> {
        let Some(manifest) = self.target.plugins().manifest()? else { return Ok(()) };
        let vanish = manifest.files.into_iter().filter(|(_, entry)| entry.kept.is_none()).map(|(name, _)| name);
        let vanish: BTreeSet<String> = vanish.collect();
        let caches = CACHES.map(|cache| self.target.at(Path::new(cache)));
        let mut needed: Vec<String> = used::containers(&caches, &vanish).into_iter().collect();
        if vanish.contains("tun") {
            let records = Store::new(run).list().unwrap_or_default();
            needed.extend(records.into_iter().map(|record| match record {
                Ok(record) => format!("tunnel {}", record.attachment),
                Err(error) => error.to_string(),
            }));
        }
        if needed.is_empty() {
            return Ok(());
        }
        Err(format!(
            "{} attachments need the plugins still, and could not be removed without them: delete their pods first, or use --force: {}",
            needed.len(),
            needed.join(", ")
        )
        .into())
    }
}

/// What the agent leaves in its run directory, unless there are records, or an agent that works.
fn forget_run_directory(run: &Path) {
    let is_free = match fs::File::open(run.join("agent.lock")) {
        Ok(lock) => lock.try_lock().is_ok(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    };
    // Whatever stands in the way stays, and is nobody's but the next agent's.
    if is_free && fs::remove_dir(run.join("attachments")).is_ok() {
        for file in ["agent.sock", "agent.lock"] {
            let _ = fs::remove_file(run.join(file));
        }
    }
    let _ = fs::remove_dir(run);
}

fn installed(folder: &Folder) -> adit_install::Result<String> {
    let names: Vec<String> = folder.manifest()?.unwrap_or_default().files.into_keys().collect();
    Ok(format!("{}: {}", folder.path().display(), names.join(", ")))
}

fn systemctl_lines(commands: &[Vec<String>]) -> String {
    commands.iter().map(|arguments| format!("run systemctl {}\n", arguments.join(" "))).collect()
}

fn text(lines: &[String]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn prefix(text: &str) -> Result<String, String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    match text.chars().all(is_name) && !text.starts_with('.') {
        true => Ok(text.to_owned()),
        false => {
            Err("the beginning of a file's name: letters, digits, '-', '_' and '.', which is not the first".into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_leads_nowhere_else() {
        for good in ["", "adit-", "x_1."] {
            assert_eq!(prefix(good).as_deref(), Ok(good));
        }
        for bad in ["../", "a/", ".a", "a b", "\n"] {
            assert!(prefix(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn run_directory_goes_only_when_nobody_needs_it() {
        let directory = tempfile::tempdir().unwrap();
        let run = directory.path().join("adit");
        let make = || {
            fs::create_dir_all(run.join("attachments")).unwrap();
            for file in ["agent.sock", "agent.lock"] {
                fs::write(run.join(file), "").unwrap();
            }
        };
        make();
        forget_run_directory(&run);
        assert!(!run.exists());
        make();
        let agent = fs::File::open(run.join("agent.lock")).unwrap();
        agent.lock().unwrap();
        forget_run_directory(&run);
        assert!(run.join("agent.sock").exists() && run.join("attachments").exists());
        drop(agent);
        fs::write(run.join("attachments/c1:net1:tun.json"), "").unwrap();
        forget_run_directory(&run);
        assert!(run.join("agent.lock").exists());
        forget_run_directory(&directory.path().join("missing"));
    }
}
