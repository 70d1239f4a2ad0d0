//! One case with one implementation.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{Read as _, Seek as _, Write as _},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use serde_json::{Value, json};

use crate::{
    Error, Result,
    case::{Case, Instance, Kill, NetnsRef, Step, merge},
    compare::{self, Difference},
    interrupt,
    judge::{self, Arrays},
    state, text,
    world::{ALSO, FILES, PLUGINS, World, fork_lock, netns_path},
};

/// Where plugins find the programs that they execute.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How long the kernel may take to show what was done.
const PATIENCE: Duration = Duration::from_millis(1500);

/// What holds for all cases.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Environment of every call beside `CNI_*`.
    pub env: Vec<(String, String)>,
    /// Where programs are that the directory under test does not have: members of mixed chains.
    pub also: Option<PathBuf>,
    /// How long one call may take.
    pub deadline: Duration,
}

/// What happened in a case.
#[derive(Debug, Default)]
pub struct Record {
    /// The state before the first step.
    pub start: Option<Value>,
    /// The calls, in order.
    pub steps: Vec<StepRecord>,
    /// What was not as the case expects it.
    pub failures: Vec<String>,
}

/// What happened in a call.
#[derive(Debug)]
pub struct StepRecord {
    /// Name of the step; calls at the same moment have `#number`.
    pub name: String,
    /// Pod and interface of the attachment: `pod1.net1`.
    pub owner: String,
    /// What the plugin answered.
    pub answer: Answer,
    /// The state afterwards, where it was looked at.
    pub state: Option<Value>,
}

/// A call as it is made.
#[derive(Debug)]
pub struct Call {
    name: String,
    plugin: String,
    /// `CNI_COMMAND`, or nothing.
    pub verb: String,
    stdin: String,
    config: Value,
    env: BTreeMap<String, String>,
    kill: Option<Kill>,
}

/// What a plugin answered.
#[derive(Debug, Default, Clone)]
pub struct Answer {
    /// Exit status.
    pub exit: Option<i32>,
    /// The case ended it.
    pub killed: bool,
    /// It was ended at the deadline.
    pub late: bool,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// Standard output when it is one JSON object.
    pub document: Option<Value>,
}

struct Running {
    child: Child,
    stdout: File,
    stderr: File,
    started: Instant,
    answer: Option<Answer>,
}

struct Runner<'a> {
    case: &'a Case,
    settings: &'a Settings,
    world: World,
    results: BTreeMap<String, Value>,
    states: BTreeMap<String, Value>,
    record: Record,
}

