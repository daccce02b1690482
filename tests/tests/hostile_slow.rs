//! Rows SL-01 to SL-03 of the battery: clients that take their time over a head, a body or an answer. Each is ended when
//! its time is over and not before, in the way that it can understand; what it had begun at the application is aborted.
//! What thousands of them cost is in `hostile_abuse`.

use std::time::{Duration, Instant};

use selvedge_tests::hostile::{ROLES, Stage, echo, held, target};
use selvedge_tests::http2::{
    CONTINUATION, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, HEADERS, Http2, Outcome, PING,
    PREFACE, data, frame, headers, request, settings,
};
use selvedge_tests::{PATIENCE, Raw, Upstream};
use socket2::{Domain, Socket, Type};

const LIMITS: &str =
    "headerRead: 700ms, streamIdle: 700ms, downstreamIdle: 700ms, handshake: 700ms";
/// Nobody is given up before.
const SOON: Duration = Duration::from_millis(500);
/// Everybody is by then, on a busy machine.
const LATE: Duration = Duration::from_secs(15);

/// Answers `/large` with more than anybody takes unread, `/hostile` never.
fn upstream() -> Upstream {
    Upstream::scripted(|connection| {
        while let Some(head) = connection.until(b"\r\n\r\n") {
            match target(&head).as_str() {
                "/large" => {
                    connection.send("HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n");
                    for _ in 0..1000 {
                        connection.send([b'x'; 64 << 10]);
                    }
                }
                "/hostile" => return connection.drain(),
                _ => echo(connection, &head),
            }
        }
    })
}

/// What a client does; gives the status that it was ended with, 0 where that was without a word.
type Act = fn(&Stage) -> u16;

/// The status with which a connection ends that is silent from now on.
fn ended(mut raw: Raw) -> u16 {
    let reply = raw.try_reply_to("GET");
    let Ok(reply) = reply else { return 0 };
    assert_eq!(reply.header("connection"), Some("close"));
    assert!(raw.is_closed());
    reply.status
}

/// Says this, and no more.
fn silent(stage: &Stage, bytes: impl AsRef<[u8]>) -> u16 {
    let mut raw = stage.client();
    raw.send(bytes);
    ended(raw)
}

/// Says this, and then a byte for each request of somebody else that is served, until it is over.
fn dripping(stage: &Stage, first: &str, byte: &str) -> u16 {
    let (mut raw, begun) = (stage.client(), Instant::now());
    raw.send(first);
    while !raw.has_more() {
        assert!(begun.elapsed() < PATIENCE, "never ended");
        stage.canary().unwrap();
        raw.send(byte);
    }
    ended(raw)
}

/// A head of HTTP/1 with these lines.
fn head(lines: &str) -> String {
    format!("POST /hostile HTTP/1.1\r\nHost: a\r\n{lines}\r\n")
}

/// How a stream of HTTP/2 ended that is silent from now on: with its status, 0 for a reset or the end of the connection.
fn of_stream(stage: &Stage, frames: &[Vec<u8>]) -> u16 {
    let mut http2 = stage.http2();
    http2.send(frames.concat());
    match http2.outcome(1) {
        Outcome::Answer(status, _) => status,
        _ => 0,
    }
}

