//! What the scripts promise: a demonstration that shows everything and leaves nothing, and binaries that run anywhere.

use std::{
    fs,
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use adit_integration::{
    scripts::{RELEASE_DEADLINE, build_release, root, script},
    trial, trial_within,
};
use adit_lab::{Attachment, COMMAND_DEADLINE, Lab, LabSpec, labs, run};
use libtest_mimic::Failed;

type Outcome = Result<(), Failed>;

const MINUTE: Duration = Duration::from_secs(60);

fn main() {
    adit_integration::main(vec![
        // Each may have to wait for the other one's build.
        trial_within("the_demo_shows_everything_and_leaves_nothing", 2 * RELEASE_DEADLINE + 3 * MINUTE, demo),
        trial_within(
            "the_shipped_binaries_are_static_and_stripped",
            2 * RELEASE_DEADLINE + 3 * MINUTE,
            shipped_binaries,
        ),
        trial("builds_run_as_the_person_who_called_sudo", builds_as_the_caller),
    ]);
}

/// A build beside a demonstration would make it slower than it is.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn demo() -> Outcome {
    let _alone = alone();
    build_release()?;
    for (flags, kind) in [([].as_slice(), "bridge"), (&["--macvlan"], "macvlan")] {
        let begun = Instant::now();
        let shown = script("scripts/demo", flags, 2 * COMMAND_DEADLINE)?.ok()?.stdout;
        assert!(begun.elapsed() < MINUTE, "{:?}", begun.elapsed());
        let missing = not_shown(&shown, kind);
        assert!(missing.is_empty(), "{kind}: missing {missing:#?} in:\n{shown}");
        assert!(!labs()?.iter().any(|state| state.prefix == "adit-demo"));
        let names: Vec<_> = fs::read_dir("/run/netns")?.flatten().map(|entry| entry.file_name()).collect();
        assert!(!names.iter().any(|name| name.to_string_lossy().starts_with("adit-demo-")), "{names:?}");
    }
    Ok(())
}

/// The words that must stand together in one line of the demonstration, and do not.
fn not_shown(shown: &str, kind: &str) -> Vec<Vec<String>> {
    const NONE: &str = "0000000000000000";
    let mut wanted = vec![format!("net1 by {kind}"), "All checks passed".to_owned()];
    for (pod, own, other, inner, other_inner) in [
        ("plumbr-a", "10.10.1.200", "10.20.1.200", "10.4.0.1", "10.4.0.2"),
        ("plumbr-b", "10.20.1.200", "10.10.1.200", "10.4.0.2", "10.4.0.1"),
    ] {
        wanted.extend([
            format!("dev net1 | src {own}"),
            format!("10.4.0.0/30 dev tun | src {inner}"),
            format!("64 bytes from {other} | ttl=59"),
            format!("64 bytes from {other_inner} | ttl=64"),
            format!("UDP {own}:6090 > {other}:6090, ttl | bytes"),
            format!("default/{pod} | tun over net1 | up | udp, encryption none | {other}:6090"),
            format!(
                "{pod}: Uid: 65534 | CapInh: {NONE} | CapPrm: {NONE} | CapEff: {NONE} | CapBnd: {NONE} | CapAmb: {NONE}"
            ),
        ]);
    }
    let mut missing: Vec<Vec<String>> = Vec::new();
    for words in wanted.iter().map(|line| line.split(" | ").map(str::to_owned).collect::<Vec<_>>()) {
        if !shown.lines().any(|line| words.iter().all(|word| line.contains(word))) {
            missing.push(words);
        }
    }
    let with_both = |of: &str| shown.lines().filter(|line| line.contains(of)).count() == 2;
    for line in ["2: eth0", "3: net1", "4: tun: <POINTOPOINT,MULTICAST,NOARP,UP,LOWER_UP> mtu 1456"] {
        if !with_both(line) {
            missing.push(vec!["twice".to_owned(), line.to_owned()]);
        }
    }
    for name in ["net1", "tun"] {
        let has_figure = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            matches!(words[..], [what, figure, "Mbit/s"] if what == name && figure.parse().is_ok_and(|rate: f64| rate > 0.0))
        };
        if !shown.lines().any(has_figure) {
            missing.push(vec![name.to_owned(), "Mbit/s".to_owned()]);
        }
    }
    missing
}

fn shipped_binaries() -> Outcome {
    let _alone = alone();
    let lab = Lab::build(&LabSpec::new(Attachment::Bridge).cluster("ohio", 1))?;
    let (built, empty) = (lab.directory("built")?, lab.directory("empty")?);
    script("scripts/build", &[&built.display().to_string()], RELEASE_DEADLINE)?.ok()?;
    let mut names: Vec<_> = fs::read_dir(&built)?.flatten().map(|entry| entry.file_name()).collect();
    names.sort();
    assert_eq!(names, ["adit", "aditd", "bridge", "macvlan", "static", "tun"]);
    for name in &names {
        let mut readelf = Command::new("readelf");
        readelf.args(["--wide", "--segments", "--sections", "--dynamic"]).arg(built.join(name));
        let elf = run(readelf, None, COMMAND_DEADLINE)?.ok()?.stdout;
        assert!(elf.contains(".text") && elf.contains("LOAD"), "{elf}");
        for part in ["INTERP", "(NEEDED)", ".symtab", ".debug_"] {
            assert!(!elf.contains(part), "{name:?} has {part}:\n{elf}");
        }
    }
    // Nothing but the file itself: no loader, no library, no /proc.
    for name in ["tun", "static"] {
        fs::copy(built.join(name), empty.join(name))?;
        let mut plugin = Command::new("chroot");
        plugin.arg(&empty).arg(format!("/{name}")).env("CNI_COMMAND", "VERSION");
        let answer = run(plugin, Some(br#"{"cniVersion":"1.1.0"}"#), COMMAND_DEADLINE)?.json()?;
        let supported = answer["supportedVersions"].as_array().cloned().unwrap_or_default();
        assert!(supported.contains(&"1.1.0".into()), "{answer}");
        fs::remove_file(empty.join(name))?;
    }
    Ok(())
}

fn builds_as_the_caller() -> Outcome {
    for (caller, expected) in [(Some("nobody"), "nobody"), (Some("root"), "root"), (None, "root")] {
        let mut shell = Command::new("bash");
        shell.args(["-euc", ". scripts/lib.sh; as_builder sh -c 'echo $(id -un) $MARK'"]).current_dir(root());
        shell.env("MARK", "kept").env_remove("SUDO_USER");
        if let Some(caller) = caller {
            shell.env("SUDO_USER", caller);
        }
        let said = run(shell, None, COMMAND_DEADLINE)?.ok()?.stdout;
        assert_eq!(said.trim(), format!("{expected} kept"), "SUDO_USER {caller:?}");
    }
    Ok(())
}
