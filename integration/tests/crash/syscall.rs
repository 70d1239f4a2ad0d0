//! A system call that a traced thread is about to make.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
};

use nix::{libc, unistd::Pid};

/// `NS_GET_NSTYPE` of ioctl_nsfs(2): changes nothing.
const NS_GET_NSTYPE: u64 = 0xb703;
/// Subsystem of nf_tables in a netlink message's type (`NFNL_SUBSYS_NFTABLES`, `linux/netfilter/nfnetlink.h`).
const NFTABLES: u16 = 10;
/// A netlink header's size, and the most of a message that is looked at; bytes.
const HEADER_BYTES: usize = 16;

/// Calls that may change something outside of the process, or how it stands to that, with the argument that is a path.
const CHANGING: &[(i64, &str, Option<usize>)] = &[
    (libc::SYS_bind, "bind", None),
    (libc::SYS_clone, "clone", None),
    (libc::SYS_clone3, "clone3", None),
    (libc::SYS_connect, "connect", None),
    (libc::SYS_execve, "execve", Some(0)),
    (libc::SYS_fchmod, "fchmod", None),
    (libc::SYS_fchown, "fchown", None),
    (libc::SYS_flock, "flock", None),
    (libc::SYS_ftruncate, "ftruncate", None),
    (libc::SYS_ioctl, "ioctl", None),
    (libc::SYS_kill, "kill", None),
    (libc::SYS_linkat, "linkat", Some(3)),
    (libc::SYS_mkdirat, "mkdirat", Some(1)),
    (libc::SYS_mount, "mount", Some(1)),
    (libc::SYS_openat, "openat", Some(1)),
    (libc::SYS_pwrite64, "pwrite64", None),
    (libc::SYS_renameat2, "renameat2", Some(3)),
    (libc::SYS_sendmmsg, "sendmmsg", None),
    (libc::SYS_sendmsg, "sendmsg", None),
    (libc::SYS_sendto, "sendto", None),
    (libc::SYS_setns, "setns", None),
    (libc::SYS_setsockopt, "setsockopt", None),
    (libc::SYS_symlinkat, "symlinkat", Some(2)),
    (libc::SYS_umount2, "umount2", Some(0)),
    (libc::SYS_unlinkat, "unlinkat", Some(1)),
    (libc::SYS_unshare, "unshare", None),
    (libc::SYS_write, "write", None),
    (libc::SYS_writev, "writev", None),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_chmod, "chmod", Some(0)),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_fork, "fork", None),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_link, "link", Some(1)),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_mkdir, "mkdir", Some(0)),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_open, "open", Some(0)),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_rename, "rename", Some(1)),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_rmdir, "rmdir", Some(0)),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_unlink, "unlink", Some(0)),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_vfork, "vfork", None),
];

/// A call with its arguments, as the kernel has them.
#[derive(Debug, Clone)]
pub struct SystemCall {
    thread: Pid,
    number: i64,
    arguments: Vec<u64>,
}

