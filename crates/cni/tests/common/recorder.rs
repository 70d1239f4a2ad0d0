//! A plugin that does nothing but remember what it was given.

#![allow(dead_code, reason = "each test program uses what it needs")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of tests")]

use std::path::Path;
use std::sync::Mutex;

use adit_cni::{Attachment, Call, CniResult, DelCall, Environment, Error, GcCall, Ip, Plugin, StatusCall, run_with};
use serde::Deserialize;

#[derive(Debug, Clone, Deserialize)]
pub struct Config {
    #[serde(default)]
    pub mtu: u32,
}

/// What ADD does.
#[derive(Default)]
pub enum Add {
    #[default]
    Address,
    Nothing,
    Fail(Error),
    Panic,
}

#[derive(Default)]
pub struct Recorder {
    pub add: Add,
    pub calls: Mutex<Vec<String>>,
    pub last_add: Mutex<Option<Call<Config>>>,
    pub last_del: Mutex<Option<DelCall<Config>>>,
    pub last_gc: Mutex<Option<GcCall<Config>>>,
}

impl Recorder {
    fn note(&self, call: impl Into<String>) {
        self.calls.lock().unwrap().push(call.into());
    }

    pub fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }

    /// Runs a verb; returns exit status, stdout and stderr.
    pub fn run(&self, env: &Environment, stdin: &str) -> (u8, String, String) {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let status = run_with(self, env, stdin.as_bytes(), &mut stdout, &mut stderr);
        (status, String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
    }

    /// Runs a verb that must fail; returns the error, which must be all of stdout.
    pub fn fail(&self, env: &Environment, stdin: &str) -> Error {
        let (status, stdout, _) = self.run(env, stdin);
        assert_eq!(status, 1, "{stdout}");
        serde_json::from_str(&stdout).unwrap()
    }
}

impl Plugin for Recorder {
    type Config = Config;
    const NAME: &'static str = "recorder";
    const VERSION: &'static str = "1.2.3";

    fn add(&self, call: &Call<Config>) -> Result<CniResult, Error> {
        self.note(format!("add {}", call.attachment));
        *self.last_add.lock().unwrap() = Some(call.clone());
        match &self.add {
            Add::Address => {
                Ok(CniResult { ips: vec![Ip::new("10.0.0.5/24".parse().unwrap())], ..CniResult::default() })
            }
            Add::Nothing => {
                let planned = CniResult::default();
                call.ensure_expressible(&planned)?;
                self.note("made");
                Ok(planned)
            }
            Add::Fail(error) => Err(error.clone()),
            Add::Panic => panic!("on purpose"),
        }
    }

    fn check(&self, call: &Call<Config>) -> Result<(), Error> {
        self.note(format!("check {}", call.attachment));
        call.required_prev_result().map(drop)
    }

    fn del(&self, call: &DelCall<Config>) -> Result<(), Error> {
        self.note(format!("del {}", call.attachment));
        *self.last_del.lock().unwrap() = Some(call.clone());
        Ok(())
    }

    fn del_unreadable(&self, attachment: &Attachment, netns: Option<&Path>, why: Error) -> Result<(), Error> {
        self.note(format!("del_unreadable {attachment} {netns:?} {}", why.code));
        Ok(())
    }

    fn gc(&self, call: &GcCall<Config>) -> Result<(), Error> {
        self.note("gc");
        *self.last_gc.lock().unwrap() = Some(call.clone());
        Ok(())
    }

    fn status(&self, call: &StatusCall<Config>) -> Result<(), Error> {
        self.note(format!("status {}", call.network));
        Ok(())
    }
}

/// A complete environment for `verb`; the namespace does not exist.
pub fn env(verb: &str) -> Environment {
    Environment::from_iter([
        ("CNI_COMMAND", verb),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_NETNS", "/run/netns/no-such-namespace"),
        ("CNI_IFNAME", "net1"),
        ("CNI_ARGS", "IgnoreUnknown=1;A=1"),
        ("CNI_PATH", "/nowhere"),
    ])
}

/// [`env`] with a change.
pub fn env_with(verb: &str, name: &str, value: &str) -> Environment {
    let mut env = env(verb);
    env.set(name, value);
    env
}
