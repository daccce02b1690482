//! Connections that are not looked into: servers and clients without a protocol, and lines of the log.

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Instant;

use crate::{PATIENCE, Selvedge};

/// The log of every test here.
pub const LOG: &str = "telemetry: { accessLog: { format: text } }";

/// Serves every connection on a thread of its own; they end with the process.
pub fn server(script: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    crate::pod::serve(listener, script);
    address
}

/// An address where nobody listens, held so that nobody else will.
#[must_use]
pub fn nobody() -> (socket2::Socket, SocketAddr) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    socket.bind(&any.into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

/// A connection to a listener.
#[must_use]
pub fn connect(proxy: &Selvedge, listener: &str) -> TcpStream {
    let stream = TcpStream::connect(proxy.address(listener)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// How a connection without another byte ends: by RST, or politely.
#[must_use]
pub fn is_reset(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0]) {
        Ok(0) => false,
        Err(error) if error.kind() == ErrorKind::ConnectionReset => true,
        other => panic!("{other:?}"),
    }
}

/// Waits until as many lines of the access log have all of this; gives the first.
pub fn lines(proxy: &Selvedge, parts: &[&str], count: usize) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let log = proxy.log();
        let fits = |line: &&String| parts.iter().all(|part| line.contains(part));
        let found: Vec<&String> = log.iter().filter(fits).collect();
        if found.len() >= count {
            return found[0].clone();
        }
        assert!(
            Instant::now() < deadline,
            "{} of {count} lines with {parts:?} in:\n{}",
            found.len(),
            log.join("\n")
        );
        std::thread::yield_now();
    }
}

/// The same for one line.
pub fn line(proxy: &Selvedge, parts: &[&str]) -> String {
    lines(proxy, parts, 1)
}
