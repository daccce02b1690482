//! Hostile HTTP/2, row H2-01 of the battery: frames and streams, by sections 4 and 5 of RFC 9113. Section 6 and header
//! blocks are beside.

use selvedge_tests::conformance::{
    PUSH_PROMISE, WEIGHTED, Want, begun, case, continued, get, halves, post, run, whole,
};
use selvedge_tests::hostile::{Role, both};
use selvedge_tests::http2::{
    CONTINUATION, END_HEADERS, FRAME_SIZE_ERROR, GOAWAY, HEADERS, Outcome, PING, PRIORITY,
    PROTOCOL_ERROR, REFUSED_STREAM, RST_STREAM, SETTINGS, STREAM_CLOSED, data, frame, headers,
    request, reset, settings, window,
};

use Want::{Connection, Lives, Served, Stream};

const PROTOCOL: &[u32] = &[PROTOCOL_ERROR];
const SIZE: &[u32] = &[FRAME_SIZE_ERROR];
const CLOSED: &[u32] = &[STREAM_CLOSED];
const UNKNOWN: u8 = 0x16;

#[test]
fn h2_01_section_4_frames() {
    let zeros = |count: usize| vec![0; count];
    let mut cases = vec![
        case(
            "4.1 unknown type",
            &[frame(UNKNOWN, 0, 0, b"x"), get()],
            Served,
        ),
        case(
            "4.1 unknown type on an idle stream",
            &[frame(UNKNOWN, 0xff, 7, b""), get()],
            Served,
        ),
        case(
            "4.1 unknown flags",
            &[frame(PING, 0xfe, 0, b"12345678"), get()],
            Served,
        ),
        case(
            "4.1 unknown flags of HEADERS",
            &[frame(HEADERS, 0xd2 | 5, 1, &whole())],
            Served,
        ),
        case(
            "4.1 the reserved bit",
            &[headers(1 | 1 << 31, &whole(), true)],
            Served,
        ),
        case(
            "4.2 the largest DATA",
            &[post(), data(1, zeros(1 << 14), true)],
            Served,
        ),
        case(
            "4.2 DATA too large",
            &[post(), data(1, zeros((1 << 14) + 1), true)],
            Stream(SIZE),
        ),
        case(
            "4.2 HEADERS too large",
            &[headers(1, &zeros((1 << 14) + 1), true)],
            Connection(SIZE),
        ),
        case(
            "4.2 SETTINGS too large",
            &[frame(SETTINGS, 0, 0, &zeros(6 * 2731))],
            Connection(SIZE),
        ),
        case(
            "4.2 unknown type too large",
            &[frame(UNKNOWN, 0, 0, &zeros((1 << 14) + 1))],
            Connection(SIZE),
        ),
        case(
            "4.3 HEADERS of another stream within a block",
            &[begun(), headers(3, &whole(), true)],
            Connection(PROTOCOL),
        ),
        case(
            "4.3 CONTINUATION of another stream",
            &[begun(), frame(CONTINUATION, END_HEADERS, 3, &halves().1)],
            Connection(PROTOCOL),
        ),
    ];
    for (name, within) in [
        ("DATA", data(1, b"", false)),
        ("HEADERS", headers(1, &whole(), true)),
        ("PRIORITY", frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 16])),
        ("RST_STREAM", reset(1)),
        ("SETTINGS", settings(&[])),
        ("PUSH_PROMISE", frame(PUSH_PROMISE, 0, 1, &[0, 0, 0, 2])),
        ("PING", frame(PING, 0, 0, b"12345678")),
        ("GOAWAY", frame(GOAWAY, 0, 0, &zeros(8))),
        ("WINDOW_UPDATE", window(0, 1)),
        ("an unknown frame", frame(UNKNOWN, 0, 1, b"x")),
    ] {
        let frames = [begun(), within, continued(END_HEADERS)];
        cases.push(case(
            &format!("4.3 {name} within a block"),
            &frames,
            Connection(PROTOCOL),
        ));
    }
    both(|stage| run(stage, &cases));
}

