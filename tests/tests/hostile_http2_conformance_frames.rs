//! Hostile HTTP/2, row H2-01 of the battery: each type of frame, by section 6 of RFC 9113.

use selvedge_tests::conformance::{
    Case, PUSH_PROMISE, WEIGHTED, Want, begun, case, continued, get, halves, post, run, whole,
};
use selvedge_tests::hostile::both;
use selvedge_tests::http2::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR, GOAWAY,
    HEADERS, PADDED, PING, PRIORITY, PROTOCOL_ERROR, RST_STREAM, SETTINGS, WINDOW_UPDATE, block,
    data, frame, headers, reset, reset_for, settings, window,
};

use Want::{Connection, Lives, Served, Stream};

const PROTOCOL: &[u32] = &[PROTOCOL_ERROR];
const SIZE: &[u32] = &[FRAME_SIZE_ERROR];
const FLOW: &[u32] = &[FLOW_CONTROL_ERROR];
/// Of a frame whose padding or priority leaves no room: both sections name a code for it.
const FORM: &[u32] = &[PROTOCOL_ERROR, FRAME_SIZE_ERROR];

#[test]
fn h2_01_section_6_data_headers_priority_reset() {
    let padded = |kind, length: u8, rest: &[u8]| {
        frame(
            kind,
            PADDED | END_HEADERS | END_STREAM,
            1,
            &[&[length], rest].concat(),
        )
    };
    let text = whole();
    let weight = [0, 0, 0, 0, 16];
    let cases: Vec<Case> = vec![
        case(
            "6.1 on stream 0",
            &[post(), data(0, b"x", true)],
            Connection(PROTOCOL),
        ),
        case(
            "6.1 padding as long as the rest",
            &[post(), padded(DATA, 2, b"x")],
            Stream(PROTOCOL),
        ),
        case(
            "6.1 padding longer by far",
            &[post(), padded(DATA, 255, b"x")],
            Stream(PROTOCOL),
        ),
        case(
            "6.1 no length of the padding",
            &[post(), frame(DATA, PADDED, 1, b"")],
            Stream(FORM),
        ),
        case(
            "6.1 padding",
            &[post(), padded(DATA, 3, b"x\0\0\0")],
            Served,
        ),
        case(
            "6.1 nothing but padding",
            &[post(), padded(DATA, 3, b"\0\0\0")],
            Served,
        ),
        case(
            "6.1 padding of nothing",
            &[post(), padded(DATA, 0, b"x")],
            Served,
        ),
        case("6.1 the end alone", &[post(), data(1, b"", true)], Served),
        case(
            "6.2 on stream 0",
            &[headers(0, &text, true)],
            Connection(PROTOCOL),
        ),
        case(
            "6.2 padding longer than the rest",
            &[padded(HEADERS, 255, &text)],
            Connection(PROTOCOL),
        ),
        case(
            "6.2 no length of the padding",
            &[frame(HEADERS, PADDED | 5, 1, b"")],
            Connection(FORM),
        ),
        case(
            "6.2 no room for the priority",
            &[frame(HEADERS, WEIGHTED | 5, 1, &weight[..4])],
            Connection(FORM),
        ),
        case(
            "6.2 padding",
            &[padded(HEADERS, 2, &[&text[..], b"\0\0"].concat())],
            Served,
        ),
        case(
            "6.2 priority",
            &[frame(
                HEADERS,
                WEIGHTED | 5,
                1,
                &[&weight, &text[..]].concat(),
            )],
            Served,
        ),
        case(
            "6.2 priority and padding",
            &[frame(
                HEADERS,
                WEIGHTED | PADDED | 5,
                1,
                &[&[1], &weight[..], &text, b"\0"].concat(),
            )],
            Served,
        ),
        case(
            "6.3 on stream 0",
            &[frame(PRIORITY, 0, 0, &weight)],
            Connection(PROTOCOL),
        ),
        case(
            "6.3 too short",
            &[post(), frame(PRIORITY, 0, 1, &weight[..4])],
            Stream(SIZE),
        ),
        case(
            "6.3 too long",
            &[post(), frame(PRIORITY, 0, 1, &[0; 6])],
            Stream(SIZE),
        ),
        case("6.4 on stream 0", &[reset(0)], Connection(PROTOCOL)),
        case(
            "6.4 too short",
            &[post(), frame(RST_STREAM, 0, 1, &[0; 3])],
            Connection(SIZE),
        ),
        case(
            "6.4 too long",
            &[post(), frame(RST_STREAM, 0, 1, &[0; 5])],
            Connection(SIZE),
        ),
        case(
            "7 a code that nobody knows",
            &[post(), reset_for(1, 0xffff)],
            Lives,
        ),
    ];
    both(|stage| run(stage, &cases));
}

