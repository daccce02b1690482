//! Row H2-18 of the battery: who has opened a connection to one host asks for another on it. What another certificate, or
//! another certificate of the client, would have been demanded for is not given (RFC 9110 section 7.4): 421, over both
//! protocols, and the connection goes on.

use std::process::Command;

use selvedge_tests::hostile::{Role, held};
use selvedge_tests::{Selvedge, TestCa, Upstream};

/// A gateway with certificates for `a.example` and `both.example`, for `*.wild.example`, and for `b.example`; who asks
/// `b.example` for `/partner` must have shown a certificate.
fn gateway(ca: &TestCa, app: &Upstream) -> Selvedge {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("ca.pem"), ca.bundle()).unwrap();
    let _ = ca.server(&["partner.example"]).write(dir.path(), "client");
    let pairs: Vec<String> = [
        ("a", &["a.example", "both.example"][..]),
        ("wild", &["*.wild.example"]),
        ("b", &["b.example"]),
    ]
    .map(|(name, names)| {
        let (certificate, key) = ca.server(names).write(dir.path(), name);
        let (certificate, key) = (certificate.display(), key.display());
        format!("{{ certificate: {certificate}, key: {key} }}")
    })
    .into();
    let config = format!(
        "listeners:
  - name: web
    bind: 127.0.0.1
    port: 0
    protocol: HTTPS
    tls: {{ certificates: [{}], clientCertificates: {{ ca: $DIR/ca.pem, mode: optional }} }}
policies: {{ partner: {{ clientCertificate: {{}} }} }}
routes:
  - rules:
      - {{ matches: [{{ path: /partner }}], policies: [partner], backendRefs: [{{ service: app }}] }}
      - {{ backendRefs: [{{ service: app }}] }}
services: {{ app: {{ endpoints: [\"{}\"] }} }}",
        pairs.join(", "),
        app.address()
    );
    Selvedge::start_in(dir, "gateway", &config, 1)
}

/// Two requests by curl, one behind the other on one connection that was opened to `server_name`: for `host`, then for
/// `server_name`. Gives the statuses, and how many connections it took.
fn ask(proxy: &Selvedge, server_name: &str, host: &str, path: &str, more: &[&str]) -> String {
    let port = proxy.address("web").port();
    let url = |path: &str| format!("https://{server_name}:{port}{path}");
    let said = "%{http_code} over %{num_connects}, ";
    let run = Command::new("curl")
        .args(["--silent", "--show-error", "--max-time", "20"])
        .args(["--output", "/dev/null", "--write-out", said])
        .args(["--resolve", &format!("{server_name}:{port}:127.0.0.1")])
        .arg("--cacert")
        .arg(proxy.dir().join("ca.pem"))
        .args(["--header", &format!("Host: {host}")])
        .args(more)
        .arg(url(path))
        .arg("--next")
        .args(["--silent", "--show-error", "--max-time", "20"])
        .args(["--output", "/dev/null", "--write-out", said])
        .arg("--cacert")
        .arg(proxy.dir().join("ca.pem"))
        .args(more)
        .arg(url("/own"))
        .output()
        .unwrap();
    assert!(
        run.stderr.is_empty(),
        "{:?}",
        String::from_utf8_lossy(&run.stderr)
    );
    String::from_utf8_lossy(&run.stdout).into_owned()
}

const SERVED: &str = "200 over 1, 200 over 0, ";
const MISDIRECTED: &str = "421 over 1, 200 over 0, ";
const NOBODY: &str = "401 over 1, 200 over 0, ";

#[test]
fn h2_18_another_host_than_the_connection_is_for() {
    let ca = TestCa::new();
    let app = Upstream::answering("ok");
    let proxy = gateway(&ca, &app);
    let cases = [
        ("a.example", "a.example", "/", SERVED),
        ("a.example", "A.EXAMPLE:443", "/", SERVED),
        ("a.example", "both.example", "/", SERVED),
        ("a.example", "b.example", "/hostile", MISDIRECTED),
        ("a.example", "B.Example:443", "/hostile", MISDIRECTED),
        ("a.example", "x.wild.example", "/hostile", MISDIRECTED),
        ("a.example", "nobody.example", "/hostile", MISDIRECTED),
        ("a.example", "a.example.b.example", "/hostile", MISDIRECTED),
        ("a.example", "127.0.0.1", "/hostile", MISDIRECTED),
        ("x.wild.example", "y.wild.example", "/", SERVED),
        ("x.wild.example", "wild.example", "/hostile", MISDIRECTED),
        (
            "x.wild.example",
            "y.x.wild.example",
            "/hostile",
            MISDIRECTED,
        ),
        ("x.wild.example", "a.example", "/hostile", MISDIRECTED),
        // Nothing is believed of who has shown nothing, whatever the connection was opened for.
        ("b.example", "b.example", "/partner", NOBODY),
        ("a.example", "both.example", "/partner", NOBODY),
        ("a.example", "b.example", "/partner", MISDIRECTED),
    ];
    for protocol in ["--http1.1", "--http2"] {
        for (server_name, host, path, want) in cases {
            let got = ask(&proxy, server_name, host, path, &[protocol]);
            assert_eq!(
                got, want,
                "{host}{path} on a connection to {server_name}, {protocol}"
            );
            held("H2-18", Role::Gateway, 1);
        }
        // Who was let in for one host is not let in for the other on that connection.
        let shown =
            ["client.pem", "client.key"].map(|name| proxy.dir().join(name).display().to_string());
        let more = [protocol, "--cert", &shown[0], "--key", &shown[1]];
        assert_eq!(
            ask(&proxy, "a.example", "both.example", "/partner", &more),
            SERVED
        );
        assert_eq!(
            ask(&proxy, "a.example", "b.example", "/partner", &more),
            MISDIRECTED
        );
        held("H2-18", Role::Gateway, 2);
    }
    assert!(!app.all().contains("hostile"));
    let refused = proxy.metric("selvedge_request_failures_total", &["\"DX\""]);
    let wanted = 2 * (1 + cases.iter().filter(|case| case.3 == MISDIRECTED).count());
    assert!(
        (refused - wanted as f64).abs() < 0.5,
        "{refused} instead of {wanted}"
    );
}
