//! What an application is told about where a request came from, rows HD-01 and HD-04 of the
//! battery: by the connection, or by as many proxies before this one as are trusted.

use selvedge_tests::process::gateway;
use selvedge_tests::{Raw, Upstream};

/// Header fields that the application got, with these names.
fn told(hops: u8, sent: &str) -> Vec<(String, String)> {
    let upstream = Upstream::replying("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let proxy = gateway(&format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0, trustedHops: {hops} }}]
routes: [{{ rules: [{{ backendRefs: [{{ service: app }}] }}] }}]
services: {{ app: {{ endpoints: [\"{}\"] }} }}",
        upstream.address()
    ));
    let mut client = Raw::connect(proxy.address("web"));
    client.send(format!(
        "GET / HTTP/1.1\r\nHost: shop.example\r\n{sent}\r\n"
    ));
    assert_eq!(client.reply().status, 200, "{hops} {sent}");
    let got = upstream.all();
    let mut fields: Vec<(String, String)> = got
        .lines()
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim_end().to_owned()))
        .filter(|(name, _)| {
            name.starts_with("x-forwarded-") || name == "forwarded" || name == "x-real-ip"
        })
        .collect();
    fields.sort();
    fields
}

fn expect(host: &str, proto: &str, route: &str) -> Vec<(String, String)> {
    [
        ("x-forwarded-for", route),
        ("x-forwarded-host", host),
        ("x-forwarded-proto", proto),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec()
}

#[test]
fn hd_01_whose_word_counts() {
    let own = |route: &str| expect("shop.example", "http", route);
    let xff = |value: &str| format!("X-Forwarded-For: {value}\r\n");
    for (hops, sent, want) in [
        (0, String::new(), own("127.0.0.1")),
        (0, xff("1.1.1.1"), own("127.0.0.1")),
        (0, xff("1.1.1.1") + &xff("2.2.2.2"), own("127.0.0.1")),
        (
            0,
            "Forwarded: for=1.1.1.1;proto=https;host=evil\r\nX-Real-IP: 1.1.1.1\r\nX-Forwarded-Port: 1\r\n".into(),
            own("127.0.0.1"),
        ),
        (
            0,
            "X-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\nX_Forwarded_For: 1.1.1.1\r\n".into(),
            own("127.0.0.1"),
        ),
        (1, String::new(), own("127.0.0.1")),
        (1, xff("1.1.1.1"), own("1.1.1.1, 127.0.0.1")),
        (1, xff("evil, 6.6.6.6, 1.1.1.1"), own("1.1.1.1, 127.0.0.1")),
        (1, xff("6.6.6.6") + &xff("1.1.1.1"), own("1.1.1.1, 127.0.0.1")),
        (1, xff("2001:DB8::1"), own("2001:db8::1, 127.0.0.1")),
        (1, xff("[2001:db8::1]:99"), own("2001:db8::1, 127.0.0.1")),
        (1, xff("::ffff:1.2.3.4"), own("1.2.3.4, 127.0.0.1")),
        (1, xff("1.1.1.1:4711"), own("1.1.1.1, 127.0.0.1")),
        (1, xff("6.6.6.6, unknown"), own("127.0.0.1")),
        (1, xff("6.6.6.6,"), own("127.0.0.1")),
        (1, xff("<script>"), own("127.0.0.1")),
        (2, xff("1.1.1.1, 2.2.2.2"), own("1.1.1.1, 2.2.2.2, 127.0.0.1")),
        (2, xff("6.6.6.6, 1.1.1.1, 2.2.2.2"), own("1.1.1.1, 2.2.2.2, 127.0.0.1")),
        (2, xff("2.2.2.2"), own("2.2.2.2, 127.0.0.1")),
        (2, xff("junk, 2.2.2.2"), own("2.2.2.2, 127.0.0.1")),
        (2, xff("2001:db8::1, ::1"), own("2001:db8::1, ::1, 127.0.0.1")),
        (
            2,
            xff("1.1.1.1, 2.2.2.2") + "X-Forwarded-Proto: https\r\nX-Forwarded-Host: Www.Shop.example\r\n",
            expect("www.shop.example", "https", "1.1.1.1, 2.2.2.2, 127.0.0.1"),
        ),
        (
            1,
            xff("1.1.1.1") + "X-Forwarded-Proto: javascript\r\nX-Forwarded-Host: a b\r\n",
            own("1.1.1.1, 127.0.0.1"),
        ),
        (
            1,
            xff("1.1.1.1") + "X-Forwarded-Proto: https\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: a\r\nX-Forwarded-Host: b\r\n",
            own("1.1.1.1, 127.0.0.1"),
        ),
        (
            1,
            xff("1.1.1.1") + "Forwarded: for=6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\nX-Forwarded-Port: 1\r\n",
            own("1.1.1.1, 127.0.0.1"),
        ),
    ] {
        assert_eq!(told(hops, &sent), want, "{hops} trusted, {sent:?}");
    }
}

/// What the application got of this request, word for word.
fn got(sent: &str) -> String {
    let upstream = Upstream::replying("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let proxy = gateway(&format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0 }}]
routes: [{{ rules: [{{ backendRefs: [{{ service: app }}] }}] }}]
services: {{ app: {{ endpoints: [\"{}\"] }} }}",
        upstream.address()
    ));
    let mut client = Raw::connect(proxy.address("web"));
    client.send(sent);
    let _ = client.reply();
    upstream.all()
}

#[test]
fn hd_02_nobody_says_who_he_is_by_himself() {
    let forged = "By=spiffe://d/a;URI=spiffe://d/ns/root/sa/root";
    for (id, fields) in [
        ("plain", format!("X-Forwarded-Client-Cert: {forged}\r\n")),
        ("capitals", format!("X-FORWARDED-CLIENT-CERT: {forged}\r\n")),
        (
            "twice",
            format!("X-Forwarded-Client-Cert: a\r\nx-forwarded-client-cert: {forged}\r\n"),
        ),
        (
            "underscores",
            format!("X_Forwarded_Client_Cert: {forged}\r\n"),
        ),
        (
            "one underscore",
            format!("X-Forwarded_Client-Cert: {forged}\r\n"),
        ),
        (
            "nominated",
            format!("Connection: X-Forwarded-Client-Cert\r\nX-Forwarded-Client-Cert: {forged}\r\n"),
        ),
        (
            "real IP",
            "X-Real-IP: 6.6.6.6 root\r\nX_Real_IP: 6.6.6.6 root\r\n".to_owned(),
        ),
        (
            "attempt",
            "X-Selvedge-Attempt: root\r\nX_Selvedge_Attempt: root\r\n".to_owned(),
        ),
        ("httpoxy", "Proxy: http://root\r\n".to_owned()),
    ] {
        let got = got(&format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
        assert!(got.starts_with("GET / HTTP/1.1\r\n"), "{id}: {got}");
        assert!(!got.contains("root"), "{id}: {got}");
    }
    let trailer = format!(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-Forwarded-Client-Cert\r\n\r\n1\r\na\r\n0\r\nX-Forwarded-Client-Cert: {forged}\r\n\r\n"
    );
    let got = got(&trailer);
    assert!(!got.contains("root"), "in a trailer: {got}");
}

#[test]
fn hd_05_request_ids_and_traces_are_bounded_or_made_anew() {
    let long = "a".repeat(129);
    for (id, fields, kept) in [
        (
            "an id",
            "X-Request-Id: mine-1\r\n".to_owned(),
            "X-Request-Id: mine-1\r\n",
        ),
        ("none", String::new(), ""),
        ("too long", format!("X-Request-Id: {long}\r\n"), ""),
    ] {
        let got = got(&format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
        let told: Vec<&str> = got
            .lines()
            .filter(|l| l.starts_with("X-Request-Id: "))
            .collect();
        assert_eq!(told.len(), 1, "{id}: {got}");
        assert!(got.contains(kept) && !got.contains(&long), "{id}: {got}");
        assert!(told[0].len() > "X-Request-Id: ".len(), "{id}: {got}");
    }
}