#[test]
fn h2_01_section_6_5_settings() {
    let set = |id, value| settings(&[(id, value)]);
    let mut cases = vec![
        case(
            "6.5 ACK with a payload",
            &[frame(SETTINGS, ACK, 0, &[0; 6])],
            Connection(SIZE),
        ),
        case(
            "6.5 on a stream",
            &[frame(SETTINGS, 0, 1, &[])],
            Connection(PROTOCOL),
        ),
        case(
            "6.5 ACK on a stream",
            &[frame(SETTINGS, ACK, 1, &[])],
            Connection(PROTOCOL),
        ),
        case(
            "6.5 five bytes",
            &[frame(SETTINGS, 0, 0, &[0; 5])],
            Connection(SIZE),
        ),
        case(
            "6.5 seven bytes",
            &[frame(SETTINGS, 0, 0, &[0; 7])],
            Connection(SIZE),
        ),
        case("6.5 none", &[settings(&[]), get()], Served),
        case(
            "6.5 the same twice",
            &[settings(&[(4, 0), (4, 1 << 16)]), get()],
            Served,
        ),
        case(
            "6.5.3 an ACK that nothing was sent for",
            &[frame(SETTINGS, ACK, 0, &[]), get()],
            Served,
        ),
    ];
    for (id, value, code) in [
        (2, 2, PROTOCOL),
        (2, u32::MAX, PROTOCOL),
        (4, 1 << 31, FLOW),
        (4, u32::MAX, FLOW),
        (5, 0, PROTOCOL),
        (5, (1 << 14) - 1, PROTOCOL),
        (5, 1 << 24, PROTOCOL),
        (5, u32::MAX, PROTOCOL),
    ] {
        cases.push(case(
            &format!("6.5.2 {id} is {value}"),
            &[set(id, value)],
            Connection(code),
        ));
    }
    for (id, value) in [
        (1, 0),
        (1, u32::MAX),
        (2, 0),
        (2, 1),
        (3, 0),
        (3, u32::MAX),
        (4, (1 << 31) - 1),
        (5, 1 << 14),
        (5, (1 << 24) - 1),
        (6, u32::MAX),
        (0, 1),
        (0x99, u32::MAX),
    ] {
        cases.push(case(
            &format!("6.5.2 {id} may be {value}"),
            &[set(id, value), get()],
            Served,
        ));
    }
    both(|stage| run(stage, &cases));
}

