//! The oracle for HTTP/2 by hand: connections whose reading is to be seen at a glance.

use super::*;
use crate::http2::{block, data, field, frame, headers, request, reset, settings, window};

/// A connection that says this behind its SETTINGS.
fn said(frames: &[Vec<u8>]) -> Reading {
    read(&[PREFACE, &settings(&[]), &frames.concat()].concat())
}

/// Per stream: what it asks for once it is whole, then what is wrong with it; last how the connection ends.
fn shown(reading: &Reading) -> String {
    let mut lines = Vec::new();
    for (id, stream) in &reading.streams {
        let whole = stream.whole.as_ref().map_or("-".to_owned(), |r| {
            let (target, body) = (r.target.escape_ascii(), r.body.escape_ascii());
            format!("{target} \"{body}\"")
        });
        let reset = if stream.reset { " reset" } else { "" };
        let fault = stream.fault.unwrap_or("fine");
        lines.push(format!("{id}: {whole}, {fault}{reset}"));
    }
    lines.push(match reading.end {
        End::Open => reading.loose.unwrap_or("open").to_owned(),
        End::Short => "short".to_owned(),
        End::Broken(_, why) => format!("broken: {why}"),
    });
    lines.join("; ")
}

fn get(stream: u32) -> Vec<u8> {
    headers(stream, &request("GET", "/g", &[]), true)
}

fn post(stream: u32, more: &[(&str, &str)]) -> Vec<u8> {
    headers(stream, &request("POST", "/p", more), false)
}

fn trailers(stream: u32, fields: &[(&str, &str)], end: bool) -> Vec<u8> {
    headers(stream, &block(fields), end)
}

const LONG: (&str, &str) = ("content-length", "2");

/// What a connection with these frames is read as.
#[track_caller]
fn reads(frames: &[Vec<u8>], want: &str) {
    assert_eq!(shown(&said(frames)), want);
}

#[test]
fn streams_begin_go_on_and_end() {
    let end = [post(1, &[]), data(1, "hi", true)];
    let mixed = [
        post(1, &[]),
        get(3),
        data(1, "h", false),
        data(1, "i", true),
    ];
    reads(&[], "open");
    reads(
        &[get(1), get(3)],
        "1: /g \"\", fine; 3: /g \"\", fine; open",
    );
    reads(&end[..1], "1: -, fine; open");
    reads(&end, "1: /p \"hi\", fine; open");
    reads(&mixed, "1: /p \"hi\", fine; 3: /g \"\", fine; open");
}

#[test]
fn bodies_are_as_long_as_their_heads_say() {
    let head = || post(1, &[LONG]);
    let at_once = headers(1, &request("POST", "/p", &[LONG]), true);
    let late = [head(), data(1, "hi", false), data(1, "!", true)];
    reads(&late[..2], "1: /p \"hi\", fine; open");
    reads(&late, "1: /p \"hi\", more than content-length; open");
    reads(
        &[head(), data(1, "h", true)],
        "1: -, less than content-length; open",
    );
    reads(
        &[head(), data(1, "hi!", true)],
        "1: -, more than content-length; open",
    );
    reads(&[at_once], "1: -, less than content-length; open");
    reads(
        &[post(1, &[LONG, LONG]), data(1, "hi", true)],
        "1: -, a field twice; open",
    );
    reads(
        &[post(1, &[("content-length", "0")])],
        "1: /p \"\", fine; open",
    );
}

#[test]
fn trailers_end_streams() {
    let behind = |fields: &[(&str, &str)], end| {
        said(&[post(1, &[]), data(1, "hi", false), trailers(1, fields, end)])
    };
    let pseudo = "1: -, a pseudo-field behind a field, or in trailers; open";
    assert_eq!(
        shown(&behind(&[("a", "b")], true)),
        "1: /p \"hi\", fine; open"
    );
    assert_eq!(shown(&behind(&[(":path", "/x")], true)), pseudo);
    let open = "1: -, trailers that do not end it; open";
    assert_eq!(shown(&behind(&[("a", "b")], false)), open);
    let short = [post(1, &[LONG]), trailers(1, &[("a", "b")], true)];
    reads(&short, "1: -, less than content-length; open");
}

