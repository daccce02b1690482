//! CA-07: the intermediate's key is stolen. By the recipe of `docs/identity.md` whoever has it is kept out
//! by a mesh of 20 proxies within a minute, and nobody else is.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use rcgen::{Issuer, KeyPair};
use selvedge_tests::authority::CaProcess;
use selvedge_tests::ca_client::{Client, Shown};
use selvedge_tests::certs::{Leaf, signed};
use selvedge_tests::control_plane::until;
use selvedge_tests::process::Selvedge;
use selvedge_tests::tls_peer::Outcome;
use selvedge_tests::{Raw, TlsPeer, Upstream};
use tonic::Code;

const ORDERS: &str = "spiffe://shop.local/ns/shop/sa/orders";
/// Sidecars besides that of orders.
const CALLERS: usize = 19;
/// In which the thief is out, everywhere.
const MINUTE: Duration = Duration::from_secs(60);
/// Between two calls of the application beside each sidecar.
const PACE: Duration = Duration::from_millis(500);

/// Who the thief says it is: somebody whom orders lets in.
fn web(number: usize) -> String {
    format!("spiffe://shop.local/ns/shop/sa/web-{number}")
}

fn inbound(app: &Upstream, more: &str) -> String {
    let app = app.address();
    format!("inbound: [{{ bind: 127.0.0.1, port: 0, app: \"{app}\", mtls: strict{more} }}]\n")
}

/// Orders, which only those callers may call, and the callers, each with a port of its own.
fn mesh(ca: &CaProcess, app: &Upstream) -> (Selvedge, Vec<Selvedge>) {
    let allowed: Vec<_> = (1..=CALLERS).map(|n| format!("\"{}\"", web(n))).collect();
    let policies = format!(
        "policies: {{ callers: {{ allow: [{{ principals: [{}] }}] }} }}\n",
        allowed.join(", ")
    );
    let orders = inbound(app, ", policies: [callers]") + &policies;
    let orders = ca.sidecar(ORDERS, "", &orders);
    let outbound = format!(
        "outbound: {{ bind: \"127.0.0.1:0\" }}\nservices: {{ orders: {{ endpoints: [\"{}\"], mesh: {{ identity: \"{ORDERS}\" }} }} }}\n",
        orders.address("inbound-0")
    );
    let config = inbound(app, "") + &outbound;
    let callers = (1..=CALLERS).map(|number| ca.sidecar(&web(number), "", &config));
    let callers = callers.collect();
    (orders, callers)
}

fn ask(outbound: SocketAddr) -> u16 {
    let mut client = Raw::connect(outbound);
    client.send("GET / HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n");
    client.reply().status
}

/// What the application beside a sidecar does until it is told to stop; gives how often it was answered.
fn trickle(outbound: SocketAddr, stop: &Receiver<()>) -> usize {
    let mut kept = Raw::connect(outbound);
    let mut answered = 0;
    while stop.recv_timeout(PACE) == Err(RecvTimeoutError::Timeout) {
        assert_eq!(ask(outbound), 200, "after {answered} calls");
        kept.send("GET / HTTP/1.1\r\nHost: orders\r\n\r\n");
        assert_eq!(kept.reply().status, 200, "after {answered} calls");
        answered += 2;
    }
    answered
}

/// A certificate for `id` by whoever has the CA's directory as it is now.
fn forged(keys: &Path, id: &str) -> Leaf {
    let read = |name: &str| std::fs::read_to_string(keys.join(name)).unwrap();
    let chain = read("intermediate.pem");
    let key = KeyPair::from_pem(&read("intermediate.key")).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&chain, key).unwrap();
    let leaf = signed(&issuer, id, |_| {});
    let certificate = leaf.certificate + &chain;
    Leaf {
        certificate,
        ..leaf
    }
}

/// The thief at the CA's own door: with a certificate that the CA has not issued.
fn exchange(ca: &CaProcess, leaf: &Leaf, roots: &str) -> Code {
    let end = "-----END CERTIFICATE-----\n";
    let chain = leaf.certificate.split_inclusive(end).map(str::to_owned);
    let shown = Shown {
        chain: chain.chain([roots.to_owned()]).collect(),
        key: leaf.key.clone(),
    };
    let client = Client::new(ca.address(), roots).showing(&shown);
    client
        .request()
        .map_or_else(|status| status.code(), |_| Code::Ok)
}

