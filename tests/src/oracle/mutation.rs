//! Streams of requests for the oracle: well-formed messages and hostile ones, one to four of them in a row, and what
//! noise of a known seed makes of them.

use fastrand::Rng;

use super::stand::Sending;
use super::{End, Writer, read};

/// Longest stream in bytes: below every limit on a whole head but that of the count of its fields.
const LONGEST: usize = 8 << 10;

/// Messages that a strict reader takes.
const FINE: [&str; 22] = [
    "GET /$ HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET /$?a=%2F..&b=c HTTP/1.1\r\nHost: A.example:8080\r\nX-Own: 1\r\nAccept: */*\r\n\r\n",
    "GET /a/%7e/./b//../$/%c3%a9 HTTP/1.1\r\nHost: [::1]:80\r\nX-Own: \t1 2 \r\nx-own: \u{e9}\r\n\r\n",
    "HEAD /$ HTTP/1.1\r\nHost: a\r\n\r\n",
    "HEAD /$ HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    "OPTIONS /$ HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
    "GET http://b.example/$?q HTTP/1.1\r\nHost: a\r\n\r\n",
    "DELETE http://b:81 HTTP/1.1\r\nHost: b:81\r\n\r\n",
    "POST /$ HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    "POST /$ HTTP/1.1\r\nContent-Length: 0010\r\nHost: a\r\nContent-Type: text/plain\r\n\r\n0123456789",
    "PUT /$ HTTP/1.1\r\nHost: a\r\nContent-Length: 40\r\n\r\nGET /inner HTTP/1.1\r\nHost: a\r\nA: 123\r\n\r\n",
    "POST /$ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "POST /$ HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE\r\ntransfer-encoding: CHUNKED\r\n\r\n0a;x=y\r\n0123456789\r\n003\r\nabc\r\n00\r\nX-Trailer: 1\r\n\r\n",
    "PATCH /$ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nX-Own: 1\r\n\r\n1a\r\nGET /in HTTP/1.1\r\nHost: a\r\n\r\n0\r\n\r\n",
    "POST /$ HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello",
    "POST /$ HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    "GET /$ HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
    "GET /$ HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    "GET /$ HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, X-Own, Cookie\r\nX-Own: 1\r\nCookie: a=b\r\nAuthorization: c\r\n\r\n",
    "GET /$ HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 9.9.9.9\r\nX_Forwarded_For: 9.9.9.9\r\nForwarded: for=x\r\n\r\n",
    "\r\nGET /$;v=1/b HTTP/1.1\r\nHost: a\r\nUser-Agent: \"x\"\r\n\r\n",
];

/// Messages that end a connection, or that some readers take in one way and some in another.
const ODD: [&str; 20] = [
    "GET /$ HTTP/1.0\r\n\r\n",
    "POST /$ HTTP/1.0\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    "POST /$ HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello",
    "POST /$ HTTP/1.1\r\nHost: a\r\nContent-Length: 15\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "POST /$ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "POST /$ HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "POST /$ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "POST /$ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "POST /$ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "POST /$ HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "POST /$ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    "POST /$ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n",
    "POST /$ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello!!\r\n0\r\n\r\n",
    "GET /$ HTTP/1.1\r\nHost: a\r\n folded: 1\r\n\r\n",
    "GET /$ HTTP/1.1\r\nHost: a\nX-Own: 1\r\n\r\n",
    "GET /$ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "GET /$ HTTP/1.1\r\n\r\n",
    "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
    "GET /$/%2f/%00 HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET /$ HTTP/1.1\r\nHost: a\r\nConnection: Transfer-Encoding, Content-Length, Host\r\nContent-Length: 3\r\n\r\nabc",
];

/// What is put in somewhere.
const WORDS: [&[u8]; 60] = [
    b"\r",
    b"\n",
    b"\r\n",
    b"\r\n\r\n",
    b"\n\n",
    b"\r\r\n",
    b"\0",
    b"\t",
    b" ",
    b"  ",
    b"\x0b",
    b"\x0c",
    b"\x7f",
    b"\x1b",
    b"\x85",
    b"\xa0",
    b"\xff",
    b":",
    b" :",
    b"::",
    b";",
    b",",
    b"%",
    b"%00",
    b"%0d%0a",
    b"%2e%2e/",
    b"%2F",
    b"%5c",
    b"/../",
    b"/..;/",
    b"//",
    b"\\",
    b"#",
    b"?",
    b"@",
    b"0",
    b"+",
    b"-",
    b"0x",
    b"_",
    b"ffffffffffffffff",
    b"10000000000000000",
    b"18446744073709551616",
    b"0\r\n\r\n",
    b"1\r\nZ\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding:\x0bchunked\r\n",
    b"Content-Length: 0\r\n",
    b"Content-Length: 5\r\n",
    b"Host: b\r\n",
    b"Connection: close\r\n",
    b"Connection: keep-alive\r\n",
    b"Expect: 100-continue\r\n",
    b"Upgrade: h2c\r\n",
    b"X: 1\r\n",
    b" HTTP/1.1\r\n",
    b"HTTP/1.0",
    b"HEAD ",
    b"http://c/",
    b"GET /word HTTP/1.1\r\nHost: a\r\n\r\n",
];