#[test]
fn what_is_wrong_or_comes_too_late() {
    let closed = "a frame of a closed stream";
    let late = format!("1: /g \"\", a frame behind its end; {closed}");
    reads(&[post(1, &[]), reset(1)], "1: -, fine reset; open");
    reads(&[get(1), reset(1)], "1: /g \"\", fine reset; open");
    reads(&[get(1), data(1, "x", true)], &late);
    reads(&[get(1), get(1)], &late);
    let gone = [post(1, &[]), reset(1), data(1, "x", true)];
    reads(&gone, &format!("1: -, fine reset; {closed}"));
    reads(&[get(1), window(1, 0)], "1: /g \"\", WINDOW_UPDATE; open");
    let wide = [post(1, &[]), window(1, 0x7fff_ffff), data(1, "", true)];
    reads(&wide, "1: -, WINDOW_UPDATE; open");
    let unknown = [post(1, &[(":x", "")]), data(1, "x", true)];
    reads(&unknown, "1: -, an unknown pseudo-field; open");
    let twice = [
        post(1, &[("te", "x")]),
        data(1, "x", true),
        data(1, "x", true),
    ];
    reads(
        &twice,
        &format!("1: -, a field of one connection; {closed}"),
    );
    let priority = [post(1, &[]), frame(PRIORITY, 0, 1, &[0; 4])];
    reads(&priority, "1: -, PRIORITY; PRIORITY");
}

#[test]
fn connections_end() {
    let part = |kind, flags, bytes: &[u8]| frame(kind, flags, 1, bytes);
    for (frames, want) in [
        (data(0, "x", true), "broken: DATA of no stream"),
        (data(1, "x", true), "broken: DATA of an idle stream"),
        (
            [get(3), data(1, "x", true)].concat(),
            "3: /g \"\", fine; broken: DATA of a stream left out",
        ),
        (
            [get(3), get(1)].concat(),
            "3: /g \"\", fine; broken: HEADERS of a stream left out",
        ),
        (get(2), "broken: an even stream"),
        (get(0), "broken: HEADERS of no stream"),
        (reset(1), "broken: RST_STREAM"),
        (window(1, 1), "broken: WINDOW_UPDATE of an idle stream"),
        (window(0, 0), "broken: WINDOW_UPDATE"),
        (window(0, 0x7fff_ffff), "broken: WINDOW_UPDATE"),
        (settings(&[(2, 2)]), "broken: a value of SETTINGS"),
        (settings(&[(4, 1 << 31)]), "broken: a value of SETTINGS"),
        (settings(&[(5, 16_383)]), "broken: a value of SETTINGS"),
        (settings(&[(8, 1), (8, 0)]), "broken: a value of SETTINGS"),
        (frame(SETTINGS, 0, 1, &[]), "broken: SETTINGS of a stream"),
        (frame(SETTINGS, 1, 0, &[0; 6]), "broken: SETTINGS with ACK"),
        (frame(PING, 0, 0, &[0; 7]), "broken: PING"),
        (frame(GOAWAY, 0, 0, &[0; 7]), "broken: GOAWAY"),
        (frame(5, 4, 1, &[0; 5]), "broken: PUSH_PROMISE of a client"),
        (
            part(CONTINUATION, 4, b"\x82"),
            "broken: a frame out of place",
        ),
        (
            [part(HEADERS, 0, b"\x82"), frame(PING, 0, 0, &[0; 8])].concat(),
            "broken: a frame out of place",
        ),
        (part(HEADERS, 4, b"\x80"), "broken: index 0"),
        (
            part(HEADERS, PADDED | 4, &[2, 0x82]),
            "broken: more padding than payload",
        ),
        (
            part(HEADERS, PADDED, &[]),
            "broken: no length of the padding",
        ),
        (part(HEADERS, 0x24, &[0; 4]), "broken: half a priority"),
        (
            frame(DATA, 0, 1, &[0; 16_385])[..9].to_vec(),
            "broken: a frame too large",
        ),
        (part(HEADERS, 0, b"\x82"), "short"),
        (get(1)[..20].to_vec(), "short"),
        (
            b"\0\0\0\x09\0\0\0\0\x01".to_vec(),
            "broken: a frame out of place",
        ),
        (b"\0\0\x01\x09\0\0\0\0\x01".to_vec(), "short"),
        (frame(0x77, 0xff, 9, b"x"), "open"),
        (frame(GOAWAY, 0, 0, &[0; 8]), "open"),
    ] {
        assert_eq!(shown(&said(&[frames])), want);
    }
    let first = read(&[PREFACE, &frame(PING, 0, 0, &[0; 8])].concat());
    assert_eq!(shown(&first), "broken: a frame out of place");
    let ack = read(&[PREFACE, &frame(SETTINGS, 1, 0, &[])].concat());
    assert_eq!(shown(&ack), "broken: SETTINGS with ACK");
}

