//! The admin port, row AD-01 of the battery: it answers to this machine, to no page of another
//! origin, with no secret, and the port for the outside can do nothing.

use std::net::TcpListener;
use std::process::Command;

use selvedge_tests::process::{binary, gateway};
use selvedge_tests::raw::Reply;
use selvedge_tests::{Raw, Selvedge, TestCa};

fn proxy(more: &str) -> Selvedge {
    gateway(&format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0 }}]\n{more}"
    ))
}

fn ask(proxy: &Selvedge, port: &str, line: &str, fields: &str) -> Reply {
    let mut client = Raw::connect(proxy.address(port));
    client.send(format!("{line} HTTP/1.1\r\n{fields}\r\n"));
    client.reply()
}

#[test]
fn ad_01_only_this_machine_is_answered() {
    let proxy = proxy("");
    for host in ["localhost", "127.0.0.1:15000", "LOCALHOST:1", "[::1]"] {
        let reply = ask(&proxy, "admin", "GET /config", &format!("Host: {host}\r\n"));
        assert_eq!(reply.status, 200, "{host}");
    }
    let foreign = [
        ("rebinding", "Host: evil.example\r\n"),
        ("a pod's address", "Host: 10.1.2.3:15000\r\n"),
        ("localhost as a label", "Host: localhost.evil.example\r\n"),
        (
            "a name with it in front",
            "Host: 127.0.0.1.evil.example\r\n",
        ),
        ("user part", "Host: localhost@evil.example\r\n"),
        ("empty", "Host: \r\n"),
        (
            "another origin",
            "Host: localhost\r\nOrigin: http://evil.example\r\n",
        ),
        ("no origin", "Host: localhost\r\nOrigin: null\r\n"),
        (
            "its own origin, even",
            "Host: localhost\r\nOrigin: http://localhost\r\n",
        ),
        (
            "cross-site",
            "Host: localhost\r\nSec-Fetch-Site: cross-site\r\n",
        ),
        (
            "same-site",
            "Host: localhost\r\nSec-Fetch-Site: same-site\r\n",
        ),
    ];
    for (id, fields) in foreign {
        for line in [
            "GET /config",
            "GET /metrics",
            "POST /drain",
            "POST /log?level=trace",
        ] {
            let fields = format!("{fields}Content-Length: 0\r\n");
            let reply = ask(&proxy, "admin", line, &fields);
            assert!(
                matches!(reply.status, 400 | 403),
                "{id}: {line}: {}",
                reply.status
            );
        }
    }
    // None of it has ended the process.
    assert_eq!(
        ask(&proxy, "health", "GET /ready", "Host: x\r\n").status,
        200
    );
}

#[test]
fn ad_01_the_port_for_the_outside_can_do_nothing() {
    let proxy = proxy("");
    for path in ["/metrics", "/livez", "/ready"] {
        let reply = ask(&proxy, "health", &format!("GET {path}"), "Host: pod\r\n");
        assert_eq!(reply.status, 200, "{path}");
    }
    for line in [
        "GET /config",
        "GET /endpoints",
        "GET /certificates",
        "POST /drain",
        "POST /reload",
        "POST /log?level=trace",
        "GET /debug/pprof",
        "GET /../config",
    ] {
        let fields = "Host: localhost\r\nContent-Length: 0\r\n";
        assert_eq!(ask(&proxy, "health", line, fields).status, 404, "{line}");
    }
    // By GET nothing is changed.
    for path in ["/drain", "/reload", "/log?level=trace"] {
        let reply = ask(
            &proxy,
            "admin",
            &format!("GET {path}"),
            "Host: localhost\r\n",
        );
        assert_eq!(reply.status, 405, "{path}");
    }
}

#[test]
fn ad_01_a_dump_names_secrets_and_shows_none() {
    let ca = TestCa::new();
    let dir = tempfile::tempdir().unwrap();
    let leaf = ca.server(&["a.example"]);
    let (certificate, key) = leaf.write(dir.path(), "a");
    let keys = dir.path().join("keys.json");
    let made = Command::new(binary())
        .args(["apikey", "new", "--name", "ann", "--file"])
        .arg(&keys)
        .output()
        .unwrap();
    let api_key = String::from_utf8(made.stdout).unwrap();
    let proxy = gateway(&format!(
        "listeners: [{{ name: web, bind: 127.0.0.1, port: 0, protocol: HTTPS, tls: {{ certificates: [{{ certificate: {}, key: {} }}] }} }}]
policies: {{ keys: {{ apiKey: {{ file: {} }} }} }}",
        certificate.display(),
        key.display(),
        keys.display()
    ));
    let dump = ask(&proxy, "admin", "GET /config", "Host: localhost\r\n").text();
    let named = key.to_str().unwrap();
    assert!(dump.contains(named) && dump.contains("keys.json"), "{dump}");
    let store = std::fs::read_to_string(&keys).unwrap();
    let store: serde_json::Value = serde_json::from_str(&store).unwrap();
    let secrets = [
        "PRIVATE KEY",
        api_key.trim(),
        store["secret"].as_str().unwrap(),
        store["keys"][0]["hash"].as_str().unwrap(),
    ];
    for secret in secrets {
        assert!(!dump.contains(secret), "{secret}");
    }
}

#[test]
fn ad_01_admin_is_never_bound_to_the_outside() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("gateway.yaml");
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    for bind in ["0.0.0.0", "[::]", "10.0.0.1"] {
        let text = format!(
            "listeners: [{{ name: web, bind: 127.0.0.1, port: 0 }}]\nadmin: {{ bind: \"{bind}:{port}\", health: \"off\" }}\n"
        );
        std::fs::write(&file, text).unwrap();
        let output = Command::new(binary())
            .args(["gateway", "--config"])
            .arg(&file)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{bind}");
        assert!(said.contains("loopback"), "{bind}: {said}");
    }
}
