//! `docs/install.md` does what it says.

use std::fs;

use adit_integration::{scripts::root, tunnels::lab_with_agents};
use adit_lab::{Attachment, LabSpec, Nad};
use libtest_mimic::Failed;

use crate::node::Root;

type Outcome = Result<(), Failed>;

fn guide() -> Result<String, Failed> {
    Ok(fs::read_to_string(root().join("docs/install.md"))?)
}

/// The commands on a node, in their order, below a directory.
pub fn commands() -> Outcome {
    let guide = guide()?;
    let lines: Vec<&str> = guide.lines().filter_map(|line| line.strip_prefix("$ sudo ")).collect();
    let adit: Vec<&str> =
        lines.iter().filter_map(|line| line.strip_prefix("dist/adit ").or(line.strip_prefix("adit "))).collect();
    assert!(adit.len() >= 4, "{lines:?}");
    let node = Root::new()?;
    let before = node.files()?;
    for line in &adit {
        let line = line.split(" #").next().unwrap_or(line);
        node.adit(line)?.ok().map_err(|error| format!("{line}: {error}"))?;
    }
    assert!(adit.iter().any(|line| line.starts_with("install")));
    assert!(adit.last().is_some_and(|line| line.starts_with("uninstall")), "{adit:?}");
    let now = node.files()?;
    let left: Vec<_> = now.keys().filter(|path| !before.contains_key(*path) && !path.is_dir()).collect();
    assert!(left.is_empty(), "{left:?}");
    Ok(())
}

/// Its network, with the plugins as they are installed and no others.
pub fn network() -> Outcome {
    let guide = guide()?;
    let network = guide.split("```json\n").nth(1).and_then(|rest| rest.split("```").next()).ok_or("no network")?;
    let node = Root::new()?;
    node.adit("install --plugins-only")?.ok()?;
    let lab = lab_with_agents(&LabSpec::two_clusters(Attachment::Bridge))?;
    lab.ohio().set_plugin_path(&[&node.bin("")]);
    let annotation = r#"[{"name": "ohio", "ips": ["10.10.1.200/24"]}]"#;
    let pod = lab.ohio().pod("example").attach(Nad::new("ohio", network), annotation)?;
    assert_eq!(pod.interface_names()?, ["lo", "net1", "tun"]);
    pod.check()?;
    // The plain name is not ours.
    let plain = network.replace("adit-static", "static").replace("adit-bridge", "bridge");
    let refused = lab.ohio().pod("other").attach(Nad::new("ohio", plain), annotation);
    assert!(refused.is_err_and(|error| error.to_string().contains("bridge")));
    pod.delete()?;
    Ok(())
}

pub fn files() -> Outcome {
    let guide = guide()?;
    let words: Vec<&str> = guide
        .split(|c: char| c.is_whitespace() || "`()[],;".contains(c))
        .map(|word| word.trim_start_matches("../").trim_end_matches(['.', ':']))
        .filter(|word| ["conf/", "scripts/", "docs/"].iter().any(|room| word.starts_with(room)))
        .collect();
    assert!(words.len() > 5, "{words:?}");
    for word in words {
        assert!(root().join(word).exists(), "{word}");
    }
    let readme = fs::read_to_string(root().join("README.md"))?;
    assert!(readme.contains("(docs/install.md)"));
    Ok(())
}
