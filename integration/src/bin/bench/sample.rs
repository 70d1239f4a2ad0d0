//! One run of a plugin: how long it took, what it cost, how much memory it had.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use adit_integration::trace::{self, At, Ended, Next, Tracing};
use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike as _,
};
use serde_json::Value;

use crate::{Outcome, node::Node};

/// The pod's interface.
pub const IFNAME: &str = "net1";

/// A directory of plugins.
#[derive(Debug, Clone)]
pub struct Plugins {
    pub name: String,
    pub directory: PathBuf,
}

/// Wall time, and CPU time of the plugin with its children.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    pub wall: Duration,
    pub cpu: Duration,
}

/// A plugin's call on a node.
#[derive(Debug)]
pub struct Call<'a> {
    pub plugins: &'a Plugins,
    pub node: &'a Node,
    pub pod: usize,
    pub verb: &'a str,
    pub config: &'a Value,
}

impl Call<'_> {
    /// Runs it in the calling thread's namespace.
    pub fn run(&self) -> Outcome<Sample> {
        let mut command = Command::new(self.program());
        self.prepare(&mut command)?;
        let spent = children_cpu()?;
        let begin = Instant::now();
        let status = command.spawn()?.wait()?;
        let wall = begin.elapsed();
        let cpu = children_cpu()?.saturating_sub(spent);
        self.succeeded(status.success())?;
        Ok(Sample { wall, cpu })
    }

    /// What it printed when it ran last.
    pub fn printed(&self) -> Outcome<Value> {
        Ok(serde_json::from_slice(&fs::read(self.output())?)?)
    }

    /// Starts it in the calling thread's namespace.
    pub fn start(&self) -> Outcome<Child> {
        let mut command = Command::new(self.program());
        self.prepare(&mut command)?;
        Ok(command.spawn()?)
    }

    /// Whether a started call succeeded.
    pub fn ended(&self, status: ExitStatus) -> bool {
        self.succeeded(status.success()).is_ok()
    }

    /// Runs it once more and looks at the most memory (VmHWM, KiB) that a process of it ever had, just before each ends:
    /// getrusage(2) would count in what the process had before it executed the plugin, which is this program's memory.
    pub fn peak_kib(&self) -> Outcome<u64> {
        let mut command = trace::command(self.program())?;
        self.prepare(&mut command)?;
        let peak = Arc::new(Mutex::new(0));
        let told = peak.clone();
        let tracing = Tracing::start(self.node.open()?, command, move |stop| {
            if stop.at == At::End {
                let mut peak = told.lock().unwrap_or_else(PoisonError::into_inner);
                *peak = (*peak).max(high_water_kib(stop.process.as_raw()).unwrap_or(0));
            }
            Next::GoOn
        });
        let ended = tracing.first()?;
        tracing.all()?;
        self.succeeded(ended == Ended::Exited(0))?;
        let peak = *peak.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(peak)
    }

    fn prepare(&self, command: &mut Command) -> Outcome {
        let input = self.file("in");
        fs::write(&input, self.config.to_string())?;
        command.env_clear().env("CNI_COMMAND", self.verb).env("CNI_IFNAME", IFNAME).env("CNI_ARGS", "IgnoreUnknown=1");
        command.env("CNI_CONTAINERID", self.node.container(self.pod)).env("CNI_NETNS", self.node.netns(self.pod));
        command.env("CNI_PATH", &self.plugins.directory).env("ADIT_RUN_DIR", self.node.directory());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        let output = File::create(self.output())?;
        command.stdin(File::open(&input)?).stdout(output.try_clone()?).stderr(output);
        Ok(())
    }

    fn succeeded(&self, success: bool) -> Outcome {
        if success {
            return Ok(());
        }
        let said = fs::read_to_string(self.output()).unwrap_or_default();
        let line = said.split_whitespace().collect::<Vec<_>>().join(" ");
        Err(format!("{} of {} failed: {line}", self.verb, self.plugins.name).into())
    }

    fn program(&self) -> PathBuf {
        self.plugins.directory.join(self.config["type"].as_str().unwrap_or_default())
    }

    fn output(&self) -> PathBuf {
        self.file("out")
    }

    fn file(&self, what: &str) -> PathBuf {
        self.node.directory().join(format!("{}.{what}", self.pod))
    }
}

/// CPU time of all children that have been waited for, and of theirs.
fn children_cpu() -> Outcome<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let microseconds = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(Duration::from_micros(microseconds.try_into()?))
}

fn high_water_kib(process: i32) -> Option<u64> {
    let status = fs::read_to_string(Path::new("/proc").join(process.to_string()).join("status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}
