//! The oracle by hand: streams whose reading is to be seen at a glance.

use super::*;

/// Targets and bodies of the requests, and how the stream ends.
fn reading(bytes: &[u8], writer: Writer) -> (Vec<String>, &'static str) {
    let reading = read(bytes, writer);
    let shown = |r: &Request| format!("{} {}", r.target.escape_ascii(), r.body.escape_ascii());
    let end = match reading.end {
        End::Open => "open",
        End::Closed => "closed",
        End::Short => "short",
        End::Malformed(_, why) => why,
    };
    (reading.requests.iter().map(shown).collect(), end)
}

const LENGTH: &str = "the length of the body";

/// Before another request, except where there is nothing: what is read, and how it ends.
const STREAMS: &[(&str, &[&str], &str)] = &[
    ("", &[], "open"),
    (
        "GET /a HTTP/1.1\r\nHost: a\r\n\r\n",
        &["/a ", "/b "],
        "open",
    ),
    (
        "\r\nGET /a HTTP/1.1\r\nHost: a\r\n\r\n",
        &["/a ", "/b "],
        "open",
    ),
    (
        "\r\n\r\nGET /a HTTP/1.1\r\nHost: a\r\n\r\n",
        &[],
        "a request line has three parts",
    ),
    (
        "GET /a HTTP/1.1\r\nHost: a\r\nConnection: x, Close\r\n\r\n",
        &["/a "],
        "closed",
    ),
    ("GET /a HTTP/1.0\r\n\r\n", &["/a "], "closed"),
    (
        "GET /a HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n",
        &["/a ", "/b "],
        "open",
    ),
    (
        "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi",
        &["/a hi", "/b "],
        "open",
    ),
    (
        "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\nhi",
        &[],
        "short",
    ),
    (
        "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: +2\r\n\r\nhi",
        &[],
        "Content-Length is no number",
    ),
    (
        "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nhi",
        &[],
        LENGTH,
    ),
    (
        "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        &[],
        LENGTH,
    ),
    (
        "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        &[],
        LENGTH,
    ),
    (
        "POST /a HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        &[],
        LENGTH,
    ),
    (
        "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        &[],
        "the name of a field is no token",
    ),
    (
        "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
        &[],
        "a control character in a field",
    ),
    (
        "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n1;x\r\nh\r\n01\r\ni\r\n0\r\nT: 1\r\n\r\n",
        &["/a hi", "/b "],
        "open",
    ),
    (
        "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nhi\r\n0\r\n\r\n",
        &[],
        "a chunk longer than its size",
    ),
    (
        "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\nh\r\n0\r\n\r\n",
        &[],
        "LF without CR",
    ),
    (
        "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1 \r\nh\r\n0\r\n\r\n",
        &[],
        "the size of a chunk",
    ),
    (
        "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000001\r\nh\r\n0\r\n\r\n",
        &[],
        "the size of a chunk",
    ),
    (
        "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffe\r\nh\r\n0\r\n\r\n",
        &[],
        "short",
    ),
    ("GET /a HTTP/1.1\r\nHost: a\n\r\n", &[], "LF without CR"),
    (
        "GET /a HTTP/1.1\r\nHost: a\r\rX: y\r\n\r\n",
        &[],
        "CR without LF",
    ),
    (
        "GET /a HTTP/1.1\r\nHost: a\r\n X: y\r\n\r\n",
        &[],
        "the name of a field is no token",
    ),
    (
        "GET /a HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n",
        &[],
        "a field without a colon",
    ),
    (
        "GET /a HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n",
        &[],
        "a control character in a field",
    ),
    ("GET /a HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", &[], "Host"),
    ("GET /a HTTP/1.1\r\n\r\n", &[], "Host"),
    ("GET /a HTTP/1.1\r\nHost: a, b\r\n\r\n", &[], "Host"),
    (
        "GET  /a HTTP/1.1\r\nHost: a\r\n\r\n",
        &[],
        "a request line has three parts",
    ),
    (
        "GET\t/a HTTP/1.1\r\nHost: a\r\n\r\n",
        &[],
        "a request line has three parts",
    ),
    ("GET /a HTTP/1.2\r\nHost: a\r\n\r\n", &[], "the version"),
    ("GET /a http/1.1\r\nHost: a\r\n\r\n", &[], "the version"),
    (
        "G(T /a HTTP/1.1\r\nHost: a\r\n\r\n",
        &[],
        "the method is no token",
    ),
    ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", &[], "the target"),
    ("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", &[], "the target"),
    ("GET /a%2 HTTP/1.1\r\nHost: a\r\n\r\n", &[], "the target"),
    (
        "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
        &[],
        "the target",
    ),
    (
        "GET http://u@b/ HTTP/1.1\r\nHost: a\r\n\r\n",
        &[],
        "the target",
    ),
    (
        "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        &["* ", "/b "],
        "open",
    ),
    (
        "GET HTTPS://b:8?x HTTP/1.1\r\nHost: a\r\n\r\n",
        &["HTTPS://b:8?x ", "/b "],
        "open",
    ),
];