/// After this request a connection is over, where it is read as one.
const LAST: &[u8] = b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

/// The seed of a run, printed: that of `SELVEDGE_SEED`, or else always the same, so that one change of the
/// product cannot be blamed for the luck of another; the long run has luck of its own.
///
/// # Panics
/// Where it is no number.
#[must_use]
pub fn seed() -> u64 {
    let given = std::env::var("SELVEDGE_SEED").ok();
    let given = given.map(|seed| seed.parse().expect("SELVEDGE_SEED is a number"));
    let seed = given.unwrap_or_else(|| match std::env::var_os("SELVEDGE_LONG") {
        Some(_) => fastrand::u64(..),
        None => 20_260_913,
    });
    println!("SELVEDGE_SEED={seed}");
    seed
}

/// Stream `number` of this seed.
#[must_use]
pub fn stream(seed: u64, number: u64) -> Sending {
    let mut rng = Rng::with_seed(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut bytes = row(&mut rng, number);
    if rng.u8(..6) > 0 {
        for _ in 0..rng.u8(1..=3) {
            mutate(&mut rng, number, &mut bytes);
            bytes.truncate(LONGEST);
        }
    }
    if rng.u8(..3) == 0 {
        bytes.extend(LAST);
    }
    let mut cuts: Vec<usize> = (0..rng.u8(..4)).map(|_| cut(&mut rng, &bytes)).collect();
    // Shortly before what is wrong: by then a good beginning may have been passed on.
    if let End::Malformed(at, _) = read(&bytes, Writer::Client).end {
        cuts.push(at.saturating_sub(rng.usize(..20)));
    }
    cuts.sort_unstable();
    Sending {
        hasty: rng.u8(..4) == 0,
        slow: rng.bool(),
        bytes,
        cuts,
    }
}

/// Anywhere, or where a line begins: behind a head, or within a body.
fn cut(rng: &mut Rng, bytes: &[u8]) -> usize {
    let at = rng.usize(..=bytes.len());
    let line = bytes[at..].iter().position(|b| *b == b'\n');
    match line.filter(|_| rng.bool()) {
        Some(lf) => at + lf + 1,
        None => at,
    }
}

/// One to four messages.
fn row(rng: &mut Rng, number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    for at in 0..rng.u8(1..=4) {
        let text = match rng.u8(..8) {
            0 => ODD[rng.usize(..ODD.len())],
            _ => FINE[rng.usize(..FINE.len())],
        };
        bytes.extend(text.replace('$', &format!("{number}.{at}")).bytes());
    }
    bytes
}

fn mutate(rng: &mut Rng, number: u64, bytes: &mut Vec<u8>) {
    let at = rng.usize(..=bytes.len());
    let end = (at + rng.usize(..24)).min(bytes.len());
    match rng.u8(..10) {
        0 if at < bytes.len() => bytes[at] ^= 1 << rng.u8(..8),
        1 if at < bytes.len() => bytes[at] = rng.u8(..),
        2 => drop(bytes.drain(at..end)),
        3 => {
            let part = bytes[at..end].to_vec();
            bytes.splice(at..at, part);
        }
        4 => {
            let other = row(rng, number);
            bytes.splice(at.., other[rng.usize(..other.len())..].to_vec());
        }
        5 => bytes.truncate(at),
        6 => drop(bytes.splice(at..end, WORDS[rng.usize(..WORDS.len())].to_vec())),
        // At the beginning of a line, where a field is one.
        7 => {
            let line = bytes[..at].iter().rposition(|b| *b == b'\n');
            let line = line.map_or(0, |lf| lf + 1);
            bytes.splice(line..line, WORDS[rng.usize(..WORDS.len())].to_vec());
        }
        _ => drop(bytes.splice(at..at, WORDS[rng.usize(..WORDS.len())].to_vec())),
    }
}
