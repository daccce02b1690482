//! Changes of requests and responses, from outside.

use selvedge_tests::process::gateway;
use selvedge_tests::{Raw, Reply, Selvedge, Upstream};
use serde_json::{Value, json};

fn changing(upstream: &Upstream, transform: &str) -> Selvedge {
    gateway(&format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0 }}]
policies:
  other:
    transform:
{transform}
routes: [{{ rules: [{{ policies: [other], backendRefs: [{{ service: app }}] }}] }}]
services: {{ app: {{ endpoints: [\"{}\"] }} }}",
        upstream.address()
    ))
}

fn send(proxy: &Selvedge, line: &str, fields: &str, body: &str) -> Reply {
    let mut client = Raw::connect(proxy.address("web"));
    let length = body.len();
    client.send(format!(
        "{line} HTTP/1.1\r\nHost: shop\r\nContent-Length: {length}\r\n{fields}\r\n{body}"
    ));
    client
        .try_reply_to(line.split(' ').next().unwrap())
        .unwrap()
}

#[test]
fn paths_queries_and_headers() {
    let upstream = Upstream::answering("ok");
    let proxy = changing(
        &upstream,
        "      request:
        path: { regex: '^/users/([^/]+)/orders$', replacement: '/orders/of/$1' }
        query: { caller: '{{ request.header[\"x-who\"] | default(\"nobody\") }}', kept: '{{ request.query.a }}' }
        removeQuery: [token]
        headers: { X-Path: '{{ request.path }}', X-Method: 'was {{ request.method }}' }
        removeHeaders: [X-Who]
      response:
        headers: { X-Status: 'it was {{ status }}' }
        removeHeaders: [Content-Type]",
    );
    let reply = send(
        &proxy,
        "GET /users/a%20b/orders?a=1%262&token=s&to%6ben=s&b=x+y",
        "X-Who: a&b\r\n=c: d\r\n",
        "",
    );
    assert_eq!(reply.status, 400, "a field without a name is none");
    let reply = send(
        &proxy,
        "GET /users/a%20b/orders?a=1%262&token=s&to%6ben=s&b=x+y",
        "X-Who: a&b=c\r\n",
        "",
    );
    assert_eq!(
        (reply.status, reply.header("x-status")),
        (200, Some("it was 200"))
    );
    let seen = upstream.all();
    assert!(
        seen.contains("GET /orders/of/a%20b?a=1%262&b=x+y&caller=a%26b%3Dc&kept=1%262 HTTP/1.1"),
        "{seen}"
    );
    assert!(
        seen.contains("X-Path: /users/a%2520b/orders") && seen.contains("X-Method: was GET"),
        "{seen}"
    );
    assert!(!seen.contains("X-Who"), "{seen}");
    // A value that is missing is an error, not an empty one.
    assert_eq!(send(&proxy, "GET /users/1/orders", "", "").status, 400);
    // What would be no normal path is not sent.
    let proxy = changing(
        &upstream,
        "      request: { path: { regex: '^/a(.*)$', replacement: '/b/..$1' } }",
    );
    assert_eq!(send(&proxy, "GET /a/x", "", "").status, 400);
}

const BODIES: &str = "      request:
        body: { remove: [secret, items.*.cost], rename: { user.mail: email }, set: { source: web, who: '{{ body.user.name }}' }, largest: 2KiB }
      response:
        body: { remove: [internal, list.*.id], set: { seen: '{{ request.path }}', n: 1 }, largest: 2KiB }";

/// An application that answers with JSON of several kinds.
fn answering() -> Upstream {
    Upstream::scripted(|connection| {
        while let Some(request) = connection.request() {
            let text = String::from_utf8_lossy(&request);
            let body = if text.starts_with("GET /big") {
                format!("{{\"internal\":\"{}\"}}", "x".repeat(3000))
            } else if text.starts_with("GET /broken") {
                "{\"internal\":".to_owned()
            } else {
                "{\"internal\":1,\"list\":[{\"id\":1,\"x\":2}],\"keep\":true}".to_owned()
            };
            let kind = if text.starts_with("GET /text") {
                "text/plain"
            } else {
                "application/json"
            };
            let more = if text.starts_with("GET /packed") {
                "Content-Encoding: gzip\r\n"
            } else {
                ""
            };
            let length = body.len();
            let body = if text.starts_with("HEAD") {
                String::new()
            } else {
                body
            };
            connection.send(format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nETag: \"a\"\r\n{more}Content-Length: {length}\r\n\r\n{body}"));
        }
    })
}

#[test]
fn json_bodies_in_both_directions() {
    let upstream = answering();
    let proxy = changing(&upstream, BODIES);
    let sent = json!({ "secret": 1, "items": [{ "cost": 1, "n": 2 }], "user": { "mail": "a@b", "name": "\"Bo\"" } });
    let json_type =
        "Content-Type: application/json\r\nAccept-Encoding: gzip\r\nRange: bytes=0-1\r\n";
    let reply = send(&proxy, "POST /p", json_type, &sent.to_string());
    assert_eq!(reply.status, 200);
    let got: Value = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!(
        got,
        json!({ "list": [{ "x": 2 }], "keep": true, "seen": "/p", "n": 1 })
    );
    assert_eq!(reply.header("etag"), Some("W/\"a\""));
    let seen = upstream.all();
    let body: Value = serde_json::from_str(seen.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    assert_eq!(
        body,
        json!({ "items": [{ "n": 2 }], "user": { "email": "a@b", "name": "\"Bo\"" }, "source": "web", "who": "\"Bo\"" })
    );
    assert!(
        !seen.contains("gzip") && !seen.contains("bytes=0-1"),
        "{seen}"
    );
}

#[test]
fn bodies_that_cannot_be_changed_are_refused() {
    let upstream = answering();
    let proxy = changing(&upstream, BODIES);
    for (line, fields, body, want) in [
        (
            "POST /p",
            "Content-Type: application/json\r\n",
            "{\"half\":",
            400,
        ),
        (
            "POST /p",
            "Content-Type: application/json\r\nContent-Encoding: gzip\r\n",
            "{}",
            400,
        ),
        (
            "POST /p",
            "Content-Type: application/problem+json; charset=utf-8\r\n",
            "{\"user\":{\"name\":1}}",
            200,
        ),
        ("POST /p", "Content-Type: application/json\r\n", "{}", 400),
        ("POST /p", "Content-Type: text/plain\r\n", "{\"half\":", 200),
        ("GET /big", "", "", 502),
        ("GET /broken", "", "", 502),
        ("GET /packed", "", "", 502),
        ("GET /text", "", "", 200),
    ] {
        let reply = send(&proxy, line, fields, body);
        assert_eq!(reply.status, want, "{line} {fields} {body}");
        assert!(line != "GET /big" || !reply.text().contains("xxx"));
    }
    let long = format!("{{\"a\":\"{}\"}}", "x".repeat(3000));
    assert_eq!(
        send(
            &proxy,
            "POST /p",
            "Content-Type: application/json\r\n",
            &long
        )
        .status,
        413
    );
    let head = send(&proxy, "HEAD /p", "", "");
    assert_eq!((head.status, head.header("content-length")), (200, None));
}

#[test]
fn a_body_made_anew() {
    let upstream = Upstream::replying(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 24\r\n\r\n{\"a\":[1,2,3],\"b\":\"x\\\"y\"}",
    );
    let proxy = changing(
        &upstream,
        "      response: { body: { template: '{ \"all\": {{ body.a | length }}, \"last\": {{ body.a[2] }}, \"b\": {{ body.b }} }' } }",
    );
    let reply = send(&proxy, "GET /", "", "");
    let got: Value = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!(got, json!({ "all": 3, "last": 3, "b": "x\"y" }));
}

#[test]
fn nothing_dodges_a_removal() {
    let upstream = Upstream::replying(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Type: application/json\r\nX_Internal: 1\r\nContent-Length: 14\r\n\r\n{\"internal\":1}",
    );
    let proxy = changing(
        &upstream,
        "      request:
        headers: { X-Plan: free }
        removeHeaders: [X-Debug]
        body: { remove: [role] }",
    );
    let sent = "{\"role\":\"root\"}";
    for (kind, want) in [
        ("Content-Type: application/json\r\n", 200),
        ("Content-Type: text/json\r\n", 200),
        ("Content-Type: Application/JSON;charset=utf-8\r\n", 200),
        ("Content-Type: application/json,\r\n", 400),
        ("Content-Type: application/json, text/plain\r\n", 400),
        ("Content-Type: \"application/json\"\r\n", 400),
        (
            "Content-Type: text/plain\r\nContent-Type: application/json\r\n",
            400,
        ),
    ] {
        let fields = format!("{kind}X_Debug: 1\r\nX_Plan: gold\r\n");
        assert_eq!(send(&proxy, "POST /", &fields, sent).status, want, "{kind}");
    }
    let seen = upstream.all();
    assert!(
        !seen.contains("root") && !seen.contains("gold") && !seen.contains("X_Debug"),
        "{seen}"
    );
    assert!(seen.contains("Content-Length: 2\r\n"), "{seen}");
    assert!(
        !seen.contains("Content-Length: 2\r\nContent-Length"),
        "{seen}"
    );
    // An empty body is no document, and a dense one is too much.
    let empty = send(&proxy, "POST /", "Content-Type: application/json\r\n", "");
    assert_eq!(empty.status, 200);
    let dense = format!("[{}0]", "0,".repeat(120_000));
    let dense = send(
        &proxy,
        "POST /",
        "Content-Type: application/json\r\n",
        &dense,
    );
    assert_eq!(dense.status, 413);
    let proxy = changing(
        &upstream,
        "      response: { removeHeaders: [X-Internal], body: { remove: [internal] } }",
    );
    let reply = send(&proxy, "GET /", "", "");
    assert_eq!(
        (reply.status, reply.text().contains("internal")),
        (502, false)
    );
}

#[test]
fn expressions_make_values() {
    let upstream = answering();
    let proxy = changing(
        &upstream,
        "      request:
        query: { size: 'cel: size(request.path) > 5 ? \"long\" : \"short\"' }
        headers: { X-Who: 'cel: \"x-who\" in request.header ? request.header[\"x-who\"] : \"nobody\"' }
        body: { set: { total: 'cel: body.a + body.b', ids: 'cel: body.items.map(i, i.id)' } }",
    );
    let json = "Content-Type: application/json\r\n";
    let fields = format!("{json}X-Who: a\u{1}b\r\n");
    assert_eq!(send(&proxy, "POST /", &fields, "{}").status, 400);
    let fields = format!("{json}X-Who: a%b\r\n");
    let body = "{\"a\":1,\"b\":2,\"items\":[{\"id\":\"x\"},{\"id\":\"y\"}]}";
    assert_eq!(send(&proxy, "POST /longer", &fields, body).status, 200);
    let seen = upstream.all();
    assert!(seen.contains("POST /longer?size=long "), "{seen}");
    assert!(seen.contains("X-Who: a%25b\r\n"), "{seen}");
    let (_, sent) = seen.rsplit_once("\r\n\r\n").unwrap();
    let sent: Value = serde_json::from_str(sent).unwrap();
    assert_eq!(
        (&sent["total"], &sent["ids"]),
        (&json!(3), &json!(["x", "y"]))
    );
    // What is missing is an error.
    assert_eq!(send(&proxy, "POST /", json, "{\"a\":1}").status, 400);
    assert_eq!(
        send(&proxy, "POST /", json, "{\"a\":1,\"b\":null}").status,
        400
    );
}
