//! A node with one pod, on which a scenario's plugin is called, killed, and made up for.

use std::{
    fs::{self, File},
    io,
    process::{Command, Stdio},
    time::Duration,
};

use adit_integration::{
    trace::{self, Ended, Tracing},
    tunnels::{Below, with},
};
use adit_lab::{Binaries, COMMAND_DEADLINE, Error, Lab, Node, Pod, Ran, Result, eventually, run};
use serde_json::{Value, json};

use crate::{
    picture::Picture,
    points::Aim,
    scenario::{BRIDGE, Recovery, Scenario, Verb},
};

/// How long the kernel and the agent may take to let go of what was deleted.
const PATIENCE: Duration = Duration::from_secs(5);

pub struct Site {
    scenario: &'static Scenario,
    lab: Lab,
    pod: Pod,
    /// What the plugin reads from stdin.
    config: Value,
    /// Before the first ADD, and after an ADD and a DEL that nobody disturbed.
    untouched: Picture,
    settled: Picture,
}

impl Site {
    pub fn new(scenario: &'static Scenario) -> Result<Self> {
        let lab = scenario.lab()?;
        let plugin = (scenario.plugin)(&lab);
        let (pod, config) = pod(scenario, &lab, &plugin)?;
        let mut site = Self { scenario, lab, pod, config, untouched: Picture::default(), settled: Picture::default() };
        site.untouched = site.look()?;
        site.add()?;
        site.del()?;
        site.settled = site.look()?;
        Ok(site)
    }

    /// The state from which `verb` is killed.
    pub fn prepare(&self, verb: Verb) -> Result<()> {
        if self.scenario.fresh_bridge {
            self.node().root(["ip", "link", "delete", BRIDGE])?;
            self.node().root(["nft", "flush", "ruleset"])?;
            self.node().sysctl("net/ipv4/ip_forward", "0")?;
            self.node().sysctl("net/ipv6/conf/all/forwarding", "0")?;
        }
        match verb {
            Verb::Add => Ok(()),
            Verb::Del => self.add().map(drop),
        }
    }

    /// Runs `verb` and kills it at `aim`; what was hit, if the plugin came that far. A child may live on.
    pub fn kill(&self, verb: Verb, aim: Aim) -> Result<(Option<String>, Tracing)> {
        let failed = |what: &str| {
            let what = format!("{what} the traced {}", verb.name());
            move |error: io::Error| Error::Unexpected(format!("{what}: {error}"))
        };
        let mut command = trace::command(Binaries::get()?.program(self.plugin())?).map_err(failed("prepare"))?;
        self.environment(&mut command, verb.name(), self.pod.path().as_os_str().to_str().unwrap_or_default())?;
        let stdin = self.lab.directory("crash")?.join("stdin");
        fs::write(&stdin, self.config.to_string()).map_err(failed("write the input of"))?;
        let output = File::create(stdin.with_file_name("output")).map_err(failed("collect the output of"))?;
        command.stdin(File::open(&stdin).map_err(failed("open the input of"))?);
        command.stdout(output.try_clone().map_err(failed("collect the output of"))?).stderr(output);
        let (watch, hit) = aim.watch();
        let tracing = Tracing::start(self.node().open()?, command, watch);
        let ended = tracing.first().map_err(failed("follow"))?;
        match ended {
            Ended::Killed | Ended::Exited(0) => Ok((hit.try_recv().ok(), tracing)),
            Ended::Exited(status) => {
                let said = fs::read_to_string(stdin.with_file_name("output")).unwrap_or_default();
                Err(Error::Unexpected(format!("{} under trace ended with {status}: {said}", verb.name())))
            }
        }
    }

    /// Makes up for a killed plugin. With the namespace gone, another pod takes the place.
    pub fn recover(&mut self, recovery: Recovery) -> Result<()> {
        match recovery {
            Recovery::Del => self.del(),
            Recovery::DelWithoutNetns => self.call("DEL", "", &self.config)?.ok().map(drop),
            Recovery::VanishThenDel => {
                self.pod.vanish()?;
                self.del()?;
                self.await_end_of_pod()?;
                let plugin = (self.scenario.plugin)(&self.lab);
                (self.pod, self.config) = pod(self.scenario, &self.lab, &plugin)?;
                Ok(())
            }
            Recovery::Gc => self.gc(),
            Recovery::GcThenDel => self.gc().and_then(|()| self.del()),
            Recovery::Add => {
                let ran = self.call("ADD", &self.netns(), &self.config)?;
                if !ran.success() && !ran.stdout.contains("call DEL") {
                    ran.ok()?;
                }
                self.del()
            }
        }
    }

