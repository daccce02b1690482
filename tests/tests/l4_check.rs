//! What `selvedge check` says of listeners that look into nothing, and of their routes.

use std::process::Command;

use selvedge_tests::process::binary;

fn said(text: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("gateway.yaml");
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new(binary());
    let output = command.arg("check").arg(&file).output().unwrap();
    let said = [&output.stderr[..], &output.stdout[..]].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(!output.status.success(), "{said}");
    said
}

/// Whether something is said of this key, with this remedy.
#[track_caller]
fn says(said: &str, key: &str, what: &str, remedy: &str) {
    let of_key = format!("= key: {key}\n");
    let found = said
        .split("error: ")
        .any(|one| one.starts_with(what) && one.contains(&of_key) && one.contains(remedy));
    assert!(found, "{key}: {what}: {remedy}\n{said}");
}

/// A configuration full of mistakes.
const WRONG: &str = "listeners:
  - { name: db, port: 5432, protocol: TCP, hostname: a.example, trustedHops: 1, policies: [p] }
  - { name: alone, port: 5433, protocol: TCP, tls: { certificates: [] } }
  - { name: web, port: 80 }
tcpRoutes:
  - { listeners: [dp, web], backendRefs: [{ service: postgers }] }
  - { listeners: [db], backendRefs: [{ service: postgres, weight: 0 }] }
  - { listeners: [db], backendRefs: [{ service: judged, weight: 1000001 }] }
  - { listeners: [db], backendRefs: [{ service: postgres }] }
  - { listeners: [], backendRefs: [] }
