//! What a thread that moves packets may ask of the kernel: to move packets.
//!
//! It parses what strangers send. Should that ever be turned against it, it cannot open a file, start a program, make a
//! socket or enter a namespace.

use std::{collections::BTreeMap, io};

use nix::libc;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch, apply_filter};

/// Everything that a packet thread calls: descriptors that it holds, memory, time, waiting, its own end.
const ALLOWED: [libc::c_long; 41] = [
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    libc::SYS_getsockopt,
    libc::SYS_fcntl,
    libc::SYS_close,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_ppoll,
    libc::SYS_futex,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_clock_gettime,
    libc::SYS_gettimeofday,
    libc::SYS_getrandom,
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_tgkill,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Confines the calling thread for good. Anything else that it asks for is refused with `EPERM`.
///
/// # Errors
/// The kernel has no seccomp filters, or refuses this one.
pub fn packet_thread() -> io::Result<()> {
    let failed = |error: &dyn std::fmt::Display| io::Error::other(error.to_string());
    let architecture = TargetArch::try_from(std::env::consts::ARCH).map_err(|error| failed(&error))?;
    let mut rules: BTreeMap<_, Vec<_>> = ALLOWED.iter().map(|call| (*call, Vec::new())).collect();
    // The older form exists on x86-64 only.
    #[cfg(target_arch = "x86_64")]
    rules.insert(libc::SYS_epoll_wait, Vec::new());
    let refuse = SeccompAction::Errno(u32::try_from(libc::EPERM).unwrap_or(1));
    let filter =
        SeccompFilter::new(rules, refuse, SeccompAction::Allow, architecture).map_err(|error| failed(&error))?;
    let program = BpfProgram::try_from(filter).map_err(|error| failed(&error))?;
    apply_filter(&program).map_err(|error| failed(&error))
}

#[cfg(test)]
mod tests {
    use std::{fs::File, thread};

    use super::*;

    #[test]
    fn a_confined_thread_computes_and_waits_but_opens_nothing() {
        let outcome = thread::spawn(|| {
            packet_thread().unwrap();
            let memory = vec![7_u8; 8 << 20];
            thread::sleep(std::time::Duration::from_millis(1));
            (memory.len(), File::open("/dev/null").map_err(|error| error.raw_os_error()).map(drop))
        });
        assert_eq!(outcome.join().unwrap(), (8 << 20, Err(Some(libc::EPERM))));
        assert!(File::open("/dev/null").is_ok(), "only that thread is confined");
    }
}
