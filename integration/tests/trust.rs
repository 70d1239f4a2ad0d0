//! Who is believed: the pod's own processes, strangers on the underlay, peers.

use std::{net::SocketAddr, time::Duration};

use adit_integration::{
    trial,
    tunnels::{FIRST_POD, Family, Pair, dropped, outer},
};
use adit_lab::{Attachment, Checksum, Datagram, eventually};
use libtest_mimic::Failed;

type Outcome = Result<(), Failed>;

fn main() {
    adit_integration::main(vec![
        trial("an_unprivileged_process_of_the_pod_cannot_take_the_tun", nobody_takes_the_tun),
        trial("strangers_datagrams_are_dropped_and_counted_by_name_over_ipv4", || strangers(Family::V4)),
        trial("strangers_datagrams_are_dropped_and_counted_by_name_over_ipv6", || strangers(Family::V6)),
        trial("a_datagram_without_outer_checksum_is_dropped_and_counted", zero_checksum),
        trial("the_agents_socket_and_records_are_for_root_alone", files_are_private),
        trial("the_agent_keeps_few_capabilities_and_confines_its_packet_threads", agent_is_confined),
        trial("pods_have_no_capability_and_no_descriptor_of_ours", pods_hold_nothing),
    ]);
}

/// Tries to attach to the device by the same ioctl that a tunnel program uses (TUNSETIFF). Perl is on every Debian.
const ATTACH: &str = r#"
$| = 1;
open(my $device, "+<", "/mnt/tun") or die "open: $!\n";
print "opened\n";
ioctl($device, 0x400454ca, pack("a16Sx22", $ARGV[0], oct($ARGV[1]))) or die "TUNSETIFF: $!\n";
print "attached\n";
"#;

fn nobody_takes_the_tun() -> Outcome {
    let pair = Pair::usual()?;
    // A container that was given the device: a node of its own that everybody may open.
    let device = "mount -t tmpfs -o dev none /mnt && mknod -m 666 /mnt/tun c 10 200 && exec \"$@\"";
    let attempt = |flags: &str| {
        pair.ohio.root(
            ["unshare", "--mount", "sh", "-c", device, "sh", "setpriv", "--reuid=65534", "--regid=65534"]
                .into_iter()
                .chain([
                    "--clear-groups",
                    "--bounding-set=-all",
                    "--no-new-privs",
                    "--",
                    "perl",
                    "-e",
                    ATTACH,
                    "tun",
                    flags,
                ]),
        )
    };
    // While the agent holds it, and while nobody does: IFF_TUN | IFF_NO_PI, without and with IFF_VNET_HDR.
    for flags in ["0x1001", "0x5001"] {
        let ran = attempt(flags)?.fails()?;
        assert!(ran.stdout.contains("opened") && !ran.stdout.contains("attached"), "{ran:?}");
    }
    pair.lab.ohio().kill_agent()?;
    eventually("the device to lose its carrier", Duration::from_secs(5), || {
        Ok(pair.ohio.interface("tun")?.has("NO-CARRIER").then_some(()))
    })?;
    for flags in ["0x1001", "0x5001"] {
        let ran = attempt(flags)?.fails()?;
        assert!(ran.stdout.contains("opened") && ran.stderr.contains("Operation not permitted"), "{ran:?}");
    }
    Ok(())
}

fn strangers(outside: Family) -> Outcome {
    let pair = Pair::up(Attachment::Bridge, outside, Family::V4)?;
    let (ohio, mumbai) = (pair.lab.ohio(), pair.lab.mumbai());
    let peer = outer(ohio, outside, FIRST_POD);
    let to = SocketAddr::new(outer(mumbai, outside, FIRST_POD), 6090);
    let stranger = outer(ohio, outside, 66);
    let router = pair.lab.router(1)?;
    pair.ohio.ping("10.4.0.2")?.all_received()?;

    let header = |first: u8, index: [u8; 4]| {
        let mut bytes = vec![first, 0, 0, 0];
        bytes.extend(index);
        bytes.extend([0; 24]);
        bytes
    };
    // Type and version in the first byte; an index that is not ours.
    let data = header(0x01, [0xde, 0xad, 0xbe, 0xef]);
    let cases = [
        ("wrong_source", SocketAddr::new(stranger, 6090), data.clone()),
        ("wrong_source", SocketAddr::new(peer, 6091), data.clone()),
        ("unknown_index", SocketAddr::new(peer, 6090), data),
        ("unknown_version", SocketAddr::new(peer, 6090), header(0x0f, [0; 4])),
        ("unknown_type", SocketAddr::new(peer, 6090), header(0xf1, [0; 4])),
        ("runt", SocketAddr::new(peer, 6090), vec![1, 2, 3]),
    ];
    for (reason, from, payload) in cases {
        let before = dropped(mumbai, reason)?;
        for _ in 0..3 {
            router.inject(&Datagram::new(from, to, payload.clone()))?;
        }
        counted(&pair, reason, before + 3)?;
    }
    // None of it harmed the tunnel.
    pair.ohio.ping("10.4.0.2")?.all_received()?;
    Ok(())
}

