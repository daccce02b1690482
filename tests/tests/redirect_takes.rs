//! What a plan says that it takes is what the kernel takes, by both backends: ports, ranges, families,
//! users, where it comes from. Nobody but a stand-in for the sidecar listens: whoever is connected was
//! redirected.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;

use selvedge_injector::{Plan, Wanted};
use selvedge_tests::PATIENCE;
use selvedge_tests::netns::{Namespace, run};
use selvedge_tests::process::binary;
use socket2::{Domain, Socket, Type};

const APP: u32 = 1000;

/// Holds a port of every address; nobody is ever answered.
fn hold(place: &Namespace, port: u16) -> TcpListener {
    place.inside(0, || {
        TcpListener::bind(SocketAddr::from(([0u16; 8], port))).unwrap()
    })
}

/// Whether a connection of this user to an address is taken by somebody.
fn taken(place: &Namespace, user: u32, to: &str) -> bool {
    let to: SocketAddr = to.parse().unwrap();
    match place.inside(user, || TcpStream::connect_timeout(&to, PATIENCE)) {
        Ok(_) => true,
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => false,
        Err(error) => panic!("{to}: {error}"),
    }
}

fn redirect(place: &Namespace, backend: &str, arguments: &[&str]) {
    let mut command: Command = place.command(binary());
    run(command
        .args(["redirect", "--backend", backend])
        .args(arguments));
}

/// Two namespaces, the second of which answers for every address, and refuses.
fn places() -> (Namespace, Namespace) {
    let (inside, outside) = Namespace::pair();
    // Where the way back to the first, which is longer, wins.
    outside.ip("route add local 0.0.0.0/1 dev lo table main");
    outside.ip("-6 route add local fd00::/8 dev lo table main");
    (inside, outside)
}

fn texts(list: &[&str]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

#[test]
fn what_an_application_sends() {
    let (inside, _outside) = places();
    let _sidecar = hold(&inside, 15001);
    let many: Vec<String> = (0..20).map(|n| (7000 + 2 * n).to_string()).collect();
    let (many, cidrs) = (many.join(","), "10.0.0.0/8,fd00:1::/32");
    let plan = Plan::new(&Wanted {
        outbound_ports: texts(&[&many, "9000-9100"]),
        skip_outbound_ports: texts(&["9050"]),
        outbound_cidrs: texts(&[cidrs]),
        skip_outbound_cidrs: texts(&["10.1.2.0/24,fd00:1::9"]),
        ..Wanted::default()
    })
    .unwrap();
    let addresses = [
        "10.8.0.1:7000",
        "10.8.0.1:7001",
        "10.8.0.1:7038",
        "10.8.0.1:9000",
        "10.8.0.1:9050",
        "10.8.0.1:9100",
        "10.8.0.1:9101",
        "10.1.2.3:7000",
        "10.1.3.3:7000",
        "11.0.0.1:7000",
        "127.0.0.1:7000",
        "[fd00:1::1]:7000",
        "[fd00:1::1]:7001",
        "[fd00:1::9]:7000",
        "[fd00:2::1]:7000",
        "[::1]:7000",
    ];
    for backend in ["nft", "iptables"] {
        let ports = ["--outbound-ports", &many, "--outbound-ports", "9000-9100"];
        let skipped = ["--skip-outbound-ports", "9050", "--skip-outbound-cidrs"];
        let ranges = ["10.1.2.0/24,fd00:1::9", "--outbound-cidrs", cidrs];
        redirect(&inside, backend, &[&ports[..], &skipped, &ranges].concat());
        for to in addresses {
            let says = plan.takes_outbound(to.parse().unwrap());
            assert_eq!(taken(&inside, APP, to), says, "{backend}: {to}");
            // Whoever the rules let by is taken nowhere: by user, or by group.
            assert!(!taken(&inside, 1337, to), "{backend}: {to}");
        }
        redirect(&inside, backend, &["--ipv4-only", "--proxy-uid", "2000"]);
        assert!(taken(&inside, 0, "11.0.0.1:1") && taken(&inside, APP, "11.0.0.1:1"));
        assert!(!taken(&inside, 2000, "11.0.0.1:1") && !taken(&inside, 1337, "11.0.0.1:1"));
        assert!(!taken(&inside, APP, "[fd00:1::1]:7000"));
    }
}

#[test]
fn neighbours_on_the_link_are_called_as_before() {
    let (inside, outside) = Namespace::pair();
    let _sidecar = hold(&inside, 15001);
    let show = ["-o", "-6", "addr", "show", "dev", "eth0", "scope", "link"];
    // `2: eth0    inet6 fe80::1/64 scope link ...`, which of its own the other side does not know.
    let own = |place: &Namespace| run(place.command("ip").args(show));
    let (here, there) = (own(&inside), own(&outside));
    let index = here.split(':').next().unwrap();
    let (_, address) = there.split_once("inet6 ").unwrap();
    let to = format!("[{}%{index}]:80", address.split('/').next().unwrap());
    for backend in ["nft", "iptables"] {
        redirect(&inside, backend, &[]);
        assert!(!taken(&inside, APP, &to), "{backend}: {to}");
        assert!(taken(&inside, APP, "[fd07::2]:80"), "{backend}");
    }
}

#[test]
fn what_comes_to_an_application() {
    let (outside, inside) = Namespace::pair();
    let _sidecar = hold(&inside, 15006);
    outside.ip("addr add 10.9.0.1/32 dev eth0");
    inside.ip("route add 10.9.0.1/32 dev eth0");
    let from = |source: &str| {
        let socket = outside.inside(APP, || {
            Socket::new(Domain::IPV4, Type::STREAM, None).unwrap()
        });
        let source: SocketAddr = source.parse().unwrap();
        socket.bind(&source.into()).unwrap();
        let to: SocketAddr = "10.7.0.2:80".parse().unwrap();
        socket.connect_timeout(&to.into(), PATIENCE).is_ok()
    };
    for backend in ["nft", "iptables"] {
        redirect(&inside, backend, &[]);
        assert!(taken(&outside, APP, "10.7.0.2:80") && taken(&outside, APP, "[fd07::2]:80"));
        assert!(!taken(&outside, APP, "10.7.0.2:15020"), "health");
        let only = [
            "--inbound-ports",
            "80,8000-8100",
            "--skip-inbound-ports",
            "8050",
        ];
        let sources = ["--skip-inbound-from", "10.9.0.0/16"];
        redirect(&inside, backend, &[&only[..], &sources].concat());
        for (port, is_taken) in [(80, true), (8050, false), (8051, true), (443, false)] {
            for host in ["10.7.0.2", "[fd07::2]"] {
                let to = format!("{host}:{port}");
                assert_eq!(taken(&outside, APP, &to), is_taken, "{backend}: {to}");
            }
        }
        assert!(from("10.7.0.1:0") && !from("10.9.0.1:0"), "{backend}");
        redirect(&inside, backend, &["--skip-interfaces", "eth*"]);
        assert!(!taken(&outside, APP, "10.7.0.2:80"), "{backend}");
        // A machine inside: what it sends is not for the application.
        let outbound = hold(&inside, 15001);
        redirect(
            &inside,
            backend,
            &["--outbound-interfaces", "eth0", "--inbound-port", "4"],
        );
        assert!(taken(&outside, APP, "10.7.0.2:80"), "{backend}");
        drop(outbound);
        assert!(!taken(&outside, APP, "10.7.0.2:80"), "{backend}");
    }
}
