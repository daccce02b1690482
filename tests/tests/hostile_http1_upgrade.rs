//! Hostile HTTP/1, rows H1-16 to H1-19 of the battery: ways out of HTTP/1.

#![expect(
    clippy::unwrap_used,
    reason = "outside the test function, but part of it"
)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use selvedge_tests::Upstream;
use selvedge_tests::hostile::{Case, ROLES, Stage, Want, both, echo, target};

/// A bell that one thread rings and another waits for.
#[derive(Clone, Default)]
struct Bell(Arc<(Mutex<u32>, Condvar)>);

impl Bell {
    fn ring(&self) {
        *self.0.0.lock().unwrap() += 1;
        self.0.1.notify_all();
    }

    fn wait(&self) {
        let rung = self.0.0.lock().unwrap();
        *self.0.1.wait_while(rung, |rung| *rung == 0).unwrap() -= 1;
    }
}

const UPGRADE: &str = "GET /hostile HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

#[test]
fn h1_16_bytes_behind_an_upgrade_wait_for_101() {
    for role in ROLES {
        for protocol in ["websocket", "unknown/1"] {
            let (bell, early) = (Bell::default(), Arc::new(AtomicBool::new(false)));
            let (rung, saw_early) = (bell.clone(), early.clone());
            let upstream = Upstream::scripted(move |connection| {
                let Some(request) = connection.request() else {
                    return;
                };
                if !target(&request).starts_with("/hostile") {
                    return echo(connection, &request);
                }
                connection.send("HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n");
                rung.wait();
                // Whatever was let through has had a whole round trip to arrive.
                connection.stream().set_nonblocking(true).unwrap();
                let mut byte = [0];
                let held = connection.stream().peek(&mut byte).is_err();
                connection.stream().set_nonblocking(false).unwrap();
                saw_early.store(!held, Ordering::SeqCst);
                connection.send(
                    "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
                );
                let early = connection.exactly(5).unwrap_or_default();
                connection.send([b"got ", &early[..]].concat());
                connection.drain();
            });
            let stage = Stage::over(role, "", upstream);
            let mut client = stage.client();
            let head = UPGRADE.replace("websocket", protocol);
            client.send(format!("{head}EARLY"));
            assert_eq!(client.reply().status, 103, "{role:?} {protocol}");
            bell.ring();
            assert_eq!(client.reply().status, 101, "{role:?} {protocol}");
            client.shutdown_write();
            assert_eq!(client.rest(), b"got EARLY", "{role:?} {protocol}");
            assert!(
                !early.load(Ordering::SeqCst),
                "{role:?} {protocol}: sent before 101"
            );
            stage.canary().unwrap();
            stage.held("H1-16");
        }
    }
}

#[test]
fn h1_16_an_upgrade_that_is_declined_stays_http() {
    both(|stage| {
        let mark = stage.mark();
        let mut client = stage.client();
        client.send(format!(
            "{UPGRADE}GET /own/second HTTP/1.1\r\nHost: a\r\n\r\n"
        ));
        let bodies = [client.reply().text(), client.reply().text()];
        assert_eq!(bodies, ["/hostile", "/own/second"]);
        assert_eq!(stage.complete(&mark).len(), 1);
        stage.held("H1-16");

        client = stage.client();
        client.send(format!("{UPGRADE}\u{81}\u{5}hello\r\n\r\n"));
        assert_eq!(client.reply().text(), "/hostile");
        let second = client.reply();
        assert_eq!(
            (second.status, second.header("connection")),
            (400, Some("close"))
        );
        assert!(client.is_closed());
        stage.canary().unwrap();
        stage.held("H1-16");

        for (id, version, lines) in [
            ("no Connection", "HTTP/1.1", "Upgrade: websocket\r\n"),
            (
                "HTTP/1.0",
                "HTTP/1.0",
                "Connection: upgrade, keep-alive\r\nUpgrade: websocket\r\n",
            ),
            (
                "an unknown one, a body",
                "HTTP/1.1",
                "Connection: upgrade\r\nUpgrade: unknown/1\r\nContent-Length: 5\r\n",
            ),
            (
                "a body",
                "HTTP/1.1",
                "Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n",
            ),
            (
                "a chunked body",
                "HTTP/1.1",
                "Connection: upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked\r\n",
            ),
        ] {
            let body = match lines {
                l if l.contains("Length") => "hello",
                l if l.contains("chunked") => "5\r\nhello\r\n0\r\n\r\n",
                _ => "",
            };
            let bytes = format!("POST /hostile {version}\r\nHost: a\r\n{lines}\r\n{body}");
            let got = stage.served(&Case::new(id, bytes, Want::Served));
            assert!(!got.to_lowercase().contains("upgrade"), "{id}: {got:?}");
            stage.held("H1-16");
        }
        let two = UPGRADE.replace("Upgrade: websocket", "Upgrade: websocket\r\nUpgrade: other");
        stage.run(
            "H1-16",
            &[Case::new("two Upgrades", two, Want::Refused(400))],
        );
    });
}

