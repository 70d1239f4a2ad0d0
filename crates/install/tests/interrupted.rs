//! Installation and removal, cut off after every step and failing at every step.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test fails by panicking"
)]

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::PathBuf,
};

use adit_install::{Action, Content, Error, Folder, Manifest, Plan, Step, Wanted};
use tempfile::TempDir;

/// What everybody sees: the files that can be started, by name.
type Seen = BTreeMap<String, String>;

const NAMES: [&str; 3] = ["bridge", "static", "tun"];

/// A node's directory of plugins, and a newer release of them.
struct Node {
    directory: TempDir,
    folder: Folder,
}

impl Node {
    /// With a `bridge` and a `static` (which is a link) of somebody else.
    fn new() -> Self {
        let node = Self::empty();
        fs::create_dir_all(node.folder.path()).unwrap();
        node.write("bridge", "theirs: bridge");
        node.write("host-local", "theirs: host-local");
        fs::write(node.directory.path().join("elsewhere"), "theirs: static").unwrap();
        symlink("../../elsewhere", node.folder.place("static")).unwrap();
        node
    }

    fn empty() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let folder = Folder::new(directory.path().join("opt/bin"));
        Self { directory, folder }
    }

    fn write(&self, name: &str, text: &str) {
        // As somebody else may do it: another file.
        let _ = fs::remove_file(self.folder.place(name));
        fs::write(self.folder.place(name), text).unwrap();
    }

    fn wanted(&self, release: &str) -> Vec<(Folder, Vec<Wanted>)> {
        let source = self.directory.path().join(release);
        fs::create_dir_all(&source).unwrap();
        let files = NAMES.map(|name| {
            let path = source.join(name);
            fs::write(&path, format!("{release}: {name}")).unwrap();
            Wanted { name: name.into(), content: Content::File(path), mode: 0o755 }
        });
        vec![(self.folder.clone(), files.to_vec())]
    }

    fn install(&self, release: &str) -> Plan {
        Plan::install(&self.wanted(release), true).unwrap()
    }

    fn uninstall(&self) -> Plan {
        Plan::uninstall(std::slice::from_ref(&self.folder)).unwrap()
    }

    fn seen(&self) -> Seen {
        let entries = fs::read_dir(self.folder.path()).into_iter().flatten().flatten();
        let named = entries.map(|entry| (entry.file_name().into_string().unwrap(), entry.path()));
        named
            .filter(|(name, _)| name != ".adit")
            .map(|(name, path)| (name, fs::read_to_string(path).unwrap()))
            .collect()
    }

    /// Everything of the directory, to the last hidden file.
    fn all(&self) -> Vec<(PathBuf, u64)> {
        fn walk(path: PathBuf, found: &mut Vec<(PathBuf, u64)>) {
            let metadata = path.symlink_metadata().unwrap();
            if metadata.is_dir() {
                fs::read_dir(&path).unwrap().flatten().for_each(|entry| walk(entry.path(), found));
                found.push((path, 0));
            } else {
                found.push((path, metadata.ino()));
            }
        }
        let mut found = Vec::new();
        if self.folder.path().exists() {
            walk(self.folder.path().to_owned(), &mut found);
        }
        found.sort();
        found
    }
}

fn apply(plan: &Plan) {
    plan.apply().unwrap();
}

/// As if killed before the next step; and in the middle of it, where it writes.
fn cut_off(node: &Node, plan: &Plan, after: usize) {
    plan.steps[..after].iter().for_each(|step| step.perform().unwrap());
    if let Some(Step { action: Action::Write { name, .. }, .. }) = plan.steps.get(after) {
        fs::write(node.folder.own().join("new").join(name), "ha").unwrap();
    }
    if let Some(Step { action: Action::Record(..), .. }) = plan.steps.get(after) {
        fs::write(node.folder.own().join(".manifest.json"), "{\"form").unwrap();
    }
}

/// Every program that somebody may start is a whole one, and none is missing that was there.
fn nothing_is_half(node: &Node, before: &Seen, releases: &[&str]) {
    let now = node.seen();
    for (name, text) in &now {
        let ours = releases.iter().any(|release| *text == format!("{release}: {name}"));
        assert!(ours || before.get(name) == Some(text), "{name} is {text:?}");
    }
    for name in before.keys() {
        assert!(now.contains_key(name), "{name} is missing");
    }
}

fn installed(release: &str, before: &Seen) -> Seen {
    let mut seen = before.clone();
    seen.extend(NAMES.map(|name| (name.to_owned(), format!("{release}: {name}"))));
    seen
}

