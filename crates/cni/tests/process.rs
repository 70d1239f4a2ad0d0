//! A plugin as a real process. Started with `ADIT_TEST_PLUGIN` this program is the plugin.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

#[path = "common/recorder.rs"]
mod recorder;

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::process::{Command, ExitCode, Output, Stdio};

use libtest_mimic::{Arguments, Failed, Trial};
use recorder::Recorder;

const CONF: &str = r#"{"cniVersion":"1.1.0","name":"net","type":"recorder"}"#;

fn main() -> ExitCode {
    if std::env::var_os("ADIT_TEST_PLUGIN").is_some() {
        return adit_cni::main(&Recorder::default());
    }
    let tests = vec![
        Trial::test("add_prints_one_document", add_prints_one_document),
        Trial::test("an_error_exits_with_1", an_error_exits_with_1),
        Trial::test("without_a_verb_it_exits_with_0", without_a_verb),
        Trial::test("a_full_stdout_exits_with_1", full_stdout),
        Trial::test("a_broken_stdout_exits_with_1", broken_stdout),
        Trial::test("a_closed_stdin_is_an_error_document", closed_stdin),
    ];
    libtest_mimic::run(&Arguments::from_args(), tests).exit_code()
}

fn plugin(verb: Option<&str>) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .env_clear()
        .env("ADIT_TEST_PLUGIN", "1")
        .env("CNI_CONTAINERID", "c1")
        .env("CNI_NETNS", "/run/netns/no-such-namespace")
        .env("CNI_IFNAME", "net1")
        .env("CNI_PATH", "/nowhere")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if let Some(verb) = verb {
        command.env("CNI_COMMAND", verb);
    }
    command
}

fn run(command: &mut Command, stdin: &str) -> io::Result<Output> {
    let mut child = command.spawn()?;
    let mut pipe = child.stdin.take().unwrap();
    // A wrong environment is told before stdin is read.
    let _ = pipe.write_all(stdin.as_bytes());
    drop(pipe);
    child.wait_with_output()
}

fn add_prints_one_document() -> Result<(), Failed> {
    let output = run(&mut plugin(Some("ADD")), CONF)?;
    assert_eq!(output.status.code(), Some(0));
    let value: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!(value["ips"][0]["address"], "10.0.0.5/24");
    assert_eq!(output.stderr, b"");
    Ok(())
}

fn an_error_exits_with_1() -> Result<(), Failed> {
    let output = run(plugin(Some("ADD")).env_remove("CNI_IFNAME"), CONF)?;
    assert_eq!(output.status.code(), Some(1));
    let error: adit_cni::Error = serde_json::from_slice(&output.stdout)?;
    assert_eq!(error.msg, "required env variables [CNI_IFNAME] missing");
    Ok(())
}

fn without_a_verb() -> Result<(), Failed> {
    let output = run(&mut plugin(None), "")?;
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(output.stdout, b"");
    assert!(output.stderr.starts_with(b"CNI recorder plugin v1.2.3\n"));
    Ok(())
}

fn full_stdout() -> Result<(), Failed> {
    let full = OpenOptions::new().write(true).open("/dev/full")?;
    let output = run(plugin(Some("ADD")).stdout(full), CONF)?;
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr)?;
    assert!(stderr.starts_with("cannot write to stdout: No space left"), "{stderr}");
    Ok(())
}

fn broken_stdout() -> Result<(), Failed> {
    let (reader, writer) = io::pipe()?;
    drop(reader);
    let output = run(plugin(Some("VERSION")).stdout(writer), "")?;
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr)?;
    assert!(stderr.starts_with("cannot write to stdout: Broken pipe"), "{stderr}");
    Ok(())
}

fn closed_stdin() -> Result<(), Failed> {
    let output = plugin(Some("ADD")).stdin(Stdio::null()).output()?;
    assert_eq!(output.status.code(), Some(1));
    let error: adit_cni::Error = serde_json::from_slice(&output.stdout)?;
    assert_eq!(error.code, adit_cni::Code::DECODE);
    Ok(())
}