fn zero_checksum() -> Outcome {
    let pair = Pair::usual()?;
    let from = SocketAddr::new(outer(pair.lab.ohio(), Family::V4, FIRST_POD), 6090);
    let to = SocketAddr::new(outer(pair.lab.mumbai(), Family::V4, FIRST_POD), 6090);
    let datagram = Datagram::new(from, to, vec![0x01; 64]).with_checksum(Checksum::Zero);
    for _ in 0..5 {
        pair.lab.router(1)?.inject(&datagram)?;
    }
    counted(&pair, "zero_checksum", 5)?;
    pair.ohio.ping("10.4.0.2")?.all_received()?;
    Ok(())
}

/// Waits until Mumbai has counted exactly `expected` datagrams dropped for `reason`.
fn counted(pair: &Pair, reason: &str, expected: u64) -> Outcome {
    let node = pair.lab.mumbai();
    let count =
        eventually(&format!("{expected} datagrams to be dropped for {reason}"), Duration::from_secs(5), || {
            Ok(Some(dropped(node, reason)?).filter(|count| *count >= expected))
        })?;
    assert_eq!(count, expected, "{reason}");
    Ok(())
}

fn files_are_private() -> Outcome {
    let pair = Pair::usual()?;
    let run_dir = pair.lab.ohio().run_dir();
    let mode = |path: std::path::PathBuf| -> std::io::Result<u32> {
        use std::os::unix::fs::PermissionsExt as _;
        Ok(std::fs::metadata(path)?.permissions().mode() & 0o7777)
    };
    assert_eq!(mode(run_dir.join("agent.sock"))?, 0o600);
    assert_eq!(mode(run_dir.join("attachments"))?, 0o700);
    for record in std::fs::read_dir(run_dir.join("attachments"))? {
        assert_eq!(mode(record?.path())?, 0o600);
    }
    Ok(())
}

fn agent_is_confined() -> Outcome {
    let pair = Pair::usual()?;
    let pid = pair.lab.ohio().agent_pid().ok_or("no agent")?;
    let field = |path: String, key: &str| -> Result<String, Failed> {
        let text = std::fs::read_to_string(path)?;
        let line = text.lines().find_map(|line| line.strip_prefix(key)).ok_or("no such field")?;
        Ok(line.trim_start_matches(':').trim().to_owned())
    };
    // CAP_DAC_READ_SEARCH 2, CAP_NET_ADMIN 12, CAP_NET_RAW 13, CAP_SYS_PTRACE 19, CAP_SYS_ADMIN 21.
    let kept: u64 = (1 << 2) | (1 << 12) | (1 << 13) | (1 << 19) | (1 << 21);
    for set in ["CapEff", "CapPrm", "CapBnd"] {
        let value = u64::from_str_radix(&field(format!("/proc/{pid}/status"), set)?, 16)?;
        assert_eq!(value & !kept, 0, "{set} {value:x}");
    }
    let mut confined = 0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let status = task?.path().join("status");
        let (name, mode) =
            (field(status.display().to_string(), "Name")?, field(status.display().to_string(), "Seccomp")?);
        if name.starts_with("adit-packets") {
            assert_eq!(mode, "2", "{name}");
            confined += 1;
        }
    }
    assert_eq!(confined, 2);
    Ok(())
}

fn pods_hold_nothing() -> Outcome {
    let pair = Pair::usual()?;
    for pod in [&pair.ohio, &pair.mumbai] {
        let capabilities = pod.capabilities()?;
        assert!(capabilities.are_none(), "{capabilities:?}");
        assert_eq!(capabilities.uid, 65534);
        for descriptor in std::fs::read_dir(format!("/proc/{}/fd", pod.pid()))? {
            let target = std::fs::read_link(descriptor?.path())?.display().to_string();
            assert!(!target.contains("tun") && !target.contains("socket"), "{} holds {target}", pod.name());
        }
    }
    Ok(())
}
