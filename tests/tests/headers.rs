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
