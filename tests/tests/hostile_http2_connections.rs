//! Hostile HTTP/2, row H2-19 of the battery: connections that begin wrong, or end in the middle of something. Each is
//! ended cleanly, what it had begun is aborted, and not a descriptor of it is left.

use std::net::Shutdown;
use std::time::{Duration, Instant};

use selvedge_tests::hostile::{ROLES, Role, Stage, both, echo, held, target};
use selvedge_tests::http2::{
    DATA, END_HEADERS, FRAME_SIZE_ERROR, GOAWAY, HEADERS, Http2, NO_ERROR, Outcome, PING, PREFACE,
    PROTOCOL_ERROR, data, frame, headers, request, settings,
};
use selvedge_tests::tls_bytes::Hello;
use selvedge_tests::tls_peer::{self, Outcome as Answer};
use selvedge_tests::trusting::edge;
use selvedge_tests::{PATIENCE, TestCa, TlsPeer, Upstream};
use socket2::SockRef;

/// Answers nothing to `/hostile`, and all else with its target.
fn silent() -> Upstream {
    Upstream::scripted(|connection| {
        while let Some(head) = connection.until(b"\r\n\r\n") {
            if target(&head).starts_with("/hostile") {
                return connection.drain();
            }
            echo(connection, &head);
        }
    })
}

fn descriptors(stage: &Stage) -> usize {
    let folder = format!("/proc/{}/fd", stage.proxy.pid());
    std::fs::read_dir(folder).unwrap().count()
}

