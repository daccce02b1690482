//! `protocol: UDP`: a session for each client, with one endpoint, until it is silent.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use selvedge_tests::l4::{LOG, line, lines};
use selvedge_tests::process::gateway;
use selvedge_tests::{PATIENCE, Selvedge};

fn proxy(route: &str, service: &str, more: &str) -> Selvedge {
    gateway(&format!(
        "listeners: [{{ name: dns, bind: 127.0.0.1, port: 0, protocol: UDP }}]
udpRoutes: [{{ listeners: [dns], backendRefs: [{{ service: resolver }}], {route} }}]
services: {{ resolver: {{ {service} }} }}
{LOG}
{more}"
    ))
}

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Answers each datagram with its own name, the port that it came from, and what it said; ends with the
/// process.
fn answering(name: &'static str) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        while let Ok((n, from)) = socket.recv_from(&mut buffer) {
            let told = [format!("{name} {} ", from.port()).as_bytes(), &buffer[..n]].concat();
            let _ = socket.send_to(&told, from);
        }
    });
    address
}

fn client(proxy: &Selvedge) -> UdpSocket {
    let socket = socket();
    socket.connect(proxy.address("dns")).unwrap();
    socket
}

fn hear(client: &UdpSocket) -> String {
    let mut buffer = vec![0; 65_536];
    let n = client.recv(&mut buffer).unwrap();
    String::from_utf8_lossy(&buffer[..n]).into_owned()
}

fn ask(client: &UdpSocket, what: &str) -> String {
    client.send(what.as_bytes()).unwrap();
    hear(client)
}

/// Name and port of who answered.
fn by(answer: &str) -> (String, String) {
    let mut words = answer.split(' ').map(ToOwned::to_owned);
    (words.next().unwrap(), words.next().unwrap())
}

#[test]
fn a_client_has_a_session_that_ends_with_silence() {
    let to = answering("a");
    let proxy = proxy("idleTimeout: 300ms", &format!("endpoints: [\"{to}\"]"), "");
    let client = client(&proxy);
    let first = ask(&client, "one");
    let second = ask(&client, "three");
    assert!(
        first.ends_with(" one") && second.ends_with(" three"),
        "{first} {second}"
    );
    assert_eq!(by(&first), by(&second), "one session");
    // An empty one is a datagram too.
    assert!(ask(&client, "").ends_with(' '));
    let peer = format!(" dns {} ", client.local_addr().unwrap());
    let out = first.len() + second.len() + 3 + by(&first).1.len();
    let bytes = format!("in=8 out={out} ");
    let told = [
        "UDP",
        "end=-- ",
        "route=udp-0 ",
        "service=resolver ",
        "retries=0",
    ];
    line(
        &proxy,
        &[&told[..], &[&peer, &bytes, &format!("upstream={to}")]].concat(),
    );
    // What follows is another session.
    assert_ne!(by(&ask(&client, "four")), by(&first));
}

#[test]
fn a_thousand_sessions_each_with_its_own_answers() {
    let (a, b) = (answering("a"), answering("b"));
    let service = format!(
        "endpoints: [\"{a}\", \"{b}\"], slowStart: 0s, balance: {{ leastRequest: {{ scan: full }} }}"
    );
    let proxy = proxy("idleTimeout: 1s", &service, "");
    let clients: Vec<UdpSocket> = (0..1000).map(|_| client(&proxy)).collect();
    let mut of_a = 0;
    for (n, client) in clients.iter().enumerate() {
        let answer = ask(client, &format!("#{n}#"));
        assert!(answer.ends_with(&format!(" #{n}#")), "{answer}");
        of_a += usize::from(answer.starts_with('a'));
    }
    // Least sessions: nearly half each, whatever ended meanwhile.
    assert!((400..=600).contains(&of_a), "{of_a}");
    lines(&proxy, &["end=-- ", "service=resolver "], 1000);
    let labels = ["route=\"udp-0\"", "service=\"resolver\""];
    proxy.wait_for_metric("selvedge_requests_total", &labels, 1000.0);
}

#[test]
fn caps_hold_for_sessions_and_sizes() {
    let to = answering("a");
    let limits = "limits: { connections: 3, connectionsPerAddress: 2 }";
    let proxy = proxy(
        "maxDatagram: 100",
        &format!("endpoints: [\"{to}\"]"),
        limits,
    );
    let (first, second) = (client(&proxy), client(&proxy));
    ask(&first, "x");
    ask(&second, "x");
    let third = client(&proxy);
    third.send(b"x").unwrap();
    proxy.wait_for_metric("selvedge_datagrams_lost_total", &[], 1.0);
    proxy.wait_for_metric("selvedge_connections_refused_total", &[], 1.0);
    // Too long by one; its answer would be too long.
    for length in [101, 100] {
        first.send(&vec![b'y'; length]).unwrap();
    }
    proxy.wait_for_metric("selvedge_datagrams_lost_total", &[], 3.0);
    assert!(ask(&first, &"z".repeat(80)).ends_with("zz"));
    third.set_nonblocking(true).unwrap();
    assert!(third.recv(&mut [0]).is_err());
}