    /// Nothing is left of the killed plugin, and an ADD and a DEL leave the node as ever.
    pub fn is_back(&mut self, verb: Verb, recovery: Recovery) -> Result<()> {
        // With another pod, the interface below a tunnel is another one.
        let is_changed = self.scenario.is_chained() && recovery == Recovery::VanishThenDel;
        if self.scenario.fresh_bridge {
            // The node's own part stays: the bridge, forwarding, tables that many pods share.
            let shared = |line: &str| line.contains(BRIDGE) || line.contains("forward") || line.contains(" nft ");
            self.wait_for(&self.untouched, |line| !shared(line))?;
        } else {
            self.wait_for(&self.settled, |line| {
                !is_changed || !(line.starts_with("node:") || line.starts_with("pod:"))
            })?;
        }
        if verb == Verb::Add || self.scenario.fresh_bridge {
            self.add()?;
            self.del()?;
        }
        if self.scenario.fresh_bridge {
            self.wait_for(&self.settled, |_| true)?;
        }
        if is_changed {
            self.settled = self.look()?;
        }
        Ok(())
    }

    pub fn add(&self) -> Result<()> {
        self.call("ADD", &self.netns(), &self.config)?.ok().map(drop)
    }

    pub fn del(&self) -> Result<()> {
        self.call("DEL", &self.netns(), &self.config)?.ok().map(drop)
    }

    fn gc(&self) -> Result<()> {
        let config = with(self.config.clone(), &json!({ "cni.dev/valid-attachments": [], "prevResult": null }));
        self.call("GC", "", &config)?.ok().map(drop)
    }

    /// The kernel takes a namespace apart in its own time: until then the node has the other end of the pod's links, which
    /// belongs into no picture.
    fn await_end_of_pod(&self) -> Result<()> {
        let container = &self.pod.identity().container_id;
        eventually("the vanished pod's links to go", PATIENCE, || {
            let links = self.node().root(["ip", "-o", "link", "show"])?.ok()?.stdout;
            Ok((!links.contains(container.as_str())).then_some(()))
        })
    }

    fn wait_for(&self, before: &Picture, keep: impl Fn(&str) -> bool) -> Result<()> {
        let before = before.only(&keep);
        eventually("everything to be as before", PATIENCE, || match before.difference(&self.look()?.only(&keep)) {
            None => Ok(Some(())),
            Some(difference) => Err(Error::Unexpected(format!("left:\n{difference}"))),
        })
    }

    fn look(&self) -> Result<Picture> {
        Picture::of(self.node(), &self.pod, &[BRIDGE, "default"])
    }

    fn call(&self, verb: &str, netns: &str, config: &Value) -> Result<Ran> {
        let mut command = Command::new(Binaries::get()?.program(self.plugin())?);
        self.environment(&mut command, verb, netns)?;
        command.stdin(Stdio::piped());
        self.node().run_inside(|| run(command, Some(config.to_string().as_bytes()), COMMAND_DEADLINE))?
    }

    fn environment(&self, command: &mut Command, verb: &str, netns: &str) -> Result<()> {
        command.env_clear().env("CNI_COMMAND", verb).env("CNI_NETNS", netns).env("CNI_IFNAME", "net1");
        command.env("CNI_CONTAINERID", &self.pod.identity().container_id).env("CNI_ARGS", "IgnoreUnknown=1");
        command.env("CNI_PATH", Binaries::get()?.directory()).env("ADIT_RUN_DIR", self.node().run_dir());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        Ok(())
    }

    fn node(&self) -> &Node {
        self.lab.ohio()
    }

    fn netns(&self) -> String {
        self.pod.path().display().to_string()
    }

    fn plugin(&self) -> &str {
        self.config["type"].as_str().unwrap_or_default()
    }
}

/// A pod, and what the plugin reads for it.
fn pod(scenario: &Scenario, lab: &Lab, plugin: &Value) -> Result<(Pod, Value)> {
    let config = with(json!({ "cniVersion": "1.1.0", "name": "crash" }), plugin);
    if !scenario.is_chained() {
        return Ok((lab.ohio().pod("victim").bare()?, config));
    }
    let Below { pod, result } = Below::usual(lab, lab.ohio(), "victim")?;
    Ok((pod, with(config, &json!({ "prevResult": result }))))
}
