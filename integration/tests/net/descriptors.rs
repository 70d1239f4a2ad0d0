//! The TUN device and the UDP socket of a tunnel.

use std::{
    fs::{File, OpenOptions},
    io::{ErrorKind, Read},
    net::{SocketAddr, UdpSocket},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::{Command, ExitCode, Stdio},
    time::Duration,
};

use adit_net::{
    Error, IfName, LinkKind, UdpSpec, create_tun, open_tun, open_udp,
    udp::{RUNT_LEN, ZERO_CHECKSUM_LEN},
};
use nix::{
    errno::Errno,
    libc,
    sys::socket::{getsockopt, sockopt},
};

use crate::{
    Test,
    space::{DEADLINE, Space, connect, eventually},
};

pub const TESTS: &[Test] = &[
    ("a_tun_survives_its_process_and_can_be_attached_to_again", tun_survives),
    ("a_tun_belongs_to_root_and_nobody_else_can_attach", tun_belongs_to_root),
    ("a_second_attachment_is_refused_and_says_why", tun_is_busy),
    ("a_taken_name_is_refused_whatever_holds_it", tun_name_is_taken),
    ("attaching_never_makes_a_device", attaching_makes_nothing),
    ("a_packet_is_read_with_its_header_from_a_non_blocking_tun", packet_is_read),
    ("a_datagram_without_checksum_is_cut_to_one_byte", zero_checksum),
    ("a_short_datagram_is_cut_to_nothing", runt),
    ("a_whole_datagram_passes_whole_over_a_veth", whole_datagram),
    ("a_taken_port_names_address_and_device", port_taken),
    ("the_socket_does_not_block_fragment_or_run_short_of_buffer", socket_options),
    ("an_address_that_is_not_here_is_refused_in_words", address_not_here),
];

const CHILD: &str = "ADIT_TEST_ATTACH";

fn name(text: &str) -> IfName {
    text.parse().unwrap()
}

fn tun_survives(home: &Space) {
    let tun = create_tun(&name("tun")).unwrap();
    home.ip("addr add 10.0.0.1/24 dev tun");
    let link = home.up("tun");
    assert_eq!(link.kind, LinkKind::Tun);
    assert!(link.up && link.lower_up);
    assert!(home.ip("-d link show tun").contains("persist on"));

    drop(tun);
    // A child that another test has just forked holds the descriptor too, until it is a program.
    home.netlink().wait_link("tun", DEADLINE, |link| !link.lower_up).unwrap();
    assert!(home.ip("link show tun").contains("NO-CARRIER"));
    assert!(home.ip("addr show dev tun").contains("10.0.0.1/24"));

    let tun = open_tun(&name("tun")).unwrap();
    assert!(home.link("tun").lower_up);
    assert_eq!(home.link("tun").index, link.index);
    drop(tun);
    assert!(home.netlink().delete_link(link.index).unwrap());
    assert!(open_tun(&name("tun")).unwrap_err().is_not_found());
}

fn tun_belongs_to_root(home: &Space) {
    drop(create_tun(&name("tun")).unwrap());
    assert!(home.ip("-d link show tun").contains("user root"), "{}", home.ip("-d link show tun"));
    // The descriptor of /dev/net/tun is root's: only the owner of the device is in the way.
    assert_eq!(attach_in_child("tun", None), "attached");
    assert_eq!(attach_in_child("tun", Some(65534)), "EPERM");

    // What the owner is for: without one, nobody's process takes the device over.
    home.ip("tuntap add dev unowned mode tun vnet_hdr");
    assert_eq!(attach_in_child("unowned", Some(65534)), "attached");
}

fn tun_is_busy(_home: &Space) {
    let _tun = create_tun(&name("tun")).unwrap();
    let error = open_tun(&name("tun")).unwrap_err();
    assert!(matches!(error, Error::TunBusy { .. }), "{error}");
    assert_eq!(error.errno(), Some(Errno::EBUSY));
    assert!(error.to_string().contains("tun: another process holds it"), "{error}");
}