#[test]
fn streams_of_clients() {
    let next = "GET /b HTTP/1.1\r\nHost: a\r\n\r\n";
    for (bytes, requests, end) in STREAMS {
        let bytes = match *bytes {
            "" => String::new(),
            bytes => format!("{bytes}{next}"),
        };
        let got = reading(bytes.as_bytes(), Writer::Client);
        let want: Vec<String> = requests.iter().map(|r| (*r).to_owned()).collect();
        assert_eq!(got, (want, *end), "{bytes:?}");
    }
}

#[test]
fn what_the_proxy_never_writes() {
    for (bytes, end) in [
        ("GET /a HTTP/1.1\r\nHost: \r\n\r\n", "open"),
        (
            "\r\nGET /a HTTP/1.1\r\nHost: a\r\n\r\n",
            "a request line has three parts",
        ),
        ("GET /a HTTP/1.0\r\nHost: a\r\n\r\n", "the version"),
        ("GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", "the target"),
        (
            "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;x\r\nh\r\n0\r\n\r\n",
            "a size as no writer of ours has it",
        ),
        (
            "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n01\r\nh\r\n0\r\n\r\n",
            "a size as no writer of ours has it",
        ),
        (
            "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nh\r\n0\r\n\r\n",
            "open",
        ),
    ] {
        assert_eq!(reading(bytes.as_bytes(), Writer::Proxy).1, end, "{bytes:?}");
    }
}

#[test]
fn normal_forms() {
    for (target, want) in [
        ("*", "*"),
        ("/", "/"),
        ("/a//b///c", "/a/b/c"),
        ("/a/./b/../c", "/a/c"),
        ("/a//../b", "/b"),
        ("/a/..", "/"),
        ("/a/b/..", "/a/"),
        ("/a/.", "/a/"),
        ("/../../x/", "/x/"),
        ("/%2e%2E/%7e%2d", "/~-"),
        ("/%c3%a9%2f%5c", "/%C3%A9%2F%5C"),
        ("/a/..b/...?x=/../%2f", "/a/..b/...?x=/../%2f"),
        ("http://b", "/"),
        ("HTTP://b?x//", "/?x//"),
        ("https://b:1/a/../c?", "/c?"),
    ] {
        let got = normal::normal(target.as_bytes());
        assert_eq!(got.escape_ascii().to_string(), want, "{target}");
    }
}

#[test]
fn answers_are_read_strictly() {
    let fine = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n";
    let heard = answers::read(fine, &[b"HEAD", b"GET"], true).unwrap();
    let bodies: Vec<&[u8]> = heard.answers.iter().map(|a| a.body.as_slice()).collect();
    assert_eq!((bodies, heard.rest), (vec![&b""[..], b"", b"hi"], 0));
    let cut = answers::read(&fine[..fine.len() - 1], &[b"HEAD", b"GET"], true).unwrap();
    assert_eq!((cut.answers.len(), cut.rest > 0), (2, true));
    for bad in [
        "HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 600 No\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nx\r\n",
        "HTTP/1.1 400 No\r\nConnection: close\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    ] {
        assert!(answers::read(bad.as_bytes(), &[], true).is_err(), "{bad:?}");
    }
}
