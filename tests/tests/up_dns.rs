//! Row UP-07 of the battery: name servers that fail, lie, or change their mind.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use selvedge_tests::netns::Namespace;
use selvedge_tests::{PATIENCE, Raw, Selvedge, Upstream};

/// What the server says of any name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Says {
    /// So many addresses from this one on, with this TTL; too many for a datagram by TCP.
    Addresses(Ipv4Addr, u32, u32),
    /// That there is no such name, to be believed for a day.
    Nothing,
    Failure,
    Silence,
    /// An address, but under another id.
    Spoofed,
    /// The name is itself.
    Loop,
    Garbage,
}

type Mind = Arc<Mutex<Says>>;

/// The answer to a question; `None` is silence.
fn answer(question: &[u8], says: Says, by_tcp: bool) -> Option<Vec<u8>> {
    let end = 12 + question.get(12..)?.iter().position(|b| *b == 0)? + 5;
    let asks_a = question.get(end - 4..end - 2)? == [0, 1];
    let mut answer = question.get(..end)?.to_vec();
    // A response, recursion available; one question.
    (answer[2], answer[3]) = (0x81, 0x80);
    answer[4..12].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
    let record = |kind: u8, ttl: u32, data: &[u8]| {
        let length = u16::try_from(data.len()).unwrap().to_be_bytes();
        let head = [0xc0, 12, 0, kind, 0, 1];
        [&head[..], &ttl.to_be_bytes(), &length, data].concat()
    };
    match says {
        Says::Silence => return None,
        Says::Garbage => return Some(vec![0xff; 40]),
        Says::Failure => answer[3] |= 2,
        Says::Nothing => {
            answer[3] |= 3;
            answer[9] = 1;
            let day = 86_400u32.to_be_bytes();
            let soa = [&[0, 0][..], &[0; 16], &day].concat();
            answer.extend(record(6, 86_400, &soa));
        }
        Says::Loop => {
            answer[7] = 1;
            answer.extend(record(5, 0, &[0xc0, 12]));
        }
        Says::Spoofed if asks_a => {
            answer[0] ^= 0x55;
            answer[7] = 1;
            answer.extend(record(1, 60, &[127, 0, 0, 9]));
        }
        Says::Spoofed => answer[0] ^= 0x55,
        Says::Addresses(_, count, _) if asks_a && count > 20 && !by_tcp => answer[2] |= 2,
        Says::Addresses(first, count, ttl) if asks_a => {
            let number = u16::try_from(count).unwrap();
            answer[6..8].copy_from_slice(&number.to_be_bytes());
            let all = (0..count).map(|n| (first.to_bits() + n).to_be_bytes());
            answer.extend(all.flat_map(|octets| record(1, ttl, &octets)));
        }
        Says::Addresses(..) => {}
    }
    Some(answer)
}

/// A name server on port 53 of this place.
fn name_server(place: &Namespace, mind: &Mind) {
    let (udp, tcp) = place.inside(0, || {
        (
            UdpSocket::bind("127.0.0.1:53").unwrap(),
            TcpListener::bind("127.0.0.1:53").unwrap(),
        )
    });
    let says = mind.clone();
    std::thread::spawn(move || {
        let mut question = [0; 1500];
        while let Ok((n, from)) = udp.recv_from(&mut question) {
            let now = *says.lock().unwrap();
            if let Some(answer) = answer(&question[..n], now, false) {
                let _ = udp.send_to(&answer, from);
            }
        }
    });
    let says = mind.clone();
    std::thread::spawn(move || {
        for mut stream in tcp.incoming().map_while(Result::ok) {
            let says = says.clone();
            std::thread::spawn(move || {
                let mut length = [0; 2];
                while stream.read_exact(&mut length).is_ok() {
                    let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
                    stream.read_exact(&mut question).unwrap();
                    let now = *says.lock().unwrap();
                    if let Some(answer) = answer(&question, now, true) {
                        let length = u16::try_from(answer.len()).unwrap().to_be_bytes();
                        let _ = stream.write_all(&[&length[..], &answer].concat());
                    }
                }
            });
        }
    });
}

