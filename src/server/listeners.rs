//! Listening sockets: those that the service manager passed, or new ones, with a sentence of advice when
//! there can be none.

use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::Mutex;
use std::time::Duration;

use super::{Failure, failure};
use crate::config::Config;

/// Connections that the kernel holds for a listener until they are accepted; it lowers this to
/// net.core.somaxconn.
pub(super) const BACKLOG: i32 = 4096;

/// How often, and after what time each, a bind to a port in use is retried.
const REBINDS: u32 = 50;

/// See [`REBINDS`].
const REBIND_INTERVAL: Duration = Duration::from_millis(20);

/// The listening sockets of a process.
pub(super) struct Listeners {
    /// Those of every shard.
    pub(super) of_shards: Vec<Vec<Socket>>,
    /// The service manager passed them, and goes on listening when this process does not.
    pub(super) are_passed: bool,
}

/// The listeners of every shard: from the service manager when it passed any, else new ones, each shard its
/// own (`SO_REUSEPORT`), so that the kernel spreads the connections.
pub(super) fn open(config: &Config, shards: usize) -> Result<Listeners, Failure> {
    let passed = activated()?;
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for &address in &config.listen {
        // One that stands there twice was warned of.
        if !addresses.contains(&address) || address.port() == 0 {
            addresses.push(address);
        }
    }
    let of_shards = (0..shards)
        .map(|_| {
            if passed.is_empty() {
                let own = addresses.iter().map(|&address| listen(address, config.listen_is_default));
                return own.collect();
            }
            let shared = passed.iter().map(Socket::try_clone).collect::<Result<_, _>>();
            shared.map_err(|error| failure("a socket from the service manager cannot be shared", &error))
        })
        .collect::<Result<_, _>>()?;
    Ok(Listeners { of_shards, are_passed: !passed.is_empty() })
}

/// Sockets that systemd opened for us (sd_listen_fds(3)).
fn activated() -> Result<Vec<Socket>, Failure> {
    let passed =
        sd_notify::listen_fds().map_err(|error| failure("the passed sockets cannot be taken", &error))?;
    passed
        .map(|descriptor| {
            // SAFETY: the service manager passed this descriptor to this process, and nothing else here owns
            // it: `listen_fds` takes the variables that announce it, and is called once.
            let socket = unsafe { Socket::from_raw_fd(descriptor) };
            let prepared = socket.set_nonblocking(true).and_then(|()| socket.set_tcp_nodelay(true));
            prepared.map_err(|error| failure("a passed socket is no listening TCP socket", &error))?;
            Ok(socket)
        })
        .collect()
}

fn listen(address: SocketAddr, is_default: bool) -> Result<Socket, Failure> {
    match bind(address) {
        // IPv6 is not configured explicitly: a machine without it serves IPv4.
        Err(error)
            if is_default
                && rustix::io::Errno::from_io_error(&error) == Some(rustix::io::Errno::AFNOSUPPORT) =>
        {
            let address = SocketAddr::from(([0, 0, 0, 0], address.port()));
            bind(address).map_err(|error| cannot_listen(address, &error))
        }
        other => other.map_err(|error| cannot_listen(address, &error)),
    }
}

fn bind(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_cloexec(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    probe_port(address)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    // Inherited by every accepted socket, which saves a call for each.
    socket.set_tcp_nodelay(true)?;
    defer_accept(&socket)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// Has the kernel keep a connection until its first bytes are there, or a second has passed (tcp(7)). A
/// client of HTTP always sends first: so its request is read when it is accepted, and one wake-up does for
/// both.
fn defer_accept(socket: &Socket) -> io::Result<()> {
    let seconds: libc::c_int = 1;
    // SAFETY: the pointer and the length are those of one integer that is valid until the call is over, and
    // the descriptor is that of `socket`.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw const seconds).cast(),
            libc::socklen_t::try_from(size_of_val(&seconds)).unwrap_or(0),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// With `SO_REUSEPORT` two servers of one user would share a port in silence. The first bind of an address in
/// this process is tried without it.
fn probe_port(address: SocketAddr) -> io::Result<()> {
    static OURS: Mutex<Vec<SocketAddr>> = Mutex::new(Vec::new());
    let Ok(mut ours) = OURS.lock() else { return Ok(()) };
    if address.port() == 0 || ours.contains(&address) {
        return Ok(());
    }
    let probe = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    probe.set_reuse_address(true)?;
    if address.is_ipv6() {
        probe.set_only_v6(false)?;
    }
    bind_patiently(&probe, address)?;
    ours.push(address);
    Ok(())
}

/// The sockets of a killed process that ran on io_uring are closed by the kernel some milliseconds after the
/// process is gone. Its successor, which a supervisor starts at once, waits for that.
fn bind_patiently(probe: &Socket, address: SocketAddr) -> io::Result<()> {
    for _ in 0..REBINDS {
        match probe.bind(&address.into()) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => std::thread::sleep(REBIND_INTERVAL),
            other => return other,
        }
    }
    probe.bind(&address.into())
}

fn cannot_listen(address: SocketAddr, error: &io::Error) -> Failure {
    use std::io::ErrorKind;
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "of the errors of bind(2), these have an advice of their own"
    )]
    let advice = match error.kind() {
        ErrorKind::AddrInUse => "another process listens there; stop it or choose another port with --listen",
        ErrorKind::PermissionDenied => {
            "ports below 1024 need CAP_NET_BIND_SERVICE or a socket from systemd; or choose another with --listen"
        }
        ErrorKind::AddrNotAvailable => {
            "this machine does not have that address; choose another with --listen"
        }
        _ => "choose another address with --listen",
    };
    Failure::new(format!("cannot listen on {address}: {error}; {advice}"))
}