fn large(stage: &Stage) -> u16 {
    // Next to no room, so that what is not read is held by the proxy.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(2048).unwrap();
    socket.connect(&stage.address().into()).unwrap();
    socket
        .send(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    aborted(stage);
    0
}

/// Waits until the application has seen a request for `/large`, and the end of its connection.
fn aborted(stage: &Stage) {
    stage.upstream.wait_until(|seen| {
        let asked = |text: &str| text.contains("/large");
        let mut of_it = seen.iter().filter(|s| asked(&s.text())).peekable();
        of_it.peek().is_some() && of_it.all(|s| s.closed)
    });
}

fn large_http2(stage: &Stage, window: u32) -> u16 {
    let mut http2 = Http2::connect(stage.address(), &[(4, window)]);
    http2.get(1, "/large");
    let outcome = http2.outcome(1);
    assert!(
        matches!(outcome, Outcome::Reset(_) | Outcome::Closed),
        "{outcome:?}"
    );
    aborted(stage);
    0
}

/// Cases with the statuses that are right.
const CASES: [(&str, Act, &[u16]); 19] = [
    ("nothing at all", |s| silent(s, ""), &[0]),
    ("half a preface", |s| silent(s, &PREFACE[..18]), &[0, 408]),
    (
        "a preface and no SETTINGS",
        |s| silent_http2(s, PREFACE),
        &[0],
    ),
    (
        "a preface, SETTINGS and no stream",
        |s| silent_http2(s, &[PREFACE, &settings(&[])].concat()),
        &[0],
    ),
    ("half a line", |s| silent(s, "GET /hos"), &[408]),
    ("a line", |s| silent(s, "GET /hostile HTTP/1.1\r\n"), &[408]),
    (
        "a head without its end",
        |s| silent(s, "GET /hostile HTTP/1.1\r\nHost: a\r\nX: y\r\n"),
        &[408],
    ),
    (
        "a head byte by byte",
        |s| dripping(s, "GET /hostile HTTP/1.1\r\nHost: a\r\nX: ", "y"),
        &[408],
    ),
    (
        "a head line by line",
        |s| dripping(s, "GET /hostile HTTP/1.1\r\nHost: a\r\n", "X: y\r\n"),
        &[408, 431],
    ),
    (
        "a request, then half of another",
        |s| {
            let mut raw = s.client();
            raw.send("GET /own/first HTTP/1.1\r\nHost: a\r\n\r\nGET /hostile HTTP/1.1\r\nHo");
            assert_eq!(raw.reply().text(), "/own/first");
            ended(raw)
        },
        &[408],
    ),
    (
        "a request, then nothing",
        |s| {
            let mut raw = s.client();
            assert_eq!(raw.get("/own/first").status, 200);
            ended(raw)
        },
        &[0],
    ),
    (
        "no body",
        |s| silent(s, head("Content-Length: 99\r\n")),
        &[408],
    ),
    (
        "half a body",
        |s| silent(s, head("Content-Length: 99\r\n") + "hello"),
        &[408],
    ),
    (
        "half a chunk",
        |s| silent(s, head("Transfer-Encoding: chunked\r\n") + "63\r\nhello"),
        &[408],
    ),
    (
        "no last chunk",
        |s| silent(s, head("Transfer-Encoding: chunked\r\n") + "5\r\nhello\r\n"),
        &[408],
    ),
    (
        "HTTP/2: a head without its end",
        |s| {
            of_stream(
                s,
                &[
                    frame(HEADERS, END_STREAM, 1, &request("GET", "/hostile", &[])),
                    frame(CONTINUATION, 0, 1, &[]),
                ],
            )
        },
        &[0],
    ),
    (
        "HTTP/2: half a body",
        |s| {
            let head = request("POST", "/hostile", &[("content-length", "99")]);
            of_stream(s, &[headers(1, &head, false), data(1, "hello", false)])
        },
        &[408],
    ),
    ("an answer that is not read", large, &[0]),
    (
        "HTTP/2: an answer for which there is no window",
        |s| large_http2(s, 0),
        &[0],
    ),
];

fn silent_http2(stage: &Stage, bytes: &[u8]) -> u16 {
    let mut http2 = Http2::silent(stage.address());
    http2.send(bytes);
    let _ = http2.end();
    0
}

#[test]
fn sl_01_who_takes_too_long_is_ended_in_time() {
    for role in ROLES {
        // Each waits for its time, all at once; each before an application of its own.
        let wrong: Vec<String> = std::thread::scope(|scope| {
            let threads: Vec<_> = CASES
                .iter()
                .map(|(id, act, statuses)| {
                    scope.spawn(move || {
                        let stage = Stage::over(role, LIMITS, upstream());
                        stage.canary().unwrap();
                        let begun = Instant::now();
                        let status = act(&stage);
                        let took = begun.elapsed();
                        stage.upstream.wait_until(|seen| {
                            let hostile = |text: &str| text.contains("/hostile");
                            seen.iter().all(|s| !hostile(&s.text()) || s.closed)
                        });
                        stage.canary().unwrap();
                        let fits = statuses.contains(&status) && took > SOON && took < LATE;
                        (!fits).then(|| format!("{id} as {role:?}: {status} after {took:?}"))
                    })
                })
                .collect();
            threads
                .into_iter()
                .filter_map(|t| t.join().unwrap())
                .collect()
        });
        assert!(wrong.is_empty(), "SL-01:\n{}", wrong.join("\n"));
        held("SL-01", role, CASES.len());
    }
}

#[test]
fn sl_02_a_body_under_the_least_rate_is_ended() {
    // A byte at a time, some fifty a second: never silent for long, and never done. A gateway's rule only.
    let stage = Stage::over(ROLES[0], "bodyRate: 1KiB", upstream());
    let (mut raw, begun) = (stage.client(), Instant::now());
    raw.send(head("Content-Length: 99999\r\n"));
    while !raw.has_more() {
        assert!(begun.elapsed() < PATIENCE, "never ended");
        std::thread::park_timeout(Duration::from_millis(20));
        raw.send("x");
    }
    assert_eq!(ended(raw), 408);
    assert!(
        begun.elapsed() > Duration::from_secs(9),
        "{:?}",
        begun.elapsed()
    );
    stage.upstream.wait_until(|seen| {
        let hostile = |text: &str| text.contains("/hostile");
        seen.iter().any(|s| hostile(&s.text()))
            && seen.iter().all(|s| !hostile(&s.text()) || s.closed)
    });
    stage.canary().unwrap();
    held("SL-02", ROLES[0], 1);
}

/// What begins a head of HTTP/2, or another frame, and does not end it, and what may come of it byte by byte.
fn begun() -> [(&'static str, Vec<u8>, &'static [u8]); 8] {
    let head = request("GET", "/never", &[]);
    let whole = frame(HEADERS, END_STREAM | END_HEADERS, 3, &head);
    let ping = frame(PING, 0, 0, &[0; 8]);
    let mut wide = frame(
        HEADERS,
        END_STREAM | END_HEADERS,
        3,
        &[&head[..], &[0; 999]].concat(),
    );
    wide.truncate(9 + head.len());
    [
        ("no END_HEADERS", frame(HEADERS, END_STREAM, 3, &head), b""),
        ("a byte of a frame", whole[..1].to_vec(), b""),
        ("half the header of a frame", whole[..4].to_vec(), b""),
        ("the header of a frame", whole[..9].to_vec(), b""),
        (
            "half of data for nobody",
            data(5, [0; 99], false)[..50].to_vec(),
            b"",
        ),
        ("half a frame", whole[..20].to_vec(), b""),
        ("a frame byte by byte", wide, &[0]),
        ("half a PING", ping[..12].to_vec(), b""),
    ]
}

#[test]
fn sl_03_a_head_of_http2_has_as_long_as_one_of_http1() {
    // Nothing but the head is in a hurry.
    let limits = "headerRead: 700ms, streamIdle: 60s, downstreamIdle: 60s";
    let cases = begun();
    for role in ROLES {
        let stage = Stage::over(role, limits, upstream());
        for ((id, first, drop), beside) in cases.iter().flat_map(|c| [(c, false), (c, true)]) {
            let mut http2 = stage.http2();
            if beside {
                http2.get(1, "/hostile");
            }
            http2.settle();
            let since = Instant::now();
            http2.send(first);
            while !drop.is_empty() && since.elapsed() < Duration::from_secs(1) {
                stage.canary().unwrap();
                http2.send(drop);
            }
            let outcome = http2.outcome(3);
            let took = since.elapsed();
            let fits = outcome == Outcome::Goaway(ENHANCE_YOUR_CALM) && took > SOON && took < LATE;
            assert!(
                fits,
                "{id}, beside {beside}, as {role:?}: {outcome:?} after {took:?}"
            );
        }
        let ended = 2.0 * cases.len() as f64;
        let kind = ["kind=\"slow\""];
        stage
            .proxy
            .wait_for_metric("selvedge_http2_abuse_total", &kind, ended);
        // Data may take its time, its stream has a limit of its own.
        let mut http2 = stage.http2();
        let head = request("POST", "/own/slow", &[("content-length", "5")]);
        let body = data(1, "hello", true);
        http2.send([headers(1, &head, false), body[..11].to_vec()].concat());
        let since = Instant::now();
        while since.elapsed() < Duration::from_millis(1500) {
            stage.canary().unwrap();
        }
        http2.send(&body[11..]);
        let outcome = http2.outcome(1);
        assert!(matches!(outcome, Outcome::Answer(200, _)), "{outcome:?}");
        let never = |text: String| text.contains("/never");
        assert!(!stage.upstream.seen().iter().any(|s| never(s.text())));
        held("SL-03", role, 2 * cases.len() + 1);
    }
}

#[test]
fn a_frame_of_data_that_comes_slowly_is_no_silence() {
    for role in ROLES {
        // The second is refused for its length with its first byte: what follows is nobody's, and the client's still.
        let limits = "headerRead: 700ms, streamIdle: 700ms, body: 64";
        let whole = Upstream::scripted(|connection| {
            while let Some(request) = connection.request() {
                echo(connection, &request);
            }
        });
        let stage = Stage::over(role, limits, whole);
        for (length, status) in [("50", 200), ("5000", 413)] {
            let mut http2 = stage.http2();
            let head = request("POST", "/own/slow", &[("content-length", length)]);
            let body = data(1, [b'x'; 50], length == "50");
            http2.send([&headers(1, &head, false), &body[..12]].concat());
            for byte in &body[12..] {
                http2.send([*byte]);
                std::thread::park_timeout(Duration::from_millis(40));
            }
            let outcome = http2.outcome(1);
            assert!(
                matches!(outcome, Outcome::Answer(got, _) if got == status),
                "{outcome:?} as {role:?}"
            );
            http2.get(3, "/own/more");
            let outcome = http2.outcome(3);
            assert!(matches!(outcome, Outcome::Answer(200, _)), "{outcome:?}");
        }
    }
}
