//! Persistent TUN devices, in the *calling thread's* network namespace.
//!
//! A device outlives the process that carries its packets (`TUNSETPERSIST`), so addresses, routes
//! and connections do too; meanwhile the link shows `NO-CARRIER`. It belongs to root
//! (`TUNSETOWNER`): without an owner, any process that can open `/dev/net/tun` could take it over.
//! Documentation/networking/tuntap.rst, drivers/net/tun.c.

use std::{
    fs::{File, OpenOptions},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
};

use nix::{
    errno::Errno,
    libc,
    net::if_::if_nametoindex,
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
};

use crate::{Error, IfName, Result};

/// Length of the virtio-net header before every packet read from or written to the device, in
/// bytes (`struct virtio_net_hdr_v1`).
pub const VNET_HEADER_BYTES: usize = 12;

const CLONE_DEVICE: &str = "/dev/net/tun";
const ROOT: libc::uid_t = 0;

mod ioctl {
    use nix::libc::{c_int, c_ulong, ifreq};

    // The kernel's numbers say `int`, but TUNSETIFF and TUNGETIFF point to a struct ifreq, and
    // TUNSETPERSIST and TUNSETOWNER take their value in place of the pointer.
    nix::ioctl_write_ptr_bad!(set_iff, nix::libc::TUNSETIFF, ifreq);
    nix::ioctl_read_bad!(get_iff, nix::libc::TUNGETIFF, ifreq);
    nix::ioctl_write_ptr_bad!(set_vnet_header_size, nix::libc::TUNSETVNETHDRSZ, c_int);
    nix::ioctl_write_int_bad!(set_persist, nix::libc::TUNSETPERSIST as c_ulong);
    nix::ioctl_write_int_bad!(set_owner, nix::libc::TUNSETOWNER as c_ulong);
    nix::ioctl_read_bad!(get_mtu, nix::libc::SIOCGIFMTU, ifreq);
}

/// Makes a persistent TUN device that belongs to root, and attaches to it.
///
/// Non-blocking; every packet is preceded by a virtio-net header of [`VNET_HEADER_BYTES`] and by
/// nothing else. Until the descriptor is closed nobody else can attach.
///
/// # Errors
/// [`Error::is_exists`] when the name is taken by whatever kind of link.
pub fn create_tun(name: &IfName) -> Result<OwnedFd> {
    const ACTION: &str = "create TUN device";
    // IFF_TUN_EXCL makes the kernel refuse an existing device in the same step.
    let tun = attach(name, libc::IFF_TUN_EXCL, ACTION).map_err(|error| match error.errno() {
        Some(Errno::EBUSY) => Error::kernel(ACTION, name.as_str(), Errno::EEXIST)
            .with_remedy(Errno::EEXIST, "a link of this name is there already: delete it or choose another name"),
        _ => error,
    })?;
    let failed = |errno| Error::kernel(ACTION, name.as_str(), errno);
    // Until it is persistent the device goes away with the descriptor, so nothing needs an undo.
    // SAFETY: the descriptor is open and the argument is a number, not a pointer.
    unsafe { ioctl::set_owner(tun.as_raw_fd(), ROOT.cast_signed()) }.map_err(failed)?;
    // SAFETY: as above.
    unsafe { ioctl::set_persist(tun.as_raw_fd(), 1) }.map_err(failed)?;
    Ok(tun.into())
}

/// Attaches to a persistent TUN device that [`create_tun`] made earlier; never makes one.
///
/// A process is attached until the last copy of its descriptor is closed: a child it has just
/// forked holds one too, until it runs another program.
///
/// # Errors
/// [`Error::TunBusy`] when another process is attached, [`Error::is_not_found`] when there is no
/// such device.
pub fn open_tun(name: &IfName) -> Result<OwnedFd> {
    const ACTION: &str = "attach to TUN device";
    let missing = || Error::kernel(ACTION, name.as_str(), Errno::ENODEV);
    if_nametoindex(name.as_str()).map_err(|_| missing())?;
    let tun = attach(name, 0, ACTION).map_err(|error| match error.errno() {
        Some(Errno::EBUSY) => Error::TunBusy { name: name.as_str().to_owned() },
        _ => error.with_remedy(Errno::EINVAL, "the link of this name is no TUN device"),
    })?;
    // Were the device deleted since the look above, this would be a new one, which is not
    // persistent and goes away with the descriptor.
    let mut request = request(name, 0);
    // SAFETY: the descriptor is open and `request` is a valid struct ifreq to be filled.
    unsafe { ioctl::get_iff(tun.as_raw_fd(), &raw mut request) }
        .map_err(|errno| Error::kernel(ACTION, name.as_str(), errno))?;
    if flags_of(&request) & libc::IFF_PERSIST == 0 {
        return Err(missing());
    }
    Ok(tun.into())
}

