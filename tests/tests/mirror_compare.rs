//! Answers of mirrors are compared with what clients get: what counts as a difference, and what is told of it.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use selvedge_tests::{Raw, Selvedge, Upstream, gateway};
use serde_json::{Value, json};

const COMPARED: &str = "selvedge_mirror_comparisons_total";

/// Answers `GET /N` with the Nth of these.
fn serving(answers: Vec<Vec<u8>>) -> Upstream {
    Upstream::scripted(move |connection| {
        while let Some(request) = connection.request() {
            let text = String::from_utf8_lossy(&request).into_owned();
            let path = text.split(' ').nth(1).unwrap_or_default();
            let nth: usize = path.trim_start_matches('/').parse().unwrap();
            connection.send(&answers[nth]);
        }
    })
}

fn comparing(app: &Upstream, copy: &Upstream, compare: &str) -> Selvedge {
    gateway(&format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0 }}]
routes: [{{ rules: [{{ filters: [{{ type: RequestMirror, requestMirror: {{ backendRef: {{ service: copy }}, compare: {compare} }} }}], backendRefs: [{{ service: app }}] }}] }}]
services: {{ app: {{ endpoints: [\"{}\"] }}, copy: {{ endpoints: [\"{}\"] }} }}",
        app.address(),
        copy.address()
    ))
}

fn answer(status: u16, fields: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let length = body.len();
    let head = format!("HTTP/1.1 {status} X\r\n{fields}Content-Length: {length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

fn json(body: &str) -> Vec<u8> {
    answer(200, "Content-Type: application/json\r\n", body)
}

/// The comparisons of the one mirror, as admin shows them.
fn shown(proxy: &Selvedge) -> Value {
    let (status, text) = proxy.get("admin", "/mirrors");
    assert_eq!(status, 200);
    let all: Value = serde_json::from_str(&text).unwrap();
    let mirrors = all.as_object().unwrap();
    assert_eq!(mirrors.len(), 1, "{text}");
    let (rule, mirror) = mirrors.iter().next().unwrap();
    assert!(rule.ends_with("/mirror-0"), "{rule}");
    mirror.clone()
}

fn wait(proxy: &Selvedge, outcome: &str, count: usize) {
    let label = format!("outcome=\"{outcome}\"");
    let count = u32::try_from(count).unwrap();
    proxy.wait_for_metric(COMPARED, &["mirror-0", "copy", &label], f64::from(count));
}

/// Two answers, what comparing them comes to, and what is told of it.
type Case = (Vec<u8>, Vec<u8>, &'static str, Value);

fn check(compare: &str, cases: Vec<Case>) {
    let (mut ours, mut theirs, mut wanted) = (Vec::new(), Vec::new(), Vec::new());
    for (our, their, outcome, told) in cases {
        ours.push(our);
        theirs.push(their);
        wanted.push((outcome, told));
    }
    let (app, copy) = (serving(ours), serving(theirs));
    let proxy = comparing(&app, &copy, compare);
    let mut client = Raw::connect(proxy.address("web"));
    for (nth, (outcome, told)) in wanted.iter().enumerate() {
        let so_far = wanted.iter().take(nth + 1);
        let count = so_far.filter(|(other, _)| other == outcome).count();
        client.send(format!("GET /{nth} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let _ = client.reply();
        wait(&proxy, outcome, count);
        let mirror = shown(&proxy);
        assert_eq!(mirror["outcomes"][outcome], count, "{nth}: {mirror}");
        if told.is_null() {
            continue;
        }
        let last = mirror["differences"][0].as_object().unwrap();
        assert_eq!(last["method"], "GET");
        assert_eq!(last["path"], format!("/{nth}"));
        for key in ["status", "headers", "body"] {
            assert_eq!(last.get(key), told.get(key), "{nth}: {key} of {last:?}");
        }
    }
    let differing = wanted.iter().filter(|(_, told)| !told.is_null()).count();
    let kept = shown(&proxy)["differences"].as_array().unwrap().len();
    assert_eq!(kept, differing.min(16));
}

#[test]
fn status_headers_and_bodies_are_compared() {
    let plain = |fields: &str, body: &str| answer(200, fields, body);
    let chunked =
        "HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n";
    check(
        "{}",
        vec![
            (
                plain(
                    "Date: x\r\nServer: a\r\nSet-Cookie: s=1\r\nX-Request-Id: 1\r\nAge: 3\r\n",
                    "abc",
                ),
                plain(
                    "DATE: y\r\nVia: 1.1 b\r\nTraceparent: 7\r\nServer-Timing: t\r\n",
                    "abc",
                ),
                "same",
                Value::Null,
            ),
            (plain("", "abc"), chunked.into(), "same", Value::Null),
            (
                plain("Vary: a\r\nX: 1\r\nVary: b\r\n", ""),
                plain("x: 1\r\nvary: a, b\r\n", ""),
                "same",
                Value::Null,
            ),
            (
                answer(204, "X: 1\r\n", ""),
                answer(204, "X: 1\r\n", ""),
                "same",
                Value::Null,
            ),
            (
                plain("", "abc"),
                answer(503, "", "abc"),
                "status",
                json!({ "status": { "client": 200, "mirror": 503 } }),
            ),
            (
                plain("X-Version: 1\r\nX-Gone: 1\r\nX-Same: 1\r\n", "abc"),
                plain("X-Version: 2\r\nX-New: 1\r\nX-Same: 1\r\n", "abd"),
                "headers",
                json!({ "headers": ["x-gone", "x-new", "x-version"], "body": "bytes" }),
            ),
            (
                plain("", "abc"),
                plain("", "abd"),
                "body",
                json!({ "body": "bytes" }),
            ),
            (
                plain("", "abc"),
                plain("", ""),
                "body",
                json!({ "body": "bytes" }),
            ),
            (
                answer(200, "", ""),
                answer(404, "X-Why: no\r\n", "no"),
                "status",
                json!({ "status": { "client": 200, "mirror": 404 }, "headers": ["x-why"], "body": "bytes" }),
            ),
        ],
    );
}

#[test]
fn json_is_compared_as_json_without_what_is_ignored() {
    check(
        "{ ignoreHeaders: [X-BUILD], ignoreMembers: [at, items.*.id] }",
        vec![
            (
                json(r#"{"a":1,"b":[1,2]}"#),
                json(r#" { "b": [1, 2], "a": 1 } "#),
                "same",
                Value::Null,
            ),
            (
                json(r#"{"at":1,"items":[{"id":1,"n":1},{"id":2,"n":1}]}"#),
                json(r#"{"items":[{"id":3,"n":1},{"n":1}],"at":2}"#),
                "same",
                Value::Null,
            ),
            (
                answer(200, "X-Build: 1\r\n", ""),
                answer(200, "", ""),
                "same",
                Value::Null,
            ),
            (
                json(r#"{"user":{"name":"ann","at":1},"n":1}"#),
                json(r#"{"user":{"name":"bob","at":2},"n":1}"#),
                "body",
                json!({ "body": ["user.at", "user.name"] }),
            ),
            (
                json(r#"{"items":[{"id":1,"n":1},{"id":2,"n":1}]}"#),
                json(r#"{"items":[{"id":1,"n":2},{"id":2,"n":3}],"more":0}"#),
                "body",
                json!({ "body": ["items.*.n", "more"] }),
            ),
            (
                json("[1,2]"),
                json("[2,1]"),
                "body",
                json!({ "body": ["*"] }),
            ),
            (
                json("[1,2"),
                json("[1, 2"),
                "body",
                json!({ "body": "bytes" }),
            ),
            (
                json(r#"{"a":1}"#),
                answer(200, "Content-Type: text/plain\r\n", r#"{ "a":1}"#),
                "headers",
                json!({ "headers": ["content-type"], "body": "bytes" }),
            ),
            (
                answer(
                    200,
                    "Content-Type: application/hal+json; charset=utf-8\r\n",
                    r#"{"a":1,"b":2}"#,
                ),
                answer(
                    200,
                    "Content-Type: application/hal+json; charset=utf-8\r\n",
                    r#"{"b":2,"a":1}"#,
                ),
                "same",
                Value::Null,
            ),
        ],
    );
}

fn packed(level: u32, text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(level));
    encoder.write_all(text.as_bytes()).unwrap();
    coded("gzip", encoder.finish().unwrap())
}

fn coded(coding: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let fields = format!("Content-Type: application/json\r\nContent-Encoding: {coding}\r\n");
    answer(200, &fields, body)
}

#[test]
fn what_is_too_long_or_cannot_be_read_is_not_called_the_same() {
    let long = "x".repeat(2000);
    let endless = "HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned()
        + &format!("400\r\n{}\r\n", "z".repeat(0x400)).repeat(3)
        + "0\r\n\r\n";
    check(
        "{ maxBody: 1KiB }",
        vec![
            (
                answer(200, "", &long),
                answer(200, "", &long),
                "not_compared",
                Value::Null,
            ),
            (
                answer(200, "", "short"),
                answer(200, "", &long),
                "not_compared",
                Value::Null,
            ),
            (
                endless.clone().into(),
                endless.into(),
                "not_compared",
                Value::Null,
            ),
            (
                answer(200, "X: 1\r\n", &long),
                answer(200, "X: 2\r\n", &long),
                "headers",
                json!({ "headers": ["x"], "body": "not compared" }),
            ),
            // Short ones with much in them, none at all, and a coding of somebody's own.
            (
                packed(9, &"0".repeat(1 << 18)),
                packed(1, "1"),
                "not_compared",
                Value::Null,
            ),
            (
                coded("gzip", "no gzip"),
                packed(1, "1"),
                "not_compared",
                Value::Null,
            ),
            (
                coded("own", "abc"),
                coded("own", "abd"),
                "not_compared",
                Value::Null,
            ),
            (
                coded("own", "abc"),
                coded("own", "abc"),
                "same",
                Value::Null,
            ),
        ],
    );
}

#[test]
fn what_is_compressed_is_compared_as_its_text() {
    let text = format!("{{\"a\":\"{}\",\"b\":1}}", "y".repeat(700));
    let other = text.replace("\"b\":1", "\"b\":2");
    let mut brotli = Vec::new();
    let mut encoder = brotli::CompressorWriter::new(&mut brotli, 4096, 5, 20);
    encoder.write_all(text.as_bytes()).unwrap();
    drop(encoder);
    let zstd = zstd::encode_all(text.as_bytes(), 3).unwrap();
    check(
        "{ maxBody: 1KiB }",
        vec![
            // Two compressors, one text.
            (packed(1, &text), packed(9, &text), "same", Value::Null),
            (
                packed(1, &text),
                packed(1, &other),
                "body",
                json!({ "body": ["b"] }),
            ),
            (
                packed(1, &text),
                coded("br", brotli),
                "headers",
                json!({ "headers": ["content-encoding"] }),
            ),
            (
                coded("zstd", zstd),
                json(&text),
                "headers",
                json!({ "headers": ["content-encoding"] }),
            ),
        ],
    );
}

#[test]
fn bodies_may_be_left_out() {
    check(
        "{ body: false }",
        vec![
            (json("1"), json("2"), "same", Value::Null),
            (
                answer(200, "X: 1\r\n", "a"),
                answer(200, "", "b"),
                "headers",
                json!({ "headers": ["x"] }),
            ),
        ],
    );
}
