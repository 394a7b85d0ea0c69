//! The doors of libc that a simulated host goes through: clock, dice, sockets, epoll.
//!
//! A symbol defined in the test's executable comes before libc's own, so the programs under test, tokio and std
//! call these. On a thread that simulates nothing, and for descriptors that are not ours, each goes on to the
//! kernel by `syscall`. Nothing is decided here: pointers become slices, answers become errno.
//!
//! This is the one file of the crate with `unsafe`: a libc of our own cannot be written without.
#![expect(unsafe_code, reason = "stands in for libc, whose interface is pointers")]
#![expect(unreachable_pub, reason = "the linker sees them")]

use std::{
    ffi::{c_int, c_long, c_uint, c_void},
    mem::size_of,
    net::{Ipv4Addr, SocketAddrV4},
    slice,
};

use libc::{epoll_event, iovec, size_t, sockaddr, sockaddr_in, socklen_t, ssize_t, timespec};

use super::{FD_BASE, Kernel, SocketOption, with};

type Errno = c_int;

fn answer(result: Result<usize, Errno>) -> ssize_t {
    match result {
        Ok(number) => number.cast_signed(),
        Err(errno) => {
            // SAFETY: glibc's own errno of this thread.
            unsafe { *libc::__errno_location() = errno };
            -1
        }
    }
}

fn answer_int(result: Result<usize, Errno>) -> c_int {
    answer(result) as c_int
}

fn ours(fd: c_int) -> bool {
    fd >= FD_BASE
}

/// Only for descriptors of ours, which exist on simulating threads alone.
fn on_socket(
    fd: c_int,
    act: impl FnOnce(&mut Kernel, usize) -> Result<usize, Errno>,
) -> Result<usize, Errno> {
    with(|kernel| act(kernel, (fd - FD_BASE) as usize)).unwrap_or(Err(libc::EBADF))
}

/// What a caller gives to the kernel in a register.
trait Word {
    fn word(self) -> c_long;
}

macro_rules! word {
    ($($kind:ty),*) => { $(impl Word for $kind {
        fn word(self) -> c_long {
            self as c_long
        }
    })* };
}

word!(c_int, c_uint, c_long, u64, size_t);

impl<T> Word for *mut T {
    fn word(self) -> c_long {
        self.addr().cast_signed() as c_long
    }
}

impl<T> Word for *const T {
    fn word(self) -> c_long {
        self.addr().cast_signed() as c_long
    }
}

macro_rules! kernel_itself {
    ($number:expr $(, $argument:expr)*) => {{
        let mut words = [0; 6];
        let mut _place = words.iter_mut();
        $(if let Some(place) = _place.next() {
            *place = $argument.word();
        })*
        // SAFETY: the caller's own arguments, to the call it meant.
        answer_raw(unsafe { raw($number, words) })
    }};
}

/// As glibc does: what the kernel answers below zero is an errno.
fn answer_raw(answered: c_long) -> c_long {
    if (-4095..0).contains(&answered) {
        // SAFETY: glibc's own errno of this thread.
        unsafe { *libc::__errno_location() = answered.unsigned_abs() as c_int };
        return -1;
    }
    answered
}

/// The system call itself; our own `syscall` stands before libc's.
#[cfg(target_arch = "x86_64")]
unsafe fn raw(number: c_long, [a, b, c, d, e, f]: [c_long; 6]) -> c_long {
    let answered;
    // SAFETY: the kernel's convention; what it writes, it writes where the caller said.
    unsafe {
        std::arch::asm!(
            "syscall", inlateout("rax") number => answered,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") f,
            lateout("rcx") _, lateout("r11") _, options(nostack),
        );
    }
    answered
}

#[cfg(target_arch = "aarch64")]
unsafe fn raw(number: c_long, [a, b, c, d, e, f]: [c_long; 6]) -> c_long {
    let answered;
    // SAFETY: the kernel's convention; what it writes, it writes where the caller said.
    unsafe {
        std::arch::asm!(
            "svc 0", in("x8") number, inlateout("x0") a => answered,
            in("x1") b, in("x2") c, in("x3") d, in("x4") e, in("x5") f, options(nostack),
        );
    }
    answered
}

