//! Where bytes wait.
//!
//! What the kernel holds of a tunnel, nobody can reorder any more: a heartbeat or a small request waits behind all of
//! it. So it should hold little that is unsent; the rest waits in the sockets of its streams, where the mux chooses.

use tokio::net::TcpStream;

/// Unsent bytes of a tunnel that the kernel may hold before it says that it is full. What is on its way counts apart,
/// so long lines fill up all the same.
#[cfg(target_os = "linux")]
const UNSENT_BYTES: u32 = 64 * 1024;
/// The same for one stream's connection, to a client or a destination: a stream's window. The kernel's own bound is
/// megabytes for each that does not read, and all sockets of a machine share what it has for them.
#[cfg(target_os = "linux")]
const UNSENT_STREAM_BYTES: u32 = 256 * 1024;

/// Makes a socket fit to carry a tunnel: small frames leave at once, and little waits in it. To be called before TLS.
///
/// # Errors
/// The operating system's; the socket works all the same, less promptly.
pub fn prepare_tunnel_socket(socket: &TcpStream) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    // Windows and macOS have nothing like it that std-like crates offer; there small requests wait longer under load.
    #[cfg(target_os = "linux")]
    socket2::SockRef::from(socket).set_tcp_notsent_lowat(UNSENT_BYTES)?;
    Ok(())
}

/// Makes a socket fit to carry what a stream brings: small writes leave at once, and little waits in it, so that a
/// peer which does not read costs this machine no more than that.
///
/// # Errors
/// The operating system's; the socket works all the same.
pub fn prepare_stream_socket(socket: &TcpStream) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    socket2::SockRef::from(socket).set_tcp_notsent_lowat(UNSENT_STREAM_BYTES)?;
    Ok(())
}
