//! The judge objects: each case is a wrong that a proxy could do, beside the same thing done right.

use super::*;
use crate::http2::{
    GOAWAY, PREFACE, PROTOCOL_ERROR, block, data, frame, headers, request, reset_for, settings,
};
use crate::oracle::{Writer, one};

const FIRST: &str = "POST /a~ HTTP/1.1\r\nHost: a\r\nx-own: 1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n";
const SECOND: &str = "GET /b HTTP/1.1\r\nHost: a\r\n\r\n";

/// Stream 1 is a POST of two bytes, stream 3 a GET; then what is given.
fn sent(more: &[Vec<u8>]) -> Vec<u8> {
    let post = request("POST", "/a%7e", &[("x-own", "1")]);
    let frames = [
        headers(1, &post, false),
        headers(3, &request("GET", "/b", &[]), true),
        data(1, "hi", true),
    ];
    [PREFACE, &settings(&[]), &frames.concat(), &more.concat()].concat()
}

fn answer(stream: u32, serial: &str, body: &str) -> Vec<u8> {
    let head = block(&[
        (":status", "200"),
        ("x-serial", serial),
        ("content-length", "1"),
    ]);
    [headers(stream, &head, false), data(stream, body, true)].concat()
}

fn heard(frames: &[Vec<u8>]) -> Vec<u8> {
    let ack = frame(4, 1, 0, b"");
    [settings(&[]), ack, frames.concat()].concat()
}

fn trial(sent: Vec<u8>, seen: &[&str], frames: &[Vec<u8>]) -> Trial {
    let request = |bytes: &&str| one(bytes.as_bytes(), 0, Writer::Proxy).unwrap().0;
    Trial {
        sent,
        patient: true,
        heard: heard(frames),
        seen: (1..).zip(seen.iter().map(request)).collect(),
        cut: Vec::new(),
        junk: None,
    }
}

fn both() -> [Vec<u8>; 2] {
    [answer(3, "2", "2"), answer(1, "1", "1")]
}

fn fine() -> Trial {
    trial(sent(&[]), &[FIRST, SECOND], &both())
}

#[track_caller]
fn objects(trial: &Trial, why: &str) {
    let said = judge(trial, Role::Sidecar).unwrap_err();
    assert!(said.contains(why), "{said}");
}

#[test]
fn nothing_is_wrong_with_what_is_right() {
    let verdict = judge(&fine(), Role::Sidecar).unwrap();
    assert_eq!(
        (verdict.streams, verdict.served, verdict.refused),
        (2, 2, 0)
    );
    let odd = sent(&[headers(5, &request("GET", "bad", &[]), true)]);
    let mut frames = both().to_vec();
    frames.push(reset_for(5, PROTOCOL_ERROR));
    let refused = trial(odd, &[FIRST, SECOND], &frames);
    assert_eq!(judge(&refused, Role::Sidecar).unwrap().refused, 1);
    // Broken off: what was whole may have been seen, and what was not may be half.
    let broken = sent(&[data(9, "x", false)]);
    let goaway = frame(GOAWAY, 0, 0, &[0, 0, 0, 3, 0, 0, 0, 1]);
    let mut cut = trial(broken, &[SECOND], &[goaway]);
    cut.cut.push(b"POST /a~ HTTP/1.1\r\nHo".to_vec());
    assert!(judge(&cut, Role::Sidecar).unwrap().broken);
}

