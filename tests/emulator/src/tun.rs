//! A TUN device: a network interface whose packets this process reads and writes.

use std::{fs::File, io, os::fd::AsFd};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags, open},
    ioctl::{Setter, ioctl, opcode},
};

/// The longest name of an interface, with its closing zero.
const NAME_BYTES: usize = 16;
/// `struct ifreq`, as far as TUNSETIFF reads it: the name, the flags, and room for the rest of its union.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; NAME_BYTES],
    flags: u16,
    rest: [u8; 22],
}

/// Packets without Ethernet's header and without the kernel's own.
const IFF_TUN_NO_PI: u16 = 0x0001 | 0x1000;
const TUNSETIFF: rustix::ioctl::Opcode = opcode::write::<i32>(b'T', 202);

/// Opens a new device `name` in the network namespace of the calling thread. It goes when the file is closed.
pub fn create(name: &str) -> io::Result<File> {
    let mut request = InterfaceRequest { name: [0; NAME_BYTES], flags: IFF_TUN_NO_PI, rest: [0; 22] };
    let room = request.name.get_mut(..name.len()).filter(|_| name.len() < NAME_BYTES);
    room.ok_or_else(|| io::Error::other(format!("{name} is too long for an interface")))?
        .copy_from_slice(name.as_bytes());
    let device = open("/dev/net/tun", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    #[expect(
        unsafe_code,
        reason = "TUNSETIFF is the only way to a TUN device, and an ioctl has no safe form"
    )]
    // SAFETY: TUNSETIFF reads a `struct ifreq` from the pointer it is given; `InterfaceRequest` has its
    // size and the layout of the part that is read (netdevice(7), linux/if_tun.h).
    unsafe {
        ioctl(&device, Setter::<TUNSETIFF, InterfaceRequest>::new(request))?;
    }
    Ok(File::from(device))
}

/// Waits until a packet can be read; `false` when none came for a tenth of a second.
pub fn readable(device: &File) -> io::Result<bool> {
    const TENTH: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
    let mut ready = [PollFd::from_borrowed_fd(device.as_fd(), PollFlags::IN)];
    Ok(poll(&mut ready, Some(&TENTH))? > 0)
}
