//! What `scripts/vm-test` promises: the command's own answer, an end in any case, and nothing of the host touched.

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use adit_integration::{
    scripts::{root, script},
    trial_within,
};
use adit_lab::{Attachment, Lab, LabSpec, Ran};
use libtest_mimic::Failed;

type Outcome = Result<(), Failed>;

/// Emulated, and beside other machines, one takes about 15 s from start to end.
const DEADLINE: Duration = Duration::from_secs(300);

fn main() {
    let missing = missing();
    if let Some(why) = &missing {
        eprintln!("left out 4 tests of scripts/vm-test: {why}");
    }
    let trials = [
        trial_within("the_answer_is_the_commands_own", DEADLINE, answers),
        trial_within("nothing_is_written_but_in_the_given_directory", DEADLINE, writes),
        trial_within("a_command_without_end_is_ended", DEADLINE, hangs),
        trial_within("the_death_of_the_machine_is_told", DEADLINE, dies),
    ];
    adit_integration::main(trials.into_iter().map(|trial| trial.with_ignored_flag(missing.is_some())).collect());
}

/// Why the machine cannot start here without a download.
fn missing() -> Option<String> {
    let tools = env::var_os("XDG_CACHE_HOME").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
    let needed = [Path::new("/usr/bin/qemu-system-x86_64").to_owned(), tools.join("adit-tools/vm-kernel-1")];
    let path = needed.iter().find(|path| !path.exists())?;
    Some(format!("no {} (scripts/vm-test true gets it)", path.display()))
}

fn machine(arguments: &[&str]) -> adit_lab::Result<Ran> {
    script("scripts/vm-test", arguments, DEADLINE)
}

fn answers() -> Outcome {
    let command = r#"
        printf '%s|' "$@"; id -u; echo wrong >&2
        ls /etc/shadow /root/.ssh /home 2>/dev/null
        ip link add seen type bridge vlan_filtering 1 && ip link add link seen name seen.5 type vlan id 5 && echo made
        kill -TERM $$"#;
    let ran = machine(&["bash", "-c", command, "sh", "two words", "$HOME", "it's"])?;
    assert_eq!(ran.stdout, "two words|$HOME|it's|0\nmade\n", "{ran:?}");
    assert_eq!(ran.stderr, "wrong\n", "{ran:?}");
    assert_eq!(ran.status.code(), Some(143), "{ran:?}");
    Ok(())
}

fn writes() -> Outcome {
    let lab = Lab::build(&LabSpec::new(Attachment::Bridge).cluster("ohio", 1))?;
    let directory = lab.directory("writable")?;
    let outside = root().join("written-by-a-machine");
    let command = r#"echo kept >"$1/file" && echo lost >"$2" && cat "$2" && rm "$3" && rm /usr/bin/env"#;
    let (inside, readme) = (directory.display().to_string(), root().join("README.md").display().to_string());
    let ran = machine(&[
        "--writable",
        &inside,
        "bash",
        "-ec",
        command,
        "bash",
        &inside,
        &outside.display().to_string(),
        &readme,
    ])?;
    assert_eq!(ran.ok()?.stdout, "lost\n");
    assert_eq!(fs::read_to_string(directory.join("file"))?, "kept\n");
    assert!(!outside.exists() && Path::new(&readme).exists() && Path::new("/usr/bin/env").exists());
    Ok(())
}

fn hangs() -> Outcome {
    let ran = machine(&["--timeout", "20", "sleep", "1000"])?;
    assert_eq!(ran.status.code(), Some(124), "{ran:?}");
    assert!(ran.stderr.contains("not done within 20 s"), "{ran:?}");
    Ok(())
}

fn dies() -> Outcome {
    let ran = machine(&["sh", "-c", "echo c >/proc/sysrq-trigger; sleep 1000"])?;
    assert_eq!(ran.status.code(), Some(125), "{ran:?}");
    assert!(ran.stderr.contains("Kernel panic"), "{ran:?}");
    Ok(())
}
