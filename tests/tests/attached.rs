//! Where policies are named: header edits at listeners and routes, policies of services, and that of a
//! kind the nearest wins.

use std::process::Command;

use selvedge_tests::process::{binary, gateway, sidecar};
use selvedge_tests::{Raw, Reply, Selvedge, Upstream};

fn ok() -> Upstream {
    Upstream::replying("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-App: yes\r\n\r\nok")
}

fn ask(proxy: &Selvedge, listener: &str, host: &str, path: &str) -> Reply {
    let mut client = Raw::connect(proxy.address(listener));
    client.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    client.reply()
}

#[test]
fn header_edits_of_the_nearest_place_are_made() {
    let app = ok();
    let edits = |name: &str| {
        format!(
            "{name}: {{ headers: {{ request: {{ set: [{{ name: X-Place, value: {name} }}] }}, response: {{ set: [{{ name: X-Place, value: {name} }}], remove: [X-App] }} }} }}"
        )
    };
    let proxy = gateway(&format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0, policies: [listener] }}]
policies:
  {}
  {}
  {}
  {}
  none: {{ deny: [{{}}] }}
routes:
  - hostnames: [plain.example]
    rules: [{{ backendRefs: [{{ service: app }}] }}]
  - hostnames: [route.example]
    policies: [route]
    rules:
      - {{ matches: [{{ path: /rule }}], policies: [rule], backendRefs: [{{ service: app }}] }}
      - {{ matches: [{{ path: /service }}], policies: [rule], backendRefs: [{{ service: own }}] }}
      - {{ matches: [{{ path: /denied }}], policies: [none], backendRefs: [{{ service: app }}] }}
      - matches: [{{ path: /filter }}]
        filters: [{{ type: RequestHeaderModifier, requestHeaderModifier: {{ add: [{{ name: X-Filter, value: too }}] }} }}]
        backendRefs: [{{ service: app }}]
      - {{ backendRefs: [{{ service: app }}] }}
services:
  app: {{ endpoints: [\"{}\"] }}
  own: {{ endpoints: [\"{}\"], policies: [service] }}",
        edits("listener"),
        edits("route"),
        edits("rule"),
        edits("service"),
        app.address(),
        app.address()
    ));
    for (host, path, place) in [
        ("plain.example", "/a", "listener"),
        ("route.example", "/b", "route"),
        ("route.example", "/rule", "rule"),
        ("route.example", "/service", "service"),
        ("route.example", "/filter", "route"),
    ] {
        let reply = ask(&proxy, "web", host, path);
        assert_eq!(
            (reply.status, reply.header("x-place")),
            (200, Some(place)),
            "{host}{path}"
        );
        assert_eq!(reply.header("x-app"), None);
        let got = app.all();
        let request = &got[got.find(&format!("GET {path} ")).unwrap()..];
        let request = &request[..request.find("\r\n\r\n").unwrap()];
        assert!(request.contains(&format!("X-Place: {place}")), "{request}");
        assert_eq!(request.matches("X-Place").count(), 1, "{request}");
        assert_eq!(
            request.contains("X-Filter: too"),
            path == "/filter",
            "{request}"
        );
    }
    // What the gateway says itself is not the application's response.
    let reply = ask(&proxy, "web", "route.example", "/denied");
    assert_eq!((reply.status, reply.header("x-place")), (403, None));
}

#[test]
fn a_service_brings_its_policies_wherever_it_is_called() {
    let app = ok();
    let proxy = sidecar(&format!(
        "outbound: {{ bind: \"127.0.0.1:0\" }}
policies:
  read: {{ allow: [{{ methods: [GET], paths: [/open] }}] }}
routes: [{{ hostnames: [shop.example], rules: [{{ backendRefs: [{{ service: app }}] }}] }}]
services: {{ app: {{ endpoints: [\"{}\"], policies: [read] }} }}",
        app.address()
    ));
    for host in ["app", "app.localhost", "shop.example"] {
        assert_eq!(ask(&proxy, "outbound", host, "/open").status, 200);
        assert_eq!(ask(&proxy, "outbound", host, "/closed").status, 403);
    }
}

#[test]
fn check_names_services_whose_policies_cannot_hold() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.yaml");
    let text = "listeners: [{ name: web, port: 8080 }]
policies:
  few: { rateLimit: { rate: 1/s } }
routes:
  - rules:
      - { matches: [{ path: /a }], backendRefs: [{ service: one }, { service: two }] }
      - { matches: [{ path: /b }], aggregate: { calls: { x: { service: one, path: / } } } }
      - { backendRefs: [{ service: one }] }
services:
  one: { endpoints: [\"127.0.0.1:1\"], policies: [few] }
  two: { endpoints: [\"127.0.0.1:1\"], policies: [fex] }
";
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new(binary());
    let output = command.arg("check").arg(&file).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned()
        + &String::from_utf8_lossy(&output.stdout);
    for want in [
        "did you mean `few`?",
        "`one` and `two` have other policies",
        "the policies of `one` are for requests that are forwarded",
    ] {
        assert_eq!(said.matches(want).count(), 1, "{want}\n{said}");
    }
}
