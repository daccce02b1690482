//! Bytes of applications in the mesh that must not pass: to somebody else, from somebody else, or by
//! policies that do not know them.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use selvedge_tests::bytes::{counting, echo, inbound, outbound, rest, services, start};
use selvedge_tests::netns::Namespace;
use selvedge_tests::pod::{PROXY, Pod, Wire, open_dir, serve};
use selvedge_tests::{Bell, TestCa};

const WEB: &str = "spiffe://shop.local/ns/shop/sa/web";
const ORDERS: &str = "spiffe://shop.local/ns/shop/sa/orders";

#[test]
fn nothing_goes_to_an_endpoint_that_is_not_who_it_should_be() {
    let ca = TestCa::new();
    let (a, b) = Namespace::pair();
    let other = "spiffe://shop.local/ns/shop/sa/other";
    let config = outbound(&[7000], other) + &services(&[7100, 7101], ORDERS);
    let web = Pod::new(a, &ca, WEB, &config);
    let orders = Pod::new(b, &ca, ORDERS, &inbound("mtls: strict"));
    web.redirect(&[]);
    orders.redirect(&["--skip-inbound-ports", "7100-7101"]);
    let reached = counting(&orders, 7000, "never heard");
    // It speaks no TLS, and keeps what it gets.
    serve(orders.listen(7100), echo);
    // It is who it should be, and has never heard of bytes in the mesh.
    let mut server = orders.net.command("openssl");
    let place = orders.sidecar().dir();
    server.args(["s_server", "-accept", "7101", "-tls1_3", "-cert"]);
    server
        .arg(place.join("own.pem"))
        .arg("-key")
        .arg(place.join("own.key"));
    let _server = start(server.stdin(Stdio::piped()), "ACCEPT");
    let wire = Wire::tap(&orders.net);
    for (port, end) in [(7000, "end=UI "), (7100, "end=US "), (7101, "end=US ")] {
        let mut client = web.connect(&format!("10.96.0.20:{port}"));
        let _ = client.write_all(b"SSH-2.0-plaintext\r\n");
        assert_eq!(rest(&mut client), "", "{port}");
        let upstream = format!("upstream=10.7.0.2:{port}");
        web.wait_for_line(&["outbound", end, &format!("service=to-{port}"), &upstream]);
    }
    web.wait_for_line(&["did not agree to carry bytes"]);
    assert_eq!(reached.load(Ordering::SeqCst), 0);
    assert!(!wire.has(b"plaintext"));
}

#[test]
fn policies_of_a_port_judge_bytes_by_their_peer_and_by_nothing_else() {
    let ca = TestCa::new();
    let (a, b) = Namespace::pair();
    let web_only = format!("allow: [{{ principals: [\"{WEB}\"] }}]");
    let nobody_else = format!("allow: [{{ principals: [\"{ORDERS}\"] }}]");
    let by_method = format!("allow: [{{ principals: [\"{WEB}\"], methods: [GET] }}]");
    let ports: [(u16, &str, bool); 7] = [
        (9000, "mtls: strict", true),
        (9001, &web_only, true),
        (9002, &nobody_else, false),
        (9003, &by_method, false),
        (9004, "policies: [counted]", false),
        (9005, "policies: [not-web]", false),
        (9006, "policies: [not-orders], mtls: permissive", true),
    ];
    let mut config = format!(
        "policies:\n  counted: {{ rateLimit: {{ rate: 100/min }} }}\n  \
         not-web: {{ deny: [{{ principals: [\"{WEB}\"] }}] }}\n  \
         not-orders: {{ deny: [{{ principals: [\"{ORDERS}\"] }}] }}\ninbound:\n"
    );
    for (port, policies, _) in &ports {
        let line = format!("  - {{ port: {port}, app: \"127.0.0.1:8000\", {policies} }}\n");
        config.push_str(&line);
    }
    let numbers = ports.map(|(port, ..)| port);
    let web = Pod::new(a, &ca, WEB, &outbound(&numbers, ORDERS));
    // Nothing is redirected to it: it has ports of its own before those of the application.
    let orders = Pod::new(b, &ca, ORDERS, &config);
    web.redirect(&[]);
    let reached = counting(&orders, 8000, "hello ");
    let mut wanted = 0;
    for (port, policies, passes) in ports {
        let mut client = web.connect(&format!("10.96.0.20:{port}"));
        let _ = client.write_all(b"*1\r\n");
        let _ = client.shutdown(Shutdown::Write);
        let said = rest(&mut client);
        let name = format!("inbound-{port}");
        let known = format!("peer_id={WEB}");
        if passes {
            wanted += 1;
            assert_eq!(said, "hello *1\r\n<end>", "{policies}");
            orders.wait_for_line(&[&name, "end=-- ", &known, "upstream=127.0.0.1:8000"]);
        } else {
            assert_eq!(said, "", "{policies}");
            orders.wait_for_line(&[&name, "end=RD ", &known]);
            // Who sent it is told that it came to nothing.
            web.wait_for_line(&["end=UC ", &format!("service=to-{port}")]);
        }
        assert_eq!(reached.load(Ordering::SeqCst), wanted, "{policies}");
    }
}

