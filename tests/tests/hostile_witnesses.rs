//! Hostile HTTP/1, goal G1: what the proxy lets through of mutated streams, other proxies read as the oracle does.
//!
//! 500 streams in every run, 20,000 with `SELVEDGE_LONG=1`. `SELVEDGE_SEED` gives a seed again.

use selvedge_tests::hostile::ROLES;
use selvedge_tests::oracle::mutation::{seed, stream};
use selvedge_tests::oracle::stand::Stand;
use selvedge_tests::oracle::witness::{WITNESSES, Witness};
use selvedge_tests::oracle::{Request, Writer, read};

/// What a witness refuses or answers by itself for a reason of its own, that has nothing to do with where a request
/// ends. Such requests are left out for it, not compared less strictly.
fn is_quirk(witness: Witness, request: &Request) -> bool {
    let has_no_host = request.all("host") == [b""];
    match witness {
        // 400 for an empty `Host`, for `*`, for methods of other bytes than these, and for `Authorization` twice.
        Witness::Nginx => {
            let common = |b: &u8| b.is_ascii_uppercase() || b"_-".contains(b);
            has_no_host
                || request.target == b"*"
                || !request.method.iter().all(common)
                || request.all("authorization").len() > 1
        }
        // 400 for a handshake of a websocket whose key has not the length of one (RFC 6455 section 4.1).
        Witness::Haproxy => {
            let keys = request.all("sec-websocket-key");
            request.all("upgrade") == [b"websocket"] && !keys.iter().any(|k| k.len() == 24)
        }
        // 400 for an empty `Host`, for one whose last label begins with a digit, and for port 0; `OPTIONS *` is its own to answer.
        Witness::Apache => {
            has_no_host
                || ends_in_a_digit(request)
                || has_port_zero(request)
                || request.target == b"*"
        }
    }
}

/// Whether the host is neither an address nor a name that a registry would take: `a.80`, `a.0x`, `7`.
fn ends_in_a_digit(request: &Request) -> bool {
    let host = String::from_utf8_lossy(&request.all("host").concat()).into_owned();
    let name = host.split(':').next().unwrap_or_default();
    let last = name.rsplit('.').next().unwrap_or_default();
    !host.starts_with('[')
        && last.starts_with(|c: char| c.is_ascii_digit())
        && (name.contains('.') || last.bytes().all(|b| b.is_ascii_digit()))
        && name.parse::<std::net::Ipv4Addr>().is_err()
}

/// Whether the host has a port that nobody can connect to: `a:0`, `a:00`.
fn has_port_zero(request: &Request) -> bool {
    let host = request.all("host").concat();
    let port = host.rsplit(|b| *b == b':').next().unwrap_or_default();
    port.len() < host.len() && !port.is_empty() && port.iter().all(|b| *b == b'0')
}

/// What was let through of as many streams of this seed.
fn passed(seed: u64, wanted: usize) -> Vec<Vec<Vec<u8>>> {
    let mut all = Vec::new();
    for (role, share) in ROLES.into_iter().zip([wanted / 2, wanted - wanted / 2]) {
        let mut stand = Stand::start(role);
        let end = all.len() + share;
        for number in 0.. {
            stand.check(&stream(seed, number)).unwrap();
            if !stand.passed.is_empty() {
                all.push(std::mem::take(&mut stand.passed));
            }
            if all.len() == end {
                break;
            }
        }
    }
    all
}

#[test]
fn witnesses_read_what_is_let_through_as_the_oracle_does() {
    let seed = seed();
    let long = std::env::var_os("SELVEDGE_LONG").is_some();
    let streams = passed(seed, if long { 20_000 } else { 500 });
    let mut wrong = Vec::new();
    for witness in WITNESSES {
        let mut stand = witness.stand();
        let (mut replayed, mut left_out, before) = (0, 0, wrong.len());
        for requests in &streams {
            let mut bytes = Vec::new();
            for request in requests {
                let reading = read(request, Writer::Proxy);
                assert_eq!(reading.requests.len(), 1);
                match is_quirk(witness, &reading.requests[0]) {
                    true => left_out += 1,
                    false => bytes.extend(request),
                }
            }
            if bytes.is_empty() {
                continue;
            }
            replayed += 1;
            if let Err(why) = stand.replay(&bytes) {
                wrong.push(format!("{witness:?}: {why}"));
                stand = witness.stand();
            }
            if wrong.len() - before > 5 {
                break;
            }
        }
        println!("{witness:?}: {replayed} streams, without {left_out} requests");
        // A witness that is left out of everything has said nothing.
        assert!(
            replayed > streams.len() / 2,
            "{witness:?}: {replayed}\n{}",
            wrong.join("\n")
        );
    }
    assert!(
        wrong.is_empty(),
        "SELVEDGE_SEED={seed}\n{}",
        wrong.join("\n")
    );
}