routes: [{ parentRefs: [{ name: db }], rules: [{ backendRefs: [{ service: postgres }] }] }]
policies: { p: { deny: [{ paths: [/a] }] } }
services:
  postgres: { endpoints: [\"127.0.0.1:5432\"] }
  judged: { endpoints: [\"127.0.0.1:5432\"], policies: [p] }
";

/// Key, what is said of it, and what is proposed.
const TOLD: &[(&str, &str, &str)] = &[
    (
        "listeners[0].hostname",
        "`hostname` on a listener for TCP",
        "remove it",
    ),
    (
        "listeners[0].trustedHops",
        "`trustedHops` on a listener for TCP",
        "proxyProtocol",
    ),
    (
        "listeners[0].policies",
        "`policies` on a listener for TCP",
        "remove them",
    ),
    ("listeners[1].tls", "`tls` on a listener for TCP", ""),
    (
        "listeners[1]",
        "a listener for TCP without a route",
        "tcpRoutes: [{ listeners: [alone]",
    ),
    (
        "tcpRoutes[0].listeners[0]",
        "there is no listener `dp`",
        "did you mean `db`?",
    ),
    (
        "tcpRoutes[0].listeners[1]",
        "`web` is a listener for HTTP, not for TCP",
        "`db`, `alone`",
    ),
    (
        "tcpRoutes[0].backendRefs[0].service",
        "there is no service `postgers`",
        "did you mean `postgres`?",
    ),
    (
        "tcpRoutes[1].backendRefs",
        "it leads nowhere",
        "with a weight",
    ),
    (
        "tcpRoutes[2].backendRefs[0].service",
        "`judged` has policies",
        "without policies",
    ),
    (
        "tcpRoutes[2].backendRefs[0].weight",
        "1000001 is out of range",
        "0 to 1000000",
    ),
    (
        "tcpRoutes[3].listeners",
        "`db` has a route already",
        "one route",
    ),
    (
        "tcpRoutes[4].listeners",
        "it is for no listener",
        "protocol: TCP",
    ),
    (
        "tcpRoutes[4].backendRefs",
        "it leads nowhere",
        "backendRefs",
    ),
    (
        "routes[0].parentRefs[0].name",
        "there is no listener `db`",
        "`web`",
    ),
];

#[test]
fn everything_that_contradicts_itself_is_told_at_once() {
    let said = said(WRONG);
    for (key, what, remedy) in TOLD {
        says(&said, key, what, remedy);
    }
}

/// The same for TLS.
const WRONG_TLS: &str = "listeners:
  - { name: bare, port: 1, protocol: TLS }
  - { name: both, port: 2, protocol: TLS, tls: { mode: Passthrough, minVersion: \"1.3\", certificates: [{ certificate: a, key: b }] } }
  - { name: web, port: 3, protocol: HTTPS, tls: { mode: Passthrough } }
  - { name: named, port: 4, protocol: TLS, hostname: a.example, tls: { mode: Passthrough } }
  - { name: empty, port: 5, protocol: TLS, tls: { mode: Terminate } }
tlsRoutes:
  - { listeners: [bare, empty, named], hostnames: [a.example, \"*.b.example\"], backendRefs: [{ service: app }] }
  - { listeners: [named], hostnames: [A.example, \"b.*.example\"], backendRefs: [{ service: app }] }
  - { listeners: [both], backendRefs: [{ service: app }] }
  - { listeners: [both, web], backendRefs: [{ service: app }] }
services: { app: { endpoints: [\"127.0.0.1:5432\"] } }
";

/// See [`TOLD`].
const TOLD_TLS: &[(&str, &str, &str)] = &[
    (
        "listeners[0]",
        "a listener for TLS needs `tls`",
        "mode: Passthrough",
    ),
    (
        "listeners[1].tls.certificates",
        "`certificates` where TLS passes through",
        "mode: Terminate",
    ),
    (
        "listeners[1].tls.minVersion",
        "`minVersion` where TLS passes through",
        "remove it",
    ),
    (
        "listeners[2].tls.mode",
        "a listener for HTTPS ends TLS",
        "protocol: TLS",
    ),
    (
        "listeners[3].hostname",
        "`hostname` on a listener for TLS",
        "remove it",
    ),
    ("listeners[4].tls.certificates", "no certificate", "acme"),
    (
        "tlsRoutes[1].hostnames[0]",
        "`named` has a route for a.example already",
        "one route",
    ),
    (
        "tlsRoutes[1].hostnames[1]",
        "`b.*.example` is not valid",
        "*.example.com",
    ),
    (
        "tlsRoutes[3].listeners",
        "`both` has a route already",
        "hostnames",
    ),
    (
        "tlsRoutes[3].listeners[1]",
        "`web` is a listener for HTTPS, not for TLS",
        "`bare`",
    ),
];

#[test]
fn so_it_is_for_tls() {
    let said = said(WRONG_TLS);
    for (key, what, remedy) in TOLD_TLS {
        says(&said, key, what, remedy);
    }
}

/// The same for UDP.
const WRONG_UDP: &str = "listeners:
  - { name: dns, bind: 127.0.0.1, port: 53, protocol: UDP, proxyProtocol: { from: [10.0.0.1] } }
  - { name: tcp, bind: 127.0.0.1, port: 53, protocol: TCP }
  - { name: any, port: 54, protocol: UDP, tls: { certificates: [] } }
udpRoutes:
  - { listeners: [dns], backendRefs: [{ service: app }], idleTimeout: 0s, maxDatagram: 64KiB }
  - { listeners: [tcp], backendRefs: [{ service: app }] }
tcpRoutes: [{ listeners: [tcp], backendRefs: [{ service: plain }] }]
services:
  app: { endpoints: [\"127.0.0.1:53\"], tls: { serverName: a.example } }
  plain: { endpoints: [\"127.0.0.1:53\"] }
";

/// See [`TOLD`].
const TOLD_UDP: &[(&str, &str, &str)] = &[
    (
        "listeners[0].proxyProtocol",
        "`proxyProtocol` on a listener for UDP",
        "remove it",
    ),
    (
        "listeners[2].tls",
        "`tls` on a listener for UDP",
        "remove it",
    ),
    (
        "listeners[2]",
        "a listener for UDP without a route",
        "udpRoutes",
    ),
    (
        "udpRoutes[0].idleTimeout",
        "sessions would never end",
        "more than 0s",
    ),
    (
        "udpRoutes[0].maxDatagram",
        "no datagram is as long",
        "1 to 65507",
    ),
    (
        "udpRoutes[0].backendRefs[0].service",
        "`app` has `tls`",
        "without",
    ),
    (
        "udpRoutes[1].listeners[0]",
        "`tcp` is a listener for TCP, not for UDP",
        "`dns`",
    ),
];

#[test]
fn so_it_is_for_udp() {
    let said = said(WRONG_UDP);
    for (key, what, remedy) in TOLD_UDP {
        says(&said, key, what, remedy);
    }
    // One port may be both.
    assert!(!said.contains("is used by two listeners"), "{said}");
}