/// The MTU that an interface has, bytes (`SIOCGIFMTU`, netdevice(7)). Who asks for as many as there are tunnels is spared all that a
/// netlink answer says beside it.
///
/// # Errors
/// [`Error::is_not_found`] when there is no such interface.
pub fn mtu_bytes(name: &IfName) -> Result<u32> {
    let failed = |errno| Error::kernel("read the MTU", name.as_str(), errno);
    let socket = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).map_err(failed)?;
    let mut request = request(name, 0);
    // SAFETY: the descriptor is open and `request` is a valid struct ifreq with a terminated name, to be filled.
    unsafe { ioctl::get_mtu(socket.as_raw_fd(), &raw mut request) }.map_err(failed)?;
    // SAFETY: the kernel has filled the MTU; any four bytes are a valid int.
    let mtu = unsafe { request.ifr_ifru.ifru_mtu };
    u32::try_from(mtu).map_err(|_| failed(Errno::ERANGE))
}

fn attach(name: &IfName, extra_flags: libc::c_int, action: &'static str) -> Result<File> {
    let tun = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(CLONE_DEVICE).map_err(
        |error| {
            Error::io("open", CLONE_DEVICE, error)
                .with_remedy(Errno::ENOENT, "load the kernel module tun")
                .with_remedy(Errno::ENXIO, "load the kernel module tun")
        },
    )?;
    let failed = |errno| Error::kernel(action, name.as_str(), errno);
    let request = request(name, libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR | extra_flags);
    // SAFETY: the descriptor is open and `request` is a struct ifreq with a terminated name.
    unsafe { ioctl::set_iff(tun.as_raw_fd(), &raw const request) }.map_err(failed)?;
    let size = libc::c_int::try_from(VNET_HEADER_BYTES).unwrap_or_default();
    // SAFETY: the descriptor is open and the pointer is to a live int.
    unsafe { ioctl::set_vnet_header_size(tun.as_raw_fd(), &raw const size) }.map_err(failed)?;
    Ok(tun)
}

fn request(name: &IfName, flags: libc::c_int) -> libc::ifreq {
    let mut name_bytes = [0; libc::IFNAMSIZ];
    // A name is at most 15 bytes long: the last byte stays zero.
    for (to, from) in name_bytes.iter_mut().zip(name.as_str().bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    // IFF_TUN_EXCL is the sign bit of this field.
    let [low, high, ..] = flags.to_le_bytes();
    libc::ifreq {
        ifr_name: name_bytes,
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: libc::c_short::from_le_bytes([low, high]) },
    }
}

fn flags_of(request: &libc::ifreq) -> libc::c_int {
    // SAFETY: the kernel has filled the flags; any two bytes are a valid short.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    libc::c_int::from(flags.cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_holds_a_terminated_name_and_all_flags() {
        let name: IfName = "fifteen-bytes-x".parse().unwrap();
        let request = request(&name, libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_TUN_EXCL);
        assert_eq!(request.ifr_name[14], libc::c_char::from_ne_bytes([b'x']));
        assert_eq!(request.ifr_name[15], 0);
        assert_eq!(flags_of(&request), 0x9001);
    }

    #[test]
    fn a_device_that_does_not_exist_is_not_made() {
        let name: IfName = "adit-no-such".parse().unwrap();
        let error = open_tun(&name).unwrap_err();
        assert!(error.is_not_found(), "{error}");
        assert!(error.to_string().starts_with("attach to TUN device adit-no-such"), "{error}");
        assert!(mtu_bytes(&name).unwrap_err().is_not_found());
    }

    #[test]
    fn an_interface_has_an_mtu() {
        let lo: IfName = "lo".parse().unwrap();
        let told = std::fs::read_to_string("/sys/class/net/lo/mtu").unwrap();
        assert_eq!(mtu_bytes(&lo).unwrap().to_string(), told.trim());
    }
}
