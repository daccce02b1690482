//! What connections of HTTP/2 are made of, for the oracle: fields and bodies, right and wrong.

/// Methods, the usual ones twice.
pub(super) const METHODS: [&str; 8] = [
    "GET", "GET", "POST", "POST", "PUT", "HEAD", "DELETE", "x-own",
];

/// Behind the path that tells whose the request is.
pub(super) const ENDS: [&str; 8] = [
    "",
    "",
    "",
    "?a=%2F..&b=c",
    "/./b//../%7e",
    ";v=1",
    "?",
    "/%c3%a9",
];

/// Fields that a strict reader takes.
pub(super) const FINE: [(&str, &str); 24] = [
    ("x-own", "1"),
    ("x-own", ""),
    ("x-own", "1\t2, \u{e9}"),
    ("x-own", "GET / HTTP/1.1"),
    ("accept", "*/*"),
    ("accept-encoding", "gzip, deflate"),
    ("user-agent", "\"x\""),
    ("authorization", "c"),
    ("cookie", "a=b"),
    ("cookie", "c=d; e=f"),
    ("cookie", ""),
    ("te", "trailers"),
    ("trailer", "x-own"),
    ("expect", "100-continue"),
    ("host", "a.example:81"),
    ("content-type", "text/plain"),
    ("http2-settings", "AAMAAABk"),
    ("proxy-authorization", "c"),
    ("x-forwarded-for", "9.9.9.9"),
    ("x_forwarded_for", "9.9.9.9"),
    ("forwarded", "for=x"),
    ("x-real-ip", "9.9.9.9"),
    ("via", "2 x"),
    ("range", "bytes=0-1"),
];

/// Fields that it does not, each wherever it stands.
pub(super) const ODD: [(&str, &str); 42] = [
    (":method", "GET"),
    (":path", "/smuggled"),
    (":path", ""),
    (":scheme", "http"),
    (":authority", "b"),
    (":status", "200"),
    (":x", "1"),
    (":", "1"),
    ("connection", "close"),
    ("connection", "x-own"),
    ("keep-alive", "1"),
    ("proxy-connection", "close"),
    ("transfer-encoding", "chunked"),
    ("transfer-encoding", "identity"),
    ("upgrade", "h2c"),
    ("te", "gzip"),
    ("te", "trailers, chunked"),
    ("content-length", "0"),
    ("content-length", "5"),
    ("content-length", "+5"),
    ("content-length", "5, 5"),
    ("content-length", ""),
    ("content-length", "0x5"),
    ("content-length", "18446744073709551616"),
    ("content-length", "005"),
    ("host", "b"),
    ("host", ""),
    ("host", "a b"),
    ("X-Own", "1"),
    ("content-Length", "5"),
    ("x own", "1"),
    ("x-own:", "1"),
    ("", "1"),
    ("x\r\ny", "1"),
    ("x\0", "1"),
    ("x-own", "1\r\nSmuggled: 1"),
    (
        "x-own",
        "1\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    ("x-own", "1\0"),
    ("x-own", "1\n"),
    ("x-own", " 1"),
    ("x-own", "1\t"),
    ("cookie", "a\r\nb: c"),
];

/// Values of pseudo-fields that are none.
pub(super) const VALUES: [(&str, &str); 24] = [
    (":method", ""),
    (":method", "GE T"),
    (":method", "GET /smuggled HTTP/1.1\r\nX: "),
    (":method", "CONNECT"),
    (":method", "OPTIONS"),
    (":method", "TRACE"),
    (":scheme", ""),
    (":scheme", "ht tp"),
    (":scheme", "https"),
    (":path", ""),
    (":path", "*"),
    (":path", "smuggled"),
    (":path", "http://b/smuggled"),
    (":path", "/a b"),
    (":path", "/a HTTP/1.1\r\nX: y"),
    (":path", "/a\\b"),
    (":path", "/a%0"),
    (":path", "/\u{e9}"),
    (":path", "/../%2e%2e/a"),
    (":authority", ""),
    (":authority", "u@a"),
    (":authority", "a\r\nX: y"),
    (":authority", "a:99999"),
    (":authority", "[::1]:80"),
];

/// Bodies, of which most look like something else.
pub(super) const BODIES: [&[u8]; 6] = [
    b"",
    b"hello",
    b"0\r\n\r\n",
    b"0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
    b"5\r\nhello\r\n0\r\n\r\n",
    b"\0\0\0\x01\x05\0\0\0\x01",
];
