//! Whoever speaks first is heard without delay, with no list of ports: real servers of PostgreSQL and Redis,
//! scripted ones of MySQL and SMTP, as bytes between two sidecars and by a hop of the mesh.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use selvedge_contract::defaults::transparent::MOMENT;
use selvedge_tests::TestCa;
use selvedge_tests::bytes::{Running, expect, inbound, outbound, start};
use selvedge_tests::netns::Namespace;
use selvedge_tests::pod::{APP, Pod, open_dir, serve};
use tempfile::TempDir;

const WEB: &str = "spiffe://shop.local/ns/shop/sa/web";
const ORDERS: &str = "spiffe://shop.local/ns/shop/sa/orders";
/// `nobody`: a server of PostgreSQL wants a user who has a name, and is not root.
const NOBODY: u32 = 65534;
/// Connections that are measured.
const MANY: usize = 24;

/// A pod that calls the other at these ports, in the mesh by 10.96.0.20, beside it by its own address.
fn pods(ports: &[u16]) -> (Pod, Pod) {
    let ca = TestCa::new();
    let (a, b) = Namespace::pair();
    let web = Pod::new(a, &ca, WEB, &outbound(ports, ORDERS));
    let orders = Pod::new(b, &ca, ORDERS, &inbound("mtls: permissive"));
    web.redirect(&[]);
    orders.redirect(&[]);
    (web, orders)
}

/// Has a dialogue many times both ways, and wants most of them to be done within less than the moment that a
/// client is given: who had to wait for it each time, never is.
fn without_delay(web: &Pod, port: u16, dialogue: impl Fn(&mut TcpStream)) {
    for (way, host) in [("hop", "10.96.0.20"), ("beside", "10.7.0.2")] {
        let took = || {
            let begun = Instant::now();
            dialogue(&mut web.connect(&format!("{host}:{port}")));
            begun.elapsed()
        };
        let mut times: Vec<Duration> = (0..MANY).map(|_| took()).collect();
        times.sort();
        let median = times[MANY / 2];
        println!(
            "port {port}, {way}: median {median:?}, longest {:?}",
            times[MANY - 1]
        );
        assert!(median < MOMENT, "port {port}, {way}: {times:?}");
    }
    web.wait_for_line(&["end=-- ", &format!("service=to-{port} ")]);
    web.wait_for_line(&[
        "end=-- ",
        "service=passthrough ",
        &format!("upstream=10.7.0.2:{port}"),
    ]);
}

fn lines(stream: &mut TcpStream, dialogue: &[(&str, &str)]) {
    for (says, hears) in dialogue {
        stream.write_all(says.as_bytes()).unwrap();
        expect(stream, hears.as_bytes());
    }
}

/// Answers each of these lines, after a greeting.
fn scripted(mut stream: TcpStream, greeting: &[u8], answers: &[(&[u8], &[u8])]) {
    let _ = stream.write_all(greeting);
    for (asked, answer) in answers {
        let mut got = vec![0; asked.len()];
        if stream.read_exact(&mut got).is_err() || got != *asked {
            return;
        }
        let _ = stream.write_all(answer);
    }
}

#[test]
fn mail_and_mysql_greet_first() {
    let (web, orders) = pods(&[2525, 3306]);
    let mail: &[(&[u8], &[u8])] = &[
        (b"EHLO web\r\n", b"250 mail\r\n"),
        (b"MAIL FROM:<a@shop.local>\r\n", b"250 ok\r\n"),
        (b"QUIT\r\n", b"221 bye\r\n"),
    ];
    serve(orders.listen(2525), move |s| {
        scripted(s, b"220 mail ESMTP\r\n", mail)
    });
    without_delay(&web, 2525, |client| {
        expect(client, b"220 mail ESMTP\r\n");
        lines(
            client,
            &[
                ("EHLO web\r\n", "250 mail\r\n"),
                ("MAIL FROM:<a@shop.local>\r\n", "250 ok\r\n"),
                ("QUIT\r\n", "221 bye\r\n"),
            ],
        );
    });
    // Protocol::HandshakeV10, HandshakeResponse41, OK, COM_PING, OK.
    let greeting = b"\x2c\0\0\0\x0a8.0.36\0\x08\0\0\0abcdefgh\0\xff\xf7\xff\x02\0\xff\xc1\x15\0\0\0\0\0\0\0\0\0\0";
    let login = b"\x0a\0\0\x01\x85\xa6\x03\0\0\0\0\x01\x21\0";
    let (ok, ping) = (b"\x07\0\0\x02\0\0\0\x02\0\0\0", b"\x01\0\0\0\x0e");
    serve(orders.listen(3306), move |stream| {
        scripted(stream, greeting, &[(login, ok), (ping, ok)]);
    });
    without_delay(&web, 3306, |client| {
        expect(client, greeting);
        for says in [&login[..], ping] {
            client.write_all(says).unwrap();
            expect(client, ok);
        }
    });
}

#[test]
fn redis_answers_at_once() {
    let (web, orders) = pods(&[6379]);
    let dir = open_dir();
    let mut redis = orders.net.command_of(APP, "redis-server");
    let options = ["--save", "", "--protected-mode", "no", "--bind", "0.0.0.0"];
    redis.current_dir(dir.path()).args(options);
    let _redis = start(&mut redis, "Ready to accept connections");
    without_delay(&web, 6379, |client| {
        lines(
            client,
            &[
                ("PING\r\n", "+PONG\r\n"),
                ("*1\r\n$4\r\nPING\r\n", "+PONG\r\n"),
            ],
        );
    });
}

/// Where Debian puts the programs of PostgreSQL, whatever its version.
fn programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").expect("the package postgresql");
    let mut found: Vec<PathBuf> = versions.map(|v| v.unwrap().path().join("bin")).collect();
    found.sort();
    found.pop().unwrap()
}

/// A real server with a new, empty database.
fn postgres(orders: &Pod, dir: &TempDir) -> Running {
    let (bin, place) = (programs(), dir.path().display());
    let script = format!(
        "export LC_ALL=C && cd {place} && {bin}/initdb -D {place}/data -A trust -U app --no-sync >&2 && \
         echo 'host all all 0.0.0.0/0 trust' >> data/pg_hba.conf && exec {bin}/postgres -D {place}/data -k {place} -h 0.0.0.0 -p 5432 -F 2>&1",
        bin = bin.display()
    );
    let mut command = orders.net.command_of(NOBODY, "sh");
    command.args(["-c", &script]);
    start(&mut command, "ready to accept connections")
}

#[test]
fn postgresql_answers_at_once() {
    let (web, orders) = pods(&[5432]);
    let dir = open_dir();
    let _postgres = postgres(&orders, &dir);
    // SSLRequest, which such a server declines with one byte.
    without_delay(&web, 5432, |client| {
        client.write_all(b"\0\0\0\x08\x04\xd2\x16\x2f").unwrap();
        expect(client, b"N");
    });
    for (host, tls) in [("10.96.0.20", "prefer"), ("10.7.0.2", "disable")] {
        let mut psql: Command = web.net.command_of(APP, "psql");
        let to = format!("host={host} user=app dbname=postgres sslmode={tls}");
        let sql = "create table t as select generate_series(1, 20000) as n; select sum(n) from t; drop table t";
        let output = psql.args(["-At", &to, "-c", sql]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("200010000"), "{output:?}");
    }
}