#[test]
fn what_is_installed_goes_and_what_was_there_comes_back() {
    let node = Node::new();
    let (before, files) = (node.seen(), node.all());
    apply(&node.install("one"));
    assert_eq!(node.seen(), installed("one", &before));
    assert_eq!(fs::metadata(node.folder.place("tun")).unwrap().permissions().mode() & 0o7777, 0o755);
    assert!(node.folder.differences().unwrap().is_empty());
    assert!(node.install("one").is_empty(), "it is there already");
    apply(&node.install("two"));
    assert_eq!(node.seen(), installed("two", &before));

    apply(&node.uninstall());
    assert_eq!(node.all(), files, "the very files");
    assert!(fs::symlink_metadata(node.folder.place("static")).unwrap().is_symlink());
    assert!(node.uninstall().is_empty());
    assert!(!node.folder.differences().unwrap().is_empty());
}

#[test]
fn directories_that_were_made_go_again_unless_somebody_uses_them() {
    let node = Node::empty();
    apply(&node.install("one"));
    apply(&node.uninstall());
    assert!(!node.directory.path().join("opt").exists());
    apply(&node.install("one"));
    node.write("host-local", "theirs");
    apply(&node.uninstall());
    assert_eq!(node.seen().into_keys().collect::<Vec<_>>(), ["host-local"]);
}

#[test]
fn installation_that_is_killed_at_any_step_is_finished_or_taken_back_by_the_next_command() {
    let count = Node::new().install("one").steps.len();
    assert!(count > 12, "{count}");
    for after in 0..=count {
        for finish in [true, false] {
            let node = Node::new();
            let (before, files) = (node.seen(), node.all());
            cut_off(&node, &node.install("one"), after);
            nothing_is_half(&node, &before, &["one"]);
            if finish {
                apply(&node.install("one"));
                assert_eq!(node.seen(), installed("one", &before), "after {after}");
                assert!(node.folder.differences().unwrap().is_empty(), "after {after}");
            }
            apply(&node.uninstall());
            assert_eq!(node.all(), files, "after {after}, finished: {finish}");
        }
    }
}

#[test]
fn upgrade_that_is_killed_at_any_step_leaves_each_plugin_of_the_old_release_or_the_new() {
    let count = {
        let node = Node::new();
        apply(&node.install("one"));
        node.install("two").steps.len()
    };
    for after in 0..=count {
        for finish in [true, false] {
            let node = Node::new();
            let (original, files) = (node.seen(), node.all());
            apply(&node.install("one"));
            let before = node.seen();
            cut_off(&node, &node.install("two"), after);
            nothing_is_half(&node, &before, &["one", "two"]);
            if finish {
                apply(&node.install("three"));
                assert_eq!(node.seen(), installed("three", &original), "after {after}");
            }
            apply(&node.uninstall());
            assert_eq!(node.all(), files, "after {after}, finished: {finish}");
        }
    }
}

#[test]
fn removal_that_is_killed_at_any_step_is_finished_or_taken_back_by_the_next_command() {
    let count = {
        let node = Node::new();
        apply(&node.install("one"));
        node.uninstall().steps.len()
    };
    for after in 0..=count {
        for finish in [true, false] {
            let node = Node::new();
            let (original, files) = (node.seen(), node.all());
            apply(&node.install("one"));
            cut_off(&node, &node.uninstall(), after);
            nothing_is_half(&node, &original, &["one"]);
            if !finish {
                apply(&node.install("two"));
                assert_eq!(node.seen(), installed("two", &original), "after {after}");
            }
            apply(&node.uninstall());
            assert_eq!(node.all(), files, "after {after}, finished: {finish}");
        }
    }
}

#[test]
fn somebody_elses_file_that_is_like_ours_is_his_and_is_there_after_a_removal_that_was_killed() {
    let mut after = 0;
    loop {
        let node = Node::new();
        node.write("bridge", "one: bridge");
        let files = node.all();
        apply(&node.install("one"));
        assert_ne!(node.all(), files);
        let plan = node.uninstall();
        cut_off(&node, &plan, after);
        assert_eq!(node.seen()["bridge"], "one: bridge", "after {after}");
        apply(&node.uninstall());
        assert_eq!(node.all(), files, "after {after}");
        if after == plan.steps.len() {
            break;
        }
        after += 1;
    }
}

/// A step that cannot succeed.
fn impossible(node: &Node) -> Step {
    let folder = Folder::new(node.directory.path().join("missing"));
    Step { folder, action: Action::Place("nothing".into()) }
}

