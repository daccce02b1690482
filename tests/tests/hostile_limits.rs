//! Rows LI-01 and LI-02 of the battery: each limit at one below, at, and one above, on both
//! protocols and in both roles.

use selvedge_tests::checked::check;
use selvedge_tests::hostile::{Case, ROLES, Stage, Want, held};
use selvedge_tests::http2::{
    ENHANCE_YOUR_CALM, Outcome, PING, SETTINGS, block, data, field, frame, headers, request, reset,
};

const LIMITS: &str = "uri: 256, headerBlock: 1KiB, headerCount: 8, body: 1000, \
    chunkExtension: 64, trailerBlock: 200, trailerCount: 4";

/// Makes a request that is so large in one respect.
type Make = fn(usize) -> String;

/// A GET with a target of so many bytes.
fn target(bytes: usize) -> String {
    let path = format!("/hostile{}", "a".repeat(bytes - 8));
    format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")
}

/// A head of so many bytes, its last empty line included.
fn head(bytes: usize) -> String {
    let bare = "GET /hostile HTTP/1.1\r\nHost: a\r\nX-Long: \r\n\r\n";
    let long = "a".repeat(bytes - bare.len());
    bare.replace("X-Long: ", &format!("X-Long: {long}"))
}

/// A head of so many fields.
fn fields(count: usize) -> String {
    let more = "X: y\r\n".repeat(count - 1);
    format!("GET /hostile HTTP/1.1\r\nHost: a\r\n{more}\r\n")
}

fn counted(bytes: usize) -> String {
    let body = "a".repeat(bytes);
    format!("POST /hostile HTTP/1.1\r\nHost: a\r\nContent-Length: {bytes}\r\n\r\n{body}")
}

fn chunked(rest: &str) -> String {
    format!("POST /hostile HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{rest}")
}

fn in_chunks(bytes: usize) -> String {
    let parts = "1\r\na\r\n".repeat(bytes);
    chunked(&format!("{parts}0\r\n\r\n"))
}

/// A body whose extensions have so many bytes in all, over two chunks.
fn extended(bytes: usize) -> String {
    let first = format!("1;{}\r\na\r\n", "a".repeat(20));
    let second = format!("1;{}\r\nb\r\n", "a".repeat(bytes - 22));
    chunked(&format!("{first}{second}0\r\n\r\n"))
}

/// A block of trailers of so many bytes, each line with its end.
fn trailers(bytes: usize) -> String {
    let long = "a".repeat(bytes - "X-T: \r\n".len());
    chunked(&format!("1\r\na\r\n0\r\nX-T: {long}\r\n\r\n"))
}

fn trailing(count: usize) -> String {
    chunked(&format!(
        "1\r\na\r\n0\r\n{}\r\n",
        "X-T: b\r\n".repeat(count)
    ))
}

#[test]
fn li_01_http1() {
    let rows: [(&str, usize, Make, Want); 8] = [
        ("target", 256, target, Want::Refused(414)),
        ("head", 1024, head, Want::Refused(431)),
        ("fields", 8, fields, Want::Refused(431)),
        ("counted body", 1000, counted, Want::Refused(413)),
        ("chunked body", 1000, in_chunks, Want::Broken(413)),
        ("extensions", 64, extended, Want::Broken(400)),
        ("trailers", 200, trailers, Want::Broken(400)),
        ("trailer fields", 4, trailing, Want::Broken(400)),
    ];
    for role in ROLES {
        let stage = Stage::start(role, LIMITS);
        for (name, limit, make, over) in rows {
            let case = |bytes: usize, want| Case::new(format!("{name} {bytes}"), make(bytes), want);
            let cases = [
                case(limit - 1, Want::Served),
                case(limit, Want::Served),
                case(limit + 1, over),
                case(limit * 4, over),
            ];
            stage.run("LI-01", &cases);
        }
    }
}

/// A block of fields that counts for so many bytes: each field has 32 more (RFC 9113 section 6.5.2).
fn block_of(bytes: usize) -> Vec<u8> {
    let pseudo = [
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "a"),
        (":path", "/hostile"),
    ];
    let size: usize = pseudo.iter().map(|(n, v)| n.len() + v.len() + 32).sum();
    let long = "a".repeat(bytes - size - "x-long".len() - 32);
    [block(&pseudo), field("x-long", long)].concat()
}

fn path_of(bytes: usize) -> Vec<u8> {
    request("GET", &format!("/hostile{}", "a".repeat(bytes - 8)), &[])
}

