//! Source addresses and ports of connections. A worker walks through the ports of one address after the
//! other, and through its part of them alone. So a port is taken again only after all others, long after its
//! last connection has ended, and the next address only when the ports of the one before have been taken. The
//! kernel's own search for a free port slows down with every connection in TIME_WAIT and then fails, with
//! other addresses unused.

use mio::net::TcpStream;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};

use crate::clock::SECOND;

/// Ports that one connection tries. The next one continues behind them.
const TRIES_MAX: u32 = 1024;

/// After a connection that has found no port, others do not search for this long.
const PAUSE_NS: u64 = SECOND / 10;

/// Where the kernel says which ports are for clients.
const RANGE_FILE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// The kernel's default for it.
const RANGE: (u16, u16) = (32_768, 60_999);

/// Why a connection cannot be opened. One sentence.
#[derive(Debug)]
pub enum DialError {
    /// The server refused this one.
    Refused(String),
    /// No free port was found; there may be one later.
    NoPort,
    /// A source is no address of this machine, there is no route to the server, or no file descriptor is
    /// left.
    Fatal(String),
}

impl DialError {
    /// One sentence.
    pub fn reason(self) -> String {
        match self {
            Self::Refused(why) | Self::Fatal(why) => why,
            Self::NoPort => "no port was free".to_owned(),
        }
    }
}

/// The source addresses of a worker's connections.
pub struct Sources {
    /// In the order of their use; empty: the kernel chooses.
    addresses: Vec<IpAddr>,
    /// The first port.
    first: u16,
    /// This worker has every `of`-th port behind it, from `index` on: so many.
    index: u32,
    of: u32,
    ports: u32,
    /// Where in its ports the worker begins, which differs from run to run.
    offset: u32,
    /// Ports taken or tried so far.
    taken: u64,
    pause_until_ns: u64,
}

impl Sources {
    /// The sources of worker `index` of `of`. `run` is any number that differs from run to run.
    pub fn new(addresses: &[IpAddr], index: u32, of: u32, run: u32) -> Self {
        let (first, last) =
            std::fs::read_to_string(RANGE_FILE).ok().and_then(|text| range(&text)).unwrap_or(RANGE);
        let ports = ((u32::from(last - first) + 1) / of).max(1);
        let addresses = addresses.to_vec();
        Self { addresses, first, index, of, ports, offset: run % ports, taken: 0, pause_until_ns: 0 }
    }

    /// The number of addresses that have been used; 0: the kernel has chosen.
    pub fn used(&self) -> u32 {
        let used = self.taken.div_ceil(self.ports.into()).min(self.addresses.len() as u64);
        u32::try_from(used).unwrap_or(u32::MAX)
    }

    /// Opens a connection to `to`, which is in progress then.
    ///
    /// # Errors
    /// See [`DialError`].
    pub fn connect(&mut self, to: SocketAddr, now: u64) -> Result<TcpStream, DialError> {
        if self.addresses.is_empty() {
            return open(to).and_then(|socket| begin(&socket, to).map(|()| stream(socket))).map_err(
                |error| {
                    if error.kind() == ErrorKind::AddrNotAvailable {
                        DialError::NoPort
                    } else {
                        failed(&error, to)
                    }
                },
            );
        }
        if now < self.pause_until_ns {
            return Err(DialError::NoPort);
        }
        for _ in 0..TRIES_MAX {
            let from = self.next();
            if from == to {
                continue; // a socket can connect to itself
            }
            let socket = open(to).map_err(|error| failed(&error, to))?;
            match socket.bind(&from.into()) {
                Err(error) if error.kind() == ErrorKind::AddrInUse => continue,
                Err(error) if error.kind() == ErrorKind::AddrNotAvailable => {
                    return Err(DialError::Fatal(format!(
                        "--source {} is no address of this machine",
                        from.ip()
                    )));
                }
                other => other.map_err(|error| failed(&error, to))?,
            }
            match begin(&socket, to) {
                Err(error) if error.kind() == ErrorKind::AddrNotAvailable => {}
                other => return other.map(|()| stream(socket)).map_err(|error| failed(&error, to)),
            }
        }
        self.pause_until_ns = now + PAUSE_NS;
        Err(DialError::NoPort)
    }