/// Runs a case with the plugins of a directory, on a thread and in namespaces of its own.
pub fn case(instance: &Instance, plugins: &Path, settings: &Settings) -> Result<Record> {
    let name = format!("{:.15}", instance.name);
    thread::scope(|scope| {
        let worker = thread::Builder::new().name(name).spawn_scoped(scope, || {
            let case = &instance.case;
            let world = World::make(plugins, settings.also.as_deref(), &case.files, case.pods)?;
            let (results, states) = (BTreeMap::new(), BTreeMap::new());
            Runner { case, settings, world, results, states, record: Record::default() }.run()
        });
        let worker = worker.map_err(|source| Error::World { what: "start a thread", source })?;
        worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

impl Runner<'_> {
    fn run(mut self) -> Result<Record> {
        for command in &self.case.setup {
            self.world.shell(&self.filled_text(command, 1))?;
        }
        let start = state::settled(&self.world)?;
        self.states.insert("start".to_owned(), start.clone());
        self.record.start = Some(start);
        let mut seen: BTreeMap<String, u32> = BTreeMap::new();
        for step in &self.case.steps {
            let base = step.name.clone().or_else(|| step.verb.as_deref().map(str::to_lowercase));
            let base = base.unwrap_or_else(|| if step.together.is_empty() { "step" } else { "together" }.to_owned());
            let count = seen.entry(base.clone()).or_default();
            *count = count.saturating_add(1);
            let name = if *count == 1 { base } else { format!("{base}-{count}") };
            self.step(step, &name)?;
        }
        Ok(self.record)
    }

    fn step(&mut self, step: &Step, name: &str) -> Result<()> {
        if let Some(command) = &step.run {
            let command = self.filled_text(command, 1);
            if let Err(error) = self.world.shell(&command) {
                self.record.failures.push(format!("{name}: {error}"));
            }
        }
        if let Some(pod) = &step.remove {
            self.world.remove(pod)?;
        }
        let steps = step.calls();
        let at_once = steps.len() > 1;
        let mut calls = Vec::new();
        for (number, one) in (1_u32..).zip(&steps).filter(|(_, one)| one.verb.is_some() || one.stdin.is_some()) {
            let own =
                if at_once { one.name.clone().unwrap_or_else(|| format!("{name}#{number}")) } else { name.to_owned() };
            match self.call(one, own.clone()) {
                Ok(call) => calls.push((call, one)),
                Err(why) => self.record.failures.push(format!("{own}: {why}")),
            }
        }
        let answers = self.answers(calls.iter().map(|(call, _)| call).collect())?;
        for ((call, one), answer) in calls.iter().zip(answers) {
            let said = if answer.stderr.trim().is_empty() {
                String::new()
            } else {
                format!(" (stderr: {})", answer.stderr.trim())
            };
            let mut expect = one.expect.clone();
            let pod = one.pod.unwrap_or(1);
            expect.result = text::fill(&expect.result, &|variable| self.variable(variable, pod));
            let wrong = judge::answer(call, &answer, &expect);
            self.record.failures.extend(wrong.into_iter().map(|wrong| format!("{}: {wrong}{said}", call.name)));
            if let (Some(0), Some(document)) = (answer.exit, &answer.document) {
                self.results.insert(call.name.clone(), document.clone());
            }
            let owner = format!("pod{pod}.{}", call.env.get("CNI_IFNAME").map_or("", String::as_str));
            self.record.steps.push(StepRecord { name: call.name.clone(), owner, answer, state: None });
        }
        let changes = calls.iter().any(|(call, _)| matches!(call.verb.as_str(), "ADD" | "DEL" | "GC"));
        if changes || !step.state.is_null() || step.unchanged.is_some() {
            let state = self.look(step, name)?;
            self.states.insert(name.to_owned(), state.clone());
            // Tampering is the case's own doing: nothing to compare.
            if !calls.is_empty()
                && let Some(last) = self.record.steps.last_mut()
            {
                last.state = Some(state);
            }
        }
        Ok(())
    }

    /// The state, once it is as the step asks; what still is not after some patience is a failure.
    fn look(&mut self, step: &Step, name: &str) -> Result<Value> {
        let expected = text::fill(&step.state, &|variable| self.variable(variable, step.pod.unwrap_or(1)));
        let deadline = Instant::now().checked_add(PATIENCE);
        loop {
            let state = state::settled(&self.world)?;
            let mut wrong = Vec::new();
            if !expected.is_null() {
                judge::part(&expected, &state, "state", Arrays::Contain, &mut wrong);
            }
            if let Some(unchanged) = &step.unchanged {
                let before =
                    self.states.get(&unchanged.since).ok_or_else(|| Error::NoSuchStep(unchanged.since.clone()))?;
                let mut found = Vec::new();
                compare::diff(&state, before, "state", &mut found);
                found.retain(|difference| {
                    let point = difference.point.trim_start_matches("state/");
                    !unchanged.except.iter().any(|except| text::matches(&self.filled_text(except, 1), point))
                });
                wrong.extend(found.iter().map(|difference| {
                    let Difference { point, plugins, against } = difference;
                    format!("{point} is {}, it was {} at {:?}", brief(plugins), brief(against), unchanged.since)
                }));
            }
            if wrong.is_empty() || deadline.is_none_or(|deadline| Instant::now() > deadline) {
                self.record.failures.extend(wrong.into_iter().map(|wrong| format!("{name}: {wrong}")));
                return Ok(state);
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn call(&self, step: &Step, name: String) -> Result<Call, String> {
        let pod = step.pod.unwrap_or(1);
        let verb = step.verb.clone().unwrap_or_default();
        let plugin = step.plugin.clone().unwrap_or_else(|| self.case.plugin.clone());
        let mut config = json!({ "cniVersion": "1.0.0", "name": "conformance", "type": plugin });
        if step.plugin.is_none() && self.case.config.is_object() {
            merge(&mut config, &self.case.config);
        } else if let Some(version) = self.case.config.get("cniVersion") {
            merge(&mut config, &json!({ "cniVersion": version }));
        }
        if !step.prev_result.is_null() {
            let previous = match step.prev_result.as_str() {
                Some(step) => self.results.get(step).cloned().ok_or(format!("left out: {step} gave no result"))?,
                None => step.prev_result.clone(),
            };
            merge(&mut config, &json!({ "prevResult": previous }));
        }
        if step.config.is_object() {
            merge(&mut config, &step.config);
        }
        let config = text::fill(&config, &|variable| self.variable(variable, pod));
        let stdin = step.stdin.as_ref().map_or_else(|| config.to_string(), |text| self.filled_text(text, pod));

        let mut env: BTreeMap<String, String> = self.settings.env.iter().cloned().collect();
        env.insert("PATH".to_owned(), PATH.to_owned());
        env.insert("CNI_COMMAND".to_owned(), verb.clone());
        env.insert("CNI_PATH".to_owned(), format!("{PLUGINS}:{ALSO}:{FILES}"));
        if !matches!(verb.as_str(), "VERSION" | "GC" | "STATUS") {
            env.insert("CNI_CONTAINERID".to_owned(), format!("container-{pod}"));
            env.insert("CNI_IFNAME".to_owned(), "net1".to_owned());
            let netns = match step.netns {
                NetnsRef::Pod => Some(netns_path(&format!("pod{pod}")).display().to_string()),
                NetnsRef::Absent => None,
                NetnsRef::Empty => Some(String::new()),
                NetnsRef::Gone => Some(netns_path("nobody").display().to_string()),
                NetnsRef::Own => Some(netns_path("node").display().to_string()),
                NetnsRef::File => Some("/etc/passwd".to_owned()),
            };
            env.extend(netns.map(|netns| ("CNI_NETNS".to_owned(), netns)));
        }
        env.extend(step.args.as_ref().map(|args| ("CNI_ARGS".to_owned(), self.filled_text(args, pod))));
        for (key, value) in &step.env {
            match value {
                Some(value) => env.insert(key.clone(), self.filled_text(value, pod)),
                None => env.remove(key),
            };
        }
        Ok(Call { name, plugin, verb, stdin, config, env, kill: step.kill.clone() })
    }

    /// Starts all calls, then waits for all.
    fn answers(&self, calls: Vec<&Call>) -> Result<Vec<Answer>> {
        let mut running = Vec::new();
        for call in &calls {
            running.push(self.start(call)?);
        }
        let mut pause = Duration::from_micros(100);
        while running.iter().any(|one| one.answer.is_none()) {
            for (call, one) in calls.iter().zip(&mut running).filter(|(_, one)| one.answer.is_none()) {
                self.advance(call, one)?;
            }
            // Who waits for a moment to kill looks all the time.
            if calls.iter().all(|call| call.kill.is_none()) {
                thread::sleep(pause);
                pause = pause.saturating_mul(2).min(Duration::from_millis(2));
            }
        }
        Ok(running.into_iter().filter_map(|one| one.answer).collect())
    }

    fn start(&self, call: &Call) -> Result<Running> {
        let program = [PLUGINS, ALSO, FILES].map(|directory| Path::new(directory).join(&call.plugin));
        let program = program.into_iter().find(|program| program.is_file()).unwrap_or_default();
        let failed = |source| Error::Program { program: call.plugin.clone(), source };
        let output = |kind: &str| {
            let path = Path::new("/run/conformance").join(kind);
            File::options().read(true).append(true).create(true).truncate(false).open(&path).and_then(|file| {
                // Only the descriptor is needed.
                fs::remove_file(path)?;
                Ok(file)
            })
        };
        let (stdout, stderr) = (output("stdout").map_err(failed)?, output("stderr").map_err(failed)?);
        let (out, err) = (stdout.try_clone().map_err(failed)?, stderr.try_clone().map_err(failed)?);
        let mut command = Command::new(program);
        command.env_clear().envs(&call.env).stdin(Stdio::piped()).stdout(out).stderr(err).process_group(0);
        let mut child = {
            let _lock = fork_lock();
            command.spawn().map_err(failed)?
        };
        interrupt::began(child.id());
        let started = Instant::now();
        if let Some(mut stdin) = child.stdin.take() {
            // A plugin that refuses early reads nothing.
            let _ = stdin.write_all(call.stdin.as_bytes());
        }
        Ok(Running { child, stdout, stderr, started, answer: None })
    }

    fn advance(&self, call: &Call, one: &mut Running) -> Result<()> {
        let failed = |source| Error::Program { program: call.plugin.clone(), source };
        if let Some(status) = one.child.try_wait().map_err(failed)? {
            interrupt::ended(one.child.id());
            let answer = one.answer(status.code(), false, false).map_err(failed)?;
            one.answer = Some(answer);
            return Ok(());
        }
        let elapsed = one.started.elapsed();
        let late = elapsed > self.settings.deadline;
        let due = call.kill.as_ref().is_some_and(|kill| self.is_due(kill, elapsed));
        if late || due {
            let only = call.kill.as_ref().is_some_and(|kill| kill.only_plugin) && !late;
            if let Ok(pid) = i32::try_from(one.child.id()).map(Pid::from_raw) {
                // It may have ended this moment.
                let _ = if only { kill(pid, Signal::SIGKILL) } else { killpg(pid, Signal::SIGKILL) };
            }
            one.child.wait().map_err(failed)?;
            interrupt::ended(one.child.id());
            let answer = one.answer(None, due, late).map_err(failed)?;
            one.answer = Some(answer);
        }
        Ok(())
    }

    fn is_due(&self, kill: &Kill, elapsed: Duration) -> bool {
        let micros = kill.after_us.as_ref().and_then(|value| text::plain(value).parse().ok());
        micros.is_some_and(|micros| elapsed >= Duration::from_micros(micros))
            || kill.file.as_ref().is_some_and(|file| Path::new(&self.filled_text(file, 1)).exists())
            || kill.link.as_ref().is_some_and(|link| self.world.has_link(link))
    }

    fn variable(&self, name: &str, pod: u32) -> Option<Value> {
        if let Some(path) = name.strip_prefix("result:") {
            let (step, pointer) = path.split_once('/').unwrap_or((path, ""));
            let result = self.results.get(step)?;
            return if pointer.is_empty() {
                Some(result.clone())
            } else {
                result.pointer(&format!("/{pointer}")).cloned()
            };
        }
        Some(match name {
            "n" => Value::from(pod.to_string()),
            "pod" => Value::from(format!("pod{pod}")),
            "containerid" => Value::from(format!("container-{pod}")),
            "netns" => Value::from(netns_path(&format!("pod{pod}")).display().to_string()),
            "dir" => Value::from(FILES),
            _ => return None,
        })
    }

    fn filled_text(&self, text: &str, pod: u32) -> String {
        text::fill_text(text, &|variable| self.variable(variable, pod))
    }
}

fn brief(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() > 300 { text.chars().take(300).chain(['…']).collect() } else { text }
}

impl Call {
    /// The version that the call speaks: a configuration without one speaks the first.
    pub fn version(&self) -> &str {
        self.config.get("cniVersion").and_then(Value::as_str).filter(|version| !version.is_empty()).unwrap_or("0.1.0")
    }
}

impl Running {
    fn answer(&mut self, exit: Option<i32>, killed: bool, late: bool) -> std::io::Result<Answer> {
        let (stdout, stderr) = (read(&mut self.stdout)?, read(&mut self.stderr)?);
        let document = serde_json::from_str(&stdout).ok().filter(Value::is_object);
        Ok(Answer { exit, killed, late, document, stdout, stderr })
    }
}

fn read(file: &mut File) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

impl Answer {
    /// In a word.
    pub fn outcome(&self) -> &'static str {
        match self.exit {
            _ if self.killed => "killed",
            _ if self.late => "late",
            Some(0) => "success",
            Some(_) => "error",
            None => "signal",
        }
    }

    /// Standard output for a message.
    pub fn stdout_shown(&self) -> String {
        brief(&self.document.clone().unwrap_or_else(|| Value::from(self.stdout.as_str())))
    }
}