#[test]
fn li_01_http2() {
    for role in ROLES {
        let stage = Stage::start(role, LIMITS);
        let mut http2 = stage.http2();
        let mut stream = 1;
        let mut ask = |block: &[u8], body: usize| {
            let id = stream;
            stream += 2;
            http2.send(headers(id, block, body == 0));
            if body > 0 {
                http2.send(data(id, vec![b'a'; body], true));
            }
            match http2.outcome(id) {
                Outcome::Answer(status, _) => status,
                other => panic!("{role:?}: {other:?}"),
            }
        };
        for (bytes, status) in [(255, 200), (256, 200), (257, 414), (600, 414)] {
            assert_eq!(ask(&path_of(bytes), 0), status, "{bytes} of a path");
        }
        for (bytes, status) in [(1023, 200), (1024, 200), (1025, 431), (3000, 431)] {
            assert_eq!(ask(&block_of(bytes), 0), status, "{bytes} of a block");
        }
        let many = |count: usize| {
            let more: Vec<_> = (0..count).map(|_| ("x", "y")).collect();
            request("GET", "/hostile", &more)
        };
        let first = (1..20).find(|count| ask(&many(*count), 0) == 431);
        assert!(first.is_some_and(|n| (4..=9).contains(&n)), "{first:?}");
        let told = |bytes: usize| {
            let length = bytes.to_string();
            request("POST", "/hostile", &[("content-length", &length)])
        };
        for (bytes, status) in [(999, 200), (1000, 200), (1001, 413), (4000, 413)] {
            assert_eq!(ask(&told(bytes), bytes), status, "{bytes} told");
            let untold = request("POST", "/hostile", &[]);
            assert_eq!(ask(&untold, bytes), status, "{bytes} untold");
        }
        stage.canary().unwrap();
        held("LI-01", role, 9);
        held("LI-02", role, 8);
    }
}

#[test]
fn li_01_rates_of_http2() {
    let rates = "http2: { clientResets: 5, controlFrames: 20, emptyFrames: 3, continuations: 2, \
        unknownFrames: 4, provokedResets: 3 }";
    let post = || headers(1, &request("POST", "/own/1", &[]), false);
    type Sent = fn(u32) -> Vec<u8>;
    let opened_and_reset: Sent = |n| {
        let opened = headers(2 * n + 3, &request("GET", "/own/2", &[]), true);
        [opened, reset(2 * n + 3)].concat()
    };
    let rows: [(&str, u32, Sent); 5] = [
        ("resets", 5, opened_and_reset),
        ("control_frames", 18, |_| frame(PING, 0, 0, b"a ping..")),
        ("control_frames", 18, |_| frame(SETTINGS, 0, 0, &[])),
        ("empty_frames", 3, |_| data(1, "", false)),
        ("unknown_frames", 4, |_| frame(0xfa, 0, 0, b"what")),
    ];
    for role in ROLES {
        let stage = Stage::start(role, rates);
        for (name, limit, make) in rows {
            let kind = format!("\"{name}\"");
            let abuses = || stage.proxy.metric("selvedge_http2_abuse_total", &[&kind]);
            for (count, ends) in [(limit - 1, false), (limit, false), (limit + 4, true)] {
                let before = abuses();
                let mut http2 = stage.http2();
                http2.send(post());
                for n in 0..count {
                    http2.send(make(n));
                }
                http2.get(4001, "/own/last");
                let what = format!("{count} of {name} as {role:?}");
                if ends {
                    assert_eq!(http2.end().0, Some(ENHANCE_YOUR_CALM), "{what}");
                    let name = "selvedge_http2_abuse_total";
                    stage.proxy.wait_for_metric(name, &[&kind], before + 1.0);
                } else {
                    let got = http2.outcome(4001);
                    assert!(matches!(got, Outcome::Answer(200, _)), "{what}: {got:?}");
                }
                stage.held("LI-01");
            }
        }
        stage.canary().unwrap();
    }
}

#[test]
fn check_tells_of_limits_that_cannot_be() {
    let config = |limits: &str| {
        format!(
            "listeners: [{{ name: web, port: 1 }}]
routes: [{{ rules: [{{ backendRefs: [{{ service: app }}] }}] }}]
services: {{ app: {{ endpoints: [\"127.0.0.1:1\"] }} }}
limits: {{ {limits} }}\n"
        )
    };
    for (limits, wanted) in [
        ("streamWindow: 4GiB", "at most 2147483647"),
        ("streamWindow: 0", "more than 0"),
        ("http2: { controlFrames: 3 }", "4 or more"),
        ("body: 18446744073709551615", "limits.body"),
        ("bodyRate: 9223372036854775808", "limits.bodyRate"),
        ("connectionWindow: 1KiB", "65535 to 2147483647"),
        ("buffer: 1", "4KiB to 1GiB"),
        ("http2: { clientReset: 5 }", "clientResets"),
        ("trailerCount: -1", "trailerCount"),
    ] {
        let (fine, said) = check("gateway", &config(limits));
        assert!(!fine && said.contains(wanted), "{limits}: {said}");
    }
    let (fine, said) = check(
        "gateway",
        &config("memory: 512MiB, bodyRate: 0, streamWindow: 128KiB, buffer: 32KiB"),
    );
    assert!(fine, "{said}");
}
