//! `adit install` on a node whose files are below a directory.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, BufRead as _},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use adit_lab::{Attachment, Binaries, COMMAND_DEADLINE, Lab, LabSpec, Ran, nad::in_workspace, run};
use libtest_mimic::Failed;
use serde_json::json;

type Outcome = Result<(), Failed>;

/// Where Debian has the reference plugins.
const REFERENCE: &str = "/usr/lib/cni";

/// A node's files; they go with the lab.
pub struct Root {
    _lab: Lab,
    pub path: PathBuf,
    source: PathBuf,
}

impl Root {
    pub fn new() -> Result<Self, Failed> {
        let lab = Lab::build(&LabSpec::new(Attachment::Bridge).cluster("ohio", 1))?;
        let path = lab.directory("root")?;
        Ok(Self { _lab: lab, path, source: Binaries::get()?.directory().to_owned() })
    }

    /// With small files in place of the programs.
    pub fn with_small_programs() -> Result<Self, Failed> {
        let mut root = Self::new()?;
        root.source = root._lab.directory("small")?;
        for name in ["bridge", "macvlan", "static", "tun", "aditd", "adit"] {
            fs::write(root.source.join(name), format!("ours: {name}"))?;
        }
        Ok(root)
    }

    pub fn bin(&self, name: &str) -> PathBuf {
        self.path.join("opt/cni/bin").join(name)
    }

    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) -> Outcome {
        let path = self.path.join(path);
        fs::create_dir_all(path.parent().ok_or("no directory")?)?;
        fs::write(&path, content)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(())
    }

    /// The arguments of a command line of this node.
    pub fn arguments(&self, line: &str) -> Vec<String> {
        let mut arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        arguments.extend(["--root".into(), self.path.display().to_string()]);
        if line.starts_with("install") && !line.contains("--check") {
            arguments.extend(["--source".into(), self.source.display().to_string()]);
        }
        arguments
    }

    pub fn adit(&self, line: &str) -> Result<Ran, Failed> {
        let mut adit = Command::new(Binaries::get()?.program("adit")?);
        adit.args(self.arguments(line)).env_remove("ADIT_RUN_DIR").env_remove("ADIT_CONFIG_DIR");
        Ok(run(adit, None, COMMAND_DEADLINE)?)
    }

    /// Every file and link, with its content; `.adit` too.
    pub fn files(&self) -> Result<BTreeMap<PathBuf, Vec<u8>>, Failed> {
        fn walk(path: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) -> io::Result<()> {
            for entry in fs::read_dir(path)? {
                let path = entry?.path();
                let kind = path.symlink_metadata()?;
                if kind.is_dir() {
                    found.insert(path.clone(), b"directory".to_vec());
                    walk(&path, found)?;
                } else if kind.is_symlink() {
                    found.insert(path.clone(), fs::read_link(&path)?.into_os_string().into_encoded_bytes());
                } else {
                    found.insert(path.clone(), fs::read(&path)?);
                }
            }
            Ok(())
        }
        let mut found = BTreeMap::new();
        walk(&self.path, &mut found)?;
        Ok(found)
    }

    pub fn must_be(&self, expected: &BTreeMap<PathBuf, Vec<u8>>) -> Outcome {
        let now = self.files()?;
        if now == *expected {
            return Ok(());
        }
        let differs = |path: &&PathBuf| now.get(*path) != expected.get(*path);
        let paths: Vec<&PathBuf> = now.keys().chain(expected.keys()).filter(differs).collect();
        Err(format!("not as it was: {paths:?}").into())
    }
}