/// What `openssl s_client` says that offers these protocols, and sends a word.
fn s_client(from: &Pod, to: &str, offers: &str, arguments: &[&str]) -> String {
    // As the user whom rules let by.
    let mut client = from.net.command_of(PROXY, "openssl");
    client.args(["s_client", "-connect", to, "-alpn", offers, "-tls1_3"]);
    client.args(arguments).args(["-ign_eof", "-brief"]);
    client.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = client.stderr(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let _ = input.write_all(b"INTRUDER\r\n");
    let said = child.wait_with_output().unwrap();
    drop(input);
    String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned()
}

#[test]
fn strangers_do_not_get_in_by_offering_bytes() {
    for mtls in ["mtls: strict", "mtls: permissive"] {
        let ca = TestCa::new();
        let (a, b) = Namespace::pair();
        let web = Pod::new(a, &ca, WEB, &outbound(&[7000], ORDERS));
        let orders = Pod::new(b, &ca, ORDERS, &inbound(mtls));
        orders.redirect(&[]);
        let (said, word) = (Bell::default(), "and good bye");
        let reached = Arc::new(AtomicUsize::new(0));
        let (counted, rings) = (reached.clone(), said.clone());
        serve(orders.listen(7000), move |mut stream| {
            // Whoever is silent is nobody yet: the sidecar comes to see who speaks first.
            if stream.read_exact(&mut [0; 10]).is_ok() {
                counted.fetch_add(1, Ordering::SeqCst);
                let _ = stream.write_all(word.as_bytes());
                rings.ring();
            }
        });
        let dir = open_dir();
        let (certificate, key) = TestCa::new().svid(WEB).write(dir.path(), "foreign");
        let own = web.sidecar().dir();
        for file in [&key, &own.join("own.key"), &own.join("own.pem")] {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
            std::fs::set_permissions(file, mode).unwrap();
        }
        let text = |path: &Path| path.display().to_string();
        let (certificate, key) = (text(&certificate), text(&key));
        for arguments in [&[][..], &["-cert", &certificate, "-key", &key]] {
            let said = s_client(&web, "10.7.0.2:7000", "selvedge-tcp", arguments);
            assert!(!said.contains(word), "{said}");
        }
        orders.wait_for_line(&["inbound-15006", "end=DP "]);
        assert_eq!(reached.load(Ordering::SeqCst), 0);

        // The same by one that is in the mesh; and one that speaks both is taken for HTTP.
        let (certificate, key) = (text(&own.join("own.pem")), text(&own.join("own.key")));
        let arguments = ["-cert", &certificate, "-key", &key];
        let got = s_client(&web, "10.7.0.2:7000", "selvedge-tcp", &arguments);
        assert!(got.contains(word), "{got}");
        said.wait();
        assert_eq!(reached.load(Ordering::SeqCst), 1);
        let both = "selvedge-tcp,selvedge-h2";
        let got = s_client(&web, "10.7.0.2:7000", both, &arguments);
        assert!(!got.contains(word), "{got}");
        assert_eq!(reached.load(Ordering::SeqCst), 1);
    }
}

#[test]
fn a_service_with_policies_is_called_by_requests_only() {
    let ca = TestCa::new();
    let (a, b) = Namespace::pair();
    let config = outbound(&[7000], ORDERS).replace("mesh:", "policies: [few], mesh:");
    let config = format!("policies: {{ few: {{ rateLimit: {{ rate: 100/min }} }} }}\n{config}");
    let web = Pod::new(a, &ca, WEB, &config);
    let orders = Pod::new(b, &ca, ORDERS, &inbound("mtls: strict"));
    web.redirect(&[]);
    orders.redirect(&[]);
    let reached = counting(&orders, 7000, "never heard");
    for first in [&b"SSH-2.0-a\r\n"[..], b"\x16\x03\x01\x00\x05\x01\0\0\x01\0"] {
        let mut client = web.connect("10.96.0.20:7000");
        let _ = client.write_all(first);
        assert_eq!(rest(&mut client), "");
    }
    web.wait_for_line(&["outbound", "end=RD ", "policies of its service"]);
    assert_eq!(reached.load(Ordering::SeqCst), 0);
}

#[test]
fn a_hop_that_comes_round_is_cut() {
    let ca = TestCa::new();
    let (a, _b) = Namespace::pair();
    // Its user is not the one that the rules let by: what it sends comes back to it.
    let web = Pod::run_by(1338, a, &ca, WEB, &outbound(&[7000], ORDERS));
    web.redirect(&[]);
    for first in [&b"SSH-2.0-a\r\n"[..], b""] {
        let mut client = web.connect("10.96.0.20:7000");
        client.write_all(first).unwrap();
        let _ = client.shutdown(Shutdown::Write);
        assert_eq!(rest(&mut client), "");
    }
    web.wait_for_line(&["outbound", "end=DO "]);
    let (_, metrics) = web.curl(&["http://127.0.0.1:15020/metrics"]);
    let counts = metrics
        .lines()
        .filter(|l| l.starts_with("selvedge_connections_accepted_total"));
    let counts = counts.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    let taken: f64 = counts.sum();
    assert!(taken > 2.0 && taken < 20.0, "{metrics}");
}