#[test]
fn it_objects_to_what_the_upstream_saw() {
    for (first, why) in [
        (FIRST.replace("POST", "PUT"), "method"),
        (FIRST.replace("/a~", "/a%7E"), "target"),
        (FIRST.replace("Host: a", "Host: b"), "host"),
        (FIRST.replace("hi", "ho"), "body"),
        (FIRST.replace("x-own: 1\r\n", ""), "fields"),
        (FIRST.replace("0\r\n\r\n", "0\r\nT: 1\r\n\r\n"), "trailers"),
    ] {
        objects(&trial(sent(&[]), &[&first, SECOND], &both()), why);
    }
    // A request of nobody, a second copy, and one of a stream that is malformed.
    let third = SECOND.replace("/b", "/smuggled");
    objects(
        &trial(sent(&[]), &[FIRST, SECOND, &third], &both()),
        "is no stream",
    );
    objects(
        &trial(sent(&[]), &[FIRST, SECOND, SECOND], &both()),
        "is no stream",
    );
    let short = request("POST", "/c", &[("content-length", "9")]);
    let odd = sent(&[headers(5, &short, false), data(5, "x", true)]);
    let seen = "POST /c HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx";
    let mut frames = both().to_vec();
    frames.push(reset_for(5, PROTOCOL_ERROR));
    objects(
        &trial(odd.clone(), &[FIRST, SECOND, seen], &frames),
        "is no stream",
    );
    frames[2] = answer(5, "3", "3");
    objects(&trial(odd, &[FIRST, SECOND, seen], &frames), "served, but");
    let cut = vec![b"GET /smug".to_vec()];
    objects(&Trial { cut, ..fine() }, "half of nothing");
    let cut = vec![b"GET /b HTTP/1.1\r\n".to_vec(); 3];
    objects(&Trial { cut, ..fine() }, "more requests");
    let junk = Some("LF".to_owned());
    objects(&Trial { junk, ..fine() }, "no request");
}

#[test]
fn it_objects_to_what_the_client_heard() {
    let seen = [FIRST, SECOND];
    let with = |frames: &[Vec<u8>]| trial(sent(&[]), &seen, frames);
    let [a, b] = both();
    let refused = |id| headers(id, &block(&[(":status", "400")]), true);
    let goaway = frame(GOAWAY, 0, 0, &[0, 0, 0, 3, 0, 0, 0, 1]);
    let polite = frame(GOAWAY, 0, 0, &[0; 8]);
    objects(&with(&[answer(3, "1", "1"), answer(1, "2", "2")]), "method");
    objects(&with(&[answer(3, "2", "9"), b.clone()]), "of another");
    objects(&with(&[a.clone(), a.clone(), b.clone()]), "behind the end");
    objects(
        &with(&[a.clone(), b.clone(), answer(5, "1", "1")]),
        "nobody has opened",
    );
    objects(&with(&both()[..1]), "has no end");
    objects(&with(&[a.clone(), refused(1)]), "is no stream");
    objects(
        &with(&[a.clone(), headers(1, &block(&[(":status", "502")]), true)]),
        "502",
    );
    objects(&with(&[a.clone(), reset_for(1, 2)]), "reset for nothing");
    objects(
        &with(&[a.clone(), b.clone(), goaway.clone()]),
        "for nothing",
    );
    objects(
        &with(&[a.clone(), b.clone(), polite.clone()]),
        "without a reason",
    );
    let leaving = sent(std::slice::from_ref(&polite));
    let served = frame(GOAWAY, 0, 0, &[0, 0, 0, 3, 0, 0, 0, 0]);
    let left = trial(
        leaving.clone(),
        &seen,
        &[a.clone(), b.clone(), served.clone()],
    );
    assert!(judge(&left, Role::Sidecar).unwrap().broken);
    objects(&trial(leaving, &seen, &[a.clone(), served]), "has no end");
    objects(
        &with(&[a.clone(), b.clone(), goaway[..5].to_vec()]),
        "half a frame",
    );
    objects(&with(&[data(1, "x", true)]), "before its head");
    objects(
        &with(&[a.clone(), b[..b.len() - 10].to_vec(), data(1, "12", true)]),
        "as long as",
    );
    let upper = block(&[(":status", "200"), ("X-Serial", "1")]);
    objects(&with(&[a.clone(), headers(1, &upper, true)]), "a field");
    let hop = block(&[(":status", "200"), ("connection", "close")]);
    objects(&with(&[a.clone(), headers(1, &hop, true)]), "a field");
    let mut early = with(&[a.clone(), b.clone()]);
    early.heard = [a.clone(), b.clone()].concat();
    objects(&early, "before SETTINGS");
    let mut bare = with(&[]);
    bare.heard = [settings(&[]), a.clone(), b.clone()].concat();
    objects(&bare, "without acknowledgement");
    let broken = sent(&[data(9, "x", false)]);
    objects(
        &trial(broken, &seen, &[a.clone(), b.clone()]),
        "no GOAWAY for",
    );
}
