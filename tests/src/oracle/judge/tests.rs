//! The judge objects: each case is a wrong that a proxy could do, beside the same thing done right.

use super::*;
use crate::oracle::one;

const SENT: &str = "POST /a%7e HTTP/1.1\r\nHost: A\r\nConnection: X-Hop\r\nX-Hop: 1\r\nX-Own: 1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nT: 1\r\n\r\nGET /b HTTP/1.1\r\nHost: b\r\n\r\n";
const FIRST: &str = "POST /a~ HTTP/1.1\r\nHost: a\r\nX-Own: 1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n";
const SECOND: &str = "GET /b HTTP/1.1\r\nHost: b\r\n\r\n";
const REFUSED: &str = "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

fn answer(serial: u64) -> String {
    format!("HTTP/1.1 200 OK\r\nX-Serial: {serial}\r\nContent-Length: 1\r\n\r\n{serial}")
}

fn trial(sent: &str, seen: &[&str], heard: &[String]) -> Trial {
    let request = |bytes: &&str| one(bytes.as_bytes(), 0, Writer::Proxy).unwrap().0;
    Trial {
        sent: sent.as_bytes().to_vec(),
        patient: true,
        heard: heard.concat().into_bytes(),
        seen: (1..).zip(seen.iter().map(request)).collect(),
        cut: Vec::new(),
        junk: None,
    }
}

fn fine() -> Trial {
    trial(SENT, &[FIRST, SECOND], &[answer(1), answer(2)])
}

#[track_caller]
fn objects(trial: &Trial, why: &str) {
    let said = judge(trial, Role::Sidecar).unwrap_err();
    assert!(said.contains(why), "{said}");
}

#[test]
fn nothing_is_wrong_with_what_is_right() {
    let want = Verdict {
        served: 2,
        refused: false,
        cut: false,
    };
    assert_eq!(judge(&fine(), Role::Sidecar), Ok(want));
    let refused = trial(SENT, &[FIRST], &[answer(1), REFUSED.to_owned()]);
    assert!(judge(&refused, Role::Sidecar).unwrap().refused);
    let old = SENT.replace("A\r\n", "A\r\nX-Forwarded-For: 9.9.9.9\r\n");
    let seen = FIRST.replace("a\r\nX", "a\r\nX-Forwarded-For: 127.0.0.1\r\nX");
    let gateway = trial(&old, &[&seen], &[answer(1), REFUSED.to_owned()]);
    assert!(judge(&gateway, Role::Gateway).unwrap().refused);
    let told = "X-Forwarded-For is";
    assert!(judge(&fine(), Role::Gateway).unwrap_err().contains(told));
}

#[test]
fn it_objects_to_what_the_upstream_saw() {
    let both = [answer(1), answer(2)];
    for (first, why) in [
        (FIRST.replace("POST", "PUT"), "method"),
        (FIRST.replace("/a~", "/a%7E"), "target"),
        (FIRST.replace("/a~", "/a~?x"), "target"),
        (FIRST.replace("Host: a", "Host: b"), "host"),
        (FIRST.replace("hi", "ho"), "body"),
        (FIRST.replace("X-Own: 1\r\n", ""), "fields"),
        (FIRST.replace("X-Own", "x-own"), "fields"),
        (FIRST.replace("X-Own: 1", "X-Own: 1\r\nX-Hop: 1"), "fields"),
        (FIRST.replace("0\r\n\r\n", "0\r\nT: 1\r\n\r\n"), "trailers"),
    ] {
        objects(&trial(SENT, &[&first, SECOND], &both), why);
    }
    objects(&trial(SENT, &[SECOND, FIRST], &both), "method");
    objects(&trial(SENT, &[SECOND], &both[..1]), "method");
    let three = [answer(1), answer(2), answer(3)];
    objects(
        &trial(SENT, &[FIRST, SECOND, SECOND], &three),
        "request 2 whole",
    );
    let cut = vec![b"GET".to_vec(), b"POST".to_vec()];
    objects(&Trial { cut, ..fine() }, "more than one");
    let junk = Some("LF".to_owned());
    objects(&Trial { junk, ..fine() }, "no request");
}

#[test]
fn it_objects_to_a_smuggled_request() {
    for sent in [
        "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /b HTTP/1.1\r\nHost: b\r\n\r\n",
        "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\x0bchunked\r\nContent-Length: 99\r\n\r\n0\r\n\r\nGET /b HTTP/1.1\r\nHost: b\r\n\r\n",
        "GET /a HTTP/1.1\r\nHost: a\r\nX: 1\n\nGET /b HTTP/1.1\r\nHost: b\r\n\r\n",
        "GET /a HTTP/1.1\r\nHost: a\r\nContent-Length: 29\r\n\r\nGET /b HTTP/1.1\r\nHost: b\r\n\r\n",
    ] {
        objects(&trial(sent, &[SECOND], &[answer(1)]), "request 0 whole");
    }
    // Whatever stands behind a request that closes.
    let closed = format!("GET /a HTTP/1.0\r\nHost: a\r\n\r\n{SECOND}");
    let first = "GET /a HTTP/1.1\r\nHost: a\r\n\r\n";
    let seen = trial(&closed, &[first, SECOND], &[answer(1), answer(2)]);
    objects(&seen, "request 1 whole");
}

#[test]
fn it_objects_to_what_the_client_heard() {
    let heard = |heard: &[String]| trial(SENT, &[FIRST, SECOND], heard);
    let refused = REFUSED.to_owned();
    objects(&heard(&[answer(2), answer(1)]), "is that of \"2\"");
    objects(&heard(&[answer(1)]), "1 of 2 answers");
    objects(&heard(&[answer(1), answer(2), answer(3)]), "too many");
    objects(&heard(&[answer(1), refused.clone()]), "but served");
    objects(&heard(&[answer(1), answer(2)[..20].to_owned()]), "half");
    objects(
        &heard(&[answer(1), refused.clone(), refused.clone()]),
        "behind",
    );
    let open = refused.replace("Connection: close\r\n", "");
    objects(
        &trial(SENT, &[FIRST], &[answer(1), open]),
        "without a close",
    );
    let failed = refused.replace("400", "502");
    objects(&trial(SENT, &[FIRST], &[answer(1), failed]), "502");
    let early = "HTTP/1.1 103 Early Hints\r\n\r\n".to_owned();
    objects(&heard(&[answer(1), early, answer(2)]), "interim");
    let wrong = answer(2).replace("\r\n\r\n2", "\r\n\r\n3");
    objects(&heard(&[answer(1), wrong]), "is that of");
    let canary = heard(&[answer(1), answer(2)]);
    assert!(judge(&canary, Role::Sidecar).is_ok());
}
