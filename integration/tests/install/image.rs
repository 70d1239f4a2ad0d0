//! The image, made without a container engine.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use adit_integration::scripts::{root, script};
use adit_lab::{Attachment, Binaries, COMMAND_DEADLINE, Lab, LabSpec, run};
use libtest_mimic::Failed;
use serde_json::{Value, json};

type Outcome = Result<(), Failed>;

/// The words after an instruction of the Dockerfile.
fn instructions(name: &str) -> Result<Vec<String>, Failed> {
    let text = fs::read_to_string(root().join("conf/install/Dockerfile"))?;
    let lines = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(lines.map(str::to_owned).collect())
}

fn tar(arguments: &[&str], directory: &Path) -> Result<String, Failed> {
    let mut tar = Command::new("tar");
    tar.args(arguments).current_dir(directory);
    Ok(run(tar, None, COMMAND_DEADLINE)?.ok()?.stdout)
}

fn digest(path: &Path) -> Result<String, Failed> {
    let mut sum = Command::new("sha256sum");
    sum.arg(path);
    Ok(run(sum, None, COMMAND_DEADLINE)?.ok()?.stdout.split(' ').next().unwrap_or_default().to_owned())
}

pub fn image() -> Outcome {
    let lab = Lab::build(&LabSpec::new(Attachment::Bridge).cluster("ohio", 1))?;
    let directory = lab.directory("image")?;
    let from = Binaries::get()?.directory();
    let make = |name: &str| -> Outcome {
        let file = directory.join(name).display().to_string();
        let from = from.display().to_string();
        script("scripts/image", &["--from", &from, "--tag", "localhost/adit:test", &file], COMMAND_DEADLINE)?.ok()?;
        Ok(())
    };
    make("one.tar")?;
    make("two.tar")?;
    assert!(fs::read(directory.join("one.tar"))? == fs::read(directory.join("two.tar"))?, "two archives differ");

    tar(&["-xf", "one.tar"], &directory)?;
    let manifest: Value = serde_json::from_slice(&fs::read(directory.join("manifest.json"))?)?;
    assert_eq!(manifest[0]["RepoTags"], json!(["localhost/adit:test"]));
    assert_eq!(manifest[0]["Layers"], json!(["layer.tar"]));
    let name = manifest[0]["Config"].as_str().ok_or("no configuration")?;
    assert_eq!(format!("{}.json", digest(&directory.join(name))?), name);
    let config: Value = serde_json::from_slice(&fs::read(directory.join(name))?)?;
    let layer = digest(&directory.join("layer.tar"))?;
    assert_eq!(config["rootfs"], json!({ "type": "layers", "diff_ids": [format!("sha256:{layer}")] }));
    assert_eq!(config["os"], "linux");
    assert_eq!(config["architecture"], if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" });

    // As the Dockerfile says.
    assert_eq!(instructions("FROM")?, ["scratch"]);
    let entrypoint: Value = serde_json::from_str(&instructions("ENTRYPOINT")?.concat())?;
    assert_eq!(config["config"]["Entrypoint"], entrypoint);
    assert_eq!(config["config"]["Env"], json!(["PATH=/usr/local/bin"]));
    assert_eq!(instructions("ENV")?, [r#"PATH="/usr/local/bin""#]);
    let labels: BTreeMap<String, String> = instructions("LABEL")?
        .iter()
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.trim_matches('"').to_owned()))
        .collect();
    assert_eq!(config["config"]["Labels"], json!(labels));
    assert_eq!(labels["org.opencontainers.image.version"], env!("CARGO_PKG_VERSION"));

    // Programs, root's, whole, and nothing else.
    let copied = instructions("COPY")?.concat();
    let (programs, target) = copied.rsplit_once(' ').ok_or("nothing is copied")?;
    assert_eq!(target, "/usr/local/bin/");
    let mut wanted: Vec<String> =
        ["usr/", "usr/local/", "usr/local/bin/"].map(|path| format!("drwxr-xr-x 0/0 {path}")).to_vec();
    wanted.extend(programs.split(' ').map(|name| format!("-rwxr-xr-x 0/0 usr/local/bin/{name}")));
    let listed = tar(&["--numeric-owner", "-tvf", "layer.tar"], &directory)?;
    let words = listed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let listed: Vec<String> =
        words.map(|words| format!("{} {} {}", words[0], words[1], words[words.len() - 1])).collect();
    assert_eq!(listed, wanted);
    assert_eq!(programs, "adit aditd bridge macvlan static tun");
    tar(&["-xf", "layer.tar"], &directory)?;
    for name in programs.split(' ') {
        assert!(fs::read(directory.join("usr/local/bin").join(name))? == fs::read(from.join(name))?, "{name}");
    }
    Ok(())
}