#[test]
fn h2_01_section_5_streams() {
    let idle =
        |name: &str, frame| case(&format!("5.1 idle: {name}"), &[frame], Connection(PROTOCOL));
    let reserved = request("POST", "/early", &[]);
    let mut cases = vec![
        idle("DATA", data(1, b"x", true)),
        idle("RST_STREAM", reset(1)),
        idle("WINDOW_UPDATE", window(1, 1)),
        idle(
            "CONTINUATION",
            frame(CONTINUATION, END_HEADERS, 1, &whole()),
        ),
        case(
            "5.1 idle: PRIORITY",
            &[frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 16]), get()],
            Served,
        ),
        case(
            "5.1 half closed: DATA",
            &[get(), data(1, b"x", true)],
            Stream(CLOSED),
        ),
        case("5.1 half closed: HEADERS", &[get(), get()], Stream(CLOSED)),
        case(
            "5.1 half closed: CONTINUATION",
            &[get(), continued(END_HEADERS)],
            Connection(&[PROTOCOL_ERROR, STREAM_CLOSED]),
        ),
        case(
            "5.1 half closed: WINDOW_UPDATE",
            &[get(), window(1, 1)],
            Served,
        ),
        case(
            "5.1 half closed: PRIORITY",
            &[get(), frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 16])],
            Served,
        ),
        case("5.1 half closed: RST_STREAM", &[get(), reset(1)], Lives),
        case(
            "5.1 closed: RST_STREAM",
            &[post(), reset(1), reset(1)],
            Lives,
        ),
        case(
            "5.1 closed: WINDOW_UPDATE",
            &[post(), reset(1), window(1, 1)],
            Lives,
        ),
        case(
            "5.1 closed: PRIORITY",
            &[post(), reset(1), frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 16])],
            Lives,
        ),
        case(
            "5.1 closed: CONTINUATION",
            &[post(), reset(1), continued(END_HEADERS)],
            Connection(&[PROTOCOL_ERROR, STREAM_CLOSED]),
        ),
        case(
            "5.1.1 an even number",
            &[headers(2, &whole(), true)],
            Connection(PROTOCOL),
        ),
        case(
            "5.1.1 a number that was passed by",
            &[headers(5, &reserved, false), headers(3, &whole(), true)],
            Connection(&[PROTOCOL_ERROR, STREAM_CLOSED]),
        ),
        case(
            "5.1.1 numbers with gaps",
            &[get(), headers(9, &request("GET", "/early", &[]), true)],
            Served,
        ),
        case(
            "5.1.1 the highest number",
            &[
                get(),
                headers((1 << 31) - 1, &request("GET", "/early", &[]), true),
            ],
            Served,
        ),
        case(
            "5.3.1 on itself",
            &[frame(PRIORITY, 0, 1, &[0, 0, 0, 1, 16])],
            Stream(PROTOCOL),
        ),
        case(
            "5.3.1 HEADERS on itself",
            &[frame(
                HEADERS,
                WEIGHTED | 5,
                1,
                &[&[0, 0, 0, 1, 16], &whole()[..]].concat(),
            )],
            Stream(PROTOCOL),
        ),
    ];
    for (name, behind) in [
        ("DATA", data(1, b"x", true)),
        ("HEADERS", headers(1, &whole(), true)),
    ] {
        let frames = [post(), reset(1), behind];
        cases.push(case(
            &format!("5.1 closed: {name}"),
            &frames,
            Connection(&[STREAM_CLOSED, PROTOCOL_ERROR]),
        ));
    }
    both(|stage| run(stage, &cases));
    // As many streams as are granted live; one more is refused, and they live on.
    both(|stage| {
        let granted = match stage.role {
            Role::Gateway => 100,
            Role::Sidecar => 250,
        };
        let streams = (0..=granted).map(|n| headers(2 * n + 1, &reserved, false));
        let mut http2 = stage.http2();
        http2.send(streams.flatten().collect::<Vec<u8>>());
        let refused = http2.find(|f| f.kind == RST_STREAM);
        let code = (refused.stream, refused.word(0));
        assert_eq!(code, (2 * granted + 1, REFUSED_STREAM));
        http2.send(data(1, "x", true));
        assert!(matches!(http2.outcome(1), Outcome::Answer(200, _)));
        stage.held("H2-01");
    });
}