#[test]
fn h1_18_http2_by_other_ways_and_connect() {
    both(|stage| {
        let settings = "HTTP2-Settings: AAMAAABkAAQAAP__\r\n";
        for (id, lines, body) in [
            (
                "h2c",
                format!("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n{settings}"),
                "",
            ),
            (
                "h2c, no nomination",
                format!("Connection: Upgrade\r\nUpgrade: h2c\r\n{settings}"),
                "",
            ),
            (
                "H2C",
                format!("Connection: upgrade\r\nUpgrade: H2C\r\n{settings}"),
                "",
            ),
            (
                "h2",
                format!("Connection: upgrade\r\nUpgrade: h2\r\n{settings}"),
                "",
            ),
            (
                "websocket, h2c",
                format!("Connection: upgrade\r\nUpgrade: websocket, h2c\r\n{settings}"),
                "",
            ),
            (
                "h2c, a body",
                format!("Connection: upgrade\r\nUpgrade: h2c\r\n{settings}Content-Length: 5\r\n"),
                "hello",
            ),
            (
                "h2c, a chunked body",
                format!(
                    "Connection: upgrade\r\nUpgrade: h2c\r\n{settings}Transfer-Encoding: chunked\r\n"
                ),
                "5\r\nhello\r\n0\r\n\r\n",
            ),
            (
                "HTTP2-Settings alone",
                format!("Connection: HTTP2-Settings\r\n{settings}"),
                "",
            ),
        ] {
            let bytes = format!("GET /hostile HTTP/1.1\r\nHost: a\r\n{lines}\r\n{body}");
            let got = stage
                .served(&Case::new(id, bytes, Want::Served))
                .to_lowercase();
            assert!(
                !got.contains("h2c") && !got.contains("upgrade") && !got.contains("http2-settings"),
                "{id}: {got:?}"
            );
            assert!(got.ends_with(&format!("\r\n\r\n{body}")), "{id}: {got:?}");
            stage.held("H1-18");
        }
        let own = stage.proxy.address("admin");
        let upstream = stage.upstream.address();
        let mut cases = vec![
            Case::new(
                "PRI without SM",
                "PRI * HTTP/2.0\r\n\r\nhostile\r\n\r\n",
                Want::Refused(505),
            ),
            Case::new(
                "PRI with fields",
                "PRI * HTTP/2.0\r\nHost: a\r\n\r\n",
                Want::Refused(505),
            ),
            Case::new(
                "PRI as HTTP/1.1",
                "PRI * HTTP/1.1\r\nHost: a\r\nX: hostile\r\n\r\n",
                Want::Refused(400),
            ),
            Case::new(
                "CONNECT without Host",
                "CONNECT hostile:443 HTTP/1.1\r\n\r\n",
                Want::Refused(405),
            ),
            Case::new(
                "CONNECT with a body",
                "CONNECT hostile:443 HTTP/1.1\r\nHost: hostile:443\r\nContent-Length: 5\r\n\r\nhello",
                Want::Refused(405),
            ),
            Case::new(
                "CONNECT with a path",
                "CONNECT /hostile HTTP/1.1\r\nHost: a\r\n\r\n",
                Want::Refused(405),
            ),
        ];
        for to in [
            "hostile:443",
            "127.0.0.1:22",
            "169.254.169.254:80",
            "[::1]:22",
            &own.to_string(),
            &upstream.to_string(),
        ] {
            let bytes = format!(
                "CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
            );
            cases.push(Case::new(
                format!("CONNECT {to}"),
                bytes,
                Want::Refused(405),
            ));
        }
        stage.run("H1-18", &cases);
    });
}
