//! Runtimes of others call our plugins: libcni's own `cnitool`, and podman with its CNI backend. (containerd and Multus do in the
//! clusters of `scripts/k8s`.)

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use adit_integration::{
    sealed::{KeyPair, install_key},
    trial,
    tunnels::{FIRST_POD, Family, annotation, lab_with_agents, list, net1, outer, tun, tunnels, with},
};
use adit_lab::{Attachment, Binaries, Error, Host, Lab, LabSpec, Pod, Ran, Result, run};
use libtest_mimic::Failed;
use serde_json::{Value, json};

type Outcome = std::result::Result<(), Failed>;

const DEADLINE: Duration = Duration::from_secs(60);
const PODMAN: &str = "/usr/bin/podman";
const BUSYBOX: &str = "/bin/busybox";

fn main() {
    let has = |needed: &[&Path]| {
        let missing = needed.iter().find(|path| !path.is_file());
        if let Some(missing) = missing {
            eprintln!("left out: {} is missing", missing.display());
        }
        missing.is_none()
    };
    let cnitool = cnitool();
    let trials = vec![
        trial("cnitool_adds_checks_and_deletes_our_list", with_cnitool).with_ignored_flag(!has(&[&cnitool])),
        trial("podman_runs_a_container_on_our_bridge", with_podman)
            .with_ignored_flag(!has(&[Path::new(PODMAN), Path::new(BUSYBOX)])),
    ];
    adit_integration::main(trials);
}

/// Where `scripts/reference` puts it.
fn cnitool() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
    cache.join("adit-tools/reference-1.9.1/cnitool")
}

/// Ohio's node is to run something with our plugins; Mumbai's pod is there.
struct World {
    /// The plugins of a list, for a runtime that knows no annotation: `net1`, and a tunnel on top of it.
    plugins: [Value; 2],
    mumbai: Pod,
    lab: Lab,
}

fn world() -> std::result::Result<World, Failed> {
    let lab = lab_with_agents(&LabSpec::two_clusters(Attachment::Bridge))?;
    let (here, there) = (lab.ohio(), lab.mumbai());
    // A runtime that is not Kubernetes' names no namespace.
    let (ours, theirs) = (KeyPair::new()?, KeyPair::new()?);
    install_key(here, "_", "tunnel.key", &ours.private)?;
    install_key(there, "default", "tunnel.key", &theirs.private)?;
    let own = |peer, inner, public: &str| {
        let sealed = json!({ "encryption": null, "publicKey": public, "privateKeyFile": "tunnel.key" });
        with(tun(outer(peer, Family::V4, FIRST_POD), inner), &sealed)
    };
    let nad = list("joined", &[net1(&lab, there), own(here, "10.4.0.2/30", &ours.public)]);
    let mumbai = there.pod("far").attach(nad, &annotation("joined", there, FIRST_POD))?;
    let mut below = net1(&lab, here);
    let addresses = here.number().pods(Host(FIRST_POD)).map(|address| json!({ "address": address }));
    below["ipam"]["addresses"] = json!(addresses);
    let plugins = [below, own(there, "10.4.0.1/30", &theirs.public)];
    Ok(World { plugins, mumbai, lab })
}

impl World {
    /// A directory with a list of these plugins in it.
    fn configured(&self, version: &str, plugins: &[Value]) -> Result<PathBuf> {
        let directory = self.lab.directory("net.d")?;
        let list = json!({ "cniVersion": version, "name": "joined", "plugins": plugins });
        write(&directory.join("10-joined.conflist"), &list.to_string())?;
        Ok(directory)
    }

    /// A program on Ohio's node, whose plugins meet Ohio's agent.
    fn on_node(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let node = self.lab.ohio();
        let mut command = node.command(program);
        command.env("ADIT_RUN_DIR", node.run_dir()).env("ADIT_CONFIG_DIR", node.config_dir());
        command
    }