/// What a plugin says of itself.
fn version(plugin: &Path) -> Result<String, Failed> {
    let mut plugin = Command::new(plugin);
    plugin.env("CNI_COMMAND", "VERSION");
    Ok(run(plugin, Some(br#"{"cniVersion":"1.1.0"}"#), COMMAND_DEADLINE)?.json()?["supportedVersions"].to_string())
}

pub fn beside() -> Outcome {
    let root = Root::new()?;
    root.write("opt/cni/bin/bridge", "#!/bin/sh\nexit 1\n")?;
    let before = root.files()?;
    let said = root.adit("install --plugins-only")?.ok()?.stdout;
    assert!(said.contains("adit-bridge, adit-macvlan, adit-static, tun"), "{said}");
    for name in ["adit-bridge", "adit-macvlan", "adit-static", "tun"] {
        assert!(version(&root.bin(name))?.contains("1.1.0"), "{name}");
    }
    assert_eq!(fs::read(root.bin("bridge"))?, b"#!/bin/sh\nexit 1\n");
    // What lists the directory finds programs only, but for one hidden directory that others cannot enter.
    assert_eq!(fs::metadata(root.bin(".adit"))?.permissions().mode() & 0o777, 0o700);

    root.adit("install --check --plugins-only")?.ok()?;
    let installed = root.files()?;
    root.adit("install --plugins-only")?.ok()?;
    root.must_be(&installed)?;
    fs::write(root.bin("tun"), "")?;
    let said = root.adit("install --check --plugins-only")?.fails()?.stderr;
    assert!(said.contains("bin/tun is not what was installed"), "{said}");
    root.adit("install --plugins-only")?.ok()?;
    assert!(version(&root.bin("tun"))?.contains("1.1.0"));

    // What replaced our tun was taken for somebody else's, and is put back.
    root.adit("uninstall --plugins-only")?.ok()?;
    assert_eq!(fs::read(root.bin("tun"))?, b"");
    fs::remove_file(root.bin("tun"))?;
    root.must_be(&before)?;
    root.adit("uninstall --plugins-only")?.ok()?;
    root.adit("install --check --plugins-only")?.fails()?;
    root.must_be(&before)
}

pub fn replaced() -> Outcome {
    let root = Root::new()?;
    for name in ["bridge", "macvlan", "static", "host-local"] {
        root.write(&format!("opt/cni/bin/{name}"), fs::read(Path::new(REFERENCE).join(name))?)?;
    }
    // As an archive of the reference may leave it.
    chown(root.bin("bridge"), Some(1001), Some(1001))?;
    let before = root.files()?;
    let said = root.adit("install --plugins-only --prefix=")?.ok()?.stdout;
    assert!(said.contains("bin/bridge is somebody else's: it is kept"), "{said}");
    for name in ["bridge", "macvlan", "static", "tun"] {
        assert!(version(&root.bin(name))?.contains("1.1.0"), "{name}");
    }
    assert!(!version(&root.bin("host-local"))?.contains("1.1.0"), "the reference is too new to tell them apart");
    root.adit("uninstall --plugins-only")?.ok()?;
    root.must_be(&before)?;
    assert_eq!(fs::metadata(root.bin("bridge"))?.uid(), 1001);

    root.adit("install --plugins-only --replace")?.ok()?;
    root.adit("uninstall --plugins-only")?.ok()?;
    assert!(!root.bin("bridge").exists() && root.bin("host-local").exists());
    Ok(())
}

pub fn running() -> Outcome {
    let root = Root::new()?;
    root.write("opt/cni/bin/tun", fs::read("/bin/sleep")?)?;
    let place = root.bin("tun");
    let mut old = Command::new(&place).arg("60").stdin(Stdio::null()).spawn()?;
    let outcome = (|| {
        // The trap is there.
        let error = fs::OpenOptions::new().write(true).open(&place).err();
        assert_eq!(error.map(|error| error.kind()), Some(io::ErrorKind::ExecutableFileBusy));
        root.adit("install --plugins-only")?.ok()?;
        assert!(version(&place)?.contains("1.1.0"));
        assert!(old.try_wait()?.is_none(), "it ended");
        root.adit("uninstall --plugins-only")?.ok()?;
        assert!(old.try_wait()?.is_none(), "it ended");
        assert_eq!(fs::read(&place)?, fs::read("/bin/sleep")?);
        Ok(())
    })();
    old.kill()?;
    old.wait()?;
    outcome
}

pub fn service() -> Outcome {
    let root = Root::new()?;
    let before = root.files()?;
    let said = root.adit("install")?.ok()?.stdout;
    assert!(said.contains("name it with --bin-dir"), "{said}");
    for program in ["aditd", "adit"] {
        let mut version = Command::new(root.path.join("usr/local/bin").join(program));
        version.arg("--version");
        let said = run(version, None, COMMAND_DEADLINE)?.ok()?.stdout;
        assert_eq!(said.trim(), format!("{program} {}", env!("CARGO_PKG_VERSION")));
    }
    let unit = root.path.join("etc/systemd/system/aditd.service");
    assert_eq!(fs::read(&unit)?, fs::read(in_workspace(Path::new("conf/systemd/aditd.service")))?);
    assert_eq!(fs::metadata(&unit)?.permissions().mode() & 0o777, 0o644);
    let wanted = root.path.join("etc/systemd/system/multi-user.target.wants/aditd.service");
    assert_eq!(fs::read_link(&wanted)?, Path::new("/etc/systemd/system/aditd.service"), "it is not enabled");
    root.adit("install --check")?.ok()?;

    // Keys are a person's, and stay.
    root.write("etc/adit/node.secret", "secret")?;
    let said = root.adit("uninstall")?.ok()?.stdout;
    assert!(said.contains("keeps the keys"), "{said}");
    assert_eq!(fs::read(root.path.join("etc/adit/node.secret"))?, b"secret");
    assert!(!unit.exists() && wanted.symlink_metadata().is_err());
    root.adit("install")?.ok()?;
    root.adit("uninstall --purge")?.ok()?;
    // Only systemctl's own directory, which it leaves behind.
    let now = root.files()?;
    let left: Vec<_> = now.keys().filter(|path| !before.contains_key(*path)).collect();
    let is_systemctls = |path: &&&PathBuf| wanted.ancestors().any(|above| above == path.as_path());
    assert!(left.iter().all(|path| is_systemctls(&path)), "{left:?}");
    Ok(())
}

/// The node itself, as it would be: with a systemd that runs, and directories of its own that go with the mount namespace.
pub fn systemd() -> Outcome {
    const SCRIPT: &str = r#"
        for directory in /opt /usr/local/bin /etc/systemd/system /var/lib /run; do mount -t tmpfs none $directory; done
        mkdir -p /opt/fake /run/systemd/system
        printf '#!/bin/sh\necho "$@" >>/opt/log\n[ "$1" != "$(cat /opt/refused)" ]\n' >/opt/fake/systemctl
        chmod 0755 /opt/fake/systemctl
        touch /opt/refused
        PATH=/opt/fake:$PATH
        step() { shift; "$@" >/opt/said 2>&1 && echo ok || cat /opt/said; cat /opt/log; rm -f /opt/log; }
        step 1 $PROGRAMS/adit install
        step 2 $PROGRAMS/adit install
        echo changed >>/etc/systemd/system/aditd.service
        echo restart >/opt/refused
        step 3 $PROGRAMS/adit install
        cmp /etc/systemd/system/aditd.service $UNIT && ls /usr/local/bin
        step 4 /usr/local/bin/adit uninstall
        cat /etc/systemd/system/aditd.service | tail -1
        ls -A /usr/local/bin
        [ ! -e /opt/cni ]
    "#;
    let mut shell = Command::new("unshare");
    shell.args(["--mount", "sh", "-euc", SCRIPT]);
    shell.env("PROGRAMS", Binaries::get()?.directory());
    shell.env("UNIT", in_workspace(Path::new("conf/systemd/aditd.service")));
    let ran = run(shell, None, COMMAND_DEADLINE)?.ok()?;
    let said: Vec<&str> = ran.stdout.lines().collect();
    let expected = [
        "ok",
        "daemon-reload",
        "enable aditd.service",
        "restart aditd.service",
        "ok",
        "daemon-reload",
        "enable aditd.service",
        "start aditd.service",
        "adit: `systemctl restart aditd.service` failed: ; the files are in place, `journalctl -u aditd` may say more",
        "daemon-reload",
        "enable aditd.service",
        "restart aditd.service",
        "adit",
        "aditd",
        "ok",
        "disable --now aditd.service",
        "daemon-reload",
        // What somebody had changed was his, and is back.
        "changed",
    ];
    assert_eq!(said, expected);
    Ok(())
}

pub fn needed() -> Outcome {
    let root = Root::new()?;
    root.write("opt/cni/bin/bridge", "theirs")?;
    root.adit("install --plugins-only --prefix=")?.ok()?;
    let installed = root.files()?;
    // {"type":"tun"} in base64, as libcni writes configurations down.
    let cached =
        json!({ "kind": "cniCacheV1", "containerId": "c1", "ifName": "net1", "config": "eyJ0eXBlIjoidHVuIn0=" });
    root.write("var/lib/cni/results/ohio-c1-net1", cached.to_string())?;
    let said = root.adit("uninstall --plugins-only")?.fails()?.stderr;
    assert!(said.contains("c1 net1") && said.contains("--force"), "{said}");
    // {"type":"bridge"}: there will be a bridge afterwards, which removes what ours has made.
    let cached = cached.to_string().replace("eyJ0eXBlIjoidHVuIn0=", "eyJ0eXBlIjoiYnJpZGdlIn0=");
    root.write("var/lib/cni/results/ohio-c1-net1", cached)?;
    root.adit("uninstall --plugins-only --dry-run")?.ok()?;

    root.write("run/adit/attachments/c2:net1:tun.json", "no record that anybody could read")?;
    let said = root.adit("uninstall --plugins-only")?.fails()?.stderr;
    assert!(said.contains("c2:net1:tun"), "{said}");
    for path in ["run", "var"] {
        fs::remove_dir_all(root.path.join(path))?;
    }
    root.must_be(&installed)?;
    root.write("run/adit/attachments/c2:net1:tun.json", "")?;
    root.adit("uninstall --plugins-only --force")?.ok()?;
    assert!(!root.bin("tun").exists() && root.path.join("run/adit/attachments/c2:net1:tun.json").exists());
    Ok(())
}

pub fn stays() -> Outcome {
    let root = Root::new()?;
    let before = root.files()?;
    root.adit("install --plugins-only")?.ok()?;
    let mut adit = Command::new(Binaries::get()?.program("adit")?);
    adit.args(root.arguments("uninstall --plugins-only --stay")).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut staying = adit.spawn()?;
    let outcome = (|| {
        let mut said = String::new();
        io::BufReader::new(staying.stdout.take().ok_or("no stdout")?).read_line(&mut said)?;
        assert_eq!(said, "uninstalled\n");
        assert!(staying.try_wait()?.is_none(), "it ended");
        root.must_be(&before)?;
        // Whoever comes next need not wait for it.
        root.adit("install --plugins-only")?.ok()?;
        Ok(())
    })();
    staying.kill()?;
    staying.wait()?;
    outcome
}

pub fn dry_run() -> Outcome {
    let root = Root::new()?;
    root.write("opt/cni/bin/tun", "theirs")?;
    let before = root.files()?;
    let said = root.adit("install --dry-run")?.ok()?.stdout;
    let place = |name: &str| root.bin(name).display().to_string();
    for words in [
        format!("keep {}", place("tun")),
        format!("as {}", place("adit-bridge")),
        "enable aditd.service".to_owned(),
        "usr/local/bin/aditd".to_owned(),
    ] {
        assert!(said.contains(&words), "no {words:?} in:\n{said}");
    }
    root.must_be(&before)?;
    root.adit("install --plugins-only")?.ok()?;
    let installed = root.files()?;
    let said = root.adit("uninstall --plugins-only --dry-run")?.ok()?.stdout;
    assert!(said.contains(&format!("put back what was kept as {}", place("tun"))), "{said}");
    assert!(said.contains(&format!("remove {}", place("adit-static"))), "{said}");
    root.must_be(&installed)
}

pub fn refused() -> Outcome {
    let root = Root::new()?;
    root.write("opt/cni/bin/tun/file", "theirs")?;
    let before = root.files()?;
    let said = root.adit("install")?.fails()?.stderr;
    assert!(said.contains("bin/tun is a directory"), "{said}");
    root.must_be(&before)?;
    let mut elsewhere = Command::new(Binaries::get()?.program("adit")?);
    elsewhere.args(["install", "--root"]).arg(&root.path).args(["--source", "/nowhere"]);
    let said = run(elsewhere, None, COMMAND_DEADLINE)?.fails()?.stderr;
    assert!(said.contains("no bridge in /nowhere") && said.contains("--source"), "{said}");
    root.must_be(&before)?;

    // The last of three directories cannot be made: the first two are as they were.
    fs::remove_dir_all(root.bin("tun"))?;
    root.write("etc/systemd", "a file")?;
    let before = root.files()?;
    root.adit("install")?.fails()?;
    root.must_be(&before)
}
