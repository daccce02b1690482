//! Who may do what, from outside (row JW-11 of the battery): what denies is never dodged, what
//! allows is never stretched.

use selvedge_tests::http2::{Http2, Outcome, headers, request};
use selvedge_tests::process::gateway;
use selvedge_tests::{Raw, Selvedge, Upstream};

fn guarded(upstream: &Upstream, policies: &str, names: &str) -> Selvedge {
    gateway(&format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0 }}]
routes: [{{ rules: [{{ policies: [{names}], backendRefs: [{{ service: app }}] }}] }}]
services: {{ app: {{ endpoints: [\"{}\"] }} }}
policies:
{policies}",
        upstream.address()
    ))
}

fn status(proxy: &Selvedge, head: &[u8]) -> u16 {
    let mut client = Raw::connect(proxy.address("web"));
    client.send([head, b"Connection: close\r\n\r\n"].concat());
    client.reply().status
}

/// Denied: the role `admin` from outside, everything below `/internal`, debugging agents, PURGE.
const DENY: &str = r"
  never:
    deny:
      - { headers: [{ name: X-Role, value: admin }] }
      - { headers: [{ name: X-Tool, type: RegularExpression, value: '(?-u)^(?i:debug)|\xff' }] }
      - { paths: [/internal] }
      - { methods: [PURGE] }
      - { headers: [{ name: X-Tenant, type: Absent }] }
";

#[test]
fn jw_11_deny_is_never_dodged() {
    let upstream = Upstream::answering("ok");
    let proxy = guarded(&upstream, DENY, "never");
    let tenant = "X-Tenant: a\r\n";
    let with = |line: &str, fields: &str| {
        format!("{line} HTTP/1.1\r\nHost: shop\r\n{tenant}{fields}").into_bytes()
    };
    let denied: Vec<Vec<u8>> = [
        // Repeated, listed, spaced, in other cases of the name, with underscores.
        "X-Role: admin\r\n",
        "x-role: admin\r\n",
        "X-ROLE:admin   \r\n",
        "X-Role: user\r\nX-Role: admin\r\n",
        "X-Role: admin\r\nX-Role: user\r\n",
        "X-Role: user, admin\r\n",
        "X-Role: user,admin ,x\r\n",
        "X_Role: admin\r\n",
        "X-Role: \r\nX-Role: admin\r\n",
        "X-Tool: Debugger\r\n",
        "X-Tool: x\r\nX-Tool: debug\r\n",
    ]
    .iter()
    .map(|fields| with("GET /", fields))
    .chain([
        // Paths in other spellings of the same.
        with("GET /internal", ""),
        with("GET /internal/", ""),
        with("GET /internal;v=1", ""),
        with("GET /;a/internal", ""),
        with("GET /;/internal;x/y", ""),
        with("GET /internal;v=1/x", ""),
        with("GET /a/../internal/x", ""),
        with("GET /./internal", ""),
        with("GET /%69nternal/x", ""),
        with("GET http://shop/internal", ""),
        with("PURGE /", ""),
        [&with("GET /", "")[..], b"X-Tool: a\xffb\r\n"].concat(),
        b"GET / HTTP/1.1\r\nHost: shop\r\n".to_vec(),
        b"GET / HTTP/1.1\r\nHost: shop\r\nX-Tenant-: a\r\n".to_vec(),
    ])
    .collect();
    for head in &denied {
        let got = status(&proxy, head);
        assert_eq!(got, 403, "{:?}", String::from_utf8_lossy(head));
    }
    assert!(upstream.seen().is_empty(), "{}", upstream.all());
    for (line, fields) in [
        ("GET /", ""),
        ("GET /", "X-Role: user\r\n"),
        ("GET /", "X-Role: administrator\r\n"),
        ("GET /", "X-Role:\r\n"),
        ("GET /internals", ""),
        ("GET /a/internal", ""),
        ("GET /", "X-Tool: a debugger\r\n"),
    ] {
        assert_eq!(status(&proxy, &with(line, fields)), 200, "{line} {fields}");
    }
    // The same over HTTP/2.
    let mut client = Http2::connect(proxy.address("web"), &[]);
    for (stream, fields, want) in [
        (
            1,
            vec![("x-tenant", "a"), ("x-role", "user"), ("x-role", "admin")],
            403,
        ),
        (3, vec![("x-tenant", "a"), ("x-role", "user")], 200),
        (5, vec![("x-role", "user")], 403),
    ] {
        client.send(headers(stream, &request("GET", "/", &fields), true));
        let outcome = client.outcome(stream);
        assert!(
            matches!(outcome, Outcome::Answer(status, _) if status == want),
            "{outcome:?}"
        );
    }
}

#[test]
fn jw_11_allow_is_never_stretched() {
    let upstream = Upstream::answering("ok");
    let proxy = guarded(
        &upstream,
        r"
  only:
    allow:
      - { methods: [GET], paths: [/public] }
      - { headers: [{ name: X-Role, value: admin }] }
      - { when: 'request.headers[''x-n''] == ''7'' && request.method == ''GET''' }
      - { addresses: [10.0.0.0/8] }
",
        "only",
    );
    for (line, fields, want) in [
        ("GET /public/a", "", 200),
        ("GET /public;x=1", "", 200),
        ("POST /public/a", "Content-Length: 0\r\n", 403),
        ("get /public/a", "", 403),
        ("GET /publicity", "", 403),
        ("GET /public/../private", "", 403),
        ("GET /Public", "", 403),
        ("GET /", "X-Role: admin\r\n", 200),
        ("GET /", "X-Role: user\r\nX-Role: admin\r\n", 403),
        ("GET /", "X-Role: admin, user\r\n", 403),
        ("GET /", "X-Role: Admin\r\n", 403),
        ("GET /", "X-N: 7\r\n", 200),
        ("GET /", "X-N: 7\r\nX-N: 7\r\n", 403),
        ("GET /", "X-N: 8\r\n", 403),
        ("GET /", "X-Forwarded-For: 10.0.0.1\r\n", 403),
        ("GET /", "", 403),
    ] {
        let head = format!("{line} HTTP/1.1\r\nHost: shop\r\n{fields}");
        assert_eq!(status(&proxy, head.as_bytes()), want, "{line} {fields}");
    }
    proxy.wait_for_metric(
        "selvedge_request_failures_total",
        &["Denied", "\"RD\""],
        12.0,
    );
}

#[test]
fn a_listener_keeps_out_what_a_route_does_not_name() {
    let upstream = Upstream::answering("ok");
    let proxy = gateway(&format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0, policies: [never] }}]
policies:
  never: {{ deny: [{{ paths: [/internal] }}, {{ headers: [{{ name: X-Debug, type: Present }}] }}] }}
  some: {{ allow: [{{ methods: [GET] }}] }}
routes:
  - rules:
      - {{ policies: [some], backendRefs: [{{ service: app }}] }}
      - {{ matches: [{{ path: /old }}], filters: [{{ type: RequestRedirect, requestRedirect: {{ statusCode: 301, path: {{ type: ReplaceFullPath, replaceFullPath: /new }} }} }}] }}
services: {{ app: {{ endpoints: [\"{}\"] }} }}",
        upstream.address()
    ));
    for (line, fields, want) in [
        ("GET /", "", 200),
        ("DELETE /", "", 403),
        ("GET /internal", "", 403),
        ("GET /", "X-Debug: 1\r\n", 403),
        ("GET /old", "", 301),
        ("GET /old", "X-Debug: 1\r\n", 403),
    ] {
        let head = format!("{line} HTTP/1.1\r\nHost: shop\r\n{fields}");
        assert_eq!(status(&proxy, head.as_bytes()), want, "{line} {fields}");
    }
}