    /// The next address and port of the walk.
    fn next(&mut self) -> SocketAddr {
        let (round, step) = (self.taken / u64::from(self.ports), self.taken % u64::from(self.ports));
        self.taken += 1;
        let address = self.addresses[usize::try_from(round).unwrap_or(0) % self.addresses.len()];
        let step = u32::try_from((step + u64::from(self.offset)) % u64::from(self.ports)).unwrap_or(0);
        let port = u32::from(self.first) + self.index + step * self.of;
        SocketAddr::new(address, u16::try_from(port).unwrap_or(self.first))
    }
}

fn range(text: &str) -> Option<(u16, u16)> {
    let mut ports = text.split_whitespace().map(str::parse::<u16>);
    let (first, last) = (ports.next()?.ok()?, ports.next()?.ok()?);
    (first <= last).then_some((first, last))
}

fn open(to: SocketAddr) -> io::Result<socket2::Socket> {
    let domain = socket2::Domain::for_address(to);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM.nonblocking().cloexec(), None)?;
    socket.set_tcp_nodelay(true)?;
    // A port is in use only with its peer: the port of a connection in TIME_WAIT can be bound.
    socket.set_reuse_address(true)?;
    Ok(socket)
}

fn begin(socket: &socket2::Socket, to: SocketAddr) -> io::Result<()> {
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {
            Err(error)
        }
        _ => Ok(()),
    }
}

fn stream(socket: socket2::Socket) -> TcpStream {
    TcpStream::from_std(socket.into())
}

fn failed(error: &io::Error, to: SocketAddr) -> DialError {
    if error.kind() == ErrorKind::ConnectionRefused {
        DialError::Refused(crate::wire::cause::connection(error))
    } else {
        DialError::Fatal(format!("cannot connect to {to}: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn listener() -> (socket2::Socket, SocketAddr) {
        let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        listener.listen(128).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        (listener, address)
    }

    fn sources(addresses: &[IpAddr], index: u32, of: u32, ports: u32) -> Sources {
        Sources { ports, ..Sources::new(addresses, index, of, 5) }
    }

    #[test]
    fn workers_walk_through_ports_of_their_own_and_one_address_after_the_other() {
        let addresses = [IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2])];
        let mut seen = BTreeSet::new();
        for index in 0..3 {
            let mut sources = sources(&addresses, index, 3, 100);
            for taken in 0..200 {
                assert_eq!(
                    sources.used(),
                    if taken == 0 {
                        0
                    } else if taken <= 100 {
                        1
                    } else {
                        2
                    }
                );
                assert!(seen.insert(sources.next()), "taken twice");
            }
            let again = sources.next();
            assert!(!seen.insert(again), "the oldest is first");
        }
        assert_eq!(seen.len(), 600);
    }

    #[test]
    fn a_port_in_use_is_passed_over_and_the_next_address_taken() {
        let (_listener, to) = listener();
        let addresses = [IpAddr::from([127, 0, 0, 3]), IpAddr::from([127, 0, 0, 4])];
        let mut first = sources(&addresses, 0, 9, 4);
        let open: Vec<_> = (0..4).map(|_| first.connect(to, 0).unwrap()).collect();
        // Another program with the same walk: the ports of the first address are in use with this peer.
        let mut second = sources(&addresses, 0, 9, 4);
        let more: Vec<_> = (0..4).map(|_| second.connect(to, 0).unwrap()).collect();
        let from = |stream: &TcpStream| stream.local_addr().unwrap().ip();
        assert!(open.iter().all(|stream| from(stream) == addresses[0]));
        assert!(more.iter().all(|stream| from(stream) == addresses[1]), "{more:?}");
        assert_eq!((first.used(), second.used()), (1, 2));
        assert!(matches!(second.connect(to, 1), Err(DialError::NoPort)), "all are in use");
        drop(open);
        assert!(matches!(second.connect(to, 2), Err(DialError::NoPort)), "it does not search at once");
    }

    #[test]
    fn an_address_of_another_machine_is_named() {
        let (_listener, to) = listener();
        let mut sources = sources(&[IpAddr::from([192, 0, 2, 1])], 0, 1, 4);
        let error = sources.connect(to, 0).unwrap_err();
        assert!(matches!(&error, DialError::Fatal(why) if why.contains("--source 192.0.2.1")), "{error:?}");
    }

    #[test]
    fn the_port_range_is_read() {
        assert_eq!(range("32768\t60999\n"), Some((32_768, 60_999)));
        assert_eq!((range("5"), range("9 5"), range("")), (None, None, None));
    }
}