fn gateway(place: &Namespace, port: u16) -> Selvedge {
    let config = format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0 }}]
routes: [{{ rules: [{{ backendRefs: [{{ service: app }}] }}] }}]
services: {{ app: {{ dns: app.test., port: {port} }} }}
admin: {{ bind: \"127.0.0.1:0\", health: \"127.0.0.1:0\" }}
"
    );
    Selvedge::gateway_in(place, &config)
}

/// Endpoints that answer with their names, at one port of two addresses.
fn endpoints(place: &Namespace) -> [Upstream; 2] {
    let start = |address: SocketAddr, name: &'static str| {
        place.inside(0, move || {
            Upstream::scripted_at(address, move |connection| {
                while connection.request().is_some() {
                    connection.send(format!(
                        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{name}"
                    ));
                }
            })
        })
    };
    let a = start(SocketAddr::from(([127, 0, 0, 1], 0)), "a");
    let b = start(([127, 0, 0, 2], a.address().port()).into(), "b");
    [a, b]
}

fn ask(place: &Namespace, proxy: &Selvedge) -> (u16, String) {
    let web = proxy.address("web");
    let reply = place.inside(0, || Raw::connect(web).get("/"));
    (reply.status, reply.text())
}

fn wait_for(place: &Namespace, proxy: &Selvedge, by: &str) {
    let deadline = Instant::now() + PATIENCE;
    while ask(place, proxy) != (200, by.to_owned()) {
        assert!(Instant::now() < deadline, "never answered by {by}");
        std::thread::yield_now();
    }
}

const A: Says = Says::Addresses(Ipv4Addr::new(127, 0, 0, 1), 1, 0);
const B: Says = Says::Addresses(Ipv4Addr::new(127, 0, 0, 2), 1, 0);

/// With this said of a name that was known, the last good answer stays; what follows is seen.
fn survives(says: Says) {
    let place = Namespace::new();
    place.resolve_by("127.0.0.1");
    let mind = Arc::new(Mutex::new(A));
    name_server(&place, &mind);
    let [a, _b] = endpoints(&place);
    let mut proxy = gateway(&place, a.address().port());
    wait_for(&place, &proxy, "a");
    proxy.skip_log();
    *mind.lock().unwrap() = says;
    let _ = proxy.wait_for_next("the last good answer stays");
    for _ in 0..10 {
        assert_eq!(ask(&place, &proxy), (200, "a".into()), "{says:?}");
    }
    *mind.lock().unwrap() = B;
    wait_for(&place, &proxy, "b");
    // Idle connections to an address that has gone are closed.
    let _ = a.wait_until(|seen| seen.iter().all(|one| one.closed));
}

#[test]
fn up_07_a_name_that_is_gone_is_kept_and_seen_again_whatever_its_negative_ttl() {
    survives(Says::Nothing);
}

#[test]
fn up_07_failures_and_silence_change_nothing() {
    survives(Says::Failure);
    survives(Says::Silence);
}

#[test]
fn up_07_lies_and_loops_change_nothing() {
    survives(Says::Spoofed);
    survives(Says::Loop);
    survives(Says::Garbage);
}

#[test]
fn up_07_a_name_that_flaps_and_one_with_a_thousand_addresses() {
    let place = Namespace::new();
    place.resolve_by("127.0.0.1");
    let mind = Arc::new(Mutex::new(A));
    name_server(&place, &mind);
    let [a, _b] = endpoints(&place);
    let mut proxy = gateway(&place, a.address().port());
    for _ in 0..3 {
        for (says, by) in [(A, "a"), (B, "b")] {
            *mind.lock().unwrap() = says;
            wait_for(&place, &proxy, by);
        }
    }
    // Truncated in a datagram, whole over TCP. All of 127.0.0.0/8 is here, but nobody listens there.
    *mind.lock().unwrap() = Says::Addresses(Ipv4Addr::new(127, 0, 0, 1), 1000, 0);
    let _ = proxy.wait_for("count=1000");
}
