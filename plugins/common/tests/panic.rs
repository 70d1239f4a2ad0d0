//! A defect in a plugin: one error document, and nothing left behind.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, and so does the plugin")]

use std::sync::Mutex;

use adit_cni::{Call, CniResult, Code, DelCall, Environment, Error, Plugin, run_with};
use adit_plugin::transaction;
use serde::Deserialize;

#[derive(Deserialize)]
struct Config {}

/// Makes two things, then panics; taking the second back panics too.
#[derive(Default)]
struct Defective {
    made: Mutex<Vec<&'static str>>,
}

impl Defective {
    fn take_back(&self, what: &str) -> Result<(), Error> {
        self.made.lock().unwrap().retain(|made| *made != what);
        Ok(())
    }
}

impl Plugin for Defective {
    type Config = Config;
    const NAME: &'static str = "defective";

    fn add(&self, _: &Call<Config>) -> Result<CniResult, Error> {
        transaction(|undo| {
            for what in ["link", "address"] {
                self.made.lock().unwrap().push(what);
                undo.push(format!("take {what} back"), move || {
                    self.take_back(what)?;
                    assert_ne!(what, "address", "in the undo");
                    Ok(())
                });
            }
            panic!("on purpose")
        })
    }

    fn check(&self, _: &Call<Config>) -> Result<(), Error> {
        panic!("in CHECK")
    }

    fn del(&self, _: &DelCall<Config>) -> Result<(), Error> {
        panic!("in DEL")
    }
}

fn run(verb: &str) -> (u8, String, Defective) {
    let plugin = Defective::default();
    let env = Environment::from_iter([
        ("CNI_COMMAND", verb),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_NETNS", "/run/netns/no-such-namespace"),
        ("CNI_IFNAME", "net1"),
        ("CNI_PATH", "/nowhere"),
    ]);
    let mut stdout = Vec::new();
    let config = br#"{"cniVersion":"1.1.0","name":"lan","type":"defective"}"#;
    let status = run_with(&plugin, &env, config.as_slice(), &mut stdout, std::io::sink());
    (status, String::from_utf8(stdout).unwrap(), plugin)
}

#[test]
fn a_panic_is_one_error_document_and_takes_back_what_was_made() {
    let (status, stdout, plugin) = run("ADD");
    let error: Error = serde_json::from_str(&stdout).unwrap();
    assert_eq!((status, error.code), (1, Code::INTERNAL));
    assert_eq!(error.msg, "plugin defective panicked: on purpose");
    assert_eq!(*plugin.made.lock().unwrap(), Vec::<&str>::new());
}

#[test]
fn every_verb_answers_a_panic() {
    for verb in ["CHECK", "DEL"] {
        let (status, stdout, _) = run(verb);
        let error: Error = serde_json::from_str(&stdout).unwrap();
        assert_eq!(status, 1);
        assert_eq!(error.msg, format!("plugin defective panicked: in {verb}"));
    }
}