#[test]
fn who_refuses_is_left_and_the_session_moves_on() {
    let to = answering("a");
    let dead = socket().local_addr().unwrap();
    let service = format!(
        "endpoints: [\"{to}\", \"{dead}\"], balance: roundRobin, slowStart: 0s, ejection: {{ consecutive: 1 }}"
    );
    let proxy = proxy("idleTimeout: 500ms", &service, "");
    // Lost is what was sent to the dead one: a client of UDP asks again.
    let patient = |client: &UdpSocket| {
        client
            .set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        let deadline = Instant::now() + PATIENCE;
        loop {
            client.send(b"again").unwrap();
            if client.recv(&mut [0; 100]).is_ok() {
                return;
            }
            assert!(Instant::now() < deadline);
        }
    };
    let clients = [client(&proxy), client(&proxy)];
    clients.iter().for_each(patient);
    line(&proxy, &["end=-- ", &format!("upstream={to}"), "retries=1"]);
    line(&proxy, &["end=-- ", &format!("upstream={to}"), "retries=0"]);
    let (_, endpoints) = proxy.get("admin", "/endpoints");
    assert!(
        endpoints.contains("UF") || endpoints.contains("no connection"),
        "{endpoints}"
    );

    let proxy = self::proxy("", &format!("endpoints: [\"{dead}\"]"), "");
    let client = client(&proxy);
    client.send(b"x").unwrap();
    line(
        &proxy,
        &["end=UF ", "in=1 out=0 ", &format!("upstream={dead}")],
    );
}

#[test]
fn nobody_is_sent_what_others_say() {
    let to = answering("a");
    let proxy = proxy("", &format!("endpoints: [\"{to}\"]"), "");
    let client = client(&proxy);
    let port: u16 = by(&ask(&client, "x")).1.parse().unwrap();
    // A stranger who knows the port of the session.
    let stranger = socket();
    for _ in 0..10 {
        stranger.send_to(b"stranger", ("127.0.0.1", port)).unwrap();
    }
    assert!(ask(&client, "y").ends_with(" y"));
    client.set_nonblocking(true).unwrap();
    assert!(client.recv(&mut [0; 100]).is_err());
}

#[test]
fn a_reload_keeps_sessions_whose_service_is_there() {
    let (old, new) = (answering("old"), answering("new"));
    let proxy = proxy("", &format!("endpoints: [\"{old}\"]"), "");
    let client = client(&proxy);
    let before = by(&ask(&client, "x"));
    let file = proxy.dir().join("config.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    let both = text.replace(
        "services: {",
        &format!("services: {{ other: {{ endpoints: [\"{new}\"] }}, "),
    );
    let moved = both.replace("{ service: resolver }", "{ service: other }");
    let until_new = |text: &str, asks: &dyn Fn() -> String| {
        std::fs::write(&file, text).unwrap();
        proxy.signal("HUP");
        let deadline = Instant::now() + PATIENCE;
        while by(&asks()).0 != "new" {
            assert!(Instant::now() < deadline, "{text}");
        }
    };
    until_new(&moved, &|| ask(&self::client(&proxy), "y"));
    assert_eq!(by(&ask(&client, "y")), before, "its service is there");
    let gone = moved.replace("resolver: {", "renamed: {");
    until_new(&gone, &|| ask(&client, "z"));
    line(&proxy, &["service=resolver ", "end=NR "]);
}

#[test]
fn a_drain_serves_sessions_until_it_ends() {
    let to = answering("a");
    let drain = "drain: { timeout: 700ms }";
    let mut proxy = proxy("", &format!("endpoints: [\"{to}\"]"), drain);
    let client = client(&proxy);
    let before = by(&ask(&client, "x"));
    proxy.signal("TERM");
    proxy.wait_for("leaving");
    assert_eq!(by(&ask(&client, "y")), before);
    assert!(proxy.wait().success());
    line(&proxy, &["end=LD ", "in=2 ", "service=resolver "]);
}

#[test]
fn one_source_comes_back_to_one_endpoint() {
    let (a, b) = (answering("a"), answering("b"));
    let service = format!("endpoints: [\"{a}\", \"{b}\"], sticky: source");
    let proxy = proxy("", &service, "");
    let first = by(&ask(&client(&proxy), "x")).0;
    assert!((0..20).all(|_| by(&ask(&client(&proxy), "x")).0 == first));
}