fn tun_name_is_taken(home: &Space) {
    home.spare("veth");
    let held = create_tun(&name("held")).unwrap();
    drop(create_tun(&name("free")).unwrap());
    for taken in ["veth", "held", "free"] {
        let error = create_tun(&name(taken)).unwrap_err();
        assert!(error.is_exists(), "{taken}: {error}");
        assert!(error.to_string().contains(&format!("create TUN device {taken}")), "{error}");
    }
    drop(held);
    let error = open_tun(&name("veth")).unwrap_err();
    assert!(error.to_string().contains("is no TUN device"), "{error}");
}

fn attaching_makes_nothing(home: &Space) {
    assert!(open_tun(&name("tun")).unwrap_err().is_not_found());
    assert!(home.netlink().link("tun").unwrap().is_none());
}

fn packet_is_read(home: &Space) {
    let mut tun = File::from(create_tun(&name("tun")).unwrap());
    let mut buffer = [0; 2048];
    assert_eq!(tun.read(&mut buffer).unwrap_err().kind(), ErrorKind::WouldBlock);
    home.ip("addr add 10.0.0.1/24 dev tun");
    home.up("tun");
    let sender = UdpSocket::bind("10.0.0.1:0").unwrap();
    sender.send_to(b"hello", "10.0.0.9:9").unwrap();
    let mut length = 0;
    eventually("the packet is read", || match tun.read(&mut buffer) {
        // The link's own IPv6 multicasts come first.
        Ok(n) if buffer[12] >> 4 == 4 => {
            length = n;
            true
        }
        _ => false,
    });
    assert_eq!(length, 12 + 20 + 8 + 5);
    assert!(buffer[..length].ends_with(b"hello"));
}

/// What becomes of a process with the given uid that attaches to `device`.
fn attach_in_child(device: &str, uid: Option<u32>) -> String {
    let mut outcome = String::new();
    eventually("the device is released", || {
        outcome = attempt_in_child(device, uid);
        outcome != "EBUSY"
    });
    outcome
}

fn attempt_in_child(device: &str, uid: Option<u32>) -> String {
    let clone_device = OpenOptions::new().read(true).write(true).open("/dev/net/tun").unwrap();
    let mut command = Command::new("/proc/self/exe");
    command.env(CHILD, device).stdin(Stdio::from(clone_device));
    if let Some(uid) = uid {
        command.uid(uid).gid(uid);
    }
    let output = command.output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

pub fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

pub fn child() -> ExitCode {
    let mut request = [0_u8; 40]; // struct ifreq
    let device = std::env::var(CHILD).unwrap();
    request[..device.len()].copy_from_slice(device.as_bytes());
    let flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request[16..18].copy_from_slice(&u16::try_from(flags).unwrap().to_ne_bytes());
    // SAFETY: standard input is open, and the pointer is to a live struct ifreq.
    let outcome = unsafe { libc::ioctl(0, libc::TUNSETIFF, request.as_ptr()) };
    let answer = match Errno::result(outcome) {
        Ok(_) => "attached".to_owned(),
        Err(errno) => format!("{errno:?}"),
    };
    std::io::Write::write_all(&mut std::io::stdout(), answer.as_bytes()).unwrap();
    ExitCode::SUCCESS
}

struct Ends {
    receiver: UdpSocket,
    to: SocketAddr,
}

/// A tunnel's socket on loopback, made patient so that tests can wait for a datagram.
fn receiver(home: &Space, address: &str) -> Ends {
    home.up("lo");
    let local = SocketAddr::new(address.parse().unwrap(), 6090);
    Ends::new(open_udp(&UdpSpec { local, device: Some(&name("lo")) }).unwrap(), local)
}

impl Ends {
    fn new(fd: OwnedFd, to: SocketAddr) -> Self {
        let receiver = UdpSocket::from(fd);
        receiver.set_nonblocking(false).unwrap();
        receiver.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        Self { receiver, to }
    }

    /// The length a datagram arrives with.
    fn pass(&self, sender: &UdpSocket, length: usize) -> usize {
        sender.send_to(&vec![0x5a; length], self.to).unwrap();
        let mut buffer = [0; 65536];
        let (received, from) = self.receiver.recv_from(&mut buffer).unwrap();
        assert_eq!(from, sender.local_addr().unwrap());
        received
    }
}

fn sender(address: &str) -> UdpSocket {
    UdpSocket::bind((address, 0)).unwrap()
}

fn leave_out_checksum(socket: &UdpSocket) {
    const SO_NO_CHECK: libc::c_int = 11;
    let one: libc::c_int = 1;
    // SAFETY: the socket is open, and the pointer is to a live int of the given length.
    let outcome =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_NO_CHECK, (&raw const one).cast(), 4) };
    Errno::result(outcome).unwrap();
}

