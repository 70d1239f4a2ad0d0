//! SIGKILL at any system call of `adit install` and `adit uninstall`.

use std::{collections::BTreeMap, fs, path::PathBuf};

use adit_integration::trace::{At, Ended, Next, Stop, Tracing, command};
use adit_lab::Binaries;
use adit_net::Netns;
use libtest_mimic::Failed;

use crate::node::Root;

type Outcome = Result<(), Failed>;

/// Before the program has begun to work it cannot have done anything: of those calls, few are tried.
const OTHERS_STRIDE: usize = 7;

/// Calls by which files come, go and change (x86-64's and the common ones).
fn changes(stop: &Stop) -> bool {
    const NAMES: &[i64] = &[
        nix::libc::SYS_openat,
        nix::libc::SYS_linkat,
        nix::libc::SYS_mkdirat,
        nix::libc::SYS_unlinkat,
        nix::libc::SYS_write,
        nix::libc::SYS_fchmod,
        nix::libc::SYS_fchmodat,
        nix::libc::SYS_fsync,
        nix::libc::SYS_copy_file_range,
        #[cfg(target_arch = "x86_64")]
        nix::libc::SYS_rename,
        #[cfg(target_arch = "x86_64")]
        nix::libc::SYS_mkdir,
        #[cfg(target_arch = "x86_64")]
        nix::libc::SYS_rmdir,
        #[cfg(target_arch = "x86_64")]
        nix::libc::SYS_unlink,
        #[cfg(target_arch = "x86_64")]
        nix::libc::SYS_chmod,
        nix::libc::SYS_renameat2,
    ];
    let text = fs::read_to_string(format!("/proc/{}/syscall", stop.thread)).unwrap_or_default();
    text.split_whitespace().next().and_then(|word| word.parse().ok()).is_some_and(|call| NAMES.contains(&call))
}

/// Runs `line` and kills it before its call of that number. True when it was killed.
fn kill(root: &Root, line: &str, number: usize, changing: bool) -> Result<bool, Failed> {
    let mut traced = command(Binaries::get()?.program("adit")?)?;
    traced.args(root.arguments(line));
    let mut count = 0;
    let tracing = Tracing::start(Netns::current()?, traced, move |stop| {
        if stop.at != At::Entry || changes(stop) != changing {
            return Next::GoOn;
        }
        count += 1;
        if count == number { Next::KillAll } else { Next::GoOn }
    });
    let ended = tracing.first()?;
    tracing.all()?;
    match ended {
        Ended::Killed => Ok(true),
        Ended::Exited(0) => Ok(false),
        Ended::Exited(status) => Err(format!("{line} ended with {status}").into()),
    }
}

/// Tries every call of `line`; `prepared` comes before each, `recovered` after.
fn everywhere(line: &str, prepared: &str, recoveries: &[&str]) -> Outcome {
    let root = Root::with_small_programs()?;
    for name in ["bridge", "tun", "host-local"] {
        root.write(&format!("opt/cni/bin/{name}"), format!("theirs: {name}"))?;
    }
    let before = root.files()?;
    let mut tried = 0;
    for (changing, stride) in [(true, 1), (false, OTHERS_STRIDE)] {
        for number in (1..).step_by(stride) {
            if !prepared.is_empty() {
                root.adit(prepared)?.ok()?;
            }
            if !kill(&root, line, number, changing)? {
                root.adit("uninstall --plugins-only")?.ok()?;
                break;
            }
            let recovery = recoveries[tried % recoveries.len()];
            tried += 1;
            let context = |error: Failed| -> Failed {
                format!("call {number} of {line}, changing: {changing}, then {recovery}: {:?}", error.message()).into()
            };
            whole(&root).map_err(context)?;
            root.adit(recovery)?.ok().map_err(Failed::from).map_err(context)?;
            if recovery.starts_with("install") {
                root.adit("install --check --plugins-only")?.ok()?;
                assert_eq!(fs::read_to_string(root.bin("bridge"))?, "ours: bridge");
                root.adit("uninstall --plugins-only")?.ok()?;
            }
            root.must_be(&before).map_err(context)?;
        }
    }
    eprintln!("{line}: killed at {tried} calls");
    assert!(tried > 50, "{tried}");
    Ok(())
}

/// Every program in its place is one of theirs or of ours, and those that were there are.
fn whole(root: &Root) -> Outcome {
    let seen: BTreeMap<PathBuf, Vec<u8>> = root.files()?;
    for (path, content) in seen.iter().filter(|(path, _)| path.parent() == Some(&root.path.join("opt/cni/bin"))) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let text = String::from_utf8_lossy(content);
        let is_whole = [format!("theirs: {name}"), format!("ours: {name}")].contains(&text.to_string());
        assert!(is_whole || name == ".adit", "{name} is {text:?}");
    }
    for name in ["bridge", "tun", "host-local"] {
        assert!(root.bin(name).exists(), "{name} is missing");
    }
    Ok(())
}

pub fn install() -> Outcome {
    everywhere(
        "install --plugins-only --prefix=",
        "",
        &["install --plugins-only --prefix=", "uninstall --plugins-only"],
    )
}

pub fn uninstall() -> Outcome {
    everywhere(
        "uninstall --plugins-only",
        "install --plugins-only --prefix=",
        &["uninstall --plugins-only", "install --plugins-only --prefix="],
    )
}