impl SystemCall {
    /// The call at whose entry `thread` stands (proc(5), `/proc/pid/syscall`).
    pub fn of(thread: Pid) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{thread}/syscall")).ok()?;
        let mut words = text.split_whitespace();
        let number = words.next()?.parse().ok()?;
        let hexadecimal = |word: &str| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok();
        let arguments: Vec<u64> = words.take(6).map(hexadecimal).collect::<Option<_>>()?;
        (arguments.len() == 6).then_some(Self { thread, number, arguments })
    }

    /// Whether it may change anything. Unlisted calls only read, wait, or arrange the process's own memory and descriptors.
    pub fn changes(&self) -> bool {
        let Some((number, ..)) = self.listed() else { return false };
        match number {
            libc::SYS_openat => opens_to_change(self.arguments[2]),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_open => opens_to_change(self.arguments[1]),
            libc::SYS_ioctl => self.arguments[1] != NS_GET_NSTYPE,
            libc::SYS_setsockopt => false,
            libc::SYS_sendto | libc::SYS_sendmsg => !self.message().is_some_and(is_request_for_data),
            _ => true,
        }
    }

    /// `sendto RTM_NEWLINK (call 44)`.
    pub fn describe(&self) -> String {
        let Some((number, name, path)) = self.listed() else { return format!("call {}", self.number) };
        let what = match (number, path) {
            (_, Some(index)) => self.path(self.arguments[index]),
            (libc::SYS_write, _) => {
                let bytes = self.memory(self.arguments[1], self.arguments[2].min(60) as usize).unwrap_or_default();
                format!("{:?} to {}", String::from_utf8_lossy(&bytes), self.descriptor())
            }
            (libc::SYS_sendto | libc::SYS_sendmsg, _) => match self.message() {
                Some(kind) => format!("netlink message {}", message_name(kind)),
                None => self.descriptor(),
            },
            (libc::SYS_ioctl, _) => format!("{:#x} on {}", self.arguments[1], self.descriptor()),
            (libc::SYS_flock | libc::SYS_setns | libc::SYS_connect | libc::SYS_bind, _) => self.descriptor(),
            _ => String::new(),
        };
        format!("{name} {what} (call {number})")
    }

    fn listed(&self) -> Option<(i64, &'static str, Option<usize>)> {
        CHANGING.iter().copied().find(|(number, ..)| *number == self.number)
    }

    /// Type of the netlink message that it sends; `None` for anything else that is sent.
    fn message(&self) -> Option<u16> {
        let (address, length) = if self.number == libc::SYS_sendto {
            (self.arguments[1], self.arguments[2])
        } else {
            // struct msghdr of a 64-bit kernel: the vector's address is its third word; the vector's first entry is a
            // buffer's address and length.
            let vector = self.word(self.arguments[1].checked_add(16)?)?;
            (self.word(vector)?, self.word(vector.checked_add(8)?)?)
        };
        let header = self.memory(address, HEADER_BYTES)?;
        let stated = u32::from_ne_bytes(header.get(..4)?.try_into().ok()?);
        let kind = u16::from_ne_bytes(header.get(4..6)?.try_into().ok()?);
        (u64::from(stated) <= length && stated >= HEADER_BYTES as u32).then_some(kind)
    }

    fn word(&self, address: u64) -> Option<u64> {
        Some(u64::from_ne_bytes(self.memory(address, 8)?.try_into().ok()?))
    }

    fn path(&self, address: u64) -> String {
        let bytes = (1..=4).rev().find_map(|quarters| self.memory(address, quarters * 64)).unwrap_or_default();
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        String::from_utf8_lossy(&bytes[..end]).into_owned()
    }

    /// What its first argument is.
    fn descriptor(&self) -> String {
        let link = fs::read_link(format!("/proc/{}/fd/{}", self.thread, self.arguments[0]));
        link.map_or_else(|_| format!("descriptor {}", self.arguments[0]), |target| target.display().to_string())
    }

    fn memory(&self, address: u64, bytes: usize) -> Option<Vec<u8>> {
        let mut buffer = vec![0; bytes];
        let memory = File::open(format!("/proc/{}/mem", self.thread)).ok()?;
        memory.read_exact_at(&mut buffer, address).ok()?;
        Some(buffer)
    }
}

fn opens_to_change(flags: u64) -> bool {
    flags & (libc::O_WRONLY | libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC) as u64 != 0
}

/// Of rtnetlink every fourth type, of nf_tables the `NFT_MSG_GET…` ones.
fn is_request_for_data(kind: u16) -> bool {
    match kind >> 8 {
        0 => kind > 16 && kind % 4 == 2,
        NFTABLES => matches!(kind & 0xff, 1 | 4 | 7 | 10 | 13 | 16 | 19 | 23),
        _ => false,
    }
}

fn message_name(kind: u16) -> String {
    let name = match kind {
        16 => "RTM_NEWLINK (or the begin of an nf_tables batch)",
        17 => "RTM_DELLINK",
        18 => "RTM_GETLINK",
        19 => "RTM_SETLINK",
        20 => "RTM_NEWADDR",
        21 => "RTM_DELADDR",
        22 => "RTM_GETADDR",
        24 => "RTM_NEWROUTE",
        25 => "RTM_DELROUTE",
        26 => "RTM_GETROUTE",
        _ => return format!("type {kind:#x}"),
    };
    name.to_owned()
}