#[test]
fn h2_01_section_6_6_to_6_10() {
    let flow = |value| settings(&[(4, value)]);
    let (first, second) = halves();
    let (middle, end) = second.split_at(9);
    let cases: Vec<Case> = vec![
        case(
            "6.6 a client's promise",
            &[
                post(),
                frame(
                    PUSH_PROMISE,
                    END_HEADERS,
                    1,
                    &[&[0, 0, 0, 2], &whole()[..]].concat(),
                ),
            ],
            Connection(PROTOCOL),
        ),
        case(
            "6.6 on stream 0",
            &[frame(PUSH_PROMISE, END_HEADERS, 0, &[0, 0, 0, 2])],
            Connection(PROTOCOL),
        ),
        case(
            "6.7 on a stream",
            &[frame(PING, 0, 1, b"12345678")],
            Connection(PROTOCOL),
        ),
        case("6.7 empty", &[frame(PING, 0, 0, b"")], Connection(SIZE)),
        case(
            "6.7 too short",
            &[frame(PING, 0, 0, b"1234567")],
            Connection(SIZE),
        ),
        case(
            "6.7 too long",
            &[frame(PING, 0, 0, b"123456789")],
            Connection(SIZE),
        ),
        case(
            "6.7 an ACK that nothing was sent for",
            &[frame(PING, ACK, 0, b"12345678"), get()],
            Served,
        ),
        case(
            "6.8 on a stream",
            &[frame(GOAWAY, 0, 1, &[0; 8])],
            Connection(PROTOCOL),
        ),
        case(
            "6.8 too short",
            &[frame(GOAWAY, 0, 0, &[0; 7])],
            Connection(SIZE),
        ),
        case("6.9 by nothing", &[window(0, 0)], Connection(PROTOCOL)),
        case(
            "6.9 of a stream, by nothing",
            &[post(), window(1, 0)],
            Stream(PROTOCOL),
        ),
        case(
            "6.9 too short",
            &[frame(WINDOW_UPDATE, 0, 0, &[0; 3])],
            Connection(SIZE),
        ),
        case(
            "6.9 too long",
            &[post(), frame(WINDOW_UPDATE, 0, 1, &[0; 5])],
            Connection(SIZE),
        ),
        case(
            "6.9 the reserved bit",
            &[window(0, 1 | 1 << 31), get()],
            Served,
        ),
        case(
            "6.9.1 over the largest",
            &[window(0, (1 << 31) - 1)],
            Connection(FLOW),
        ),
        case(
            "6.9.1 over the largest, in steps",
            &[window(0, 1 << 30), window(0, 1 << 30)],
            Connection(FLOW),
        ),
        case(
            "6.9.1 of a stream, over the largest",
            &[post(), window(1, (1 << 31) - 1)],
            Stream(FLOW),
        ),
        case(
            "6.9.1 to the largest",
            &[window(0, (1 << 31) - 1 - 65_535), get()],
            Served,
        ),
        case(
            "6.9.1 less than the answer",
            &[flow(1), get(), window(1, 100)],
            Served,
        ),
        case(
            "6.9.2 nothing at first",
            &[flow(0), get(), flow(100)],
            Served,
        ),
        case(
            "6.9.2 below nothing",
            &[flow(4), get(), flow(0), window(1, 100)],
            Served,
        ),
        case(
            "6.9.2 over the largest by SETTINGS",
            &[flow(0), post(), window(1, (1 << 31) - 1), flow(1)],
            Connection(FLOW),
        ),
        case(
            "6.10 in two parts",
            &[begun(), continued(END_HEADERS)],
            Served,
        ),
        case(
            "6.10 in three",
            &[
                frame(HEADERS, END_STREAM, 1, &first),
                frame(CONTINUATION, 0, 1, middle),
                frame(CONTINUATION, END_HEADERS, 1, end),
            ],
            Served,
        ),
        case(
            "6.10 an empty one",
            &[
                begun(),
                frame(CONTINUATION, 0, 1, b""),
                continued(END_HEADERS),
            ],
            Served,
        ),
        case(
            "6.10 on stream 0",
            &[begun(), frame(CONTINUATION, END_HEADERS, 0, &second)],
            Connection(PROTOCOL),
        ),
        case(
            "6.10 behind a whole block",
            &[
                post(),
                frame(CONTINUATION, END_HEADERS, 1, &block(&[("x", "y")])),
            ],
            Connection(PROTOCOL),
        ),
        case(
            "6.10 behind the last part",
            &[begun(), continued(END_HEADERS), continued(END_HEADERS)],
            Connection(PROTOCOL),
        ),
        case(
            "6.10 behind DATA",
            &[post(), data(1, b"x", false), continued(END_HEADERS)],
            Connection(PROTOCOL),
        ),
    ];
    both(|stage| run(stage, &cases));
}
