//! What an application may call beside the services of the mesh: anything, or nothing.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use selvedge_tests::checked::check;
use selvedge_tests::netns::Namespace;
use selvedge_tests::pod::{Pod, serve};
use selvedge_tests::{PATIENCE, TestCa};

const WEB: &str = "spiffe://shop.local/ns/shop/sa/web";
const OTHER: &str = "spiffe://shop.local/ns/shop/sa/other";

fn config(egress: &str) -> String {
    format!(
        "inbound: [{{ bind: \"::\", port: 15006, transparent: true, mtls: strict }}]
outbound: {{ bind: \"[::]:15001\", transparent: true{egress} }}
services:
  plain: {{ endpoints: [\"10.7.0.2:8081\"], hostnames: [plain.svc] }}
  raw: {{ endpoints: [\"10.7.0.2:7001\"], addresses: [\"10.96.0.9:7001\"], mesh: {{}} }}
"
    )
}

/// A pod with its rules, and a machine that answers HTTP at 8081 and 8082 and speaks first at 7000.
fn start(egress: &str) -> (Pod, Pod) {
    let ca = TestCa::new();
    let (a, b) = Namespace::pair();
    let web = Pod::new(a, &ca, WEB, &config(egress));
    web.redirect(&[]);
    let outside = Pod::new(b, &ca, OTHER, &config(""));
    for port in [8081, 8082] {
        outside.serve_http(port);
    }
    serve(outside.listen(7000), |mut stream| {
        let _ = stream.write_all(b"220 welcome\r\n");
        let _ = stream.read(&mut [0; 64]);
    });
    (web, outside)
}

fn status(pod: &Pod, host: &str, port: u16) -> String {
    let (resolve, url) = (
        format!("{host}:{port}:10.7.0.2"),
        format!("http://{host}:{port}/"),
    );
    let (_, said) = pod.curl(&["-s", "-i", "--max-time", "20", "--resolve", &resolve, &url]);
    said
}

#[test]
fn where_only_services_may_be_called_nothing_else_is() {
    let (web, _outside) = start(", egress: registryOnly");
    // A service by its name, wherever the application looked it up.
    let known = status(&web, "plain.svc", 8082);
    assert!(known.starts_with("HTTP/1.1 200 "), "{known}");
    let other = status(&web, "elsewhere.example", 8082);
    assert!(other.starts_with("HTTP/1.1 403 "), "{other}");
    assert!(other.contains("nothing else may be called"), "{other}");
    // Bytes, and a server that would speak first: at once, or after a moment.
    for hello in [
        &b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00"[..],
        b"PING\r\n",
        b"",
    ] {
        let began = Instant::now();
        let mut client = web.connect("10.7.0.2:7000");
        client.write_all(hello).unwrap();
        let mut got = Vec::new();
        let _ = client.read_to_end(&mut got);
        assert_eq!(got, b"", "{hello:?}");
        assert!(began.elapsed() < PATIENCE / 3, "{:?}", began.elapsed());
    }
    web.wait_for_line(&["outbound", "end=RE", "it was going to 10.7.0.2:7000"]);
    web.wait_for_line(&["outbound", "end=RE", "403"]);
}

#[test]
fn else_what_is_for_no_service_goes_on() {
    let (web, _outside) = start("");
    let other = status(&web, "elsewhere.example", 8082);
    assert!(other.starts_with("HTTP/1.1 200 "), "{other}");
    let mut client = web.connect("10.7.0.2:7000");
    client
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let mut got = [0; 13];
    client.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"220 welcome\r\n");
}

#[test]
fn it_is_of_use_only_where_everything_comes_by() {
    let (_, told) = check("sidecar", "outbound: { egress: registryOnly }\n");
    assert!(
        told.contains("nothing but services is called anyway"),
        "{told}"
    );
    let (well, told) = check("sidecar", "outbound: { egress: registry }\n");
    assert!(!well);
    assert!(told.contains("registryOnly"), "{told}");
}