/// Waits until the proxy has no more descriptors than this.
fn wait_for_descriptors(stage: &Stage, most: usize, what: &str) {
    let begun = Instant::now();
    while descriptors(stage) > most {
        let now = descriptors(stage);
        assert!(
            begun.elapsed() < PATIENCE,
            "{what}: {now} instead of {most}"
        );
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// A head whose body is to follow.
fn post() -> Vec<u8> {
    headers(1, &request("POST", "/hostile", &[]), false)
}

/// Waits until the upstream has a request for `/hostile`, so that there is something to abort.
fn begun(stage: &Stage) {
    stage.upstream.wait_until(|seen| {
        let hostile = |text: &str| text.contains("/hostile");
        seen.iter().any(|s| hostile(&s.text()) && !s.closed)
    });
}

/// What a connection does; gives how it was told to end, if by GOAWAY.
type Act = fn(&Stage) -> Option<u32>;

/// Connects, says this without a word before, and reads to the end.
fn said(stage: &Stage, bytes: &[u8]) -> Option<u32> {
    let mut http2 = Http2::silent(stage.address());
    http2.send(bytes);
    http2.end().0
}

/// The same behind preface and SETTINGS.
fn told(stage: &Stage, bytes: &[u8]) -> Option<u32> {
    said(stage, &[PREFACE, &settings(&[]), bytes].concat())
}

/// Cases, and the codes that are right; none where no frame of HTTP/2 is owed.
const CASES: [(&str, Act, &[Option<u32>]); 14] = [
    (
        "a preface with another end",
        wrong_preface,
        &[None, Some(PROTOCOL_ERROR)],
    ),
    ("no SETTINGS first", no_settings, &[Some(PROTOCOL_ERROR)]),
    (
        "HTTP/1 behind the preface",
        http1_behind,
        &[Some(PROTOCOL_ERROR), Some(FRAME_SIZE_ERROR)],
    ),
    ("a greeting of TLS", greeting, &[None]),
    ("half a preface, then the end", half_a_preface, &[None]),
    (
        "GOAWAY with a request on its way",
        goaway,
        &[Some(NO_ERROR)],
    ),
    (
        "GOAWAY, then a request more",
        goaway_and_more,
        &[Some(NO_ERROR)],
    ),
    (
        "a request, then the end of what is sent",
        half_closed,
        &[None],
    ),
    ("the end within a frame", cut_frame, &[None]),
    (
        "the end within the head of a frame",
        cut_frame_head,
        &[None],
    ),
    ("the end within a header block", cut_block, &[None]),
    ("a reset within a frame", reset_within, &[None]),
    (
        "a frame of a byte too much",
        oversize,
        &[Some(FRAME_SIZE_ERROR)],
    ),
    (
        "a frame of 16 MiB that never comes",
        promised,
        &[Some(FRAME_SIZE_ERROR)],
    ),
];

fn wrong_preface(stage: &Stage) -> Option<u32> {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSX\r\n\r\n";
    said(stage, &[&preface[..], &settings(&[])].concat())
}

fn no_settings(stage: &Stage) -> Option<u32> {
    said(stage, &[PREFACE, &frame(PING, 0, 0, &[0; 8])].concat())
}

fn http1_behind(stage: &Stage) -> Option<u32> {
    let http1 = b"GET /hostile HTTP/1.1\r\nHost: a\r\n\r\n";
    said(stage, &[PREFACE, http1].concat())
}

fn greeting(stage: &Stage) -> Option<u32> {
    let mut raw = stage.client();
    raw.send(Hello::default().record());
    let rest = raw.rest();
    // A gateway without TLS says so in HTTP; an inbound port takes it for TLS of the mesh, and refuses that.
    let fits = rest.is_empty() || rest.starts_with(b"HTTP/1.1 400 ") || rest.first() == Some(&21);
    assert!(fits, "{:?}", String::from_utf8_lossy(&rest));
    None
}

fn half_a_preface(stage: &Stage) -> Option<u32> {
    let mut raw = stage.client();
    raw.send(&PREFACE[..20]);
    raw.shutdown_write();
    let rest = raw.rest();
    assert!(!rest.starts_with(b"HTTP/1.1 200"), "{rest:?}");
    None
}

fn goaway(stage: &Stage) -> Option<u32> {
    let mut http2 = stage.http2();
    let last = [&0u32.to_be_bytes()[..], &NO_ERROR.to_be_bytes()].concat();
    http2.get(1, "/own/asked");
    http2.send(frame(GOAWAY, 0, 0, &last));
    let answer = Outcome::Answer(200, b"/own/asked".to_vec());
    assert_eq!(http2.outcome(1), answer, "{:?}", stage.role);
    http2.end().0
}

fn goaway_and_more(stage: &Stage) -> Option<u32> {
    let mut http2 = stage.http2();
    http2.send(frame(GOAWAY, 0, 0, &[0; 8]));
    // GOAWAY is about what the receiver begins (RFC 9113 section 6.8): a client may ask on.
    http2.get(1, "/own/more");
    let answer = Outcome::Answer(200, b"/own/more".to_vec());
    assert_eq!(http2.outcome(1), answer, "{:?}", stage.role);
    http2.end().0
}

fn half_closed(stage: &Stage) -> Option<u32> {
    let mut http2 = stage.http2();
    http2.get(1, "/own/asked");
    end_of_sending(&http2);
    // No answer is owed to who can acknowledge nothing of it any more; what comes is right or nothing.
    let outcome = http2.outcome(1);
    let answer = Outcome::Answer(200, b"/own/asked".to_vec());
    let fits = outcome == answer || outcome == Outcome::Closed;
    assert!(fits, "{outcome:?} as {:?}", stage.role);
    http2.end().0
}

/// The client sends no more, and still reads.
fn end_of_sending(http2: &Http2) {
    http2.stream().shutdown(Shutdown::Write).unwrap();
}

/// A POST on its way, then these bytes, then the end of what is sent.
fn cut(stage: &Stage, bytes: &[u8]) -> Option<u32> {
    let mut http2 = stage.http2();
    http2.send(post());
    begun(stage);
    http2.send(bytes);
    end_of_sending(&http2);
    http2.end().0
}

fn cut_frame(stage: &Stage) -> Option<u32> {
    let whole = data(1, [b'x'; 100], true);
    cut(stage, &whole[..50])
}

fn cut_frame_head(stage: &Stage) -> Option<u32> {
    let whole = data(1, [b'x'; 100], true);
    cut(stage, &whole[..4])
}

fn cut_block(stage: &Stage) -> Option<u32> {
    cut(
        stage,
        &frame(HEADERS, 0, 3, &request("GET", "/hostile", &[])),
    )
}

fn reset_within(stage: &Stage) -> Option<u32> {
    let mut http2 = stage.http2();
    http2.send(post());
    begun(stage);
    http2.send(&data(1, [b'x'; 100], true)[..50]);
    SockRef::from(http2.stream())
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    None
}

fn oversize(stage: &Stage) -> Option<u32> {
    let long = frame(DATA, 0, 1, &[b'x'; 16_385]);
    told(stage, &[post(), long].concat())
}

fn promised(stage: &Stage) -> Option<u32> {
    let head = [0xff, 0xff, 0xff, HEADERS, END_HEADERS, 0, 0, 0, 1];
    told(stage, &head)
}

#[test]
fn h2_19_connections_that_begin_or_end_wrong() {
    for role in ROLES {
        let stage = Stage::over(role, "", silent());
        let mut wrong = Vec::new();
        stage.canary().unwrap();
        let before = descriptors(&stage);
        for (id, act, codes) in CASES {
            let begun = Instant::now();
            let code = act(&stage);
            if !codes.contains(&code) || begun.elapsed() > PATIENCE / 2 {
                wrong.push(format!("{id} as {role:?}: {code:?}"));
            }
            stage
                .canary()
                .unwrap_or_else(|why| panic!("{id} as {role:?}: {why}"));
            // Whatever was begun is given up, and nobody could take it for whole.
            stage.upstream.wait_until(|seen| {
                let hostile = |text: &str| text.contains("/hostile");
                seen.iter().all(|s| !hostile(&s.text()) || s.closed)
            });
            assert!(!stage.upstream.all().contains("\r\n0\r\n\r\n"), "{id}");
            // Two to the application are kept for who asks next.
            wait_for_descriptors(&stage, before + 2, id);
        }
        assert!(wrong.is_empty(), "H2-19:\n{}", wrong.join("\n"));
        held("H2-19", role, CASES.len());
    }
}

#[test]
fn h2_19_thousands_that_end_in_the_middle_leave_nothing() {
    both(|stage| {
        stage.canary().unwrap();
        let (before, memory) = (descriptors(stage), stage.proxy.own_memory());
        for n in 0..2000 {
            let mut http2 = stage.http2();
            http2.send(headers(1, &request("POST", "/own/cut", &[]), false));
            http2.send(&data(1, [b'x'; 100], true)[..n % 109]);
            if n % 2 == 0 {
                SockRef::from(http2.stream())
                    .set_linger(Some(Duration::ZERO))
                    .unwrap();
            }
        }
        wait_for_descriptors(stage, before + 2, "2,000 connections");
        let grown = stage.proxy.own_memory().saturating_sub(memory);
        assert!(grown < 8 << 20, "{grown} bytes as {:?}", stage.role);
        stage.canary().unwrap();
        stage.held("H2-19");
    });
}

#[test]
fn h2_19_what_tls_agreed_on_is_what_is_spoken() {
    let ca = TestCa::new();
    let upstream = Upstream::answering("ok");
    let proxy = edge(&ca, &upstream);
    let address = proxy.address("web");
    // Nothing in common: the handshake says so (RFC 7301 section 3.2).
    let unknown = TlsPeer::connect(address, None, "spdy/3");
    let alert = tls_peer::outcome_of(&unknown.err().unwrap());
    assert_eq!(alert, Answer::Alert("NoApplicationProtocol".to_owned()));
    held("H2-19", Role::Gateway, 1);

    // HTTP/1.1 was agreed on, HTTP/2 is spoken.
    let mut peer = TlsPeer::connect(address, None, "http/1.1").unwrap();
    peer.send([PREFACE, &settings(&[])].concat()).unwrap();
    let rest = peer.rest(PATIENCE);
    assert!(!rest.starts_with(b"HTTP/1.1 2"), "{rest:?}");
    held("H2-19", Role::Gateway, 1);

    // And the other way round.
    let mut peer = TlsPeer::connect(address, None, "h2").unwrap();
    peer.send("GET /hostile HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    let rest = peer.rest(PATIENCE);
    assert!(!rest.starts_with(b"HTTP/1.1 2"), "{rest:?}");
    held("H2-19", Role::Gateway, 1);
    assert_eq!(upstream.seen().len(), 0);
}