    fn nothing_is_left(&self) -> Outcome {
        assert_eq!(tunnels(self.lab.ohio())?, Vec::<Value>::new());
        assert_eq!(self.lab.ohio().agent_fds()?.tun, 0);
        Ok(())
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(|source| Error::Io { action: format!("write {}", path.display()), source })
}

fn with_cnitool() -> Outcome {
    let world = world()?;
    let directory = world.configured("1.1.0", &world.plugins)?;
    let pod = world.lab.ohio().pod("tool").bare()?;
    let call = |verb: &str| -> Result<Ran> {
        let mut command = world.on_node(cnitool());
        command.env("NETCONFPATH", &directory).env("CNI_PATH", Binaries::get()?.directory());
        command.env("CNI_IFNAME", "net1").args([verb, "joined"]).arg(pod.path());
        run(command, None, DEADLINE)?.ok()
    };
    call("add")?;
    pod.ping("10.4.0.2")?.all_received()?;
    call("check")?;
    call("del")?;
    call("del")?;
    assert_eq!(pod.interface_names()?, ["lo"]);
    world.nothing_is_left()
}

/// Without the tunnel: podman refuses a result in which an interface of the container has no hardware address, as no tunnel has.
fn with_podman() -> Outcome {
    let world = world()?;
    let directory = world.configured("1.0.0", &world.plugins[..1])?;
    let home = world.lab.directory("podman")?;
    let rootfs = home.join("rootfs/bin");
    fs::create_dir_all(&rootfs)?;
    fs::copy(BUSYBOX, rootfs.join("busybox"))?;
    for name in ["sleep", "ping", "ip"] {
        symlink("busybox", rootfs.join(name))?;
    }
    run(tar(&home), None, DEADLINE)?.ok()?;
    let settings = home.join("containers.conf");
    let plugins = Binaries::get()?.directory().display();
    write(
        &settings,
        &format!(
            "[engine]\nruntime = \"runc\"\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\ntmp_dir = \"{home}/tmp\"\n\
             [containers]\ndefault_sysctls = []\ndefault_ulimits = []\n\
             [network]\nnetwork_backend = \"cni\"\ncni_plugin_dirs = [\"{plugins}\"]\nnetwork_config_dir = \"{}\"\n",
            directory.display(),
            home = home.display()
        ),
    )?;
    let podman = |line: &[&str]| -> Result<Ran> {
        let mut command = world.on_node(PODMAN);
        command.env("CONTAINERS_CONF", &settings).args(["--storage-driver", "vfs"]);
        command.arg("--root").arg(home.join("root")).arg("--runroot").arg(home.join("run")).args(line);
        run(command, None, DEADLINE)
    };
    let image = home.join("image.tar").display().to_string();
    podman(&["import", "-q", &image, "localhost/busybox:1"])?.ok()?;
    let name = format!("{}-container", world.lab.prefix());
    let groups = format!("/{}", world.lab.prefix());
    let container = Container { remove: &|| podman(&["rm", "-f", "-t", "0", &name]), groups: &groups };
    // No capability, nor root; what keeps others out of the namespace is for another test.
    let options = ["--ulimit", "host", "--security-opt", "seccomp=unconfined", "--cap-drop", "all", "--user", "65534"];
    let options = [options.as_slice(), &["--cgroup-parent", &groups]].concat();
    let line = [&["run", "-d", "--pull", "never", "--name", &name, "--network", "joined"], options.as_slice()].concat();
    podman(&[line.as_slice(), &["localhost/busybox:1", "/bin/sleep", "600"]].concat())?.ok()?;

    let here = outer(world.lab.ohio(), Family::V4, FIRST_POD);
    let addresses = podman(&["exec", &name, "/bin/ip", "address"])?.ok()?.stdout;
    assert!(addresses.contains(&format!("{here}/24")), "{addresses}");
    world.mumbai.ping(here)?.all_received()?;
    let inspected = podman(&["inspect", &name])?.ok()?.stdout;
    assert!(inspected.contains(&here.to_string()), "{inspected}");

    drop(container);
    world.mumbai.ping_with(here, &["-c", "1", "-W", "1"])?.none_received()?;
    Ok(())
}

fn tar(home: &Path) -> Command {
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(home.join("rootfs")).arg("-cf").arg(home.join("image.tar")).arg(".");
    tar
}

/// A container that goes in any case, and with it the control groups that were made for it.
struct Container<'a> {
    remove: &'a dyn Fn() -> Result<Ran>,
    groups: &'a str,
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        if let Err(error) = (self.remove)().and_then(Ran::ok) {
            eprintln!("{error}");
        }
        // One hierarchy, or one for each controller.
        let roots = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path());
        for root in roots.chain([PathBuf::from("/sys/fs/cgroup")]) {
            let group = root.join(self.groups.trim_start_matches('/'));
            for empty in fs::read_dir(&group).into_iter().flatten().flatten().map(|entry| entry.path()) {
                let _ = fs::remove_dir(empty);
            }
            let _ = fs::remove_dir(group);
        }
    }
}