#[test]
fn failure_of_any_step_leaves_everything_as_it_was() {
    /// What comes before, and what fails.
    type Case = (fn(&Node), fn(&Node) -> Plan);
    let prepare: [Case; 3] = [
        (|_| (), |node| node.install("one")),
        (|node| apply(&node.install("one")), |node| node.install("two")),
        (|node| apply(&node.install("one")), Node::uninstall),
    ];
    for (prepared, planned) in prepare {
        let mut at = 0;
        loop {
            let node = Node::new();
            prepared(&node);
            let (before, files) = (node.seen(), node.all());
            let mut plan = planned(&node);
            if plan.steps[at].is_cleanup() {
                break;
            }
            plan.steps.insert(at, impossible(&node));
            assert!(matches!(plan.apply(), Err(Error::Path { .. })), "step {at}");
            assert_eq!(node.seen(), before, "step {at}");
            let named = |files: Vec<(PathBuf, u64)>| -> Vec<PathBuf> {
                // Written anew, with the same content.
                files.into_iter().map(|(path, _)| path).collect()
            };
            assert_eq!(named(node.all()), named(files), "step {at}");
            at += 1;
        }
        assert!(at > 5);
    }
}

#[test]
fn what_somebody_replaced_since_is_left_alone_and_said() {
    let node = Node::new();
    apply(&node.install("one"));
    node.write("bridge", "theirs: newer");
    assert_eq!(node.folder.differences().unwrap().len(), 1);
    let plan = node.uninstall();
    assert!(plan.notes.iter().any(|note| note.contains("bridge was replaced by somebody else")), "{:?}", plan.notes);
    apply(&plan);
    let seen = node.seen();
    assert_eq!((seen["bridge"].as_str(), seen["static"].as_str()), ("theirs: newer", "theirs: static"));
    assert!(!seen.contains_key("tun") && !node.folder.own().exists());
}

#[test]
fn what_somebody_replaced_since_is_kept_by_the_next_installation() {
    let node = Node::new();
    apply(&node.install("one"));
    node.write("bridge", "theirs: newer");
    apply(&node.install("two"));
    assert_eq!(node.seen()["bridge"], "two: bridge");
    apply(&node.uninstall());
    assert_eq!(node.seen()["bridge"], "theirs: newer");
}

#[test]
fn what_somebody_removed_since_is_no_failure_and_the_kept_one_comes_back() {
    let node = Node::new();
    let before = node.seen();
    apply(&node.install("one"));
    for name in ["tun", "bridge"] {
        fs::remove_file(node.folder.place(name)).unwrap();
    }
    assert_eq!(node.folder.differences().unwrap().len(), 2);
    apply(&node.uninstall());
    assert_eq!(node.seen(), before);
}

#[test]
fn nothing_is_kept_of_what_is_to_be_replaced_for_good() {
    let node = Node::new();
    let plan = Plan::install(&node.wanted("one"), false).unwrap();
    assert!(plan.notes.iter().any(|note| note.contains("replaced for good")), "{:?}", plan.notes);
    apply(&plan);
    apply(&node.uninstall());
    assert_eq!(node.seen().into_keys().collect::<Vec<_>>(), ["host-local"]);
}

#[test]
fn a_file_that_is_open_for_running_is_replaced_and_its_runner_keeps_it() {
    let node = Node::new();
    let running = fs::File::open(node.folder.place("bridge")).unwrap();
    let inode = running.metadata().unwrap().ino();
    apply(&node.install("one"));
    assert_ne!(fs::metadata(node.folder.place("bridge")).unwrap().ino(), inode);
    // Kept is the very file, not a copy of it.
    assert_eq!(fs::metadata(node.folder.own().join("kept/bridge")).unwrap().ino(), inode);
}

#[test]
fn bad_input_changes_nothing() {
    let node = Node::new();
    let files = node.all();
    let mut wanted = node.wanted("one");
    wanted[0].1[2].content = Content::File(node.directory.path().join("one/nowhere"));
    let error = Plan::install(&wanted, true).unwrap_err().to_string();
    assert!(error.contains("no nowhere in") && error.contains("--source"), "{error}");
    fs::create_dir(node.folder.place("tun")).unwrap();
    assert!(matches!(Plan::install(&node.wanted("one"), true), Err(Error::Occupied(_))));
    fs::remove_dir(node.folder.place("tun")).unwrap();
    assert_eq!(node.all(), files);

    apply(&node.install("one"));
    fs::write(node.folder.own().join("manifest.json"), Manifest::default().to_text().replace("1", "9")).unwrap();
    for error in [Plan::uninstall(std::slice::from_ref(&node.folder)), Plan::install(&node.wanted("two"), true)] {
        assert!(matches!(error, Err(Error::Manifest { .. })));
    }
}

#[test]
fn only_one_changes_a_folder_at_a_time() {
    let node = Node::new();
    assert!(Folder::new(node.directory.path().join("missing")).lock().unwrap().is_none());
    let lock = node.folder.lock().unwrap();
    let (sender, done) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            drop(node.folder.lock().unwrap());
            sender.send(()).unwrap();
        });
        assert!(done.recv_timeout(std::time::Duration::from_millis(50)).is_err(), "it is locked");
        drop(lock);
        done.recv_timeout(std::time::Duration::from_secs(10)).unwrap();
    });
}