fn zero_checksum(home: &Space) {
    let ends = receiver(home, "127.0.0.1");
    let honest = sender("127.0.0.1");
    let careless = sender("127.0.0.1");
    leave_out_checksum(&careless);
    assert_eq!(ends.pass(&careless, 100), ZERO_CHECKSUM_LEN);
    assert_eq!(ends.pass(&honest, 100), 100);
    assert_eq!(ends.pass(&careless, 16), ZERO_CHECKSUM_LEN);
    assert_eq!(ends.pass(&careless, 0), RUNT_LEN);
}

fn runt(home: &Space) {
    for address in ["127.0.0.1", "::1"] {
        let ends = receiver(home, address);
        let sender = sender(address);
        for length in [0, 1, 15] {
            assert_eq!(ends.pass(&sender, length), RUNT_LEN, "{length} to {address}");
        }
        assert_eq!(ends.pass(&sender, 16), 16);
        assert_eq!(ends.pass(&sender, 60_000), 60_000);
    }
}

fn whole_datagram(home: &Space) {
    let pod = Space::new("pod");
    connect(home, &pod);
    home.ip("addr add 10.0.0.1/24 dev near");
    pod.ip("addr add 10.0.0.2/24 dev far");
    let local = "10.0.0.1:6090".parse().unwrap();
    let ends = Ends::new(open_udp(&UdpSpec { local, device: Some(&name("near")) }).unwrap(), local);
    // Over a veth the checksum field holds the pseudo-header's sum only: it must not look like none.
    let sender = pod.netns.run(|| sender("10.0.0.2")).unwrap();
    assert_eq!(ends.pass(&sender, 1400), 1400);
    leave_out_checksum(&sender);
    assert_eq!(ends.pass(&sender, 1400), ZERO_CHECKSUM_LEN);
}

fn port_taken(home: &Space) {
    let ends = receiver(home, "127.0.0.1");
    let error = open_udp(&UdpSpec { local: ends.to, device: Some(&name("lo")) }).unwrap_err();
    assert!(matches!(error, Error::PortTaken { .. }), "{error}");
    for part in ["127.0.0.1:6090", "on lo", "port taken"] {
        assert!(error.to_string().contains(part), "{part} in {error}");
    }
    // The same port of the other family is free.
    let local = "[::1]:6090".parse().unwrap();
    open_udp(&UdpSpec { local, device: Some(&name("lo")) }).unwrap();
}

fn socket_options(home: &Space) {
    let pod = Space::new("pod");
    connect(home, &pod);
    home.ip("addr add 10.0.0.1/24 dev near");
    home.ip("addr add fd00::1/64 dev near nodad");
    for (local, to) in [("10.0.0.1:6090", "10.0.0.2:9"), ("[fd00::1]:6090", "[fd00::2]:9")] {
        let local: SocketAddr = local.parse().unwrap();
        let socket = open_udp(&UdpSpec { local, device: Some(&name("near")) }).unwrap();
        // The kernel counts its own bookkeeping in, and doubles for that.
        assert_eq!(getsockopt(&socket, sockopt::RcvBuf).unwrap(), 8 * 1024 * 1024);
        assert_eq!(getsockopt(&socket, sockopt::SndBuf).unwrap(), 8 * 1024 * 1024);
        assert!(!getsockopt(&socket, sockopt::ReuseAddr).unwrap());
        assert!(!getsockopt(&socket, sockopt::ReusePort).unwrap());
        let socket = UdpSocket::from(socket);
        assert_eq!(socket.local_addr().unwrap(), local);
        let error = socket.recv_from(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        let error = socket.send_to(&[0; 1500], to).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
        socket.send_to(&[0; 1400], to).unwrap();
    }
}

fn address_not_here(home: &Space) {
    home.up("lo");
    let local = "192.0.2.1:6090".parse().unwrap();
    let error = open_udp(&UdpSpec { local, device: Some(&name("lo")) }).unwrap_err();
    assert!(error.is_not_found(), "{error}");
    assert!(error.to_string().contains("192.0.2.1:6090 on lo"), "{error}");
}
