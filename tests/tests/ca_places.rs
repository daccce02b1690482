//! Places at the CA: one address that comes and asks nothing has its share of them, and not for long.

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use selvedge_tests::authority::CaProcess;
use selvedge_tests::ca_client::{Client, runtime};
use selvedge_tests::control_plane::until;
use socket2::{Domain, Socket, Type};

const ORDERS: &str = "spiffe://shop.local/ns/shop/sa/orders";
/// Those of one address, as `server.rs` of the CA has it.
const OF_ONE: usize = 128;
/// More than there are places for all.
const MANY: usize = 1200;
/// By then whoever has asked nothing is gone: 10 s, and a little more.
const SOON: Duration = Duration::from_secs(14);

/// A connection from this address of loopback, on which nothing is said.
fn silent(last: u8, to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let from = SocketAddr::from(([127, 0, 0, last], 0));
    socket.bind(&from.into()).unwrap();
    socket.connect(&to.into()).unwrap();
    socket.into()
}

/// Whether the other end has ended it by now.
fn ended(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    match stream.read(&mut [0; 64]) {
        Ok(0) => true,
        Ok(_) => panic!("nobody was asked"),
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

#[test]
fn one_address_that_asks_nothing_keeps_nobody_out() {
    let ca = CaProcess::start(&[]);
    let begun = Instant::now();
    let mut held: Vec<_> = (0..MANY).map(|_| silent(2, ca.address())).collect();
    until("an end of those that are too many", || {
        let open = held
            .iter_mut()
            .filter_map(|one| (!ended(one)).then_some(()));
        (open.count() == OF_ONE).then_some(())
    });
    // Others come and are served, at once.
    let client = Client::new(ca.address(), &ca.bundle());
    let shown = client.join(&ca.token(ORDERS));
    let _ = client.showing(&shown).request().unwrap();
    assert!(
        begun.elapsed() < Duration::from_secs(9),
        "{:?}",
        begun.elapsed()
    );
    // The address has its places back when those that were silent are gone.
    until("an end of the silent", || {
        held.iter_mut().all(ended).then_some(())
    });
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    let mut again = silent(2, ca.address());
    let _ = client.showing(&shown).request().unwrap();
    assert!(!ended(&mut again));
}

#[test]
fn many_addresses_that_ask_nothing_keep_nobody_out() {
    // Nine addresses had all places between them, and came again as soon as they were ended.
    let ca = CaProcess::start(&[]);
    let mut held = Vec::new();
    for address in 2..=15 {
        held.extend((0..OF_ONE).map(|_| silent(address, ca.address())));
    }
    let client = Client::new(ca.address(), &ca.bundle());
    let begun = Instant::now();
    let shown = client.join(&ca.token(ORDERS));
    for _ in 0..4 {
        let _ = client.showing(&shown).request().unwrap();
    }
    // Before the first of them has to end for its silence.
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
    assert!(held.iter_mut().any(|one| !ended(one)));
}

#[test]
fn a_connection_whose_first_call_never_comes_is_ended() {
    let ca = CaProcess::start(&[]);
    let client = Client::new(ca.address(), &ca.bundle());
    let shown = client.join(&ca.token(ORDERS));
    runtime().block_on(async {
        let mut caller = client.showing(&shown).connect().await.unwrap();
        caller.create(Default::default(), &[]).await.unwrap_err();
        let silent = client.connect().await.unwrap().into_sender();
        let begun = Instant::now();
        let mut look = tokio::time::interval(Duration::from_millis(50));
        while !silent.is_closed() {
            assert!(begun.elapsed() < SOON);
            look.tick().await;
        }
        assert!(
            begun.elapsed() > Duration::from_secs(8),
            "{:?}",
            begun.elapsed()
        );
        // One that was called on stays.
        let caller = caller.into_sender();
        assert!(!caller.is_closed());
    });
}