#[test]
fn blocks_in_pieces_are_one() {
    let whole = request("GET", "/g", &[]);
    let (a, b) = whole.split_at(9);
    let padded = [&[3], a, &[0; 3]].concat();
    let reading = said(&[
        frame(HEADERS, END_STREAM | PADDED, 1, &padded),
        frame(CONTINUATION, 0, 1, b""),
        frame(CONTINUATION, END_HEADERS, 1, b),
    ]);
    assert_eq!(shown(&reading), "1: /g \"\", fine; open");
    let itself = [&[0, 0, 0, 1, 0], &whole[..]].concat();
    let reading = said(&[frame(HEADERS, 0x25, 1, &itself)]);
    assert_eq!(shown(&reading), "1: -, it depends on itself; open");
}

#[test]
fn heads_keep_the_rules() {
    let pseudo = [
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/g"),
        (":authority", "a"),
    ];
    let with = |name: &str, value: &str| {
        let mut fields = pseudo.to_vec();
        fields.retain(|(have, _)| *have != name);
        block(&fields)
            .into_iter()
            .chain(field(name, value))
            .collect::<Vec<u8>>()
    };
    let more = |fields: &[(&str, &str)]| [block(&pseudo), block(fields)].concat();
    let without = |at: usize| {
        let mut fields = pseudo.to_vec();
        fields.remove(at);
        block(&fields)
    };
    let late = "a pseudo-field behind a field, or in trailers";
    let hop = "a field of one connection";
    let control = "a control character in a field";
    for (block, want) in [
        (more(&[("x", ""), ("te", "trailers")]), "fine"),
        (more(&[("host", "A")]), "fine"),
        (without(0), "no :method"),
        (without(1), "no :scheme"),
        (without(2), "no :path"),
        (without(3), "no host"),
        (with(":method", "G T"), "the method"),
        (with(":method", "CONNECT"), "the method"),
        (with(":scheme", "1"), "the scheme"),
        (with(":path", ""), "the path"),
        (with(":path", "*"), "the path"),
        (with(":path", "/a b"), "the path"),
        (with(":path", "http://a/"), "the path"),
        (with(":authority", ""), "the host"),
        (with(":authority", "u@a"), "the host"),
        (more(&[(":path", "/g")]), "a field twice"),
        (more(&[(":status", "200")]), "an unknown pseudo-field"),
        (more(&[("x", "y"), (":path", "/g")]), late),
        (more(&[("X", "y")]), "the name of a field"),
        (more(&[("", "y")]), "the name of a field"),
        (more(&[("x:", "y")]), "the name of a field"),
        (more(&[("x", "y\r\nz: 1")]), control),
        (more(&[("x", "\0")]), control),
        (more(&[("x", " y")]), "white space around a value"),
        (more(&[("connection", "x")]), hop),
        (more(&[("transfer-encoding", "chunked")]), hop),
        (more(&[("te", "gzip")]), hop),
        (more(&[("host", "b")]), "two hosts"),
        (more(&[("host", "a"), ("host", "a")]), "a field twice"),
        (
            more(&[("content-length", "+1")]),
            "content-length is no number",
        ),
    ] {
        let reading = said(&[headers(1, &block, true)]);
        assert_eq!(
            reading.streams[&1].fault.unwrap_or("fine"),
            want,
            "{block:?}"
        );
        assert_eq!(reading.streams[&1].whole.is_some(), want == "fine");
    }
    let crumbs = more(&[
        ("cookie", "a=b"),
        ("x", "y"),
        ("cookie", ""),
        ("cookie", "c=d"),
    ]);
    let reading = said(&[headers(1, &crumbs, true)]);
    let fields = &reading.streams[&1].whole.as_ref().unwrap().fields;
    let text = |f: &crate::oracle::Field| format!("{}: {}", f.0.escape_ascii(), f.1.escape_ascii());
    let fields: Vec<String> = fields.iter().map(text).collect();
    assert_eq!(fields, ["host: a", "x: y", "cookie: a=b; c=d"]);
}
