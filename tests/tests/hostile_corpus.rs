//! Hostile HTTP/1, rows H1-28 and H1-25 of the battery: every byte in every place of a request, and every way to write
//! a byte of a path, with a request behind that an attacker hopes to smuggle.
//!
//! The oracle says what is safe; what we make of each is in the tables of `cases/hostile`. `SELVEDGE_WRITE=1` writes
//! those anew, to be read before they are committed.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use selvedge_tests::hostile::{ROLES, Role, held};
use selvedge_tests::oracle::stand::{Sending, Stand};

/// A place, and a request with the byte there, written `$`.
type Place = (&'static str, &'static str);

/// The bytes that got each answer.
type Verdicts = BTreeMap<String, Vec<u8>>;

const LINE: &[Place] = &[
    (
        "before the method",
        "$GET /hostile HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    ("in the method", "GE$T /hostile HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("as the method", "$ /hostile HTTP/1.1\r\nHost: a\r\n\r\n"),
    (
        "as the first space",
        "GET$/hostile HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "behind the first space",
        "GET $/hostile HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    ("in the path", "GET /hos$tile HTTP/1.1\r\nHost: a\r\n\r\n"),
    (
        "in the query",
        "GET /hostile?a$b HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "in the host of the target",
        "GET http://a$b/hostile HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "in the scheme of the target",
        "GET ht$tp://a/hostile HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "before the second space",
        "GET /hostile$ HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "as the second space",
        "GET /hostile$HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "in the protocol",
        "GET /hostile HT$TP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "as the major version",
        "GET /hostile HTTP/$.1\r\nHost: a\r\n\r\n",
    ),
    ("as the dot", "GET /hostile HTTP/1$1\r\nHost: a\r\n\r\n"),
    (
        "as the minor version",
        "GET /hostile HTTP/1.$\r\nHost: a\r\n\r\n",
    ),
    (
        "behind the version",
        "GET /hostile HTTP/1.1$\r\nHost: a\r\n\r\n",
    ),
    (
        "as the CR of the line",
        "GET /hostile HTTP/1.1$\nHost: a\r\n\r\n",
    ),
    (
        "as the LF of the line",
        "GET /hostile HTTP/1.1\r$Host: a\r\n\r\n",
    ),
];

const FIELDS: &[Place] = &[
    (
        "before a name",
        "GET /hostile HTTP/1.1\r\nHost: a\r\n$X: 1\r\n\r\n",
    ),
    (
        "in a name",
        "GET /hostile HTTP/1.1\r\nHost: a\r\nX$Y: 1\r\n\r\n",
    ),
    (
        "as a name",
        "GET /hostile HTTP/1.1\r\nHost: a\r\n$: 1\r\n\r\n",
    ),
    (
        "before the colon",
        "GET /hostile HTTP/1.1\r\nHost: a\r\nX$: 1\r\n\r\n",
    ),
    (
        "as the colon",
        "GET /hostile HTTP/1.1\r\nHost: a\r\nX$1\r\n\r\n",
    ),
    (
        "before a value",
        "GET /hostile HTTP/1.1\r\nHost: a\r\nX:$1\r\n\r\n",
    ),
    (
        "in a value",
        "GET /hostile HTTP/1.1\r\nHost: a\r\nX: a$b\r\n\r\n",
    ),
    (
        "behind a value",
        "GET /hostile HTTP/1.1\r\nHost: a\r\nX: 1$\r\n\r\n",
    ),
    (
        "as the CR of a field",
        "GET /hostile HTTP/1.1\r\nHost: a\r\nX: 1$\n\r\n",
    ),
    (
        "as the LF of a field",
        "GET /hostile HTTP/1.1\r\nHost: a\r\nX: 1\r$\r\n\r\n",
    ),
    (
        "as the CR of the empty line",
        "GET /hostile HTTP/1.1\r\nHost: a\r\n$\n",
    ),
    (
        "as the LF of the empty line",
        "GET /hostile HTTP/1.1\r\nHost: a\r\n\r$",
    ),
    ("before Host", "GET /hostile HTTP/1.1\r\n$Host: a\r\n\r\n"),
    (
        "in the name of Host",
        "GET /hostile HTTP/1.1\r\nHo$st: a\r\n\r\n",
    ),
    (
        "behind the name of Host",
        "GET /hostile HTTP/1.1\r\nHost$: a\r\n\r\n",
    ),
    ("before a host", "GET /hostile HTTP/1.1\r\nHost: $a\r\n\r\n"),
    ("in a host", "GET /hostile HTTP/1.1\r\nHost: a$b\r\n\r\n"),
    ("as a host", "GET /hostile HTTP/1.1\r\nHost: $\r\n\r\n"),
    ("behind a host", "GET /hostile HTTP/1.1\r\nHost: a$\r\n\r\n"),
    ("in a port", "GET /hostile HTTP/1.1\r\nHost: a:8$0\r\n\r\n"),
    (
        "in Connection",
        "GET /hostile HTTP/1.1\r\nHost: a\r\nConnection: cl$ose\r\n\r\n",
    ),
    (
        "behind Connection",
        "GET /hostile HTTP/1.1\r\nHost: a\r\nConnection: close$\r\n\r\n",
    ),
];

const CHUNKED: &str = "POST /hostile HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";

const FRAMING: &[Place] = &[
    (
        "before Transfer-Encoding",
        "POST /hostile HTTP/1.1\r\nHost: a\r\n$Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ),
    (
        "in the name of Transfer-Encoding",
        "POST /hostile HTTP/1.1\r\nHost: a\r\nTransfer$Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ),
    (
        "behind the name of Transfer-Encoding",
        "POST /hostile HTTP/1.1\r\nHost: a\r\nTransfer-Encoding$: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ),
    (
        "before a coding",
        "POST /hostile HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:$chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ),
    (
        "in a coding",
        "POST /hostile HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chun$ked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ),
    (
        "behind a coding",
        "POST /hostile HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked$\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ),
    (
        "behind a coding with a comma",
        "POST /hostile HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked,$\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ),
    (
        "before Content-Length",
        "POST /hostile HTTP/1.1\r\nHost: a\r\n$Content-Length: 5\r\n\r\nhello",
    ),
    (
        "in the name of Content-Length",
        "POST /hostile HTTP/1.1\r\nHost: a\r\nContent$Length: 5\r\n\r\nhello",
    ),
    (
        "behind the name of Content-Length",
        "POST /hostile HTTP/1.1\r\nHost: a\r\nContent-Length$: 5\r\n\r\nhello",
    ),
    (
        "before a length",
        "POST /hostile HTTP/1.1\r\nHost: a\r\nContent-Length: $5\r\n\r\nhello",
    ),
    (
        "as a length",
        "POST /hostile HTTP/1.1\r\nHost: a\r\nContent-Length: $\r\n\r\nhello",
    ),
    (
        "in a length",
        "POST /hostile HTTP/1.1\r\nHost: a\r\nContent-Length: 0$5\r\n\r\nhello",
    ),
    (
        "behind a length",
        "POST /hostile HTTP/1.1\r\nHost: a\r\nContent-Length: 5$\r\n\r\nhello",
    ),
    (
        "behind Expect",
        "POST /hostile HTTP/1.1\r\nHost: a\r\nExpect: 100-continue$\r\nContent-Length: 5\r\n\r\nhello",
    ),
];

const CHUNKS: &[Place] = &[
    ("before a size", "$5\r\nhello\r\n0\r\n\r\n"),
    ("as a size", "$\r\nhello\r\n0\r\n\r\n"),
    ("in a size", "0$5\r\nhello\r\n0\r\n\r\n"),
    ("behind a size", "5$\r\nhello\r\n0\r\n\r\n"),
    ("as the CR of a size", "5$\nhello\r\n0\r\n\r\n"),
    ("as the LF of a size", "5\r$hello\r\n0\r\n\r\n"),
    ("before an extension", "5;$a=b\r\nhello\r\n0\r\n\r\n"),
    ("in an extension", "5;a$b\r\nhello\r\n0\r\n\r\n"),
    (
        "in a value of an extension",
        "5;a=b$c\r\nhello\r\n0\r\n\r\n",
    ),
    ("in a quoted value", "5;a=\"b$c\"\r\nhello\r\n0\r\n\r\n"),
    ("behind an extension", "5;a=b$\r\nhello\r\n0\r\n\r\n"),
    ("in data", "5\r\nhe$lo\r\n0\r\n\r\n"),
    ("behind data", "5\r\nhello$\r\n0\r\n\r\n"),
    ("as the CR of data", "5\r\nhello$\n0\r\n\r\n"),
    ("as the LF of data", "5\r\nhello\r$0\r\n\r\n"),
    ("as the last size", "5\r\nhello\r\n$\r\n\r\n"),
    ("behind the last size", "5\r\nhello\r\n0$\r\n\r\n"),
    ("before a trailer", "5\r\nhello\r\n0\r\n$X: 1\r\n\r\n"),
    (
        "in the name of a trailer",
        "5\r\nhello\r\n0\r\nX$Y: 1\r\n\r\n",
    ),
    (
        "behind the name of a trailer",
        "5\r\nhello\r\n0\r\nX$: 1\r\n\r\n",
    ),
    ("in a trailer", "5\r\nhello\r\n0\r\nX: a$b\r\n\r\n"),
    ("as the CR of a trailer", "5\r\nhello\r\n0\r\nX: 1$\n\r\n"),
    ("as the last CR", "5\r\nhello\r\n0\r\n$\n"),
    ("as the last LF", "5\r\nhello\r\n0\r\n\r$"),
];

/// What an attacker hopes to have read as a request.
const SMUGGLED: &[u8] = b"GET /smuggled HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

/// The streams of a place, one for each byte.
fn streams(head: &str, with: &str) -> impl Iterator<Item = (u8, Vec<u8>)> {
    let (before, behind) = with.split_once('$').unwrap();
    let (before, behind) = (format!("{head}{before}"), behind.to_owned());
    (0..=255).map(move |byte| {
        let stream = [before.as_bytes(), &[byte], behind.as_bytes(), SMUGGLED].concat();
        (byte, stream)
    })
}

/// Carries out a stream; gives what its client was answered.
fn verdict(stand: &mut Stand, bytes: Vec<u8>) -> Result<String, String> {
    stand.check(&Sending {
        bytes,
        cuts: Vec::new(),
        slow: false,
        hasty: false,
    })?;
    let told: Vec<String> = stand.statuses.iter().map(u16::to_string).collect();
    Ok(told.join(" "))
}

/// Bytes, in hexadecimal, those that follow each other as one.
fn ranges(bytes: &[u8]) -> String {
    let mut shown = String::new();
    for part in bytes.chunk_by(|a, b| a + 1 == *b) {
        match part {
            [one] => write!(shown, " {one:02x}").unwrap(),
            many => write!(shown, " {:02x}-{:02x}", many[0], many[many.len() - 1]).unwrap(),
        }
    }
    shown
}

/// Compares with what is written down, or writes it down.
fn as_written(name: &str, got: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("cases/hostile")
        .join(name);
    if std::env::var_os("SELVEDGE_WRITE").is_some() {
        std::fs::write(&file, got).unwrap();
    }
    let want = std::fs::read_to_string(&file).unwrap_or_default();
    for (want, got) in want.lines().zip(got.lines()) {
        assert_eq!(got, want, "{name}");
    }
    assert_eq!(got.lines().count(), want.lines().count(), "{name}");
}

/// What a role makes of every byte in every place.
fn table(role: Role) -> (Vec<(String, Verdicts)>, usize) {
    let mut stand = Stand::start(role);
    let (mut table, mut cases, mut wrong) = (Vec::new(), 0, Vec::new());
    for (head, places) in [("", LINE), ("", FIELDS), ("", FRAMING), (CHUNKED, CHUNKS)] {
        for (place, with) in places {
            let mut verdicts = Verdicts::new();
            for (byte, stream) in streams(head, with) {
                cases += 1;
                match verdict(&mut stand, stream) {
                    Ok(told) => verdicts.entry(told).or_default().push(byte),
                    Err(why) => {
                        wrong.push(format!("{byte:02x} {place}: {why}"));
                        stand = Stand::start(role);
                    }
                }
            }
            table.push(((*place).to_owned(), verdicts));
        }
        stand.canary().unwrap();
    }
    assert!(wrong.is_empty(), "{role:?}: {}", wrong.join("\n"));
    (table, cases)
}

#[test]
fn h1_28_every_byte_in_every_place() {
    let threads = ROLES.map(|role| std::thread::spawn(move || table(role)));
    let [gateway, sidecar] = threads.map(|thread| thread.join().unwrap());
    let mut text = String::from(
        "# What a client is answered when this byte is in this place, with another request behind. 200 200: both served.\n",
    );
    for ((place, edge), (_, inside)) in gateway.0.iter().zip(&sidecar.0) {
        writeln!(text, "\n{place}").unwrap();
        let inside = (inside != edge).then_some(("sidecar: ", inside));
        for (role, told) in [("", edge)].into_iter().chain(inside) {
            for (told, bytes) in told {
                writeln!(text, "  {role}{told}:{}", ranges(bytes)).unwrap();
            }
        }
    }
    as_written("bytes.txt", &text);
    held("H1-28", Role::Gateway, gateway.1);
    held("H1-28", Role::Sidecar, sidecar.1);
}

#[test]
fn h1_25_every_byte_of_a_path_in_percent() {
    let mut text = String::from(
        "# What becomes of /a%XXb: the target that the upstream sees, or the refusal; at a gateway, and at a sidecar where\n# that differs.\n",
    );
    let mut stands = ROLES.map(Stand::start);
    for byte in 0..=255_u8 {
        let path = format!("/a%{byte:02X}b?%{byte:02x}");
        let told = stands.each_mut().map(|stand| {
            let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
            let told = verdict(stand, request.into_bytes()).unwrap();
            let seen = stand.passed.first().map(|request| {
                let line = request.split(|b| *b == b' ').nth(1).unwrap_or_default();
                line.escape_ascii().to_string()
            });
            seen.unwrap_or(told)
        });
        match told {
            [edge, inside] if edge == inside => writeln!(text, "{path} {edge}").unwrap(),
            [edge, inside] => writeln!(text, "{path} {edge}, sidecar {inside}").unwrap(),
        }
    }
    as_written("percent.txt", &text);
    for role in ROLES {
        held("H1-25", role, 256);
    }
}