fn renewals(proxy: &Selvedge) -> f64 {
    proxy.metric("selvedge_certificate_renewals_total", &[])
}

/// What the operator does. `meanwhile` is what the thief tries while the old root is still trusted.
fn rotate(ca: &CaProcess, proxies: &[&Selvedge], meanwhile: impl Fn()) {
    let before: Vec<_> = proxies.iter().map(|proxy| renewals(proxy)).collect();
    ca.step("prepare");
    until("all have the new bundle", || {
        let status = ca.status();
        let all = status["proxies"] == proxies.len() && status["waiting"] == 0;
        all.then_some(())
    });
    ca.step("activate");
    meanwhile();
    until("all have renewed", || {
        let mut all = proxies.iter().zip(&before);
        let renewed = all.all(|(proxy, before)| renewals(proxy) > before + 0.5);
        renewed.then_some(())
    });
    let (well, said) = ca.rotate(&["--step", "retire", "--force"]);
    assert!(well, "{said}");
}

#[test]
fn a_stolen_intermediate_is_worth_nothing_within_the_minute_and_nobody_else_is_cut_off() {
    let ca = CaProcess::start(&[]);
    let app = Upstream::answering("ok");
    let (orders, mut callers) = mesh(&ca, &app);
    let proxies: Vec<_> = std::iter::once(&orders).chain(&callers).collect();
    let thief = forged(&ca.keys(), &web(1));
    let connect = |proxy: &Selvedge| {
        let inbound = proxy.address("inbound-0");
        TlsPeer::connect(inbound, Some(&thief), "http/1.1").unwrap()
    };
    let mut live: Vec<_> = proxies.iter().map(|proxy| connect(proxy)).collect();
    let mut busy = connect(&orders);
    for peer in live.iter_mut().chain([&mut busy]) {
        assert_eq!(peer.get(), Outcome::Answered(200));
    }
    let exchange = || exchange(&ca, &thief, &ca.bundle());
    assert_eq!(exchange(), Code::Unauthenticated);

    std::thread::scope(|scope| {
        let (stops, calls): (Vec<_>, Vec<_>) = callers
            .iter()
            .map(|caller| {
                let (stop, stopped) = sync_channel(1);
                let outbound = caller.address("outbound");
                (stop, scope.spawn(move || trickle(outbound, &stopped)))
            })
            .unzip();
        // It never lets its connection be idle.
        let busy = scope.spawn(move || {
            while busy.get() == Outcome::Answered(200) {
                std::thread::yield_now();
            }
            Instant::now()
        });
        let begun = Instant::now();
        rotate(&ca, &proxies, || {
            assert_eq!(exchange(), Code::Unauthenticated)
        });
        for proxy in &proxies {
            let inbound = proxy.address("inbound-0");
            until("refusal", || {
                let outcome = TlsPeer::ask(inbound, Some(&thief));
                (outcome == Outcome::Alert("UnknownCA".into())).then_some(())
            });
        }
        let refused = begun.elapsed();
        assert!(refused < MINUTE, "{refused:?}");
        for peer in &mut live {
            let _ = peer.rest(MINUTE.saturating_sub(begun.elapsed()));
        }
        let ended = busy.join().unwrap().max(Instant::now()) - begun;
        assert!(ended < MINUTE, "{ended:?}");
        assert_ne!(exchange(), Code::Ok);

        // And on, under the new root.
        for caller in &callers {
            assert_eq!(ask(caller.address("outbound")), 200);
        }
        stops.iter().for_each(|stop| stop.send(()).unwrap());
        let answered: Vec<_> = calls.into_iter().map(|c| c.join().unwrap()).collect();
        assert!(
            answered.iter().all(|answered| *answered >= 10),
            "{answered:?}"
        );
        let calls: usize = answered.iter().sum();
        println!("refused after {refused:?}, connections ended after {ended:?}, {calls} calls");
    });
    for proxy in &proxies {
        assert_eq!(proxy.get("health", "/ready").0, 200);
    }
    // Each is searched for secrets when it ends, which takes its time.
    let half = callers.split_off(CALLERS / 2);
    std::thread::scope(|scope| {
        scope.spawn(move || drop(half));
        drop(callers);
    });
}
