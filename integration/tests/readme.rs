//! Every example of the README is executed as it stands.

use std::{
    process::{Command, Stdio},
    time::Duration,
};

use adit_integration::{
    scripts::{RELEASE_DEADLINE, build_release, root},
    trial, trial_within,
    tunnels::lab_with_agents,
};
use adit_lab::{Attachment, Binaries, COMMAND_DEADLINE, Lab, LabSpec, Nad, labs, run};
use libtest_mimic::Failed;

type Outcome = Result<(), Failed>;

fn main() {
    adit_integration::main(vec![
        trial("the_network_and_the_annotation_attach_a_pod", examples_attach),
        trial_within("every_command_of_the_tour_succeeds", RELEASE_DEADLINE + Duration::from_secs(180), tour),
        trial_within("the_demo_says_what_failed_and_leaves_nothing", Duration::from_secs(120), demo_fails),
        trial("the_scripts_that_it_names_exist", scripts_exist),
        trial("the_tests_that_the_threat_model_names_exist", named_tests_exist),
    ]);
}

/// The code blocks of one language, in their order.
fn blocks(language: &str) -> Result<Vec<String>, Failed> {
    let text = std::fs::read_to_string(root().join("README.md"))?;
    let fence = format!("```{language}\n");
    Ok(text.split(&fence).skip(1).filter_map(|rest| rest.split("```").next()).map(str::to_owned).collect())
}

fn examples_attach() -> Outcome {
    let [network, annotation]: [String; 2] =
        blocks("json")?.try_into().map_err(|found: Vec<_>| format!("{} JSON blocks", found.len()))?;
    let lab = lab_with_agents(&LabSpec::two_clusters(Attachment::Bridge))?;
    let pod = lab.ohio().pod("example").attach(Nad::new("ohio", network), &annotation)?;
    assert_eq!(pod.interface_names()?, ["lo", "net1", "tun"]);
    let addresses = |name| pod.addresses(name).map(|found| found.iter().map(ToString::to_string).collect::<Vec<_>>());
    assert!(addresses("net1")?.contains(&"10.10.1.200/24".to_owned()));
    assert_eq!(addresses("tun")?, ["10.4.0.1/30"]);
    pod.check()?;
    Ok(())
}

/// The lines as they stand there. Only that tests are root already, and that builds may go elsewhere.
fn tour() -> Outcome {
    build_release()?;
    let commands: Vec<String> = blocks("console")?
        .iter()
        .flat_map(|block| block.lines().map(str::to_owned).collect::<Vec<_>>())
        .filter_map(|line| line.strip_prefix("$ sudo ").map(str::to_owned))
        .collect();
    assert!(commands.len() >= 8, "{commands:?}");
    assert_eq!(commands.first().map(String::as_str), Some("scripts/demo --keep"));
    assert_eq!(commands.last().map(String::as_str), Some("scripts/demo --teardown"));
    let release = std::env::var("CARGO_TARGET_DIR").map_or("target/release/".into(), |dir| format!("{dir}/release/"));
    let mut outcome = Ok(());
    for line in &commands {
        // After a failure only what takes the clusters down again.
        if outcome.is_err() && !line.contains("--teardown") {
            continue;
        }
        let mut shell = Command::new("sh");
        shell.args(["-c", &line.replace("target/release/", &release)]).stdin(Stdio::null()).current_dir(root());
        let ran = run(shell, None, COMMAND_DEADLINE * 2).and_then(adit_lab::Ran::ok);
        outcome = outcome.and(ran.map(drop));
    }
    Ok(outcome?)
}

/// One program is another one: the address plugin does nothing.
fn demo_fails() -> Outcome {
    let binaries = Binaries::get()?.directory();
    let lab = Lab::build(&LabSpec::new(Attachment::Bridge).cluster("ohio", 1))?;
    let broken = lab.directory("broken")?;
    for entry in std::fs::read_dir(binaries)? {
        let entry = entry?;
        if entry.file_type()?.is_file() && entry.file_name() != "static" {
            std::os::unix::fs::symlink(entry.path(), broken.join(entry.file_name()))?;
        }
    }
    std::os::unix::fs::symlink("/bin/false", broken.join("static"))?;
    let mut demo = Command::new(binaries.join("demo"));
    demo.args(["--name", "adit-demo-fails"]).current_dir(root()).env("ADIT_BIN_DIR", &broken);
    let ran = run(demo, None, COMMAND_DEADLINE * 2)?.fails()?;
    assert!(ran.stdout.contains("FAILED: attach "), "{}", ran.stdout);
    assert!(!labs()?.iter().any(|state| state.prefix == "adit-demo-fails"));
    Ok(())
}

fn scripts_exist() -> Outcome {
    for block in blocks("sh")?.iter().chain(&blocks("console")?) {
        for script in block.split_whitespace().filter(|word| word.starts_with("scripts/")) {
            assert!(root().join(script).is_file(), "{script}");
        }
    }
    Ok(())
}

/// Each line of the tables in SECURITY.md names the tests that show it.
fn named_tests_exist() -> Outcome {
    let text = std::fs::read_to_string(root().join("SECURITY.md"))?;
    let words = text.split('`').skip(1).step_by(2).map(|word| word.trim_end_matches('…').trim_end_matches('_'));
    let names: Vec<&str> = words.filter(|word| word.matches('_').count() > 2 && !word.contains([' ', '/'])).collect();
    assert!(names.len() > 15, "{names:?}");
    for name in names {
        let mut grep = Command::new("grep");
        grep.args(["-rqF", "--include=*.rs", name]).current_dir(root()).args(["crates", "integration/tests", "agent"]);
        run(grep, None, COMMAND_DEADLINE)?
            .ok()
            .map_err(|_| format!("SECURITY.md names {name}, and there is no such test"))?;
    }
    Ok(())
}
