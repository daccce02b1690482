//! TL-02: an honest client whose records are bent, lost, doubled or swapped on their way: nothing of
//! what it asks for is done.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use rustls::SupportedProtocolVersion;
use rustls::version::{TLS12, TLS13};
use selvedge_tests::certs::Leaf;
use selvedge_tests::tls_bytes::{CHANGE_CIPHER_SPEC, records};
use selvedge_tests::tls_peer::session;
use selvedge_tests::trusting::{Trusting, WEB, edge};
use selvedge_tests::{PATIENCE, TestCa, Upstream};

/// What becomes of one record on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Harm {
    /// One bit of the byte at this place is another: from the front, or from the back.
    Bit(isize),
    /// It never comes.
    Lost,
    /// It comes twice.
    Twice,
    /// It comes after the one behind it.
    Late,
    /// Half of it comes, and then nothing more.
    Cut,
}

/// Type, both bytes of the version and of the length, the first byte inside, one further in, and the
/// last: that of the seal.
const HARMS: [Harm; 12] = [
    Harm::Bit(0),
    Harm::Bit(1),
    Harm::Bit(2),
    Harm::Bit(3),
    Harm::Bit(4),
    Harm::Bit(5),
    Harm::Bit(12),
    Harm::Bit(-1),
    Harm::Lost,
    Harm::Twice,
    Harm::Late,
    Harm::Cut,
];

/// A client's side of a connection, on whose way one record comes to harm.
struct Way {
    stream: TcpStream,
    harm: Option<(usize, Harm)>,
    /// Types of the records sent so far.
    kinds: Vec<u8>,
    held: Option<Vec<u8>>,
    ended: bool,
}

impl Way {
    /// Sends records, as they come out at the other end.
    fn send(&mut self, bytes: &[u8]) {
        for record in records(bytes) {
            let number = self.kinds.len();
            self.kinds.push(record[0]);
            let harm = self.harm.filter(|(at, _)| *at == number);
            let out = match harm.map(|(_, harm)| harm) {
                None => [record, self.held.take().unwrap_or_default()].concat(),
                Some(Harm::Bit(place)) => bent(record, place),
                Some(Harm::Lost) => Vec::new(),
                Some(Harm::Twice) => record.repeat(2),
                Some(Harm::Late) => {
                    self.held = Some(record);
                    Vec::new()
                }
                Some(Harm::Cut) => {
                    let _ = self.stream.write_all(&record[..record.len() / 2]);
                    return self.end();
                }
            };
            let _ = self.stream.write_all(&out);
        }
    }

    /// Nothing more will come.
    fn end(&mut self) {
        self.ended = true;
        let _ = self.stream.shutdown(Shutdown::Write);
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
    }
}

fn bent(mut record: Vec<u8>, place: isize) -> Vec<u8> {
    let length = record.len();
    let at = place.checked_rem_euclid(length.cast_signed()).unwrap();
    record[at.cast_unsigned()] ^= 1;
    record
}

/// Whether the request of an honest client was answered; and the types of the records that it sent.
fn ask(
    address: SocketAddr,
    leaf: Option<&Leaf>,
    version: &'static SupportedProtocolVersion,
    harm: Option<(usize, Harm)>,
) -> (bool, Vec<u8>) {
    let stream = TcpStream::connect(address).unwrap();
    let patience = harm.map_or(PATIENCE, |_| Duration::from_millis(300));
    stream.set_read_timeout(Some(patience)).unwrap();
    let mut session = session(address, leaf, "http/1.1", &[version]);
    let mut way = Way {
        stream,
        harm,
        kinds: Vec::new(),
        held: None,
        ended: false,
    };
    let mut answer = Vec::new();
    let mut asked = false;
    loop {
        if !session.is_handshaking() && !asked {
            asked = true;
            // Each of these is a record.
            for part in ["GET / HTTP/1.1\r\nHost: a\r\n", "\r\n"] {
                session.writer().write_all(part.as_bytes()).unwrap();
            }
        }
        let mut out = Vec::new();
        while session.wants_write() {
            session.write_tls(&mut out).unwrap();
        }
        way.send(&out);
        match session.read_tls(&mut way.stream) {
            Ok(1..) => {}
            // The server waits for what will not come.
            Err(error) if error.kind() == ErrorKind::WouldBlock && !way.ended => way.end(),
            _ => break,
        }
        if session.process_new_packets().is_err() {
            break;
        }
        let _ = session.reader().read_to_end(&mut answer);
        if answer.ends_with(b"ok") {
            break;
        }
    }
    (answer.starts_with(b"HTTP/1.1 200"), way.kinds)
}

/// Every harm to every record of a client's.
fn all(
    address: SocketAddr,
    leaf: Option<&Leaf>,
    version: &'static SupportedProtocolVersion,
    app: &Upstream,
) {
    let (answered, kinds) = ask(address, leaf, version, None);
    assert!(answered, "without harm: {kinds:?}");
    let (mut count, mut served) = (0, 1);
    let mut wrong = Vec::new();
    for (number, kind) in kinds.iter().enumerate() {
        for harm in HARMS {
            let (answered, _) = ask(address, leaf, version, Some((number, harm)));
            count += 1;
            served += usize::from(answered);
            let sealed = kinds[..number].contains(&CHANGE_CIPHER_SPEC);
            if answered != harmless(version == &TLS13, *kind, sealed, harm) {
                wrong.push(format!(
                    "record {number} of type {kind}, {harm:?}: {answered}"
                ));
            }
        }
    }
    assert!(count >= 60, "{count} cases");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(app.all().matches("GET ").count(), served);
}

/// What the protocol wants to be overlooked: the version of a record that is not sealed (RFC 8446
/// 5.1), and in TLS 1.3 a change of ciphers (D.4) and the header of a sealed record but for its
/// length, which says the same each time: what the seal is over is made anew (5.2).
fn harmless(new: bool, kind: u8, sealed: bool, harm: Harm) -> bool {
    match (harm, kind) {
        (Harm::Bit(0 | 2), _) if sealed => new,
        (Harm::Bit(2), _) => true,
        (Harm::Lost | Harm::Twice, CHANGE_CIPHER_SPEC) => new,
        _ => false,
    }
}

#[test]
fn harmed_on_the_way_to_the_mesh() {
    let ca = TestCa::new();
    let app = Upstream::answering("ok");
    let mesh = Trusting::start(&ca, &ca.bundle(), ("", "", ""), &[], &app);
    all(mesh.inbound(), Some(&ca.svid(WEB)), &TLS13, &app);
}

#[test]
fn harmed_on_the_way_to_the_edge() {
    for version in [&TLS12, &TLS13] {
        let app = Upstream::answering("ok");
        let proxy = edge(&TestCa::new(), &app);
        all(proxy.address("web"), None, version, &app);
    }
}