/// ring asks for its randomness here.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syscall(
    number: c_long,
    a: c_long,
    b: c_long,
    c: c_long,
    d: c_long,
    e: c_long,
    f: c_long,
) -> c_long {
    if number == libc::SYS_getrandom {
        return unsafe { getrandom(a as *mut c_void, b as size_t, c as c_uint) } as c_long;
    }
    // SAFETY: the caller's own arguments, to the call it meant; those it did not give, the kernel does not read.
    answer_raw(unsafe { raw(number, [a, b, c, d, e, f]) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: c_int, at: *mut timespec) -> c_int {
    match super::clock(clock) {
        Some(nanos) => {
            let seconds = (nanos / 1_000_000_000).cast_signed();
            let rest = (nanos % 1_000_000_000).cast_signed();
            // SAFETY: the caller gives a timespec to write.
            unsafe { *at = timespec { tv_sec: seconds, tv_nsec: rest } };
            0
        }
        None => kernel_itself!(libc::SYS_clock_gettime, clock, at) as c_int,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(bytes: *mut c_void, len: size_t, flags: c_uint) -> ssize_t {
    // SAFETY: the caller gives `len` writable bytes.
    let room = unsafe { slice::from_raw_parts_mut(bytes.cast::<u8>(), len) };
    match super::roll(room) {
        true => len.cast_signed(),
        false => kernel_itself!(libc::SYS_getrandom, bytes, len, flags) as ssize_t,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn epoll_ctl(epoll: c_int, what: c_int, fd: c_int, event: *mut epoll_event) -> c_int {
    if !ours(fd) {
        return kernel_itself!(libc::SYS_epoll_ctl, epoll, what, fd, event) as c_int;
    }
    // SAFETY: null or a valid event, says epoll_ctl.
    let wanted = unsafe { event.as_ref() }.map(|event| (event.events, event.u64));
    answer_int(on_socket(fd, |kernel, socket| kernel.epoll_ctl(epoll, what, socket, wanted)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn epoll_wait(
    epoll: c_int,
    events: *mut epoll_event,
    room: c_int,
    timeout: c_int,
) -> c_int {
    let Some(ready) = with(|kernel| kernel.epoll_ready(epoll, room.unsigned_abs() as usize)) else {
        return kernel_itself!(libc::SYS_epoll_wait, epoll, events, room, timeout) as c_int;
    };
    for (place, (bits, data)) in ready.iter().enumerate() {
        // SAFETY: at most `room` of them, and the caller gives room for so many.
        unsafe { *events.add(place) = epoll_event { events: *bits, u64: *data } };
    }
    if ready.is_empty() && timeout != 0 {
        super::idle(u64::try_from(timeout).ok());
    }
    ready.len() as c_int
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int {
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    if domain == libc::AF_INET
        && kind & !flags == libc::SOCK_STREAM
        && let Some(made) = with(Kernel::socket)
    {
        return FD_BASE + made as c_int;
    }
    kernel_itself!(libc::SYS_socket, domain, kind, protocol) as c_int
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn bind(fd: c_int, address: *const sockaddr, len: socklen_t) -> c_int {
    if !ours(fd) {
        return kernel_itself!(libc::SYS_bind, fd, address, len) as c_int;
    }
    let address = unsafe { read_address(address, len) };
    answer_int(on_socket(fd, |kernel, socket| kernel.bind(socket, address.ok_or(libc::EAFNOSUPPORT)?)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn listen(fd: c_int, backlog: c_int) -> c_int {
    if !ours(fd) {
        return kernel_itself!(libc::SYS_listen, fd, backlog) as c_int;
    }
    answer_int(on_socket(fd, |kernel, socket| kernel.listen(socket, backlog.unsigned_abs() as usize)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn connect(fd: c_int, address: *const sockaddr, len: socklen_t) -> c_int {
    if !ours(fd) {
        return kernel_itself!(libc::SYS_connect, fd, address, len) as c_int;
    }
    let address = unsafe { read_address(address, len) };
    answer_int(on_socket(fd, |kernel, socket| kernel.connect(socket, address.ok_or(libc::EAFNOSUPPORT)?)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn accept4(
    fd: c_int,
    address: *mut sockaddr,
    len: *mut socklen_t,
    flags: c_int,
) -> c_int {
    if !ours(fd) {
        return kernel_itself!(libc::SYS_accept4, fd, address, len, flags) as c_int;
    }
    let accepted = on_socket(fd, |kernel, socket| {
        let (made, from) = kernel.accept(socket)?;
        unsafe { write_address(from, address, len) };
        Ok(FD_BASE as usize + made)
    });
    answer_int(accepted)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn getsockname(fd: c_int, address: *mut sockaddr, len: *mut socklen_t) -> c_int {
    if !ours(fd) {
        return kernel_itself!(libc::SYS_getsockname, fd, address, len) as c_int;
    }
    answer_int(on_socket(fd, |kernel, socket| {
        unsafe { write_address(kernel.local(socket), address, len) };
        Ok(0)
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn getpeername(fd: c_int, address: *mut sockaddr, len: *mut socklen_t) -> c_int {
    if !ours(fd) {
        return kernel_itself!(libc::SYS_getpeername, fd, address, len) as c_int;
    }
    answer_int(on_socket(fd, |kernel, socket| {
        unsafe { write_address(kernel.remote(socket)?, address, len) };
        Ok(0)
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn getsockopt(
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *mut c_void,
    len: *mut socklen_t,
) -> c_int {
    if !ours(fd) {
        return kernel_itself!(libc::SYS_getsockopt, fd, level, name, value, len) as c_int;
    }
    answer_int(on_socket(fd, |kernel, socket| {
        let number = match (level, name) {
            (libc::SOL_SOCKET, libc::SO_ERROR) => kernel.take_error(socket),
            _ => 0,
        };
        // SAFETY: the options that are asked for are numbers, and the caller gives room for one.
        unsafe {
            *value.cast::<c_int>() = number;
            *len = size_of::<c_int>() as socklen_t;
        }
        Ok(0)
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn setsockopt(
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *const c_void,
    len: socklen_t,
) -> c_int {
    if !ours(fd) {
        return kernel_itself!(libc::SYS_setsockopt, fd, level, name, value, len) as c_int;
    }
    let option = match (level, name) {
        // SAFETY: that is what SO_LINGER takes.
        (libc::SOL_SOCKET, libc::SO_LINGER) => {
            let linger = unsafe { *value.cast::<libc::linger>() };
            Some(SocketOption::ResetOnClose(linger.l_onoff != 0 && linger.l_linger == 0))
        }
        (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT) => {
            // SAFETY: a number of milliseconds.
            Some(SocketOption::UserTimeout { ms: u64::from(unsafe { *value.cast::<c_uint>() }) })
        }
        // The others change nothing that the world simulates.
        _ => None,
    };
    answer_int(on_socket(fd, |kernel, socket| kernel.set_option(socket, option)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn shutdown(fd: c_int, how: c_int) -> c_int {
    if !ours(fd) {
        return kernel_itself!(libc::SYS_shutdown, fd, how) as c_int;
    }
    answer_int(on_socket(fd, |kernel, socket| kernel.shutdown(socket, how)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn close(fd: c_int) -> c_int {
    if !ours(fd) {
        super::disk::closed(fd);
        with(|kernel| kernel.closed(fd));
        return kernel_itself!(libc::SYS_close, fd) as c_int;
    }
    // A thread that ends may drop sockets after its world.
    answer_int(with(|kernel| kernel.close((fd - FD_BASE) as usize)).unwrap_or(Ok(0)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn fcntl(fd: c_int, what: c_int, argument: c_long) -> c_int {
    if !ours(fd) {
        let done = kernel_itself!(libc::SYS_fcntl, fd, what, argument) as c_int;
        if what == libc::F_DUPFD_CLOEXEC && done >= 0 {
            with(|kernel| kernel.duplicated(fd, done));
        }
        return done;
    }
    match what {
        libc::F_GETFD => libc::FD_CLOEXEC,
        libc::F_GETFL => libc::O_RDWR | libc::O_NONBLOCK,
        libc::F_SETFD | libc::F_SETFL => 0,
        _ => answer_int(Err(libc::EINVAL)),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioctl(fd: c_int, what: libc::Ioctl, argument: *mut c_void) -> c_int {
    match ours(fd) {
        // Ours never block; there is nothing else that is asked for.
        true => 0,
        false => kernel_itself!(libc::SYS_ioctl, fd, what, argument) as c_int,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn recv(fd: c_int, bytes: *mut c_void, len: size_t, flags: c_int) -> ssize_t {
    if !ours(fd) {
        let nothing = std::ptr::null::<c_void>();
        return kernel_itself!(libc::SYS_recvfrom, fd, bytes, len, flags, nothing, nothing) as ssize_t;
    }
    // SAFETY: the caller gives `len` writable bytes.
    let room = unsafe { slice::from_raw_parts_mut(bytes.cast::<u8>(), len) };
    let peek = flags & libc::MSG_PEEK != 0;
    answer(on_socket(fd, |kernel, socket| kernel.receive(socket, room, peek)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn read(fd: c_int, bytes: *mut c_void, len: size_t) -> ssize_t {
    if !ours(fd) {
        return kernel_itself!(libc::SYS_read, fd, bytes, len) as ssize_t;
    }
    unsafe { recv(fd, bytes, len, 0) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn readv(fd: c_int, pieces: *const iovec, count: c_int) -> ssize_t {
    if !ours(fd) {
        return kernel_itself!(libc::SYS_readv, fd, pieces, count) as ssize_t;
    }
    // SAFETY: the caller gives `count` pieces; one of them is enough of an answer.
    let pieces = unsafe { slice::from_raw_parts(pieces, count.unsigned_abs() as usize) };
    match pieces.iter().find(|piece| piece.iov_len > 0) {
        Some(piece) => unsafe { recv(fd, piece.iov_base, piece.iov_len, 0) },
        None => 0,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn send(fd: c_int, bytes: *const c_void, len: size_t, flags: c_int) -> ssize_t {
    if !ours(fd) {
        let nothing = std::ptr::null::<c_void>();
        return kernel_itself!(libc::SYS_sendto, fd, bytes, len, flags, nothing, 0_i32) as ssize_t;
    }
    // SAFETY: the caller gives `len` readable bytes.
    let bytes = unsafe { slice::from_raw_parts(bytes.cast::<u8>(), len) };
    answer(on_socket(fd, |kernel, socket| kernel.send(socket, bytes)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn write(fd: c_int, bytes: *const c_void, len: size_t) -> ssize_t {
    if ours(fd) {
        return unsafe { send(fd, bytes, len, 0) };
    }
    // SAFETY: the caller gives `len` readable bytes.
    let content = unsafe { slice::from_raw_parts(bytes.cast::<u8>(), len) };
    if let Some(done) = super::disk::write(fd, content, None) {
        return answer(done);
    }
    kernel_itself!(libc::SYS_write, fd, bytes, len) as ssize_t
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn writev(fd: c_int, pieces: *const iovec, count: c_int) -> ssize_t {
    if !ours(fd) {
        return kernel_itself!(libc::SYS_writev, fd, pieces, count) as ssize_t;
    }
    // SAFETY: the caller gives `count` pieces.
    let pieces = unsafe { slice::from_raw_parts(pieces, count.unsigned_abs() as usize) };
    let mut sent = 0;
    for piece in pieces.iter().filter(|piece| piece.iov_len > 0) {
        let taken = unsafe { send(fd, piece.iov_base, piece.iov_len, 0) };
        if taken < 0 {
            return if sent > 0 { sent } else { taken };
        }
        sent += taken;
        if taken.unsigned_abs() < piece.iov_len {
            break;
        }
    }
    sent
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwrite64(fd: c_int, bytes: *const c_void, len: size_t, at: c_long) -> ssize_t {
    // SAFETY: the caller gives `len` readable bytes.
    let content = unsafe { slice::from_raw_parts(bytes.cast::<u8>(), len) };
    if let Some(done) = super::disk::write(fd, content, Some(at.unsigned_abs())) {
        return answer(done);
    }
    kernel_itself!(libc::SYS_pwrite64, fd, bytes, len, at) as ssize_t
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdatasync(fd: c_int) -> c_int {
    match super::disk::sync(fd) {
        Some(done) => answer_int(done),
        None => kernel_itself!(libc::SYS_fdatasync, fd) as c_int,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn fsync(fd: c_int) -> c_int {
    match super::disk::sync(fd) {
        Some(done) => answer_int(done),
        None => kernel_itself!(libc::SYS_fsync, fd) as c_int,
    }
}

/// # Safety
/// `address` points to `len` readable bytes.
unsafe fn read_address(address: *const sockaddr, len: socklen_t) -> Option<SocketAddrV4> {
    if (len as usize) < size_of::<sockaddr_in>() {
        return None;
    }
    let address = unsafe { *address.cast::<sockaddr_in>() };
    (c_int::from(address.sin_family) == libc::AF_INET).then(|| {
        let ip = Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr));
        SocketAddrV4::new(ip, u16::from_be(address.sin_port))
    })
}

/// # Safety
/// `to` is null or points to room for a `sockaddr_in`, and `len` then to its length.
unsafe fn write_address(address: SocketAddrV4, to: *mut sockaddr, len: *mut socklen_t) {
    if to.is_null() {
        return;
    }
    let written = sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(*address.ip()).to_be() },
        sin_zero: [0; 8],
    };
    unsafe {
        *to.cast::<sockaddr_in>() = written;
        *len = size_of::<sockaddr_in>() as socklen_t;
    }
}

/// The kernel's own clock, whatever the thread simulates: for figures about the simulation.
pub(crate) fn real_nanos() -> u64 {
    let mut at = timespec { tv_sec: 0, tv_nsec: 0 };
    kernel_itself!(libc::SYS_clock_gettime, libc::CLOCK_MONOTONIC, &raw mut at);
    at.tv_sec.unsigned_abs() * 1_000_000_000 + at.tv_nsec.unsigned_abs()
}
